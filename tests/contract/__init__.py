"""Tests that hold two sides of one protocol together."""

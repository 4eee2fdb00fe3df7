"""Tests of Modelferry."""

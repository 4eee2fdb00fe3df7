"""Metrics for Prometheus: what each process counts itself, and what is true of the whole service."""

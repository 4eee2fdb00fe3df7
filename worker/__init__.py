"""The worker processes: they claim stages, run them in child processes, and settle the outcome."""

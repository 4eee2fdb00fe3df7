"""The whole service on one machine: its processes, started, watched and stopped by one command."""

"""The web process and the command line: everything a client talks to."""

"""The command line: `modelferry`. It speaks HTTP only, but for `up`, `mcp`, `doctor` and `pull --ephemeral`."""

from api.cli.program import main

__all__ = ["main"]

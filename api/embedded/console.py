"""Lines of several processes on one terminal, each with the name of its process in front."""

import threading
from typing import TextIO

SERVICE = "modelferry"
"""Under this name the service itself speaks."""

_NAME_WIDTH = len(SERVICE)
_COLOURS = {SERVICE: 1, "api": 36, "download": 34, "convert": 35, "reconcile": 33, "redis": 31, "migrate": 32}


class Console:
    """Writes whole lines. A reader that has gone away is no reason to stop."""

    def __init__(self, stream: TextIO, *, colour: bool) -> None:
        self._stream = stream
        self._colour = colour
        self._lock = threading.Lock()

    def line(self, name: str, text: str) -> None:
        """Show one line of the process with this name."""
        # What a process says may come from a hub: it must not move the cursor of this terminal.
        shown = "".join(character for character in text if character.isprintable() or character == "\t")
        prefix = f"{name:{_NAME_WIDTH}} |"
        if self._colour:
            prefix = f"\x1b[{_COLOURS.get(name, 0)}m{prefix}\x1b[0m"
        with self._lock:
            try:
                self._stream.write(f"{prefix} {shown}\n")
                self._stream.flush()
            except (OSError, ValueError):
                return

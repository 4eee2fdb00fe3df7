"""Ctrl-C and its relatives: one exception for all of them, and the exit code that tells which it was."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """The process was asked to end."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    @property
    def exit_code(self) -> int:
        """As a shell reports a process that a signal has ended: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + self.number


class Interrupts:
    """Heeds signals once, and not at all after `ignore`: a second one must not break off the ending of things."""

    def __init__(self) -> None:
        self._heeded = False

    def ignore(self) -> None:
        """From now on whatever was begun is being ended already. SIGKILL is there for who cannot wait."""
        self._heeded = True

    def heed(self, number: int, _frame: FrameType | None) -> None:
        """The signal handler."""
        if not self._heeded:
            self._heeded = True
            raise Interrupted(number)


@contextmanager
def interruptible() -> Iterator[Interrupts]:
    """SIGINT, SIGTERM and SIGHUP raise Interrupted, so that what was begun is ended in order. In the main thread."""
    interrupts = Interrupts()
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        # Under nohup a closed terminal is no reason to stop.
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, interrupts.heed) for number in numbers}
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""A value that takes long to find out, and that many ask for: found out once, for all of them."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

log = logging.getLogger(__name__)


class Remembered(Generic[T]):
    """Finds a value anew when the known one is older than `fresh_s`, in a thread of its own.

    Whoever asks waits for that no longer than `patience_s`: a disk or a database may hang for ever, and must not take
    those along who ask for something else beside it. What is older than `keep_s` is not told any more.
    """

    def __init__(
        self, find: Callable[[], T], *, fresh_s: float, patience_s: float = 3.0, keep_s: float | None = None
    ) -> None:
        self._find = find
        self._fresh_s = fresh_s
        self._patience_s = patience_s
        self._keep_s = fresh_s + patience_s if keep_s is None else keep_s
        self._lock = threading.Lock()
        self._search: threading.Thread | None = None
        self._known: tuple[float, T] | None = None

    def value(self) -> T | None:
        """The value, not older than said; None while nobody knows it."""
        with self._lock:
            if self._age_s() <= self._fresh_s:
                return self._told()
            if self._search is None or not self._search.is_alive():
                self._search = threading.Thread(target=self._look, name="remembered", daemon=True)
                self._search.start()
            search = self._search
        search.join(self._patience_s)
        with self._lock:
            return self._told() if self._age_s() <= self._keep_s else None

    def _look(self) -> None:
        try:
            found = self._find()
        except Exception:
            # It is found out again the next time somebody asks.
            log.exception("metrics.unknown")
            return
        with self._lock:
            self._known = (time.monotonic(), found)

    def _age_s(self) -> float:
        return float("inf") if self._known is None else time.monotonic() - self._known[0]

    def _told(self) -> T | None:
        return None if self._known is None else self._known[1]

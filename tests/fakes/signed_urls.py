"""Signs the addresses of a stand-in's CDN and says whether one still opens."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import secrets
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import urlencode

from tests.fakes.exchange import Request


@dataclass(slots=True)
class UrlSigner:
    """Each signature is another one, lives for `seconds`, and opens `uses` times where that is set."""

    seconds: float = 3600.0
    uses: int | None = None
    _key: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _used: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def sign(self, path: str) -> str:
        """The path with a query that opens it."""
        expires, number = f"{time.time() + self.seconds:.3f}", str(next(self._numbers))
        signature = self._signature(path, expires, number)
        return f"{path}?{urlencode({'Expires': expires, 'Key-Pair-Id': number, 'Signature': signature})}"

    def opens(self, request: Request) -> bool:
        expires, number = request.asks("Expires") or "0", request.asks("Key-Pair-Id") or ""
        signature = self._signature(request.raw_path, expires, number)
        if not hmac.compare_digest(signature, request.asks("Signature") or ""):
            return False
        return time.time() < float(expires) and self._has_uses_left(signature)

    def _has_uses_left(self, signature: str) -> bool:
        if self.uses is None:
            return True
        with self._lock:
            self._used[signature] += 1
            return self._used[signature] <= self.uses

    def _signature(self, path: str, expires: str, number: str) -> str:
        return hmac.new(self._key, f"{path}\n{expires}\n{number}".encode(), hashlib.sha256).hexdigest()

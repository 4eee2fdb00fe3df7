"""An end for a transfer whose size nobody promises."""

from pathlib import Path

from common.errors import SourceUnsafe
from common.plugins import Allowance, Attempt, TransferLimits
from common.spec import Progress


class BoundedAttempt:
    """An attempt that ends as soon as a transfer has brought more than it may."""

    def __init__(self, attempt: Attempt, most_bytes: int) -> None:
        self._attempt = attempt
        self._most_bytes = most_bytes
        self._done_bytes = 0

    @property
    def workspace(self) -> Path:
        return self._attempt.workspace

    @property
    def parts(self) -> Path:
        return self._attempt.parts

    @property
    def limits(self) -> TransferLimits:
        return self._attempt.limits

    def allowance(self) -> Allowance:
        return self._attempt.allowance()

    def hub_asks_to_wait(self, wait_s: float) -> None:
        self._attempt.hub_asks_to_wait(wait_s)

    def stored(self, sha256: str) -> Path | None:
        return self._attempt.stored(sha256)

    def store(self, file: Path, sha256: str) -> Path:
        return self._attempt.store(file, sha256)

    def link(self, sha256: str, path: str) -> Path:
        return self._attempt.link(sha256, path)

    def finished(self, file: Path) -> None:
        self._attempt.finished(file)

    def progress(self, progress: Progress) -> None:
        self._done_bytes = progress.bytes_done
        self._attempt.progress(progress)

    def checkpoint(self) -> None:
        """Raise JobCancelled as the attempt does, and SourceUnsafe beyond the limit."""
        self._attempt.checkpoint()
        if self._done_bytes > self._most_bytes:
            raise SourceUnsafe(
                f"The Geti server sends more than {self._most_bytes} bytes for one export",
                hint="An operator can raise MODELFERRY_MAX_UNPACKED_MB if the server is to be trusted.",
            )


_contract: type[Attempt] = BoundedAttempt

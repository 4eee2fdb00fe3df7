"""An attempt on a plain directory: a content store without a service around it."""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from common.artefacts.blobs import sha256_of
from common.artefacts.durable import link_file
from common.errors import JobCancelled
from common.plugins import Allowance, TransferLimits
from common.spec import Progress, RemoteFile
from worker.transfer import bring


@dataclass
class LocalAttempt:
    """Keeps blobs, parts and a workspace below `root`; remembers what was reported and stored."""

    root: Path
    limits: TransferLimits = field(default_factory=lambda: TransferLimits(spare_bytes=0))
    name: str = "workspace"
    cancelled: threading.Event = field(default_factory=threading.Event)
    reports: list[Progress] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    complete: list[Path] = field(default_factory=list)
    allowed: Allowance = field(default_factory=Allowance)
    """What the transfer may do. Its silence counts from each time that it asks."""
    wishes: list[float] = field(default_factory=list)
    """For how long the hub has asked for silence, each time."""

    def __post_init__(self) -> None:
        for folder in (self.workspace, self.parts, self.root / "blobs"):
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def workspace(self) -> Path:
        return self.root / self.name

    @property
    def parts(self) -> Path:
        return self.root / "parts"

    def allowance(self) -> Allowance:
        return self.allowed

    def hub_asks_to_wait(self, wait_s: float) -> None:
        self.wishes.append(wait_s)

    def stored(self, sha256: str) -> Path | None:
        blob = self.root / "blobs" / sha256
        return blob if blob.is_file() else None

    def store(self, file: Path, sha256: str) -> Path:
        blob = self.root / "blobs" / sha256
        file.replace(blob)
        self.kept.append(sha256)
        return blob

    def link(self, sha256: str, path: str) -> Path:
        target = self.workspace / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        link_file(self.root / "blobs" / sha256, target, 0o644)
        return target

    def finished(self, file: Path, sha256: str | None = None) -> None:
        assert sha256 in {None, sha256_of(file)}
        self.complete.append(file)

    def progress(self, progress: Progress) -> None:
        self.reports.append(progress)

    def checkpoint(self) -> None:
        if self.cancelled.is_set():
            raise JobCancelled


class Errand(msgspec.Struct, frozen=True, kw_only=True):
    """What a process of its own is to bring, and where to."""

    root: str
    files: tuple[RemoteFile, ...]
    limits: TransferLimits


def main() -> None:
    """Read an errand from stdin, bring its files, and print the last progress."""
    errand = msgspec.json.decode(sys.stdin.buffer.read(), type=Errand)
    attempt = LocalAttempt(Path(errand.root), errand.limits, f"workspace-{os.getpid()}")
    bring(errand.files, attempt)
    print(msgspec.json.encode(attempt.reports[-1]).decode())


if __name__ == "__main__":
    main()

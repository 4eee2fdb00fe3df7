"""A process of its own in which a hub finds a model and brings it, and which may die on the way, as by kill -9."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import msgspec

from common.catalog.registry import Catalog
from common.plugins import Access, TransferLimits
from common.spec import Progress, Source
from tests.fakes.attempt import LocalAttempt


class Errand(msgspec.Struct, frozen=True, kw_only=True):
    """What to bring, and where to. The process dies instead of doing what its attempt is asked for the n-th time."""

    hub: str
    source: Source
    access: Access
    raw: dict[str, object]
    root: str
    workspace: str
    dies_at: int | None = None


class MortalAttempt(LocalAttempt):
    """Counts what the hub asks of it, and dies in time."""

    steps_left: int | None = None

    def store(self, file: Path, sha256: str) -> Path:
        self._step()
        return super().store(file, sha256)

    def link(self, sha256: str, path: str) -> Path:
        self._step()
        return super().link(sha256, path)

    def progress(self, progress: Progress) -> None:
        self._step()
        super().progress(progress)

    def checkpoint(self) -> None:
        self._step()
        super().checkpoint()

    def _step(self) -> None:
        if self.steps_left is not None:
            self.steps_left -= 1
            if self.steps_left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Read an errand from stdin, run it, and print the paths of what was left."""
    errand = msgspec.json.decode(sys.stdin.buffer.read(), type=Errand)
    plugin = Catalog.installed(f"all,{errand.hub}").hubs[errand.hub]
    attempt = MortalAttempt(Path(errand.root), TransferLimits(spare_bytes=0), errand.workspace)
    attempt.steps_left = errand.dies_at
    options = plugin.bind(errand.raw)
    hub = plugin.load(errand.access)
    manifest = hub.resolve(errand.source, options)
    left = hub.fetch(manifest, options, attempt)
    print(msgspec.json.encode([file.path for file in manifest.files] if left is None else left).decode())


if __name__ == "__main__":
    main()

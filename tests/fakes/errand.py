"""A process of its own in which a hub finds a model and brings it, and which may die on the way, as by kill -9."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import msgspec

from common.catalog.registry import Catalog
from common.plugins import Access, TransferLimits
from common.spec import Progress, Source
from tests.fakes.attempt import LocalAttempt

_PATIENCE_S = 30.0


class Errand(msgspec.Struct, frozen=True, kw_only=True):
    """What to bring, and where to. With `dies_at`, the process dies instead of what its attempt is asked for that time.

    The first time it waits until `together` processes have come as far.
    """

    hub: str
    source: Source
    access: Access
    raw: dict[str, object]
    root: str
    workspace: str
    dies_at: int | None = None
    together: int = 1


class MortalAttempt(LocalAttempt):
    """Counts what the hub asks of it, meets others at the first step, and dies in time."""

    errand: Errand
    steps = 0

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
        self.steps += 1
        if self.steps == 1:
            self._meet()
        if self.errand.dies_at is not None and self.steps >= self.errand.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def _meet(self) -> None:
        meeting = self.root / "meeting"
        meeting.mkdir(exist_ok=True)
        (meeting / self.name).touch()
        until = time.monotonic() + _PATIENCE_S
        while len(list(meeting.iterdir())) < self.errand.together:
            if time.monotonic() > until:
                raise TimeoutError("Nobody else has come")
            time.sleep(0.005)


def main() -> None:
    """Read an errand from stdin, run it, and print the paths of what was left."""
    errand = msgspec.json.decode(sys.stdin.buffer.read(), type=Errand)
    plugin = Catalog.installed(f"all,{errand.hub}").hubs[errand.hub]
    attempt = MortalAttempt(Path(errand.root), TransferLimits(spare_bytes=0), errand.workspace)
    attempt.errand = errand
    options = plugin.bind(errand.raw)
    hub = plugin.load(errand.access)
    manifest = hub.resolve(errand.source, options)
    left = hub.fetch(manifest, options, attempt)
    print(msgspec.json.encode([file.path for file in manifest.files] if left is None else left).decode())


if __name__ == "__main__":
    main()

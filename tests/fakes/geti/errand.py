"""A process of its own that finds a model on a Geti server and brings it, to be killed at any moment."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from common.catalog.geti import GETI
from common.plugins import Access, TransferLimits
from common.spec import Source
from tests.fakes.attempt import LocalAttempt


class Errand(msgspec.Struct, frozen=True, kw_only=True):
    """What to bring, and where to."""

    root: str
    name: str
    access: Access


def main() -> None:
    """Read an errand from stdin, and print the paths of what was brought."""
    errand = msgspec.json.decode(sys.stdin.buffer.read(), type=Errand)
    attempt = LocalAttempt(Path(errand.root), TransferLimits(spare_bytes=0), f"workspace-{os.getpid()}")
    hub, options = GETI.load(errand.access), GETI.bind({})
    manifest = hub.resolve(Source(hub=GETI.name, name=errand.name), options)
    print(msgspec.json.encode(hub.fetch(manifest, options, attempt)).decode())


if __name__ == "__main__":
    main()

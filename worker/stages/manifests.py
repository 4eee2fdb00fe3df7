"""Manifests of what a fetch brings: one source, or a source with its companions in folders of their own."""

from typing import Any

import msgspec

from common.planning import FetchWork
from common.plugins import Hub
from common.spec import Manifest, Source, check_distinct
from common.tracing import note, step
from worker.stages.tools import Tools


def resolve(work: FetchWork, hub: Hub[Any], tools: Tools) -> Manifest:
    """Pin the source and its companions. Raises StageError."""
    with step("resolve", hub=work.hub):
        manifest = hub.resolve(work.source, tools.catalog.hub(work.hub).bind(work.options))
        manifest = with_companions(manifest, work.companions, hub, tools.catalog.hub(work.hub).bind({}))
        note(files=len(manifest.files))
    return manifest


def with_companions(manifest: Manifest, companions: dict[str, str], hub: Hub[Any], options: Any) -> Manifest:
    """The manifest, and below a folder for each companion what that one holds."""
    files, pinned = list(manifest.files), {}
    for folder, name in sorted(companions.items()):
        beside = hub.resolve(Source(hub=manifest.source.hub, name=name), options)
        pinned[folder] = f"{name}@{beside.revision}"
        files += [msgspec.structs.replace(file, path=f"{folder}/{file.path}") for file in beside.files]
    check_distinct([file.path for file in files])
    return msgspec.structs.replace(manifest, files=tuple(files), companions=pinned)

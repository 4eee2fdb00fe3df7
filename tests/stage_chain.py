"""Runs the stages of one job as workers do, one after the other and without a queue: what converts, in a confined child."""

from __future__ import annotations

import importlib
import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec

from common.artefacts.layout import Volume
from common.artefacts.manifest import ArtefactStore
from common.catalog.registry import Catalog
from common.clock import utc_now
from common.errors import StageError
from common.outcome import Succeeded
from common.planning import ConvertWork, FetchWork, PublishWork, StagePlan, Wish, plan, stages
from common.plugins import ConverterPlugin, HubPlugin, TransferLimits
from common.spec import JobSpec
from common.vocabulary import StageKind
from worker.attempt import StageAttempt
from worker.forkserver import Channel
from worker.isolation import isolate
from worker.messages import AskFence, FencePassed
from worker.stages.convert import convert
from worker.stages.fetch import fetch
from worker.stages.publish import show
from worker.stages.tools import Tools
from worker.workspace import Workspace


@dataclass(frozen=True)
class Offer:
    """What is installed, as `module:NAME`, and where it leads. May be sent to another process."""

    hub: str
    converter: str
    settings: dict[str, str]

    @property
    def catalog(self) -> Catalog:
        hub: HubPlugin[Any] = _named(self.hub)
        converter: ConverterPlugin[Any] = _named(self.converter)
        return Catalog(
            hubs={hub.name: hub}, converters={converter.name: converter}, disabled_hubs={}, disabled_converters={}
        )


def _named(descriptor: str) -> Any:
    module, _, name = descriptor.partition(":")
    return getattr(importlib.import_module(module), name)


@dataclass(frozen=True)
class Done:
    """A job that has come to its end."""

    spec: JobSpec
    folder: Path
    results: dict[StageKind, dict[str, Any]]

    @property
    def files(self) -> set[str]:
        return {path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()}


class Refused(Exception):
    """A stage in the child has failed."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class OpenChannel:
    """The supervisor of an attempt that always holds its lease and never says stop."""

    def __init__(self) -> None:
        self._asked = 0

    def send(self, message: object) -> None:
        self._asked += isinstance(message, AskFence)

    def receive(self, _decoder: object, timeout_s: float | None = None) -> FencePassed | None:
        del timeout_s
        if self._asked == 0:
            return None
        self._asked -= 1
        return FencePassed()


def run_job(offer: Offer, models_dir: Path, wish: Wish) -> Done:
    """Run all stages of a wish. Raises what the first failing one raises, or Refused for one in the child."""
    volume = Volume(models_dir)
    volume.prepare()
    spec = plan(wish, offer.catalog)
    artefact: str | None = None
    results: dict[StageKind, dict[str, Any]] = {}
    for number, stage in enumerate(stages(spec)):
        done = _run_stage(stage, artefact, offer, volume, f"{os.urandom(4).hex()}.{number}")
        artefact, results[stage.kind] = done.artefact, done.result
    return Done(spec=spec, folder=Path(str(results[StageKind.PUBLISH]["path"])), results=results)


def _run_stage(stage: StagePlan, artefact: str | None, offer: Offer, volume: Volume, name: str) -> Succeeded:
    if stage.kind is StageKind.FETCH:
        return fetch(msgspec.convert(stage.work, FetchWork), tools_for(offer, volume, name))
    if stage.kind is StageKind.PUBLISH:
        return show(msgspec.convert(stage.work, PublishWork), artefact, tools_for(offer, volume, name))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        told = pool.apply(convert_confined, (stage.work, artefact, offer, volume.models_dir, name))
    if isinstance(told, tuple):
        raise Refused(*told)
    return msgspec.json.decode(told, type=Succeeded)


def convert_confined(
    work: dict[str, object], artefact: str | None, offer: Offer, models_dir: Path, name: str
) -> bytes | tuple[str, str]:
    """The whole life of a convert child: gives up the network and pickles first, as worker/child.py does."""
    volume = Volume(models_dir)
    isolate(volume.work / f"{name}.home")
    try:
        done = convert(msgspec.convert(work, ConvertWork), (), artefact, tools_for(offer, volume, name))
    except StageError as error:
        return error.code, str(error)
    return msgspec.json.encode(done)


def tools_for(offer: Offer, volume: Volume, name: str) -> Tools:
    rooms = Workspace(volume.work / name)
    rooms.prepare()
    return Tools(
        catalog=offer.catalog,
        store=ArtefactStore(volume),
        attempt=StageAttempt(cast("Channel", OpenChannel()), volume, rooms, TransferLimits(spare_bytes=0)),
        settings=offer.settings,
        secrets={},
        now=utc_now,
    )

"""Convert: bring a fetched artefact into another form, verified before anybody sees it."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from common.artefacts.manifest import Artefact, converted_key
from common.errors import InvalidSpec, OutputIncomplete, StageError
from common.outcome import Succeeded
from common.planning import ConvertWork
from common.plugins import Converter, ConverterPlugin, Order
from common.spec import Evidence, Progress, Target
from common.tracing import step
from common.vocabulary import Phase
from worker.stages.data import digest_of
from worker.stages.inspection import dossier_of
from worker.stages.tools import Tools

log = logging.getLogger(__name__)


def convert(work: ConvertWork, siblings: Sequence[ConvertWork], artefact_id: str | None, tools: Tools) -> Succeeded:
    """Convert the artefact, unless an equal conversion by equal tools is in the store.

    The siblings are other forms of the same artefact that are waited for. What of them comes along cheaply is stored
    too, so that their own stages find it done.
    """
    source = tools.artefact(artefact_id)
    tools.attempt.progress(Progress(phase=Phase.CONVERTING))
    with step("examine"):
        tools.store.blobs.lay_out(source.files, tools.attempt.rooms.source)
        wanted = _examined(work, source, tools)
    base = _base_of(wanted, source) if tools.keeps_bases else None
    reused = tools.store.load(wanted.key) is not None
    kept = None if base is None or reused else tools.store.load(base.key)
    if kept is not None:
        wanted = _made_of(kept, wanted)
        reused = tools.store.load(wanted.key) is not None
    if not reused and kept is not None:
        shutil.rmtree(tools.attempt.rooms.source)
        tools.store.blobs.lay_out(kept.files, tools.attempt.rooms.source)
        _make([wanted], kept, tools)
    elif not reused:
        others = _cheap_siblings(wanted, siblings, source, tools)
        _make([wanted, *_with_base(others, base)], source, tools)
    if reused:
        log.info("conversion.reused")
    tools.attempt.progress(Progress(phase=Phase.DONE))
    return Succeeded(artefact=wanted.key, result={"reused": reused})


class _Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A form of the artefact that is not in the store."""

    work: ConvertWork
    plugin: ConverterPlugin[Any]
    converter: Converter[Any]
    order: Order[Any]
    versions: dict[str, str]
    key: str


def _examined(work: ConvertWork, source: Artefact, tools: Tools, folder: str = "output") -> _Wanted:
    """What the work comes to for this very model. Raises StageError where it will not do."""
    plugin = tools.catalog.converter(work.converter)
    converter = tools.converter(work.converter, source.source, source.revision)
    target, options = work.target, work.options
    if plugin.examine is not None:
        dossier = dossier_of(source, tools.attempt.rooms.source, plugin)
        found = plugin.examine(dossier, target, options, tools.policy(source.source, source.revision))
        target, options = msgspec.structs.replace(target, model_type=found.model_type), found.options
    path = plugin.data(options) if plugin.data else None
    if path is not None:
        options = {**options, "dataset_sha256": digest_of(tools.store.volume, path)}
    bound = plugin.bind(options)
    versions = converter.versions(bound)
    return _Wanted(
        work=work,
        plugin=plugin,
        converter=converter,
        order=Order(target=target, options=bound, folder=tools.attempt.rooms.files / folder),
        versions=versions,
        key=converted_key(source.id, target, msgspec.to_builtins(bound), versions),
    )


def _base_of(wanted: _Wanted, source: Artefact) -> _Wanted | None:
    """The form that is kept to make others of; None where this one can be made of the source only."""
    found = wanted.plugin.base(wanted.order.target, _given(wanted.order)) if wanted.plugin.base else None
    if found is None:
        return None
    target, options = found
    bound = wanted.plugin.bind(options)
    versions = wanted.converter.versions(bound)
    return msgspec.structs.replace(
        wanted,
        order=replace(wanted.order, target=target, options=bound, folder=wanted.order.folder.with_name("base")),
        versions=versions,
        key=converted_key(source.id, target, msgspec.to_builtins(bound), versions),
    )


def _made_of(base: Artefact, wanted: _Wanted) -> _Wanted:
    """The same wish, to be made of the base. Its bytes are others, so it is another artefact."""
    order = wanted.order
    key = converted_key(base.id, order.target, msgspec.to_builtins(order.options), wanted.versions)
    return msgspec.structs.replace(wanted, order=replace(order, from_base=True), key=key)


def _with_base(others: list[_Wanted], base: _Wanted | None) -> list[_Wanted]:
    return others if base is None or any(one.key == base.key for one in others) else [*others, base]


def _given(order: Order[Any]) -> dict[str, object]:
    """The options that say something."""
    options: dict[str, object] = msgspec.to_builtins(order.options)
    return {name: value for name, value in options.items() if value is not None}


def _cheap_siblings(first: _Wanted, siblings: Sequence[ConvertWork], source: Artefact, tools: Tools) -> list[_Wanted]:
    """What of the siblings can be made beside the first one, and is not there yet."""
    found: dict[str, _Wanted] = {}
    for number, work in enumerate(siblings):
        try:
            wanted = _examined(work, source, tools, f"sibling-{number}")
        except (StageError, InvalidSpec):
            # Its own stage will say so.
            continue
        if wanted.work.converter == first.work.converter and tools.store.load(wanted.key) is None:
            found.setdefault(wanted.key, wanted)
    found.pop(first.key, None)
    return list(found.values())


def _make(wanted: list[_Wanted], source: Artefact, tools: Tools) -> None:
    first, *others = wanted
    for one in wanted:
        log.info("conversion.begun", extra=_described(one.order.target))
    orders = [one.order for one in wanted]
    with step("convert", converter=first.plugin.name, forms=len(orders)):
        evidence, *along = first.converter.convert(tools.attempt.rooms.source, orders, tools.attempt)
    tools.attempt.checkpoint()
    forms = 1 + sum(seen is not None for seen in along)
    with step("keep"):
        _save(first, evidence, forms, source, tools)
        for one, seen in zip(others, along, strict=True):
            if seen is not None:
                _save(one, seen, forms, source, tools)


def _described(target: Target) -> dict[str, object]:
    return {
        "type": target.model_type or "a model of unknown type",
        "precision": target.precision,
        "device": target.device,
    }


def _tell(target: Target, evidence: Evidence) -> None:
    seconds = {name: f"{value:.1f}" for name, value in evidence.seconds.items()}
    steps = ", ".join(f"{name} {value} s" for name, value in seconds.items())
    told = {"engine": evidence.engine, "profile": evidence.profile, "checks": ", ".join(evidence.checks)}
    log.info(
        "conversion.proven",
        extra={**_described(target), **told, "steps": f"It took: {steps}." if steps else ""},
    )
    if evidence.similarity is not None:
        log.info("conversion.compared", extra=msgspec.to_builtins(evidence.similarity))


def _save(wanted: _Wanted, evidence: Evidence | None, forms: int, source: Artefact, tools: Tools) -> None:
    folder: Path = wanted.order.folder
    files = tools.store.blobs.take_folder(folder, tools.attempt.digests.of) if folder.is_dir() else ()
    if evidence is not None:
        _tell(wanted.order.target, evidence)
    if not files:
        raise OutputIncomplete("The conversion ended without an error, but wrote no files")
    tools.store.save(
        Artefact(
            id=wanted.key,
            kind="converted",
            format=wanted.order.target.format,
            source=source.source,
            revision=source.revision,
            licence=source.licence,
            files=files,
            target=wanted.order.target,
            recipe=msgspec.to_builtins(wanted.order.options),
            input=source.id,
            companions=source.companions,
            versions=wanted.versions,
            evidence=None if evidence is None else msgspec.structs.replace(evidence, forms=forms),
            created_at=tools.now().isoformat(),
        )
    )

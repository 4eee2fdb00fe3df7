"""Convert: bring a fetched artefact into another form, verified before anybody sees it."""

from typing import Any

from common.artefacts.manifest import Artefact, converted_key
from common.errors import OutputIncomplete
from common.outcome import Succeeded
from common.planning import ConvertWork
from common.plugins import Converter
from common.spec import Progress
from common.vocabulary import Phase
from worker.stages.tools import Tools


def convert(work: ConvertWork, artefact_id: str | None, tools: Tools) -> Succeeded:
    """Convert the artefact, unless an equal conversion by equal tools is in the store."""
    source = tools.artefact(artefact_id)
    tools.attempt.progress(Progress(phase=Phase.CONVERTING))
    converter = tools.converter(work.converter, work.source)
    key = converted_key(source.id, work.target, work.options, converter.versions())
    reused = tools.store.load(key) is not None
    if not reused:
        tools.store.save(_converted(key, work, source, converter, tools))
    tools.attempt.progress(Progress(phase=Phase.DONE))
    return Succeeded(artefact=key, result={"reused": reused})


def _converted(key: str, work: ConvertWork, source: Artefact, converter: Converter[Any], tools: Tools) -> Artefact:
    attempt = tools.attempt
    rooms = attempt.rooms
    tools.store.blobs.lay_out(source.files, rooms.source)
    options = tools.catalog.converter(work.converter).bind(work.options)
    converter.convert(rooms.source, work.target, options, attempt)
    attempt.checkpoint()
    files = tools.store.blobs.take_folder(rooms.output) if rooms.output.is_dir() else ()
    if not files:
        raise OutputIncomplete("The conversion ended without an error, but wrote no files")
    return Artefact(
        id=key,
        kind="converted",
        format=work.target.format,
        source=source.source,
        revision=source.revision,
        licence=source.licence,
        files=files,
        target=work.target,
        recipe=work.options,
        input=source.id,
        versions=converter.versions(),
        created_at=tools.now().isoformat(),
    )

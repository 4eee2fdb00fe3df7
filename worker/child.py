"""One stage, run to its outcome, in a process of its own that may be killed at any moment."""

import logging
import os
import tempfile
from pathlib import Path
from typing import assert_never

import msgspec

from common.artefacts.layout import Volume
from common.artefacts.manifest import ArtefactStore
from common.catalog.registry import Catalog
from common.clock import utc_now
from common.errors import JobCancelled, RequestError, StageError, TransientError
from common.log import configure
from common.outcome import Cancelled, Failed, Outcome, Retry, unexpected
from common.planning import WORK_TYPES, AskWork, ConvertWork, FetchWork, PlanWork, PublishWork
from common.vocabulary import StageKind
from worker.attempt import StageAttempt
from worker.forkserver import Channel
from worker.isolation import isolate
from worker.joblog import Telling
from worker.machine import no_memory
from worker.messages import Ended, StageRequest
from worker.spans import told_to
from worker.stages.ask import answer
from worker.stages.convert import convert
from worker.stages.fetch import fetch
from worker.stages.plan import foresee
from worker.stages.publish import show
from worker.stages.tools import Tools
from worker.workspace import Workspace

log = logging.getLogger(__name__)


def run(channel: Channel) -> int:
    """The child's entry: one request in, progress and one outcome out."""
    os.umask(0o002)
    configure("info", "text")
    logging.getLogger().addHandler(Telling(channel))
    request = msgspec.json.decode(channel.request, type=StageRequest)
    with told_to(channel, request.traceparent):
        outcome = _outcome(request, channel)
    channel.send(Ended(outcome=outcome))
    return 0


def _outcome(request: StageRequest, channel: Channel) -> Outcome:  # noqa: PLR0911 - one line per kind of end
    """How the stage ended. The only place that turns errors into outcomes."""
    try:
        return _run(request, channel)
    except JobCancelled:
        return Cancelled()
    except TransientError as error:
        return Retry(code=error.code, detail=str(error), hint=error.advice, wait_s=error.wait_s)
    except StageError as error:
        return Failed(code=error.code, detail=str(error), hint=error.advice)
    except RequestError as error:
        return Failed(code=error.code, detail=str(error), hint="The plugin's options or set-up do not fit this worker.")
    except MemoryError:
        wanted = no_memory("The stage ran out of memory")
        return Failed(code=wanted.code, detail=str(wanted), hint=wanted.advice)
    except Exception as error:
        # The last fence before the process ends: the stage must have an outcome.
        log.exception("stage.broken")
        return unexpected(error)


def _run(request: StageRequest, channel: Channel) -> Outcome:
    rooms = Workspace(Path(request.workspace))
    rooms.prepare()
    tempfile.tempdir = str(rooms.scratch)
    # Before anything of a stranger's is looked at: what converts has no business outside.
    confined = isolate(rooms.scratch / "home") if request.kind is StageKind.CONVERT else True
    volume = Volume(Path(request.models_dir))
    attempt = StageAttempt(channel, volume, rooms, request.limits)
    attempt.listen_for_cancel()
    tools = Tools(
        catalog=Catalog.installed(request.enabled_plugins),
        store=ArtefactStore(volume),
        attempt=attempt,
        settings=request.settings,
        secrets=request.secrets,
        given=request.given,
        heard=attempt.heard,
        confined=confined,
        now=utc_now,
    )
    try:
        return _work(request, tools)
    finally:
        attempt.say_counts()


def _work(request: StageRequest, tools: Tools) -> Outcome:
    work = msgspec.convert(request.work, WORK_TYPES[request.kind])
    match work:
        case AskWork():
            return answer(work, tools)
        case PlanWork():
            return foresee(work, tools)
        case FetchWork():
            return fetch(work, tools)
        case ConvertWork():
            siblings = [msgspec.convert(one, ConvertWork) for one in request.siblings]
            return convert(work, siblings, request.input, tools)
        case PublishWork():
            return show(work, request.input, tools)
        case _:
            assert_never(work)

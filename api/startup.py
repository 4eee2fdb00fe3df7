"""The models that an operator wants from the start: asked for in the background, as any client asks for models."""

import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from threading import Event, Lock, Thread

from api.compat.startup import StartupFileUnusable, StartupModel, read_startup_file
from api.usecases import Asker, Jobs
from common.errors import RequestError, ServiceUnavailable
from common.records import JobFate
from common.vocabulary import JobState

log = logging.getLogger(__name__)

TENANT = "startup"
"""Who asks for these models."""
PART = "startup_models"
"""What /ready calls them."""

_ACTION = "The service starts without startup models: mend the file, or unset STARTUP_MODELS_CONFIG, and start again."
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 30.0
_LAST_MOMENT_S = 5.0
_FRESH_S = 1.0
_MOST_NAMES = 5


@dataclass(slots=True, kw_only=True)
class _Wanted:
    """One model of the file. Only its submission writes to it before it has a job, and only a look at the job after."""

    model: StartupModel
    download_path: str
    job_id: str | None = None
    """The last of the jobs that have tried to bring it."""
    completed: bool = False
    trouble: str | None = None
    """Why it will not come by itself: an error's code, or words."""

    @property
    def is_pending(self) -> bool:
        """Whether it has still to be asked for."""
        return self.job_id is None and self.trouble is None


class StartupModels:
    """The models of one file. Without a path there are none, and nothing is done.

    Each start of a process asks for all of them: what is there already, or on its way, costs a look at the hub.
    """

    def __init__(self, path: str | None, jobs: Jobs, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._jobs = jobs
        self._clock = clock
        self._wanted: Sequence[_Wanted] | None = None
        self._unusable: str | None = None
        self._stopped = Event()
        self._thread: Thread | None = None
        self._looking = Lock()
        self._looked_at: float | None = None
        self._seen: str | None = None

    def start(self) -> None:
        """Begin to ask for the models. Returns at once."""
        if self._path is not None:
            self._thread = Thread(target=self._run, args=(self._path,), name="startup-models", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Ask for no further model. What was asked for stays in the table."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(_LAST_MOMENT_S)

    def missing(self) -> dict[str, str | None]:
        """Part -> what it lacks, or None, as of at most a second ago. Nothing where no file is named."""
        if not self._path:
            return {}
        with self._looking:
            now = self._clock()
            if self._looked_at is None or now - self._looked_at >= _FRESH_S:
                self._seen = self._look()
                self._looked_at = now
            return {PART: self._seen}

    def _run(self, path: str) -> None:
        try:
            file = read_startup_file(path, self._jobs.catalog.hubs)
        except StartupFileUnusable as error:
            self._unusable = str(error)
            extra = {"path": path, "reason": str(error), "action": _ACTION}
            log.error("startup_models_config_unusable", extra=extra)  # noqa: TRY400 - the error says all
            return
        self._wanted = [
            _Wanted(model=model, download_path=model.download_path or file.download_path) for model in file.models
        ]
        self._ask_until_heard(self._wanted)

    def _ask_until_heard(self, wanted: Sequence[_Wanted]) -> None:
        """Ask for each model until it is accepted or refused; the database may come up after this process."""
        wait_s = _FIRST_WAIT_S
        while not self._stopped.is_set():
            lack = self._ask(wanted)
            if lack is None:
                return
            if wait_s == _FIRST_WAIT_S:
                log.warning("startup_models_waiting", extra={"reason": lack})
            self._stopped.wait(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    def _ask(self, wanted: Sequence[_Wanted]) -> str | None:
        """Ask once for each model that is pending. Why one is still pending afterwards, or None."""
        lack = None
        try:
            self._jobs.store.ping()
            for one in wanted:
                if one.is_pending and not self._stopped.is_set():
                    lack = self._submit(one) or lack
        except ServiceUnavailable as error:
            return str(error)
        return lack

    def _submit(self, one: _Wanted) -> str | None:
        """Ask for a model. Why it has to be asked for again, or None: then it is accepted, or refused for good."""
        about = {"model": one.model.name, "hub": one.model.hub}
        try:
            accepted = self._jobs.submit([one.model.wish()], one.download_path, Asker(tenant=TENANT))
        except ServiceUnavailable as error:
            return str(error)
        except RequestError as error:
            one.trouble = error.code
            extra = {**about, "code": error.code, "reason": str(error)}
            log.error("startup_model_submission_failed", extra=extra)  # noqa: TRY400 - a refusal, and no fault of ours
        except Exception:
            # The other models are not to suffer from it.
            one.trouble = "internal"
            log.exception("startup_model_submission_failed", extra={**about, "code": "internal", "reason": "internal"})
        else:
            (one.job_id,) = accepted.ids
            log.info("startup_model_scheduled", extra={**about, "job_ids": accepted.ids})
        return None

    def _look(self) -> str | None:
        if self._unusable is not None:
            return f"The file that STARTUP_MODELS_CONFIG names cannot be used: {self._unusable}"
        if self._wanted is None:
            return "The file has not been read yet."
        try:
            self._follow(self._wanted)
        except ServiceUnavailable:
            return "The database does not answer, so nobody knows."
        return _told(self._wanted)

    def _follow(self, wanted: Sequence[_Wanted]) -> None:
        """Find out what has become of the jobs. One that was tried again gives way to the one that tries it."""
        by_job = {one.job_id: one for one in wanted if one.job_id is not None and not one.completed}
        if not by_job:
            return
        fates = self._jobs.store.fates({job_id: one.model.name for job_id, one in by_job.items()})
        for fate in fates:
            one = by_job.get(fate.id) or by_job[fate.retry_of or ""]
            if not one.completed:
                one.job_id, one.completed, one.trouble = fate.id, fate.state is JobState.COMPLETED, _trouble(fate)
        for job_id in by_job.keys() - {fate.id for fate in fates}:
            if by_job[job_id].job_id == job_id:
                by_job[job_id].trouble = "its job was deleted"


def _trouble(fate: JobFate) -> str | None:
    match fate.state:
        case JobState.FAILED:
            return fate.error_code or "internal"
        case JobState.CANCELED:
            return "canceled"
        case _:
            return None


def _told(wanted: Sequence[_Wanted]) -> str | None:
    missing = [one for one in wanted if not one.completed]
    if not missing:
        return None
    coming = [one.model.name for one in missing if one.trouble is None]
    failed = [f"{one.model.name} ({one.trouble})" for one in missing if one.trouble is not None]
    said = [f"{len(missing)} of {len(wanted)} are not there."]
    said += [f"Still to come: {_some(coming)}."] if coming else []
    said += [f"Failed: {_some(failed)}."] if failed else []
    return " ".join(said)


def _some(names: Collection[str]) -> str:
    shown = list(names)[:_MOST_NAMES]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")

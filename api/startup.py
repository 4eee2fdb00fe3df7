"""The models that an operator wants from the start: gates that the service asks for by itself, in the background."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event, Thread

import msgspec

from api.compat.startup import STARTUP, StartupFileUnusable, StartupModel, read_startup_file
from api.gates import Gates, Wanted
from api.gates.answers import GateAnswers
from api.usecases import Asker
from common.errors import InvalidSpec, RequestError, ServiceUnavailable
from common.gates import GateFate, GateWish
from common.records import Origin
from common.spec import JobSpec
from common.tracing import Kind, span, traceparent

log = logging.getLogger(__name__)

TENANT = "startup"
"""Who asks for these models."""
PART = "startup_models"
"""What /ready calls them."""

_ACTION = "The service starts without startup models: mend the file, or unset STARTUP_MODELS_CONFIG, and start again."
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 30.0
_LAST_MOMENT_S = 5.0
_MOST_NAMES = 5


@dataclass(slots=True, kw_only=True)
class _Model:
    """One model of the file. Only the thread that asks writes to it."""

    model: StartupModel
    download_path: str
    wanted: Wanted | None = None
    """What came of judging it; None as long as that has to be tried again."""

    @property
    def about(self) -> dict[str, object]:
        """By what the log knows it."""
        return {"model": self.model.name, "hub": self.model.hub}


@dataclass(slots=True, kw_only=True)
class _Group:
    """One gate of the file."""

    name: str
    models: list[_Model]
    asked: bool = False
    """Whether the gate has been asked for, with all that were judged by then."""
    judged: int = 0
    """How many of its models that were."""

    @property
    def is_pending(self) -> bool:
        """Whether something of it has still to be asked for."""
        return not self.asked or self.judged < len(self.models)


class StartupModels:
    """The gates of one file. Without a path there are none, and nothing is done.

    Each start of a process asks for all of them: what is neither there nor on its way is brought anew.
    """

    def __init__(self, path: str | None, gates: Gates, answers: GateAnswers) -> None:
        self._path = path
        self._gates = gates
        self._answers = answers
        self._groups: Sequence[_Group] | None = None
        self._unusable: str | None = None
        self._stopped = Event()
        self._thread: Thread | None = None

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
        """Part -> what it lacks, or None, as `GateAnswers` knows it. Nothing where no file is named."""
        return {PART: self._lack()} if self._path else {}

    def _lack(self) -> str | None:
        if self._unusable is not None:
            return f"The file that STARTUP_MODELS_CONFIG names cannot be used: {self._unusable}"
        if self._groups is None:
            return "The file has not been read yet."
        own = next((group for group in self._groups if group.name == STARTUP), None)
        if own is None:
            return None
        return self._answers.lack(STARTUP) if own.asked else _still_to_come([one.model.name for one in own.models])

    def _run(self, path: str) -> None:
        try:
            file = read_startup_file(path, self._gates.jobs.catalog.hubs)
        except StartupFileUnusable as error:
            self._unusable = str(error)
            extra = {"path": path, "reason": str(error), "action": _ACTION}
            log.error("startup_models_config_unusable", extra=extra)  # noqa: TRY400 - the error says all
            return
        self._groups = [
            _Group(
                name=name,
                models=[
                    _Model(model=model, download_path=model.download_path or gate.download_path or "")
                    for model in gate.models
                ],
            )
            for name, gate in file.groups().items()
        ]
        with span("startup.models", kind=Kind.INTERNAL):
            self._ask_until_heard(self._groups)

    def _ask_until_heard(self, groups: Sequence[_Group]) -> None:
        """Ask for each model until it is accepted or refused; the database may come up after this process."""
        wait_s = _FIRST_WAIT_S
        while not self._stopped.is_set():
            lack = self._ask(groups)
            if lack is None:
                return
            if wait_s == _FIRST_WAIT_S:
                log.warning("startup_models_waiting", extra={"reason": lack})
            self._stopped.wait(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    def _ask(self, groups: Sequence[_Group]) -> str | None:
        """Ask once for each gate that is pending. Why something is still pending afterwards, or None."""
        lack = None
        try:
            self._gates.jobs.store.ping()
            for group in groups:
                if group.is_pending and not self._stopped.is_set():
                    lack = self._ask_for(group) or lack
        except ServiceUnavailable as error:
            return str(error)
        return lack

    def _ask_for(self, group: _Group) -> str | None:
        lack = None
        for one in group.models:
            if one.wanted is None and not self._stopped.is_set():
                lack = self._judge(one, group) or lack
        judged = sum(one.wanted is not None for one in group.models)
        if not group.asked or judged > group.judged:
            self._keep(group)
            group.judged = judged
        return lack

    def _judge(self, one: _Model, group: _Group) -> str | None:
        """Judge a model. Why that has to be tried again, or None: then it is as wanted, or refused for good."""
        refused = GateWish(name=one.model.name, hub=one.model.hub)
        try:
            one.wanted = _checked(self._judged(one), group)
        except ServiceUnavailable as error:
            return str(error)
        except RequestError as error:
            one.wanted = Wanted(wish=refused, refused=GateFate(code=error.code, error=str(error)))
            extra = {**one.about, "code": error.code, "reason": str(error)}
            log.error("startup_model_submission_failed", extra=extra)  # noqa: TRY400 - a refusal, and no fault of ours
        except Exception:
            # The other models are not to suffer from it.
            one.wanted = Wanted(wish=refused, refused=GateFate(code="internal"))
            extra = {**one.about, "code": "internal", "reason": "internal"}
            log.exception("startup_model_submission_failed", extra=extra)
        return None

    def _judged(self, one: _Model) -> Wanted:
        wish = one.model.wish()
        (spec,), sealed = self._gates.jobs.judged([wish], one.download_path, Asker(tenant=TENANT))
        # A gate lasts longer than credentials are kept: only a job has them.
        lasting = GateWish(name=wish.name, hub=wish.hub, spec=_without_secret(spec))
        return Wanted(wish=lasting, secret=spec.secret, sealed=sealed)

    def _keep(self, group: _Group) -> None:
        """Ask for the gate, with what has not been judged yet as still to come."""
        wanted = _each_once(group.models)
        try:
            asker = Asker(tenant=TENANT, origin=Origin(trace=traceparent()))
            kept = self._gates.keep(group.name, list(wanted.values()), asker)
        except RequestError as error:
            group.asked = True
            extra = {"gate": group.name, "code": error.code, "reason": str(error)}
            log.error("startup_gate_failed", extra=extra)  # noqa: TRY400 - a refusal, and no fault of ours
            return
        group.asked = True
        asked = dict(zip(wanted, kept.asked, strict=True))
        for number, one in enumerate(group.models):
            job_id = asked.get(number)
            if job_id is not None:
                log.info("startup_model_scheduled", extra={**one.about, "gate": group.name, "job_ids": [job_id]})


def _without_secret(spec: JobSpec) -> JobSpec:
    return msgspec.structs.replace(spec, secret=None)


def _checked(wanted: Wanted, group: _Group) -> Wanted:
    """Raises InvalidSpec where another model of the gate wants something else in the same place."""
    others = [one.wanted.wish for one in group.models if one.wanted is not None]
    if any(other.place == wanted.wish.place and other.essence != wanted.wish.essence for other in others):
        raise InvalidSpec("Another model of the file would be published in the same place.")
    return wanted


def _each_once(models: Sequence[_Model]) -> dict[int, Wanted]:
    """Number -> what is wanted, without what comes again."""
    found: dict[int, Wanted] = {}
    places: set[str] = set()
    for number, one in enumerate(models):
        wanted = one.wanted or Wanted(wish=GateWish(name=one.model.name, hub=one.model.hub))
        place = wanted.wish.place
        if place is None or place not in places:
            found[number] = wanted
        if place is not None:
            places.add(place)
    return found


def _still_to_come(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    shown = ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
    return f"{len(names)} of {len(names)} are not there. Still to come: {shown}."

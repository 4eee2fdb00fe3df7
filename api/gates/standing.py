"""How a gate stands: its wishes as the disk has them, and of those that are not there, what becomes of their jobs."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import msgspec

from api.gates.shelf import Look, Shelf
from common.errors import ServiceUnavailable
from common.gates import GateFate, GateRecord, GateWish
from common.lifecycle import ENDED_JOBS
from common.records import JobRecord
from common.store.gates import GateStore
from common.store.jobs import JobStore
from common.vocabulary import JobState

State = Literal["published", "coming", "failed", "gone", "spoilt"]

_ASK_AGAIN = "Ask for the gate again: what is missing is then brought anew."


class Followed(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one wish, and its job as long as that matters."""

    wish: GateWish
    fate: GateFate
    job: JobRecord | None = None


class ModelStanding(msgspec.Struct, frozen=True, kw_only=True):
    """One wish, as it stands."""

    wish: GateWish
    fate: GateFate
    state: State
    job: JobRecord | None = None
    look: Look | None = None
    code: str | None = None
    error: str | None = None
    hint: str | None = None


class GateStanding(msgspec.Struct, frozen=True, kw_only=True):
    """A gate, as it stands."""

    record: GateRecord
    models: tuple[ModelStanding, ...]

    @property
    def is_open(self) -> bool:
        """Whether every model is published and whole."""
        return all(model.state == "published" for model in self.models)


@dataclass(frozen=True, slots=True, kw_only=True)
class Eyes:
    """Looks at gates: at the table for what was asked, at the disk for what is there."""

    store: GateStore
    jobs: JobStore
    shelf: Shelf

    def gate(self, name: str) -> GateStanding | None:
        """One gate; None where there is none. Raises ServiceUnavailable."""
        record = self.store.gate(name)
        return None if record is None else self.standing(record)

    def standing(self, record: GateRecord) -> GateStanding:
        """How this gate stands. Raises ServiceUnavailable."""
        followed = self.follow(record)
        fates = tuple(one.fate for one in followed)
        if fates != record.fates:
            # Else the end of a job would be asked for each second, and lost with the job. It will be seen again.
            with suppress(ServiceUnavailable):
                self.store.note(record, fates)
        return GateStanding(record=record, models=tuple(self.model(one) for one in followed))

    def follow(self, record: GateRecord) -> list[Followed]:
        """The wishes of a gate, each with what its job has come to by now. Raises ServiceUnavailable."""
        known = list(zip(record.wishes, record.fates, strict=True))
        asked = {
            fate.job_id: wish.spec.source.name for wish, fate in known if wish.spec and fate.job_id and not fate.done
        }
        latest = _latest(self.jobs.followed(asked)) if asked else {}
        return [_followed(wish, fate, latest.get(fate.job_id or "")) for wish, fate in known]

    def model(self, followed: Followed) -> ModelStanding:
        """How one wish stands. Asks the disk; its job was asked before, or one that ends just now would seem lost."""
        wish, fate, job = followed.wish, followed.fate, followed.job
        if wish.spec is None:
            state: State = "coming" if fate.code is None else "failed"
            return ModelStanding(wish=wish, fate=fate, state=state, code=fate.code, error=fate.error)
        look = self.shelf.look(wish.spec, fate)
        counts = not fate.replaces or fate.done
        whole = ModelStanding(wish=wish, fate=fate, state="published", job=job, look=look)
        if look.found == "good" and counts:
            return whole
        return msgspec.structs.replace(whole, **_missing(fate, job, look))


def _latest(jobs: Iterable[JobRecord]) -> dict[str, JobRecord]:
    """Id -> that job, or the last one that tries it again; a completed one is the end of it."""
    latest: dict[str, JobRecord] = {}
    for job in jobs:
        for known in (job.id, job.retry_of or ""):
            before = latest.get(known)
            if before is None or before.state is not JobState.COMPLETED:
                latest[known] = job
    return latest


def _followed(wish: GateWish, fate: GateFate, job: JobRecord | None) -> Followed:
    if job is None:
        return Followed(wish=wish, fate=fate)
    fate = msgspec.structs.replace(fate, job_id=job.id)
    if job.state is JobState.COMPLETED:
        revision, models = job.result.get("revision"), job.result.get("models")
        fate = msgspec.structs.replace(
            fate,
            done=True,
            published=True,
            revision=revision if isinstance(revision, str) else None,
            models=_texts(models) if isinstance(models, list) else None,
        )
    return Followed(wish=wish, fate=fate, job=job)


def _texts(values: Sequence[object]) -> tuple[str, ...]:
    return tuple(value for value in values if isinstance(value, str))


def _missing(fate: GateFate, job: JobRecord | None, look: Look) -> dict[str, object]:
    """Why a model is not there, and what is to be done about it."""
    if job is not None and job.state not in ENDED_JOBS:
        return {"state": "coming"}
    if job is not None and job.state is JobState.CANCELED:
        return {"state": "failed", "code": "canceled", "error": f"Job {job.id} was cancelled.", "hint": _ASK_AGAIN}
    if job is not None and job.state is JobState.FAILED:
        return {"state": "failed", "code": job.error_code or "internal", "error": job.error, "hint": job.hint}
    if look.found == "spoilt":
        return {"state": "spoilt", "code": "spoilt", "error": look.told, "hint": _ASK_AGAIN}
    if job is None and fate.job_id is not None and not fate.done:
        # Nobody knows what has become of it, except that it has left nothing.
        return {"state": "failed", "code": "job_deleted", "error": "Its job was deleted.", "hint": _ASK_AGAIN}
    return {"state": "gone", "code": "gone", "error": look.told or None, "hint": _ASK_AGAIN}

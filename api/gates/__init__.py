"""What a user can do with gates: ask for one, look at it, remove it."""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from api.gates.standing import Eyes, Followed, GateStanding
from api.usecases import Asker, Jobs
from common.errors import InvalidSpec, ServiceUnavailable
from common.gates import GATE_NAME, GateFate, GateRecord, GateWish, no_such_gate
from common.planning import Wish
from common.spec import JobSpec
from common.store.gates import GateStore
from common.tracing import step
from common.vocabulary import Pool

_TRIES = 10


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A wish that has been judged, and what its job would need."""

    wish: GateWish
    secret: str | None = None
    """The name of the credentials that it came with; they are kept for its job, and not with the gate."""
    sealed: dict[str, bytes] = {}
    refused: GateFate = GateFate()
    """Of a wish without a spec: why it was refused, if it was."""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What came of asking for a gate."""

    created: bool
    asked: list[str | None]
    """For each wish the job that was made for it now; None where none was needed."""


class _Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of one wish, and the job that is to be made for it, if one is."""

    fate: GateFate
    job_id: str | None = None
    spec: JobSpec | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """The verbs, over the table of gates and that of jobs."""

    store: GateStore
    jobs: Jobs
    eyes: Eyes
    changed: Callable[[str], None]
    """Hears the name of a gate that has been changed, so that nobody is told of it as it was before."""

    def put(self, name: str, wishes: Sequence[Wish], download_path: str, asker: Asker) -> tuple[GateStanding, Kept]:
        """Have a gate wait for these models, and ask for those that are neither there nor on their way.

        Raises InvalidSpec, PluginUnavailable, DestinationOutside, DestinationInvalid, GatesFull or ServiceUnavailable;
        then nothing was stored.
        """
        _check_name(name)
        for wish in wishes:
            _check_lasting(wish)
        specs, _ = self.jobs.judged(wishes, download_path, asker)
        judged = zip(wishes, specs, strict=True)
        wanted = _distinct([GateWish(name=wish.name, hub=wish.hub, spec=spec) for wish, spec in judged])
        kept = self.keep(name, [Wanted(wish=wish) for wish in wanted], asker)
        return self.gate(name), kept

    def keep(self, name: str, wanted: Sequence[Wanted], asker: Asker) -> Kept:
        """Have a gate wait for what was judged before, each at a place of its own.

        Raises GatesFull or ServiceUnavailable; then nothing was stored.
        """
        wishes = tuple(one.wish for one in wanted)
        for _ in range(_TRIES):
            record = self.store.gate(name)
            decisions = self._decided(record, wanted)
            jobs = {one.job_id: one.spec for one in decisions if one.job_id is not None and one.spec is not None}
            fates = tuple(one.fate for one in decisions)
            kept = Kept(created=record is None, asked=[one.job_id for one in decisions])
            if record is not None and (wishes, fates) == (record.wishes, record.fates):
                return kept
            version = None if record is None else record.version
            needed = {spec.secret for spec in jobs.values()}
            sealed = {key: box for one in wanted for key, box in one.sealed.items() if key in needed}
            with step("job.submit", job__ids=list(jobs)):
                saved = self.store.save(
                    name, version, wishes, fates, jobs=jobs, tenant=asker.tenant, sealed=sealed, origin=asker.origin
                )
            if saved:
                self.changed(name)
                self.jobs.tickets.announce(Pool.DOWNLOAD, len(jobs))
                return kept
        raise ServiceUnavailable("Many change this gate at this moment; nothing was stored. Try again shortly.")

    def gate(self, name: str) -> GateStanding:
        """One gate, as it stands. Raises NoSuchGate or ServiceUnavailable."""
        found = self.eyes.gate(name) if GATE_NAME.fullmatch(name) else None
        if found is None:
            raise no_such_gate(name)
        return found

    def gates(self) -> list[GateStanding]:
        """Every gate, by name. Raises ServiceUnavailable."""
        return [self.eyes.standing(record) for record in self.store.gates()]

    def remove(self, name: str) -> None:
        """Forget a gate; jobs and models stay. Raises NoSuchGate or ServiceUnavailable."""
        if not GATE_NAME.fullmatch(name):
            raise no_such_gate(name)
        self.store.remove(name)
        self.changed(name)

    def _decided(self, record: GateRecord | None, wanted: Sequence[Wanted]) -> list[_Decision]:
        followed = [] if record is None else self.eyes.follow(record)
        before = {one.wish.place: one for one in followed if one.wish.place is not None}
        return [self._decide(one, before.get(one.wish.place or "")) for one in wanted]

    def _decide(self, wanted: Wanted, before: Followed | None) -> _Decision:
        """What becomes of a wish. `before` is the one that the gate had for the same place."""
        spec = wanted.wish.spec
        if spec is None:
            return _Decision(fate=wanted.refused)
        if before is not None and before.wish.essence == wanted.wish.essence:
            standing = self.eyes.model(before)
            if standing.state in {"published", "coming"}:
                return _Decision(fate=before.fate)
            return _asked(spec, wanted.secret, published=before.fate.published, replaces=False)
        look = self.eyes.shelf.look(spec, GateFate())
        good = look.found == "good"
        # What was wanted at this place before was something else, and the disk may not tell the two apart.
        if good and look.certain and before is None:
            return _Decision(fate=GateFate(published=True))
        return _asked(spec, wanted.secret, published=False, replaces=good)


def _asked(spec: JobSpec, secret: str | None, *, published: bool, replaces: bool) -> _Decision:
    job_id = str(uuid.uuid4())
    fate = GateFate(job_id=job_id, published=published, replaces=replaces)
    return _Decision(fate=fate, job_id=job_id, spec=msgspec.structs.replace(spec, secret=secret))


def _check_name(name: str) -> None:
    if not GATE_NAME.fullmatch(name):
        raise InvalidSpec(
            "A gate's name is 1 to 63 lower-case letters, digits or characters of . _ - and begins with a letter or "
            "a digit."
        )


def _check_lasting(wish: Wish) -> None:
    """A gate is asked for again long after the request has ended, and by others."""
    if wish.credentials or wish.checked:
        raise InvalidSpec(
            "A gate takes no override_credentials and no validate_credentials: it would have to keep them. Submit such "
            "a model by itself, and let the gate wait for it without them."
        )


def _distinct(wishes: Sequence[GateWish]) -> list[GateWish]:
    """The wishes, each once. Raises InvalidSpec where two want different things in the same place."""
    by_place: dict[str | None, GateWish] = {}
    for wish in wishes:
        first = by_place.setdefault(wish.place, wish)
        if first.essence != wish.essence:
            raise InvalidSpec(
                f"Two models of the gate would be published in one place: {str(wish.place)[:200]!r}. "
                "Give one of them a gate, and a download_path, of its own."
            )
    return list(by_place.values())

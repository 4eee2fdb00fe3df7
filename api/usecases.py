"""What a user can do: submit, look, cancel, retry, forget, limit, and ask whether the service could run a job now."""

import logging
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import msgspec
from msgspec import structs

from api.questions import Hubs
from api.tickets import TicketSender
from common.artefacts.layout import Volume
from common.artefacts.manifest import ArtefactStore
from common.artefacts.provenance import statement
from common.broker import Broker
from common.catalog.registry import Catalog
from common.credentials import credentials_for
from common.errors import (
    InvalidSpec,
    NoSuchJob,
    NoSuchLimit,
    NothingMade,
    ServiceUnavailable,
)
from common.planning import Wish, plan, require_plugins
from common.records import (
    NOWHERE,
    AttemptRecord,
    HubRecord,
    JobPage,
    JobRecord,
    KeyReservation,
    LimitRecord,
    Origin,
)
from common.spec import JobSpec
from common.store.jobs import JobStore
from common.store.limits import LimitStore
from common.tracing import note, step
from common.vocabulary import JobState, LimitScope, Operation, Pool

log = logging.getLogger(__name__)

TENANT = re.compile(r"[A-Za-z0-9._@:-]{1,64}")
"""How a tenant may be called."""

_SHOWN = 80
_PLAN_S = 60.0


class RequestKey(msgspec.Struct, frozen=True):
    """An Idempotency-Key, and what tells the request that it stands on from others.

    Keys belong to a tenant that has given its name. An address is no name: a client may come back from another one.
    """

    name: str
    fingerprint: str
    tenant: str = ""


class Asker(msgspec.Struct, frozen=True, kw_only=True):
    """Who wants something, and under which key, if any."""

    tenant: str = ""
    key: RequestKey | None = None
    origin: Origin = NOWHERE


class Accepted(msgspec.Struct, frozen=True):
    """The jobs that a request has made, now or when it came for the first time."""

    ids: list[str]
    replayed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Jobs:
    """The verbs of a user, over the job table and the queues."""

    store: JobStore
    catalog: Catalog
    tickets: TicketSender
    volume: Volume
    hubs: Hubs

    def submit(self, wishes: Sequence[Wish], download_path: str, asker: Asker) -> Accepted:
        """Accept every wish, or none, to be published below `download_path`.

        The jobs are durable when this returns. Raises PluginUnavailable, DestinationOutside, DestinationInvalid,
        InvalidSpec, CredentialsInvalid, KeyInFlight, KeyReused or ServiceUnavailable; then nothing was stored, and the
        key is free.
        """

        def add(reservation: KeyReservation | None) -> list[str]:
            specs, sealed = self.judged(wishes, download_path, asker)
            return self.store.add(specs, tenant=asker.tenant, key=reservation, sealed=sealed, origin=asker.origin)

        return self._once(asker, add)

    def plan(self, wishes: Sequence[Wish], download_path: str, asker: Asker) -> list[JobRecord]:
        """What these wishes would come to, in their order; a worker finds out. One that nobody answers has not ended.

        Raises PluginUnavailable, DestinationOutside, DestinationInvalid, InvalidSpec, CredentialsInvalid or
        ServiceUnavailable.
        """
        specs, sealed = self.judged(wishes, download_path, asker)
        plans = [structs.replace(spec, operation=Operation.PLAN) for spec in specs]
        return self.hubs.answers.of(plans, tenant=asker.tenant, within_s=_PLAN_S, sealed=sealed, origin=asker.origin)

    def retry(self, job_id: str, asker: Asker) -> Accepted:
        """Try a job that has ended badly again, as a new job.

        Raises NoSuchJob, JobActive, NotRetryable, KeyInFlight, KeyReused or ServiceUnavailable.
        """
        _check_id(job_id)

        def again(reservation: KeyReservation | None) -> list[str]:
            return [self.store.retry(job_id, tenant=asker.tenant, key=reservation, origin=asker.origin)]

        return self._once(asker, again)

    def delete(self, job_id: str) -> None:
        """Forget a job that has ended. Raises NoSuchJob, JobActive or ServiceUnavailable."""
        _check_id(job_id)
        self.store.delete(job_id)

    def attempts(self, job_id: str) -> list[AttemptRecord]:
        """Every attempt at a job's stages, oldest first. Raises NoSuchJob or ServiceUnavailable."""
        _check_id(job_id)
        return self.store.attempts(job_id)

    def provenance(self, job_id: str) -> dict[str, object]:
        """How the model of a completed job came to be, as an in-toto statement.

        Raises NoSuchJob, NothingMade or ServiceUnavailable.
        """
        record = self.job(job_id)
        artefacts = ArtefactStore(self.volume)
        named = record.result.get("artefact")
        made = artefacts.load(named, complete=False) if isinstance(named, str) else None
        if made is None:
            raise NothingMade(f"Job {job_id} has made nothing of which there is a record: it is {record.state}")
        return statement(artefacts, made)

    def job(self, job_id: str) -> JobRecord:
        """One job. Raises NoSuchJob or ServiceUnavailable."""
        _check_id(job_id)
        return self.store.job(job_id)

    def page(self, *, after: int | None, limit: int, state: JobState | None, newest_first: bool) -> JobPage:
        """Some jobs, and from where to go on; as cheap for any page of any table. Raises ServiceUnavailable."""
        return self.store.page(after=after, limit=limit, state=state, newest_first=newest_first)

    def jobs(self, state: JobState | None = None, limit: int | None = None, offset: int = 0) -> list[JobRecord]:
        """Jobs, oldest first. Raises ServiceUnavailable."""
        return self.store.jobs(state=state, limit=limit, offset=offset)

    def count(self, state: JobState | None = None) -> int:
        """How many jobs there are. Raises ServiceUnavailable."""
        return self.store.count(state)

    def of_model(self, name: str) -> list[JobRecord]:
        """The jobs of one model, oldest first. Raises NoSuchJob if there are none, or ServiceUnavailable."""
        records = self.store.jobs(model_name=name) if name.isprintable() else []
        if not records:
            raise NoSuchJob(f"No jobs found for model {name}")
        return records

    def cancel(self, job_id: str) -> JobRecord:
        """End a job now. Raises NoSuchJob, JobEnded, NotCancellable or ServiceUnavailable."""
        _check_id(job_id)
        return self.store.cancel(job_id)

    def judged(
        self, wishes: Sequence[Wish], download_path: str, asker: Asker
    ) -> tuple[list[JobSpec], dict[str, bytes]]:
        """The specs of these wishes, and the credentials that they name, sealed.

        All wishes are judged, and the credentials that are to be checked have been, before anything comes of one.
        Raises what `submit` raises for wishes that will not do.
        """
        for wish in wishes:
            require_plugins(wish, self.catalog)
        hubs = [self.catalog.hub(wish.hub) for wish in wishes]
        given = [(hub, credentials_for(hub, wish.credentials)) for wish, hub in zip(wishes, hubs, strict=True)]
        self.hubs.check(
            [one for wish, one in zip(wishes, given, strict=True) if wish.checked], asker.tenant, asker.origin
        )
        root = self.volume.destination(download_path)
        specs = [plan(structs.replace(wish, root=root), self.catalog) for wish in wishes]
        sealed = self.hubs.sealed(given)
        named = zip(specs, sealed.secret_ids, strict=True)
        return [structs.replace(spec, secret=secret_id) for spec, secret_id in named], sealed.boxes

    def _once(self, asker: Asker, make: Callable[[KeyReservation | None], list[str]]) -> Accepted:
        """Make jobs; under a key only for the first request that carries it."""
        with step("job.submit"):
            if asker.key is None:
                ids = make(None)
            else:
                held = self.store.reserve(asker.key.tenant, asker.key.name, asker.key.fingerprint)
                if isinstance(held, list):
                    note(job__ids=held, job__replayed=True)
                    return Accepted(held, replayed=True)
                ids = self._kept(held, make)
            note(job__ids=ids)
            self.tickets.announce(Pool.DOWNLOAD, len(ids))
        return Accepted(ids)

    def _kept(self, reservation: KeyReservation, make: Callable[[KeyReservation | None], list[str]]) -> list[str]:
        try:
            return make(reservation)
        except BaseException:
            self._abandon(reservation)
            raise

    def _abandon(self, reservation: KeyReservation) -> None:
        try:
            self.store.abandon(reservation)
        except ServiceUnavailable:
            # The reservation runs out by itself; the client shall hear why its request was refused.
            log.warning("key.not_abandoned", extra={"tenant": reservation.tenant})


def _check_id(job_id: str) -> None:
    if not job_id.isprintable():
        # Databases disagree on whether such a string may be asked for at all.
        raise NoSuchJob(f"Job {job_id} not found")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an operator sets while everything runs."""

    store: LimitStore
    catalog: Catalog

    def limits(self) -> list[LimitRecord]:
        """Every limit that is set. Raises ServiceUnavailable."""
        return self.store.limits()

    def hubs(self) -> list[HubRecord]:
        """How the hubs fare with all workers together. Raises ServiceUnavailable."""
        return self.store.hubs()

    def put(self, limit: LimitRecord) -> LimitRecord:
        """Set a limit, at once and for all machines. Raises InvalidSpec or ServiceUnavailable."""
        self._check_name(limit)
        _check_values(limit)
        self.store.put(limit)
        return limit

    def remove(self, scope: LimitScope, name: str) -> None:
        """Take a limit away. Raises NoSuchLimit or ServiceUnavailable."""
        if not name.isprintable():
            raise NoSuchLimit(f"No limit is set for {scope} {name[:_SHOWN]!r}")
        self.store.remove(scope, name)

    def _check_name(self, limit: LimitRecord) -> None:
        if limit.scope is LimitScope.TENANT:
            if not TENANT.fullmatch(limit.name):
                raise InvalidSpec("A tenant's name is 1 to 64 letters, digits or characters of . _ @ : -")
            return
        known = sorted(self._names(limit.scope))
        if limit.name not in known:
            raise InvalidSpec(f"No limit of a {limit.scope} is named {limit.name[:_SHOWN]!r}. Use {', '.join(known)}.")

    def _names(self, scope: LimitScope) -> Collection[str]:
        match scope:
            case LimitScope.HUB:
                plugins = [*self.catalog.hubs.values(), *self.catalog.disabled_hubs.values()]
                return {plugin.origin or plugin.name for plugin in plugins}
            case LimitScope.POOL:
                return [pool.value for pool in Pool]
            case _:
                return ["*"]


def _check_values(limit: LimitRecord) -> None:
    if limit.max_running is not None and limit.scope is LimitScope.SERVICE:
        raise InvalidSpec("The service has no max_running of its own: limit its pools instead.")
    if limit.bytes_per_s is not None and limit.scope not in {LimitScope.SERVICE, LimitScope.HUB}:
        raise InvalidSpec(f"A {limit.scope} has no bytes_per_s: limit a hub or the service instead.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Looks at every part that a job needs on its way."""

    store: JobStore
    catalog: Catalog
    broker: Broker
    alive_within_s: float

    def missing(self) -> dict[str, str | None]:
        """Part -> what it lacks, or None."""
        return {
            "database": self._database(),
            "redis": None if self.broker.ping() else "Redis does not answer; jobs are accepted and start later.",
            **{f"{pool}_worker": lack for pool, lack in self._workers().items()},
        }

    def _database(self) -> str | None:
        try:
            self.store.ping()
        except ServiceUnavailable as error:
            return str(error)
        return None

    def _workers(self) -> dict[Pool, str | None]:
        needed = [Pool.DOWNLOAD, Pool.CONVERT] if self.catalog.converters else [Pool.DOWNLOAD]
        try:
            workers = self.store.workers(self.alive_within_s)
        except ServiceUnavailable:
            return dict.fromkeys(needed, "The database does not answer, so nobody knows.")
        able = {worker.pool for worker in workers if worker.ready and not worker.draining}
        return {pool: None if pool in able else f"No {pool} worker is ready." for pool in needed}

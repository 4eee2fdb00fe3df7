"""What a user can do: submit, look, cancel, and ask whether the service could run a job now."""

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec import structs

from common.artefacts.layout import Volume
from common.broker import Broker
from common.catalog.registry import Catalog
from common.errors import NoSuchJob, ServiceUnavailable
from common.planning import Wish, plan, require_plugins
from common.records import JobRecord
from common.store.jobs import JobStore
from common.vocabulary import JobState, Pool

_MOST_TICKETS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Jobs:
    """The verbs of a user, over the job table and the queues."""

    store: JobStore
    catalog: Catalog
    broker: Broker
    volume: Volume

    def submit(self, wishes: Sequence[Wish], download_path: str) -> list[JobRecord]:
        """Accept every wish, or none, to be published below `download_path`.

        The jobs are durable when this returns. Raises PluginUnavailable, DestinationOutside,
        DestinationInvalid, InvalidSpec or ServiceUnavailable; then nothing was stored.
        """
        for wish in wishes:
            require_plugins(wish, self.catalog)
        root = self.volume.destination(download_path)
        specs = [plan(structs.replace(wish, root=root), self.catalog) for wish in wishes]
        records = self.store.add(specs)
        self._announce(len(records))
        return records

    def job(self, job_id: str) -> JobRecord:
        """One job. Raises NoSuchJob or ServiceUnavailable."""
        if not job_id.isprintable():
            # Databases disagree on whether such a string may be asked for at all.
            raise NoSuchJob(f"Job {job_id} not found")
        return self.store.job(job_id)

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
        return self.store.cancel(self.job(job_id).id)

    def _announce(self, count: int) -> None:
        # A ticket too few only costs delay: a worker that ends a stage looks for the next one, and so does the
        # reconciler. So a queue that is away must not hold up the answer.
        for _ in range(min(count, _MOST_TICKETS)):
            if not self.broker.enqueue(Pool.DOWNLOAD):
                return


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

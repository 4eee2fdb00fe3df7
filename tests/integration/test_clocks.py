"""What a step of the database's clock, or its absence, does to leases, waits and hubs: nothing that lasts."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from sqlalchemy import event, make_url, select

from common.artefacts.layout import Volume
from common.broker import Broker
from common.errors import ServiceUnavailable
from common.outcome import Retry, Succeeded
from common.records import Claim
from common.store.database import Database, Now
from common.store.jobs import JobStore
from common.store.limits import LimitStore
from common.store.retention import Retention
from common.store.stages import RetryPolicy, StageStore
from common.store.tables import StageRow
from common.vocabulary import JobState, Pool
from tests.builders import a_download
from worker.reconcile import Reconciler

LEASE_S = 1.5
HOUR_S = 3600.0
RETRY = RetryPolicy(max_attempts=5, max_crashes=5, base_s=0.2, cap_s=0.2, jitter=lambda: 1.0)
NO_REDIS = "redis://127.0.0.1:1/0"


@dataclass
class SteppedClock:
    """Puts the clock of one database forward or back."""

    step: Callable[[float], None]
    prepare: Callable[[Database], None]


@pytest.fixture
def clock(database_url: str) -> SteppedClock:
    return _sqlite_clock() if database_url.startswith("sqlite") else _postgres_clock(database_url)


def _sqlite_clock() -> SteppedClock:
    by_days = [0.0]

    def julianday(_now: str) -> float:
        return time.time() / 86400.0 + 2440587.5 + by_days[0]

    def connected(connection: Any, _record: object) -> None:
        connection.create_function("julianday", 1, julianday)

    def prepare(database: Database) -> None:
        for engine in (database._writing, database._reading):
            event.listen(engine, "connect", connected)

    def step(seconds: float) -> None:
        by_days[0] += seconds / 86400.0

    return SteppedClock(step, prepare)


def _postgres_clock(url: str) -> SteppedClock:
    """A function of the same name that is found before the server's own."""
    name = make_url(url).database
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA faketime")
        connection.execute("CREATE TABLE faketime.step (seconds double precision NOT NULL)")
        connection.execute("INSERT INTO faketime.step VALUES (0)")
        connection.execute(
            "CREATE FUNCTION faketime.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS "
            "'SELECT pg_catalog.clock_timestamp() + make_interval(secs => seconds) FROM faketime.step'"
        )
        connection.execute(f'ALTER DATABASE "{name}" SET search_path = faketime, public, pg_catalog')

    def step(seconds: float) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("UPDATE faketime.step SET seconds = seconds + %s", (seconds,))

    return SteppedClock(step, lambda _: None)


@pytest.fixture
def table(database_url: str, clock: SteppedClock, tmp_path: Path) -> Iterator[SimpleNamespace]:
    database = Database(database_url)
    clock.prepare(database)
    store = StageStore(database, lease_s=LEASE_S, retry=RETRY)
    volume = Volume(tmp_path / "models")
    volume.prepare()
    yield SimpleNamespace(
        jobs=JobStore(database),
        stages=store,
        limits=LimitStore(database),
        database=database,
        volume=volume,
        reconciler=reconciler(store, database, volume),
    )
    database.dispose()


def reconciler(store: StageStore, database: Database, volume: Volume) -> Reconciler:
    return Reconciler(
        store=store,
        retention=Retention(database, keep_days=30, keep_jobs=0),
        broker=Broker(NO_REDIS),
        volume=volume,
        lease_s=LEASE_S,
        every_s=0.3,
    )


def claim(table: SimpleNamespace, owner: str) -> Claim:
    taken = table.stages.claim(Pool.DOWNLOAD, owner)
    assert taken is not None, "nothing to claim"
    return taken


@dataclass
class Life:
    """What happens while time goes by: the reconciler looks, and living workers show that they live."""

    table: SimpleNamespace
    living: list[Claim]
    held: list[bool] = field(default_factory=list)

    def goes_on(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.beat()
            self.table.reconciler.once()
            time.sleep(0.1)

    def beat(self) -> None:
        self.held += [self.table.stages.heartbeat(claim, None).held for claim in self.living]


def running(table: SimpleNamespace) -> set[tuple[str, int]]:
    return table.stages.running()


def fence(claim: Claim) -> tuple[str, int]:
    return claim.stage_id, claim.attempt


def test_the_clock_of_this_database_can_be_put_forward_and_back(table: SimpleNamespace, clock: SteppedClock) -> None:
    assert abs(table.stages.now() - time.time()) < 5
    for step, ahead in ((HOUR_S, HOUR_S), (-2 * HOUR_S, -HOUR_S)):
        clock.step(step)
        assert abs(table.stages.now() - time.time() - ahead) < 5
        with table.database.write() as connection:
            assert abs(connection.execute(select(Now())).scalar_one() - time.time() - ahead) < 5


@pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S, LEASE_S, 400 * 24 * HOUR_S])
def test_a_step_of_the_clock_takes_nothing_from_the_living_and_saves_no_dead(
    table: SimpleNamespace, clock: SteppedClock, step_s: float
) -> None:
    table.jobs.add([a_download(f"org/m{number}") for number in range(3)])
    living, dead = [claim(table, "alive"), claim(table, "alive")], claim(table, "elsewhere/1/2/3/4")
    life = Life(table, [*living, dead])
    life.goes_on(LEASE_S + 0.3)  # from now on the reconciler trusts leases
    life.living = living

    clock.step(step_s)
    # The reconciler looks before the workers' next heartbeats.
    for _ in range(3):
        table.reconciler.once()
    assert running(table) == {fence(taken) for taken in (*living, dead)}, "leases are in doubt after a step"

    life.goes_on(2.5 * LEASE_S)
    assert all(life.held)
    assert running(table) == {fence(taken) for taken in living}
    again = claim(table, "successor")
    assert again.stage_id == dead.stage_id
    assert table.stages.settle(dead, Succeeded(artefact="late")) is None


def test_a_worker_that_dies_after_a_step_is_noticed_too(table: SimpleNamespace, clock: SteppedClock) -> None:
    table.jobs.add([a_download()])
    taken = claim(table, "alive")
    life = Life(table, [taken])
    life.goes_on(LEASE_S + 0.3)
    clock.step(HOUR_S)
    life.goes_on(0.4)
    clock.step(-HOUR_S)
    life.goes_on(LEASE_S + 0.3)
    assert running(table) == {fence(taken)}
    life.living = []
    life.goes_on(2.5 * LEASE_S)
    assert running(table) == set()


def test_the_owners_that_are_certainly_dead_need_no_clock(table: SimpleNamespace, clock: SteppedClock) -> None:
    table.jobs.add([a_download()])
    claim(table, "gone")
    clock.step(-HOUR_S)
    assert len(table.stages.reap_owners(["gone"])) == 1


def trouble(wait_s: float | None = None, code: str = "hub_unavailable") -> Retry:
    return Retry(code=code, detail="503", hint="", wait_s=wait_s)


@pytest.mark.parametrize("wait_s", [None, 2.0, 30.0], ids=["back-off", "2 s", "30 s"])
def test_a_wait_is_no_hour_longer_when_the_clock_is_put_back(
    table: SimpleNamespace, clock: SteppedClock, wait_s: float | None
) -> None:
    table.jobs.add([a_download()])
    table.stages.settle(claim(table, "w"), trouble(wait_s))
    assert table.stages.claimable(Pool.DOWNLOAD) == 0
    clock.step(-HOUR_S)
    assert table.stages.claimable(Pool.DOWNLOAD) == 1
    claim(table, "w")


def test_the_wait_after_a_crash_is_no_hour_longer_either(table: SimpleNamespace, clock: SteppedClock) -> None:
    table.jobs.add([a_download()])
    for owner in ("first", "second"):
        claim(table, owner)
        table.stages.reap_owners([owner])
    assert table.stages.claim(Pool.DOWNLOAD, "third") is None
    clock.step(-HOUR_S)
    claim(table, "third")


def test_what_never_waited_is_claimed_at_once_whatever_the_clock_says(
    table: SimpleNamespace, clock: SteppedClock
) -> None:
    table.jobs.add([a_download("org/a")])
    clock.step(-HOUR_S)
    table.jobs.add([a_download("org/b")])
    assert table.stages.claimable(Pool.DOWNLOAD) == 2
    first, second = claim(table, "w"), claim(table, "w")
    clock.step(2 * HOUR_S)
    assert table.stages.settle(first, Succeeded(artefact="a")) == {Pool.DOWNLOAD}
    clock.step(-3 * HOUR_S)
    assert table.stages.settle(second, Succeeded(artefact="b")) == {Pool.DOWNLOAD}
    for _ in range(2):
        table.stages.settle(claim(table, "w"), Succeeded(artefact="x"))
    assert {job.state for job in table.jobs.jobs()} == {JobState.COMPLETED}


def test_a_released_stage_does_not_wait_for_a_clock(table: SimpleNamespace, clock: SteppedClock) -> None:
    table.jobs.add([a_download()])
    table.stages.settle(claim(table, "w"), trouble(1.0))
    clock.step(HOUR_S)
    taken = claim(table, "w")
    clock.step(-HOUR_S)
    assert table.stages.reap_owners(["w"])
    again = claim(table, "w2")
    assert again.attempt == taken.attempt + 1


def test_a_closed_hub_is_asked_again_when_the_clock_is_put_back(table: SimpleNamespace, clock: SteppedClock) -> None:
    table.jobs.add([a_download()])
    table.limits.close_hub("huggingface", 10.0, "429")
    assert table.stages.claim(Pool.DOWNLOAD, "w") is None
    clock.step(-HOUR_S)
    claim(table, "w")


def test_a_hub_can_be_closed_after_the_clock_was_put_back(table: SimpleNamespace, clock: SteppedClock) -> None:
    table.jobs.add([a_download()])
    table.limits.close_hub("huggingface", 10.0, "429")
    clock.step(-HOUR_S)
    table.limits.close_hub("huggingface", 10.0, "429 again")
    assert table.stages.claim(Pool.DOWNLOAD, "w") is None, "nobody asks a hub that has just said 429"


# Outages


@contextmanager
def outage(table: SimpleNamespace) -> Iterator[None]:
    """The database lets nobody in; a file cannot do that, so SQLite's is replaced by a port where nobody listens."""
    if table.database.is_sqlite:
        table.stages._database = Database("postgresql://nobody@127.0.0.1:1/none")
        yield
        table.stages._database = table.database
        return
    url = table.database.url.set(drivername="postgresql")
    server = url.set(database="postgres").render_as_string(hide_password=False)
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'ALTER DATABASE "{url.database}" ALLOW_CONNECTIONS false')
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (url.database,))
        yield
        connection.execute(f'ALTER DATABASE "{url.database}" ALLOW_CONNECTIONS true')


def test_an_outage_longer_than_the_lease_costs_no_living_worker_its_stage(table: SimpleNamespace) -> None:
    table.jobs.add([a_download("org/a"), a_download("org/b")])
    living, dead = claim(table, "alive"), claim(table, "elsewhere/1/2/3/4")
    life = Life(table, [living])
    life.goes_on(LEASE_S / 2)

    with outage(table):
        end = time.monotonic() + 1.5 * LEASE_S
        while time.monotonic() < end:
            with pytest.raises(ServiceUnavailable):
                table.stages.heartbeat(living, None)
            table.reconciler.once()
            time.sleep(0.2)
    assert lease_left_s(table, living) < 0, "the outage outlasted the lease"

    for _ in range(3):
        table.reconciler.once()
    assert running(table) == {fence(living), fence(dead)}
    life.goes_on(2 * LEASE_S)
    assert all(life.held)
    assert running(table) == {fence(living)}, "and the dead one's stage is found"


def test_an_outage_between_two_looks_of_the_reconciler_counts_too(table: SimpleNamespace) -> None:
    """A reconciler that was stopped, or whose statements hung, knows nothing of the outage."""
    table.jobs.add([a_download()])
    living = claim(table, "alive")
    life = Life(table, [living])
    life.goes_on(LEASE_S + 0.3)
    time.sleep(1.5 * LEASE_S)
    assert lease_left_s(table, living) < 0
    table.reconciler.once()
    assert running(table) == {fence(living)}
    life.goes_on(LEASE_S)
    assert all(life.held)


def test_a_reconciler_that_starts_after_an_outage_takes_nothing_at_once(table: SimpleNamespace) -> None:
    table.jobs.add([a_download()])
    living = claim(table, "alive")
    time.sleep(LEASE_S + 0.3)
    table.reconciler.once()
    assert running(table) == {fence(living)}
    assert table.stages.heartbeat(living, None).held


def lease_left_s(table: SimpleNamespace, claim: Claim) -> float:
    with table.database.read() as connection:
        left = select(StageRow.lease_until - Now()).where(StageRow.id == claim.stage_id)
        return float(connection.execute(left).scalar_one())

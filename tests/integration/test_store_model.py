"""Whatever clients, workers and the reconciler do in whatever order, the tables follow a small model of them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import delete, select, update

from common.errors import JobActive, JobEnded, NotCancellable, NotRetryable
from common.lifecycle import ACTIVE_STAGES, ENDED_JOBS, job_state
from common.outcome import Cancelled, Failed, Outcome, Released, Retry, Succeeded
from common.records import Claim, LimitRecord
from common.spec import JobSpec, Source
from common.store.database import Database, Now
from common.store.jobs import JobStore
from common.store.limits import LimitStore
from common.store.stages import Beat, RetryPolicy, StageStore
from common.store.tables import JobEventRow, JobRow, JobStageRow, LimitRow, StageRow
from common.vocabulary import JobState, LimitScope, Pool, Priority, StageKind, StageState
from tests.builders import a_conversion, a_download

RETRY = RetryPolicy(max_attempts=2, max_crashes=3, base_s=0.0, cap_s=0.0)
TABLES = (JobRow, StageRow, JobStageRow, JobEventRow)

HUBS = {"a/one": "huggingface", "b/two": "ollama", "b/three": "ollama"}
FORMS: dict[str, Callable[[str], JobSpec]] = {
    "download": a_download,
    "download elsewhere": lambda name: a_download(name, root="elsewhere"),
    "conversion": a_conversion,
    "conversion served otherwise": lambda name: a_conversion(name, serving={"cache_size": 4}),
}
CLASSES = {Priority.HIGH: 1, Priority.NORMAL: 2, Priority.LOW: 3}
OUTCOMES: list[Outcome] = [
    Succeeded(artefact="one"),
    Succeeded(artefact="other"),
    Retry(code="hub_unavailable", detail="503", hint=""),
    Retry(code="child_crashed", detail="signal 9", hint="", crashed=True),
    Failed(code="source_not_found", detail="404", hint=""),
    Cancelled(),
    Released(),
]
OFTEN = [8, 4, 3, 5, 1, 1, 2]
OWNERS = ["w1", "w2"]

Key = tuple[str, ...]
Rows = list[Any]


@dataclass(frozen=True)
class Wish:
    """What a client of the model asks for."""

    name: str
    form: str
    priority: Priority

    def spec(self) -> JobSpec:
        spec, hub = FORMS[self.form](self.name), HUBS[self.name]
        return msgspec.structs.replace(spec, source=Source(hub=hub, name=self.name), priority=self.priority)

    def kinds(self) -> list[StageKind]:
        converted = [StageKind.CONVERT] if self.form.startswith("conversion") else []
        return [StageKind.FETCH, *converted, StageKind.PUBLISH]

    def key(self, position: int, artefact: str | None) -> Key:
        kind = self.kinds()[position]
        return (kind, self.name, artefact or "", self.form if kind is StageKind.PUBLISH else "")

    def pool(self, position: int) -> Pool:
        downloads = self.kinds()[position] is StageKind.FETCH or not self.form.startswith("conversion")
        return Pool.DOWNLOAD if downloads else Pool.CONVERT

    def rank_class(self, position: int) -> int:
        return 0 if self.kinds()[position] is StageKind.PUBLISH else CLASSES[self.priority]


@dataclass
class ModelStage:
    """A stage as it should be."""

    id: str
    key: Key
    pool: Pool
    rank_class: int
    state: StageState = StageState.QUEUED
    attempt: int = 0
    failures: int = 0
    crashes: int = 0
    owner: str | None = None
    cancelled: bool = False
    waits: bool = False
    """Perhaps: the wait may be over already."""

    @property
    def kind(self) -> StageKind:
        return StageKind(self.key[0])

    @property
    def hub(self) -> str:
        return HUBS[self.key[1]] if self.kind is StageKind.FETCH else ""

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE_STAGES

    @property
    def takes_in(self) -> bool:
        return self.is_active and not self.cancelled


@dataclass
class ModelJob:
    """A job as it should be."""

    id: str
    wish: Wish
    tenant: str
    retry_of: str | None
    stages: list[str] = field(default_factory=list)
    ended: JobState | None = None
    row: tuple[Any, ...] | None = None
    """All of its row, from its end on."""


class StoreMachine(RuleBasedStateMachine):
    """Clients, workers and a reconciler at one database, and what they should find there."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.database = database
        self.store = JobStore(database)
        self.worker = StageStore(database, lease_s=3600, retry=RETRY)
        self.limits = LimitStore(database)
        self.jobs: dict[str, ModelJob] = {}
        self.stages: dict[str, ModelStage] = {}
        self.claims: list[Claim] = []
        self.most: int | None = 1
        self.attempts_seen: dict[str, int] = {}
        self.succeeded: set[str] = set()
        with database.write() as connection:
            for table in (LimitRow, JobEventRow, JobStageRow, JobRow, StageRow):
                connection.execute(delete(table))
        self.limits.put(LimitRecord(scope=LimitScope.HUB, name="ollama", max_running=self.most))

    # One rule, and dice that are thrown by its number: Hypothesis' own choices make most runs poor in events.

    @rule(number=st.integers(0, 1 << 20))
    def something_happens(self, number: int) -> None:
        dice = Random(number)
        (who,) = dice.choices([self.a_client, self.a_worker, self.the_reconciler], [4, 8, 2])
        who(dice)

    def a_client(self, dice: Random) -> None:
        (action,) = dice.choices(
            [self.submit, self.cancel, self.retry, self.delete, self.drop, self.limit_a_hub], [6, 2, 2, 2, 2, 1]
        )
        if action in {self.submit, self.limit_a_hub} or self.jobs:
            action(dice)

    def a_worker(self, dice: Random) -> None:
        (action,) = dice.choices([self.claim, self.settle, self.settle_without_a_lease, self.heartbeat], [6, 6, 2, 1])
        action(dice)

    def the_reconciler(self, dice: Random) -> None:
        dice.choice([self.find_a_dead_worker, self.find_dead_leases, self.let_time_pass])(dice)

    # Clients

    def submit(self, dice: Random) -> None:
        wishes = [
            Wish(dice.choice(sorted(HUBS)), dice.choice(sorted(FORMS)), dice.choice(list(Priority)))
            for _ in range(dice.randint(1, 3))
        ]
        tenant = dice.choice(["", "t1", "t2"])
        ids = self.store.add([wish.spec() for wish in wishes], tenant=tenant)
        for job_id, wish in zip(ids, wishes, strict=True):
            self.expect_job(ModelJob(id=job_id, wish=wish, tenant=tenant, retry_of=None))

    def cancel(self, dice: Random, job: ModelJob | None = None) -> None:
        job = job or dice.choice([*self.jobs.values()])
        stage = self.stages[job.stages[-1]]
        if job.ended is not None:
            self.refused(JobEnded, lambda: self.store.cancel(job.id))
            return
        alone = self.waiting_for(stage) == [job]
        running = stage.state is StageState.RUNNING
        if alone and running and stage.kind is StageKind.PUBLISH:
            self.refused(NotCancellable, lambda: self.store.cancel(job.id))
            return
        assert self.store.cancel(job.id).state is JobState.CANCELED
        job.ended = JobState.CANCELED
        if alone and running:
            stage.cancelled = True
        elif alone:
            stage.state, stage.cancelled = StageState.CANCELED, True

    def retry(self, dice: Random) -> None:
        job = dice.choice([*self.jobs.values()])
        if job.ended is None:
            self.refused(JobActive, lambda: self.store.retry(job.id))
        elif job.ended is JobState.COMPLETED:
            self.refused(NotRetryable, lambda: self.store.retry(job.id))
        else:
            again = self.store.retry(job.id)
            self.expect_job(ModelJob(id=again, wish=job.wish, tenant=job.tenant, retry_of=job.id))

    def delete(self, dice: Random, job: ModelJob | None = None) -> None:
        job = job or dice.choice([*self.jobs.values()])
        if job.ended is None:
            self.refused(JobActive, lambda: self.store.delete(job.id))
            return
        self.store.delete(job.id)
        del self.jobs[job.id]
        for stage_id in job.stages:
            self.forget(stage_id)

    def drop(self, dice: Random) -> None:
        """Cancel a job, best one that runs, and forget it while it is being stopped."""
        jobs = [*self.jobs.values()]
        running = [job for job in jobs if job.ended is None and self.stages[job.stages[-1]].owner]
        job = dice.choice(running or jobs)
        self.cancel(dice, job)
        self.delete(dice, job)

    def limit_a_hub(self, dice: Random) -> None:
        self.most = dice.choice([None, 1, 2])
        self.limits.put(LimitRecord(scope=LimitScope.HUB, name="ollama", max_running=self.most))

    # Workers

    def claim(self, dice: Random) -> None:
        owner = dice.choice(OWNERS)
        if not self.claim_from(Pool.CONVERT, owner):
            self.claim_from(Pool.DOWNLOAD, owner)

    def claim_from(self, pool: Pool, owner: str) -> bool:
        open_to_all = [stage for stage in self.stages.values() if stage.pool is pool and self.may_start(stage)]
        ready = [stage for stage in open_to_all if not stage.waits]
        assert len(ready) <= self.worker.claimable(pool) <= len(open_to_all)
        taken = self.worker.claim(pool, owner)
        if taken is None:
            assert not ready, "a stage that waits for nothing was not handed out"
            return False
        stage = self.stages[taken.stage_id]
        assert stage in open_to_all
        assert stage.rank_class <= min((other.rank_class for other in ready), default=3)
        stage.state, stage.owner, stage.waits = StageState.RUNNING, owner, False
        stage.attempt += 1
        assert (taken.attempt, taken.kind, taken.hub) == (stage.attempt, stage.kind, stage.hub)
        assert taken.input == (stage.key[2] or None)
        assert set(taken.job_ids) == {job.id for job in self.waiting_for(stage)}
        self.claims.append(taken)
        return True

    def settle(self, dice: Random) -> None:
        if held := [claim for claim in self.claims if self.held_by(claim)]:
            claim, (outcome,) = dice.choice(held), dice.choices(OUTCOMES, OFTEN)
            assert self.worker.settle(claim, outcome) == self.expect_end(self.stages[claim.stage_id], outcome)

    def settle_without_a_lease(self, dice: Random) -> None:
        """Who had the lease of a stage, and who pretends to have it, changes nothing."""
        lost = [claim for claim in self.claims if not self.held_by(claim)]
        forged = [msgspec.structs.replace(claim, owner="thief") for claim in self.claims if self.held_by(claim)]
        outcome = dice.choice(OUTCOMES)
        for claim in (*lost, *forged):
            assert self.unchanged(lambda claim=claim: self.worker.settle(claim, outcome)) is None

    def heartbeat(self, dice: Random) -> None:
        if not self.claims:
            return
        claim = dice.choice(self.claims)
        stage = self.held_by(claim)
        if stage is None:
            assert self.unchanged(lambda: self.worker.heartbeat(claim, None)) == Beat(held=False)
        else:
            assert self.worker.heartbeat(claim, None) == Beat(held=True, cancel=stage.cancelled)

    # The reconciler

    def find_a_dead_worker(self, dice: Random) -> None:
        owner = dice.choice(OWNERS)
        lost = [stage for stage in self.stages.values() if stage.owner == owner]
        assert set(self.worker.reap_owners([owner])) == {stage.id for stage in lost}
        for stage in lost:
            self.expect_end(stage, Retry(code="worker_lost", detail="", hint="", crashed=True))

    def find_dead_leases(self, dice: Random) -> None:
        leased = [stage for stage in self.stages.values() if stage.state is StageState.RUNNING]
        expired = dice.sample(leased, dice.randint(0, len(leased)))
        until = Now() + dice.choice([-1, 1_000_000])
        with self.database.write() as connection:
            ids = [stage.id for stage in expired]
            connection.execute(update(StageRow).where(StageRow.id.in_(ids)).values(lease_until=until))
        assert set(self.worker.reap()) == set(ids)
        assert self.worker.reap() == []
        for stage in expired:
            self.expect_end(stage, Retry(code="worker_lost", detail="", hint="", crashed=True))

    def let_time_pass(self, _dice: Random) -> None:
        with self.database.write() as connection:
            connection.execute(update(StageRow).values(not_before=StageRow.not_before - 3600))
        for stage in self.stages.values():
            stage.waits = False

    # What must hold after each step

    @invariant()
    def the_tables_hold_what_was_promised(self) -> None:
        tables = self.tables()
        self.assert_as_the_model(*tables)
        self.assert_leases(tables[1])
        self.assert_single_flight(tables[1])
        self.assert_attempts_only_grow(tables[1])
        self.assert_the_ended_stay(tables[0])
        self.assert_states_follow(tables[0], tables[1])
        self.assert_nothing_is_left_over(*tables)
        self.assert_each_effect_once(tables[3])

    def assert_as_the_model(self, jobs: Rows, stages: Rows, links: Rows, _events: Rows) -> None:
        shown = {row.id: (row.stage_id, row.position, row.tenant, row.retry_of, row.state) for row in jobs}
        assert shown == {
            job.id: (job.stages[-1], len(job.stages) - 1, job.tenant, job.retry_of, self.state_of(job))
            for job in self.jobs.values()
        }
        found = {
            row.id: (
                row.state, row.pool, row.attempt, row.failures, row.crashes, row.lease_owner, row.cancel_at is not None
            )
            for row in stages
        }  # fmt: skip
        assert found == {
            stage.id: (
                stage.state, stage.pool, stage.attempt, stage.failures, stage.crashes, stage.owner, stage.cancelled
            )
            for stage in self.stages.values()
        }  # fmt: skip
        linked = {(row.job_id, row.position, row.stage_id) for row in links}
        assert linked == {(job.id, at, stage) for job in self.jobs.values() for at, stage in enumerate(job.stages)}

    def assert_leases(self, stages: Rows) -> None:
        for row in stages:
            leased = row.state == StageState.RUNNING
            assert (row.lease_owner is not None, row.lease_until is not None) == (leased, leased)
        assert self.worker.running() == {(row.id, row.attempt) for row in stages if row.lease_owner}
        held = [claim for claim in self.claims if self.held_by(claim)]
        assert len({claim.stage_id for claim in held}) == len(held) == len(self.worker.running())

    def assert_single_flight(self, stages: Rows) -> None:
        keys = [row.work_key for row in stages if row.state in {*ACTIVE_STAGES} and row.cancel_at is None]
        assert len(keys) == len(set(keys))

    def assert_attempts_only_grow(self, stages: Rows) -> None:
        for row in stages:
            assert row.attempt >= self.attempts_seen.get(row.id, 0)
            self.attempts_seen[row.id] = row.attempt

    def assert_the_ended_stay(self, jobs: Rows) -> None:
        for row in jobs:
            job = self.jobs[row.id]
            assert (row.ended_at is not None) == (row.state in {*ENDED_JOBS}) == (job.ended is not None)
            if job.ended is not None:
                job.row = job.row or tuple(row)
                assert tuple(row) == job.row

    def assert_states_follow(self, jobs: Rows, stages: Rows) -> None:
        by_id = {row.id: row for row in stages}
        for row in jobs:
            stage = by_id[row.stage_id]
            kind, state = StageKind(stage.kind), StageState(stage.state)
            spec = self.jobs[row.id].wish.spec()
            if row.ended_at is None:
                assert state in ACTIVE_STAGES, "a job that has not ended needs somebody who will end it"
                assert stage.cancel_at is None
                begun = row.position > 0 or stage.attempt > 0
                assert row.state == job_state(spec.operation, kind, state, last=False, begun=begun)
            elif row.state != JobState.CANCELED:
                assert row.state == job_state(spec.operation, kind, state, last=True, begun=True)
                assert (row.state == JobState.COMPLETED) == (
                    stage.kind == StageKind.PUBLISH and stage.artefact is not None
                )

    def assert_nothing_is_left_over(self, _jobs: Rows, stages: Rows, links: Rows, events: Rows) -> None:
        remembered = {row.stage_id for row in links}
        for row in stages:
            assert row.id in remembered or row.state == StageState.RUNNING
        for row in events:
            assert row.job_id is None or row.job_id in self.jobs
            assert row.stage_id is None or row.stage_id in self.stages

    def assert_each_effect_once(self, events: Rows) -> None:
        claimed = [(row.stage_id, row.attempt) for row in events if row.event == "stage.claimed"]
        assert len(claimed) == len(set(claimed))
        succeeded = [row.stage_id for row in events if row.event == "stage.succeeded"]
        assert len(succeeded) == len(set(succeeded))
        ends = [row.job_id for row in events if row.event in {f"job.{state}" for state in ENDED_JOBS}]
        assert sorted(ends) == sorted(job.id for job in self.jobs.values() if job.ended)

    # The model

    def expect_job(self, job: ModelJob) -> None:
        self.jobs[job.id] = job
        self.expect_on_stage(job, artefact=None)

    def expect_on_stage(self, job: ModelJob, *, artefact: str | None) -> ModelStage:
        """Put a job of the model on its next stage: one that does this already, or a new one."""
        position = len(job.stages)
        key, rank_class = job.wish.key(position, artefact), job.wish.rank_class(position)
        known = [stage for stage in self.stages.values() if stage.key == key and stage.takes_in]
        with self.database.read() as connection:
            link = select(JobStageRow.stage_id).where(JobStageRow.job_id == job.id, JobStageRow.position == position)
            stage_id = connection.execute(link).scalar_one()
        assert [stage.id for stage in known] in ([], [stage_id])
        if not known:
            assert stage_id not in self.stages, "what has ended takes nobody in"
            pool = job.wish.pool(position)
            self.stages[stage_id] = ModelStage(id=stage_id, key=key, pool=pool, rank_class=rank_class)
        stage = self.stages[stage_id]
        stage.rank_class = min(stage.rank_class, rank_class)
        job.stages.append(stage_id)
        return stage

    def expect_end(self, stage: ModelStage, outcome: Outcome) -> frozenset[Pool]:
        """Let an attempt of the model end. Returns the pools that have got work."""
        jobs = self.waiting_for(stage)
        stage.owner = None
        match Cancelled() if stage.cancelled else outcome:
            case Succeeded(artefact=artefact):
                assert stage.id not in self.succeeded
                self.succeeded.add(stage.id)
                stage.state = StageState.SUCCEEDED
                return frozenset(pool for job in jobs if (pool := self.expect_advance(job, artefact)))
            case Retry(crashed=crashed):
                return self.expect_retry(stage, crashed=crashed)
            case Released():
                stage.state = StageState.QUEUED
                return frozenset({stage.pool})
            case Failed():
                self.expect_all_end(stage, StageState.FAILED, JobState.FAILED)
            case Cancelled():
                self.expect_all_end(stage, StageState.CANCELED, JobState.CANCELED)
                self.forget(stage.id)
        return frozenset()

    def expect_retry(self, stage: ModelStage, *, crashed: bool) -> frozenset[Pool]:
        last = stage.crashes + 1 == RETRY.max_crashes if crashed else stage.failures + 1 == RETRY.max_attempts
        if last:
            self.expect_all_end(stage, StageState.FAILED, JobState.FAILED)
            return frozenset()
        stage.waits = crashed and stage.crashes > 0
        stage.crashes += crashed
        stage.failures += not crashed
        stage.state = StageState.QUEUED
        return frozenset({stage.pool})

    def expect_advance(self, job: ModelJob, artefact: str) -> Pool | None:
        if len(job.stages) == len(job.wish.kinds()):
            job.ended = JobState.COMPLETED
            return None
        return self.expect_on_stage(job, artefact=artefact).pool

    def expect_all_end(self, stage: ModelStage, state: StageState, as_job: JobState) -> None:
        for job in self.waiting_for(stage):
            job.ended = as_job
        stage.state = state

    def forget(self, stage_id: str) -> None:
        stage = self.stages[stage_id]
        if not stage.is_active and not any(stage_id in job.stages for job in self.jobs.values()):
            del self.stages[stage_id]

    def waiting_for(self, stage: ModelStage) -> list[ModelJob]:
        return [job for job in self.jobs.values() if job.ended is None and job.stages[-1] == stage.id]

    def may_start(self, stage: ModelStage) -> bool:
        fetching = sum(other.state is StageState.RUNNING and other.hub == "ollama" for other in self.stages.values())
        full = stage.hub == "ollama" and self.most is not None and fetching >= self.most
        return stage.state is StageState.QUEUED and not full

    def held_by(self, claim: Claim) -> ModelStage | None:
        stage = self.stages.get(claim.stage_id)
        is_held = stage is not None and (stage.owner, stage.attempt) == (claim.owner, claim.attempt)
        return stage if is_held else None

    def state_of(self, job: ModelJob) -> JobState:
        if job.ended is not None:
            return job.ended
        stage, position = self.stages[job.stages[-1]], len(job.stages) - 1
        if position == stage.attempt == 0:
            return JobState.QUEUED
        converting = position > 0 and job.wish.form.startswith("conversion")
        return JobState.CONVERTING if converting else JobState.DOWNLOADING

    def tables(self) -> tuple[Rows, ...]:
        with self.database.read() as connection:
            return tuple(
                list(connection.execute(select(*table.__table__.columns).order_by(*table.__table__.primary_key)))
                for table in TABLES
            )

    def unchanged(self, work: Any) -> Any:
        """Do something that must change no row at all."""
        before = self.tables()
        result = work()
        assert self.tables() == before
        return result

    def refused(self, error: type[Exception], work: Any) -> None:
        def refuse() -> None:
            with pytest.raises(error):
                work()

        self.unchanged(refuse)


@pytest.mark.slow
def test_the_store_follows_its_model(database: Database) -> None:
    run_state_machine_as_test(
        lambda: StoreMachine(database),
        settings=settings(
            max_examples=40,
            stateful_step_count=50,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )

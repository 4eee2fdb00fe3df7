"""Whose turn it is, how much may run, and who must wait: on SQLite and on Postgres alike."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import msgspec
import pytest

from common.errors import NoSuchLimit
from common.outcome import Retry, Succeeded
from common.planning import stages
from common.records import Claim, LimitRecord, MemoryRoom
from common.spec import JobSpec, MemoryRule, Source
from common.store.database import Database
from common.store.jobs import JobStore
from common.store.limits import LimitStore
from common.store.stages import RetryPolicy, StageStore
from common.vocabulary import LimitScope, Pool, Priority
from tests.builders import a_conversion, a_download

GB = 1_000_000_000


@pytest.fixture
def table(database: Database) -> SimpleNamespace:
    retry = RetryPolicy(max_attempts=3, base_s=0.2, cap_s=10.0, jitter=lambda: 1.0)
    return SimpleNamespace(
        jobs=JobStore(database),
        stages=StageStore(database, lease_s=60, retry=retry),
        limits=LimitStore(database),
        database=database,
    )


def of(name: str, *, hub: str = "huggingface", priority: Priority = Priority.NORMAL) -> JobSpec:
    spec = a_download(name)
    return msgspec.structs.replace(spec, hub=hub, source=Source(hub=hub, name=name), priority=priority)


def claims(table: SimpleNamespace, count: int) -> list[str]:
    """The names of the models whose turn it is, in order. They stay claimed."""
    taken = [table.stages.claim(Pool.DOWNLOAD, "w") for _ in range(count)]
    return [name(claim) for claim in taken if claim]


def name(claim: Claim) -> str:
    source = claim.work["source"]
    assert isinstance(source, dict)
    return str(source["name"])


def finish(table: SimpleNamespace, claim: Claim, size: int = 0) -> None:
    table.stages.settle(claim, Succeeded(artefact=f"a-{name(claim)}", bytes=size))


def limit(table: SimpleNamespace, scope: LimitScope, named: str, count: int | None, speed: int | None = None) -> None:
    table.limits.put(LimitRecord(scope=scope, name=named, max_running=count, bytes_per_s=speed))


# Turns


def test_one_job_of_another_tenant_does_not_wait_for_five_hundred(table: SimpleNamespace) -> None:
    table.jobs.add([of(f"many/m{number}") for number in range(500)], tenant="many")
    first = claims(table, 1)
    table.jobs.add([of("few/one"), of("few/two")], tenant="few")
    assert first == ["many/m0"]
    assert claims(table, 4) == ["few/one", "many/m1", "few/two", "many/m2"]


def test_a_tenant_that_asks_for_one_thing_after_the_other_does_not_starve_the_one_with_many(
    table: SimpleNamespace,
) -> None:
    table.jobs.add([of(f"many/m{number}") for number in range(50)], tenant="many")
    order = []
    for number in range(20):
        table.jobs.add([of(f"steady/s{number}")], tenant="steady")
        taken = table.stages.claim(Pool.DOWNLOAD, "w")
        order.append(name(taken).partition("/")[0])
    assert order.count("many") >= 8, order


def test_priorities_go_before_turns(table: SimpleNamespace) -> None:
    table.jobs.add([of("a/low", priority=Priority.LOW)], tenant="a")
    table.jobs.add([of(f"a/n{number}") for number in range(3)], tenant="a")
    table.jobs.add([of("b/high", priority=Priority.HIGH)], tenant="b")
    assert claims(table, 5) == ["b/high", "a/n0", "a/n1", "a/n2", "a/low"]


def test_a_wish_that_is_more_urgent_brings_the_shared_work_forward(table: SimpleNamespace) -> None:
    table.jobs.add([of(f"many/m{number}") for number in range(20)], tenant="many")
    table.jobs.add([of("many/m15")], tenant="few")
    table.jobs.add([of("many/m17", priority=Priority.HIGH)], tenant="many")
    assert set(claims(table, 3)) == {"many/m17", "many/m0", "many/m15"}


def test_what_is_fetched_is_published_before_anything_else_is_begun(table: SimpleNamespace) -> None:
    table.jobs.add([of(f"a/m{number}") for number in range(5)], tenant="a")
    first = table.stages.claim(Pool.DOWNLOAD, "w")
    finish(table, first)
    following = table.stages.claim(Pool.DOWNLOAD, "w")
    assert (following.kind, name(following)) == ("publish", name(first))


# Limits


def test_a_hub_never_has_more_fetches_than_its_limit(table: SimpleNamespace) -> None:
    limit(table, LimitScope.HUB, "ollama", 3)
    table.jobs.add([of(f"o/m{number}", hub="ollama") for number in range(30)])
    table.jobs.add([of(f"h/m{number}") for number in range(5)])
    running, most, done = set(), [], []
    lock = threading.Lock()

    def work(number: int) -> None:
        while (taken := table.stages.claim(Pool.DOWNLOAD, f"w{number}")) is not None:
            if taken.hub == "ollama":
                with lock:
                    running.add(taken.stage_id)
                    most.append(len(running))
                time.sleep(0.01)
                with lock:
                    running.discard(taken.stage_id)
            finish(table, taken)
            done.append(taken.kind)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert max(most) <= 3
    assert done.count("fetch") == 35


def test_a_full_hub_holds_up_nobody_else(table: SimpleNamespace) -> None:
    limit(table, LimitScope.HUB, "ollama", 1)
    table.jobs.add([of(f"o/m{number}", hub="ollama") for number in range(3)])
    table.jobs.add([of("h/m")])
    assert claims(table, 4) == ["o/m0", "h/m"]
    assert table.stages.claimable(Pool.DOWNLOAD) == 0, "nobody is woken for what may not start"
    table.limits.remove(LimitScope.HUB, "ollama")
    assert table.stages.claimable(Pool.DOWNLOAD) == 2


def test_tenants_and_pools_can_be_limited(table: SimpleNamespace) -> None:
    table.jobs.add([of(f"a/m{number}") for number in range(3)], tenant="a")
    table.jobs.add([of(f"b/m{number}") for number in range(3)], tenant="b")
    limit(table, LimitScope.TENANT, "a", 1)
    assert claims(table, 3) == ["a/m0", "b/m0", "b/m1"]
    limit(table, LimitScope.POOL, "download", 3)
    assert claims(table, 1) == []
    limit(table, LimitScope.POOL, "download", 4)
    assert claims(table, 2) == ["b/m2"]


def test_limits_are_listed_changed_and_removed(table: SimpleNamespace) -> None:
    limit(table, LimitScope.HUB, "ollama", 3)
    limit(table, LimitScope.HUB, "ollama", 4, 1000)
    assert table.limits.limits() == [LimitRecord(scope=LimitScope.HUB, name="ollama", max_running=4, bytes_per_s=1000)]
    table.limits.remove(LimitScope.HUB, "ollama")
    with pytest.raises(NoSuchLimit):
        table.limits.remove(LimitScope.HUB, "ollama")


def test_bandwidth_is_shared_among_what_runs(table: SimpleNamespace) -> None:
    table.jobs.add([of(f"o/m{number}", hub="ollama") for number in range(2)])
    table.jobs.add([of(f"h/m{number}") for number in range(2)])
    claims(table, 4)
    assert {allowance.bytes_per_s for allowance in table.limits.allowances().values()} == {None}
    limit(table, LimitScope.SERVICE, "*", None, 8_000_000)
    limit(table, LimitScope.HUB, "ollama", None, 3_000_000)
    shares = {hub: allowance.bytes_per_s for hub, allowance in table.limits.allowances().items()}
    assert shares == {"huggingface": 2_000_000, "ollama": 1_500_000}


# Hubs that say no


def limited(wait_s: float | None) -> Retry:
    return Retry(code="rate_limited", detail="429", hint="", wait_s=wait_s)


def test_one_workers_429_holds_back_all_others(table: SimpleNamespace) -> None:
    table.jobs.add([of(f"h/m{number}") for number in range(3)])
    table.jobs.add([of("o/m", hub="ollama")])
    first, second = (table.stages.claim(Pool.DOWNLOAD, "w") for _ in range(2))
    table.stages.settle(first, limited(2.0))
    assert claims(table, 3) == ["o/m"]
    (closed,) = [hub for hub in table.limits.hubs() if hub.name == "huggingface"]
    assert (closed.running, closed.reason) == (1, "429")
    assert 0 < table.limits.allowances()["huggingface"].silent_s <= 2.0
    time.sleep(2.1)
    assert table.limits.allowances()["huggingface"].silent_s == 0
    assert len(claims(table, 3)) == 2
    finish(table, second)


def test_a_hub_that_does_not_say_for_how_long_is_left_alone_longer_each_time(table: SimpleNamespace) -> None:
    table.jobs.add([of(f"h/m{number}") for number in range(9)])
    waits = []
    for _ in range(3):
        taken = None
        while taken is None:
            taken = table.stages.claim(Pool.DOWNLOAD, "w")
        before = time.monotonic()
        table.stages.settle(taken, limited(None))
        while not table.stages.claimable(Pool.DOWNLOAD):
            time.sleep(0.01)
        waits.append(time.monotonic() - before)
    assert all(wait > least for wait, least in zip(waits, (0.15, 0.35, 0.75), strict=True)), waits
    assert waits[0] < 0.75, waits
    finish(table, table.stages.claim(Pool.DOWNLOAD, "w"))
    assert table.limits.hubs() == []


def test_obeying_a_hub_is_no_failure(table: SimpleNamespace) -> None:
    (job,) = table.jobs.add([of("h/m")])
    for _ in range(6):
        while (taken := table.stages.claim(Pool.DOWNLOAD, "w")) is None:
            time.sleep(0.05)
        table.stages.settle(taken, limited(0.1))
    record = table.jobs.job(job)
    assert (record.state, record.last_error_code) == ("downloading", "rate_limited")
    assert record.retry_at is not None


def test_the_longest_wish_counts(table: SimpleNamespace) -> None:
    table.jobs.add([of("h/m"), of("h/n")])
    claims(table, 1)
    table.limits.close_hub("huggingface", 30.0, "429")
    table.limits.close_hub("huggingface", 2.0, "429")
    assert 28 < table.limits.allowances()["huggingface"].silent_s <= 30


# Memory


def conversions(table: SimpleNamespace, sizes: dict[str, int]) -> None:
    """Conversions that wait for a worker; each needs twice the size of its source."""
    for model, size in sizes.items():
        spec = msgspec.structs.replace(a_conversion(model), memory=MemoryRule(base_bytes=0, per_byte=2.0))
        table.jobs.add([spec])
        finish(table, table.stages.claim(Pool.DOWNLOAD, "w"), size)


def room(budget: int, free: int | None = None, machine: str = "host/boot/ns") -> MemoryRoom:
    return MemoryRoom(machine=machine, budget_bytes=budget, free_bytes=budget if free is None else free)


def test_two_big_conversions_never_start_together(table: SimpleNamespace) -> None:
    conversions(table, {"big/one": 4 * GB, "big/two": 4 * GB, "small/one": GB})
    first = table.stages.claim(Pool.CONVERT, "host/boot/ns/1/1", room(12 * GB))
    assert (name(first), first.memory_bytes) == ("big/one", 8 * GB)
    second = table.stages.claim(Pool.CONVERT, "host/boot/ns/2/1", room(12 * GB))
    assert name(second) == "small/one", "which has room beside it"
    assert table.stages.claim(Pool.CONVERT, "host/boot/ns/1/1", room(12 * GB)) is None
    elsewhere = table.stages.claim(Pool.CONVERT, "other/boot/ns/1/1", room(12 * GB, machine="other/boot/ns"))
    assert name(elsewhere) == "big/two", "another machine has memory of its own"


def test_memory_that_somebody_else_uses_is_not_free(table: SimpleNamespace) -> None:
    conversions(table, {"a/one": GB, "a/two": GB})
    assert table.stages.claim(Pool.CONVERT, "host/boot/ns/1/1", room(64 * GB))
    assert table.stages.claim(Pool.CONVERT, "host/boot/ns/1/1", room(64 * GB, free=GB)) is None
    assert table.stages.claim(Pool.CONVERT, "host/boot/ns/1/1", room(64 * GB, free=3 * GB))


def test_a_conversion_that_fits_nowhere_runs_alone(table: SimpleNamespace) -> None:
    conversions(table, {"huge/one": 100 * GB})
    assert table.stages.claim(Pool.CONVERT, "host/boot/ns/1/1", room(8 * GB)) is not None


def test_the_chain_knows_whom_it_asks_and_what_it_needs() -> None:
    fetch, convert, publish = stages(
        msgspec.structs.replace(a_conversion(), memory=MemoryRule(base_bytes=5, per_byte=2.0))
    )
    assert (fetch.hub, convert.hub, publish.hub) == ("huggingface", "", "")
    assert convert.memory is not None
    assert convert.memory.peak_bytes(10) == 25

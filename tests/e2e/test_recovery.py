"""What is away, frozen or dead for a while: no accepted job is lost, nothing runs twice without need, or shows twice."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psutil
import pytest
from redis import Redis
from sqlalchemy import text

from common.artefacts.durable import locked
from common.artefacts.layout import Volume
from common.artefacts.locks import index_lock_of, lock_of
from common.artefacts.manifest import check_published
from common.artefacts.publish import staging_of
from common.artefacts.retire import READY
from common.outcome import Released
from common.records import Claim
from common.store.database import AnyRow, Database
from common.store.stages import RetryPolicy, StageStore
from common.vocabulary import Pool
from tests.databases import postgres_url
from tests.e2e.conftest import PLUGINS
from tests.e2e.service import Service
from tests.e2e.test_crashes import alive, submit_to_folder
from tests.fakes.faults import Fault, Throttle
from tests.fakes.huggingface import FakeHuggingFace
from tests.fakes.traffic import Match

MIB = 1024 * 1024
BLOCK = MIB
CONNECTIONS = 4
LEASE_S = 4.0
ROUND_S = 0.5
WITHOUT_CONVERTER = ("redis", "api", "download", "reconcile")
LOADED_S = 4.0
"""What a machine with other things to do may take longer."""


@dataclass(frozen=True)
class Ledger:
    """The table itself, for a test that is not cut off from it when the service is."""

    database: Database

    def rows(self, statement: str, **values: object) -> list[AnyRow]:
        with self.database.read() as connection:
            return list(connection.execute(text(statement), values))

    def number(self, statement: str, **values: object) -> int:
        return int(self.rows(statement, **values)[0][0])

    def change(self, statement: str, **values: object) -> None:
        with self.database.write() as connection:
            connection.execute(text(statement), values)

    def jobs(self) -> int:
        return self.number("SELECT count(*) FROM jobs")

    def most_attempts(self) -> int:
        """Of all stages, the most often begun one's."""
        return self.number("SELECT max(attempt) FROM stages")

    def publications(self, job_id: str) -> int:
        """How often the publication of a job has succeeded."""
        return self.number(
            "SELECT count(*) FROM job_events e JOIN stages s ON s.id = e.stage_id "
            "JOIN job_stages l ON l.stage_id = s.id "
            "WHERE l.job_id = :job AND s.kind = 'publish' AND e.event = 'stage.succeeded'",
            job=job_id,
        )


@contextmanager
def ledger_of(url: str) -> Iterator[Ledger]:
    database = Database(url)
    try:
        yield Ledger(database)
    finally:
        database.dispose()


@contextmanager
def a_hub() -> Iterator[FakeHuggingFace]:
    """A hub whose models of `slow/` take their time: some three MB/s over four connections."""
    with FakeHuggingFace() as hub:
        hub.add_fault(Fault(kind=Throttle(3 * MIB // 4), match=Match("/repos/slow/*", origin="cdn")))
        yield hub


def wish(hub: FakeHuggingFace, name: str, size: int = 1000) -> dict[str, str]:
    """A model that the hub has from now on."""
    hub.add_repo(name, {"model.safetensors": name.encode() * (size // len(name)), "config.json": b"{}"})
    return {"name": name, "hub": "huggingface"}


def moving(job: Mapping[str, Any]) -> bool:
    return int(job["progress"]["bytes_done"]) > MIB


def attempts(service: Service, job_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service.get(f"/jobs/{job_id}/attempts").json()["attempts"]
    return found


def told(service: Service, words: str) -> int:
    """How many lines hold these words."""
    return sum(words in line for line in service.lines())


def kill_alone(service: Service, name: str) -> None:
    """kill -9 of a worker's main process and of nothing else. Its children have a second."""
    offspring = psutil.Process(service.pid(name)).children(recursive=True)
    assert offspring
    os.kill(service.pid(name), signal.SIGKILL)
    service.wait_until(lambda: not any(alive(process) for process in offspring), 1.0, "free of orphans")
    service.kill(name)


def timed_submit(service: Service, *models: dict[str, str], download_path: str = ".") -> tuple[list[str], float]:
    began = time.monotonic()
    ids = service.submit(*models, download_path=download_path)
    return ids, time.monotonic() - began


# Redis, the API and workers of other machines, on SQLite


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """One of everything on SQLite, and one fetch at a time, so that jobs wait."""
    folder = tmp_path_factory.mktemp("plain")
    url = f"sqlite:///{folder / 'jobs.db'}"
    with (
        a_hub() as hub,
        Service(
            folder,
            run=WITHOUT_CONVERTER,
            database_url=url,
            HF_ENDPOINT=hub.endpoint,
            ENABLED_PLUGINS="huggingface",
            MODELFERRY_LEASE_S=str(LEASE_S),
            MODELFERRY_RECONCILE_S=str(ROUND_S),
            MODELFERRY_DOWNLOAD_SLOTS="1",
            MODELFERRY_CONNECTIONS=str(CONNECTIONS),
            MODELFERRY_BLOCK_MB=str(BLOCK // MIB),
        ) as service,
        ledger_of(url) as ledger,
        closing(Redis.from_url(service._environment["REDIS_URL"])) as redis,
    ):
        service.wait_until(lambda: told(service, "worker.ready"), 30, "a ready worker")
        yield SimpleNamespace(hub=hub, service=service, ledger=ledger, redis=redis, file=folder / "jobs.db")


def test_redis_may_forget_freeze_and_die_while_jobs_run_wait_and_come(plain: SimpleNamespace) -> None:
    service, hub = plain.service, plain.hub
    (running,) = service.submit(wish(hub, "slow/through-it-all", 14 * MIB))
    service.wait_for(running, moving)
    ids = service.submit(wish(hub, "org/waits"), wish(hub, "org/waits-too"))
    plain.redis.flushall()
    service.pause("redis")
    frozen = [timed_submit(service, wish(hub, f"org/frozen-{number}")) for number in range(3)]
    service.resume("redis")
    service.kill("redis")
    gone = [timed_submit(service, wish(hub, f"org/gone-{number}")) for number in range(3)]
    time.sleep(1.5)
    service.start("redis")
    assert max(took for _, took in frozen + gone) <= 2.5
    ids += [job_id for accepted, _ in frozen + gone for job_id in accepted]
    assert {service.wait(job_id)["status"] for job_id in [running, *ids]} == {"completed"}
    assert plain.ledger.most_attempts() == 1
    assert told(service, "stage.taken_back") == 0


def test_what_is_accepted_while_redis_is_away_and_nobody_works_runs_when_it_is_back(plain: SimpleNamespace) -> None:
    service = plain.service
    service.wait_until(lambda: plain.redis.llen("download") == 0, 10, "an empty queue")
    time.sleep(0.5)  # the last ticket has been worked off
    service.kill("redis")
    (job_id,), took = timed_submit(service, wish(plain.hub, "org/nobody-works"))
    assert took <= 2.5
    time.sleep(1.0)
    assert service.job(job_id)["status"] == "queued"
    service.start("redis")
    assert service.wait(job_id)["status"] == "completed"


def test_a_job_whose_ticket_died_with_the_api_is_found_by_the_reconciler(plain: SimpleNamespace) -> None:
    service = plain.service
    service.kill("reconcile")
    service.wait_until(lambda: plain.redis.llen("download") == 0, 10, "an empty queue")
    service.pause("redis")
    (job_id,) = service.submit(wish(plain.hub, "org/no-ticket"))
    service.kill("api")
    service.resume("redis")
    service.start("api")
    service.await_health()
    time.sleep(1.0)
    assert plain.redis.llen("download") == 0
    assert (service.job(job_id)["status"], attempts(service, job_id)) == ("queued", [])
    service.start("reconcile")
    assert service.wait(job_id)["status"] == "completed"


def test_a_drained_transfer_loses_at_most_a_block_for_each_connection(plain: SimpleNamespace) -> None:
    service, size = plain.service, 8 * MIB
    model = wish(plain.hub, "slow/drained", size)
    (job_id,) = service.submit(model)
    service.wait_for(job_id, lambda job: job["progress"]["bytes_done"] > 3 * MIB)
    began = time.monotonic()
    assert service.terminate("download", timeout_s=10) == 0
    assert time.monotonic() - began < 10
    service.start("download")
    job = service.wait(job_id)
    assert job["status"] == "completed"
    # The hub counts what the kernel has taken, some of which nobody reads any more.
    again = plain.hub.requests.bytes_served("/repos/slow/drained/*", origin="cdn") - size
    assert again <= CONNECTIONS * (BLOCK + MIB // 2), again / MIB
    assert [one["outcome"] for one in attempts(service, job_id)] == ["released", "succeeded", "succeeded"]
    assert plain.ledger.number("SELECT max(failures + crashes) FROM stages") == 0


def test_a_worker_of_another_machine_that_dies_is_given_up_when_its_lease_has_run_out(plain: SimpleNamespace) -> None:
    service = plain.service
    (job_id,) = service.submit(wish(plain.hub, "slow/far", 9 * MIB))
    service.wait_for(job_id, moving)
    service.pause("download")
    paused = time.monotonic()
    # Nobody here can tell whether this one lives: only its lease counts.
    plain.ledger.change("UPDATE stages SET lease_owner = 'far-away/boot/pid:1/1/1' WHERE state = 'running'")
    kill_alone(service, "download")
    service.start("download")
    service.wait_for(job_id, lambda job: job["attempt"] == 2, 30)
    took = time.monotonic() - paused
    assert LEASE_S - 2 * ROUND_S <= took <= LEASE_S + 2 * ROUND_S + LOADED_S
    assert service.wait(job_id)["status"] == "completed"
    first, second, published = attempts(service, job_id)
    assert (first["outcome"], first["error_code"]) == ("retried", "worker_lost")
    assert [second["outcome"], published["outcome"]] == ["succeeded", "succeeded"]
    assert service.job(job_id)["progress"]["bytes_resumed"] > 0


def test_while_sqlite_is_locked_a_post_is_refused_with_nothing_stored_or_accepted_for_good(
    plain: SimpleNamespace,
) -> None:
    service = plain.service
    (running,) = service.submit(wish(plain.hub, "slow/locked", 30 * MIB))
    service.wait_for(running, moving)
    before, lines = plain.ledger.jobs(), len(service.lines())
    wishes = [wish(plain.hub, f"org/locked-{number}") for number in range(5)]

    def post(number: int) -> httpx.Response:
        time.sleep(number)
        return httpx.post(
            f"{service.url()}/models/download?download_path=.", json={"models": [wishes[number]]},
            timeout=30, trust_env=False,
        )  # fmt: skip

    locker = subprocess.Popen([sys.executable, "-m", "tests.chaos.lock", str(plain.file), "7"])
    try:
        service.wait_until(lambda: is_locked(plain.file), 10, "locked")
        with ThreadPoolExecutor(5) as pool:
            answers = list(pool.map(post, range(5)))
            assert service.get("/jobs", limit=1).status_code == 200, "looking needs no lock"
    finally:
        assert locker.wait(20) == 0
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) <= {200, 503}
    assert statuses[0] == 503, "five seconds are the longest that a writer waits"
    accepted = [job_id for answer in answers if answer.status_code == 200 for job_id in answer.json()["job_ids"]]
    assert plain.ledger.jobs() - before == len(accepted) == statuses.count(200) > 0
    time.sleep(2 * ROUND_S)
    assert told_since(service, lines, "stage.taken_back") == 0, "nobody could prolong a lease, and that is no death"
    assert service.cancel(running).status_code in {200, 409}
    assert {service.wait(job_id)["status"] for job_id in accepted} == {"completed"}
    assert [one["number"] for one in attempts(service, running) if one["stage"] == "fetch"] == [1]


def told_since(service: Service, lines: int, words: str) -> int:
    return sum(words in line for line in service.lines()[lines:])


def is_locked(file: Path) -> bool:
    with closing(sqlite3.connect(file, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        connection.execute("ROLLBACK")
        return False


# The database away: Postgres behind a proxy


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """One of everything, with a Postgres that can be cut off from all of it at once."""
    with ExitStack() as stack:
        hub = stack.enter_context(a_hub())
        direct = stack.enter_context(postgres_url())
        before, _, rest = direct.partition("@/")
        name, _, folder = rest.partition("?host=")
        command = [sys.executable, "-m", "tests.chaos.proxy", str(Path(folder) / ".s.PGSQL.5432")]
        proxy = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        stack.callback(proxy.kill)
        assert proxy.stdin is not None
        assert proxy.stdout is not None
        port = int(proxy.stdout.readline())
        service = stack.enter_context(
            Service(
                tmp_path_factory.mktemp("remote"),
                run=WITHOUT_CONVERTER,
                database_url=f"{before.rstrip(':')}@127.0.0.1:{port}/{name}",
                HF_ENDPOINT=hub.endpoint,
                ENABLED_PLUGINS="huggingface",
                MODELFERRY_LEASE_S=str(LEASE_S),
                MODELFERRY_RECONCILE_S=str(ROUND_S),
                MODELFERRY_CONNECTIONS=str(CONNECTIONS),
                MODELFERRY_BLOCK_MB=str(BLOCK // MIB),
            )
        )
        ledger = stack.enter_context(ledger_of(direct))
        service.wait_until(lambda: told(service, "worker.ready"), 30, "a ready worker")

        def cut(seconds: float) -> None:
            assert proxy.stdin is not None
            proxy.stdin.write(f"cut {seconds}\n")
            proxy.stdin.flush()

        yield SimpleNamespace(hub=hub, service=service, ledger=ledger, cut=cut)


def test_an_outage_longer_than_the_lease_loses_nothing_and_repeats_nothing(remote: SimpleNamespace) -> None:
    service, hub = remote.service, remote.hub
    (running,) = service.submit(wish(hub, "slow/outage", 27 * MIB))
    service.wait_for(running, moving)
    small = wish(hub, "org/outage")
    outage_s = LEASE_S + 2.0
    answers: list[httpx.Response] = []
    began = time.monotonic()

    def post(client: int) -> None:
        """Keep asking, from shortly before the outage until shortly after it."""
        number = 0
        while time.monotonic() < began + outage_s + 2.5:
            number += 1
            asked = time.monotonic()
            answers.append(
                httpx.post(
                    f"{service.url()}/models/download?download_path=c{client}/p{number}", json={"models": [small]},
                    timeout=30, trust_env=False,
                )
            )  # fmt: skip
            time.sleep(max(0.0, asked + 0.25 - time.monotonic()))

    with ThreadPoolExecutor(2) as pool:
        posting = [pool.submit(post, client) for client in range(2)]
        time.sleep(0.5)
        remote.cut(outage_s)
        for one in posting:
            one.result()
    assert {answer.status_code for answer in answers} == {200, 503}
    accepted = [job_id for answer in answers if answer.status_code == 200 for job_id in answer.json()["job_ids"]]
    assert remote.ledger.jobs() == 1 + len(accepted), "a refused request has stored nothing"
    assert {service.wait(job_id)["status"] for job_id in [running, *accepted]} == {"completed"}
    assert told(service, "stage.taken_back") == 0
    assert [one["number"] for one in attempts(service, running)] == [1, 1]
    # What was claimed in the moment of the cut may be run again; a mass of stages may not.
    assert remote.ledger.number("SELECT count(*) FROM stages WHERE attempt > 1") <= 1


def test_nobody_passes_the_fence_while_the_database_is_away(remote: SimpleNamespace) -> None:
    service, ledger = remote.service, remote.ledger
    volume = Volume(service.models_dir)
    place = service.models_dir / "huggingface/org_fenced"
    ready = staging_of(volume, place) / READY
    with locked(lock_of(volume, place)):
        (job_id,) = service.submit(wish(remote.hub, "org/fenced"))
        service.wait_until(lambda: attempt_at(ledger, job_id, "publish"), 20, "a publication that waits for its place")
        remote.cut(5.0)
        service.wait_until(lambda: service.get(f"/jobs/{job_id}").status_code == 503, 3, "cut off")
    # Now the model is built, and whoever builds it asks whether it may be shown.
    service.wait_until(ready.exists, 3, "built")
    thief = take_over(ledger, job_id)
    time.sleep(1.5)
    assert ready.exists(), "the first worker still waits"
    assert not place.exists()
    service.wait_until(lambda: told(service, "stage.lease_lost"), 15, "a worker that knows that it lost its lease")
    assert not place.exists()
    StageStore(ledger.database, lease_s=60, retry=RetryPolicy()).settle(thief, Released())
    service.wait_until(lambda: service.get(f"/jobs/{job_id}").status_code == 200, 5, "connected again")
    assert service.wait(job_id)["status"] == "completed"
    assert check_published(place, rehash=True) == []
    assert ledger.publications(job_id) == 1


def attempt_at(ledger: Ledger, job_id: str, kind: str) -> int:
    """The attempt that runs at a job's stage of this kind; 0 if none does."""
    rows = ledger.rows(
        "SELECT s.attempt FROM stages s JOIN job_stages l ON l.stage_id = s.id "
        "WHERE l.job_id = :job AND s.kind = :kind AND s.state = 'running'",
        job=job_id, kind=kind,
    )  # fmt: skip
    return int(rows[0].attempt) if rows else 0


def take_over(ledger: Ledger, job_id: str) -> Claim:
    """What a reconciler and a second worker would do that see the database while the first one does not."""
    stages = StageStore(ledger.database, lease_s=60, retry=RetryPolicy())
    ((owner,),) = ledger.rows("SELECT lease_owner FROM stages WHERE state = 'running'")
    stages.reap_owners([owner])
    claim = stages.claim(Pool.DOWNLOAD, "somebody-else")
    assert claim is not None
    assert claim.job_ids == (job_id,)
    return claim


# Conversions, on two workers


@pytest.fixture(scope="module")
def converters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """Two convert workers, with a converter that does what it is told."""
    folder = tmp_path_factory.mktemp("converters")
    url = f"sqlite:///{folder / 'jobs.db'}"
    models = folder / "hub"
    with (
        Service(
            folder,
            run=("redis", "api", "download", "convert", "convert-2", "reconcile"),
            database_url=url,
            PYTHONPATH=str(PLUGINS),
            ENABLED_PLUGINS="folder,noisy",
            MODELFERRY_LEASE_S=str(LEASE_S),
            MODELFERRY_RECONCILE_S=str(ROUND_S),
        ) as service,
        ledger_of(url) as ledger,
    ):
        service.wait_until(lambda: told(service, "worker.ready") == 3, 40, "three ready workers")
        yield SimpleNamespace(service=service, models=models, ledger=ledger, file=folder / "jobs.db")


def conversion(converters: SimpleNamespace, name: str, mood: str = "good", seconds: float = 0.0) -> str:
    """A job that converts a model of its own."""
    folder = converters.models / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(f'{{"name": "{name}"}}')
    config = {"mood": mood, "seconds": seconds}
    wished = {"name": name, "type": "llm", "is_ovms": True, "config": config}
    return submit_to_folder(converters.service, wished, converters.models)


def place_of(converters: SimpleNamespace, name: str) -> Path:
    folder: Path = converters.service.models_dir / "openvino_models/cpu/int8" / name
    return folder


def runner_of(converters: SimpleNamespace, job_id: str, kind: str = "convert", after: int = 0) -> str:
    """The name of the worker that runs this stage of the job, once an attempt after this one does."""
    service, ledger = converters.service, converters.ledger
    service.wait_until(lambda: attempt_at(ledger, job_id, kind) > after, 20, f"a running {kind}")
    started = [one for one in attempts(service, job_id) if one["stage"] == kind][-1]
    pid = int(started["worker"].split("/")[3])
    return next(name for name in ("convert", "convert-2") if service.pid(name) == pid)


def test_a_drained_conversion_begins_anew_elsewhere_and_is_not_charged(converters: SimpleNamespace) -> None:
    service = converters.service
    job_id = conversion(converters, "org/drained", "slow", 1.5)
    drained = runner_of(converters, job_id)
    service.wait_for(job_id, lambda job: job["progress"]["phase"] == "converting")
    began = time.monotonic()
    assert service.terminate(drained, timeout_s=10) == 0
    assert time.monotonic() - began < 10
    assert runner_of(converters, job_id, after=1) != drained
    assert service.wait(job_id)["status"] == "completed"
    service.start(drained)
    outcomes = [(one["stage"], one["outcome"]) for one in attempts(service, job_id)]
    assert outcomes[1:] == [("convert", "released"), ("convert", "succeeded"), ("publish", "succeeded")]
    charged = "SELECT max(failures + crashes) FROM stages s JOIN job_stages l ON l.stage_id = s.id WHERE job_id = :job"
    assert converters.ledger.number(charged, job=job_id) == 0


def test_a_worker_that_thaws_after_another_has_finished_changes_nothing(converters: SimpleNamespace) -> None:
    service = converters.service
    job_id = conversion(converters, "org/frozen", "slow", 1.5)
    name = runner_of(converters, job_id)
    main = psutil.Process(service.pid(name))
    frozen = [main, *main.children(recursive=True)]
    for process in frozen:
        process.suspend()
    try:
        assert service.wait(job_id)["status"] == "completed"
        place = place_of(converters, "org/frozen")
        inode, lost = place.stat().st_ino, told(service, "stage.lease_lost")
    finally:
        for process in reversed(frozen):
            process.resume()
    service.wait_until(lambda: told(service, "stage.lease_lost") > lost, 10, "a worker that knows it lost its lease")
    assert place.stat().st_ino == inode
    assert check_published(place, rehash=True) == []
    assert converters.ledger.publications(job_id) == 1
    assert [one["outcome"] for one in attempts(service, job_id)][1:] == ["retried", "succeeded", "succeeded"]


def test_a_job_that_kills_its_process_ends_with_its_history_and_harms_no_bystander(
    converters: SimpleNamespace,
) -> None:
    service = converters.service
    poison = conversion(converters, "org/poison", "fatal")
    bystanders = [conversion(converters, f"org/bystander-{number}", "slow", 0.3) for number in range(4)]
    job = service.wait(poison)
    assert (job["status"], job["error_code"], job["attempt"]) == ("failed", "child_crashed", 3)
    story = [(one["number"], one["outcome"], one["error_code"]) for one in attempts(service, poison)[1:]]
    assert story == [(1, "retried", "child_crashed"), (2, "retried", "child_crashed"), (3, "failed", "child_crashed")]
    for bystander in bystanders:
        assert service.wait(bystander)["status"] == "completed"
        assert {one["number"] for one in attempts(service, bystander)} == {1}


def test_a_job_that_takes_its_worker_along_each_time_ends_and_leaves_no_orphan(converters: SimpleNamespace) -> None:
    service = converters.service
    poison = conversion(converters, "org/heavy", "slow", 60)
    bystander = conversion(converters, "org/beside-heavy", "slow", 4)
    for attempt in range(3):
        name = runner_of(converters, poison, after=attempt)
        kill_alone(service, name)
        service.start(name)
    job = service.wait(poison, 20)
    assert (job["status"], job["error_code"], job["attempt"]) == ("failed", "worker_lost", 3)
    story = [(one["outcome"], one["error_code"]) for one in attempts(service, poison)[1:]]
    assert story == [("retried", "worker_lost")] * 2 + [("failed", "worker_lost")]
    assert service.wait(bystander)["status"] == "completed"
    assert {one["number"] for one in attempts(service, bystander)} == {1}


@pytest.mark.parametrize("moment", ["unbuilt", "built", "shown"])
def test_a_kill_at_any_step_of_a_publication_converges_to_one_output(converters: SimpleNamespace, moment: str) -> None:
    """Before anything is built; when all is built and not shown; and when it is shown and the row does not know it."""
    service, ledger = converters.service, converters.ledger
    volume, name = Volume(service.models_dir), f"org/{moment}"
    place = place_of(converters, name)
    index = index_lock_of(volume, service.models_dir / "openvino_models/cpu/int8")
    with ExitStack() as stack:
        held = stack.enter_context(ExitStack())
        held.enter_context(locked(index if moment == "shown" else lock_of(volume, place)))
        job_id = conversion(converters, name)
        worker = runner_of(converters, job_id, "publish")
        inode = 0
        match moment:
            case "built":
                with sqlite_locked(converters.file):
                    held.close()
                    service.wait_until((staging_of(volume, place) / READY).exists, 5, "built")
                    kill_alone(service, worker)
            case "shown":
                service.wait_until(place.exists, 10, "shown")
                inode = place.stat().st_ino
                kill_alone(service, worker)
            case _:
                kill_alone(service, worker)
        assert place.exists() == (moment == "shown")
    service.start(worker)
    job = service.wait(job_id)
    assert (job["status"], job["result"]["reused"]) == ("completed", moment == "shown")
    assert inode in {0, place.stat().st_ino}
    assert check_published(place, rehash=True) == []
    assert ledger.publications(job_id) == 1
    assert name in (place.parent.parent / "index.txt").read_text()
    service.wait_until(lambda: not list(volume.work.glob("publish.*")), 5, "free of leftovers")


@contextmanager
def sqlite_locked(file: Path) -> Iterator[None]:
    with closing(sqlite3.connect(file, timeout=5, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")

"""Many wishes on two workers: equal ones share, tenants take turns, limits and a hub's refusal bind everybody."""

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import httpx
import psutil
import pytest

from common.artefacts.manifest import check_published
from tests.databases import postgres_url
from tests.e2e.service import Service
from tests.e2e.test_crashes import working
from tests.e2e.test_recovery import BLOCK, CONNECTIONS, MIB, a_hub, attempts, ledger_of, moving, told, wish
from tests.fakes.faults import Fault, Status, rate_limited
from tests.fakes.huggingface import FakeHuggingFace
from tests.fakes.traffic import Match

SLOTS = 2
WORKERS = ("download", "download-2")
_FETCHES_BEGUN = (
    "SELECT s.tenant FROM job_events e JOIN stages s ON s.id = e.stage_id WHERE e.event = 'stage.claimed' "
    "AND s.kind = 'fetch' AND s.tenant IN ('many', 'single') ORDER BY e.seq"
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """Two download workers of two slots each, on Postgres, as on two machines."""
    with (
        a_hub() as hub,
        postgres_url() as url,
        Service(
            tmp_path_factory.mktemp("pair"),
            run=("redis", "api", *WORKERS, "reconcile"),
            database_url=url,
            HF_ENDPOINT=hub.endpoint,
            ENABLED_PLUGINS="huggingface",
            MODELFERRY_DOWNLOAD_SLOTS=str(SLOTS),
            MODELFERRY_CONNECTIONS=str(CONNECTIONS),
            MODELFERRY_BLOCK_MB=str(BLOCK // MIB),
            MODELFERRY_MAX_ATTEMPTS="2",
        ) as service,
        ledger_of(url) as ledger,
    ):
        service.wait_until(lambda: told(service, "worker.ready") == len(WORKERS), 40, "two ready workers")
        yield SimpleNamespace(hub=hub, service=service, ledger=ledger)


@pytest.fixture(autouse=True)
def _mended(pair: SimpleNamespace) -> Iterator[None]:
    """Whatever a test does to limits ends with it."""
    yield
    for limit in pair.service.get("/limits").json()["limits"]:
        httpx.delete(f"{pair.service.url()}/limits/{limit['scope']}/{limit['name']}", trust_env=False)


def limit_fetches(service: Service, count: int) -> None:
    answer = httpx.put(f"{service.url()}/limits/hub/huggingface", json={"max_running": count}, trust_env=False)
    assert answer.status_code == 200, answer.text


def submit_as(service: Service, tenant: str, *models: dict[str, str]) -> list[str]:
    answer = httpx.post(
        f"{service.url()}/models/download?download_path=.", json={"models": models},
        headers={"Modelferry-Tenant": tenant}, timeout=30, trust_env=False,
    )  # fmt: skip
    assert answer.status_code == 200, answer.text
    ids: list[str] = answer.json()["job_ids"]
    return ids


def cancel_all(service: Service, ids: list[str]) -> None:
    for job_id in ids:
        assert service.cancel(job_id).status_code in {200, 409}
    service.wait_until(lambda: not [pid for name in WORKERS for pid in working(service, name)], 10, "idle")


def test_fifty_equal_posts_at_once_are_one_fetch(pair: SimpleNamespace) -> None:
    service, hub = pair.service, pair.hub
    limit_fetches(service, 1)
    (before,) = service.submit(wish(hub, "slow/before-them", 20 * MIB))
    service.wait_for(before, moving)
    model = wish(hub, "org/wanted-by-all", 4 * MIB)
    together = threading.Barrier(25)

    def post(_: int) -> list[str]:
        together.wait()
        return submit_as(service, "everybody", model)

    with ThreadPoolExecutor(25) as pool:
        ids = [job_id for accepted in pool.map(post, range(50)) for job_id in accepted]
    service.cancel(before)
    assert len(set(ids)) == 50
    assert {service.wait(job_id)["status"] for job_id in ids} == {"completed"}
    assert hub.requests.bytes_served("/repos/org/wanted-by-all/*") == 4 * MIB // 17 * 17
    stories = {tuple((one["stage"], one["number"], one["worker"]) for one in attempts(service, job)) for job in ids}
    assert len(stories) == 1, "all fifty tell of the same two attempts"
    assert [number for _, number, _ in stories.pop()] == [1, 1]
    assert pair.ledger.publications(ids[0]) == 1


def test_one_job_of_another_tenant_overtakes_sixty_that_wait(pair: SimpleNamespace) -> None:
    service, hub = pair.service, pair.hub
    limit_fetches(service, 1)
    (first,) = submit_as(service, "many", wish(hub, "slow/of-many", 20 * MIB))
    service.wait_for(first, moving)
    crowd = submit_as(service, "many", *(wish(hub, f"org/of-many-{number}") for number in range(60)))
    (single,) = submit_as(service, "single", wish(hub, "org/of-single"))
    service.cancel(first)
    assert service.wait(single)["status"] == "completed"
    cancel_all(service, crowd)
    begun = [row.tenant for row in pair.ledger.rows(_FETCHES_BEGUN)]
    assert begun.index("single") <= 2, begun[:20]


def test_a_limit_of_three_is_never_exceeded_at_the_hub(pair: SimpleNamespace) -> None:
    service, hub = pair.service, pair.hub
    limit_fetches(service, 3)
    names = [f"slow/limited-{number}" for number in range(6)]
    ids = service.submit(*(wish(hub, name, 3 * MIB // 2) for name in names))
    assert {service.wait(job_id)["status"] for job_id in ids} == {"completed"}
    spans = [transfer(hub, name) for name in names]
    assert max(sum(begin <= moment < end for begin, end in spans) for moment, _ in spans) == 3
    hands = {one["worker"] for job_id in ids for one in attempts(service, job_id) if one["stage"] == "fetch"}
    assert len(hands) == 2, "one alone has no three slots"


def transfer(hub: FakeHuggingFace, name: str) -> tuple[float, float]:
    """From when until when anything of this model was being sent."""
    requests = hub.requests.matching(f"*/{name}/*")
    return min(one.started_s for one in requests), max(one.started_s + one.seconds for one in requests)


def test_a_429_that_one_worker_meets_keeps_both_away(pair: SimpleNamespace) -> None:
    service, hub = pair.service, pair.hub
    wait_s, news_s = 4, 2.0
    armed = hub.add_fault(
        Fault(kind=rate_limited(wait_s, header="Retry-After"), match=Match("*/slow/refused*", origin="hub"), count=1)
    )
    running = service.submit(*(wish(hub, f"slow/running-{number}", 8 * MIB) for number in range(SLOTS + 1)))
    for job_id in running:
        service.wait_for(job_id, moving)
    others = service.submit(wish(hub, "slow/refused", MIB), *(wish(hub, f"org/later-{number}") for number in range(4)))
    service.wait_until(lambda: armed.hits, 10, "refused")
    refused_at = time.monotonic()
    service.wait_until(lambda: service.get("/limits").json()["hubs"][0].get("resumes_at"), 3, "closed")
    assert {one["worker"] for job_id in running for one in attempts(service, job_id)} == workers(pair)
    (known,) = service.get("/limits").json()["hubs"]
    assert "429" in known["reason"]
    time.sleep(max(0.0, refused_at + wait_s - time.monotonic()))
    assert asked_between(hub, refused_at - 1.0, refused_at), "before, there was something to be silenced"
    assert asked_between(hub, refused_at + news_s, refused_at + wait_s - 0.3) == []
    jobs = [service.wait(job_id) for job_id in [*running, *others]]
    assert {job["status"] for job in jobs} == {"completed"}


def asked_between(hub: FakeHuggingFace, begin: float, end: float) -> list[str]:
    """What anybody asked of the hub or its storage in this time."""
    return [one.path for one in hub.requests if begin < one.started_s < end]


def workers(pair: SimpleNamespace) -> set[str]:
    return {row.owner for row in pair.ledger.rows("SELECT owner FROM workers")}


def test_after_the_hub_is_mended_a_retry_completes_and_the_failed_job_can_be_forgotten(pair: SimpleNamespace) -> None:
    service, hub = pair.service, pair.hub
    armed = hub.add_fault(Fault(kind=Status(404), match=Match("*/org/mended*", origin="hub")))
    (job_id,) = service.submit(wish(hub, "org/mended"))
    assert service.wait(job_id)["status"] == "failed"
    hub.remove_fault(armed)
    answer = service.post(f"/jobs/{job_id}/retry")
    assert answer.status_code == 202
    new = service.wait(answer.json()["id"])
    assert (new["status"], new["retry_of"]) == ("completed", job_id)
    assert httpx.delete(f"{service.url()}/jobs/{job_id}", trust_env=False).status_code == 204
    assert [service.get(f"/jobs/{job_id}{part}").status_code for part in ("", "/attempts")] == [404, 404]
    assert job_id not in {job["id"] for job in service.get("/jobs").json()["jobs"]}
    assert check_published(Path(new["path"]), rehash=True) == []


def test_a_cancel_reaches_either_worker_within_a_second_and_takes_the_whole_group(pair: SimpleNamespace) -> None:
    service, hub = pair.service, pair.hub
    names = [f"slow/cancelled-{number}" for number in range(SLOTS + 1)]
    ids = service.submit(*(wish(hub, name, 40 * MIB) for name in names))
    for job_id in ids:
        service.wait_for(job_id, moving)
    (waiting,) = submit_as(service, "patient", wish(hub, "slow/fills-up", 40 * MIB))
    (never,) = submit_as(service, "patient", wish(hub, "org/never-begun"))
    groups = {os.getpgid(pid) for name in WORKERS for pid in working(service, name)}
    on = {job_id: attempts(service, job_id)[0]["worker"] for job_id in ids}
    assert len(set(on.values())) == 2
    for job_id in (never, waiting, *ids):
        assert service.cancel(job_id).json()["status"] == "canceled"
    asked = time.monotonic()
    service.wait_until(lambda: not in_groups(groups), 1.0, "stopped with all of their groups")
    print(f"stopped after {time.monotonic() - asked:.2f} s")
    assert {service.job(job_id)["status"] for job_id in (never, waiting, *ids)} == {"canceled"}
    assert attempts(service, never) == []
    (again,) = service.submit({"name": names[0], "hub": "huggingface"})
    job = service.wait_for(again, moving)
    assert job["progress"]["bytes_resumed"] > 0
    cancel_all(service, [again])


def in_groups(groups: set[int]) -> list[int]:
    """The processes that live in one of these groups."""
    found = []
    for process in psutil.process_iter(["status"]):
        try:
            if os.getpgid(process.pid) in groups and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except ProcessLookupError:
            continue
    return found


def test_cancelling_one_of_two_that_share_a_transfer_only_detaches_it(pair: SimpleNamespace) -> None:
    service, hub = pair.service, pair.hub
    model = wish(hub, "slow/shared", 6 * MIB)
    (one,), (other,) = service.submit(model, download_path="one"), service.submit(model, download_path="other")
    service.wait_for(one, moving)
    assert service.cancel(one).json()["status"] == "canceled"
    assert service.wait(other)["status"] == "completed"
    assert [attempt["number"] for attempt in attempts(service, other)] == [1, 1]
    assert not (service.models_dir / "one").exists()

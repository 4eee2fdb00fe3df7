"""Webhooks whose receivers are no help, and deliverers that are many, or killed: what it costs has bounds."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
from sqlalchemy import insert, update

from common.plugins import NetworkRules
from common.store.database import Database, Now
from common.store.deliveries import DeliveryStore
from common.store.jobs import JobStore
from common.store.tables import DeliveryRow
from common.store.webhooks import WebhookStore
from tests.fakes.exchange import HangUp, Pause, Reply
from tests.fakes.tls import TlsFront
from tests.fakes.webhook_receiver import WebhookReceiver
from tests.webhook_house import A_MODEL, ELSEWHERE, House, house, until
from worker.webhooks import Deliverer


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with WebhookReceiver() as running:
        yield running


@pytest.fixture
def here(tmp_path: Path, receiver: WebhookReceiver) -> Iterator[House]:
    """On SQLite."""
    with house(tmp_path, receiver.host) as made:
        yield made


@pytest.fixture
def there(tmp_path: Path, receiver: WebhookReceiver, database_url: str) -> Iterator[House]:
    """On both databases."""
    with house(tmp_path, receiver.host, database_url=database_url) as made:
        yield made


# Receivers that are no help


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Reply(status=0, pieces=(HangUp(),)), "cannot be reached"),
        (Reply(status=0, pieces=(HangUp(reset=True),)), "cannot be reached"),
        (Reply(status=200, delay_s=30), "more than 1 s"),
        (Reply(status=200, headers=(("Content-Length", "9"),), pieces=(b"x", Pause(30), b"y")), None),
        (Reply(status=200, headers=(("X-Long", "y" * 70_000),)), "cannot be reached"),
        (Reply(status=200, pieces=(b"x" * 50_000_000,)), None),
    ],
    ids=["hangs-up", "resets", "is-silent", "never-ends", "has-long-headers", "has-no-end"],
)
def test_a_receiver_costs_a_bounded_time(
    here: House, receiver: WebhookReceiver, answer: Reply, says: str | None
) -> None:
    made = here.add(receiver.url)
    receiver.otherwise = lambda _request: answer
    here.web.post(f"/webhooks/{made.id}/test")
    began = time.monotonic()
    ended = here.sent(made.id, here.deliverer(call_s=1.0))
    assert time.monotonic() - began < 3
    if says is None:
        assert (ended["state"], ended["status"]) == ("delivered", 200), "it has said that it has taken it"
    else:
        assert ended["state"] == "waiting"
        assert says in ended["error"]


def test_a_dead_receiver_does_not_hold_up_others(here: House, receiver: WebhookReceiver) -> None:
    with WebhookReceiver() as dead, house(here.web.models_dir.parent, dead.host, receiver.host) as made:
        dead.otherwise = lambda _request: Reply(status=200, delay_s=30)
        lost, living = made.add(dead.url), made.add(receiver.url)
        with made.database.write() as connection:
            for number in range(40):
                row = {"id": f"{number:036}", "webhook_id": lost.id, "event": "test", "body": "{}", "state": "waiting"}
                connection.execute(insert(DeliveryRow).values(attempts=0, created_at=Now(), due_at=Now() - 100, **row))
        deliverer = made.deliverer(call_s=2.0, every_s=0.05)
        deliverer.start()
        for count in range(1, 4):
            made.web.post(f"/webhooks/{living.id}/test")
            receiver.wait(count, timeout_s=1.5)
        assert len(dead.letters) <= 4, "no more than it may have at once"
        until(lambda: deliverer._troubled == {lost.id})
        until(lambda: deliverer._busy[lost.id] == 1)


def test_what_is_inside_is_not_spoken_to(tmp_path: Path, receiver: WebhookReceiver) -> None:
    port = receiver.host.partition(":")[2]
    with house(tmp_path) as made, TlsFrontOf(tmp_path, int(port)) as front:
        inside = [made.add(url) for url in (
            front.endpoint, front.endpoint.replace("localhost", "127.0.0.1"), front.endpoint.replace("localhost", "2130706433"),
            front.endpoint.replace("localhost", "[::ffff:127.0.0.1]"), "https://169.254.169.254/latest",
        )]  # fmt: skip
        for webhook in inside:
            made.web.post(f"/webhooks/{webhook.id}/test")
        made.sent(inside[0].id)
        made.sent(inside[0].id)
        for webhook in inside:
            (refused,) = made.deliveries(webhook.id)
            assert refused["state"] == "waiting"
            assert "private network" in refused["error"], webhook.url
            assert "status" not in refused
    assert receiver.letters == []


def test_https_is_verified_by_the_certificates_that_the_operator_trusts(
    tmp_path: Path, receiver: WebhookReceiver
) -> None:
    with TlsFrontOf(tmp_path, int(receiver.host.partition(":")[2])) as front, house(tmp_path, "localhost") as made:
        webhook = made.add(front.endpoint)
        made.web.post(f"/webhooks/{webhook.id}/test")
        refused = made.sent(webhook.id)
        assert "certificate is not trusted" in refused["error"]
        assert receiver.letters == []
        made.rules = NetworkRules(private_hosts=frozenset({"localhost"}), ca_bundle=str(front.certificate))
        made.make_due()
        assert made.sent(webhook.id, made.deliverer())["state"] == "delivered"
        assert receiver.letters[0].verified(webhook.secret)


class TlsFrontOf(TlsFront):
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# Deliverers that are many, or killed


def test_two_deliverers_never_send_one_attempt_twice(there: House, receiver: WebhookReceiver) -> None:
    made = there.add(receiver.url)
    for _ in range(40):
        there.web.post(f"/webhooks/{made.id}/test")
    other = Deliverer(store=DeliveryStore(Database(there.database.url.render_as_string(hide_password=False))),
                      seal=there.seal, rules=there.rules, every_s=0.05)  # fmt: skip
    there.deliverers.append(other)
    another = there.deliverer(every_s=0.05)
    other.start()
    another.start()
    letters = receiver.wait(40)
    until(lambda: all(one["state"] == "delivered" for one in there.deliveries(made.id)))
    assert len({letter.id for letter in letters}) == len(receiver.letters) == 40
    other.stop()
    other.store._database.dispose()


def test_what_was_on_the_way_comes_back_under_the_same_id(there: House, receiver: WebhookReceiver) -> None:
    made = there.add(receiver.url)
    there.web.post(f"/webhooks/{made.id}/test")
    store = DeliveryStore(there.database)
    lost = store.claim()
    assert lost is not None
    assert store.claim() is None, "somebody holds it"
    there.make_due()
    taken = there.sent(made.id)
    assert (taken["state"], taken["attempts"], taken["id"]) == ("delivered", 2, lost.delivery_id)
    assert receiver.letters[0].id == lost.delivery_id
    # The one that was thought dead says something after all.
    store.put_off(lost, 5.0, "It answered 500", 500)
    assert there.deliveries(made.id) == [taken]


def test_a_clock_that_is_put_back_keeps_nothing_waiting(there: House) -> None:
    made = there.add(ELSEWHERE)
    store = DeliveryStore(there.database)
    for attempts, ahead_s in (
        (0, 60),
        (1, 2 * 3600),
        (3, 4000),
        (7, 30_000),
        (9, 44_000),
        (1, 3000),
        (8, 40_000),
        (0, 2),
    ):
        row = {"id": f"{attempts}-{ahead_s}", "webhook_id": made.id, "event": "test", "body": "{}", "state": "waiting"}
        with there.database.write() as connection:
            connection.execute(
                insert(DeliveryRow).values(attempts=attempts, created_at=Now(), due_at=Now() + ahead_s, **row)
            )
    assert store.bring_back() == 5
    assert store.bring_back() == 0
    brought = set()
    while (parcel := store.claim()) is not None:
        brought.add(parcel.delivery_id)
    assert brought == {"0-60", "1-7200", "3-4000", "7-30000", "9-44000"}


def test_the_log_is_bounded(there: House) -> None:
    made, other = there.add(ELSEWHERE), there.add(ELSEWHERE)
    with there.database.write() as connection:
        rows = [
            {"id": f"{of.id[:8]}-{number}", "webhook_id": of.id, "event": "test", "body": "{}", "attempts": 1}
            for of in (made, other)
            for number in range(1100 if of is made else 3)
        ]
        connection.execute(insert(DeliveryRow).values(state="delivered", created_at=Now()), rows)
        for number in range(1100):
            connection.execute(
                update(DeliveryRow).where(DeliveryRow.id == f"{made.id[:8]}-{number}").values(created_at=Now() - number)
            )
        old = update(DeliveryRow).where(DeliveryRow.id.in_([f"{other.id[:8]}-0", f"{other.id[:8]}-1"]))
        connection.execute(old.values(created_at=Now() - 31 * 24 * 3600))
        connection.execute(update(DeliveryRow).where(DeliveryRow.id == f"{other.id[:8]}-1").values(state="waiting"))
    store = DeliveryStore(there.database)
    forgotten = 0
    while batch := store.prune():
        forgotten += batch
    assert forgotten == 101
    assert len(WebhookStore(there.database).deliveries(made.id, limit=2000)) == 1000
    assert {one["state"] for one in there.deliveries(other.id)} == {"waiting", "delivered"}
    assert len(there.deliveries(made.id)) == 100
    answer = there.web.get(f"/webhooks/{made.id}/deliveries", params={"limit": 3})
    assert len(answer.json()["deliveries"]) == 3
    assert there.web.get(f"/webhooks/{made.id}/deliveries", params={"limit": 0}).status_code == 422


def test_a_database_that_is_away_ends_nothing(here: House, receiver: WebhookReceiver) -> None:
    made = here.add(receiver.url)
    here.web.post(f"/webhooks/{made.id}/test")
    away = Deliverer(
        store=DeliveryStore(Database("postgresql://nobody@127.0.0.1:1/x")),
        seal=here.seal,
        rules=here.rules,
        every_s=0.05,
    )
    away.start()
    time.sleep(0.5)
    assert away._loop.is_alive()
    there = away.store
    away.store = DeliveryStore(here.database)
    receiver.wait(1)
    until(lambda: here.deliveries(made.id)[0]["state"] == "delivered")
    away.stop()
    there._database.dispose()


def test_a_webhook_is_removed_while_jobs_end(there: House) -> None:
    """Nobody's job is harmed by it."""
    errors: list[BaseException] = []
    stop = threading.Event()

    def change() -> None:
        try:
            while not stop.is_set():
                made = there.add(ELSEWHERE)
                there.web.client.patch(f"/webhooks/{made.id}", json={"enabled": False})
                there.web.delete(f"/webhooks/{made.id}")
        except BaseException as error:
            errors.append(error)

    changing = threading.Thread(target=change)
    changing.start()
    try:
        ids = [there.web.submitted({**A_MODEL, "name": f"org/m{number}"})[0] for number in range(15)]
        store = JobStore(there.database)
        for job_id in ids:
            store.cancel(job_id)
    finally:
        stop.set()
        changing.join()
    assert errors == []
    assert {there.web.job(job_id)["status"] for job_id in ids} == {"canceled"}

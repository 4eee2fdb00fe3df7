"""Webhooks: what is kept, what a job leaves for them, how it is signed, and what becomes of it."""

import json
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # comes without types
from sqlalchemy import func, select, update
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from common.outcome import Failed
from common.store.database import Now
from common.store.deliveries import MOST_ATTEMPTS, longest_wait_s
from common.store.tables import DeliveryRow, WebhookRow
from common.vocabulary import Pool
from tests.contract.test_openapi import an_archive
from tests.fakes.exchange import reply_with
from tests.fakes.webhook_receiver import WebhookReceiver
from tests.web import Web, web
from tests.webhook_house import A_MODEL, ELSEWHERE, House, complete_one, house, until


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with WebhookReceiver() as running:
        yield running


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """For what the table has no part in."""
    with web(tmp_path_factory.mktemp("door")) as running:
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


# What is kept, and what is shown


def test_a_webhook_is_made_looked_at_changed_and_removed(there: House) -> None:
    service = there.web
    assert service.get("/webhooks").json() == {"webhooks": []}
    answer = service.post("/api/v1/webhooks", json={"url": f"{ELSEWHERE}?token=abcdef", "tenant": "anna"})
    made = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/api/v1/webhooks/{made['id']}"
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", made.pop("secret"))
    assert made["url"] == f"{ELSEWHERE}?***"
    assert made["events"] == ["job.completed", "job.failed", "job.canceled"]
    assert (made["tenant"], made["enabled"]) == ("anna", True)
    path = f"/webhooks/{made['id']}"
    assert service.get(answer.headers["location"]).json() == made
    assert service.get("/webhooks").json() == {"webhooks": [made]}
    changed = service.client.patch(path, json={"enabled": False, "events": ["job.failed"], "url": "https://b.example"})
    assert changed.status_code == 200, changed.text
    assert changed.json() == {**made, "enabled": False, "events": ["job.failed"], "url": "https://b.example"}
    assert service.client.patch(path, json={}).json() == changed.json()
    assert service.client.patch(path, json={"enabled": True, "url": None}).json() == {**changed.json(), "enabled": True}
    assert service.delete(path).status_code == 204
    for gone in (service.delete(path), service.get(path), service.client.patch(path, json={}), service.get(f"{path}/deliveries"),
                 *(service.post(f"{path}/{verb}") for verb in ("rotate", "test", "deliveries/x/redeliver"))):  # fmt: skip
        assert gone.status_code == 404, gone.text


def test_no_secret_and_no_token_is_in_a_row(here: House) -> None:
    secret = here.add(f"{ELSEWHERE}?token=abcdef").secret
    with here.database.read() as connection:
        (row,) = connection.execute(select(*WebhookRow.__table__.columns)).all()
    held = repr(tuple(row))
    assert "abcdef" not in held
    assert secret not in held
    assert secret.removeprefix("whsec_") not in held


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"url": ""},
        {"url": "hooks.example"},
        {"url": "ftp://hooks.example/"},
        {"url": "file:///etc/passwd"},
        {"url": "https://"},
        {"url": "https:///path"},
        {"url": "https://user:password@hooks.example/"},
        {"url": "https://user@hooks.example/"},
        {"url": "https://hooks.example/#part"},
        {"url": "https://hooks.example/a b"},
        {"url": "https://hooks.example/\n"},
        {"url": "https://hooks.example\\@10.0.0.1/"},
        {"url": "https://hüte.example/"},
        {"url": "https://hooks.example:0/"},
        {"url": "https://hooks.example:99999/"},
        {"url": "https://[::1/"},
        {"url": "https://hooks.example/" + "x" * 2048},
        {"url": ELSEWHERE, "events": []},
        {"url": ELSEWHERE, "events": ["job.submitted"]},
        {"url": ELSEWHERE, "events": "job.failed"},
        {"url": ELSEWHERE, "tenant": "a b"},
        {"url": ELSEWHERE, "tenant": "a\n"},
        {"url": ELSEWHERE, "secret": "whsec_AAAA"},
        {"url": 3},
    ],
    ids=lambda body: json.dumps(body)[:60],
)
def test_what_cannot_be_a_webhook_is_refused_at_the_door(door: Web, body: dict[str, Any]) -> None:
    answer = door.post("/webhooks", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["detail"][0]["loc"][0] == "body"
    assert "password" not in answer.text.replace("user or a password", "")
    assert door.get("/webhooks").json() == {"webhooks": []}


def test_http_is_for_hosts_that_the_operator_has_named(here: House, receiver: WebhookReceiver) -> None:
    refused = here.web.post("/webhooks", json={"url": "http://hooks.example/"})
    assert refused.status_code == 400
    assert "MODELFERRY_PRIVATE_HOSTS" in refused.json()["detail"]
    made = here.add(receiver.url)
    assert here.web.client.patch(f"/webhooks/{made.id}", json={"url": "http://hooks.example/"}).status_code == 400
    assert here.web.get(f"/webhooks/{made.id}").json()["url"] == receiver.url


def test_there_may_be_fifty(quick: Web) -> None:
    answers = [quick.post("/webhooks", json={"url": f"https://hooks.example/{number}"}) for number in range(51)]
    assert [answer.status_code for answer in answers] == [201] * 50 + [409]
    assert len(quick.get("/webhooks").json()["webhooks"]) == 50


# What a job leaves


def test_a_completed_job_is_told_of_and_the_signature_holds(there: House, receiver: WebhookReceiver) -> None:
    made = there.add(f"{receiver.url}?token=abcdef")
    job_id = complete_one(there)
    (waiting,) = there.deliveries(made.id)
    assert (waiting["state"], waiting["event"], waiting["job_id"], waiting["attempts"]) == (
        "waiting", "job.completed", job_id, 0,
    )  # fmt: skip
    delivered = there.sent(made.id)
    assert (delivered["state"], delivered["status"], delivered["attempts"]) == ("delivered", 204, 1)
    assert "due_at" not in delivered
    (letter,) = receiver.letters
    job = there.web.job(job_id)
    assert letter.target == "/hook?token=abcdef"
    assert letter.id == waiting["id"]
    assert letter.headers["content-type"] == "application/json"
    assert letter.verified(made.secret) == {
        "type": "job.completed",
        "timestamp": job["completion_time"],
        "data": {
            "job_id": job_id,
            "model_name": "org/model",
            "hub": "huggingface",
            "status": "completed",
            "operation_type": "download",
            "tenant": job["tenant"],
            "revision": "f" * 40,
            "path": "x/huggingface/org_model",
            "created_at": job["creation_time"],
            "completed_at": job["completion_time"],
        },
    }
    assert there.sent(made.id) == delivered
    assert len(receiver.letters) == 1


def test_a_changed_or_an_old_message_is_told_from_a_good_one(here: House, receiver: WebhookReceiver) -> None:
    made = here.add(receiver.url)
    complete_one(here)
    here.sent(made.id)
    here.ago_s = 400
    complete_one(here)
    here.sent(made.id)
    good, old = receiver.letters
    assert good.verified(made.secret)
    with pytest.raises(WebhookVerificationError):
        Webhook(made.secret).verify(good.body.replace(b"completed", b"Completed"), good.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(made.secret).verify(good.body, {**good.headers, "webhook-id": old.id})
    with pytest.raises(WebhookVerificationError):
        Webhook(here.add(ELSEWHERE).secret).verify(good.body, good.headers)
    with pytest.raises(WebhookVerificationError):
        old.verified(made.secret)


def test_failures_and_cancels_say_why_and_each_hears_what_it_has_asked_for(
    there: House, receiver: WebhookReceiver
) -> None:
    failures = there.add(receiver.url, events=["job.failed"])
    everything = there.add(receiver.url)
    others = there.add(receiver.url, tenant="somebody-else")
    off = there.add(receiver.url)
    there.web.client.patch(f"/webhooks/{off.id}", json={"enabled": False})
    (failing,) = there.web.submitted(A_MODEL)
    there.web.settle(Failed(code="source_gated", detail="Its terms are not accepted", hint="Accept them"))
    (cancelled,) = there.web.submitted({**A_MODEL, "name": "org/other"})
    assert there.web.post(f"/jobs/{cancelled}/cancel").status_code == 200
    assert [one["event"] for one in there.deliveries(failures.id)] == ["job.failed"]
    assert {one["event"] for one in there.deliveries(everything.id)} == {"job.failed", "job.canceled"}
    assert there.deliveries(others.id) == there.deliveries(off.id) == []
    there.sent(everything.id)
    told = {letter.content["type"]: letter.content["data"] for letter in receiver.letters}
    assert told["job.failed"]["job_id"] == failing
    assert told["job.failed"]["error_code"] == "source_gated"
    assert told["job.failed"]["error"] == "Its terms are not accepted"
    assert told["job.failed"]["hint"] == "Accept them"
    assert "path" not in told["job.failed"]
    assert told["job.canceled"]["status"] == "canceled"
    assert not {"error", "error_code", "path"} & set(told["job.canceled"])


def test_a_conversion_tells_of_its_form(here: House) -> None:
    made = here.add(ELSEWHERE)
    here.web.submitted({"name": "org/model", "hub": "openvino", "type": "llm", "is_ovms": True,
                        "config": {"precision": "int8", "device": "CPU"}})  # fmt: skip
    here.web.settle(Failed(code="internal", detail="", hint=""))
    (delivery,) = here.deliveries(made.id)
    with here.database.read() as connection:
        body = connection.execute(select(DeliveryRow.body)).scalar_one()
    told = json.loads(body)["data"]
    assert (told["hub"], told["operation_type"], told["precision"], told["device"]) == (
        "openvino",
        "convert",
        "int8",
        "CPU",
    )
    assert delivery["event"] == "job.failed"


def test_an_upload_is_told_of(here: House) -> None:
    made = here.add(ELSEWHERE)
    answer = here.web.post("/models/upload", files={"file": ("a.zip", an_archive())}, data={"model_name": "a"})
    assert answer.status_code == 200, answer.text
    (delivery,) = here.deliveries(made.id)
    assert (delivery["event"], delivery["job_id"]) == ("job.completed", answer.json()["job_id"])
    with here.database.read() as connection:
        told = json.loads(connection.execute(select(DeliveryRow.body)).scalar_one())["data"]
    assert (here.web.models_dir / told["path"]).is_dir()


def test_plans_are_nobodys_business(here: House) -> None:
    made = here.add(ELSEWHERE)
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(here.web.post("/models/plan", json={"models": [A_MODEL]}, params={"download_path": "x"}))

    def refuse() -> bool:
        claim = here.web.stages.claim(Pool.DOWNLOAD, "a-worker")
        if claim is None:
            return False
        here.web.stages.settle(claim, Failed(code="source_not_found", detail="no", hint="no"))
        return True

    asking = threading.Thread(target=ask)
    asking.start()
    until(refuse)
    asking.join()
    assert answers[0].status_code == 200, answers[0].text
    assert here.deliveries(made.id) == []


# What becomes of a message


def test_what_is_not_taken_is_sent_again(here: House, receiver: WebhookReceiver) -> None:
    made = here.add(receiver.url)
    for status in (301, 302, 307, 308, 400, 401, 404, 408, 429, 500, 503):
        elsewhere = reply_with(status, headers={"Location": f"{receiver.url}/elsewhere"})
        receiver.otherwise = lambda _request, reply=elsewhere: reply
        complete_one(here)
        refused = here.sent(made.id)
        assert (refused["state"], refused["status"], refused["attempts"]) == ("waiting", status, 1)
        assert str(status) in refused["error"]
        assert 3 < (datetime.fromisoformat(refused["due_at"]) - datetime.now(UTC)).total_seconds() <= 5
        assert here.sent(made.id) == refused, "it is not due yet"
        here.make_due()
        receiver.otherwise = lambda _request: reply_with(200, b"fine")
        taken = here.sent(made.id)
        assert (taken["state"], taken["status"], taken["attempts"]) == ("delivered", 200, 2)
        assert "error" not in taken
        first, second = receiver.letters[-2:]
        assert [first.target, second.target] == ["/hook", "/hook"], "redirects are not followed"
        assert first.id == second.id
        assert first.body == second.body
        assert second.verified(made.secret)


def test_waits_grow_until_it_is_given_up(here: House, receiver: WebhookReceiver) -> None:
    made = here.add(receiver.url)
    receiver.otherwise = lambda _request: reply_with(500)
    complete_one(here)
    waits = []
    for _ in range(MOST_ATTEMPTS - 1):
        waiting = here.sent(made.id)
        waits.append((datetime.fromisoformat(waiting["due_at"]) - datetime.now(UTC)).total_seconds())
        here.make_due()
    assert waits == pytest.approx([longest_wait_s(count) for count in range(1, MOST_ATTEMPTS)], abs=2)
    assert waits[0] <= 5
    assert waits[-1] > 11 * 3600
    given_up = here.sent(made.id)
    assert (given_up["state"], given_up["attempts"], given_up["status"]) == ("failed", MOST_ATTEMPTS, 500)
    here.make_due()
    assert here.sent(made.id) == given_up
    assert len(receiver.letters) == MOST_ATTEMPTS
    again = here.web.post(f"/webhooks/{made.id}/deliveries/{given_up['id']}/redeliver")
    assert again.status_code == 202, again.text
    assert (again.json()["state"], again.json()["attempts"]) == ("waiting", 0)
    receiver.otherwise = lambda _request: reply_with(200)
    assert here.sent(made.id)["state"] == "delivered"
    assert {letter.id for letter in receiver.letters} == {given_up["id"]}


def test_a_receiver_can_wish_for_time(here: House, receiver: WebhookReceiver) -> None:
    made = here.add(receiver.url)
    for wish, waits in (("60", 60), ("999999999", 3600), ("0", 5), ("nonsense", 5), ("9" * 400, 3600)):
        busy = reply_with(503, headers={"Retry-After": wish})
        receiver.otherwise = lambda _request, reply=busy: reply
        complete_one(here)
        waiting = here.sent(made.id)
        wait_s = (datetime.fromisoformat(waiting["due_at"]) - datetime.now(UTC)).total_seconds()
        assert wait_s == pytest.approx(waits, abs=2), wish


def test_410_switches_the_webhook_off(there: House, receiver: WebhookReceiver) -> None:
    made = there.add(receiver.url)
    complete_one(there)
    with there.database.write() as connection:
        connection.execute(update(DeliveryRow).values(due_at=Now() + 3))
    complete_one(there)
    receiver.otherwise = lambda _request: reply_with(410)
    there.sent(made.id)
    assert [(one["state"], one.get("status")) for one in there.deliveries(made.id)] == [
        ("failed", 410),
        ("failed", None),
    ]
    assert there.web.get(f"/webhooks/{made.id}").json()["enabled"] is False
    complete_one(there)
    assert len(there.deliveries(made.id)) == 2
    assert there.web.post(f"/webhooks/{made.id}/test").status_code == 409
    last = there.deliveries(made.id)[0]["id"]
    assert there.web.post(f"/webhooks/{made.id}/deliveries/{last}/redeliver").status_code == 409
    there.web.client.patch(f"/webhooks/{made.id}", json={"enabled": True})
    receiver.otherwise = lambda _request: reply_with(200)
    assert there.web.post(f"/webhooks/{made.id}/deliveries/{last}/redeliver").status_code == 202
    assert there.sent(made.id)["state"] == "delivered"


def test_one_that_is_switched_off_or_removed_is_sent_nothing_more(there: House, receiver: WebhookReceiver) -> None:
    off, gone = there.add(receiver.url), there.add(receiver.url)
    complete_one(there)
    there.web.client.patch(f"/webhooks/{off.id}", json={"enabled": False})
    assert there.web.delete(f"/webhooks/{gone.id}").status_code == 204
    ended = there.sent(off.id)
    assert (ended["state"], ended["error"]) == ("failed", "The webhook was switched off")
    assert receiver.letters == []
    with there.database.read() as connection:
        assert connection.execute(select(func.count(DeliveryRow.id))).scalar_one() == 1


def test_a_test_message_takes_the_same_way(there: House, receiver: WebhookReceiver) -> None:
    made = there.add(receiver.url, events=["job.failed"])
    answer = there.web.post(f"/webhooks/{made.id}/test")
    assert answer.status_code == 202
    assert (answer.json()["event"], answer.json()["state"]) == ("test", "waiting")
    assert "job_id" not in answer.json()
    assert there.sent(made.id)["state"] == "delivered"
    (letter,) = receiver.letters
    told = letter.verified(made.secret)
    assert (told["type"], told["data"]) == ("test", {"webhook_id": made.id})
    assert letter.id == answer.json()["id"]


def test_after_a_rotation_both_secrets_sign_for_a_day(there: House, receiver: WebhookReceiver) -> None:
    made = there.add(f"{receiver.url}?token=abcdef")
    answer = there.web.post(f"/webhooks/{made.id}/rotate")
    fresh = answer.json()["secret"]
    assert answer.status_code == 200
    assert fresh != made.secret
    there.web.post(f"/webhooks/{made.id}/test")
    there.sent(made.id)
    (both,) = receiver.letters
    assert both.target == "/hook?token=abcdef"
    assert both.verified(made.secret) == both.verified(fresh)
    with there.database.write() as connection:
        connection.execute(update(WebhookRow).values(former_until=Now() - 1))
    there.web.post(f"/webhooks/{made.id}/test")
    there.sent(made.id)
    _, one = receiver.letters
    assert one.verified(fresh)
    with pytest.raises(WebhookVerificationError):
        one.verified(made.secret)


def test_another_url_keeps_the_secret(here: House, receiver: WebhookReceiver) -> None:
    made = here.add(ELSEWHERE)
    assert here.web.client.patch(f"/webhooks/{made.id}", json={"url": receiver.url}).json()["url"] == receiver.url
    here.web.post(f"/webhooks/{made.id}/test")
    here.sent(made.id)
    assert receiver.letters[0].verified(made.secret)


def test_with_another_key_nothing_is_sent_and_it_is_said_why(here: House, receiver: WebhookReceiver) -> None:
    made = here.add(receiver.url)
    (here.web.models_dir / ".modelferry/state/seal.key").write_bytes(bytes(32))
    here.web.post(f"/webhooks/{made.id}/test")
    refused = here.sent(made.id)
    assert refused["state"] == "waiting"
    assert "another key" in refused["error"]
    assert receiver.letters == []
    assert here.web.post(f"/webhooks/{made.id}/rotate").status_code == 409
    assert here.web.client.patch(f"/webhooks/{made.id}", json={"url": ELSEWHERE}).status_code == 409
    assert here.web.client.patch(f"/webhooks/{made.id}", json={"enabled": False}).status_code == 200


def test_nothing_secret_is_logged(here: House, receiver: WebhookReceiver, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    made = here.add(f"{receiver.url}?token=abcdef")
    receiver.otherwise = lambda _request: reply_with(500, b"abcdef")
    here.web.post(f"/webhooks/{made.id}/test")
    refused = here.sent(made.id)
    logged = "\n".join(repr(record.__dict__) for record in caplog.records)
    assert "delivery.refused" in logged
    for text in (logged, json.dumps(refused)):
        assert "abcdef" not in text
        assert made.secret not in text


def test_documented_answers_are_the_ones_given(here: House) -> None:
    service, document = here.web, here.web.get("/openapi.json").json()
    made = here.add(ELSEWHERE)
    one, path = "/webhooks/{webhook_id}", f"/webhooks/{made.id}"
    delivery = service.post(f"{path}/test").json()["id"]
    again = f"{one}/deliveries/{{delivery_id}}/redeliver"
    asked: list[tuple[str, str, str, dict[str, Any]]] = [
        ("post", "/webhooks", "/webhooks", {"json": {"url": ELSEWHERE}}),
        ("post", "/webhooks", "/webhooks", {"json": {"url": "http://hooks.example"}}),
        ("post", "/webhooks", "/webhooks", {"json": {}}),
        ("post", "/webhooks", "/webhooks", {"content": b" " * 2_000_000}),
        ("get", "/webhooks", "/webhooks", {}),
        ("get", one, path, {}),
        ("get", one, "/webhooks/none", {}),
        ("patch", one, path, {"json": {"events": ["job.failed"]}}),
        ("patch", one, path, {"json": {"events": []}}),
        ("patch", one, "/webhooks/none", {"json": {}}),
        ("post", f"{one}/rotate", f"{path}/rotate", {}),
        ("post", f"{one}/rotate", "/webhooks/none/rotate", {}),
        ("post", f"{one}/test", f"{path}/test", {}),
        ("get", f"{one}/deliveries", f"{path}/deliveries", {}),
        ("get", f"{one}/deliveries", f"{path}/deliveries?limit=x", {}),
        ("post", again, f"{path}/deliveries/{delivery}/redeliver", {}),
        ("post", again, f"{path}/deliveries/none/redeliver", {}),
        ("patch", one, path, {"json": {"enabled": False}}),
        ("post", f"{one}/test", f"{path}/test", {}),
        ("get", f"{one}/deliveries", f"{path}/deliveries", {}),
        ("delete", one, path, {}),
        ("delete", one, path, {}),
    ]
    for method, route, url, sent in asked:
        answer = service.client.request(method, url, **sent)
        documented = document["paths"][route][method]["responses"][str(answer.status_code)]
        if answer.status_code != 204:
            schema = documented["content"]["application/json"]["schema"]
            Draft202012Validator({**schema, "components": document["components"]}).validate(answer.json())


def test_the_documented_way_to_verify_is_one(here: House, receiver: WebhookReceiver) -> None:
    page = (Path(__file__).parents[2] / "docs/webhooks.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    exec(page.partition("```python\n")[2].partition("```")[0], names)
    verify = names["verify"]
    made = here.add(receiver.url)
    fresh = here.web.post(f"/webhooks/{made.id}/rotate").json()["secret"]
    here.web.post(f"/webhooks/{made.id}/test")
    here.sent(made.id)
    here.ago_s = 400
    here.web.post(f"/webhooks/{made.id}/test")
    here.sent(made.id)
    good, old = receiver.letters
    assert verify(made.secret, good.headers, good.body)
    assert verify(fresh, good.headers, good.body)
    assert not verify(fresh, good.headers, good.body + b" ")
    assert not verify(here.add(ELSEWHERE).secret, good.headers, good.body)
    assert not verify(fresh, old.headers, old.body)


def test_the_documented_waits_are_the_real_ones() -> None:
    page = (Path(__file__).parents[2] / "docs/webhooks.md").read_text(encoding="utf-8")
    (row,) = [line for line in page.splitlines() if line.startswith("| waits at most |")]
    told = [cell.strip() for cell in row.strip("|").split("|")[1:]]
    units = {"s": 1, "min": 60, "h": 3600}
    assert told.pop() == "`failed`"
    assert len(told) == MOST_ATTEMPTS - 1
    for count, cell in enumerate(told, start=1):
        number, unit = cell.split(" ")
        assert int(number) * units[unit] == pytest.approx(longest_wait_s(count), rel=0.07)

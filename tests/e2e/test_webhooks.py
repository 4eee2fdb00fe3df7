"""Webhooks on the real processes: a deliverer that is killed in the middle of a message, and one that is told to end."""

import time
from pathlib import Path

from sqlalchemy import update

from common.store.database import Database, Now
from common.store.tables import DeliveryRow
from tests.e2e.service import Service
from tests.fakes.exchange import Reply
from tests.fakes.webhook_receiver import OK, WebhookReceiver

SILENT = Reply(status=200, delay_s=60)


def test_a_message_outlives_its_deliverer(tmp_path: Path) -> None:
    with (
        WebhookReceiver(SILENT) as receiver,
        Service(tmp_path, run=("api", "reconcile"), MODELFERRY_PRIVATE_HOSTS=receiver.host) as service,
    ):
        made = service.post("/api/v1/webhooks", {"url": receiver.url}).json()
        (job_id,) = service.submit({"name": "org/model", "hub": "huggingface"})
        assert service.cancel(job_id).is_success
        receiver.wait(1)
        service.kill("reconcile")
        database = Database(f"sqlite:///{service.folder / 'jobs.db'}")
        with database.write() as connection:
            # What was on the way comes back by itself after a minute, which nobody wants to wait for here.
            connection.execute(update(DeliveryRow).values(due_at=Now()))
        database.dispose()
        service.start("reconcile")
        first, second = receiver.wait(2, timeout_s=20)
        assert first.id == second.id
        assert second.verified(made["secret"])["data"]["job_id"] == job_id
        path = f"/api/v1/webhooks/{made['id']}"
        service.wait_until(
            lambda: service.get(f"{path}/deliveries").json()["deliveries"][0]["state"] == "delivered", 10, "delivered"
        )

        receiver.otherwise = lambda _request: SILENT if len(receiver.letters) == 3 else OK
        assert service.post(f"{path}/test").status_code == 202
        receiver.wait(3, timeout_s=20)
        began = time.monotonic()
        assert service.terminate("reconcile") == 0
        assert time.monotonic() - began < 8
        (broken_off, _) = service.get(f"{path}/deliveries").json()["deliveries"]
        assert (broken_off["state"], broken_off["attempts"]) == ("waiting", 1)
        assert "stopping" in broken_off["error"]
        service.start("reconcile")
        letters = receiver.wait(4, timeout_s=20)
        assert letters[2].id == letters[3].id == broken_off["id"]
        assert made["secret"] not in service.tail()

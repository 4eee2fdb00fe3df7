"""Who wants to hear how jobs end: what a user does with webhooks."""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from common.errors import CredentialsLost, InvalidSpec, NoSuchWebhook, WebhookUnreadable
from common.records import DeliveryRecord, WebhookRecord
from common.seals import Seal
from common.settings import Settings
from common.store.database import Database
from common.store.webhooks import WebhookStore
from common.webhooks import Box, may_be_plain, new_secret, shown


class Signed(NamedTuple):
    """A webhook, and the secret that it has just been given: nobody is told it again."""

    webhook: WebhookRecord
    secret: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhooks:
    """The verbs of a user, over the table of webhooks. All raise ServiceUnavailable.

    What names a webhook raises NoSuchWebhook where there is none.
    """

    store: WebhookStore
    seal: Seal
    private_hosts: frozenset[str]
    """Hosts that the operator has named: http is enough for them."""

    @staticmethod
    def of(settings: Settings, database: Database) -> "Webhooks":
        """The webhooks of this service."""
        hosts = (host.strip().lower() for host in settings.private_hosts.split(","))
        return Webhooks(
            store=WebhookStore(database), seal=Seal.of(settings), private_hosts=frozenset(filter(None, hosts))
        )

    def add(self, url: str, *, events: Sequence[str], tenant: str) -> Signed:
        """Tell this address of the ends of jobs from now on. Raises InvalidSpec or WebhooksFull."""
        self._check(url)
        webhook_id, box = str(uuid.uuid4()), Box(url, new_secret())
        sealed = box.closed(self.seal, webhook_id)
        return Signed(self.store.add(webhook_id, shown(url), sealed, events=events, tenant=tenant), box.secret)

    def webhooks(self) -> list[WebhookRecord]:
        """Every webhook, oldest first."""
        return self.store.webhooks()

    def webhook(self, webhook_id: str) -> WebhookRecord:
        """One webhook."""
        return self.store.webhook(_checked(webhook_id))

    def change(
        self,
        webhook_id: str,
        *,
        enabled: bool | None = None,
        events: Sequence[str] | None = None,
        url: str | None = None,
    ) -> WebhookRecord:
        """Change what is given. Raises InvalidSpec, or WebhookUnreadable for another URL."""
        _checked(webhook_id)
        if url is not None:
            self._check(url)
        address = None if url is None else self._moved(webhook_id, url)
        return self.store.change(webhook_id, enabled=enabled, events=events, address=address)

    def rotate(self, webhook_id: str) -> Signed:
        """Give it another secret; the former one signs too for a day. Raises WebhookUnreadable."""
        secret = new_secret()

        def reseal(sealed: bytes) -> bytes:
            return Box(self._opened(webhook_id, sealed).url, secret).closed(self.seal, webhook_id)

        return Signed(self.store.rotate(_checked(webhook_id), reseal), secret)

    def remove(self, webhook_id: str) -> None:
        """Forget a webhook; what waits for it is not sent."""
        self.store.remove(_checked(webhook_id))

    def test(self, webhook_id: str) -> DeliveryRecord:
        """Send it a message that tells of no job. Raises WebhookOff."""
        return self.store.test(_checked(webhook_id))

    def deliveries(self, webhook_id: str, *, limit: int) -> list[DeliveryRecord]:
        """The newest messages to it, newest first."""
        return self.store.deliveries(_checked(webhook_id), limit=limit)

    def redeliver(self, webhook_id: str, delivery_id: str) -> DeliveryRecord:
        """Send it a message again, or at once if that waits. Raises WebhookOff."""
        return self.store.redeliver(_checked(webhook_id), _checked(delivery_id))

    def _check(self, url: str) -> None:
        if not url.lower().startswith("https:") and not may_be_plain(url, self.private_hosts):
            raise InvalidSpec(
                "A webhook needs an https URL: http is for hosts alone that the operator has named in "
                "MODELFERRY_PRIVATE_HOSTS."
            )

    def _moved(self, webhook_id: str, url: str) -> Callable[[bytes], tuple[str, bytes]]:
        def moved(sealed: bytes) -> tuple[str, bytes]:
            box = Box(url, self._opened(webhook_id, sealed).secret)
            return shown(url), box.closed(self.seal, webhook_id)

        return moved

    def _opened(self, webhook_id: str, sealed: bytes) -> Box:
        try:
            return Box.opened(self.seal, webhook_id, sealed)
        except CredentialsLost as error:
            raise WebhookUnreadable(
                "What is kept of this webhook was sealed with another key: remove it, and make it anew."
            ) from error


def _checked(name: str) -> str:
    if not name.isprintable():
        # Databases disagree on whether such a string may be asked for at all.
        raise NoSuchWebhook("There is no such webhook")
    return name

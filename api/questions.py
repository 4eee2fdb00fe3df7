"""Questions to hubs: hidden jobs that a worker answers while a client waits for them."""

import contextlib
import threading
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import structs

from api.tickets import TicketSender
from common.catalog.registry import Catalog
from common.credentials import credentials_for
from common.errors import (
    CredentialsInvalid,
    CredentialsRefused,
    HubCannotList,
    InvalidSpec,
    JobEnded,
    ModelferryError,
    PluginUnavailable,
    RequestError,
    ServiceUnavailable,
)
from common.planning import inquiry
from common.plugins import HubPlugin, ListPage
from common.records import NOWHERE, JobRecord, Origin
from common.seals import Credentials, Seal
from common.spec import CredentialCheck, JobSpec, Listing
from common.store.jobs import JobStore
from common.tracing import note, step
from common.vocabulary import JobState, Pool

_POLL_S = 0.05
_MOST_AT_ONCE = 8
_MOST_CHECKS = 20
_SHOWN = 80

_WRITTEN = {"huggingface": "HuggingFace"}
"""How clients of the contract know a hub's name to be written, where not just with a capital letter."""
_SHORT = {"huggingface": "hf"}
"""What a hub is called in the codes of a failed credential check, where not by its name."""

_REFUSED = frozenset({"token_invalid", "source_gated", "source_private_or_missing"})
_UNUSABLE = frozenset({"invalid_spec", "invalid_parameters", "source_not_found"})


class ListingFailed(ModelferryError):
    """The hub was asked for its models and has not given a list. `reason` and `reason_code` say why."""

    code = "listing_failed"

    def __init__(self, hub: str, *, reason: str, reason_code: str, hint: str | None) -> None:
        super().__init__(f"Failed to list models from hub '{hub}'")
        self.reason = reason
        self.reason_code = reason_code
        self.hint = hint


class ListingWish(msgspec.Struct, frozen=True, kw_only=True):
    """Which models of which hub a client wants to see, decoded but not yet judged."""

    hub: str
    filters: dict[str, object]
    limit: int
    offset: int
    credentials: dict[str, str]

    def __repr__(self) -> str:
        return f"ListingWish({self.hub})"


class Sealed(msgspec.Struct, frozen=True, kw_only=True):
    """The credentials of one request, ready to be stored."""

    secret_ids: list[str | None]
    """For each of those who brought some: under which id."""
    boxes: dict[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Has workers find something out while the one who asks waits, and leaves nothing of it behind."""

    store: JobStore
    tickets: TicketSender
    waiting: threading.Semaphore = field(default_factory=lambda: threading.BoundedSemaphore(_MOST_AT_ONCE))

    def of(
        self,
        specs: Sequence[JobSpec],
        *,
        tenant: str,
        within_s: float,
        sealed: Mapping[str, bytes] | None = None,
        origin: Origin = NOWHERE,
    ) -> list[JobRecord]:
        """These jobs, when all have ended or nobody wants to wait any more. One that nobody answers has not ended.

        Raises ServiceUnavailable, also where as many wait as may at once.
        """
        # Whoever waits holds a thread, of which the other routes need some too.
        if not self.waiting.acquire(blocking=False):
            raise ServiceUnavailable("As many questions wait for workers as may wait at once. Try again shortly.")
        try:
            with step("job.ask"):
                return self._found(specs, tenant, within_s, sealed, origin)
        finally:
            self.waiting.release()

    def _found(
        self,
        specs: Sequence[JobSpec],
        tenant: str,
        within_s: float,
        sealed: Mapping[str, bytes] | None,
        origin: Origin,
    ) -> list[JobRecord]:
        ids = self.store.add(specs, tenant=tenant, sealed=sealed, origin=origin)
        note(job__ids=ids)
        self.tickets.announce(Pool.DOWNLOAD, len(ids))
        try:
            return self._awaited(ids, within_s)
        finally:
            self._forget(ids)

    def _awaited(self, ids: Sequence[str], within_s: float) -> list[JobRecord]:
        deadline = time.monotonic() + within_s
        records = [self.store.job(job_id) for job_id in ids]
        while any(record.ended_at is None for record in records) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
            records = [record if record.ended_at else self.store.job(record.id) for record in records]
        return records

    def _forget(self, ids: Sequence[str]) -> None:
        """What cannot be removed now is removed as any old job is."""
        for job_id in ids:
            with contextlib.suppress(RequestError, ServiceUnavailable):
                with contextlib.suppress(JobEnded):
                    self.store.cancel(job_id)
                self.store.delete(job_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hubs:
    """What can be asked of hubs beside for models."""

    catalog: Catalog
    answers: Answers
    seal: Seal
    list_s: float = 30.0
    """For so long a client waits for a list."""
    check_s: float = 20.0
    """For so long a client waits until credentials are checked: less than an Idempotency-Key is held for it."""

    def list(self, asked: ListingWish, tenant: str, origin: Origin = NOWHERE) -> ListPage:
        """Some of a hub's models.

        Raises HubCannotList, PluginUnavailable, InvalidSpec, CredentialsRefused, ListingFailed or ServiceUnavailable.
        """
        plugin = self._that_lists(asked.hub)
        _check_filters(asked.filters, plugin.listing_filters or frozenset())
        sealed = self.sealed([(plugin, credentials_for(plugin, asked.credentials))])
        filters = {name: value for name, value in asked.filters.items() if value is not None}
        question = Listing(filters=filters, limit=asked.limit, offset=asked.offset)
        spec = structs.replace(inquiry(plugin, question), secret=sealed.secret_ids[0])
        (record,) = self.answers.of([spec], tenant=tenant, within_s=self.list_s, sealed=sealed.boxes, origin=origin)
        if record.state is not JobState.COMPLETED:
            raise _no_list(plugin, record)
        return msgspec.convert(record.result, ListPage)

    def check(self, asked: Iterable[tuple[HubPlugin[Any], Credentials]], tenant: str, origin: Origin = NOWHERE) -> None:
        """Return if each hub knows these credentials, or the operator's where a request brought none.

        Raises CredentialsInvalid, InvalidSpec or ServiceUnavailable.
        """
        distinct = {_name(hub, given): (hub, given) for hub, given in asked}
        checks = [(hub, given) for hub, given in distinct.values() if _has_something_to_check(hub)]
        if len(checks) > _MOST_CHECKS:
            raise InvalidSpec(f"At most {_MOST_CHECKS} different credentials can be checked at once.")
        if not checks:
            return
        sealed = self.sealed(checks)
        specs = [
            structs.replace(inquiry(hub, CredentialCheck()), secret=secret_id)
            for (hub, _), secret_id in zip(checks, sealed.secret_ids, strict=True)
        ]
        answers = self.answers.of(specs, tenant=tenant, within_s=self.check_s, sealed=sealed.boxes, origin=origin)
        for record in answers:
            if record.state is not JobState.COMPLETED:
                raise _not_valid(record)

    def sealed(self, given: Sequence[tuple[HubPlugin[Any], Credentials]]) -> Sealed:
        """Credentials under ids that are nobody else's: one for all that is equal. Raises ServiceUnavailable."""
        secret_ids: dict[tuple[str, bytes], str] = {}
        boxes = {}
        for hub, credentials in given:
            if credentials and _name(hub, credentials) not in secret_ids:
                secret_id = secret_ids[_name(hub, credentials)] = str(uuid.uuid4())
                boxes[secret_id] = self.seal.close(secret_id, credentials)
        return Sealed(secret_ids=[secret_ids.get(_name(*one)) for one in given], boxes=boxes)

    def _that_lists(self, name: str) -> HubPlugin[Any]:
        plugin = self.catalog.hubs.get(name) or self.catalog.disabled_hubs.get(name)
        if plugin is not None and plugin.listing_filters is None:
            raise HubCannotList(f"Hub '{plugin.name}' does not support listing models")
        if plugin is None or name not in self.catalog.hubs:
            active = ", ".join(sorted(self.catalog.hubs))
            raise PluginUnavailable(
                f"Hub '{name[:_SHOWN]}' was not activated during container startup. Active hubs: {active}."
            )
        return plugin


def _name(hub: HubPlugin[Any], credentials: Credentials) -> tuple[str, bytes]:
    """What equal credentials for one hub have in common."""
    return hub.name, msgspec.json.encode(credentials, order="deterministic")


def _check_filters(given: Mapping[str, object], allowed: frozenset[str]) -> None:
    unknown = sorted(given.keys() - allowed)
    if unknown:
        named = ", ".join(name[:_SHOWN] for name in unknown[:10])
        raise InvalidSpec(f"Unsupported filter(s): {named}. Allowed filter(s): {', '.join(sorted(allowed)) or 'none'}.")


def _no_list(hub: HubPlugin[Any], record: JobRecord) -> ModelferryError:
    if record.state is not JobState.FAILED:
        return _unanswered()
    if record.error_code in _REFUSED:
        written = _WRITTEN.get(hub.name, hub.name[:1].upper() + hub.name[1:])
        return CredentialsRefused(f"{written} credentials are missing or invalid.")
    if record.error_code in _UNUSABLE:
        return InvalidSpec(record.error or "The hub cannot be asked in this way.")
    return ListingFailed(
        hub.name,
        reason=record.error or "The hub has not said why.",
        reason_code=record.error_code or "internal",
        hint=record.hint,
    )


def _has_something_to_check(hub: HubPlugin[Any]) -> bool:
    """Whether the hub can be asked. Raises InvalidSpec where there are credentials and it cannot."""
    if hub.checks_credentials:
        return True
    if hub.secrets:
        raise InvalidSpec(f"Hub '{hub.name}' cannot check credentials. Leave 'validate_credentials' out.")
    return False


def _not_valid(record: JobRecord) -> ModelferryError:
    if record.state is not JobState.FAILED:
        return _unanswered()
    hub = record.spec.source.hub
    kind = "auth" if record.error_code in _REFUSED else "connectivity"
    return CredentialsInvalid(f"Credential validation failed [{_SHORT.get(hub, hub)}_{kind}]: {record.error}")


def _unanswered() -> ServiceUnavailable:
    return ServiceUnavailable(
        "No download worker has answered in time: none is free, or the hub wants to be left alone for a while. "
        "Nothing was stored. Try again shortly."
    )

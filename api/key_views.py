"""What of API keys and callers a client sees."""

from collections.abc import Iterable
from datetime import datetime

from msgspec import UNSET, UnsetType

from api.wire.access import KeyPage, KeyView, WhoView
from common.access import ApiKey, Caller
from common.vocabulary import Role


def key_view(key: ApiKey, text: str | None = None) -> KeyView:
    """A key; with its text in the answer that has made it."""
    return KeyView(
        id=key.id,
        name=key.name,
        role=key.role,
        created_at=key.created_at.isoformat(),
        tenant=key.tenant or UNSET,
        expires_at=_moment(key.expires_at),
        revoked_at=_moment(key.revoked_at),
        used_at=_moment(key.used_at),
        former_until=_moment(key.former_until),
        key=text or UNSET,
    )


def key_page(keys: Iterable[ApiKey]) -> KeyPage:
    """Every key."""
    return KeyPage(keys=[key_view(key) for key in keys])


def who_view(caller: Caller) -> WhoView:
    """A caller whom the door has let in: one that has a role."""
    return WhoView(
        name=caller.name,
        way=caller.way,
        role=caller.role or Role.VIEWER,
        tenant=caller.tenant or UNSET,
        key_id=caller.key_id or UNSET,
    )


def _moment(at: datetime | None) -> str | UnsetType:
    return UNSET if at is None else at.isoformat()

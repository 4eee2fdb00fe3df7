"""What is seen of API keys and callers. See docs/access.md."""

from msgspec import UNSET, UnsetType

from api.wire import View
from common.access import Way
from common.vocabulary import Role


class WhoView(View, frozen=True):
    """Who the caller is to the service."""

    name: str
    way: Way
    """How it was recognised."""
    role: Role
    tenant: str | UnsetType = UNSET
    """On whose turn its jobs are, whatever its requests say. Without one, each request may say."""
    key_id: str | UnsetType = UNSET
    """Of the API key, where it is one."""


class KeyView(View, frozen=True):
    """An API key, which is shown itself only in the answer that has made it."""

    id: str
    """The part of the key that may be shown: `mf_<id>_<secret>`."""
    name: str
    role: Role
    created_at: str
    tenant: str | UnsetType = UNSET
    """On whose turn its holder's jobs are."""
    expires_at: str | UnsetType = UNSET
    revoked_at: str | UnsetType = UNSET
    used_at: str | UnsetType = UNSET
    """The last use, give or take a minute."""
    former_until: str | UnsetType = UNSET
    """Until then the secret before the present one lets in too."""
    key: str | UnsetType = UNSET
    """What its holder sends. Only in the answer that has made it."""


class KeyPage(View, frozen=True):
    """Every API key, oldest first, also those that let nobody in any more."""

    keys: list[KeyView]

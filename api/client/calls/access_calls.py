"""What is asked of API keys, and who the caller is."""

from api.client.call import Call, as_view, check, json_body, path_of
from api.wire.access import KeyPage, KeyView, WhoView
from common.vocabulary import Role


def whoami() -> Call[WhoView]:
    """Who this client is to the service."""
    return Call(method="GET", path="whoami", read=as_view(WhoView))


def keys() -> Call[KeyPage]:
    """Every API key, oldest first, also those that let nobody in any more."""
    return Call(method="GET", path="keys", read=as_view(KeyPage))


def key(key_id: str) -> Call[KeyView]:
    """One API key, without its secret."""
    return Call(method="GET", path=path_of("keys", key_id), read=as_view(KeyView))


def add_key(
    name: str, role: Role | str, *, tenant: str | None = None, expires_in_days: int | None = None
) -> Call[KeyView]:
    """Make an API key. Only this answer holds it."""
    said = {"name": name, "role": str(role), "tenant": tenant, "expires_in_days": expires_in_days}
    body = json_body({name: value for name, value in said.items() if value is not None})
    return Call(method="POST", path="keys", body=body, read=as_view(KeyView))


def rotate_key(key_id: str, *, former_lasts_hours: int | None = None) -> Call[KeyView]:
    """A new secret, which only this answer holds. The former one lets in too for so long, or for a day."""
    body = None if former_lasts_hours is None else json_body({"former_lasts_hours": former_lasts_hours})
    return Call(method="POST", path=path_of("keys", key_id, "rotate"), body=body, read=as_view(KeyView))


def revoke_key(key_id: str) -> Call[None]:
    """Let the holder of an API key in no more."""
    return Call(method="DELETE", path=path_of("keys", key_id), read=check)

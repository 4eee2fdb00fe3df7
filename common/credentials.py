"""Which credentials a request may bring for a hub, and where the hub looks for them. Pure."""

from collections.abc import Mapping
from typing import Any

from common.errors import InvalidSpec
from common.plugins import ConfigKey, HubPlugin
from common.seals import Credentials

_MOST_CHARS = 8192
_SHOWN = 80


def credentials_for(hub: HubPlugin[Any], given: Mapping[str, str]) -> Credentials:
    """What a request brings for this hub, as the hub will find it. Raises InvalidSpec, which repeats no value."""
    keys = {key.name: key for key in hub.config_keys}
    unknown = sorted(given.keys() - keys.keys())
    if unknown:
        allowed = ", ".join(sorted(keys)) or "none"
        named = unknown[0][:_SHOWN]
        raise InvalidSpec(f"Unknown override key '{named}' for hub '{hub.name}'. Allowed keys: {allowed}.")
    for name in sorted(given):
        _check_credential(keys[name], given[name])
    _check_groups(hub, given)
    secrets = {name: value for name, value in given.items() if name in hub.secrets}
    # What the operator allows stays beside what narrows it: a request can only ask for less.
    settings = {
        f"REQUESTED_{name}" if keys[name].narrows else name: value
        for name, value in given.items()
        if name not in hub.secrets
    }
    return Credentials(settings=settings, secrets=secrets)


def _check_credential(key: ConfigKey, value: str) -> None:
    if len(value) > _MOST_CHARS:
        raise InvalidSpec(f"The value of override key '{key.name}' is longer than {_MOST_CHARS} characters.")
    if not value:
        raise InvalidSpec(f"The value of override key '{key.name}' is empty. Leave it out to use the service's own.")
    # It becomes part of a header, where a line break would begin another one.
    if not value.isprintable() or (key.sensitive and not value.isascii()):
        raise InvalidSpec(
            f"The value of override key '{key.name}' holds a control character, such as a line break at its end, "
            f"or one that no credential has."
        )


def _check_groups(hub: HubPlugin[Any], given: Mapping[str, str]) -> None:
    """Who names another server brings the token for it: the operator's own is not sent there."""
    groups = {key.group for key in hub.config_keys if key.group and key.name in given}
    lacking = sorted(key.name for key in hub.config_keys if key.group in groups and key.name not in given)
    if lacking:
        raise InvalidSpec(
            f"When overriding '{hub.name}' credentials, '{lacking[0]}' must also be provided in the request."
        )

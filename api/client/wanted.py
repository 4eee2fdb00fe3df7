"""What a client asks for."""

import msgspec

from common.vocabulary import ModelType, Priority


class WantedModel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One model of a submission."""

    name: str
    hub: str
    type: ModelType | str | None = None
    is_ovms: bool = False
    revision: str | None = None
    priority: Priority | None = None
    config: dict[str, object] | None = None
    override_credentials: dict[str, str] | None = None
    """Credentials for this job alone: key -> value in base64. `plugins` tells which keys a hub knows."""
    validate_credentials: bool = False
    target: str | None = None

    def __repr__(self) -> str:
        # Without what else it may hold: credentials must not get into a log.
        return f"WantedModel(name={self.name!r}, hub={self.hub!r})"

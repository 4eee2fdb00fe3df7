"""What may be asked of hub `remote-url`: an archive at an address that the operator allows."""

import msgspec

from common.addresses import without_login
from common.plugins import ConfigKey, HubPlugin
from common.spec import Spec
from common.vocabulary import Format


class RemoteUrlOptions(Spec, frozen=True):
    """Where the archive is."""

    url: str | None = None
    """`{name}` stands for the model's name."""
    sha256: str | None = None
    """What the archive must hash to."""
    extra: dict[str, object] = {}
    """What a client sent that a download has no use for."""

    def __post_init__(self) -> None:
        # The hub refuses such an address, and the job that it fails shows it: without the password.
        if self.url is not None:
            msgspec.structs.force_setattr(self, "url", without_login(self.url))


REMOTE_URL = HubPlugin(
    name="remote-url",
    description="Downloads and unpacks an archive from an address that the operator allows.",
    options=RemoteUrlOptions,
    formats=frozenset({Format.ARCHIVE}),
    implementation="worker.hubs.remote_url:RemoteUrlHub",
    name_pattern=r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}",
    settings=frozenset({"EXTERNAL_SOURCES_URL_ALLOWLIST", "MODELFERRY_MAX_UNPACKED_MB"}),
    config_keys=(
        ConfigKey(
            name="EXTERNAL_SOURCES_URL_ALLOWLIST",
            description="`host/path/` prefixes, with commas, that this request may fetch from; narrows the operator's.",
            sensitive=False,
            narrows=True,
        ),
    ),
    shows_folder=True,
)

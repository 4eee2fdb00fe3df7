"""What every stage function is given."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from common.artefacts.manifest import Artefact, ArtefactStore
from common.catalog.registry import Catalog
from common.clock import Clock
from common.errors import ContentLost
from common.plugins import Access, Converter, Hub, NetworkRules, Policy
from common.seals import NOTHING, Credentials
from common.spec import Source
from worker.attempt import StageAttempt

_TRUST = "MODELFERRY_TRUST_REMOTE_CODE"
_PICKLES = "MODELFERRY_ALLOW_PICKLE"
_PULL = "MODELFERRY_PULL"
_KEEP_FP16 = "MODELFERRY_KEEP_FP16"
_PROFILES = "MODELFERRY_PROFILES"
_PRIVATE_HOSTS = "MODELFERRY_PRIVATE_HOSTS"
_PROXIES = "MODELFERRY_PROXIES"
_CA_BUNDLES = "MODELFERRY_CA_BUNDLES"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """The stores, the plugins and the attempt of one stage."""

    catalog: Catalog
    store: ArtefactStore
    attempt: StageAttempt
    settings: dict[str, str]
    secrets: dict[str, str]
    now: Clock
    given: Credentials = NOTHING
    """What the request brought for the hub. It goes before the operator's own, and to no converter."""
    heard: Callable[[int | None], None] | None = None
    """Is told of each answer of a hub; see `plugins.NetworkRules`."""
    confined: bool = True
    """Whether code and pickles of a stranger could do no harm here; where they could, nothing allows them."""

    def hub(self, name: str) -> Hub[Any]:
        """The hub, with the access its descriptor names."""
        plugin, given = self.catalog.hub(name), self.given
        rules = network_of(plugin.origin or plugin.name, self.settings)
        network = msgspec.structs.replace(rules, heard=self.heard)
        own = self._access(plugin.settings, plugin.secrets, network)
        access = msgspec.structs.replace(
            own,
            settings=own.settings | given.settings,
            secrets=own.secrets | given.secrets,
            given=frozenset({*given.settings, *given.secrets}),
        )
        return plugin.load(access)

    @property
    def pulls(self) -> bool:
        """Whether the operator wants models that are ready-made taken instead of converted."""
        return self.settings.get(_PULL) == "on"

    @property
    def keeps_bases(self) -> bool:
        """Whether the operator wants a form kept of which other forms can be made without the source."""
        return self.settings.get(_KEEP_FP16) == "on"

    def policy(self, source: Source, revision: str) -> Policy:
        """What the operator allows a conversion of this source at this commit."""
        return Policy(
            code=self.confined and allows(self.settings.get(_TRUST, ""), source, revision),
            pickles=self.confined and allows(self.settings.get(_PICKLES, ""), source, revision),
            profiles=tuple(sorted(json.loads(self.settings.get(_PROFILES) or "{}"))),
        )

    def converter(self, name: str, source: Source, revision: str) -> Converter[Any]:
        """The converter, with the access its descriptor names, for a model of this source."""
        plugin = self.catalog.converter(name)
        access = self._access(plugin.settings, frozenset())
        # A converter needs to know no names: it is told whether this very model is allowed.
        for setting in {_TRUST, _PICKLES} & access.settings.keys():
            allowed = self.confined and allows(access.settings[setting], source, revision)
            access.settings[setting] = "*" if allowed else ""
        return plugin.load(access)

    def artefact(self, artefact_id: str | None) -> Artefact:
        """What the stage before left. Raises ContentLost."""
        found = self.store.load(artefact_id) if artefact_id else None
        if found is None:
            raise ContentLost(f"The content of artefact {artefact_id} is not in the store any more")
        return found

    def _access(self, settings: frozenset[str], secrets: frozenset[str], network: NetworkRules | None = None) -> Access:
        return Access(
            network=network or NetworkRules(),
            settings={name: value for name, value in self.settings.items() if name in settings},
            secrets={name: value for name, value in self.secrets.items() if name in secrets},
        )


def network_of(hub: str, settings: Mapping[str, str]) -> NetworkRules:
    """How the operator lets this hub be reached."""
    proxies: dict[str, str] = json.loads(settings.get(_PROXIES) or "{}")
    bundles: dict[str, str] = json.loads(settings.get(_CA_BUNDLES) or "{}")
    hosts = (host.strip().lower() for host in settings.get(_PRIVATE_HOSTS, "").split(","))
    return NetworkRules(
        proxy=proxies.get(hub) or None,
        ca_bundle=bundles.get(hub) or settings.get("REQUESTS_CA_BUNDLE") or None,
        private_hosts=frozenset(filter(None, hosts)),
    )


def allows(listed: str, source: Source, revision: str) -> bool:
    """Whether a list of the operator names this very repository, at this very commit where it names commits."""
    named = {entry.strip() for entry in listed.split(",")}
    return bool(named & {"*", source.name, f"{source.name}@{revision}"})

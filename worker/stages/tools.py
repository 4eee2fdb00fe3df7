"""What every stage function is given."""

from dataclasses import dataclass
from typing import Any

from common.artefacts.manifest import Artefact, ArtefactStore
from common.catalog.registry import Catalog
from common.clock import Clock
from common.errors import ContentLost
from common.plugins import Access, Converter, Hub
from common.spec import Source
from worker.attempt import StageAttempt

_TRUST = "MODELFERRY_TRUST_REMOTE_CODE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """The stores, the plugins and the attempt of one stage."""

    catalog: Catalog
    store: ArtefactStore
    attempt: StageAttempt
    settings: dict[str, str]
    secrets: dict[str, str]
    now: Clock

    def hub(self, name: str) -> Hub[Any]:
        """The hub, with the access its descriptor names."""
        plugin = self.catalog.hub(name)
        return plugin.load(self._access(plugin.settings, plugin.secrets))

    def converter(self, name: str, source: Source) -> Converter[Any]:
        """The converter, with the access its descriptor names, for a model of this source."""
        plugin = self.catalog.converter(name)
        access = self._access(plugin.settings, frozenset())
        if _TRUST in access.settings:
            access.settings[_TRUST] = trusts(access.settings[_TRUST], source)
        return plugin.load(access)

    def artefact(self, artefact_id: str | None) -> Artefact:
        """What the stage before left. Raises ContentLost."""
        found = self.store.load(artefact_id) if artefact_id else None
        if found is None:
            raise ContentLost(f"The content of artefact {artefact_id} is not in the store any more")
        return found

    def _access(self, settings: frozenset[str], secrets: frozenset[str]) -> Access:
        return Access(
            settings={name: value for name, value in self.settings.items() if name in settings},
            secrets={name: value for name, value in self.secrets.items() if name in secrets},
        )


def trusts(listed: str, source: Source) -> str:
    """`*` where the operator trusts this very repository's code, else nothing: a converter needs to know no names."""
    trusted = {name.strip() for name in listed.split(",")}
    return "*" if trusted & {"*", source.name} else ""

"""The catalog: every installed plugin, found once through entry points, and which of them are enabled."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoints, entry_points
from typing import Any, Literal, TypeVar

from common.errors import PluginUnavailable
from common.plugins import ConverterPlugin, HubPlugin

log = logging.getLogger(__name__)

HUBS = "modelferry.hubs"
CONVERTERS = "modelferry.converters"

_ALL = "all"

P = TypeVar("P", HubPlugin[Any], ConverterPlugin[Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginEntry:
    """One line of the catalog. `reason` says why the plugin is not available."""

    name: str
    kind: Literal["downloader", "converter"]
    plugin: HubPlugin[Any] | ConverterPlugin[Any]
    available: bool
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """The enabled plugins by name, and the names of those that are installed but not enabled."""

    hubs: Mapping[str, HubPlugin[Any]]
    converters: Mapping[str, ConverterPlugin[Any]]
    disabled_hubs: Mapping[str, HubPlugin[Any]]
    disabled_converters: Mapping[str, ConverterPlugin[Any]]

    @staticmethod
    def installed(enabled: str) -> "Catalog":
        """Read the entry points. `enabled` is `all`, or names with commas, or both: what is opt-in has to be named.

        Raises PluginUnavailable for a name that is not installed, or that cannot be imported: an operator who asked
        for a plugin must not silently get less. A broken plugin that nobody asked for is left out.
        """
        hubs, converters = entry_points(group=HUBS), entry_points(group=CONVERTERS)
        wanted = _wanted(enabled, {point.name for point in (*hubs, *converters)})
        offered_hubs, other_hubs = _load(hubs, HubPlugin, wanted)
        offered_converters, other_converters = _load(converters, ConverterPlugin, wanted)
        return Catalog(
            hubs=offered_hubs,
            converters=offered_converters,
            disabled_hubs=other_hubs,
            disabled_converters=other_converters,
        )

    def hub(self, name: str) -> HubPlugin[Any]:
        """The hub of this name. Raises PluginUnavailable with the reason a client reads."""
        if name in self.hubs:
            return self.hubs[name]
        raise PluginUnavailable(f"Plugin '{name}' is not available: {self._reason(name, self.disabled_hubs)}")

    def converter(self, name: str) -> ConverterPlugin[Any]:
        """The converter of this name. Raises PluginUnavailable with the reason a client reads."""
        if name in self.converters:
            return self.converters[name]
        raise PluginUnavailable(self._reason(name, self.disabled_converters))

    def entries(self) -> list[PluginEntry]:
        """Every installed plugin, hubs first, each group by name."""
        return [
            *self._listed("downloader", self.hubs, self.disabled_hubs),
            *self._listed("converter", self.converters, self.disabled_converters),
        ]

    def _listed(
        self,
        kind: Literal["downloader", "converter"],
        enabled: Mapping[str, HubPlugin[Any]] | Mapping[str, ConverterPlugin[Any]],
        disabled: Mapping[str, HubPlugin[Any]] | Mapping[str, ConverterPlugin[Any]],
    ) -> list[PluginEntry]:
        lines = [PluginEntry(name=name, kind=kind, plugin=plugin, available=True) for name, plugin in enabled.items()]
        lines += [
            PluginEntry(name=name, kind=kind, plugin=plugin, available=False, reason=self._reason(name, disabled))
            for name, plugin in disabled.items()
        ]
        return sorted(lines, key=lambda line: line.name)

    def _reason(self, name: str, disabled: Mapping[str, object]) -> str:
        if name not in disabled:
            return f"No plugin registered for hub '{name}'"
        active = ", ".join(sorted(self.hubs.keys() | self.converters.keys()))
        return f"Hub '{name}' was not activated during container startup. Active hubs: {active}."


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What an operator has asked for."""

    named: frozenset[str]
    everything: bool

    def covers(self, name: str, *, opt_in: bool = False) -> bool:
        return name in self.named or (self.everything and not opt_in)


def _wanted(enabled: str, installed: set[str]) -> _Wanted:
    names = {name.strip().lower() for name in enabled.split(",") if name.strip()}
    unknown = sorted(names - installed - {_ALL})
    if unknown:
        raise PluginUnavailable(
            f"ENABLED_PLUGINS names '{unknown[0]}', which is not installed. Installed: {', '.join(sorted(installed))}"
        )
    return _Wanted(named=frozenset(names - {_ALL}), everything=_ALL in names)


def _load(points: EntryPoints, kind: type[P], wanted: _Wanted) -> tuple[dict[str, P], dict[str, P]]:
    """The descriptors of the enabled plugins by name, and those of the others."""
    enabled: dict[str, P] = {}
    others: dict[str, P] = {}
    for point in sorted(points, key=lambda point: point.name):
        try:
            plugin = point.load()
        except Exception as error:
            if wanted.covers(point.name):
                raise PluginUnavailable(f"Plugin '{point.name}' cannot be imported: {error!r}") from error
            log.warning("plugin.broken", extra={"plugin": point.name, "reason": repr(error)})
            continue
        if not isinstance(plugin, kind) or plugin.name != point.name:
            raise PluginUnavailable(f"Entry point '{point.value}' is not the plugin '{point.name}'")
        if plugin.name in enabled or plugin.name in others:
            raise PluginUnavailable(f"Two installed packages have a plugin '{plugin.name}': uninstall one of them")
        (enabled if wanted.covers(plugin.name, opt_in=plugin.opt_in) else others)[plugin.name] = plugin
    return enabled, others

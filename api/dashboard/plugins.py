"""The page of the plugins: what may be asked for here, with which options, and how the hubs fare."""

from collections.abc import Mapping
from typing import Any

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from msgspec import UNSET

from api.dashboard.pages import Pages
from api.usecases import Jobs, Limits
from api.views import limit_page, plugin_page
from api.wire import HubView, PluginView

_LARGEST = 2**31 - 1


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """An option of a converter, as a person reads it."""

    name: str
    kind: str
    default: str
    description: str
    part: str
    required: bool = False


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """A plugin, with its options in the order of their names."""

    plugin: PluginView
    options: list[Option]


@get("/ui/plugins", sync_to_thread=True)
def plugins_page(
    pages: NamedDependency[Pages], jobs: NamedDependency[Jobs], limits: NamedDependency[Limits]
) -> Response[str]:
    """Hubs, how they fare, and converters."""
    page = plugin_page(jobs.catalog.entries())
    groups = page.available_plugins
    fares = {hub.name: hub for hub in limit_page(limits.limits(), limits.hubs()).hubs}
    return pages.page(
        "plugins.html",
        active="plugins",
        page=page,
        hubs=[] if groups.downloader is UNSET else groups.downloader,
        fares=fares,
        resting=[hub for hub in fares.values() if _rests(hub)],
        converters=[offer(plugin) for plugin in ([] if groups.converter is UNSET else groups.converter)],
    )


def offer(plugin: PluginView) -> Offer:
    """A converter with what its schema says, one line for an option and one for each of its parts."""
    properties: Mapping[str, Any] = {} if plugin.options is UNSET else plugin.options.get("properties", {})  # type: ignore[assignment]  # it is a schema of an object
    lines = [line for name, schema in sorted(properties.items()) for line in _lines(name, schema, schema["x-part"])]
    return Offer(plugin=plugin, options=lines)


def _lines(name: str, schema: Mapping[str, Any], part: str, *, required: bool = False) -> list[Option]:
    own = Option(
        name=name,
        kind=_kind(schema),
        default=_value(schema["default"]) if "default" in schema else "",
        description=schema.get("description", ""),
        part=part,
        required=required,
    )
    inner = [
        line
        for key, within in schema.get("properties", {}).items()
        for line in _lines(f"{name}.{key}", within, part, required=key in schema.get("required", ()))
    ]
    return [own, *inner]


def _kind(schema: Mapping[str, Any]) -> str:
    """What values there may be, in words."""
    if "enum" in schema:
        return ", ".join(_value(value) for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(variant) for variant in schema["anyOf"]))
    kind = str(schema.get("type", "any"))
    if kind == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    return f"{kind} {bounds}" if (bounds := _bounds(schema)) else kind


def _bounds(schema: Mapping[str, Any]) -> str:
    words = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    said = {name: schema[name] for name in words if name in schema}
    # No more than what a number may be at all: that says nothing to a person.
    told = {name: value for name, value in said.items() if abs(value) < _LARGEST}
    return " ".join(f"{words[name]} {_value(value)}" for name, value in told.items())


def _value(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _rests(hub: HubView) -> bool:
    return hub.resumes_at is not UNSET

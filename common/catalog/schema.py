"""Describes the options of a converter as one JSON schema, from the very types that requests are read with."""

import ast
import functools
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import msgspec

from common.plugins import ConverterPlugin

Schema = dict[str, Any]

CONVERSION = "conversion"
SERVING = "serving"


def config_schema(converter: ConverterPlugin[Any]) -> Schema:
    """The options that a request's config may hold, by name. `x-part` of each tells `conversion` from `serving`.

    Options that only the service itself fills in are left out.
    """
    parts: dict[str, type[msgspec.Struct]] = {CONVERSION: converter.options, SERVING: converter.serving}
    properties = {
        name: described | {"x-part": part}
        for part, options in parts.items()
        for name, described in properties_of(options).items()
        if not described.get("readOnly")
    }
    return {"type": "object", "properties": properties}


@functools.cache
def properties_of(options: type[msgspec.Struct]) -> Mapping[str, Schema]:
    """Name -> JSON schema of each field, with the text that stands below it in the source as its description."""
    (root,), definitions = msgspec.json.schema_components([options], ref_template="{name}")
    texts = _texts(options)
    inner = {nested.__name__: nested for field in msgspec.structs.fields(options) for nested in _structs(field.type)}
    properties: dict[str, Schema] = {}
    for name, described in definitions[root["$ref"]]["properties"].items():
        properties[name] = _plain(described)
        nested = properties[name].pop("$ref", None)
        if nested is not None:
            required = definitions[nested]["required"]
            within = {"type": "object", "properties": properties_of(inner[nested]), "additionalProperties": False}
            properties[name] |= within | ({"required": required} if required else {})
        if name in texts:
            properties[name]["description"] = texts[name]
    return properties


def _structs(annotation: object) -> Iterator[type[msgspec.Struct]]:
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        yield annotation
    for part in get_args(annotation):
        yield from _structs(part)


def _plain(schema: Schema) -> Schema:
    """Without null, which only means that nothing is said."""
    said = {name: value for name, value in schema.items() if name != "default" or value is not None}
    variants = [variant for variant in said.pop("anyOf", []) if variant != {"type": "null"}]
    if len(variants) == 1:
        said = variants[0] | said
    elif variants:
        said["anyOf"] = variants
    if "enum" in said:
        said["enum"] = [value for value in said["enum"] if value is not None]
    return said


def _texts(options: type[msgspec.Struct]) -> dict[str, str]:
    """Field -> the text below it. The source is at hand wherever Python runs it."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(options))).body
    if not isinstance(node, ast.ClassDef):
        return {}
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in zip(node.body, node.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }

"""The reference of the API as Markdown, from the OpenAPI document of the application itself."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from api import wire
from api.app import create_app
from common.settings import Settings
from scripts.site.docstrings import texts_below_fields
from scripts.site.tables import code, plain, table

Schema = Mapping[str, Any]

ADDRESS = "http://127.0.0.1:8200"
_METHODS = ("get", "put", "post", "patch", "delete")
_DEEPEST = 4
_UNTAGGED = "other"
_EVENTS = "text/event-stream"


@cache
def document() -> Schema:
    """What `GET /openapi.json` answers. Nothing is started and nobody is asked for it."""
    with tempfile.TemporaryDirectory() as folder:
        found: Schema = create_app(Settings(models_dir=Path(folder))).openapi_schema.to_schema()
    return found


def api_reference() -> str:
    """All operations by their tags, then all objects that they name."""
    groups: dict[str, list[str]] = {}
    for path, item in document()["paths"].items():
        for method in _METHODS:
            if method in item:
                operation = item[method]
                tag = next(iter(operation.get("tags") or ()), _UNTAGGED)
                groups.setdefault(tag, []).append(_operation(method.upper(), path, operation))
    parts = [f"## {tag.capitalize()}\n\n" + "\n".join(operations) for tag, operations in sorted(groups.items())]
    objects = document()["components"]["schemas"]
    return "\n".join([*parts, "## Objects\n", *(_object(name, objects[name]) for name in sorted(objects))])


def _operation(method: str, path: str, operation: Schema) -> str:
    body = _body(operation)
    parts = [
        f"### {method} {path} {{ #{operation['operationId']} }}\n",
        _sentences(operation),
        _parameters(operation.get("parameters") or ()),
        _request(*body) if body else "",
        _responses(operation["responses"]),
        f"```sh\n{_curl(method, path, operation, body)}\n```\n",
    ]
    return "\n".join(filter(None, parts))


def _sentences(operation: Schema) -> str:
    summary, description = operation.get("summary", ""), operation.get("description", "")
    said = [f"{summary.rstrip('.')}.", description] if summary != description else [description]
    return plain("\n\n".join(filter(None, said))) + "\n"


def _parameters(parameters: Any) -> str:
    rows = (
        (
            code(one["name"]),
            f"{one['in']}{', required' if one.get('required') else ''}",
            _type(one.get("schema", {})) + _default(one.get("schema", {})),
            plain(one.get("description", "")),
        )
        for one in parameters
    )
    return table(("parameter", "in", "type", "meaning"), rows) if parameters else ""


def _body(operation: Schema) -> tuple[str, Schema] | None:
    """Media type and schema of what is sent."""
    content = (operation.get("requestBody") or {}).get("content") or {}
    return next(((media, one.get("schema", {})) for media, one in content.items()), None)


def _request(media: str, schema: Schema) -> str:
    """A table of the body's keys, and one for each object in it."""
    tables = [
        (f"The body, as `{media}`:" if not way else f"In `{way}`:") + f"\n\n{_keys(inner)}"
        for way, inner in _objects(schema)
    ]
    return "\n".join(tables) if tables else f"The body is {_type(schema)}, as `{media}`.\n"


def _objects(schema: Schema, way: str = "", depth: int = 0) -> Iterator[tuple[str, Schema]]:
    """The object that is sent, and those in it, each with the way that leads to it."""
    known = _object_in(schema)
    if not known.get("properties") or depth > _DEEPEST:
        return
    yield way, known
    for name, field in known["properties"].items():
        inner, suffix = _inner(field)
        if inner is not None:
            yield from _objects(inner, f"{way}.{name}{suffix}".removeprefix("."), depth + 1)


def _keys(schema: Schema) -> str:
    required = schema.get("required", ())
    rows = (
        (
            code(name),
            f"{_type(field)}{', required' if name in required else ''}{_default(field)}",
            plain(_meaning(field)),
        )
        for name, field in schema["properties"].items()
    )
    return table(("key", "type", "meaning"), rows)


def _object_in(schema: Schema) -> Schema:
    """The object that a schema is, or refers to, or may be beside null."""
    if "$ref" in schema:
        return _object_in(_referred(schema))
    for choice in schema.get("anyOf") or schema.get("oneOf") or ():
        found = _object_in(choice)
        if found.get("properties"):
            return found
    return schema


def _inner(field: Schema) -> tuple[Schema | None, str]:
    """The object below a key, and what stands between: nothing, or the sign of a list."""
    for choice in (field, *(field.get("anyOf") or field.get("oneOf") or ())):
        if "items" in choice and _object_in(choice["items"]).get("properties"):
            return choice["items"], "[]"
    found = _object_in(field)
    return (found, "") if found.get("properties") else (None, "")


def _meaning(field: Schema) -> str:
    if "description" in field:
        return str(field["description"])
    choices = field.get("anyOf") or field.get("oneOf") or ()
    return next((str(choice["description"]) for choice in choices if "description" in choice), "")


def _responses(responses: Schema) -> str:
    rows = (
        (code(status), _answered(response), plain(response.get("description", "")))
        for status, response in sorted(responses.items())
    )
    return table(("status", "answer", "meaning"), rows)


def _answered(response: Schema) -> str:
    content = response.get("content") or {}
    said = [
        _type(one.get("schema", {})) if media == "application/json" else code(media) for media, one in content.items()
    ]
    return " or ".join(said) or "no body"


def _object(name: str, schema: Schema) -> str:
    required, texts = schema.get("required", ()), _texts_of_views().get(name, {})
    rows = [
        (
            code(key),
            _type(field) + ("" if key in required else ", may be absent") + _default(field),
            plain(_meaning(field) or texts.get(key, "")),
        )
        for key, field in schema.get("properties", {}).items()
    ]
    told = plain(schema.get("description", ""))
    shape = table(("key", "type", "meaning"), rows) if rows else f"{_type(schema)}\n"
    return f"### {name} {{ #{_anchor(name)} }}\n\n{told}\n\n{shape}"


@cache
def _texts_of_views() -> dict[str, dict[str, str]]:
    """View -> field -> its text: the document of the application has those of views, and not those of their fields."""
    found: dict[str, dict[str, str]] = {}
    for file in sorted(Path(wire.__file__).parent.glob("*.py")):
        found |= texts_below_fields(file)
    return found


def _type(schema: Schema) -> str:  # noqa: PLR0911 - one line for each form of a schema
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{_anchor(name)})"
    if "enum" in schema:
        return ", ".join(map(code, schema["enum"]))
    if "const" in schema:
        return code(schema["const"])
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        return " or ".join(dict.fromkeys(map(_type, choices)))
    kind = schema.get("type", "anything")
    if isinstance(kind, list):
        return " or ".join(_type({**schema, "type": one}) for one in kind)
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), Mapping) and not schema.get("properties"):
        return f"object of {_type(schema['additionalProperties'])}"
    words = {"integer": "whole number", "string": "text", "array": "list"}
    return f"{words.get(kind, kind)}{_bounds(schema)}"


def _bounds(schema: Schema) -> str:
    words = {"minimum": "at least", "maximum": "at most", "exclusiveMinimum": "more than"}
    said = [f"{text} {schema[key]}" for key, text in words.items() if key in schema]
    if schema.get("format"):
        said.append(str(schema["format"]))
    return f" ({', '.join(said)})" if said else ""


def _default(schema: Schema) -> str:
    if schema.get("default") in (None, "", [], {}):
        return ""
    return f", default {code(json.dumps(schema['default']))}"


def _referred(schema: Schema) -> Schema:
    found: Schema = document()["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return found


def _anchor(name: str) -> str:
    return f"object-{name.lower()}"


def _curl(method: str, path: str, operation: Schema, body: tuple[str, Schema] | None) -> str:
    """A call that has everything that is required, and nothing else."""
    parameters = [one for one in operation.get("parameters") or () if one.get("required")]
    for one in parameters:
        if one["in"] == "path":
            path = path.replace(f"{{{one['name']}}}", str(_example(one.get("schema", {}), one["name"])))
    asked = {one["name"]: _example(one.get("schema", {}), one["name"]) for one in parameters if one["in"] == "query"}
    address = f"{ADDRESS}{path}{'?' + urlencode(asked) if asked else ''}"
    streams = any(_EVENTS in (one.get("content") or {}) for one in operation["responses"].values())
    words = ["curl", *(["-N"] if streams else []), *([] if method == "GET" else ["-X", method]), f"'{address}'"]
    return " ".join(words) + (_sent(*body) if body else "")


def _sent(media: str, schema: Schema) -> str:
    if media == "multipart/form-data":
        fields = ((name, field) for name, field in _object_in(schema).get("properties", {}).items())
        required = _object_in(schema).get("required", ())
        forms = (
            f"-F {name}=@model.zip" if _is_file(field) else f"-F {name}={_example(field, name)}"
            for name, field in fields
            if name in required
        )
        return " \\\n    " + " ".join(forms)
    said = json.dumps(_example(schema, "body") or _some_key(schema), ensure_ascii=False)
    return f" \\\n    -H 'Content-Type: {media}' -d '{said}'"


def _some_key(schema: Schema) -> dict[str, Any]:
    """An object of its first key, where none is required."""
    properties = _object_in(schema).get("properties", {})
    return {key: _example(field, key) for key, field in list(properties.items())[:1]}


def _is_file(field: Schema) -> bool:
    return field.get("format") == "binary" or "contentMediaType" in field


def _example(schema: Schema, name: str) -> Any:
    """A value of this schema: one that it names itself, or the simplest one."""
    if schema.get("examples"):
        examples = schema["examples"]
        return next(iter(examples.values())) if isinstance(examples, Mapping) else examples[0]
    if "enum" in schema:
        return schema["enum"][0]
    if "const" in schema:
        return schema["const"]
    if "$ref" in schema:
        return _example(_referred(schema), name)
    choices = [one for one in schema.get("anyOf") or schema.get("oneOf") or () if one.get("type") != "null"]
    if choices:
        return _example(choices[0], name)
    return _simplest(schema, name)


def _simplest(schema: Schema, name: str) -> Any:
    match schema.get("type"):
        case "object":
            properties, required = schema.get("properties", {}), schema.get("required", ())
            return {key: _example(properties[key], key) for key in required if key in properties}
        case "array":
            return [_example(schema.get("items", {}), name)]
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return True
        case _:
            return f"{name.upper()}"

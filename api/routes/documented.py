"""Puts pydantic models into the OpenAPI operations of the routes that read them by themselves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from litestar.openapi.spec import OpenAPIMediaType, Operation, Parameter, RequestBody, Schema
from pydantic import BaseModel

_DEFINITIONS = "#/$defs/"


def reads(
    *, query: type[BaseModel] | None = None, body: type[BaseModel] | None = None, headers: Sequence[Parameter] = ()
) -> type[Operation]:
    """The operation class of a route that reads these models and headers."""

    @dataclass
    class ReadingOperation(Operation):
        def __post_init__(self) -> None:
            self.parameters = [*(self.parameters or []), *(_parameters(query) if query else []), *headers]
            self.request_body = _request_body(body) if body else None

    return ReadingOperation


def _parameters(query: type[BaseModel]) -> list[Parameter]:
    schema = _flat_schema(query)
    required = schema.get("required", [])
    return [
        Parameter(
            name=name,
            param_in="query",
            description=field.pop("description", None),
            required=name in required,
            schema=cast("Schema", field),
        )
        for name, field in schema["properties"].items()
    ]


def _request_body(body: type[BaseModel]) -> RequestBody:
    schema = cast("Schema", _flat_schema(body))
    return RequestBody(content={"application/json": OpenAPIMediaType(schema=schema)}, required=True)


def _flat_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The model's JSON schema with every reference replaced by what it refers to."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    return cast("dict[str, Any]", _resolved(schema, definitions))


def _resolved(node: object, definitions: Mapping[str, object]) -> object:
    match node:
        case {"$ref": str(reference)}:
            return _resolved(definitions[reference.removeprefix(_DEFINITIONS)], definitions)
        case dict():
            return {key: _resolved(value, definitions) for key, value in node.items()}
        case list():
            return [_resolved(item, definitions) for item in node]
        case _:
            return node

"""What the API's description says of access: which operations want to know who asks, and how they refuse."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, OpenAPI, SecurityScheme

from api.access.needs import needed
from common.vocabulary import Role

_SCHEMES = Components(
    security_schemes={
        "bearer": SecurityScheme(
            type="http",
            scheme="bearer",
            description="An API key, `mf_...`, or a bearer token of the operator's identity provider.",
        ),
        "apiKey": SecurityScheme(
            type="apiKey", name="X-API-Key", security_scheme_in="header", description="An API key, `mf_...`."
        ),
    }
)
_EITHER: list[dict[str, list[str]]] = [{"bearer": []}, {"apiKey": []}]

_PROBLEM = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
_UNKNOWN = "The caller has not said who it is, or cannot be believed."
_STRANGE_NAME = "The service is not known by the name that it was called by (`Host`)."
_TOO_OFTEN = "The caller asks more often than it may. `Retry-After` says when it may again."


class GuardedAPI(OpenAPIConfig):
    """Says of every operation what the door says of it, so that no route has to repeat it."""

    def to_openapi_schema(self) -> OpenAPI:
        """The description, which is complete once it is written out."""
        made = super().to_openapi_schema()
        return _Described(info=made.info, servers=made.servers, components=_SCHEMES, security=_EITHER, paths={})


@dataclass
class _Described(OpenAPI):
    def to_schema(self) -> dict[str, Any]:
        """The document, with who may ask for each operation."""
        written = super().to_schema()
        for method, operation in _operations(written):
            role = needed(operation["operationId"], method.upper())
            if role is None:
                operation["security"] = []
            else:
                _tell(operation, role)
        return written


def _operations(document: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for item in document["paths"].values():
        yield from item.items()


def _tell(operation: dict[str, Any], role: Role) -> None:
    operation["security"] = _EITHER
    refusals = {
        "401": _UNKNOWN,
        "403": f"The caller may not do that: it needs the role `{role}`.",
        "421": _STRANGE_NAME,
        "429": _TOO_OFTEN,
    }
    for status, description in refusals.items():
        known = operation["responses"].get(status)
        if known is None:
            operation["responses"][status] = {"description": description, "content": _PROBLEM}
        else:
            known["description"] = f"{description} Or: {known['description']}"

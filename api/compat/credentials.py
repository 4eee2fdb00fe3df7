"""Credentials in a request: base64 of UTF-8, which is a form of writing and no protection."""

import base64
from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema

_SHOWN = 80


def _overrides(value: object) -> object:
    """The values in clear; one that is null is as good as absent. Other kinds of values are left to be refused."""
    if not isinstance(value, dict):
        return value
    return {name: _decoded(str(name), text) for name, text in value.items() if text is not None}


def _decoded(name: str, text: object) -> str:
    # What comes from JSON and is no text is no base64 either.
    written = text if isinstance(text, str) else "?"
    try:
        return base64.b64decode(written, validate=True).decode("utf-8")
    except ValueError:
        message = f"override_credentials['{name[:_SHOWN]}'] must be a valid Base64-encoded UTF-8 string"
        raise ValueError(message) from None


Overrides = Annotated[
    dict[str, str] | None,
    BeforeValidator(_overrides),
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "object",
                    "additionalProperties": {
                        "anyOf": [{"type": "string", "contentEncoding": "base64"}, {"type": "null"}]
                    },
                },
                {"type": "null"},
            ]
        }
    ),
    Field(
        repr=False,
        description=(
            "Credentials and settings to use for this request alone, instead of the service's own: name -> base64 of "
            "the value. GET /plugins tells which names a hub knows."
        ),
        examples=[{"HF_TOKEN": "aGZfZXhhbXBsZQ=="}],
    ),
]
"""What a request may bring instead of the operator's own."""

"""Numbers and flags as clients of the contract send them: also as strings, and documented so."""

from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

_YES_OR_NO = r"^([01TtFfYyNn]|[Oo]([Nn]|[Ff][Ff])|[Yy][Ee][Ss]|[Nn][Oo]|[Tt][Rr][Uu][Ee]|[Ff][Aa][Ll][Ss][Ee])$"
_DIGITS = r"^[0-9]+$"


def _number(value: object) -> object:
    # Python takes true for 1, which no client means.
    if isinstance(value, bool):
        raise PydanticCustomError("int_type", "Input should be a valid integer")
    return value


Flag = Annotated[
    bool,
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"enum": [0, 1]}, {"type": "string", "pattern": _YES_OR_NO}]}),
]
"""True or false, or a number or a word that means it."""

Whole = Annotated[
    int,
    BeforeValidator(_number),
    WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string", "pattern": _DIGITS}]}),
]
"""A whole number, or a string of digits."""

Positive = Annotated[Whole, Field(gt=0)]
"""A whole number from 1 on, or a string of digits."""

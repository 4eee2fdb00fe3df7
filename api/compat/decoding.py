"""Reads a request against pydantic models and collects everything that is wrong with it."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from api.wire import Fault
from common.errors import RequestError

M = TypeVar("M", bound=BaseModel)

_NOT_AN_OBJECT = "Input should be a valid dictionary or object to extract fields from (as application/json)"


class Unprocessable(RequestError):
    """The request does not have the documented shape. Values are never repeated: they may be secrets."""

    code = "unprocessable"

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = list(faults)
        super().__init__("; ".join(fault.msg for fault in self.faults))


class UnreadableBody(RequestError):
    """The body is in no known encoding."""

    code = "unreadable_body"


class Reader:
    """Reads the parts of one request; `refuse` tells of all faults at once."""

    def __init__(self, context: Mapping[str, object] | None = None) -> None:
        self._context = dict(context or {})
        self._faults: list[Fault] = []

    def query(self, model: type[M], values: Iterable[tuple[str, object]]) -> M | None:
        """The query string. Of a name that comes twice, the last value counts."""
        return self._validated(model, dict(values), "query")

    def body(self, model: type[M], body: bytes, content_type: str | None) -> M | None:
        """The JSON body. Raises Unprocessable at once for what is no JSON at all."""
        value = _decoded(body) if body and _is_json(content_type) else None
        fault = _whole_fault(body, content_type, value)
        if fault is not None:
            self._faults.append(fault)
            return None
        return self._validated(model, value, "body")

    def refusal(self) -> Unprocessable:
        """The error to raise when a part came back as None."""
        return Unprocessable(self._faults)

    def _validated(self, model: type[M], value: object, place: str) -> M | None:
        try:
            return model.model_validate(value, from_attributes=True, context=self._context)
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False, include_input=False)
            self._faults += [Fault(type=one["type"], loc=[place, *one["loc"]], msg=one["msg"]) for one in found]
            return None


def _whole_fault(body: bytes, content_type: str | None, value: object) -> Fault | None:
    """What is wrong with the body as a whole."""
    if body and not _is_json(content_type):
        return Fault(type="model_attributes_type", loc=["body"], msg=_NOT_AN_OBJECT)
    if value is None:
        return Fault(type="missing", loc=["body"], msg="Field required")
    if _is_out_of_range(value):
        message = "Value error, a number is infinite or has more than 64 bits"
        return Fault(type="value_error", loc=["body"], msg=message)
    return None


def _is_json(content_type: str | None) -> bool:
    # A page of another origin can post any other type without asking first; a client that says nothing is no browser.
    if content_type is None:
        return True
    kind, _, subtype = content_type.partition(";")[0].strip().lower().partition("/")
    return kind == "application" and (subtype == "json" or subtype.endswith("+json"))


def _decoded(body: bytes) -> object:
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError:
        position = _fault_position(body)
        raise Unprocessable([Fault(type="json_invalid", loc=["body", position], msg="JSON decode error")]) from None


def _fault_position(body: bytes) -> int:
    """Where the standard library's parser stops, which is what clients of the contract are told."""
    try:
        json.loads(body)
    except json.JSONDecodeError as error:
        return error.pos
    except UnicodeDecodeError as error:
        raise UnreadableBody("There was an error parsing the body") from error
    except (ValueError, RecursionError):
        return 0
    return 0


def _is_out_of_range(value: object) -> bool:
    """Whether a number cannot be written as JSON again. The parser has limited how deep this goes."""
    match value:
        case dict():
            return any(_is_out_of_range(item) for item in value.values())
        case list():
            return any(_is_out_of_range(item) for item in value)
        case int():
            return not -(2**63) <= value < 2**63
        case float():
            return not math.isfinite(value)
        case _:
            return False

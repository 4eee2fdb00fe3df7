"""What `help` and editors see of the methods that are made from calls."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

_SELF = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)


def with_self(method: F, call: Callable[..., Any]) -> F:
    """The method, which says that it takes what the call takes, and its object before that."""
    said = inspect.signature(call)
    (result,) = getattr(said.return_annotation, "__args__", (said.return_annotation,))
    signature = said.replace(parameters=[_SELF, *said.parameters.values()], return_annotation=result)
    method.__signature__ = signature  # type: ignore[attr-defined]  # what `inspect` looks for first
    return method

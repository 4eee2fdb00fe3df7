"""What the parts of this catalog entry share: how values are read, and how a wrong one is named."""

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from common.errors import InvalidSpec

S = TypeVar("S", bound=msgspec.Struct)

NAME = "openvino"


def pick(given: Mapping[str, object], options: type[S]) -> S:
    """The options among what was given, where "true" and "8" will do too. Raises InvalidSpec for an ill-typed one."""
    named = {key: value for key, value in given.items() if key in options.__struct_fields__}
    try:
        return msgspec.convert(named, options, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidSpec(_explanation(error)) from error


def without_none(options: msgspec.Struct) -> dict[str, object]:
    """What was said, as a dict."""
    return {name: value for name, value in msgspec.structs.asdict(options).items() if value is not None}


def _explanation(error: msgspec.ValidationError) -> str:
    """The decoder's words, with the option's name in front: `Expected `int`, got `str` - at `$.ratio``."""
    reason, _, place = str(error).partition(" - at `$")
    # That null is an option of its own would only confuse: it means that nothing was said.
    reason = reason.replace(" | null", "").replace("`", "")[:200]
    name = place.strip("`.")
    return f"Invalid value for '{name}': {reason}" if name else f"Invalid option for '{NAME}': {reason}"

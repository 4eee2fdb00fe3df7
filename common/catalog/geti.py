"""What may be asked of an Intel Geti server."""

import re
from typing import Literal

from common.errors import InvalidSpec, SourceUnsafe
from common.plugins import ConfigKey, HubPlugin
from common.spec import Spec, check_file_path
from common.vocabulary import Format

_SPACES = r"\u00a0\u2000-\u200a\u3000"
"""Spaces that the pattern's own word for them does not mean."""
_NO_PART = (
    r"/\\\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff"
    r"\u2044\u2215\u2216\u2571\u2572\u29f5\u29f8\u29f9\ufe68\uff0f\uff3c"
)
"""What no name may hold: separators, control characters, marks that nobody sees or that turn what is read, and what
looks like a separator.
"""
_GAP = re.compile(r"[\s/\\]+")


class GetiOptions(Spec, frozen=True):
    """Which export of a model to take."""

    export_type: Literal["base", "optimized"] = "optimized"
    """`base` is the weights as they were trained."""
    precision: str = "fp16"
    model_format: str = "OpenVINO"
    model_only: bool = True
    """Only the model, without the code around it. Geti 2 alone knows the difference."""
    model_group_id: str | None = None
    optimized_model_id: str | None = None
    extra: dict[str, object] = {}
    """Further filters: a candidate must have these values."""

    @property
    def filters(self) -> dict[str, object]:
        """The further filters that say something, by name, in order."""
        return {name: value for name, value in sorted(self.extra.items()) if value is not None}


def _place(name: str, _revision: str | None, options: GetiOptions) -> str:
    """`geti/<name>/<a segment for each further filter>/<precision>`. Raises InvalidSpec where that is no safe path."""
    segments = [_segment(key, value) for key, value in options.filters.items()]
    return "/".join(_safe(part) for part in ("geti", name.lower(), *segments, options.precision.lower()))


def _segment(key: str, value: object) -> str:
    return _GAP.sub("_", value.lower()) if isinstance(value, str) else key


def _safe(part: str) -> str:
    try:
        whole = check_file_path(part)
    except SourceUnsafe as error:
        raise InvalidSpec(f"{part[:80]!r} cannot be part of a folder's name") from error
    if whole.startswith(".") or ".." in whole or "/" in whole:
        raise InvalidSpec(f"{part[:80]!r} cannot be part of a folder's name")
    return whole


GETI = HubPlugin(
    name="geti",
    description="Downloads trained models from an Intel Geti server.",
    options=GetiOptions,
    # What is exported as OpenVINO is complete; there is nothing here for a converter to read.
    formats=frozenset({Format.PYTORCH, Format.ARCHIVE}),
    implementation="worker.hubs.geti:GetiHub",
    name_pattern=rf"[^\s{_SPACES}.{_NO_PART}-](?:[^{_NO_PART}]{{0,126}}[^\s{_SPACES}.{_NO_PART}])?",
    settings=frozenset(
        {
            "GETI_HOST",
            "GETI_WORKSPACE_ID",
            "GETI_SERVER_API_VERSION",
            "GETI_SERVER_SSL_VERIFY",
            "MODELFERRY_MAX_UNPACKED_MB",
        }
    ),
    secrets=frozenset({"GETI_TOKEN"}),
    config_keys=(
        ConfigKey(
            name="GETI_HOST", description="Address of the Geti server.", sensitive=False, required=True, group="geti"
        ),
        ConfigKey(
            name="GETI_TOKEN", description="Personal access token of the Geti server.", required=True, group="geti"
        ),
        ConfigKey(name="GETI_WORKSPACE_ID", description="Workspace on the Geti server.", sensitive=False),
    ),
    checks_credentials=True,
    listing_filters=frozenset(
        {
            "project_id",
            "project_name",
            "model_group_id",
            "model_group_name",
            "model_name",
            "export_type",
            "precision",
            "model_format",
        }
    ),
    place=_place,
)

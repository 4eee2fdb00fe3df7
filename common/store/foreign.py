"""What a newer release has written. This one shows what it understands of it, and leaves the rest to the newer one.

Two releases work on one table while a service is upgraded: see docs/adr/0018-rolling-upgrades.md.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_args

import msgspec

from common.errors import ModelferryError, ServiceUnavailable
from common.planning import WORK_TYPES
from common.spec import JobSpec, Progress
from common.vocabulary import StageKind

T = TypeVar("T")

KNOWN_KINDS = sorted(StageKind)
"""The kinds of stages that this release can run."""

_NOT_OURS = (msgspec.ValidationError, ModelferryError)


class Foreign(ServiceUnavailable):
    """A row can only be read by a newer release."""


def stored(spec: JobSpec) -> dict[str, object]:
    """A spec as a row holds it: without what has its default, so that a new field is there only where it counts."""
    default = {field.name: _default(field) for field in msgspec.structs.fields(JobSpec)}
    return {name: value for name, value in msgspec.to_builtins(spec).items() if getattr(spec, name) != default[name]}


def spec_of(raw: Mapping[str, Any]) -> JobSpec:
    """A spec to act on, understood in full. Raises Foreign."""
    return _strictly(raw, JobSpec)


def shown_spec(raw: Mapping[str, Any]) -> JobSpec:
    """A spec to show: what this release does not know is left out. Raises Foreign where that does not help."""
    try:
        return _strictly(raw, JobSpec)
    except Foreign:
        return _strictly(_pruned(raw, JobSpec), JobSpec)


def shown_progress(raw: Mapping[str, Any] | None) -> Progress | None:
    """How far a stage is, as far as that is understood."""
    if raw is None:
        return None
    try:
        return _strictly(_pruned(raw, Progress), Progress)
    except Foreign:
        return None


def read_as(raw: object, kind: type[T]) -> T:
    """Any other document of a row. Raises Foreign."""
    return _strictly(raw, kind)


def is_understood(kind: str, work: Mapping[str, Any], specs: Iterable[Mapping[str, Any]]) -> bool:
    """Whether this release may run a stage: it knows its work, and what the jobs that wait for it want then."""
    try:
        _strictly(work, WORK_TYPES[StageKind(kind)])
        for spec in specs:
            _strictly(spec, JobSpec)
    except (Foreign, ValueError):
        return False
    return True


def _strictly(raw: object, kind: type[T]) -> T:
    try:
        return msgspec.convert(raw, kind)
    except _NOT_OURS as error:
        raise Foreign("A newer release has written this, and only that one can read it. Ask again shortly.") from error


def _pruned(raw: Any, kind: Any) -> Any:
    """Without the fields that this release's structs do not have. Unions of several structs stay as they are."""
    structs = [one for one in (kind, *get_args(kind)) if isinstance(one, type) and issubclass(one, msgspec.Struct)]
    if len(structs) != 1 or not isinstance(raw, Mapping):
        return raw
    return {
        field.encode_name: _pruned(raw[field.encode_name], field.type)
        for field in msgspec.structs.fields(structs[0])
        if field.encode_name in raw
    }


def _default(field: msgspec.structs.FieldInfo) -> object:
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()

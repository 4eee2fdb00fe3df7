"""What is seen of gates. See docs/gates.md."""

from typing import Literal

from msgspec import UNSET, UnsetType

from api.wire import View
from common.vocabulary import ModelType, Precision


class GateModelView(View, frozen=True):
    """One model that a gate waits for."""

    name: str
    hub: str
    state: Literal["published", "coming", "failed", "gone", "spoilt"]
    """`gone`: it was published, and is no longer there. `spoilt`: it is there, and its files are not as they were."""
    revision: str | UnsetType = UNSET
    type: ModelType | UnsetType = UNSET
    precision: Precision | UnsetType = UNSET
    device: str | UnsetType = UNSET
    path: str | UnsetType = UNSET
    """Absolute, inside the container."""
    job_id: str | UnsetType = UNSET
    percent: float | UnsetType | None = UNSET
    eta_s: float | UnsetType | None = UNSET
    error_code: str | UnsetType = UNSET
    error: str | UnsetType = UNSET
    hint: str | UnsetType = UNSET


class GateView(View, frozen=True):
    """A named set of models. It is open when every one of them is published and whole."""

    name: str
    open: bool
    models: list[GateModelView]
    missing: int
    """How many are not there."""
    eta_s: float | None
    """Seconds until the last transfer that runs ends, at its speed; null where nobody knows."""
    message: str
    created_at: str
    changed_at: str


class GatePage(View, frozen=True):
    """Every gate, by name."""

    gates: list[GateView]

"""What of a gate a client sees."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from msgspec import UNSET

from api.gates.standing import GateStanding, ModelStanding
from api.views import Places, progress_view
from api.wire import ProgressView
from api.wire.gates import GateModelView, GatePage, GateView

_MOST_NAMES = 5


def gate_page(gates: Iterable[GateStanding], places: Places) -> GatePage:
    """Every gate."""
    return GatePage(gates=[gate_view(gate, places) for gate in gates])


def gate_view(gate: GateStanding, places: Places) -> GateView:
    """One gate."""
    models = [_model(model, places) for model in gate.models]
    missing = [model for model in models if model.state != "published"]
    return GateView(
        name=gate.record.name,
        open=gate.is_open,
        models=models,
        missing=len(missing),
        eta_s=max((model.eta_s for model in missing if isinstance(model.eta_s, float)), default=None),
        message=message(models),
        created_at=_time(gate.record.created_at),
        changed_at=_time(gate.record.changed_at),
    )


def message(models: Sequence[GateModelView]) -> str:
    """What is missing, in words; five names of a kind at most."""
    missing = [model for model in models if model.state != "published"]
    if not missing:
        return f"All {len(models)} are there." if len(models) > 1 else "The model is there."
    said = [f"{len(missing)} of {len(models)} are not there."]
    for state, words in (("coming", "Still to come"), ("failed", "Failed"), ("gone", "Gone"), ("spoilt", "Spoilt")):
        names = [_named(model) for model in missing if model.state == state]
        said += [f"{words}: {_some(names)}."] if names else []
    return " ".join(said)


def _named(model: GateModelView) -> str:
    return f"{model.name} ({model.error_code})" if model.state == "failed" else model.name


def _some(names: Sequence[str]) -> str:
    shown = names[:_MOST_NAMES]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _model(model: ModelStanding, places: Places) -> GateModelView:
    spec, look = model.wish.spec, model.look
    target = spec.target if spec else None
    job_id = model.job.id if model.job else model.fate.job_id
    progress = _progress(model)
    return GateModelView(
        name=model.wish.name,
        hub=model.wish.hub,
        state=model.state,
        revision=(look.revision if look and model.state == "published" else None)
        or (spec.source.revision if spec else None)
        or UNSET,
        type=(spec.model_type if spec else None) or UNSET,
        precision=target.precision if target else UNSET,
        device=target.device if target else UNSET,
        path=places.inside(look.folder) if look else UNSET,
        job_id=job_id or UNSET,
        percent=progress.percent if progress else UNSET,
        eta_s=progress.eta_s if progress else UNSET,
        error_code=model.code or UNSET,
        error=model.error or UNSET,
        hint=model.hint or UNSET,
    )


def _progress(model: ModelStanding) -> ProgressView | None:
    return progress_view(model.job) if model.state == "coming" and model.job else None


def _time(moment: datetime) -> str:
    return moment.isoformat()

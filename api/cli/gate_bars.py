"""How a gate comes to open, for the person at the terminal: bars where one is, else a line for every change."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from api.cli.amounts import duration
from api.cli.output import clean, note
from api.cli.terminal import TerminalBars, bars_wanted
from api.wire.gates import GateModelView, GateView

_WAITING = "waiting"


class GateDisplay(Protocol):
    """Shows a gate while it changes."""

    def show(self, gate: GateView) -> None:
        """Show the gate as it is now."""

    def lacks(self, reason: str) -> None:
        """Say why nothing is known of the gate now."""


@contextmanager
def gate_display(*, quiet: bool) -> Iterator[GateDisplay]:
    """Bars where somebody watches and wants them."""
    if not bars_wanted(quiet=quiet):
        yield _Lines()
        return
    with TerminalBars() as bars:
        yield _Bars(bars)


class _Lines:
    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    def show(self, gate: GateView) -> None:
        for model in gate.models:
            self._say(_key(model), f"{clean(model.name)}: {_words(model)}")
        self._say("", f"gate {gate.name} is {'open' if gate.open else 'closed'}")

    def lacks(self, reason: str) -> None:
        self._say("", clean(reason))

    def _say(self, key: str, text: str) -> None:
        if self._said.get(key) != text:
            self._said[key] = text
            note(text)


class _Bars:
    def __init__(self, bars: TerminalBars) -> None:
        self._bars = bars
        self._keys: set[str] = set()

    def show(self, gate: GateView) -> None:
        self._bars.remove(_WAITING)
        keys = {_key(model) for model in gate.models}
        for key in self._keys - keys:
            # The gate has been changed meanwhile.
            self._bars.remove(key)
        self._keys = keys
        for model in gate.models:
            self._bars.move(_key(model), model.name, _words(model), _share(model), pace=_pace(model))

    def lacks(self, reason: str) -> None:
        self._bars.move(_WAITING, _WAITING, clean(reason), None)


def _key(model: GateModelView) -> str:
    return f"{model.hub}:{model.name}:{model.type}:{model.precision}:{model.device}:{model.revision}"


def _words(model: GateModelView) -> str:
    return f"failed ({model.error_code})" if model.state == "failed" else model.state


def _share(model: GateModelView) -> float | None:
    if model.state == "published":
        return 1.0
    return model.percent / 100 if isinstance(model.percent, float | int) else None


def _pace(model: GateModelView) -> str:
    return duration(model.eta_s) if isinstance(model.eta_s, float | int) else ""

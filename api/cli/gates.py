"""`modelferry gate`: named sets of models, and waiting until one is complete."""

import time
from pathlib import Path
from typing import Annotated

import typer

from api.cli.amounts import duration as in_words
from api.cli.exits import Exit, Stop
from api.cli.gate_bars import gate_display
from api.cli.interrupts import Interrupted, interruptible
from api.cli.output import Table, clean, note
from api.cli.session import ServiceCommand, Session, duration, session
from api.cli.wishes import (
    ConfigJson,
    ConfigPairs,
    Device,
    Exclude,
    Folder,
    Hub,
    Include,
    Ovms,
    Revision,
    Type,
    WantedPrecision,
    Wishes,
    models_in,
)  # fmt: skip
from api.client import Client, Refused, TimedOut, Unreachable
from api.wire.gates import GateView

_LOOK_S = 1.0

Name = Annotated[str, typer.Argument(help="The name of a gate.", metavar="GATE")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Wait until a set of models is there.")
    group.command("put", cls=ServiceCommand)(put_gate)
    group.command("ls", cls=ServiceCommand)(list_gates)
    group.command("show", cls=ServiceCommand)(show_gate)
    group.command("rm", cls=ServiceCommand)(remove_gates)
    group.command("wait", cls=ServiceCommand)(wait_for_gate)
    app.add_typer(group, name="gate")


def put_gate(
    context: typer.Context,
    name: Name,
    names: Annotated[list[str] | None, typer.Argument(help="Names of models.", metavar="MODEL...")] = None,
    *,
    file: Annotated[
        Path | None, typer.Option(help="A YAML or JSON file with `models` and `download_path`.", metavar="FILE")
    ] = None,
    hub: Hub = None,
    type: Type = None,  # noqa: A002 - the option's name
    precision: WantedPrecision = None,
    device: Device = None,
    revision: Revision = None,
    ovms: Ovms = False,
    config: ConfigPairs = None,
    config_json: ConfigJson = None,
    include: Include = None,
    exclude: Exclude = None,
    path: Folder = "",
) -> None:
    r"""Make a gate, or change one. Its models are asked for at once.

    \b
    modelferry gate put chat Qwen/Qwen3-0.6B BAAI/bge-small-en-v1.5
    modelferry gate put chat --file chat.yaml
    """
    if (file is None) == (not names):
        raise typer.BadParameter("Name either models or --file.")
    if file is not None:
        models, folder = models_in(file)
        path = path or folder
    else:
        models = Wishes(
            names=names or (), hub=hub, type=type, precision=precision, device=device, revision=revision, ovms=ovms,
            config=config or (), config_json=config_json, include=include or (), exclude=exclude or (),
        ).models()  # fmt: skip
    ours = session(context)
    with ours.client() as client:
        gate = client.put_gate(name, models, path)
    ours.output.show(gate, _models_of(gate))


def list_gates(context: typer.Context) -> None:
    """List the gates."""
    ours = session(context)
    with ours.client() as client:
        page = client.gates()
    rows = [(gate.name, _state(gate), len(gate.models), gate.missing, _eta(gate)) for gate in page.gates]
    columns = ("gate", "state", "models", "missing", "time left")
    table = Table(columns=columns, rows=rows, ids=[gate.name for gate in page.gates], empty="There are no gates.")
    ours.output.show(page, table)


def show_gate(context: typer.Context, name: Name) -> None:
    """Show a gate and its models."""
    ours = session(context)
    with ours.client() as client:
        gate = client.gate(name)
    ours.output.show(gate, _models_of(gate))
    if not ours.quiet:
        note(f"{name} is {_state(gate)}. {clean(gate.message)}".rstrip())


def remove_gates(
    context: typer.Context, names: Annotated[list[str], typer.Argument(help="Names of gates.", metavar="GATE...")]
) -> None:
    """Remove gates. Their models stay."""
    ours = session(context)
    with ours.client() as client:
        ours.each(names, client.remove_gate)
    ours.end()


def wait_for_gate(
    context: typer.Context,
    name: Name,
    timeout: Annotated[
        str | None, typer.Option(help="Wait no longer than this: 90s, 30m, 2h. Default: for ever.", metavar="DURATION")
    ] = None,
    keep_waiting: Annotated[
        bool,
        typer.Option(
            "--keep-waiting", help="Go on when a model has failed, or there is no such gate: both may be mended."
        ),
    ] = False,
) -> None:
    r"""Wait until a gate is open: every model is published and whole.

    A service that is not up yet is waited for too. Exit code 0: open; 1: a model has failed; 5: the time is over.

    \b
    modelferry gate wait chat --timeout 30m
    """
    ours = session(context)
    patience = duration(timeout)
    try:
        with interruptible():
            gate = _wait(ours, name, patience, keep_waiting=keep_waiting)
    except Interrupted as interrupt:
        raise Stop(interrupt.exit_code) from None
    ours.output.show(gate, _models_of(gate))
    raise typer.Exit(Exit.OK if gate.open else Exit.FAILED)


def _wait(ours: Session, name: str, timeout_s: float | None, *, keep_waiting: bool) -> GateView:
    """The gate once it is open, or a model of it has failed for good. Raises TimedOut, Refused."""
    until = None if timeout_s is None else time.monotonic() + timeout_s
    with ours.client() as client, gate_display(quiet=ours.quiet) as shown:
        while True:
            gate, last = _look(client, name, keep_waiting=keep_waiting)
            if gate is None:
                shown.lacks(last)
            else:
                shown.show(gate)
                if gate.open or (not keep_waiting and any(model.state == "failed" for model in gate.models)):
                    break
            if until is not None and time.monotonic() + _LOOK_S > until:
                raise TimedOut(f"Gate {name} has not opened in {in_words(timeout_s)}. {clean(last)}")
            time.sleep(_LOOK_S)
    for model in gate.models:
        if model.state == "failed":
            note(f"modelferry: {clean(model.name)} has failed ({model.error_code}): {clean(str(model.error))}")
            if isinstance(model.hint, str):
                note(f"  {clean(model.hint)}")
    return gate


def _look(client: Client, name: str, *, keep_waiting: bool) -> tuple[GateView | None, str]:
    """The gate, or what lacks of it, in words. What may pass by itself does not end the waiting."""
    try:
        gate = client.gate(name)
    except Unreachable as error:
        return None, str(error)
    except Refused as error:
        if error.status < 500 and not (keep_waiting and error.status == 404):
            raise
        return None, str(error)
    return gate, gate.message


def _models_of(gate: GateView) -> Table:
    rows = [
        (model.name, model.hub, model.state, _percent(model.percent), model.job_id, model.path, model.error_code)
        for model in gate.models
    ]
    columns = ("model", "hub", "state", "done", "job", "path", "error")
    return Table(columns=columns, rows=rows, ids=[gate.name])


def _percent(value: object) -> str | None:
    return f"{value:.0f}%" if isinstance(value, int | float) else None


def _state(gate: GateView) -> str:
    return "open" if gate.open else "closed"


def _eta(gate: GateView) -> str | None:
    return None if gate.eta_s is None else in_words(gate.eta_s)

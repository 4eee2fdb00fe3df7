"""`modelferry limits`: how much may run, and how fast."""

from typing import Annotated

import typer

from api.cli.amounts import bytes_in, moment, size
from api.cli.output import Table, note
from api.cli.session import ServiceCommand, session
from api.wire import LimitView
from common.vocabulary import LimitScope

Scope = Annotated[LimitScope, typer.Argument(help="What the limit is about.", case_sensitive=False)]
Name = Annotated[str, typer.Argument(help="Of the hub, tenant or pool; of the service it is *.", metavar="[NAME]")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Say how much may run, and how fast.")
    group.command("ls", cls=ServiceCommand)(list_limits)
    group.command("set", cls=ServiceCommand)(set_limit)
    group.command("rm", cls=ServiceCommand)(remove_limit)
    app.add_typer(group, name="limits")


def list_limits(context: typer.Context) -> None:
    """List the limits that are set, and the hubs as they fare."""
    ours = session(context)
    with ours.client() as client:
        page = client.limits()
    ours.output.show(page, _table(page.limits))
    for hub in page.hubs:
        if isinstance(hub.resumes_at, str) and not ours.quiet:
            note(f"Hub {hub.name} is left alone until {moment(hub.resumes_at)}: {hub.reason}")


def set_limit(
    context: typer.Context,
    scope: Scope,
    name: Name = "*",
    running: Annotated[int | None, typer.Option(help="So many may run at once.", min=1)] = None,
    speed: Annotated[
        str | None, typer.Option(help="Bytes per second for all transfers together: 500k, 20M.", metavar="BYTES")
    ] = None,
) -> None:
    r"""Set a limit, instead of the one there was. It holds at once, also for what runs.

    \b
    modelferry limits set service --speed 20M
    modelferry limits set hub huggingface --running 2
    """
    if running is None and speed is None:
        raise typer.BadParameter("Say --running, or --speed, or both. `limits rm` takes a limit away.")
    try:
        bytes_per_s = None if speed is None else bytes_in(speed)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    ours = session(context)
    with ours.client() as client:
        limit = client.put_limit(scope, name, max_running=running, bytes_per_s=bytes_per_s)
    ours.output.show(limit, _table([limit]))


def remove_limit(context: typer.Context, scope: Scope, name: Name = "*") -> None:
    """Take a limit away."""
    ours = session(context)
    with ours.client() as client:
        client.remove_limit(scope, name)


def _table(limits: list[LimitView]) -> Table:
    return Table(
        columns=("scope", "name", "running", "speed"),
        rows=[
            (limit.scope, limit.name, limit.max_running, limit.bytes_per_s and f"{size(limit.bytes_per_s)}/s")
            for limit in limits
        ],
        ids=[f"{limit.scope} {limit.name}" for limit in limits],
        empty="There are no limits.",
    )

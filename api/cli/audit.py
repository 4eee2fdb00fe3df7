"""`modelferry audit`: who did what."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated

import typer
from msgspec import UNSET

from api.cli.amounts import moment, seconds_in
from api.cli.output import Table
from api.cli.session import ServiceCommand, session
from api.client import Client
from api.wire.audit import AuditEntryView, AuditPage
from common.clock import utc_now

_PAGE = 200


class Ending(StrEnum):
    """How a request ended."""

    DONE = "2xx"
    REFUSED = "4xx"
    FAILED = "5xx"


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("audit", cls=ServiceCommand)(show_audit)


def show_audit(
    context: typer.Context,
    *,
    since: Annotated[
        str | None,
        typer.Option(
            help="Only since then: a time as 2026-11-30T12:00, or so long ago as 30m, 12h, 7d.", metavar="TIME"
        ),
    ] = None,
    until: Annotated[str | None, typer.Option(help="Only before then, in the same words.", metavar="TIME")] = None,
    caller: Annotated[str | None, typer.Option(help="Only what this caller has asked.", metavar="NAME")] = None,
    operation: Annotated[str | None, typer.Option(help="Only this operation, as download_models.")] = None,
    status: Annotated[Ending | None, typer.Option(help="Only what ended so.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many entries.", min=1)] = 100,
) -> None:
    r"""Show who changed what, and who was refused, the newest first. Needs the role admin.

    \b
    modelferry audit --since 24h --status 4xx
    modelferry audit --caller ci --operation download_models --format json
    """
    ours = session(context)
    begin, end = _moment("--since", since), _moment("--until", until)
    with ours.client() as client:
        entries = _entries(
            client, limit, caller=caller, operation=operation, since=begin, until=end, status=status and status.value
        )
    rows = [
        (
            moment(entry.at),
            entry.caller,
            entry.role,
            entry.address,
            entry.operation,
            entry.target,
            f"{entry.status} {entry.code or ''}".rstrip(),
        )
        for entry in entries
    ]
    columns = ("at", "caller", "role", "address", "operation", "target", "status")
    ids = [entry.request_id for entry in entries]
    ours.output.show(AuditPage(entries=entries), Table(columns=columns, rows=rows, ids=ids, empty="Nothing was noted."))


def _entries(client: Client, limit: int, **wanted: str | None) -> list[AuditEntryView]:
    entries: list[AuditEntryView] = []
    cursor = ""
    while len(entries) < limit:
        page = client.audit(cursor, limit=min(_PAGE, limit - len(entries)), **wanted)
        entries += page.entries
        if page.next_cursor is UNSET:
            break
        cursor = page.next_cursor
    return entries


def _moment(option: str, text: str | None) -> str | None:
    """A time in the words of the service. Raises what ends the command as a wrong use of it."""
    if text is None:
        return None
    try:
        return (utc_now() - timedelta(seconds=seconds_in(text))).isoformat()
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).astimezone().isoformat()
    except ValueError:
        raise typer.BadParameter(f"{option} {text!r} is no time; write 2026-11-30T12:00, 30m, 12h or 7d") from None

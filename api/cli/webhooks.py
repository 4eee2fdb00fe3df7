"""`modelferry webhooks`: who is told how jobs end."""

from typing import Annotated

import typer

from api.cli.amounts import moment
from api.cli.output import Table, facts
from api.cli.session import ServiceCommand, session

Ids = Annotated[list[str], typer.Argument(help="Ids of webhooks.", metavar="WEBHOOK...")]
Id = Annotated[str, typer.Argument(help="The id of a webhook.", metavar="WEBHOOK")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Have addresses told how jobs end.")
    group.command("ls", cls=ServiceCommand)(list_webhooks)
    group.command("add", cls=ServiceCommand)(add_webhook)
    group.command("rm", cls=ServiceCommand)(remove_webhooks)
    group.command("test", cls=ServiceCommand)(test_webhook)
    group.command("deliveries", cls=ServiceCommand)(list_deliveries)
    app.add_typer(group, name="webhooks")


def list_webhooks(context: typer.Context) -> None:
    """List the webhooks, the oldest first."""
    ours = session(context)
    with ours.client() as client:
        page = client.webhooks()
    rows = [(hook.id, hook.url, ", ".join(hook.events), hook.tenant, hook.enabled) for hook in page.webhooks]
    columns = ("webhook", "url", "events", "tenant", "enabled")
    ids = [hook.id for hook in page.webhooks]
    ours.output.show(page, Table(columns=columns, rows=rows, ids=ids, empty="There are no webhooks."))


def add_webhook(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="The address that is told.", metavar="URL")],
    event: Annotated[
        list[str] | None,
        typer.Option(help="job.completed, job.failed or job.canceled. May be repeated. Default: all."),
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="Only jobs of this tenant. Default: all.")] = None,
) -> None:
    r"""Add a webhook. Its secret, which signs the messages, is shown this one time.

    \b
    modelferry webhooks add https://ci.example/hooks/models --event job.failed
    """
    ours = session(context)
    with ours.client() as client:
        hook = client.add_webhook(url, events=event, tenant=tenant)
    told = [("webhook", hook.id), ("url", hook.url), ("events", ", ".join(hook.events)), ("secret", hook.secret)]
    ours.output.show(hook, facts(told, ids=[hook.id]))


def remove_webhooks(context: typer.Context, ids: Ids) -> None:
    """Remove webhooks."""
    ours = session(context)
    with ours.client() as client:
        ours.each(ids, client.remove_webhook)
    ours.end()


def test_webhook(context: typer.Context, webhook_id: Id) -> None:
    """Send a message of type `test` now. `deliveries` tells what came of it."""
    ours = session(context)
    with ours.client() as client:
        sent = client.send_test_message(webhook_id)
    table = Table(columns=("message", "state"), rows=[(sent.id, sent.state)], ids=[sent.id])
    ours.output.show(sent, table)


def list_deliveries(context: typer.Context, webhook_id: Id) -> None:
    """List the messages to a webhook, the newest first."""
    ours = session(context)
    with ours.client() as client:
        page = client.deliveries(webhook_id)
    rows = [
        (sent.id, sent.event, sent.state, sent.attempts, sent.status, sent.error, moment(sent.created_at))
        for sent in page.deliveries
    ]
    columns = ("message", "event", "state", "attempts", "answer", "error", "created")
    ids = [sent.id for sent in page.deliveries]
    ours.output.show(page, Table(columns=columns, rows=rows, ids=ids, empty="Nothing has been sent."))

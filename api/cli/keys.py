"""`modelferry keys`: who may come in, and `modelferry whoami`."""

from typing import Annotated

import typer
from msgspec import UNSET

from api.cli.amounts import moment
from api.cli.output import Table, facts, note
from api.cli.session import ServiceCommand, session
from api.wire.access import KeyView
from common.vocabulary import Role

Ids = Annotated[list[str], typer.Argument(help="Ids of keys.", metavar="KEY...")]
Id = Annotated[str, typer.Argument(help="The id of a key: what stands between the underscores.", metavar="KEY")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Say who may use the service.")
    group.command("ls", cls=ServiceCommand)(list_keys)
    group.command("add", cls=ServiceCommand)(add_key)
    group.command("rotate", cls=ServiceCommand)(rotate_key)
    group.command("revoke", cls=ServiceCommand)(revoke_keys)
    app.add_typer(group, name="keys")
    app.command("whoami", cls=ServiceCommand)(whoami)


def list_keys(context: typer.Context) -> None:
    """List the API keys, the oldest first, also those that let nobody in any more."""
    ours = session(context)
    with ours.client() as client:
        page = client.keys()
    rows = [
        (
            key.id,
            key.name,
            key.role,
            key.tenant,
            _end_of(key),
            key.used_at and moment(key.used_at),
            moment(key.created_at),
        )
        for key in page.keys
    ]
    columns = ("key", "name", "role", "tenant", "ends", "last used", "created")
    ids = [key.id for key in page.keys if key.revoked_at is UNSET]
    ours.output.show(page, Table(columns=columns, rows=rows, ids=ids, empty="There are no keys."))


def add_key(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Whose key it is.", metavar="NAME")],
    role: Annotated[Role, typer.Option(help="What its holder may do.", case_sensitive=False)] = Role.VIEWER,
    tenant: Annotated[str | None, typer.Option(help="The tenant whose jobs its holder's are.")] = None,
    days: Annotated[int | None, typer.Option(help="Days until it expires. Default: never.", min=1)] = None,
) -> None:
    r"""Make an API key. It is shown this one time; with -q it is all that is printed.

    \b
    modelferry keys add dashboards --role viewer
    modelferry keys add ci --role operator --tenant ci --days 90 -q > ci.key
    """
    ours = session(context)
    with ours.client() as client:
        made = client.add_key(name, role, tenant=tenant, expires_in_days=days)
    ours.output.show(made, _made(made))


def rotate_key(
    context: typer.Context,
    key_id: Id,
    former_lasts: Annotated[
        int, typer.Option(help="Hours for which the former secret lets in too.", min=0, metavar="HOURS")
    ] = 24,
) -> None:
    """Give an API key another secret. It is shown this one time; with -q it is all that is printed."""
    ours = session(context)
    with ours.client() as client:
        made = client.rotate_key(key_id, former_lasts_hours=former_lasts)
    ours.output.show(made, _made(made))
    if made.former_until is not UNSET and not ours.quiet:
        note(f"The former secret lets in until {moment(made.former_until)}.")


def revoke_keys(context: typer.Context, ids: Ids) -> None:
    """Revoke API keys: within seconds they let nobody in any more."""
    ours = session(context)
    with ours.client() as client:
        ours.each(ids, client.revoke_key)
    ours.end()


def whoami(context: typer.Context) -> None:
    """Show who you are to the service, and what you may do."""
    ours = session(context)
    with ours.client() as client:
        who = client.whoami()
    told = [("name", who.name), ("role", who.role), ("by", who.way), ("tenant", who.tenant), ("key", who.key_id)]
    ours.output.show(who, facts(told, ids=[who.name]))


def _made(key: KeyView) -> Table:
    # Quiet prints ids: of what has been made, that which nobody can ask for again.
    return facts(
        [("key", key.key), ("id", key.id), ("name", key.name), ("role", key.role), ("tenant", key.tenant),
         ("expires", key.expires_at and moment(key.expires_at))],
        ids=[str(key.key)],
    )  # fmt: skip


def _end_of(key: KeyView) -> str:
    if key.revoked_at is not UNSET:
        return f"revoked {moment(key.revoked_at)}"
    return f"expires {moment(key.expires_at)}" if key.expires_at is not UNSET else ""

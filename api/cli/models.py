"""`modelferry models`, `ls`, `search`: what is on the volume, and what a hub offers."""

import json
from typing import Annotated

import typer

from api.cli.amounts import moment, size
from api.cli.exits import Exit
from api.cli.output import Table, facts, note
from api.cli.session import ServiceCommand, confirm, session
from api.cli.wishes import DEFAULT_HUB
from api.client import Client
from api.wire import ListedModel
from api.wire.local import LocalModelPage, LocalModelView, WholeLocalModelView

_PAGE = 500

Ids = Annotated[list[str], typer.Argument(help="Ids of models, as `models ls` shows them.", metavar="MODEL...")]
Id = Annotated[str, typer.Argument(help="The id of a model, as `models ls` shows it.", metavar="MODEL")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at the models on the volume.")
    group.command("ls", cls=ServiceCommand)(list_models)
    group.command("show", cls=ServiceCommand)(show_model)
    group.command("rm", cls=ServiceCommand)(remove_models)
    group.command("verify", cls=ServiceCommand)(verify_models)
    app.add_typer(group, name="models")
    app.command("ls", cls=ServiceCommand, help="The same as `models ls`.")(list_models)
    app.command("search", cls=ServiceCommand)(search)


def list_models(
    context: typer.Context,
    hub: Annotated[str | None, typer.Option(help="Only models of this hub.")] = None,
    name: Annotated[str | None, typer.Option(help="Only models whose name holds this text.")] = None,
    precision: Annotated[str | None, typer.Option(help="Only models of this precision.")] = None,
) -> None:
    r"""List the models on the volume, also those that others have put there.

    \b
    modelferry models ls --name qwen --precision int4
    """
    ours = session(context)
    with ours.client() as client:
        page = _models(client, hub, name, precision)
    rows = [
        (model.id, model.name, model.hub, model.precision, model.device, size(model.bytes), model.state, model.path)
        for model in page.models
    ]
    columns = ("id", "model", "hub", "precision", "device", "size", "state", "path")
    ids = [model.id for model in page.models]
    ours.output.show(page, Table(columns=columns, rows=rows, ids=ids, empty="There are no such models."))


def show_model(context: typer.Context, model_id: Id) -> None:
    """Show everything that is known of a model on the volume. With --format json also its files."""
    ours = session(context)
    with ours.client() as client:
        model = client.model(model_id)
    ours.output.show(model, _facts_of(model))


def remove_models(
    context: typer.Context,
    ids: Ids,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    r"""Remove models from the volume. Files that were changed since they were published are kept aside.

    \b
    modelferry models rm MODEL --yes
    """
    ours = session(context)
    confirm(f"Remove {'this model' if len(ids) == 1 else f'these {len(ids)} models'}?", sure=yes)
    with ours.client() as client:
        gone = ours.each(ids, client.remove_model)
    rows = [(removal.id, removal.name, size(removal.bytes), removal.path) for removal in gone]
    table = Table(columns=("removed", "model", "size", "path"), rows=rows, ids=[removal.id for removal in gone])
    ours.output.show(gone, table)
    for removal in gone:
        if removal.kept_path:
            note(f"Changed files of {removal.name} are kept in {removal.kept_path}")
    ours.end()


def verify_models(context: typer.Context, ids: Ids) -> None:
    """Read every file of models again, and compare their digests. Exit code 1 when one is spoilt."""
    ours = session(context)
    with ours.client() as client:
        found = ours.each(ids, client.verify_model)
    rows = [(view.id, view.state, view.checked_files, size(view.bytes), f"{view.seconds:.1f} s") for view in found]
    columns = ("model", "state", "files", "size", "time")
    ours.output.show(found, Table(columns=columns, rows=rows, ids=[view.id for view in found]))
    for view in found:
        for problem in view.problems:
            note(f"modelferry: {view.id}: {problem}")
    ours.end(Exit.FAILED if any(view.state != "good" for view in found) else Exit.OK)


def search(
    context: typer.Context,
    text: Annotated[str | None, typer.Argument(help="What the names shall hold.")] = None,
    *,
    hub: Annotated[str, typer.Option(help="Where to look.")] = DEFAULT_HUB,
    filters: Annotated[
        list[str] | None,
        typer.Option("--filter", metavar="KEY=VALUE", help="`plugins` tells which ones a hub knows. May be repeated."),
    ] = None,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1, max=200)] = 20,
    offset: Annotated[int, typer.Option(help="Pass over so many first.", min=0)] = 0,
) -> None:
    r"""Search a hub.

    \b
    modelferry search qwen3 --filter author=OpenVINO
    modelferry search yolo --hub ultralytics -q
    """
    ours = session(context)
    asked = dict(_filter(pair) for pair in filters or ())
    if text is not None:
        asked = {"search": text, **asked}
    with ours.client() as client:
        page = client.search(hub.lower(), filters=asked, limit=limit, offset=offset)
    names = [model.name for model in page.items]
    columns = ("model", "type", "changed", "licence", "gated")
    table = Table(columns=columns, rows=[_row(model) for model in page.items], ids=names, empty="Nothing was found.")
    ours.output.show(page, table)
    if page.has_more and not ours.quiet:
        note(f"There is more: --offset {offset + page.count}")


def _models(client: Client, hub: str | None, name: str | None, precision: str | None) -> LocalModelPage:
    models: list[LocalModelView] = []
    while True:
        page = client.models(hub=hub, name=name, precision=precision, limit=_PAGE, offset=len(models))
        models += page.models
        if len(models) >= page.total or not page.models:
            return LocalModelPage(models=models, total=page.total, limit=len(models), offset=0)


def _facts_of(model: WholeLocalModelView) -> Table:
    return facts(
        [
            ("id", model.id),
            ("model", model.name),
            ("hub", model.hub),
            ("revision", model.revision),
            ("type", model.model_type),
            ("format", model.format),
            ("precision", model.precision),
            ("device", model.device),
            ("licence", model.licence),
            ("size", f"{size(model.bytes)} in {model.files} files"),
            ("path", model.path),
            ("on the host", model.host_path),
            ("published", moment(model.published_at) if model.published_at else None),
            ("by modelferry", model.managed),
            ("state", model.state),
            ("verified", moment(model.verified_at) if model.verified_at else None),
            ("problems", "; ".join(model.problems)),
            ("edited", "; ".join(model.edited)),
            ("artefact", model.artefact),
        ],
        ids=[model.id],
    )


def _row(model: ListedModel) -> tuple[object, ...]:
    changed = moment(model.last_modified) if isinstance(model.last_modified, str) else None
    return model.name, model.model_type, changed, model.license, model.gated


def _filter(pair: str) -> tuple[str, object]:
    key, equals, value = pair.partition("=")
    if not equals or not key:
        raise typer.BadParameter(f"--filter wants KEY=VALUE, and not {pair!r}")
    if value[:1] in {"[", "{", '"'}:
        try:
            return key, json.loads(value)
        except ValueError:
            pass
    return key, value

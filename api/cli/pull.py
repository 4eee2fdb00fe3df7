"""`modelferry pull` and `modelferry plan`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from api.cli.amounts import size
from api.cli.ephemeral import own_service
from api.cli.exits import Exit, exit_of_code
from api.cli.output import Table, known
from api.cli.session import ServiceCommand, Session, duration, session
from api.cli.waiting import tell_of_failure, wait_and_show
from api.cli.wishes import (
    ConfigJson,
    ConfigPairs,
    Device,
    Exclude,
    Folder,
    Hub,
    Include,
    Names,
    Ovms,
    Revision,
    Type,
    WantedPrecision,
    WantedPriority,
    Wishes,
)
from api.wire import ForecastPage, ForecastView, Started

_COLUMNS = ("model", "status", "mode", "revision", "files", "bytes", "to fetch", "licence", "memory", "disk", "path")


@dataclass(frozen=True, kw_only=True)
class _Errand:
    """What is wanted, and how it is asked for."""

    wishes: Wishes
    path: str
    timeout_s: float | None = None
    tenant: str | None = None
    idempotency_key: str | None = None


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("pull", cls=ServiceCommand)(pull)
    app.command("plan", cls=ServiceCommand)(plan)


def pull(
    context: typer.Context,
    names: Names,
    *,
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
    priority: WantedPriority = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what it would come to, as plan does.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the models are there.")] = True,
    timeout: Annotated[
        str | None, typer.Option(help="Wait no longer than this: 90s, 30m, 2h. The jobs go on.", metavar="DURATION")
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="Who asks; work is shared out fairly among tenants.")] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Under one key, the same request starts nothing twice.", metavar="KEY")
    ] = None,
    cancel_on_interrupt: Annotated[
        bool, typer.Option("--cancel-on-interrupt", help="Ctrl-C cancels the jobs, too.")
    ] = False,
    ephemeral: Annotated[
        bool, typer.Option("--ephemeral", help="Without a running service: start one, do the work, and leave.")
    ] = False,
    models_dir: Annotated[
        Path | None, typer.Option(help="With --ephemeral: where models go. Default: MODELS_DIR, or ./models.")
    ] = None,
) -> None:
    r"""Fetch models, convert them if wanted, publish them, and wait for it.

    Ctrl-C leaves the jobs running. Standard output has what came of them, standard error the progress.

    \b
    modelferry pull Qwen/Qwen3-0.6B
    modelferry pull Qwen/Qwen3-0.6B BAAI/bge-small-en-v1.5 --path chat
    modelferry pull Qwen/Qwen3-0.6B --hub openvino --ovms --type llm --precision int4
    modelferry pull ollama:llama3.2:3b --no-wait -q
    modelferry pull org/model --include '*.safetensors' --include '*.json' --dry-run
    modelferry pull org/model --ephemeral --models-dir ./models
    """
    ours = session(context)
    if models_dir is not None and not ephemeral:
        raise typer.BadParameter("--models-dir goes with --ephemeral; a running service has its own.")
    if ephemeral and (ours.url is not None or not wait):
        raise typer.BadParameter("--ephemeral goes neither with --url nor with --no-wait.")
    errand = _Errand(
        wishes=Wishes(
            names=names, hub=hub, type=type, precision=precision, device=device, revision=revision, ovms=ovms,
            config=config or (), config_json=config_json, include=include or (), exclude=exclude or (),
            priority=priority,
        ),
        path=path, timeout_s=duration(timeout), tenant=tenant, idempotency_key=idempotency_key,
    )  # fmt: skip
    errand.wishes.models()
    if ephemeral:
        code = _alone(ours, errand, models_dir, dry_run=dry_run)
    elif dry_run:
        code = _forecast(ours, errand)
    else:
        code = _pull(ours, errand, wait=wait, cancel=cancel_on_interrupt)
    raise typer.Exit(code)


def plan(
    context: typer.Context,
    names: Names,
    *,
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
    r"""Tell what a pull would come to: revision, files, bytes, memory, path. Nothing is fetched.

    \b
    modelferry plan Qwen/Qwen3-0.6B --ovms --type llm --precision int4
    modelferry plan org/model --format json
    """
    wishes = Wishes(
        names=names, hub=hub, type=type, precision=precision, device=device, revision=revision, ovms=ovms,
        config=config or (), config_json=config_json, include=include or (), exclude=exclude or (),
    )  # fmt: skip
    raise typer.Exit(_forecast(session(context), _Errand(wishes=wishes, path=path)))


def _pull(ours: Session, errand: _Errand, *, wait: bool, cancel: bool) -> Exit:
    started = _submit(ours, errand)
    if wait:
        return wait_and_show(ours, started.job_ids, errand.timeout_s, cancel=cancel)
    models = errand.wishes.models()
    rows = [(job_id, model.name, model.hub) for job_id, model in zip(started.job_ids, models, strict=False)]
    ours.output.show(started, Table(columns=("job", "model", "hub"), rows=rows, ids=started.job_ids))
    return Exit.OK


def _alone(ours: Session, errand: _Errand, models_dir: Path | None, *, dry_run: bool) -> Exit:
    """The same with a service of our own, which ends with us."""
    with own_service(models_dir, errand.wishes.models()) as service:
        service.await_ready()
        ours.url = service.address
        if dry_run:
            return _forecast(ours, errand)
        started = _submit(ours, errand)
        return wait_and_show(ours, started.job_ids, errand.timeout_s, tend=service.tend, lasting=False)


def _submit(ours: Session, errand: _Errand) -> Started:
    with ours.client() as client:
        return client.submit(
            errand.wishes.models(), errand.path, idempotency_key=errand.idempotency_key, tenant=errand.tenant
        )


def _forecast(ours: Session, errand: _Errand) -> Exit:
    with ours.client() as client:
        page = client.plan(errand.wishes.models(), errand.path)
    ours.output.show(page, _table(page))
    refused = [view for view in page.plans if view.status != "planned"]
    for view in refused:
        tell_of_failure(ours.output, view.model_name, view.error, view.error_code, view.hint)
    codes = {Exit.TIMED_OUT if view.status == "unanswered" else exit_of_code(view.error_code) for view in refused}
    if not codes:
        return Exit.OK
    return codes.pop() if len(codes) == 1 else Exit.FAILED


def _table(page: ForecastPage) -> Table:
    return Table(
        columns=_COLUMNS,
        rows=[_row(view) for view in page.plans],
        ids=[view.model_name for view in page.plans],
    )


def _row(view: ForecastView) -> tuple[object, ...]:
    disk = [
        amount for amount in (view.bytes_to_fetch, view.output_bytes, view.scratch_bytes) if isinstance(amount, int)
    ]
    return (
        view.model_name,
        "here already" if view.published is True else view.status,
        view.mode,
        view.revision[:12] if isinstance(view.revision, str) else None,
        view.files,
        _size(view.bytes_total),
        "nothing: it is here" if view.bytes_to_fetch == 0 else _size(view.bytes_to_fetch),
        view.licence,
        _size(view.memory_peak_bytes),
        size(sum(disk)) if disk else None,
        view.path,
    )


def _size(amount: object) -> str | None:
    return size(amount) if isinstance(known(amount), int) and isinstance(amount, int) else None

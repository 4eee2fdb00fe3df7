"""`modelferry up`, `overview`, `plugins`, `mcp`, `version`."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated

import typer
from msgspec import UNSET

from api.cli.amounts import size
from api.cli.environment import environment
from api.cli.output import Table, facts, print_line
from api.cli.session import ServiceCommand, session
from api.wire import PluginView


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("overview", cls=ServiceCommand)(overview)
    app.command("plugins", cls=ServiceCommand)(plugins)
    app.command("up")(up)
    app.command("mcp")(mcp)
    app.command("version")(version)


def overview(context: typer.Context) -> None:
    """Show the service at a glance."""
    ours = session(context)
    with ours.client() as client:
        view = client.overview()
    volume = view.volume
    told = [
        ("jobs", ", ".join(f"{count} {state}" for state, count in view.jobs.items() if count) or "none"),
        ("volume", f"{size(volume.free_bytes)} of {size(volume.total_bytes)} free"),
        ("models", f"{volume.models}, {size(volume.models_bytes)}"),
        ("fetched", f"{size(sum(hour.bytes_fetched for hour in view.hours))} in 24 hours"),
        ("queues", ", ".join(f"{pool}: {count}" for pool, count in view.queues.items())),
        *((f"{worker.pool} worker", f"{worker.state}, {worker.slots} slots, {worker.host}") for worker in view.workers),
        *((f"hub {hub.name}", f"{hub.running} running") for hub in view.hubs if hub.running),
        *((f"failed {job.id}", f"{job.model_name} ({job.error_code})") for job in view.failures),
    ]
    ours.output.show(view, facts(told, ids=[job.id for job in view.failures]))


def plugins(context: typer.Context) -> None:
    """List the hubs and converters, and whether they may be used here."""
    ours = session(context)
    with ours.client() as client:
        page = client.plugins()
    groups = page.available_plugins
    found: list[PluginView] = [
        plugin for group in (groups.downloader, groups.converter) if group is not UNSET for plugin in group
    ]
    rows = [
        (
            plugin.name,
            "hub" if plugin.type == "downloader" else "converter",
            plugin.available,
            " ".join(plugin.capabilities.listing_filter_fields),
            plugin.description if plugin.available else plugin.unavailable_reason,
        )
        for plugin in found
    ]
    columns = ("name", "kind", "available", "search filters", "about")
    ids = [plugin.name for plugin in found if plugin.available]
    ours.output.show(page, Table(columns=columns, rows=rows, ids=ids))


def up(
    models_dir: Annotated[Path | None, typer.Option(help="Where models go. Default: MODELS_DIR, or ./models.")] = None,
    host: Annotated[str | None, typer.Option(help="The address to listen at. Default: HOST, or 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="The port to listen at. Default: PORT, or 8200.")] = None,
) -> None:
    """Run the whole service on this machine until Ctrl-C."""
    # Here rather than above: only this command runs a service, and all others shall start at once.
    from api.embedded.console import Console  # noqa: PLC0415
    from api.embedded.service import run  # noqa: PLC0415

    around = environment()
    given = {"MODELS_DIR": models_dir, "HOST": host, "PORT": port}
    around |= {name: str(value) for name, value in given.items() if value is not None}
    colour = sys.stdout.isatty() and not around.get("NO_COLOR")
    raise typer.Exit(run(around, Console(sys.stdout, colour=colour)))


def mcp(
    context: typer.Context,
    url: Annotated[
        str | None,
        typer.Option(help="Where the service is. Default: MODELFERRY_URL, or http://127.0.0.1:8200.", metavar="URL"),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            help="A file with the API key. Default: MODELFERRY_API_KEY, or the file MODELFERRY_API_KEY_FILE.",
            metavar="FILE",
        ),
    ] = None,
) -> None:
    """Serve the tools for agents (MCP) on standard input and output, by asking the service."""
    # Here rather than above: only this command speaks the protocol, whose library takes a second to load.
    from api.mcp.stdio import main  # noqa: PLC0415

    ours = session(context)
    ours.api_key_file = api_key_file
    main(url or ours.url, ours.api_key())


def version() -> None:
    """Show the version."""
    print_line(installed_version("modelferry"))

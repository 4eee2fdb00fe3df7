"""The command line: `modelferry`."""

import os
import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated

import typer

from api.embedded.console import Console
from api.embedded.service import run

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def modelferry() -> None:
    """Fetches AI models, converts them to OpenVINO, and publishes them in a folder."""


@app.command()
def up(
    models_dir: Annotated[Path | None, typer.Option(help="Where models go. Default: MODELS_DIR, or ./models.")] = None,
    host: Annotated[str | None, typer.Option(help="The address to listen at. Default: HOST, or 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="The port to listen at. Default: PORT, or 8200.")] = None,
) -> None:
    """Run the whole service on this machine until Ctrl-C."""
    environment = dict(os.environ)  # noqa: TID251 - this is the entry of the process that hands it on
    given = {"MODELS_DIR": models_dir, "HOST": host, "PORT": port}
    environment |= {name: str(value) for name, value in given.items() if value is not None}
    colour = sys.stdout.isatty() and not environment.get("NO_COLOR")
    raise typer.Exit(run(environment, Console(sys.stdout, colour=colour)))


@app.command()
def version() -> None:
    """Show the version."""
    typer.echo(installed_version("modelferry"))


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()

"""`modelferry upload`."""

from pathlib import Path
from typing import Annotated

import typer

from api.cli.output import Table
from api.cli.session import ServiceCommand, session
from common.vocabulary import Precision


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("upload", cls=ServiceCommand)(upload)


def upload(
    context: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(help="A zip file with a model.", exists=True, dir_okay=False, readable=True, metavar="FILE"),
    ],
    *,
    name: Annotated[str, typer.Option(help="What the model shall be called.")],
    provider: Annotated[str | None, typer.Option(help="Who has made it.")] = None,
    framework: Annotated[str | None, typer.Option(help="What it runs with, such as openvino.")] = None,
    precision: Annotated[
        Precision | None, typer.Option(help="Of its weights.", metavar="PRECISION", case_sensitive=False)
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="Who asks.")] = None,
) -> None:
    r"""Publish a model of your own.

    \b
    modelferry upload my-model.zip --name my-model --framework openvino --precision int8
    """
    ours = session(context)
    with ours.client() as client:
        done = client.upload(
            file, name, provider=provider, framework=framework, precision=precision and precision.value, tenant=tenant
        )
    table = Table(
        columns=("job", "model", "path"), rows=[(done.job_id, done.model_name, done.model_path)], ids=[done.job_id]
    )
    ours.output.show(done, table)

"""The program: its groups of commands, and how errors become exit codes."""

import sys
from typing import Annotated

import click
import typer

from api.cli import audit, doctor, gates, jobs, keys, limits, models, pull, service, uploads, webhooks
from api.cli.exits import Complaint, Exit, Stop, complaint_about
from api.cli.output import note
from api.cli.session import Session, laid_out, session
from common.errors import ModelferryError

_NAME = "modelferry"


def make_app() -> typer.Typer:
    """Every command. Nothing that only a service needs is imported."""
    app = typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"max_content_width": 100},
    )
    app.callback(help=laid_out(root.__doc__ or ""))(root)
    for commands in (pull, jobs, models, gates, uploads, limits, webhooks, keys, audit, service, doctor):
        commands.add_to(app)
    return app


def root(
    context: typer.Context,
    url: Annotated[
        str | None,
        typer.Option(help="Where the service is. Default: MODELFERRY_URL, or http://127.0.0.1:8200.", metavar="URL"),
    ] = None,
) -> None:
    r"""Fetches AI models, converts them to OpenVINO, and publishes them in a folder.

    \b
    modelferry up                                  run the whole service on this machine
    modelferry pull Qwen/Qwen3-0.6B                fetch a model, and wait for it
    modelferry pull BAAI/bge-small-en-v1.5 --ovms --type embeddings --precision int8
    modelferry jobs ls                             what is going on
    modelferry gate wait chat --timeout 30m        wait until a set of models is there

    Data goes to standard output, everything else to standard error.
    """
    if url is not None:
        session(context).url = url


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Carry out one command line. The exit code."""
    ours = Session()
    try:
        code = typer.main.get_command(make_app()).main(args=arguments, prog_name=_NAME, standalone_mode=False, obj=ours)
    except (click.Abort, KeyboardInterrupt):
        return Exit.INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        # Its text is the whole help.
        note(error.format_message())
        return Exit.USAGE
    except (click.ClickException, ModelferryError, Stop) as error:
        complaint = _misuse(error) if isinstance(error, click.ClickException) else complaint_about(error)
        ours.output.complain(complaint)
        return complaint.exit_code
    return code if isinstance(code, int) else Exit.OK


def _misuse(error: click.ClickException) -> Complaint:
    context = error.ctx if isinstance(error, click.UsageError) else None
    hint = f"{context.command_path if context else _NAME} --help tells how it is used."
    return Complaint(detail=error.format_message(), exit_code=Exit.USAGE, hint=hint)

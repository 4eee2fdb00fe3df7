"""What every command shares: where the service is, how it answers are shown, and the errors they end with."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
import typer
from typer.core import TyperCommand, TyperOption

from api.cli.amounts import seconds_in
from api.cli.exits import Exit, Stop, complaint_about
from api.cli.output import Form, Output
from api.client import Client, Refused
from common.settings import SettingsError, key_in_file

T = TypeVar("T")


class Session:
    """One run of the program: the options that all commands have in common."""

    def __init__(self) -> None:
        self.url: str | None = None
        self.api_key_file: Path | None = None
        self.form = Form.TABLE
        self.quiet = False
        self._codes: list[int] = []

    @property
    def output(self) -> Output:
        """Where the data goes."""
        return Output(form=self.form, quiet=self.quiet)

    def client(self, *, timeout_s: float = 30.0, tenant: str | None = None) -> Client:
        """The way to the service. Close it. Raises Stop for a key that cannot be read, or be none."""
        try:
            return Client(self.url, timeout_s=timeout_s, tenant=tenant, api_key=self.api_key())
        except (SettingsError, ValueError) as error:
            raise Stop(Exit.USAGE, str(error)) from error

    def api_key(self) -> str | None:
        """The key in the file that --api-key-file names. Raises Stop where there is none in it."""
        if self.api_key_file is None:
            return None
        try:
            key = key_in_file(self.api_key_file, "--api-key-file")
        except SettingsError as error:
            raise Stop(Exit.USAGE, str(error)) from error
        if not key:
            raise Stop(Exit.USAGE, f"--api-key-file: {self.api_key_file} is empty")
        return key

    def each(self, names: Sequence[str], call: Callable[[str], T]) -> list[T]:
        """What comes of a call for each of several things. One that is refused does not keep back the others."""
        answers = []
        for name in names:
            try:
                answers.append(call(name))
            except Refused as error:
                complaint = complaint_about(error)
                self.output.complain(complaint)
                self._codes.append(complaint.exit_code)
        return answers

    def end(self, code: int = Exit.OK) -> NoReturn:
        """End the command: with this code, and those of what `each` was refused, if they agree."""
        codes = {*self._codes, code} - {Exit.OK}
        raise typer.Exit(Exit.OK if not codes else codes.pop() if len(codes) == 1 else Exit.FAILED)


def session(context: click.Context) -> Session:
    """The session of this run."""
    return context.ensure_object(Session)


class ServiceCommand(TyperCommand):
    """A command that asks the service: it has --url, --api-key-file, --format and --quiet, for the session."""

    def __init__(self, *arguments: Any, params: list[click.Parameter] | None = None, **more: Any) -> None:
        more["help"] = laid_out(more.get("help") or "")
        super().__init__(*arguments, params=[*(params or ()), *_shared()], **more)


def laid_out(text: str) -> str:
    """A help text whose paragraphs that begin with a backslash and a b keep their lines."""
    return text.replace("\\b\n", "\b\n")


def duration(text: str | None) -> float | None:
    """The seconds of an option such as --timeout. Raises what ends the command as a wrong use of it."""
    if text is None:
        return None
    try:
        return seconds_in(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def confirm(question: str, *, sure: bool) -> None:
    """Ask on a terminal; elsewhere only --yes will do."""
    if sure:
        return
    if not _somebody_answers():
        raise Stop(Exit.USAGE, "Nobody can be asked here.", "Say --yes if it shall be done.")
    if not typer.confirm(question, err=True):
        raise Stop(Exit.FAILED, "Nothing was done.")


def _somebody_answers() -> bool:
    try:
        return os.isatty(0) and os.isatty(2)
    except OSError:
        return False


def _shared() -> Sequence[TyperOption]:
    # Their values go into the session, so that no command has to hand them on.
    return (
        TyperOption(
            param_decls=["service_url", "--url"], help="Where the service is. Default: MODELFERRY_URL, or http://127.0.0.1:8200.",
            metavar="URL", expose_value=False, callback=_set_url,
        ),
        TyperOption(
            param_decls=["api_key_file", "--api-key-file"],
            help="A file with the API key. Default: MODELFERRY_API_KEY, or the file MODELFERRY_API_KEY_FILE.",
            metavar="FILE", expose_value=False, callback=_set_api_key_file,
        ),
        TyperOption(
            param_decls=["data_format", "--format"], type=click.Choice([form.value for form in Form]),
            help="Default: table.", expose_value=False, callback=_set_form,
        ),
        TyperOption(
            param_decls=["-q", "--quiet"], is_flag=True, help="Print ids only, and show no bars.",
            expose_value=False, callback=_set_quiet,
        ),
    )  # fmt: skip


def _set_url(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        session(context).url = value


def _set_api_key_file(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        session(context).api_key_file = Path(value)


def _set_form(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        session(context).form = Form(value)


def _set_quiet(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        session(context).quiet = True

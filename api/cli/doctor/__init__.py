"""`modelferry doctor`: looks at the whole installation, and says what to mend."""

import logging
import sys
from typing import Annotated

import typer

from api.cli.doctor.findings import Finding, Findings, Verdict, fail
from api.cli.environment import environment
from api.cli.exits import Exit
from api.cli.output import Form, clean, is_terminal, print_line
from api.cli.session import ServiceCommand, Session, session
from common.settings import Settings, SettingsError, read_settings, service_address


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor", cls=ServiceCommand)(doctor)


def doctor(
    context: typer.Context,
    client_only: Annotated[
        bool, typer.Option("--client-only", help="The service runs elsewhere: look at the way to it, and no further.")
    ] = False,
    online: Annotated[bool, typer.Option("--online", help="Ask the enabled hubs, too.")] = False,
) -> None:
    r"""Check the whole installation and say what to mend. Exit code 1 when something has to be.

    \b
    modelferry doctor
    modelferry doctor --online --format json
    modelferry doctor --client-only --url http://models.internal:8200
    """
    ours = session(context)
    findings = []
    # What parts of the service would log of an outage is among the findings already.
    logging.disable(logging.CRITICAL)
    try:
        for finding in _examine(ours, client_only=client_only, online=online):
            findings.append(finding)
            if ours.form is Form.TABLE and (not ours.quiet or finding.verdict is not Verdict.OK):
                _show(finding)
    finally:
        logging.disable(logging.NOTSET)
    if ours.form is Form.JSON:
        ours.output.json(findings)
    raise typer.Exit(Exit.FAILED if any(finding.verdict is Verdict.FAIL for finding in findings) else Exit.OK)


def _examine(ours: Session, *, client_only: bool, online: bool) -> Findings:
    # Here rather than above: they import what other commands do without, and what a mere client may lack.
    from api.cli.doctor import hubs, installation, machine, network, service, volume  # noqa: PLC0415

    around = environment()
    yield from installation.look(client_only=client_only)
    yield from network.look(around)
    if not client_only:
        settings = _settings(around)
        if isinstance(settings, Finding):
            yield settings
        else:
            # Those parts need libraries of the service.
            from api.cli.doctor import access, storage  # noqa: PLC0415

            yield from volume.look(settings, around)
            yield from storage.look(settings, around)
            yield from access.look(settings)
            yield from machine.look(settings)
            yield from hubs.look(settings, online=online)
    yield from service.look(ours.client, ours.url or service_address(around))


def _settings(around: dict[str, str]) -> Settings | Finding:
    try:
        return read_settings(around)
    except SettingsError as error:
        return fail("settings", str(error), "Correct or unset this variable; README.md lists all of them.")


def _show(finding: Finding) -> None:
    marks = {Verdict.OK: 32, Verdict.WARN: 33, Verdict.FAIL: 31}
    mark = f"{finding.verdict:4}"
    if _in_colour():
        mark = f"\x1b[{marks[finding.verdict]}m{mark}\x1b[0m"
    print_line(f"{mark}  {finding.part:12}  {clean(finding.text)}")
    if finding.fix:
        print_line(f"{'':6}{'':12}  -> {clean(finding.fix)}")


def _in_colour() -> bool:
    return is_terminal(sys.stdout) and not environment().get("NO_COLOR")

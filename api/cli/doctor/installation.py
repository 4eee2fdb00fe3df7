"""Python and the installed packages, compared with what this version wants."""

import platform
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING

from api.cli.doctor.findings import Findings, fail, ok, warn

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_PACKAGE = "modelferry"
_LEAST = (3, 11)
_CLIENT = frozenset({"httpx", "msgspec", "typer", "rich", "pyyaml"})
"""What the commands need that only ask a service."""
_EXTRAS = {
    "openvino": "conversions cannot run on this machine",
    "embedded": "`modelferry up` needs a redis-server on PATH, or REDIS_URL",
}


def look(*, client_only: bool) -> Findings:
    """Python, what is always needed, and what is needed for some things."""
    told = f"Python {platform.python_version()} at {sys.executable}"
    if sys.version_info < _LEAST:
        yield fail("python", told, "Install Python 3.11 or newer.")
    else:
        yield ok("python", told)
    try:
        yield ok("modelferry", f"version {version(_PACKAGE)}")
        lines = requires(_PACKAGE) or []
    except PackageNotFoundError:
        yield fail("modelferry", "The package is not installed here.", "Install it: pip install modelferry")
        return
    try:
        yield from _packages(lines, client_only=client_only)
    except ImportError:
        yield warn("packages", "Their versions cannot be compared.", "Install the package `packaging`.")


def _packages(lines: Iterable[str], *, client_only: bool) -> Findings:
    # Here rather than above: a mere client may lack it.
    from packaging.requirements import Requirement  # noqa: PLC0415

    wanted = [Requirement(line) for line in lines]
    always = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    if client_only:
        always = [one for one in always if one.name.lower() in _CLIENT]
    faults = [fault for one in always if (fault := _fault(one))]
    if faults:
        yield fail("packages", "; ".join(faults), "Install them in these versions: pip install --upgrade modelferry")
    else:
        yield ok("packages", f"{len(always)} packages in the versions that are wanted")
    for extra, without in () if client_only else _EXTRAS.items():
        of_extra = [one for one in wanted if one not in always and one.marker and one.marker.evaluate({"extra": extra})]
        yield from _extra(extra, of_extra, without)


def _extra(name: str, wanted: "Iterable[Requirement]", without: str) -> Findings:
    listed = list(wanted)
    part = f"[{name}]"
    missing = [one.name for one in listed if _installed(one.name) is None]
    if listed and len(missing) == len(listed):
        yield warn(part, f"Not installed: {without}.", f"If it shall: pip install 'modelferry[{name}]'")
        return
    faults = [fault for one in listed if (fault := _fault(one))]
    if faults:
        yield fail(part, "; ".join(faults), f"Install the pinned versions: pip install 'modelferry[{name}]'")
    else:
        shown = [f"{one.name} {_installed(one.name)}" for one in listed if one.name in {"openvino", "torch"}]
        yield ok(
            part, f"{len(listed)} packages in the versions that are wanted{': ' if shown else ''}{', '.join(shown)}"
        )


def _fault(wanted: "Requirement") -> str | None:
    found = _installed(wanted.name)
    if found is None:
        return f"{wanted.name} is missing"
    if not wanted.specifier.contains(found, prereleases=True):
        return f"{wanted.name} is {found}, wanted is {wanted.specifier}"
    return None


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

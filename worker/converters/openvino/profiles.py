"""Runs a conversion in another Python environment: in a process of its own, below this one."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from common.catalog.openvino.capabilities import DEFAULT, GUIDE, tables
from common.catalog.openvino.fields import OpenVINOOptions
from common.errors import Internal, PluginNotInstalled
from common.plugins import Access, Attempt, Order
from common.spec import Evidence
from worker.converters.openvino.errand import Advanced, Broken, Done, Errand, Report
from worker.elsewhere import Failed, sent

ENTRY = "worker.converters.openvino.elsewhere"
SETTING = "MODELFERRY_PROFILES"

_REPORTS: msgspec.json.Decoder[Report] = msgspec.json.Decoder(Report)


def convert_elsewhere(model: Path, order: Order[OpenVINOOptions], attempt: Attempt, access: Access) -> Evidence:
    """Fulfil the order in the environment that its options name, and wait for that.

    The process lives in this one's group and below its limits; it ends with it. Raises what the converter would raise
    here, PluginNotInstalled where there is no such environment on this machine, and JobCancelled.
    """
    profile = order.options.profile or DEFAULT
    folder = _folder(profile, access)
    errand = Errand(
        model=str(model),
        target=order.target,
        options=msgspec.structs.replace(order.options, profile=DEFAULT),
        folder=str(order.folder),
        settings={name: value for name, value in access.settings.items() if name != SETTING},
        workspace=str(attempt.workspace),
        scratch=tempfile.gettempdir(),
        profile=profile,
        versions=versions_of(profile),
    )
    with sent(ENTRY, folder, errand, attempt) as reports:
        evidence = _attend(reports, attempt)
    return msgspec.structs.replace(evidence, profile=profile)


def versions_of(profile: str) -> dict[str, str]:
    """The tools of a profile with the releases that its table was made for. Raises PluginNotInstalled.

    `convert_elsewhere` compares them with what is really there before it begins.
    """
    table = tables().get(profile)
    if table is None:
        raise PluginNotInstalled(
            f"Nothing is known of a profile '{profile}'; known are: {', '.join(tables())}", hint=f"See {GUIDE}."
        )
    return dict(table.versions)


def _folder(profile: str, access: Access) -> Path:
    named = json.loads(access.settings.get(SETTING) or "{}").get(profile)
    if not isinstance(named, str) or not Path(named).is_dir():
        raise PluginNotInstalled(
            f"This worker has no profile '{profile}'" + (f": there is no folder {named}" if named else ""),
            hint=f"Install it and name its folder in {SETTING}: see {GUIDE}.",
        )
    return Path(named)


def _attend(reports: Iterator[bytes], attempt: Attempt) -> Evidence:
    """Hand on what the process reports, and end with its result."""
    for line in reports:
        match _REPORTS.decode(line):
            case Advanced(progress=progress):
                attempt.progress(progress)
            case Done(evidence=evidence):
                return evidence
            case Failed() as failed:
                raise failed.as_raised()
            case Broken(detail=detail):
                raise Internal(detail)
    raise AssertionError("the reports end with an error where there is no result")

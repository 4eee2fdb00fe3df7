"""What the machine has to give to conversions."""

import os
from pathlib import Path

from api.cli.amounts import size
from api.cli.doctor.findings import Findings, fail, ok, warn
from common.settings import Settings

_MIB = 1024 * 1024
_LEAST_BYTES = 4 * 1000**3
_LIMIT = Path("/sys/fs/cgroup/memory.max")
_USED = Path("/sys/fs/cgroup/memory.current")


def look(settings: Settings) -> Findings:
    """Memory, processors, and the environments for conversions beside the worker's own."""
    free = _free_bytes()
    told = f"{size(free)} free, {len(os.sched_getaffinity(0))} processors"
    if free is not None and settings.convert_memory_mb * _MIB > free:
        yield warn(
            "memory", f"{told}, but a conversion may take {size(settings.convert_memory_mb * _MIB)}.",
            "Lower MODELFERRY_CONVERT_MEMORY_MB, or give the machine more memory.",
        )  # fmt: skip
    elif free is not None and free < _LEAST_BYTES:
        yield warn(
            "memory", told, "Conversions of models beyond a billion parameters need more; `plan` predicts how much."
        )
    else:
        yield ok("memory", told)
    for name, folder in settings.profile_folders.items():
        if not Path(folder).is_dir() or not os.access(folder, os.R_OK | os.X_OK):
            yield fail(
                "profiles", f"{name}: {folder} is no folder that can be read.",
                "Correct MODELFERRY_PROFILES, or make it: make setup-profile",
            )  # fmt: skip
        else:
            yield ok("profiles", f"{name}: {folder}")


def _free_bytes() -> int | None:
    """What the kernel says, or less where a control group allows less."""
    found = [_available(), _left_in_group()]
    known = [amount for amount in found if amount is not None]
    return min(known) if known else None


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return kilobytes[0] * 1024 if kilobytes else None


def _left_in_group() -> int | None:
    try:
        return int(_LIMIT.read_text()) - int(_USED.read_text())
    except (OSError, ValueError):
        return None

"""Runs inside an image, as `python -c`, and holds it against what docs/images.md promises; needs no other module."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

USER = 10001
NEVER = ("gcc", "cc", "g++", "make", "uv", "curl", "wget", "git", "sudo", "su-exec")
"""Programs that no image has. What Debian's base itself brings, such as `su`, gains nothing under no-new-privileges."""
MODULES = {
    "service": ("api.app", "worker.service", "worker.reconcile", "migrations.command", "flower", "opentelemetry.sdk"),
    "convert": ("worker.service", "torch", "openvino", "nncf", "optimum.intel", "transformers", "opentelemetry.sdk"),
}
MODULES["ultralytics"] = MODULES["convert"]
ABSENT = {"service": ("torch", "openvino", "transformers", "pip"), "convert": ("torchvision", "pip", "ultralytics")}
ABSENT["ultralytics"] = ABSENT["convert"]
PROFILES = {
    "service": (),
    "convert": ("transformers-4.57/transformers",),
    "ultralytics": ("transformers-4.57/transformers", "ultralytics/ultralytics"),
}
WRITABLE = (Path("/tmp"), Path("/opt/models"))  # nosec B108 # of a container


def main(target: str) -> int:
    faults = [
        *wrong_user(),
        *wrong_programs(),
        *wrong_places(),
        *wrong_modules(target),
        *wrong_parts(target),
    ]
    for fault in faults:
        print(f"inside {target}: {fault}")
    if not faults:
        print(f"inside {target}: user {os.getuid()}, Python {sys.version.split()[0]}, all as it should be")
    return int(bool(faults))


def wrong_user() -> list[str]:
    found = (os.getuid(), os.getgid(), Path("/proc/1/comm").read_text().strip())
    return [] if found == (USER, USER, "tini") else [f"user, group and first process are {found}"]


def wrong_programs() -> list[str]:
    return [f"has the program {name}" for name in NEVER if shutil.which(name)]


def wrong_places() -> list[str]:
    """Where this user can write but should not, and the other way round. The kernel's own file systems are not ours."""
    faults = []
    for top in sorted(path for path in Path("/").iterdir() if path.name not in {"proc", "sys", "dev"}):
        for folder, _, _ in os.walk(top):
            at = Path(folder)
            if at.is_symlink() or any(at.is_relative_to(place) for place in WRITABLE):
                continue
            if can_write(at):
                faults.append(f"can write in {at}")
    return faults + [f"cannot write in {place}" for place in WRITABLE if not can_write(place)]


def can_write(folder: Path) -> bool:
    probe = folder / ".modelferry-probe"
    try:
        probe.write_text("")
        probe.unlink()
    except OSError:
        return False
    return True


def wrong_modules(target: str) -> list[str]:
    """Each is imported in a process of its own: what is found may still not load."""
    faults = [f"has the module {name}" for name in ABSENT[target] if importlib.util.find_spec(name)]
    for name in MODULES[target]:
        done = subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            faults.append(f"cannot import {name}: {done.stderr.strip().rpartition(chr(10))[2]}")
    return faults


def wrong_parts(target: str) -> list[str]:
    faults = [f"lacks the profile {name}" for name in PROFILES[target] if not Path("/opt/profiles", name).is_dir()]
    if not list(Path("/usr/share/modelferry/sbom").glob("*.cdx.json")):
        faults.append("has no list of its parts")
    compiled = any(Path(sys.prefix, "lib").glob("python*/site-packages/common/__pycache__/*.pyc"))
    return faults + ([] if compiled else ["is not compiled to bytecode"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

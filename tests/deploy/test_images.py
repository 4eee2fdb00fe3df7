"""docker/: hadolint finds nothing, and what the images hold and promise is what the project has."""

import re
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from scripts import inside_image
from scripts.images import NAMES, USUAL
from tests.deploy.composed import ROOT

DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HADOLINT = Path(sys.executable).with_name("hadolint")


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run([HADOLINT, ROOT / "docker" / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_would_find_something(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM python\nRUN apt-get install curl\n")
    assert subprocess.run([HADOLINT, bad], capture_output=True, check=False).returncode != 0


def stage(name: str) -> str:
    """The lines of one stage."""
    found = re.search(rf"^FROM \S+ AS {re.escape(name)}\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL)
    assert found, name
    return found[1]


def test_every_target_is_there() -> None:
    for target in NAMES:
        assert stage(target).strip()
    assert set(USUAL) < set(NAMES)
    assert "ultralytics" not in USUAL, "what is AGPL-3.0 is built only when it is named"
    assert DOCKERFILE.rstrip().splitlines()[-1] == stage("service").rstrip().splitlines()[-1], "the default target"


def test_the_wheel_is_made_of_all_packages() -> None:
    copied = re.findall(r"^COPY (\S+) (\S+)$", stage("wheel"), re.MULTILINE)
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert copied == [(name, name) for name in sorted(packages)]


def test_the_builder_gets_what_is_copied_and_nothing_else() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert (ROOT / ".dockerignore").read_text().split("\n")[1] == "*", "all is left out, then some is let in"
    sources = {
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    }
    for source in sources:
        assert (ROOT / source).exists()
        assert any(Path(source).match(pattern) for pattern in allowed), f"{source} is kept from the builder"
    assert not {"secrets", ".env", "models", ".git", ".venv", "."} & allowed


def test_each_image_has_the_extras_that_it_needs() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    named = {name: re.findall(r"--extra (\w+)", stage(f"{name}-packages")) for name in ("service", "convert")}
    assert named == {"service": ["flower", "tracing"], "convert": ["openvino", "tracing"]}
    assert all(set(found) <= set(extras) for found in named.values())


def test_all_that_is_installed_has_its_version() -> None:
    installs = re.findall(r"pip install (.+?)(?:\n\S|\n\n|&&)", DOCKERFILE.replace("\\\n", " "), re.DOTALL)
    assert len(installs) == 7
    for install in installs:
        assert re.search(r"--constraints constraints\.txt|--requirement\S* \S+\.txt|--offline /wheel/\*\.whl", install)
    pins = [line for line in (ROOT / "docker" / "tools.txt").read_text().splitlines() if not line.startswith("#")]
    assert pins
    assert all(re.match(r"[a-z0-9-]+==[\w.]+( ;.*)?$", pin) for pin in pins)


def test_the_builders_tools_are_in_no_image() -> None:
    for name in ("common", *NAMES):
        text = stage(name)
        assert not re.search(r"apt-get|pip install|uv |curl|wget", text), name
        assert re.findall(r"COPY --from=tools (\S+)", text) in ([], ["/usr/bin/tini"])


@pytest.mark.parametrize("target", sorted(NAMES))
def test_an_image_runs_as_a_user_without_rights_and_without_a_shell(target: str) -> None:
    text = stage("common") + stage(target)
    assert re.findall(r"^USER (.+)$", text, re.MULTILINE) == ["10001:10001"]
    for word in ("ENTRYPOINT", "CMD", "HEALTHCHECK"):
        assert re.search(rf"^{word}\b", text, re.MULTILINE)
    for form in re.findall(r"^(?:    )?(?:ENTRYPOINT|CMD) (.+)$", text, re.MULTILINE):
        assert form.startswith('["'), f"a shell: {form}"
    assert "STOPSIGNAL SIGTERM" in text
    assert "VOLUME /opt/models" in text
    for label in ("title", "description", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in text


def test_the_base_is_named_once_and_can_be_replaced() -> None:
    assert re.findall(r"^ARG BASE=(\S+)$", DOCKERFILE, re.MULTILINE) == ["docker.io/library/python:3.12-slim-bookworm"]
    bases = re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)
    stages = {name for _, name in bases}
    assert {base for base, _ in bases} - stages == {"${BASE}"}


def test_what_is_agpl_is_in_one_image_alone() -> None:
    assert "AGPL-3.0-only" in stage("ultralytics")
    for name in ("service", "convert", "common", "service-packages", "convert-packages"):
        assert "ultralytics" not in stage(name).replace("transformers", "").lower()


def test_telemetry_is_declined_in_the_home_of_the_image() -> None:
    assert "printf 0 > /home/modelferry/intel/openvino_telemetry" in stage("common")
    assert "HOME=/home/modelferry" in stage("common")


def test_the_checks_inside_know_every_target() -> None:
    for table in (inside_image.MODULES, inside_image.ABSENT, inside_image.PROFILES):
        assert set(table) == set(NAMES)


class _Answering(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/well" else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(("path", "code"), [("/well", 0), ("/ill", 1)])
def test_the_health_check_tells_well_from_ill(path: str, code: int) -> None:
    with HTTPServer(("127.0.0.1", 0), _Answering) as server:
        threading.Thread(target=server.handle_request).start()
        port = server.server_address[1]
        assert asked(f"//127.0.0.1:{port}{path}").returncode == code


def test_the_health_check_asks_the_port_of_the_settings() -> None:
    with HTTPServer(("127.0.0.1", 0), _Answering) as server:
        threading.Thread(target=server.handle_request).start()
        assert asked("/well", port=server.server_address[1]).returncode == 0
        free = server.server_address[1]
    gone = asked("/well", port=free)
    assert gone.returncode == 1
    assert "Connection refused" in gone.stdout


def asked(address: str, port: int = 1) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", str(ROOT / "docker" / "healthy.py"), address]
    environment = {"MODELFERRY_METRICS_PORT": str(port)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

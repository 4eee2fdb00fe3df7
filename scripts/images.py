"""Builds the images with docker or podman, looks into each of them, and keeps their lists of parts in dist/sbom.

make images                              # service and convert
make images TARGETS="service"            # one of them
make images TARGETS="ultralytics"        # what is AGPL-3.0 is built only when it is named
make images BASE=registry.example/python:3.12
make images ENGINE=/usr/bin/podman
"""

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from scripts.setup import ROOT, pinned, pip_options, resolves, uv_environment

BASE = "docker.io/library/python:3.12-slim-bookworm"
STAND_IN = "localhost/modelferry-stand-in:bookworm"
"""A minimal Debian with its own Python, for machines that reach Debian's packages but no registry of images."""

NAMES = {"service": "modelferry", "convert": "modelferry-convert", "ultralytics": "modelferry-ultralytics"}
"""Target of docker/Dockerfile -> name of the image."""
USUAL = ("service", "convert")
SBOMS = ROOT / "dist" / "sbom"

_INSIDE = Path(__file__).with_name("inside_image.py")
_FALLBACK_CONF = ROOT / "docker" / "containers.conf"
_PULL_S = 300
_PROBE = {"UV_HTTP_TIMEOUT": "5", "UV_HTTP_CONNECT_TIMEOUT": "5", "UV_HTTP_RETRIES": "0"}
_LOCKED_DOWN = (
    *("--read-only", "--tmpfs", "/tmp"),  # nosec B108 # of a container
    *("--cap-drop", "all", "--security-opt", "no-new-privileges"),
    *("--network", "none"),
)
"""How compose.yaml and the chart run every container, without a network."""


@dataclass
class Engine:
    """docker or podman."""

    program: str
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))

    @property
    def is_podman(self) -> bool:
        return "podman" in self.output("--version").lower()

    def run(self, *arguments: str) -> bool:
        """Whether it went well. What it says is shown."""
        return subprocess.run([self.program, *arguments], env=self.environment, check=False).returncode == 0

    def tried(self, *arguments: str, timeout_s: float | None = None) -> bool:
        """Whether it went well. What it says is nobody's business."""
        try:
            done = subprocess.run(
                [self.program, *arguments], env=self.environment, capture_output=True, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def output(self, *arguments: str) -> str:
        done = subprocess.run(
            [self.program, *arguments], env=self.environment, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()


def main() -> None:
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="*", choices=NAMES, default=USUAL, help="which images")
    parser.add_argument("--base", default="", help=f"the image to build on, instead of {BASE}")
    parser.add_argument("--engine", default="", help="docker or podman, instead of whichever is found")
    arguments = parser.parse_args()
    engine = find_engine(arguments.engine)
    base = choose_base(engine, arguments.base)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    shutil.rmtree(SBOMS, ignore_errors=True)
    SBOMS.mkdir(parents=True)
    for target in arguments.targets or USUAL:
        image = f"localhost/{NAMES[target]}:{version}" if engine.is_podman else f"{NAMES[target]}:{version}"
        build(engine, target, image, base, version)
        look_inside(engine, target, image)
        take_sboms(engine, image, SBOMS)
        size = int(engine.output("image", "inspect", "--format", "{{.Size}}", image))
        print(f"images: {image} is ready: {size / 1e6:.0f} MB")
    if base == STAND_IN:
        print(f"images: these are built on a stand-in: Debian's own Python instead of {BASE}. Do not ship them.")


def find_engine(wanted: str) -> Engine:
    """The first of docker and podman that answers."""
    for program in [wanted] if wanted else ["docker", "podman"]:
        engine = Engine(program)
        if shutil.which(program) and engine.tried("info"):
            print(f"images: building with {engine.output('--version')}")
            return engine
    sys.exit("images: neither docker nor podman answers. On Debian and Ubuntu: apt install podman")


def choose_base(engine: Engine, wanted: str) -> str:
    """The image to build on: the wanted one, the official one, or a stand-in where no registry can be reached."""
    base = wanted or BASE
    if engine.tried("image", "inspect", base) or engine.tried("pull", base, timeout_s=_PULL_S):
        fit(engine, base)
        return base
    if wanted:
        sys.exit(f"images: {wanted} is not here and cannot be pulled")
    print(f"images: {BASE} cannot be pulled: no registry of images can be reached from here")
    if not engine.tried("image", "inspect", STAND_IN):
        make_stand_in(engine)
    print(f"images: building on {STAND_IN}")
    fit(engine, STAND_IN)
    return STAND_IN


def make_stand_in(engine: Engine) -> None:
    """A base made of Debian's packages. Needs root, for the device nodes of a root file system."""
    debootstrap = shutil.which("debootstrap", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if debootstrap is None or os.geteuid() != 0:
        sys.exit("images: a stand-in for it is made by root with debootstrap: apt install debootstrap")
    print("images: making a stand-in of Debian's packages with debootstrap")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        packages = "--include=python3,python3-venv,ca-certificates"
        command = [debootstrap, "--variant=minbase", packages, "bookworm", str(root)]
        if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode != 0:
            sys.exit("images: debootstrap failed; its own words are above")
        for archive in (root / "var/cache/apt/archives").glob("*.deb"):
            archive.unlink()
        packed = Path(folder) / "root.tar"
        with tarfile.open(packed, "w") as archive:
            archive.add(root, arcname=".")
        if not engine.run("import", "--quiet", str(packed), STAND_IN):
            sys.exit("images: the stand-in cannot be imported")


def fit(engine: Engine, base: str) -> None:
    """See to it that containers run here at all."""
    probe = ("run", "--rm", "--network", "none", base, "/bin/true")
    if engine.tried(*probe):
        return
    if engine.is_podman and "CONTAINERS_CONF" not in engine.environment:
        engine.environment["CONTAINERS_CONF"] = str(_FALLBACK_CONF)
        if engine.tried(*probe):
            print(f"images: podman's defaults do not work here; using {_FALLBACK_CONF.relative_to(ROOT)}")
            return
    engine.run(*probe)
    sys.exit("images: no container can be run here; the reason is above")


def build(engine: Engine, target: str, image: str, base: str, version: str) -> None:
    """Build one image. Where pip and uv look for packages is lent to the build, and is in no layer."""
    values = {"BASE": base, "VERSION": version, "REVISION": revision(), "TORCH": torch_arguments()}
    with tempfile.TemporaryDirectory() as folder:
        command = ["build", "--file", "docker/Dockerfile", "--target", target, "--tag", image]
        for name, value in values.items():
            command += ["--build-arg", f"{name}={value}"]
        command += [*lent_settings(Path(folder)), "--network", "host"]
        if engine.is_podman:
            # Podman's own format of images has no health checks.
            command += [*lent_folders(), "--format", "docker", "--pull=never"]
        print(f"images: building {image}")
        os.chdir(ROOT)
        if not engine.run(*command, "."):
            sys.exit(f"images: {image} cannot be built; the reason is above")


def revision() -> str:
    """The commit that is built, where git can tell."""
    git = shutil.which("git")
    if git is None:
        return "unknown"
    command = [git, "rev-parse", "HEAD"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def torch_arguments() -> str:
    """What makes uv take the build of torch for CPUs, in a build on this machine."""
    environment = uv_environment()
    pin = pinned("torch")
    if "UV_FIND_LINKS" not in environment or resolves(
        [f"torch=={pin}"], ["--torch-backend", "cpu", "--no-sources"], {**environment, **_PROBE}
    ):
        return "--torch-backend=cpu"
    print("images: PyTorch's index does not answer: torch comes from pip's find-links")
    return f"torch=={pin}+cpu"


def lent_settings(folder: Path) -> list[str]:
    """The settings of pip on this machine, and the same for uv, as secrets of the build."""
    options = pip_options()
    pip_conf, uv_toml = folder / "pip.conf", folder / "uv.toml"
    pip_conf.write_text("[global]\n" + "".join(f"{name} = {_in_lines(value)}\n" for name, value in options.items()))
    indexes = options.get("extra-index-url", "").split()
    lines = [f"find-links = {options.get('find-links', '').split()!r}", 'index-strategy = "unsafe-best-match"']
    if options.get("index-url"):
        lines.append(f"index-url = {options['index-url']!r}")
    lines.append(f"extra-index-url = {indexes!r}")
    if options.get("cert"):
        lines.append("system-certs = true")
    if options.get("trusted-host"):
        lines.append(f"allow-insecure-host = {options['trusted-host'].split()!r}")
    uv_toml.write_text("\n".join(lines) + "\n")
    return ["--secret", f"id=pip.conf,src={pip_conf}", "--secret", f"id=uv.toml,src={uv_toml}"]


def _in_lines(value: str) -> str:
    """Several values, as a file of pip's settings has them."""
    return "\n    ".join(value.split())


def lent_folders() -> list[str]:
    """The folders of this machine that its settings of pip name, lent to the build. Podman alone can do that."""
    options = pip_options()
    places = [*options.get("find-links", "").split(), *options.get("extra-index-url", "").split()]
    folders = {Path(place.removeprefix("file://")) for place in places if place.startswith(("/", "file://"))}
    # An index and the files that it points at lie side by side.
    folders = {folder.parent if folder.name == "simple" else folder for folder in folders}
    if options.get("cert"):
        folders.add(Path(options["cert"]))
    return [part for at in sorted(folders) if at.exists() for part in ("--volume", f"{at}:{at}:ro")]


def look_inside(engine: Engine, target: str, image: str) -> None:
    """Run the checks of inside_image.py in a container as it is run in production."""
    # Podman would put more folders in memory than compose.yaml and the chart do.
    only = ["--read-only-tmpfs=false"] if engine.is_podman else []
    if not engine.run("run", "--rm", *_LOCKED_DOWN, *only, image, "python", "-c", _INSIDE.read_text(), target):
        sys.exit(f"images: {image} is not as it should be; the reason is above")


def take_sboms(engine: Engine, image: str, folder: Path) -> None:
    """Copy the lists of parts out of an image."""
    container = engine.output("create", image)
    try:
        if not engine.run("cp", f"{container}:/usr/share/modelferry/sbom/.", str(folder)):
            sys.exit(f"images: {image} has no list of its parts")
    finally:
        engine.tried("rm", container)


if __name__ == "__main__":
    main()

"""compose.yaml: it is valid, what it sets is understood by the code, and no container has more than it needs."""

import hashlib
import importlib.util
import json
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from common.settings import FILE_VARIABLES, VARIABLES, Settings, read_settings
from tests.deploy.composed import ROOT, composed, filled_in, variables

COMPOSE = composed()
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = sorted(name for name, service in SERVICES.items() if "/modelferry" in service["image"])
PROXIES = {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}
CHOICES = {
    "REGISTRY": "registry.example/",
    "TAG": "1.2.3",
    "MODELS_VOLUME": "/srv/models",
    "OPEN_NETWORKS": "172.16.0.0/12",
    "TRUSTED_PROXIES": "10.0.0.7",
    "RATE_LIMIT": "600/minute",
    "ENABLED_PLUGINS": "all,ultralytics",
    "FLOWER_URL": "http://127.0.0.1:5555",
    "GETI_HOST": "https://geti.example",
    "CONVERT_CPUS": "2",
    "CONVERT_MEMORY": "4g",
    "LISTEN": "0.0.0.0",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "secrets"
    make_secrets(folder)
    return folder


def make_secrets(folder: Path) -> str:
    command = [sys.executable, "scripts/make_secrets.py", str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("chosen", [{}, CHOICES], ids=["defaults", "choices"])
def test_the_file_is_valid(chosen: dict[str, str]) -> None:
    PyCompose.from_yaml(yaml.safe_dump(composed(environment=chosen)))


def test_a_mistake_in_the_file_would_be_seen() -> None:
    broken = composed()
    broken["services"]["api"]["healthcheck"]["retrys"] = 3
    with pytest.raises(ValueError, match="retrys"):
        PyCompose.from_yaml(yaml.safe_dump(broken))


def test_the_second_file_is_valid_together_with_the_first() -> None:
    second = composed("compose.peer.yaml")
    aliases = second["services"]["api"]["networks"]["clients"]["aliases"]
    # A name with `_` is none in the DNS, but Docker's own gives answers for it, and clients of Intel's service know it.
    assert aliases == ["model-download", "model_download_service"]
    aliases.pop()
    PyCompose.from_yaml(yaml.safe_dump(second | {"services": {"api": {"image": "x", **second["services"]["api"]}}}))
    assert set(second["services"]) <= set(SERVICES)
    assert set(SERVICES["api"]["networks"]) < set(second["services"]["api"]["networks"])


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("chosen", [{}, CHOICES], ids=["defaults", "choices"])
def test_the_code_understands_what_is_set(name: str, chosen: dict[str, str], made: Path) -> None:
    settings = settings_of(name, chosen, made)
    assert settings.host == "0.0.0.0"
    assert settings.asks_callers
    assert settings.metrics_port == 9400


def settings_of(name: str, chosen: dict[str, str], made: Path) -> Settings:
    """What a process finds in its container: the variables of the image, and those of Compose with its secrets."""
    service = composed(environment=chosen)["services"][name]
    environment = image_environment() | {key: str(value) for key, value in service["environment"].items()}
    unknown = {
        key
        for key in service["environment"]
        if key not in VARIABLES and key not in FILE_VARIABLES and key not in PROXIES
    }
    assert not unknown
    for variable in sorted(set(FILE_VARIABLES) & set(environment)):
        secret = environment[variable].removeprefix("/run/secrets/")
        assert secret in service["secrets"], f"{variable} names a secret that is not given to {name}"
        environment[variable] = str(made / secret)
    return read_settings(environment)


def image_environment() -> dict[str, str]:
    """What the image sets, as the Dockerfile has it."""
    stage = (ROOT / "docker" / "Dockerfile").read_text().partition("AS common\n")[2].partition("\nFROM ")[0]
    block = re.search(r"^ENV (.+?[^\\])\n", stage, re.MULTILINE | re.DOTALL)
    assert block
    return dict(pair.split("=", 1) for pair in block[1].replace("\\\n", " ").split())


def test_what_is_chosen_arrives(made: Path) -> None:
    api, download = settings_of("api", CHOICES, made), settings_of("download", CHOICES, made)
    assert api.open_networks == "172.16.0.0/12"
    assert api.trusted_proxies == "10.0.0.7"
    assert api.rate_limit == "600/minute"
    assert download.enabled_plugins == "all,ultralytics"
    assert download.geti_host == "https://geti.example"


def test_each_process_has_only_the_secrets_that_it_needs(made: Path) -> None:
    given = {name: set(service.get("secrets", ())) for name, service in SERVICES.items()}
    assert given["convert"] == given["migrate"] == {"database_url", "redis_url"}
    assert {name for name in given if "admin_key" in given[name]} == {"api"}
    assert {name for name in given if "secret_key" in given[name]} == {"api", "download", "reconcile"}
    assert given["prometheus"] == set()
    assert set().union(*given.values()) == set(COMPOSE["secrets"]) == {path.name for path in made.iterdir()}


def test_the_passwords_belong_together(made: Path) -> None:
    settings = settings_of("api", {}, made)
    assert (made / "postgres_password").read_text().strip() in settings.database_url
    password = settings.redis_url.partition("://:")[2].partition("@")[0]
    assert f"#{hashlib.sha256(password.encode()).hexdigest()} " in (made / "redis_users").read_text()
    assert password not in (made / "redis_users").read_text()
    assert settings.admin_key
    assert settings.secret_key


def test_secrets_are_random_and_stay_what_they_are(made: Path, tmp_path: Path) -> None:
    others = tmp_path / "others"
    make_secrets(others)
    before = {path.name: path.read_bytes() for path in made.iterdir()}
    same = {name for name, content in before.items() if (others / name).read_bytes() == content}
    assert same == {"hf_token", "geti_token"}
    (made / "hf_token").chmod(0o644)
    assert "already" in make_secrets(made)
    assert {path.name: path.read_bytes() for path in made.iterdir()} == before


def test_a_lost_secret_is_made_to_fit_the_others(made: Path) -> None:
    password = (made / "postgres_password").read_text().strip()
    (made / "database_url").unlink()
    assert "database_url" in make_secrets(made)
    assert password in (made / "database_url").read_text()


def test_only_the_owner_gets_at_the_secrets(made: Path) -> None:
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    # Compose mounts each file as it is: the user in the container must be able to read it.
    assert {stat.S_IMODE(path.stat().st_mode) & 0o444 for path in made.iterdir()} == {0o444}


def test_no_secret_is_in_the_file() -> None:
    text = (ROOT / "compose.yaml").read_text()
    assert not re.search(
        r"(?i)(password|token|key|secret)(_FILE)?:[ ]+(?!/run/secrets/)", text.partition("\nsecrets:")[0]
    )
    assert "://:" not in text
    for service in SERVICES.values():
        for key, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|TOKEN|KEY|DATABASE_URL|REDIS_URL", key):
                assert key.endswith("_FILE")
                assert str(value).startswith("/run/secrets/")
    for variable in variables():
        assert not re.search(r"PASSWORD|TOKEN|KEY", variable), "a secret would be in .env"
    assert "/secrets/" in (ROOT / ".gitignore").read_text().split()


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_container_has_nothing_that_it_does_not_need(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")
    assert not service.get("cap_add")
    assert int(service["user"].partition(":")[0]) > 0
    assert all("size=" in folder for folder in service["tmpfs"])
    limits = service["deploy"]["resources"]["limits"]
    assert set(limits) == {"cpus", "memory", "pids"}
    assert service["logging"]["options"]["max-size"]
    assert "container_name" not in service, "it could not be scaled"
    assert ":" in service["image"].rpartition("/")[2], "an image without a version"
    if name in OURS:
        assert service["user"] == "10001:10001"


def test_every_container_says_how_it_is() -> None:
    silent = {name for name, service in SERVICES.items() if service["healthcheck"].get("disable")}
    assert silent == {"migrate"}, "only what ends by itself"
    for name in set(SERVICES) - silent:
        test = SERVICES[name]["healthcheck"]["test"]
        assert test[0] == "CMD", f"{name}: a shell"
        assert isinstance(SERVICES[name]["healthcheck"]["start_period"], str)


def test_nothing_starts_before_what_it_needs_is_there() -> None:
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if other == "migrate" else "service_healthy"
            assert how["condition"] == wanted, f"{name} after {other}"
    for name in ("api", "download", "convert", "reconcile"):
        assert set(SERVICES[name]["depends_on"]) == {"migrate", "postgres", "redis"}


def test_only_the_api_is_offered_to_others_and_that_when_told_to() -> None:
    for name, service in SERVICES.items():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), f"{name} listens to everybody"
    assert SERVICES["api"]["ports"] == ["127.0.0.1:8200:8000"]
    assert composed(environment=CHOICES)["services"]["api"]["ports"] == ["0.0.0.0:8200:8000"]
    for name in ("download", "convert", "reconcile", "redis", "postgres"):
        assert not SERVICES[name].get("ports"), f"{name} could not be scaled, or must not be reached"


def test_who_asks_nobody_has_no_way_out() -> None:
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    outside = {name for name, service in SERVICES.items() if "outside" in service["networks"]}
    assert outside == {"api", "download", "reconcile", "flower", "grafana"}
    for service in SERVICES.values():
        assert "inside" in service["networks"]
        assert service.get("network_mode") is None


@pytest.mark.parametrize("name", OURS)
def test_every_command_exists(name: str) -> None:
    command = SERVICES[name]["command"]
    if command[0] == "celery":
        assert command[1:4] == ["-A", "worker.celery_app", "flower"]
        assert importlib.util.find_spec("flower")
        return
    assert command[:2] == ["python", "-m"]
    assert importlib.util.find_spec(command[2])
    if command[2] == "worker":
        # What it does with a word that it does not know tells that it knows this one.
        usage = subprocess.run([sys.executable, "-m", "worker"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert command[3] in usage.stderr


def test_workers_are_given_the_time_that_they_need_to_end(made: Path) -> None:
    for name in ("api", "download", "convert", "reconcile"):
        grace_s = int(SERVICES[name]["stop_grace_period"].removesuffix("s"))
        assert grace_s >= settings_of(name, {}, made).drain_s + 15


def test_the_example_names_every_choice() -> None:
    named = re.findall(r"^#(\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert {name for name, _ in named} == variables()
    defaults = {
        found[1]: found[2] for found in re.finditer(r"\$\{(\w+):-([^}]*)\}", (ROOT / "compose.yaml").read_text())
    }
    for name, value in named:
        assert defaults[name] in {value, ""}, f"{name} has another default in compose.yaml"


def test_profiles_hold_what_is_optional() -> None:
    optional = {name: service.get("profiles") for name, service in SERVICES.items() if service.get("profiles")}
    assert optional == {"flower": ["flower"], "prometheus": ["monitoring"], "grafana": ["monitoring"]}


def test_what_is_mounted_is_there() -> None:
    for name, service in SERVICES.items():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert (ROOT / source).is_file() if source.startswith("./") else source in COMPOSE["volumes"], name


def test_prometheus_asks_every_process() -> None:
    scrape = yaml.safe_load((ROOT / "docker/monitoring/prometheus.yml").read_text())["scrape_configs"][0]
    found = scrape["dns_sd_configs"][0]
    assert set(found["names"]) == {name for name in OURS if name not in {"migrate", "flower"}}
    assert found["port"] == int(image_environment()["MODELFERRY_METRICS_PORT"])


def test_grafana_finds_its_dashboard() -> None:
    dashboards = yaml.safe_load((ROOT / "docker/monitoring/dashboards.yaml").read_text())["providers"][0]
    mounted = dict(volume.split(":")[:2] for volume in SERVICES["grafana"]["volumes"])
    dashboard = mounted["./charts/modelferry/files/dashboard.json"]
    assert Path(dashboard).is_relative_to(dashboards["options"]["path"])
    assert SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == dashboard
    source = yaml.safe_load((ROOT / "docker/monitoring/datasources.yaml").read_text())["datasources"][0]
    # The dashboard lets its reader choose among sources of this type.
    wanted = json.loads((ROOT / "charts/modelferry/files/dashboard.json").read_text())["templating"]["list"][0]
    assert wanted["query"] == source["type"]


def test_variables_are_filled_in_as_compose_does() -> None:
    assert filled_in("${A:-1}/${B}/${C:-}", {"A": "x", "B": "y"}) == "x/y/"
    assert filled_in("${A:-1}", {"A": ""}) == "1"

"""The environment that the chart makes is one that the code reads: neither can drift from the other."""

import json
from pathlib import Path
from typing import Any

import pytest

from api.compat.startup import read_startup_file
from common.catalog.registry import Catalog
from common.settings import FILE_VARIABLES, VARIABLES, Settings, read_settings
from common.vocabulary import Pool
from tests.chart.environment import content, environment
from tests.chart.rendering import MODELFERRY, Object, containers, of_kind, pods, render
from tests.chart.value_sets import ALL, EXISTING, GIVEN, POOLS, SEAL, SETS, STARTUP

EVERY = pytest.mark.parametrize("values", SETS.values(), ids=SETS)
OURS = "modelferry"
"""The name of each container that runs our code."""

BY_VALUE = {
    "enabled_plugins": {"enabledPlugins": "huggingface"},
    "model_path": {"modelPath": "/srv/models"},
    "database_url": {"postgresql": {"enabled": False}, "externalDatabase": {"url": "postgresql://a:b@c/d"}},
    "redis_url": {"redis": {"enabled": False}, "externalRedis": {"url": "redis://:a@b:1/2"}},
    "hf_token": {"secrets": {"hfToken": {"value": "t"}}},
    "geti_token": {"secrets": {"getiToken": {"value": "t"}}},
    "secret_key": {"secrets": {"secretKey": {"value": SEAL}}},
    "admin_key": {"secrets": {"adminKey": {"value": "a" * 32}}},
    "startup_models_config": STARTUP,
    "access": {"access": {"mode": "off"}},
    "open_networks": {"access": {"openNetworks": ["10.0.0.0/8"]}},
    "trusted_proxies": {"access": {"trustedProxies": ["10.0.0.1"]}},
    "allowed_hosts": {"access": {"allowedHosts": ["models.example"]}},
    "rate_limit": {"access": {"rateLimit": "600/minute"}},
    "keep_audit_days": {"access": {"keepAuditDays": 90}},
    "oidc_issuer": ALL,
    "oidc_audience": ALL,
    "oidc_roles": ALL,
    "oidc_roles_claim": ALL,
    "oidc_name_claim": {"access": {"oidc": {**ALL["access"]["oidc"], "nameClaim": "email"}}},
    "download_slots": {"poolDefaults": {"download": {"slots": 9}}},
    "convert_slots": {"poolDefaults": {"convert": {"slots": 9}}},
    "drain_s": {"poolDefaults": {"convert": {"drainSeconds": 9}}},
    "metrics_port": {"metrics": {"port": 9999}},
    "flower_url": {"flower": {"url": "https://flower.example"}},
    "log_level": {"log": {"level": "debug"}},
    "log_format": {"log": {"format": "text"}},
}
"""Setting -> values of the chart by which it becomes another one than that of the chart without values."""

FIXED = {"models_dir", "host", "port", "metrics_host"}
"""What a container's insides decide, and not an operator."""

PLAUSIBLE: dict[str, Any] = {
    "ca_bundles": "geti=/etc/ca/geti.pem",
    "geti_server_ssl_verify": "false",
    "hf_endpoint": "https://mirror.example",
    "keep_fp16": "on",
    "pull": "off",
    "profiles": "older=/opt/older",
    "proxies": "geti=http://proxy.example:912",
    "trust_remote_code": "org/name@" + "0" * 40,
    "lease_s": 61,
}


def settings_of(objects: list[Object], folder: Path) -> dict[str, Settings]:
    """What each process of ours reads in its container: `Kind/name` -> settings. Raises SettingsError."""
    found: dict[str, Settings] = {}
    for title, pod in pods(objects):
        for container in containers(pod):
            if container["name"] == OURS and "-test-" not in title:
                own = folder / title.replace("/", "-")
                own.mkdir(exist_ok=True)
                found[title] = read_settings(environment(pod, container, objects, own))
    return found


@EVERY
def test_every_process_reads_its_environment(values: dict[str, Any], tmp_path: Path) -> None:
    objects = render(values)
    read = settings_of(objects, tmp_path)
    assert {title.rpartition("-")[2] for title in read} >= {"api", "reconciler"}
    for title, pod in pods(objects):
        if title not in read or "migrations" in title:
            continue
        settings, (container,) = read[title], pod["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert settings.redis_url.startswith("redis"), title
        if "flower" in title:
            continue
        assert settings.database_url.startswith("postgresql://"), title
        assert str(settings.models_dir) == "/opt/models", title
        assert (settings.metrics_host, settings.metrics_port) == ("0.0.0.0", ports["metrics"]), title
        if "http" in ports:
            assert (settings.host, settings.port) == ("0.0.0.0", ports["http"]), title
            assert settings.asks_callers is (values.get("access", {}).get("mode") != "off")


@EVERY
def test_the_migrations_reach_the_database_of_the_others(values: dict[str, Any], tmp_path: Path) -> None:
    objects = render(values)
    read = settings_of(objects, tmp_path)
    (api,) = [settings for title, settings in read.items() if title.endswith("-api")]
    for title, settings in read.items():
        if "migrations" in title:
            assert settings.database_url == api.database_url


@EVERY
def test_the_processes_are_those_that_there_are(values: dict[str, Any]) -> None:
    commands = {
        ("python", "-m", "api.asgi"),
        ("python", "-m", "migrations.command"),
        *(("python", "-m", "worker", role) for role in (*Pool, "reconcile")),
    }
    for title, pod in pods(render(values)):
        for container in containers(pod):
            if container["name"] == OURS and "-test-" not in title and "flower" not in title:
                assert tuple(container["args"]) in commands, title


def test_every_setting_can_be_made() -> None:
    allowed = json.loads((MODELFERRY / "values.schema.json").read_text())["$defs"]["config"]["properties"].keys()
    by_config = {variable for variable, field in VARIABLES.items() if field not in BY_VALUE.keys() | FIXED}
    assert allowed == by_config, "values.schema.json, $defs.config: the variables that no other value sets"


@pytest.mark.parametrize("field", BY_VALUE)
def test_a_value_makes_a_setting(field: str, tmp_path: Path) -> None:
    def seen(values: dict[str, Any], folder: Path) -> set[object]:
        folder.mkdir()
        return {getattr(settings, field) for settings in settings_of(render(values), folder).values()}

    assert seen(BY_VALUE[field], tmp_path / "with") != seen({}, tmp_path / "without")


def test_what_stands_in_config_is_read(tmp_path: Path) -> None:
    defaults = Settings()
    wanted: dict[str, Any] = {}
    for variable, field in VARIABLES.items():
        if field in BY_VALUE.keys() | FIXED:
            continue
        old = getattr(defaults, field)
        wanted[variable] = PLAUSIBLE.get(field, old + 1 if isinstance(old, int | float) else f"https://{field}.example")
    read = settings_of(render({"config": wanted}), tmp_path)["Deployment/mf-modelferry-worker-convert"]
    same = [
        variable for variable in wanted if getattr(read, VARIABLES[variable]) == getattr(defaults, VARIABLES[variable])
    ]
    assert same == []
    assert read.keep_jobs == defaults.keep_jobs + 1, "and not with an exponent"


def test_a_pool_may_say_otherwise(tmp_path: Path) -> None:
    read = settings_of(render(POOLS), tmp_path)
    large = read["Deployment/mf-modelferry-worker-convert-large"]
    assert (large.convert_memory_mb, large.keep_fp16, large.drain_s) == (100000, "on", 3600)
    assert read["Deployment/mf-modelferry-worker-convert-gpu"].keep_fp16 == "off"
    assert read["Deployment/mf-modelferry-worker-download"].download_slots == 8


def test_everything_is_read_as_it_was_said(tmp_path: Path) -> None:
    api = settings_of(render(ALL), tmp_path)["Deployment/model-download-api"]
    assert api.oidc_roles == "*=viewer,ml-admins=admin"
    assert api.open_networks == "10.0.0.0/8,fd00::/8"
    assert api.allowed_hosts.split(",")[:2] == ["models.example", "model-download"]
    assert (api.keep_jobs, api.lease_s, api.keep_audit_days) == (10_000_000, 90.5, 0)
    assert api.geti_host == "https://geti.example"


def test_secrets_come_from_files(tmp_path: Path) -> None:
    read = settings_of(render(GIVEN), tmp_path)
    api, download = (read[f"Deployment/mf-modelferry-{name}"] for name in ("api", "worker-download"))
    assert api.admin_key is not None
    assert api.admin_key.startswith("planted-admin")
    assert api.secret_key == download.secret_key == SEAL
    assert (download.hf_token, download.geti_token) == ("planted-hf", "planted-geti")
    assert "planted-database" in download.database_url
    assert "planted-queue" in api.redis_url


def test_the_names_of_those_files_are_known() -> None:
    named = {
        variable["name"]
        for values in (GIVEN, EXISTING)
        for _, pod in pods(render(values))
        for container in containers(pod)
        for variable in container.get("env", [])
        if variable["name"].endswith("_FILE")
    }
    assert named - {"MODELFERRY_API_KEY_FILE", "POSTGRES_PASSWORD_FILE"} == FILE_VARIABLES.keys()


def test_passwords_that_are_made_are_the_same_everywhere(tmp_path: Path) -> None:
    objects = render({"flower": {"enabled": True}})
    made = of_kind(objects, "Secret")["mf-modelferry-made"]["stringData"]
    api = settings_of(objects, tmp_path)["Deployment/mf-modelferry-api"]
    assert api.admin_key == made["admin-key"]
    assert (
        api.database_url
        == f"postgresql://modelferry:{made['postgres-password']}@mf-modelferry-postgresql:5432/modelferry"
    )
    redis = of_kind(objects, "StatefulSet")["mf-modelferry-redis"]["spec"]["template"]
    password = content(redis, redis["spec"]["containers"][0], objects, "/etc/redis/secret/redis.conf")
    assert password.strip() == f"requirepass {made['redis-password']}"
    assert f":{made['redis-password']}@mf-modelferry-redis:6379" in api.redis_url
    names = ("admin-key", "postgres-password", "redis-password", "flower-password")
    assert len({made[name] for name in names}) == 4
    assert all(len(made[name]) >= 32 for name in names)


@pytest.mark.parametrize("values", [STARTUP, ALL], ids=["startup", "all"])
def test_the_startup_file_is_one_that_is_read(values: dict[str, Any], tmp_path: Path) -> None:
    (path,) = [
        one.startup_models_config for one in settings_of(render(values), tmp_path).values() if one.startup_models_config
    ]
    file = read_startup_file(path, Catalog.installed("all").hubs)
    assert {name: [model.name for model in gate.models] for name, gate in file.groups().items()} == {
        "startup": ["BAAI/bge-small-en-v1.5"],
        "chat": ["Qwen/Qwen3-0.6B"],
    }


def test_downloads_find_the_proxies_and_conversions_do_not(tmp_path: Path) -> None:
    def proxies(values: dict[str, Any], name: str) -> dict[str, str]:
        objects = render(values)
        pod = of_kind(objects, "Deployment")[name]["spec"]["template"]
        found = environment(pod, pod["spec"]["containers"][0], objects, tmp_path)
        return {variable: value for variable, value in found.items() if variable.endswith("_proxy")}

    own = {
        "http_proxy": "http://proxy.example:912",
        "https_proxy": "http://proxy.example:912",
        "no_proxy": ".svc,10.0.0.0/8",
    }
    assert proxies(ALL, "model-download-worker-download") == own
    assert proxies(ALL, "model-download-worker-convert") == {}
    shared = proxies(SETS["umbrella"], "mf-modelferry-worker-download")
    assert shared == {**own, "https_proxy": "https://proxy.example", "no_proxy": ".svc"}
    assert proxies(SETS["network"], "mf-modelferry-worker-download").keys() == own.keys()

"""`modelferry doctor` finds what is wrong, says what to do about it, and shows no secret."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from api.cli.program import run
from common.settings import VARIABLES
from migrations.command import upgrade

NOBODY = "http://127.0.0.1:1"
Doctor = Callable[..., tuple[int, dict[str, list[dict[str, Any]]]]]


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Doctor:
    """Runs it with these variables and nothing else that it reads. Its exit code, and its findings by part."""
    monkeypatch.chdir(tmp_path)
    for name in (*VARIABLES, "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)

    def examined(*arguments: str, **variables: str) -> tuple[int, dict[str, list[dict[str, Any]]]]:
        for name, value in {"MODELFERRY_URL": NOBODY, **variables}.items():
            monkeypatch.setenv(name, value)
        code = run(["doctor", "--format", "json", *arguments])
        findings: dict[str, list[dict[str, Any]]] = {}
        for finding in json.loads(capsys.readouterr().out):
            findings.setdefault(finding["part"], []).append(finding)
        return code, findings

    return examined


def verdicts(findings: list[dict[str, Any]]) -> set[str]:
    return {finding["verdict"] for finding in findings}


def test_a_good_installation_lacks_only_the_service(doctor: Doctor, tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir(mode=0o775)
    models.chmod(0o775)
    upgrade(f"sqlite:///{models}/.modelferry/state/modelferry.db")
    code, found = doctor(MODELS_DIR=str(models))
    assert code == 1
    faults = [finding for part in found.values() for finding in part if finding["verdict"] == "fail"]
    assert [finding["part"] for finding in faults] == ["service"]
    assert "modelferry up" in faults[0]["fix"]
    assert verdicts(found["models"]) == verdicts(found["database"]) == verdicts(found["clock"]) == {"ok"}
    assert any("hard links work" in finding["text"] for finding in found["models"])
    assert list(models.iterdir()) == [models / ".modelferry"], "it leaves nothing behind"


def test_a_wrong_variable_is_named(doctor: Doctor) -> None:
    code, found = doctor(MODELFERRY_NONSENSE="1")
    assert code == 1
    assert "MODELFERRY_NONSENSE" in found["settings"][0]["text"]


def test_a_database_without_tables_and_one_that_is_away_are_told_apart(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    _, found = doctor(DATABASE_URL=f"sqlite:///{tmp_path}/empty.db")
    assert found["database"][-1]["verdict"] == "fail"
    assert "no tables" in found["database"][-1]["text"]
    assert "migrations.command" in found["database"][-1]["fix"]
    _, found = doctor(DATABASE_URL="postgresql://someone:hush-hush@127.0.0.1:1/jobs")
    assert [finding["verdict"] for finding in found["database"]] == ["fail"]
    assert "does not answer" in found["database"][0]["text"]
    assert "hush-hush" not in str(found)


def test_redis_that_is_away_is_told_without_its_password(doctor: Doctor) -> None:
    _, found = doctor(REDIS_URL="redis://:hush-hush@127.0.0.1:1/0")
    assert verdicts(found["redis"]) == {"fail"}
    assert "hush-hush" not in str(found)


def test_certificates_proxies_and_profiles_are_looked_at(doctor: Doctor, tmp_path: Path) -> None:
    code, found = doctor(
        HTTPS_PROXY="http://me:hush-hush@proxy:3128",
        HTTP_PROXY="nonsense://x",
        REQUESTS_CA_BUNDLE=str(tmp_path / "missing.pem"),
        MODELFERRY_PROFILES="old=/nowhere/at-all",
        HF_TOKEN="hf_hush-hush",
    )
    assert code == 1
    assert {finding["text"] for finding in found["proxy"]} >= {"HTTPS_PROXY leads to proxy:3128"}
    assert verdicts(found["proxy"]) == {"ok", "warn", "fail"}
    assert verdicts(found["certificates"]) == {"fail"}
    assert verdicts(found["profiles"]) == {"fail"}
    assert "HF_TOKEN is set" in found["huggingface"][0]["text"]
    assert "hush-hush" not in str(found)


def test_a_folder_that_cannot_be_used_is_told(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    _, found = doctor(MODELS_DIR=str(tmp_path / "file"))
    assert verdicts(found["models"]) == {"fail"}


def test_a_hub_that_is_not_there_is_found_when_asked(doctor: Doctor) -> None:
    _, found = doctor("--online", ENABLED_PLUGINS="huggingface", HF_ENDPOINT="http://127.0.0.1:1")
    assert verdicts(found["online"]) == {"fail"}


def test_a_mere_client_is_not_asked_about_the_service_s_parts(doctor: Doctor) -> None:
    code, found = doctor("--client-only")
    assert code == 1
    assert {"models", "database", "redis", "plugins", "memory"} & found.keys() == set()


def test_it_runs_where_only_the_client_s_packages_are(tmp_path: Path) -> None:
    (tmp_path / "jobs.db").touch()
    code = (
        "import sys\n"
        "for name in ('sqlalchemy', 'alembic', 'celery', 'redis', 'litestar', 'pydantic'): sys.modules[name] = None\n"
        "from api.cli.program import run; run(['doctor', '--format', 'json'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path.cwd()),
            "MODELFERRY_URL": NOBODY,
            "DATABASE_URL": f"sqlite:///{tmp_path}/jobs.db",
            "REDIS_URL": "redis://127.0.0.1:1/0",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    found = {finding["part"]: finding for finding in json.loads(done.stdout)}
    assert found["database"]["verdict"] == found["redis"]["verdict"] == "warn"
    assert "sqlalchemy is not installed" in found["database"]["text"]


def test_in_a_table_each_fault_has_its_remedy_below(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--client-only", "-q", "--url", NOBODY]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("fail  service")
    assert lines[1].strip().startswith("->")

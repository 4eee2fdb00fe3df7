"""The command line against a real service, as people and scripts use it: on a terminal, through pipes, with exit codes."""

import json
import random
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from api.cli.program import run
from tests.e2e.service import Service, clean_environment
from tests.fakes.huggingface import FakeHuggingFace
from tests.terminal import Terminal

NOBODY = "http://127.0.0.1:1"
PROGRAM = [sys.executable, "-P", "-m", "api.cli"]
BYTES_PER_S = 1_500_000
BAR = "━"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A service, and a hub that sends slowly enough to watch."""

    def weights(count: int, seed: int) -> dict[str, bytes]:
        return {"config.json": b"{}", "model.safetensors": random.Random(seed).randbytes(count)}

    with FakeHuggingFace(bytes_per_s=BYTES_PER_S) as hub:
        hub.add_repo("org/quick", weights(1000, 1))
        hub.add_repo("org/first", weights(4_000_000, 2))
        hub.add_repo("org/second", weights(6_000_000, 3))
        hub.add_repo("org/third", weights(6_000_000, 6))
        hub.add_repo("org/slow", weights(40_000_000, 4))
        hub.add_repo("org/gated", weights(1000, 5), gated="manual")
        with Service(
            tmp_path_factory.mktemp("cli"), run=("redis", "api", "download", "reconcile"), HF_ENDPOINT=hub.endpoint,
            ENABLED_PLUGINS="huggingface", MODELFERRY_CONNECTIONS="1",
        ) as service:  # fmt: skip
            service.wait_until(lambda: worker_is_ready(service), 60, "having a worker")
            yield SimpleNamespace(hub=hub, service=service)


def worker_is_ready(service: Service) -> bool:
    parts: dict[str, str] = service.get("/ready").json()["parts"]
    return parts["download_worker"] == "ok"


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Done]


@pytest.fixture
def cli(world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Carries out a command line in this process, whose output is no terminal."""
    monkeypatch.setenv("MODELFERRY_URL", world.service.url())

    def done(*arguments: str) -> Done:
        code = run(list(arguments))
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return done


@pytest.fixture
def around(world: SimpleNamespace) -> dict[str, str]:
    environment = clean_environment(world.service.folder) | {"MODELFERRY_URL": world.service.url()}
    environment.pop("NO_COLOR", None)
    return environment


def percentages(text: str, name: str) -> list[int]:
    return [int(found) for found in re.findall(rf"^{name} .*?(\d+)%", text, re.MULTILINE)]


# On a terminal, and not


def test_bars_of_two_models_and_their_total_grow_on_a_terminal(around: dict[str, str]) -> None:
    command = [*PROGRAM, "pull", "org/first", "org/second", "--path", "bars"]
    with Terminal(command, around) as terminal:
        assert terminal.end() == 0
        text = terminal.text
    assert BAR in text
    assert "fetching" in text
    assert re.search(r"\d\.\d [kM]B/s", text), "no speed is shown"
    assert "10.0 MB" in text, "no sum of the bytes is shown"
    for name in ("org/first", "org/second", "total"):
        seen = percentages(text, name)
        assert seen == sorted(seen), name
        assert len(set(seen)) >= 4, name
        assert seen[-1] == 100, name
    assert re.search(r"^total +2 of 2 ", text, re.MULTILINE)
    assert "bars/huggingface/org_second" in text.replace("\n", "").replace(" ", "")


def test_data_that_is_piped_stays_free_of_bars(around: dict[str, str]) -> None:
    with Terminal(
        [*PROGRAM, "pull", "org/first", "--path", "piped", "--format", "json"], around, piped=True
    ) as terminal:
        assert terminal.end() == 0
    assert BAR in terminal.text
    [job] = json.loads(terminal.output)["jobs"]
    assert (job["model_name"], job["status"]) == ("org/first", "completed")


def test_without_a_terminal_there_are_lines_and_no_bars(around: dict[str, str]) -> None:
    done = subprocess.run(
        [*PROGRAM, "pull", "org/quick", "org/third", "--path", "lines"],
        env=around,
        capture_output=True,
        text=True,
        check=True,
    )
    assert BAR not in done.stdout + done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    said = done.stderr.splitlines()
    assert "org/third: fetching" in said
    assert said.count("org/third: completed") == 1
    assert done.stdout.splitlines()[0].split() == ["JOB", "MODEL", "STATUS", "PATH"]


@pytest.mark.parametrize("how", ["NO_COLOR", "TERM", "-q"])
def test_bars_may_be_declined_on_a_terminal(around: dict[str, str], how: str) -> None:
    more = [how] if how == "-q" else []
    command = [*PROGRAM, "pull", "org/quick", "--path", "declined", *more]
    variables = {"NO_COLOR": {"NO_COLOR": "1"}, "TERM": {"TERM": "dumb"}, "-q": {}}[how]
    with Terminal(
        ["/usr/bin/env", *(f"{name}={value}" for name, value in variables.items()), *command], around
    ) as terminal:
        assert terminal.end() == 0
    assert BAR not in terminal.text
    assert "org/quick: completed" in terminal.text


def test_ctrl_c_leaves_the_job_running_and_says_how_to_go_on(around: dict[str, str], world: SimpleNamespace) -> None:
    with Terminal([*PROGRAM, "pull", "org/slow", "--path", "left"], around) as terminal:
        terminal.read_until(lambda text: "fetching" in text)
        terminal.press("\x03")
        assert terminal.end() == 130
    found = re.search(r"modelferry jobs wait (\S+)", terminal.text)
    assert found is not None, terminal.text
    assert world.service.job(found[1])["status"] == "downloading"
    world.service.cancel(found[1])


def test_ctrl_c_cancels_if_it_shall(around: dict[str, str], world: SimpleNamespace) -> None:
    with Terminal([*PROGRAM, "pull", "org/slow", "--path", "cancelled", "--cancel-on-interrupt"], around) as terminal:
        terminal.read_until(lambda text: "fetching" in text)
        terminal.press("\x03")
        assert terminal.end() == 130
    jobs = world.service.get("/jobs").json()["jobs"]
    assert [job["status"] for job in jobs if Path(job["output_dir"]).name == "cancelled"] == ["canceled"]


def test_a_removal_is_asked_about_on_a_terminal(around: dict[str, str], cli: Cli) -> None:
    assert cli("pull", "org/quick", "--path", "asked").code == 0
    [model] = [model["id"] for model in cli("ls", "--format", "json").json["models"] if "/asked/" in model["path"]]
    refused = cli("models", "rm", model)
    assert refused.code == 2
    assert "--yes" in refused.err
    with Terminal([*PROGRAM, "models", "rm", model], around) as terminal:
        terminal.read_until(lambda text: "[y/N]" in text)
        terminal.press("n\n")
        assert terminal.end() == 1
    assert cli("models", "show", model).code == 0
    assert cli("models", "rm", model, "-y", "-q").out.split() == [model]
    assert cli("models", "show", model).code == 3


# Exit codes


def test_success_is_0(cli: Cli) -> None:
    assert cli("jobs", "ls").code == 0
    assert cli("version").code == 0


def test_failure_is_1(cli: Cli) -> None:
    job = cli("pull", "org/slow", "--path", "ended", "--no-wait", "-q").out.strip()
    assert cli("jobs", "cancel", job).code == 0
    done = cli("jobs", "wait", job)
    assert done.code == 1
    assert "canceled" in done.out


@pytest.mark.parametrize(
    "wrong",
    [
        ["pull"], ["nonsense"], ["pull", "org/quick", "--nonsense"], ["pull", "org/quick", "--precision", "int3"],
        ["pull", "org/quick", "--timeout", "soon"], ["pull", "org/quick", "--config", "x"], ["gate", "put", "g"],
        ["limits", "set", "hub", "huggingface"], ["pull", "org/quick", "--ephemeral", "--no-wait"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_wrong_use_is_2(cli: Cli, wrong: list[str]) -> None:
    done = cli(*wrong)
    assert done.code == 2
    assert done.out == ""
    assert len(done.err.splitlines()) == 2
    assert "--help" in done.err.splitlines()[1]


def test_without_a_command_the_help_is_shown(cli: Cli) -> None:
    done = cli()
    assert (done.code, done.out) == (2, "")
    assert "Commands:" in done.err


@pytest.mark.parametrize(
    "absent", [["jobs", "get", "x"], ["jobs", "wait", "x"], ["models", "show", "m-0000000000000000"], ["gate", "show", "x"], ["gate", "wait", "x"]],
    ids=" ".join,
)  # fmt: skip
def test_what_is_not_there_is_3(cli: Cli, absent: list[str]) -> None:
    done = cli(*absent)
    assert done.code == 3
    assert done.err.startswith("modelferry: ")


def test_a_revision_that_is_not_there_is_3(cli: Cli) -> None:
    assert cli("pull", "org/quick", "--revision", "nowhere").code == 3


def test_a_gated_model_is_4_with_a_hint(cli: Cli) -> None:
    done = cli("pull", "org/gated")
    assert done.code == 4
    assert "source_gated" in done.err
    assert "HF_TOKEN" in done.err
    assert cli("plan", "org/gated").code == 4


def test_a_time_that_is_over_is_5(cli: Cli, world: SimpleNamespace) -> None:
    done = cli("pull", "org/slow", "--path", "late", "--timeout", "1s", "--format", "json")
    assert done.code == 5
    complaint = json.loads(done.err.splitlines()[-1])
    assert complaint["exit_code"] == 5
    [job] = [job for job in world.service.get("/jobs").json()["jobs"] if Path(job["output_dir"]).name == "late"]
    assert job["status"] in {"queued", "downloading"}
    assert cli("jobs", "cancel", job["id"], "-q").out.split() == [job["id"]]


def test_a_service_that_does_not_answer_is_6(cli: Cli) -> None:
    for line in (
        ["jobs", "ls", "--url", NOBODY],
        ["--url", NOBODY, "jobs", "ls"],
        ["pull", "org/quick", "--url", NOBODY],
    ):
        done = cli(*line)
        assert done.code == 6
        assert "modelferry up" in done.err
    told = json.loads(cli("jobs", "ls", "--url", NOBODY, "--format", "json").err)
    assert told["exit_code"] == 6


def test_a_refusal_is_7(cli: Cli) -> None:
    job = cli("pull", "org/quick", "-q").out.strip()
    again = cli("jobs", "cancel", job)
    assert again.code == 7
    assert "terminal state" in again.err
    assert cli("pull", "org/quick", "--device", "banana").code == 7


# What there is to say


def test_json_is_the_api_s_own(cli: Cli, world: SimpleNamespace) -> None:
    job = cli("pull", "org/quick", "--format", "json", "--path", "json").json["jobs"][0]["id"]
    assert cli("jobs", "get", job, "--format", "json").json == world.service.job(job)
    for line, path in (
        (["plugins"], "/plugins"), (["limits", "ls"], "/limits"), (["gate", "ls"], "/gates"),
        (["webhooks", "ls"], "/webhooks"),
    ):  # fmt: skip
        assert cli(*line, "--format", "json").json == world.service.get(path).json(), line
    assert cli("overview", "--format", "json").json.keys() == world.service.get("/overview").json().keys()


def test_ids_alone_lead_from_one_command_to_the_next(cli: Cli) -> None:
    started = cli("pull", "org/quick", "org/first", "--path", "ids", "--no-wait", "-q")
    ids = started.out.split()
    assert len(ids) == 2
    assert cli("jobs", "wait", *ids, "-q").out.split() == ids
    newest = cli("jobs", "ls", "--newest", "--limit", "2", "-q").out.split()
    assert sorted(newest) == sorted(ids)
    assert cli("jobs", "ls", "--status", "completed", "-q").out.split()[-2:] == ids


def test_one_request_under_one_key_starts_nothing_twice(cli: Cli) -> None:
    line = ["pull", "org/quick", "--no-wait", "-q", "--tenant", "ci", "--idempotency-key", "build 7"]
    first, second = cli(*line), cli(*line)
    assert first.code == second.code == 0
    assert first.out == second.out
    assert cli("jobs", "get", first.out.strip(), "--format", "json").json["tenant"] == "ci"


def test_the_log_of_a_job_is_told(cli: Cli) -> None:
    job = cli("pull", "org/quick", "--path", "log", "--no-wait", "-q").out.strip()
    followed = cli("jobs", "logs", job, "--follow")
    assert followed.code == 0
    assert "job.submitted" in followed.out
    assert "job.completed" in followed.out
    events = [json.loads(line)["event"] for line in cli("jobs", "logs", job, "--format", "json").out.splitlines()]
    assert events[0] == "job.submitted"
    assert events[-1] == "job.completed"
    assert followed.out.count("job.completed") == 1


def test_a_failed_job_is_tried_again_and_forgotten(cli: Cli) -> None:
    job = cli("pull", "org/gated", "--path", "again", "-q").out.strip()
    retried = cli("jobs", "retry", job, "--wait", "--format", "json")
    assert retried.code == 4
    assert retried.json["jobs"][0]["retry_of"] == job
    assert cli("jobs", "rm", job).code == 0
    assert cli("jobs", "get", job).code == 3


def test_a_dry_run_starts_nothing(cli: Cli) -> None:
    before = cli("jobs", "ls", "-q").out
    done = cli("pull", "org/slow", "--dry-run", "--path", "dry", "--include", "config.json")
    assert done.code == 0
    [heading, line] = done.out.splitlines()
    assert heading.split()[:3] == ["MODEL", "STATUS", "MODE"]
    assert "planned" in line
    assert "2 B" in line, "the patterns have no effect"
    assert cli("plan", "org/slow", "--path", "dry", "--format", "json").json["plans"][0]["bytes_total"] == 40_000_002
    assert cli("jobs", "ls", "-q").out == before


def test_models_are_listed_shown_and_verified(cli: Cli) -> None:
    assert cli("pull", "org/quick", "--path", "shown").code == 0
    models = cli("models", "ls", "--name", "quick", "--format", "json").json["models"]
    [model] = [model["id"] for model in models if "/shown/" in model["path"]]
    assert model in cli("ls", "-q").out.split()
    assert "org/quick" in cli("models", "show", model).out
    assert cli("models", "verify", model).code == 0
    weights = Path(cli("models", "show", model, "--format", "json").json["path"]) / "model.safetensors"
    content = weights.read_bytes()
    try:
        weights.write_bytes(b"x" * len(content))
        spoilt = cli("models", "verify", model)
        assert spoilt.code == 1
        assert "spoilt" in spoilt.out
    finally:
        cli("models", "rm", model, "--yes")


def test_a_hub_is_searched(cli: Cli) -> None:
    assert "org/quick" in cli("search", "quick", "-q").out.split()
    assert cli("search", "quick", "--filter", "nonsense=1").code == 7


def test_several_ids_are_done_one_by_one(cli: Cli) -> None:
    job = cli("pull", "org/quick", "-q").out.strip()
    done = cli("jobs", "rm", "unknown", job)
    assert done.code == 3
    assert cli("jobs", "get", job).code == 3


def test_limits_are_set_and_taken_away(cli: Cli) -> None:
    assert cli("limits", "set", "hub", "huggingface", "--running", "3", "--speed", "500M").code == 0
    assert "500.0 MB/s" in cli("limits", "ls").out
    assert cli("limits", "rm", "hub", "huggingface").code == 0
    assert cli("limits", "rm", "hub", "huggingface").code == 3


def test_an_archive_is_uploaded(cli: Cli, tmp_path: Path) -> None:
    archive = tmp_path / "mine.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("model.xml", "<net/>")
        file.writestr("model.bin", "weights")
    done = cli("upload", str(archive), "--name", "mine", "--format", "json")
    assert done.code == 0, done.err
    assert done.json["model_name"] == "mine"
    assert cli("upload", str(tmp_path / "none.zip"), "--name", "x").code == 2


def test_webhooks_are_kept(cli: Cli) -> None:
    added = cli("webhooks", "add", "https://ci.example/hook", "--event", "job.failed", "--format", "json")
    assert added.code == 0, added.err
    assert added.json["secret"].startswith("whsec_")
    hook = added.json["id"]
    assert cli("webhooks", "ls", "-q").out.split() == [hook]
    assert cli("webhooks", "test", hook).code == 0
    assert cli("webhooks", "deliveries", hook).code == 0
    assert cli("webhooks", "rm", hook).code == 0


# Gates


def test_a_gate_is_waited_for(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "gate.yaml"
    file.write_text("download_path: gate\nmodels:\n  - {name: org/quick, hub: huggingface}\n")
    assert cli("gate", "put", "good", "--file", str(file)).code == 0
    done = cli("gate", "wait", "good", "--timeout", "60s")
    assert done.code == 0
    assert "gate good is open" in done.err
    assert "published" in done.out
    assert cli("gate", "ls", "-q").out.split() == ["good"]
    assert cli("gate", "rm", "good").code == 0
    assert cli("gate", "rm", "good").code == 3


def test_a_gate_whose_model_has_failed_is_1_or_waited_for_on(cli: Cli) -> None:
    assert cli("gate", "put", "bad", "org/gated", "--path", "bad").code == 0
    failed = cli("gate", "wait", "bad", "--timeout", "60s")
    assert failed.code == 1
    assert "source_gated" in failed.err
    assert cli("gate", "wait", "bad", "--timeout", "2s", "--keep-waiting").code == 5
    assert cli("gate", "rm", "bad").code == 0


def test_a_gate_is_waited_for_while_the_service_is_not_up(cli: Cli) -> None:
    begun = time.monotonic()
    done = cli("gate", "wait", "x", "--timeout", "2s", "--url", NOBODY)
    assert done.code == 5
    assert time.monotonic() - begun < 4
    assert done.err.count("No answer from") == 2, "once in the progress, once in the end"


# The shell


def test_bash_completes_commands_and_options(around: dict[str, str]) -> None:
    def completed(words: str, place: int) -> list[str]:
        asking = {"_MODELFERRY_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(place)}
        program = str(Path(sys.executable).with_name("modelferry"))
        return subprocess.run(
            [program], env=around | asking, capture_output=True, text=True, check=False
        ).stdout.split()

    assert completed("modelferry jo", 1) == ["jobs"]
    assert completed("modelferry jobs w", 2) == ["wait"]
    assert "ollama" in completed("modelferry pull x --hub o", 4)


def test_mere_client_commands_load_nothing_of_the_service(around: dict[str, str]) -> None:
    code = (
        "import sys; from api.cli.program import run; run(['--help']); run(['jobs', 'ls', '-q'])\n"
        "heavy = {'litestar', 'sqlalchemy', 'celery', 'pydantic', 'mcp', 'uvicorn', 'yaml', 'api.embedded.service'}\n"
        "sys.exit(f'loaded: {heavy & sys.modules.keys()}' if heavy & sys.modules.keys() else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=around | {"PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr

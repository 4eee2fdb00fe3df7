"""The command line's own words: amounts, names with a hub, exit codes, what a job is doing."""

from typing import Any

import click
import msgspec
import pytest

from api.cli.amounts import bytes_in, duration, moment, seconds_in, size
from api.cli.bars import doing
from api.cli.exits import Exit, Stop, complaint_about, exit_of_code, exit_of_jobs
from api.cli.wishes import Wishes, hub_and_name
from api.client import Refused, TimedOut, Unreachable
from api.embedded import readiness
from api.startup import PART
from api.wire import JobView


def job(**changes: Any) -> JobView:
    progress = {
        "phase": "waiting", "percent": 0, "bytes_done": 0, "bytes_total": None, "files_done": 0, "files_total": None,
        "bytes_resumed": 0, "speed_bps": None, "eta_s": None,
    }  # fmt: skip
    plain = {
        "id": "1", "job_id": "1", "operation_type": "download", "model_name": "org/model", "hub": "huggingface",
        "download_path": "", "output_dir": "/m", "status": "queued", "start_time": "", "creation_time": "", "plugin_name": None,
        "plugin": None, "model_type": None, "revision": None, "config": {}, "attempt": 1, "priority": "normal",
        "tenant": "t", "progress": progress,
    }  # fmt: skip
    return msgspec.convert(plain | changes, JobView)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("30m", 1800), ("1h30m", 5400), ("2d", 172800), ("0.5s", 0.5)]
)
def test_a_duration_is_read_as_people_write_it(text: str, seconds: float) -> None:
    assert seconds_in(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "30 m", "-5", "5x", "m"])
def test_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        seconds_in(text)


def test_a_speed_is_read_as_people_write_it() -> None:
    assert [bytes_in(text) for text in ("500", "500k", "20M", "1.5GB/s", "2 MiB")] == [
        500, 500_000, 20_000_000, 1_500_000_000, 2_000_000,
    ]  # fmt: skip
    with pytest.raises(ValueError, match="no size"):
        bytes_in("fast")


def test_amounts_are_written_short() -> None:
    assert [size(None), size(0), size(999), size(1500), size(2.5e9)] == ["-", "0 B", "999 B", "1.5 kB", "2.5 GB"]
    assert [duration(3.2), duration(125), duration(7800)] == ["3 s", "2 min 05 s", "2 h 10 min"]
    assert moment(None) == "-"
    assert moment("no time") == "no time"


@pytest.mark.parametrize(
    ("text", "hub", "meant"),
    [
        ("org/model", None, ("huggingface", "org/model")),
        ("hf:org/model", None, ("huggingface", "org/model")),
        ("ollama:llama3.2:3b", None, ("ollama", "llama3.2:3b")),
        ("llama3.2:3b", "ollama", ("ollama", "llama3.2:3b")),
        ("hf:org/model", "ollama", ("ollama", "hf:org/model")),
        ("https://host/file", "remote-url", ("remote-url", "https://host/file")),
    ],
)
def test_a_name_may_have_its_hub_before_it(text: str, hub: str | None, meant: tuple[str, str]) -> None:
    assert hub_and_name(text, hub) == meant


def test_options_of_hub_and_converter_are_put_together() -> None:
    wishes = Wishes(
        names=["org/model"], config=["a=1", 'b={"c": true}', "d=text", "precision=int4"], config_json='{"a": 2}',
        include=["*.json"], device="CPU",
    )  # fmt: skip
    [model] = wishes.models()
    assert model.config == {
        "a": 2, "b": {"c": True}, "d": "text", "precision": "int4", "include": ["*.json"], "device": "CPU",
    }  # fmt: skip


@pytest.mark.parametrize("wrong", [{"config": ["novalue"]}, {"config_json": "[1]"}, {"names": ["hf:"]}])
def test_wrong_options_are_wrong_uses(wrong: dict[str, Any]) -> None:
    with pytest.raises(click.UsageError):
        Wishes(**{"names": ["org/model"]} | wrong).models()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Refused(404, "gone"), Exit.NOT_FOUND),
        (Refused(401, "who"), Exit.NOT_ALLOWED),
        (Refused(403, "no"), Exit.NOT_ALLOWED),
        (Refused(422, "token", "credentials_invalid"), Exit.NOT_ALLOWED),
        (Refused(400, "bad"), Exit.REFUSED),
        (Refused(409, "busy"), Exit.REFUSED),
        (Refused(422, "bad"), Exit.REFUSED),
        (Refused(502, "hub"), Exit.REFUSED),
        (Refused(503, "later"), Exit.UNREACHABLE),
        (Unreachable("nobody"), Exit.UNREACHABLE),
        (TimedOut("late"), Exit.TIMED_OUT),
        (Stop(143), 143),
    ],
)
def test_every_error_has_its_exit_code(error: Refused, code: int) -> None:
    assert complaint_about(error).exit_code == code


def test_the_exit_code_of_jobs_is_the_reason_that_all_failures_share() -> None:
    done, gated = job(status="completed"), job(status="failed", error_code="source_gated")
    missing, broken = job(status="failed", error_code="source_not_found"), job(status="failed", error_code="disk_full")
    assert exit_of_jobs([done]) == Exit.OK
    assert exit_of_jobs([done, gated]) == Exit.NOT_ALLOWED
    assert exit_of_jobs([missing]) == Exit.NOT_FOUND
    assert exit_of_jobs([broken]) == exit_of_jobs([job(status="canceled")]) == Exit.FAILED
    assert exit_of_jobs([gated, missing]) == Exit.FAILED
    assert exit_of_code("token_invalid") == Exit.NOT_ALLOWED


def test_up_does_not_wait_for_startup_models() -> None:
    assert readiness._STARTUP_MODELS == PART


def test_what_a_job_does_is_told_in_words() -> None:
    waiting = job(retry_at="2026-01-02T03:04:05+00:00", last_error_code="hub_unavailable")
    assert doing(waiting).startswith("again at ")
    assert doing(waiting).endswith("(hub_unavailable)")
    assert doing(job(status="failed", error_code="disk_full")) == "failed (disk_full)"
    assert doing(job()) == "waiting"

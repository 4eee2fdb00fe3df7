"""Views: what a client sees of a job in each of its states."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import structs

from api.views import Places, attempt_page, job_view, limit_page, progress_view, readiness_view, result_line, started
from api.wire import JobView
from common.records import AttemptRecord, HubRecord, JobRecord, LimitRecord
from common.spec import JobSpec, Progress
from common.vocabulary import JobState, LimitScope, Phase, Precision, Priority, StageKind, StageState
from tests.builders import a_conversion, a_download

AT = datetime(2026, 5, 4, 3, 2, 1, 5, UTC)
PLACES = Places(models_dir=Path("/opt/models"), model_path="/home/user/models")
CONTRACT_KEYS = {
    "id",
    "job_id",
    "operation_type",
    "model_name",
    "hub",
    "output_dir",
    "status",
    "start_time",
    "creation_time",
    "plugin_name",
    "plugin",
    "model_type",
}


def a_record(spec: JobSpec | None = None, state: JobState = JobState.QUEUED, **more: Any) -> JobRecord:
    if state in {JobState.COMPLETED, JobState.FAILED, JobState.CANCELED}:
        more.setdefault("ended_at", AT + timedelta(minutes=1))
    return JobRecord(id="j1", spec=spec or a_download(), state=state, created_at=AT, **more)


def seen(record: JobRecord, places: Places = PLACES) -> dict[str, Any]:
    job: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(job_view(record, places)))
    return job


def running(stage: StageKind, progress: Progress | None = None, **more: Any) -> dict[str, Any]:
    return {"stage": stage, "stage_state": StageState.RUNNING, "progress": progress, "attempt": 1, **more}


def fetching(done: int, total: int | None, **more: Any) -> Progress:
    return Progress(phase=Phase.DOWNLOADING, bytes_done=done, bytes_total=total, **more)


def test_case_29_a_waiting_job_has_every_key_and_no_end() -> None:
    job = seen(a_record())
    assert set(job) >= CONTRACT_KEYS
    assert job["id"] == job["job_id"] == "j1"
    assert job["start_time"] == job["creation_time"]
    assert not {"completion_time", "error", "error_code", "hint", "result", "path"} & set(job)
    assert job["status"] == "queued"


@pytest.mark.parametrize("state", list(JobState))
def test_case_29_no_key_of_the_contract_is_null_but_the_type(state: JobState) -> None:
    job = seen(a_record(state=state, result={"path": "/opt/models/x"}))
    nullable = {"model_type", "revision"}
    assert [key for key, value in job.items() if value is None and key not in nullable] == []


@pytest.mark.parametrize("state", [JobState.COMPLETED, JobState.FAILED, JobState.CANCELED])
def test_case_31_times_are_readable_by_old_pythons_too(state: JobState) -> None:
    job = seen(a_record(state=state))
    for key in ("start_time", "creation_time", "completion_time"):
        assert datetime.fromisoformat(job[key]).tzinfo is not None
        assert job[key].endswith("+00:00")


def test_case_31_a_failed_job_says_why_and_what_to_do() -> None:
    job = seen(a_record(state=JobState.FAILED, error_code="source_gated", error="Gated.", hint="Set HF_TOKEN."))
    assert (job["error"], job["error_code"], job["hint"]) == ("Gated.", "source_gated", "Set HF_TOKEN.")
    assert "result" not in job


def test_case_31_a_failed_job_without_words_still_has_an_error() -> None:
    job = seen(a_record(state=JobState.FAILED))
    assert job["error"]
    assert job["error_code"] == "internal"


def test_an_error_of_another_stage_does_not_show_on_a_cancelled_job() -> None:
    assert "error" not in seen(a_record(state=JobState.CANCELED, error="x", error_code="y"))


def test_a_job_says_who_asked_how_urgently_and_of_which_it_is_a_retry() -> None:
    spec = structs.replace(a_download(), priority=Priority.HIGH)
    job = seen(a_record(spec, tenant="anna", retry_of="j0"))
    assert (job["tenant"], job["priority"], job["retry_of"]) == ("anna", "high", "j0")
    assert "retry_of" not in seen(a_record())


@pytest.mark.parametrize("state", list(JobState))
def test_what_went_wrong_before_is_told_only_of_a_job_that_goes_on(state: JobState) -> None:
    tried: dict[str, Any] = {
        "last_error_code": "hub_unavailable",
        "last_error": "502",
        "retry_at": AT + timedelta(seconds=9),
    }
    job = seen(a_record(state=state, retry_of="j0", **tried))
    told = {name: job[name] for name in tried if name in job}
    if state in {JobState.QUEUED, JobState.DOWNLOADING, JobState.CONVERTING}:
        assert told == {
            "last_error_code": "hub_unavailable",
            "last_error": "502",
            "retry_at": "2026-05-04T03:02:10.000005+00:00",
        }
        assert "error" not in job
    else:
        assert told == {}
    assert job["retry_of"] == "j0"
    assert not {"retry_at", "last_error_code", "last_error"} & set(seen(a_record(state=state)))


def test_an_attempt_that_runs_has_no_end() -> None:
    runs = AttemptRecord(stage=StageKind.FETCH, number=1, worker="w", began_at=AT)
    ended = structs.replace(runs, ended_at=AT + timedelta(seconds=1), outcome="retried", error_code="c", error="e")
    first, second = msgspec.to_builtins(attempt_page([runs, ended]))["attempts"]
    assert first == {"stage": "fetch", "number": 1, "worker": "w", "began_at": "2026-05-04T03:02:01.000005+00:00"}
    assert second == {
        **first,
        "ended_at": "2026-05-04T03:02:02.000005+00:00",
        "outcome": "retried",
        "error_code": "c",
        "error": "e",
    }


def test_no_limit_is_null_and_an_open_hub_says_nothing() -> None:
    limit = LimitRecord(scope=LimitScope.POOL, name="convert", max_running=1)
    closed = HubRecord(name="b", running=2, resumes_at=AT, reason="rate_limited")
    assert msgspec.to_builtins(limit_page([limit], [HubRecord(name="a"), closed])) == {
        "limits": [{"scope": "pool", "name": "convert", "max_running": 1, "bytes_per_s": None}],
        "hubs": [
            {"name": "a", "running": 0},
            {"name": "b", "running": 2, "resumes_at": "2026-05-04T03:02:01.000005+00:00", "reason": "rate_limited"},
        ],
    }


def test_case_45_a_download_shows_the_directory_asked_for_and_its_hub_folder() -> None:
    result = {"path": "/opt/models/x/huggingface/org_model", "revision": "abc", "licence": None, "reused": True}
    job = seen(a_record(a_download(root="x"), JobState.COMPLETED, result=result))
    assert job["output_dir"] == "/opt/models/x"
    assert job["path"] == "/opt/models/x/huggingface/org_model"
    assert job["result"] == {
        "model_name": "org/model",
        "source": "huggingface",
        "success": True,
        "download_path": "/home/user/models/x/huggingface",
        "revision": "abc",
        "reused": True,
    }


def test_case_56_a_conversion_shows_the_folder_of_its_precision() -> None:
    spec = a_conversion("Org/Model", root="Mixed", serving={"cache_size": 4})
    job = seen(a_record(spec, JobState.COMPLETED, result={"path": "p", "versions": {"nncf": "3"}}))
    assert job["output_dir"] == "/opt/models/Mixed/openvino_models/cpu/int8"
    assert job["plugin_name"] == job["plugin"] == "openvino"
    assert job["result"] == {
        "model_name": "Org/Model",
        "source": "openvino",
        "success": True,
        "type": "llm",
        "conversion_path": "/home/user/models/Mixed/openvino_models/cpu/int8",
        "is_ovms": True,
        "config": {"precision": "int8", "device": "CPU", "cache": 4},
        "message": job["result"]["message"],
        "mode": "convert",
        "versions": {"nncf": "3"},
    }
    assert job["result"]["message"]


def test_case_57_the_precision_shown_is_the_one_that_was_made() -> None:
    spec = a_conversion(precision=Precision.INT4, device="NPU")
    job = seen(a_record(spec, JobState.COMPLETED))
    assert job["output_dir"] == "/opt/models/openvino_models/npu/int4"
    assert job["result"]["config"] == {"precision": "int4", "device": "NPU"}


@pytest.mark.parametrize(
    ("models_dir", "model_path", "told"),
    [
        ("/opt/models", "/srv/m", "/srv/m/huggingface"),
        ("/opt/models", "", "models/huggingface"),
        ("/opt/models", "models", "models/huggingface"),
        ("/data/models", "/srv/m", "/data/models/huggingface"),
        ("/opt/models2", "/srv/m", "/opt/models2/huggingface"),
    ],
)
def test_only_the_documented_mount_point_is_translated(models_dir: str, model_path: str, told: str) -> None:
    job = seen(a_record(state=JobState.COMPLETED), Places(models_dir=Path(models_dir), model_path=model_path))
    assert job["result"]["download_path"] == told
    assert job["output_dir"] == models_dir


def test_case_34_a_line_of_the_results() -> None:
    download = msgspec.to_builtins(result_line(a_record(state=JobState.COMPLETED), PLACES))
    conversion = msgspec.to_builtins(result_line(a_record(a_conversion(), JobState.COMPLETED), PLACES))
    assert (download["status"], download["is_ovms"], conversion["is_ovms"]) == ("success", False, True)
    assert conversion["model_path"] == "/opt/models/openvino_models/cpu/int8"


def test_the_progress_of_a_download() -> None:
    record = a_record(
        state=JobState.DOWNLOADING,
        **running(StageKind.FETCH, fetching(250, 1000, files_done=1, files_total=4, bytes_resumed=50, speed_bps=100.0)),
    )
    assert msgspec.to_builtins(progress_view(record)) == {
        "phase": "downloading",
        "percent": 24.8,
        "bytes_done": 250,
        "bytes_total": 1000,
        "files_done": 1,
        "files_total": 4,
        "bytes_resumed": 50,
        "speed_bps": 100.0,
        "eta_s": 7.5,
    }


def test_nobody_knows_the_percentage_without_a_total() -> None:
    progress = progress_view(a_record(**running(StageKind.FETCH, fetching(250, None, speed_bps=10.0))))
    assert (progress.percent, progress.eta_s) == (None, None)


def test_a_fetch_that_waits_for_another_attempt_has_no_speed() -> None:
    waiting = a_record(
        stage=StageKind.FETCH, stage_state=StageState.QUEUED, progress=fetching(1, 2, speed_bps=9.0), attempt=1
    )
    progress = progress_view(waiting)
    assert (progress.phase, progress.speed_bps, progress.eta_s) == (Phase.WAITING, None, None)
    assert progress.bytes_done == 1


def a_life(spec: JobSpec) -> list[JobRecord]:
    """The pictures of a job from its submission to its end."""
    whole = fetching(1000, 1000, speed_bps=5.0)
    life = [
        a_record(spec),
        a_record(spec, JobState.DOWNLOADING, **running(StageKind.FETCH)),
        a_record(spec, JobState.DOWNLOADING, **running(StageKind.FETCH, Progress(phase=Phase.RESOLVING))),
        a_record(spec, JobState.DOWNLOADING, **running(StageKind.FETCH, fetching(500, 1000))),
        a_record(spec, JobState.DOWNLOADING, **running(StageKind.FETCH, whole)),
    ]
    if spec.target is not None:
        half = Progress(phase=Phase.CONVERTING, bytes_done=5, bytes_total=10)
        life += [
            a_record(spec, JobState.CONVERTING, stage=StageKind.CONVERT, stage_state=StageState.QUEUED, fetched=whole),
            a_record(spec, JobState.CONVERTING, **running(StageKind.CONVERT, fetched=whole)),
            a_record(spec, JobState.CONVERTING, **running(StageKind.CONVERT, half, fetched=whole)),
        ]
    last: dict[str, Any] = {"stage": StageKind.PUBLISH, "fetched": whole}
    return [
        *life,
        a_record(spec, stage_state=StageState.QUEUED, **last),
        a_record(spec, stage_state=StageState.RUNNING, **last),
        a_record(spec, JobState.COMPLETED, stage_state=StageState.SUCCEEDED, **last),
    ]


@pytest.mark.parametrize("spec", [a_download(), a_conversion()], ids=["download", "conversion"])
def test_the_bar_never_goes_back_and_is_full_only_at_the_end(spec: JobSpec) -> None:
    percents = [progress_view(record).percent for record in a_life(spec)]
    known = [percent for percent in percents if percent is not None]
    assert len(known) == len(percents)
    assert known == sorted(known)
    assert known[0] == 0
    assert known[-1] == 100
    assert all(percent < 100 for percent in known[:-1])


@pytest.mark.parametrize("spec", [a_download(), a_conversion()], ids=["download", "conversion"])
def test_the_bytes_stay_when_the_fetch_has_ended(spec: JobSpec) -> None:
    later = [progress_view(record) for record in a_life(spec)[4:]]
    assert {(progress.bytes_done, progress.bytes_total) for progress in later} == {(1000, 1000)}
    assert [progress.speed_bps for progress in later[1:]] == [None] * (len(later) - 1)
    assert later[-1].phase is Phase.DONE


def test_what_the_hub_lists_wrong_does_not_overfill_the_bar() -> None:
    progress = progress_view(a_record(**running(StageKind.FETCH, fetching(3000, 1000, speed_bps=1.0))))
    assert progress.percent == 99.0
    assert progress.eta_s == 0


def test_an_empty_source_is_whole_at_once() -> None:
    assert progress_view(a_record(**running(StageKind.FETCH, fetching(0, 0)))).percent == 99.0


def test_the_answer_to_a_submission_is_byte_for_byte_that_of_the_contract() -> None:
    body = msgspec.json.encode(started(["j1"]))
    assert body == b'{"message":"Started processing 1 model(s)","job_ids":["j1"],"status":"processing"}'


def test_a_client_can_read_every_view_back() -> None:
    for record in [*a_life(a_conversion()), *a_life(a_download()), a_record(state=JobState.FAILED)]:
        view = job_view(record, PLACES)
        assert msgspec.json.decode(msgspec.json.encode(view), type=JobView) == view


def test_one_missing_part_makes_the_service_unready() -> None:
    assert readiness_view({"a": None, "b": None}).status == "ready"
    assert msgspec.to_builtins(readiness_view({"a": None, "b": "gone"})) == {
        "status": "not ready",
        "parts": {"a": "ok", "b": "gone"},
    }

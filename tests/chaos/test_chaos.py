"""A short run of chaos on each database, and the controls: without a safeguard, the same run must fail."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from tests.chaos.plan import Database, FaultKind, make_plan

_ROOT = Path(__file__).parent.parent.parent
_SEED = 20
_CLEAN = ("lost", "corrupt", "half_published", "duplicate_effects", "leaked", "inconsistent")


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("database", get_args(Database))
def test_no_accepted_job_is_lost_and_nothing_happens_twice(database: Database, tmp_path: Path) -> None:
    code, result, told = chaos(tmp_path, jobs=70, faults=16, database=database)
    assert {name: result[name] for name in _CLEAN} == dict.fromkeys(_CLEAN, 0), told
    assert (result["accepted"], result["faults"], code) == (70, 16, 0), told
    assert result["runs"] > result["accepted"], "nothing was ever done again: that was no chaos"


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_control_without_a_reconciler_jobs_are_lost(tmp_path: Path) -> None:
    code, result, told = chaos(tmp_path, jobs=8, faults=2, mutant="no_reconcile", patience=12)
    assert result["lost"] > 0, told
    assert code != 0


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_control_without_a_fence_effects_happen_twice(tmp_path: Path) -> None:
    code, result, told = chaos(tmp_path, jobs=8, faults=2, mutant="no_fence")
    assert result["duplicate_effects"] > 0, told
    assert code != 0


@pytest.mark.parametrize("database", get_args(Database))
def test_one_seed_makes_one_plan(database: Database) -> None:
    plans = [make_plan(seed, 200, 40, database) for seed in (1, 1, 2)]
    assert plans[0] == plans[1]
    assert plans[0].digest != plans[2].digest


@pytest.mark.parametrize("database", get_args(Database))
def test_even_a_short_run_leaves_no_kind_of_fault_out(database: Database) -> None:
    plan = make_plan(_SEED, 70, 16, database)
    assert {order.kind for order in plan.faults} == set(FaultKind)
    assert len(plan.faults) == 14
    assert plan.wishes == 68


def test_the_watcher_misses_nothing_however_short(tmp_path: Path) -> None:
    place, elsewhere = tmp_path / "huggingface", tmp_path / "elsewhere"
    place.mkdir()
    (elsewhere / "model").mkdir(parents=True)
    command = [sys.executable, "-m", "tests.chaos.watcher", str(tmp_path), str(place)]
    with subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == "watching\n"
        for _ in range(500):
            (elsewhere / "model").rename(place / "model")
            (place / "model").rename(elsewhere / "model")
        (place / "begun").mkdir()
        report = json.loads(watcher.communicate()[0])
    assert report["moved"] == {"huggingface/model": 500}
    assert report["sights"].count("huggingface/model: taken away") == 500
    assert "huggingface/model: There is no usable .modelferry.json" in report["sights"]
    assert "huggingface/begun: made in place, not renamed into it" in report["sights"]


def chaos(folder: Path, **options: object) -> tuple[int, dict[str, Any], str]:
    """A run in a process of its own: exit code, result, and all that it has told."""
    given = {"seed": _SEED, "folder": folder, **options}
    arguments = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", *arguments], cwd=_ROOT, capture_output=True, text=True, check=False
    )
    first, *_, last = done.stdout.splitlines() or ["", ""]
    told = f"{done.stdout}\n{done.stderr}"
    assert first.startswith(f"seed {_SEED}"), told
    return done.returncode, json.loads(last), told

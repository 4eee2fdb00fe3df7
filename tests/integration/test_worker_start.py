"""A worker that could not do its work says why, and does not start."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def start(tmp_path: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "MODELS_DIR": str(tmp_path / "models"),
        "REDIS_URL": "redis://127.0.0.1:1/0",
        **variables,
    }
    return subprocess.run(
        [sys.executable, "-m", "worker", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_torchvision_that_does_not_fit_is_named(tmp_path: Path) -> None:
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    ended = start(tmp_path, "convert", PYTHONPATH=str(tmp_path))
    assert ended.returncode == 2
    assert "torchvision cannot be imported" in ended.stderr
    assert "torchvision::nms" in ended.stderr
    assert "Uninstall torchvision" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "variables", "word"),
    [
        (("nonsense",), {}, "usage"),
        (("download",), {"MODELFERRY_NONSENSE": "1"}, "MODELFERRY_NONSENSE"),
        (("download",), {"MODELFERRY_LEASE_S": "soon"}, "MODELFERRY_LEASE_S"),
        (("download",), {"ENABLED_PLUGINS": "huggingfaec"}, "huggingfaec"),
    ],
)
def test_a_wrong_word_is_named(
    tmp_path: Path, arguments: tuple[str, ...], variables: dict[str, str], word: str
) -> None:
    ended = start(tmp_path, *arguments, **variables)
    assert ended.returncode == 2
    assert word in ended.stderr
    assert "Traceback" not in ended.stderr

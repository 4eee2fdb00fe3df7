"""Measure small conversions on a warm worker against a cold `optimum-cli export openvino`, in turn, in one run.

Ours is the whole job, from the POST to `completed`: fetch, convert, compile and run once, publish. The rival only
converts a directory that is already there. Run it on an idle machine: `python bench/convert.py [--rounds 5]`.
The last line is JSON: `small_vs_optimum_cli` is the median of our seconds divided by the rival's; less is better.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.e2e.service import Service
from tests.fakes.huggingface import FakeHuggingFace
from tests.fakes.tiny_models import tiny_bert, tiny_llama

CASES: tuple[tuple[str, str, str, str, Callable[[Path], object]], ...] = (
    ("bench/bert", "embeddings", "feature-extraction", "int8", tiny_bert),
    ("bench/llama", "llm", "text-generation-with-past", "int8", tiny_llama),
)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=5)
    rounds = arguments.parse_args().rounds
    # The services and libraries that are measured talk a lot; it goes to stderr.
    with tempfile.TemporaryDirectory() as name, redirect_stdout(sys.stderr):
        report = _measure(Path(name), rounds)
    results = Path(__file__).parent / "results" / "convert.json"
    results.parent.mkdir(exist_ok=True)
    results.write_text(json.dumps(report, indent=2))
    for model, seconds in report["seconds"].items():
        print(
            f"{model:14} optimum-cli {seconds['optimum_cli']:6.2f} s   whole job {seconds['job']:6.2f} s   "
            f"conversion, check and publication {seconds['claim_to_published']:6.2f} s   ratio {seconds['ratio']:.3f}"
        )
    print(json.dumps({"small_vs_optimum_cli": report["small_vs_optimum_cli"]}))


def _measure(folder: Path, rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    models = {}
    for model, _, _, _, make in CASES:
        models[model] = folder / model.replace("/", "-")
        make(models[model])
    with FakeHuggingFace() as hub:
        for model, path in models.items():
            hub.add_directory(model, path)
        with Service(folder / "service", HF_ENDPOINT=hub.endpoint) as service:
            for model, kind, _, precision, _ in CASES:
                _job(service, hub, model, kind, precision, "warm-up")
            return _report(service, hub, models, folder, rounds)


def _report(
    service: Service, hub: FakeHuggingFace, models: dict[str, Path], folder: Path, rounds: int
) -> dict[str, dict[str, dict[str, float]]]:
    seconds = {}
    ratios = []
    for model, kind, task, precision, _ in CASES:
        rows = []
        for number in range(rounds):
            cli = _optimum_cli(models[model], task, precision, folder / f"cli-{number}", folder)
            job, claimed = _job(service, hub, model, kind, precision, str(number))
            rows.append((cli, job, claimed))
        ratio = statistics.median(claimed / cli for cli, _, claimed in rows)
        ratios.append(ratio)
        seconds[model] = {
            "optimum_cli": statistics.median(row[0] for row in rows),
            "job": statistics.median(row[1] for row in rows),
            "claim_to_published": statistics.median(row[2] for row in rows),
            "ratio": ratio,
        }
    # The worse of the two: a small model is any small model.
    return {"seconds": seconds, "small_vs_optimum_cli": round(max(ratios), 4)}


def _job(
    service: Service, hub: FakeHuggingFace, model: str, kind: str, precision: str, tag: str
) -> tuple[float, float]:
    """Seconds of one whole job, and of its part after the fetch, on content that was never converted before."""
    hub.commit(model, {"round.txt": f"{tag} {time.time_ns()}".encode()})
    began = time.monotonic()
    wish = {"name": model, "hub": "openvino", "type": kind, "is_ovms": True, "config": {"precision": precision}}
    (job_id,) = service.submit(wish, download_path=tag)
    converting = None
    while (job := service.job(job_id))["status"] not in {"completed", "failed", "canceled"}:
        if converting is None and job["status"] == "converting":
            converting = time.monotonic()
        time.sleep(0.01)
    ended = time.monotonic()
    if job["status"] != "completed" or job["result"]["reused"]:
        raise SystemExit(f"the job did not do its work: {job}")
    return ended - began, ended - (converting or began)


def _optimum_cli(model: Path, task: str, precision: str, output: Path, folder: Path) -> float:
    home = folder / "home"
    (home / "intel").mkdir(parents=True, exist_ok=True)
    (home / "intel" / "openvino_telemetry").write_text("0")
    command = [
        str(Path(sys.executable).parent / "optimum-cli"), "export", "openvino", "--model", str(model),
        "--task", task, "--weight-format", precision, str(output),
    ]  # fmt: skip
    environment = {**os.environ, "HOME": str(home), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    began = time.monotonic()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return time.monotonic() - began


if __name__ == "__main__":
    main()

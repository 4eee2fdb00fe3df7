"""The whole way of one real model: from a hub on loopback, converted to INT8, published, and compared.

Run it as `make demo`. The last line is one JSON object with what was measured.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from api.embedded.console import Console
from api.embedded.process import Process, python
from api.embedded.redis_server import LOOPBACK, free_port
from common.settings import VARIABLES
from scripts.progress import progress_display
from tests.fakes.tiny_models import MINILM_NAME, minilm_repo

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".demo"
REQUEST = {
    "models": [
        {
            "name": MINILM_NAME,
            "hub": "huggingface",
            "type": "embeddings",
            "is_ovms": True,
            "config": {"precision": "int8"},
        }
    ]
}
LEAST_COSINE = 0.99
HUB_BYTES_PER_S = 3_000_000
"""How fast the hub sends on one connection: slow enough to watch."""
READY_WITHIN_S = 120.0
DONE_WITHIN_S = 600.0
ENDED = {"completed", "failed", "canceled"}


class DemoFailed(Exception):
    """The demo has not shown what it should. The message says why."""


def main() -> int:
    begun = time.monotonic()
    FOLDER.mkdir(exist_ok=True)
    log = FOLDER / "service.log"
    try:
        with log.open("w", encoding="utf-8") as stream:
            summary = demonstrate(Console(stream, colour=False))
    except KeyboardInterrupt:
        print("\nStopped.")
        return 130
    except (DemoFailed, httpx.HTTPError) as error:
        print(f"\nThe demo failed: {error}\nThe end of {log.relative_to(ROOT)}:", flush=True)
        print("\n".join(log.read_text(encoding="utf-8").splitlines()[-40:]))
        return 1
    print(json.dumps({**summary, "seconds": round(time.monotonic() - begun, 1)}), flush=True)
    return 0 if summary["cosine"] >= LEAST_COSINE else 1


def demonstrate(console: Console) -> dict[str, Any]:
    original = FOLDER / "hub" / MINILM_NAME
    # Made once: the hub derives the commit from the files and their times, and a new commit is a new model.
    if not (original / "model.safetensors").exists():
        minilm_repo(FOLDER / "hub")
    source_bytes = (original / "model.safetensors").stat().st_size
    print(f"The model: {MINILM_NAME}, {megabytes(source_bytes)} of real weights.")
    with (
        hub(console) as endpoint,
        service(endpoint, console) as address,
        httpx.Client(base_url=address, trust_env=False, timeout=10) as client,
    ):
        job, first_s = submit_and_watch(client)
        if job["result"].get("reused"):
            print(f"A cache hit from the start: an earlier run had published this very model ({first_s:.2f} s).")
        published = Path(job["path"])
        print(f"Published: {published}")
        result = compare(original, published)
        again, again_s = submit_and_watch(client)
        if not again["result"].get("reused"):
            raise DemoFailed("the same request again was not a cache hit")
        print(f"The same request again was a cache hit: completed after {again_s:.2f} s.")
    ir_bytes = (published / "openvino_model.bin").stat().st_size
    print(
        f"Weights: {megabytes(source_bytes)} -> {megabytes(ir_bytes)}, {source_bytes / ir_bytes:.2f} times smaller.\n"
        f"Embeddings of {result['sentences']} sentences against the original: cosine at least {result['cosine']:.5f}."
    )
    if result["cosine"] < LEAST_COSINE:
        print(f"That is less than {LEAST_COSINE}: the conversion is not good enough.")
    return {
        "path": str(published),
        "cosine": round(result["cosine"], 6),
        "compression": round(source_bytes / ir_bytes, 3),
        "cache_hit_seconds": round(again_s, 3),
    }


@contextmanager
def hub(console: Console) -> Iterator[str]:
    """A Hugging Face hub on loopback, with one model. Its address."""
    port = free_port()
    endpoint = f"http://{LOOPBACK}:{port}"
    options = ["--root", str(FOLDER / "hub"), "--port", str(port), "--rate", str(HUB_BYTES_PER_S)]
    # Not with `python()`: the hub is part of the tests, which are found through the current directory only.
    process = Process("hub", [sys.executable, "-m", "tests.fakes.huggingface", *options], environment(), console)
    with running(process):
        wait_until(lambda: answers(endpoint, "/api/models/" + MINILM_NAME), process, READY_WITHIN_S)
        print(f"A hub that speaks Hugging Face's protocol: {endpoint}, {megabytes(HUB_BYTES_PER_S)}/s per connection.")
        yield endpoint


@contextmanager
def service(endpoint: str, console: Console) -> Iterator[str]:
    """The embedded service, with the hub on loopback for its Hugging Face. Its address."""
    port = free_port()
    address = f"http://{LOOPBACK}:{port}"
    command = python("api.cli", "up", "--models-dir", str(FOLDER / "models"), "--host", LOOPBACK, "--port", str(port))
    process = Process("up", command, {**environment(), "HF_ENDPOINT": endpoint}, console)
    with running(process):
        begun = time.monotonic()
        wait_until(lambda: answers(address, "/ready"), process, READY_WITHIN_S)
        print(f"The service: {address}, ready after {time.monotonic() - begun:.1f} s.")
        yield address


@contextmanager
def running(process: Process) -> Iterator[None]:
    process.start()
    try:
        yield
    finally:
        process.ask_to_end()
        process.wait(45)
        process.kill()


def environment() -> dict[str, str]:
    """The user's environment without any setting of Modelferry: the demo is the same everywhere."""
    own = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    own.pop("HUGGINGFACEHUB_API_TOKEN", None)
    return {**own, "NO_PROXY": LOOPBACK, "no_proxy": LOOPBACK}


def wait_until(fulfilled: Callable[[], bool], process: Process, timeout_s: float) -> None:
    until = time.monotonic() + timeout_s
    while not fulfilled():
        if not process.running:
            raise DemoFailed(f"{process.name} {process.ending()}")
        if time.monotonic() > until:
            raise DemoFailed(f"{process.name} is not ready after {timeout_s:.0f} s")
        time.sleep(0.1)


def answers(address: str, path: str) -> bool:
    try:
        return httpx.get(address + path, trust_env=False, timeout=5).is_success
    except httpx.TransportError:
        return False


def submit_and_watch(client: httpx.Client) -> tuple[dict[str, Any], float]:
    """The job, completed, and the seconds from the request to there."""
    begun = time.monotonic()
    answer = client.post("/api/v1/models/download", params={"download_path": "."}, json=REQUEST)
    if answer.is_error:
        raise DemoFailed(f"the request was refused: {answer.status_code} {answer.text}")
    [job_id] = answer.json()["job_ids"]
    print(f"POST /api/v1/models/download?download_path=. -> job {job_id}")
    with progress_display() as show:
        while True:
            job: dict[str, Any] = client.get(f"/api/v1/jobs/{job_id}").json()
            show(job)
            if job["status"] in ENDED:
                break
            if time.monotonic() - begun > DONE_WITHIN_S:
                raise DemoFailed(f"the job is still {job['status']} after {DONE_WITHIN_S:.0f} s")
            time.sleep(0.05)
    if job["status"] != "completed":
        raise DemoFailed(f"the job {job['status']}: {job.get('error_code')}: {job.get('error')}")
    return job, time.monotonic() - begun


def compare(original: Path, published: Path) -> dict[str, Any]:
    """How alike the two models' embeddings are, found out in a process that keeps OpenVINO's habits to itself."""
    home = FOLDER / "home"
    consent = home / "intel" / "openvino_telemetry"
    consent.parent.mkdir(parents=True, exist_ok=True)
    consent.write_text("0")
    done = subprocess.run(
        [sys.executable, "-m", "scripts.compare_embeddings", str(original), str(published)],
        cwd=ROOT,
        env={**environment(), "HOME": str(home), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise DemoFailed(f"the models cannot be compared:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


if __name__ == "__main__":
    sys.exit(main())

"""Runs schemathesis over the OpenAPI document of a service of its own, on loopback, with a stand-in for the hub.

    python -m tests.fuzz [--examples 100] [--seed N]

The last line is JSON: how many requests were made, how many failures were found, and the seed that repeats the run.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.e2e.service import Service
from tests.fakes.huggingface import FakeHuggingFace

CONFIG = Path(__file__).with_name("schemathesis.toml")
MODEL = {"config.json": b"{}", "model.safetensors": bytes(10_000)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=100, help="how many requests are made up for each operation")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="repeats a run")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, FakeHuggingFace() as hub:
        hub.add_repo("org/model", MODEL)
        parts = ("redis", "api", "download", "reconcile")
        with Service(Path(folder), run=parts, HF_ENDPOINT=hub.endpoint, MODELFERRY_LOG_LEVEL="error") as service:
            service.submit({"name": "org/model", "hub": "huggingface"})
            found = fuzz(service.url(), Path(folder), examples=asked.examples, seed=asked.seed)
    print(json.dumps({**found, "seed": asked.seed}))
    sys.exit(1 if found["failures"] or not found["requests"] else 0)


def fuzz(url: str, folder: Path, *, examples: int, seed: int) -> dict[str, int]:
    """Make requests to the service at `url`, and count them and the failures that schemathesis sees."""
    report = folder / "requests.ndjson"
    command = [
        *(str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(CONFIG), "run"),
        *(f"{url}/openapi.json", "--url", url, "--checks", "all", "--max-examples", str(examples)),
        *("--seed", str(seed), "--continue-on-failure", "--report", "ndjson", "--report-ndjson-path", str(report)),
    ]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    print(done.stdout)
    generated = re.search(r"([\d,]+) generated", done.stdout)
    failures = re.search(r"([\d,]+) (?:unique )?failures?", done.stdout)
    if done.returncode not in {0, 1} or generated is None:
        raise SystemExit(f"schemathesis has ended with {done.returncode}")
    return {
        "requests": int(generated[1].replace(",", "")),
        "failures": int(failures[1].replace(",", "")) if failures else done.returncode,
    }


if __name__ == "__main__":
    main()

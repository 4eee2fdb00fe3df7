"""Measures the byte mover against the hub's own client and curl, on loopback, all in one run.

    python bench/transfer.py [--size-mb 2048] [--rounds 5] [--quick]

Each client is a process of its own; clients take turns, and the best round of each counts. Of the two Python clients
the transfer is timed, not the interpreter's start: a worker has its libraries loaded. Ours checks every byte's sha256,
the other two check none. Ratios say how many times faster ours is. The last line is JSON.
"""

from __future__ import annotations

import sys
from pathlib import Path

# As a script this file's own directory comes first, and the standard library's `queue` would be one of ours.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results" / "transfer.json"
RATE_BPS = 20_000_000
SHARDS = 8
MIB = 1024 * 1024
PIECE = 8 * MIB
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
    "PYTHONPATH": str(ROOT),
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
}


@dataclass(frozen=True)
class Cost:
    """What one client's process took."""

    wall_s: float
    cpu_s: float
    peak_mb: float


@dataclass(frozen=True)
class Hub:
    """A stand-in of the hub in a process of its own."""

    endpoint: str
    access_log: Path

    def bytes_served(self) -> int:
        lines = [json.loads(line) for line in self.access_log.read_text().splitlines()]
        return sum(line["bytes"] for line in lines if line["origin"] == "cdn")


def main() -> None:
    options = _options()
    if options.client:
        _run_client(options)
        return
    size_mb, limited_mb, rounds = options.size_mb, options.limited_mb, options.rounds
    if options.quick:
        size_mb, limited_mb, rounds = min(size_mb, 512), min(limited_mb, 256), min(rounds, 2)
    with tempfile.TemporaryDirectory(prefix="modelferry-bench-", dir=options.folder) as folder:
        results = _measure(Path(folder), size_mb, limited_mb, rounds)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({"size_mb": size_mb, "rounds": rounds, **results}, indent=2) + "\n")
    print(json.dumps(results))


def _measure(folder: Path, size_mb: int, limited_mb: int, rounds: int) -> dict[str, float]:
    repos = folder / "repos"
    _make_repo(repos / "bench" / "one", {"model.safetensors": size_mb})
    _make_repo(repos / "bench" / "shards", {f"model-{n + 1}.safetensors": size_mb // SHARDS for n in range(SHARDS)})
    _make_repo(repos / "bench" / "limited", {"model.safetensors": limited_mb})
    with _serve(repos, folder / "fast.log") as fast, _serve(repos, folder / "slow.log", RATE_BPS) as slow:
        one = _compare(fast, "bench/one", ("ours", "hub", "curl"), rounds, folder)
        _print_table(f"one file of {size_mb} MiB, loopback", one, size_mb)
        shards = _compare(fast, "bench/shards", ("ours", "hub"), rounds, folder)
        _print_table(f"{SHARDS} files of {size_mb // SHARDS} MiB, loopback", shards, size_mb)
        limited = _compare(slow, "bench/limited", ("ours", "hub"), max(1, rounds - 3), folder)
        _print_table(f"one file of {limited_mb} MiB, 20 MB/s per connection", limited, limited_mb)
        refetched = _kill_and_resume(slow, "bench/limited", limited_mb * MIB, folder)
        print(f"\nkill -9 in mid transfer, then again: {refetched / MIB:.1f} MiB were fetched twice", end="")
        print(f" (at most {16 * 8} MiB: 16 connections, blocks of 8 MiB)\n")
    return {
        "one_file_vs_hub": round(one["hub"].wall_s / one["ours"].wall_s, 2),
        "shards_vs_hub": round(shards["hub"].wall_s / shards["ours"].wall_s, 2),
        "one_file_vs_curl": round(one["curl"].wall_s / one["ours"].wall_s, 2),
        "rate_limited_vs_hub": round(limited["hub"].wall_s / limited["ours"].wall_s, 2),
        "cpu_s_per_gb": round(one["ours"].cpu_s / (size_mb * MIB / 1e9), 2),
        "refetched_bytes_after_kill": refetched,
    }


def _compare(hub: Hub, repo: str, clients: tuple[str, ...], rounds: int, folder: Path) -> dict[str, Cost]:
    """The best round of each client; they take turns, so that a busy moment hits all of them.

    Some rounds are slow: a virtual machine gets memory from its host when it is first touched, and hands it back.
    """
    costs: dict[str, list[Cost]] = {client: [] for client in clients}
    for _ in range(rounds):
        for client in clients:
            out = folder / "out"
            costs[client].append(_cost_of(_command(client, hub, repo, out), out))
    return {client: min(measured, key=lambda cost: cost.wall_s) for client, measured in costs.items()}


def _command(client: str, hub: Hub, repo: str, out: Path) -> list[str]:
    if client == "curl":
        url = f"{hub.endpoint}/{repo}/resolve/main/model.safetensors"
        return ["curl", "--silent", "--show-error", "--fail", "--location", "--output", str(out / "model"), url]
    own = [sys.executable, str(Path(__file__).resolve()), "--client", client]
    return [*own, "--endpoint", hub.endpoint, "--repo", repo, "--out", str(out)]


def _cost_of(command: list[str], out: Path) -> Cost:
    out.mkdir(parents=True)
    try:
        started = time.monotonic()
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE)
        assert process.stdout is not None
        told = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = float(told) if told else time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise SystemExit(f"{command} ended with {process.returncode}")
        return Cost(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
    finally:
        shutil.rmtree(out)


def _kill_and_resume(hub: Hub, repo: str, size: int, folder: Path) -> int:
    """How many bytes are fetched twice when a transfer is killed half way."""
    out = folder / "killed"
    out.mkdir()
    before = hub.bytes_served()
    process = subprocess.Popen(_command("ours", hub, repo, out), env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    journal_done = 0
    while journal_done < size // 2 and process.poll() is None:
        time.sleep(0.02)
        journal_done = max([_journal_bytes(journal) for journal in (out / "parts").glob("sha256-*.json")], default=0)
    process.kill()
    process.wait()
    # The hub logs a reply when it ends: wait until it has noticed that nobody listens any more.
    time.sleep(1.0)
    again = subprocess.run(_command("ours", hub, repo, out), env=ENVIRONMENT, stdout=subprocess.DEVNULL, check=False)
    if again.returncode != 0:
        raise SystemExit("the transfer that was killed could not be completed")
    shutil.rmtree(out)
    return hub.bytes_served() - before - size


def _journal_bytes(journal: Path) -> int:
    try:
        return sum(stop - start for start, stop in json.loads(journal.read_text()).get("ranges", []))
    except (OSError, ValueError):
        return 0


@contextmanager
def _serve(repos: Path, access_log: Path, rate_bps: int | None = None) -> Iterator[Hub]:
    command = [sys.executable, "-m", "tests.fakes.huggingface", "--root", str(repos), "--access-log", str(access_log)]
    if rate_bps is not None:
        command += ["--rate", str(rate_bps)]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert process.stdout is not None
        hub = Hub(json.loads(process.stdout.readline())["endpoint"], access_log)
        _warm_up(hub, repos)
        yield hub
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def _warm_up(hub: Hub, repos: Path) -> None:
    """The stand-in computes a file's hash when it is first asked for it; that is not to be measured."""
    from urllib.request import urlopen

    for repo in sorted(repos.glob("*/*")):
        with urlopen(f"{hub.endpoint}/api/models/{repo.parent.name}/{repo.name}/tree/main?recursive=true") as reply:
            reply.read()


def _make_repo(folder: Path, sizes_mb: dict[str, int]) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    noise = os.urandom(PIECE)
    for name, size_mb in sizes_mb.items():
        with (folder / name).open("wb") as file:
            for number in range(size_mb * MIB // PIECE):
                # No two pieces are equal, so no client may find content that it has already.
                file.write(f"{folder.name} {name} {number:08}".encode().ljust(64) + noise[64:])


def _run_client(options: argparse.Namespace) -> None:
    if options.client == "hub":
        os.environ["HF_HOME"] = str(options.out / "home")
        from huggingface_hub import snapshot_download

        started = time.monotonic()
        snapshot_download(options.repo, local_dir=options.out / "model", endpoint=options.endpoint, token=False)
        print(time.monotonic() - started)
        return
    from common.catalog.huggingface import HUGGINGFACE
    from common.plugins import Access, TransferLimits
    from common.spec import Source
    from tests.fakes.attempt import LocalAttempt

    plugin = HUGGINGFACE.bind({})
    hub = HUGGINGFACE.load(Access(settings={"HF_ENDPOINT": options.endpoint}))
    started = time.monotonic()
    manifest = hub.resolve(Source(hub="huggingface", name=options.repo), plugin)
    hub.fetch(manifest, plugin, LocalAttempt(options.out, TransferLimits(spare_bytes=0)))
    print(time.monotonic() - started)


def _print_table(title: str, costs: dict[str, Cost], size_mb: int) -> None:
    gb = size_mb * MIB / 1e9
    print(f"\n{title}")
    print(f"  {'':8}{'seconds':>9}{'MB/s':>8}{'CPU s/GB':>10}{'peak MB':>9}{'ours is':>10}")
    for client, cost in costs.items():
        ratio = f"{cost.wall_s / costs['ours'].wall_s:.2f} x" if client != "ours" else ""
        figures = f"{cost.wall_s:9.2f}{gb * 1e3 / cost.wall_s:8.0f}{cost.cpu_s / gb:10.2f}{cost.peak_mb:9.0f}"
        print(f"  {client:8}{figures}{ratio:>10}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-mb", type=int, default=2048)
    parser.add_argument("--limited-mb", type=int, default=512, help="size of the file at 20 MB/s per connection")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small files and fewer rounds")
    parser.add_argument("--folder", type=Path, help="where the files go meanwhile; the system's choice by default")
    parser.add_argument("--client", choices=("ours", "hub"), help=argparse.SUPPRESS)
    parser.add_argument("--endpoint", help=argparse.SUPPRESS)
    parser.add_argument("--repo", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()

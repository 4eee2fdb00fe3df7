"""Measure conversions on a warm worker against `optimum-cli export openvino`, in turn, on the same models, in one run.

    python -m bench.convert [--only small one three pairs] [--models bert llama 0.5B 1.1B] [--precisions fp16 int8 int4]
                            [--rounds 3] [--folder DIR]

small   tiny models, one precision: what the start of a process costs
one     models of 0.49 and 1.1 billion random parameters, one precision a job
three   the same in three precisions: three jobs, posted together, against three runs of the rival
pairs   two conversions at a time: two slots of one worker, against two processes of the rival

Two parts of our job are held against a run of the rival's. What the rival does as well: load, trace, compress, write;
from the start of the conversion until the last of the graphs and weights is written, by the times of the files. And the
whole job, until it is `completed`: also run the model to prove it, take the digests, write through to the
disk, publish. The rival converts a directory. Its threads are its own choice, as users run it; telemetry is off on both
sides, which only helps the rival. Memory is the largest resident set that a converting process had, the libraries that
it shares with its fork server included. Run it on an idle machine.

The last line is JSON, with the worst over the models of the medians of ours divided by the rival's; less is better.
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.e2e.service import ENDED, Service
from tests.fakes.huggingface import FakeHuggingFace
from worker.machine import threads_per_slot

GB = 1e9
PARTS = ("small", "one", "three", "pairs")
PRECISIONS = ("fp16", "int8", "int4")
LLM = ("llm", "text-generation-with-past")
KINDS = {"bert": ("embeddings", "feature-extraction"), "llama": LLM, "0.5B": LLM, "1.1B": LLM}
"""Model -> (our type, the rival's task)."""
SHAPES: dict[str, dict[str, Any]] = {
    "0.5B": {
        "vocab_size": 65536, "hidden_size": 1024, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 16, "num_key_value_heads": 4, "tie_word_embeddings": True,
    },
    "1.1B": {
        "vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22,
        "num_attention_heads": 32, "num_key_value_heads": 4, "tie_word_embeddings": False,
    },
}  # fmt: skip
NEEDED_GB = {"bert": 0.1, "llama": 0.1, "0.5B": 7.0, "1.1B": 15.0}
"""For the model, its copy in the store, and what both sides write at a time."""
_LOOK_S = 0.02
_ASK_S = {"bert": 0.02, "llama": 0.02, "0.5B": 0.1, "1.1B": 0.1}
"""Asking costs the service time, too, which is to be small beside the run."""


@dataclass(frozen=True)
class Run:
    """What one run took."""

    seconds: float
    cpu_s: float
    peak_bytes: int


@dataclass
class Case:
    """One comparison: in each round, a run of the rival's and one of ours."""

    part: str
    model: str
    precision: str
    rival: list[Run] = field(default_factory=list)
    ours: list[Run] = field(default_factory=list)
    jobs_s: list[float] = field(default_factory=list)
    """From the POST to `completed`, the fetch included."""
    exports_s: list[float] = field(default_factory=list)
    """What of our runs is the rival's work, too."""
    different: set[str] = field(default_factory=set)
    """The `.bin` files that are not the rival's, byte for byte."""
    predicted_bytes: int | None = None

    def ratio(self, name: str) -> float:
        pairs = zip(self.ours, self.rival, strict=True)
        return statistics.median(getattr(mine, name) / getattr(his, name) for mine, his in pairs)

    @property
    def export_ratio(self) -> float:
        return statistics.median(mine / his.seconds for mine, his in zip(self.exports_s, self.rival, strict=True))

    def report(self) -> dict[str, Any]:
        peak = statistics.median(run.peak_bytes for run in self.ours)
        return {
            **asdict(self),
            "different": sorted(self.different),
            "identical": not self.different,
            "export_ratio": round(self.export_ratio, 4),
            "job_ratio": round(self.ratio("seconds"), 4),
            "cpu_ratio": round(self.ratio("cpu_s"), 4),
            "peak_memory_ratio": round(self.ratio("peak_bytes"), 4),
            "predicted_to_measured": None if self.predicted_bytes is None else round(self.predicted_bytes / peak, 3),
        }

    def line(self) -> str:
        report = self.report()
        predicted = "" if self.predicted_bytes is None else f" (predicted {self.predicted_bytes / GB:.2f})"
        return (
            f"{self.part:6} {self.model:6} {self.precision:15}"
            f" optimum-cli {_median(self.rival)}   Modelferry {_median(self.ours)}{predicted}"
            f"   export {report['export_ratio']:.3f}, job {report['job_ratio']:.3f}, CPU {report['cpu_ratio']:.3f},"
            f" memory {report['peak_memory_ratio']:.2f}"
            f"   {'identical' if report['identical'] else 'DIFFERENT: ' + ', '.join(report['different'])}"
        )


def _median(runs: Sequence[Run]) -> str:
    seconds, cpu_s, peak = (statistics.median(values) for values in zip(*map(_values, runs), strict=True))
    return f"{seconds:6.2f} s, {cpu_s:6.2f} s CPU, {peak / GB:5.2f} GB"


def _values(run: Run) -> tuple[float, float, float]:
    return run.seconds, run.cpu_s, run.peak_bytes


def main() -> None:
    wanted = _arguments()
    if wanted.make:
        _make(*wanted.make)
        return
    cases = []
    # The services and libraries that are measured talk a lot; it goes to stderr.
    with tempfile.TemporaryDirectory(dir=wanted.folder) as name, redirect_stdout(sys.stderr):
        for model in wanted.models:
            cases += _measured(Path(name), model, wanted)
    report = {
        "cores": len(os.sched_getaffinity(0)),
        "threads": {
            "a conversion of ours": threads_per_slot(1),
            "each of a pair of ours": threads_per_slot(2),
            "optimum-cli": os.environ.get("OMP_NUM_THREADS", "its default"),
        },
        "cases": [case.report() for case in cases],
        **_summary(cases),
    }
    results = Path(__file__).parent / "results" / "convert.json"
    results.parent.mkdir(exist_ok=True)
    results.write_text(json.dumps(report, indent=2) + "\n")
    print(
        f"{report['cores']} cores; threads: " + ", ".join(f"{who} {count}" for who, count in report["threads"].items())
    )
    for case in cases:
        print(case.line())
    print(json.dumps(_summary(cases)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="these parts (all)")
    parser.add_argument("--models", nargs="+", choices=tuple(KINDS), default=tuple(KINDS), help="these models (all)")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS, help="of large models (all)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where there is room (the system's temporary folder)")
    parser.add_argument("--make", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def _summary(cases: Sequence[Case]) -> dict[str, float | None]:
    def worst(name: str, *parts: str) -> float | None:
        return max((case.report()[name] for case in cases if case.part in parts), default=None)

    return {
        "small_vs_optimum_cli": worst("export_ratio", "small"),
        "one_precision_vs_optimum_cli": worst("export_ratio", "one"),
        "three_precisions_vs_optimum_cli": worst("export_ratio", "three"),
        "peak_memory_vs_optimum_cli": worst("peak_memory_ratio", "one", "three"),
        "small_job_vs_optimum_cli": worst("job_ratio", "small"),
        "one_job_vs_optimum_cli": worst("job_ratio", "one"),
        "three_jobs_vs_optimum_cli": worst("job_ratio", "three"),
    }


# The measurements


def _measured(folder: Path, model: str, wanted: argparse.Namespace) -> list[Case]:
    """All cases of one model. It is made here, and gone afterwards."""
    large = model in SHAPES
    if not set(wanted.only) & ({"one", "three", "pairs"} if large else {"small"}):
        return []
    free_gb = shutil.disk_usage(folder).free / GB
    if free_gb < NEEDED_GB[model]:
        raise SystemExit(
            f"{model} needs {NEEDED_GB[model]:.0f} GB in {folder}, and {free_gb:.1f} GB are free: --folder"
        )
    source = folder / f"model-{model}"
    subprocess.run([sys.executable, "-m", "bench.convert", "--make", model, str(source)], check=True)
    cases: list[Case] = []
    try:
        if not large:
            with _bench(folder, source, model, slots=1) as bench:
                cases += bench.one("small", ["int8"], wanted.rounds)
        if large and {"one", "three"} & set(wanted.only):
            with _bench(folder, source, model, slots=1) as bench:
                cases += bench.one_and_three(wanted.precisions, wanted.only, wanted.rounds)
        if large and "pairs" in wanted.only:
            with _bench(folder, source, model, slots=2) as bench:
                cases += bench.pairs(wanted.precisions, wanted.rounds)
    finally:
        shutil.rmtree(source)
    return cases


@contextmanager
def _bench(folder: Path, source: Path, model: str, *, slots: int) -> Iterator["Bench"]:
    with tempfile.TemporaryDirectory(dir=folder) as name, FakeHuggingFace() as hub:
        own = Path(name)
        with Service(own / "service", HF_ENDPOINT=hub.endpoint, MODELFERRY_CONVERT_SLOTS=str(slots)) as service:
            bench = Bench(service=service, hub=hub, model=model, source=source, folder=own)
            bench.prepare()
            yield bench


@dataclass
class Bench:
    """A service and a rival, and one model for both."""

    service: Service
    hub: FakeHuggingFace
    model: str
    source: Path
    folder: Path
    _commits: int = 0
    _kept: set[str] = field(default_factory=set)

    def prepare(self) -> None:
        """Let the service fetch the weights once, so that no conversion is measured beside a transfer."""
        for name in self._names(2):
            self.hub.add_directory(name, self.source)
        wish = {"name": self._names(1)[0], "hub": "huggingface"}
        job = self.service.wait(self.service.submit(wish, download_path="fetched")[0], timeout_s=600)
        _require_completed(job)
        shutil.rmtree(self.service.models_dir / "fetched")
        self._kept = {path.name for path in self._blobs()}

    def one(self, part: str, precisions: Sequence[str], rounds: int) -> list[Case]:
        """One precision at a time."""
        cases = [self._case(part, precision) for precision in precisions]
        self._warm_up()
        for number in range(rounds):
            for case in cases:
                self._round(number, [case], copies=1)
        return cases

    def one_and_three(self, precisions: Sequence[str], parts: Iterable[str], rounds: int) -> list[Case]:
        """Each precision alone, and all together against the sum of the rival's runs."""
        ones = [self._case("one", precision) for precision in precisions]
        three = self._case("three", "+".join(precisions))
        digests: dict[str, dict[str, str]] = {}
        for number in range(rounds):
            for case in ones:
                if "one" in parts:
                    digests[case.precision] = self._round(number, [case], copies=1)
                else:
                    runs, digests[case.precision] = self._rival(case.precision, 1)
                    case.rival.append(_together(runs))
            if "three" in parts:
                last = [case.rival[-1] for case in ones]
                three.rival.append(_one_after_the_other(last))
                self._ours(three, precisions, 1, digests)
        return [*(ones if "one" in parts else ()), *([three] if "three" in parts else ())]

    def pairs(self, precisions: Sequence[str], rounds: int) -> list[Case]:
        """Two of the same kind at a time."""
        cases = [self._case("pairs", precision) for precision in precisions]
        for number in range(rounds):
            for case in cases:
                self._round(number, [case], copies=2)
        return cases

    def _case(self, part: str, precision: str) -> Case:
        case = Case(part=part, model=self.model, precision=precision)
        if "+" not in precision:
            body = {"models": [self._wish(self._names(1)[0], precision)]}
            answer = self.service.post("/models/plan", body, download_path="plan")
            if answer.is_success:
                case.predicted_bytes = answer.json()["plans"][0].get("memory_peak_bytes")
        return case

    def _warm_up(self) -> None:
        case = Case(part="warm-up", model=self.model, precision="int8")
        self._ours(case, ["int8"], 1, {})

    def _round(self, number: int, cases: Sequence[Case], copies: int) -> dict[str, str]:
        """Both sides, and who is first changes. The digests of the rival's files."""
        (case,) = cases
        if number % 2:
            found = self._ours(case, [case.precision], copies, None)
            runs, digests = self._rival(case.precision, copies)
            case.different |= _differences(digests, found[case.precision])
        else:
            runs, digests = self._rival(case.precision, copies)
            self._ours(case, [case.precision], copies, {case.precision: digests})
        case.rival.append(_together(runs))
        return digests

    def _rival(self, precision: str, copies: int) -> tuple[list[Run], dict[str, str]]:
        home = self.folder / "home"
        (home / "intel").mkdir(parents=True, exist_ok=True)
        (home / "intel" / "openvino_telemetry").write_text("0")
        environment = {
            **os.environ, "HOME": str(home), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "NNCF_CI": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1",
        }  # fmt: skip
        outputs = [self.folder / f"rival-{number}" for number in range(copies)]
        began = time.monotonic()
        processes = [
            subprocess.Popen(
                [
                    str(Path(sys.executable).parent / "optimum-cli"), "export", "openvino", "--model", str(self.source),
                    "--task", KINDS[self.model][1], "--weight-format", precision, str(output),
                ],
                env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
            for output in outputs
        ]  # fmt: skip
        runs = []
        for process in processes:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode != 0:
                raise SystemExit(f"optimum-cli failed on {self.model} in {precision}")
            cpu_s = usage.ru_utime + usage.ru_stime
            runs.append(Run(seconds=time.monotonic() - began, cpu_s=cpu_s, peak_bytes=usage.ru_maxrss * 1024))
        digests = _digests(outputs[0])
        for output in outputs:
            shutil.rmtree(output)
        return runs, digests

    def _ours(
        self, case: Case, precisions: Sequence[str], copies: int, rival: Mapping[str, Mapping[str, str]] | None
    ) -> dict[str, dict[str, str]]:
        """Jobs posted together, on content that was never converted before. The digests of their files."""
        self._commits += 1
        folder = f"round-{self._commits}"
        names = self._names(copies)
        for name in names:
            self.hub.commit(name, {"round.txt": f"{name} {time.time_ns()}".encode()})
        wishes = [self._wish(name, precision) for name in names for precision in precisions]
        posted = time.monotonic()
        with Meter(self.service.pid("convert")) as meter:
            waiting = set(self.service.submit(*wishes, download_path=folder))
            jobs = []
            while waiting:
                time.sleep(_ASK_S[self.model])
                ended = [job for job in map(self.service.job, waiting) if job["status"] in ENDED]
                waiting -= {job["id"] for job in ended}
                jobs += ended
            now = time.monotonic()
        for job in jobs:
            _require_completed(job)
        case.jobs_s.append(now - posted)
        case.ours.append(meter.run(now))
        case.exports_s.append(max(_written_at(Path(job["path"])) for job in jobs) - meter.began_at)
        found = {job["config"]["precision"]: _digests(Path(job["path"])) for job in jobs}
        for precision, digests in (rival or {}).items():
            case.different |= _differences(digests, found[precision])
        self._clear(folder)
        return found

    def _wish(self, name: str, precision: str) -> dict[str, Any]:
        config = {"precision": precision}
        return {"name": name, "hub": "openvino", "type": KINDS[self.model][0], "is_ovms": True, "config": config}

    def _names(self, count: int) -> list[str]:
        return [f"bench/{self.model}-{number}" for number in range(count)]

    def _clear(self, folder: str) -> None:
        """Remove what was published, and its content from the store: a large model leaves gigabytes in each round."""
        shutil.rmtree(self.service.models_dir / folder)
        for blob in self._blobs():
            if blob.name not in self._kept:
                blob.unlink()

    def _blobs(self) -> list[Path]:
        return [path for path in (self.service.models_dir / ".modelferry/blobs").rglob("*") if path.is_file()]


class Meter:
    """Looks at the children of a worker's fork server: since when there are any, their CPU time, their memory."""

    def __init__(self, worker: int) -> None:
        self._began: float | None = None
        self._cpu_s: dict[int, float] = {}
        self._peaks: dict[int, int] = {}
        (self._server,) = _children(worker)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def began_at(self) -> float:
        """When the first child was seen, in seconds of the epoch."""
        assert self._began is not None, "no child was seen"
        return time.time() - time.monotonic() + self._began

    def run(self, ended: float) -> Run:
        """What the children took together, from the first one's start."""
        assert self._began is not None, "no child was seen"
        return Run(seconds=ended - self._began, cpu_s=sum(self._cpu_s.values()), peak_bytes=max(self._peaks.values()))

    def _watch(self) -> None:
        tick_s = 1 / os.sysconf("SC_CLK_TCK")
        while not self._stop.wait(_LOOK_S):
            for pid in _children(self._server):
                self._began = self._began or time.monotonic()
                try:
                    own = Path(f"/proc/{pid}")
                    times = own.joinpath("stat").read_text().rpartition(")")[2].split()[11:15]
                    peak = next(line for line in own.joinpath("status").read_text().splitlines() if "VmHWM" in line)
                except (OSError, StopIteration):
                    continue  # it has just ended
                self._cpu_s[pid] = sum(map(int, times)) * tick_s
                self._peaks[pid] = int(peak.split()[1]) * 1024


def _children(pid: int) -> list[int]:
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(child) for task in tasks for child in task.joinpath("children").read_text().split()]
    except OSError:
        return []


def _together(runs: Sequence[Run]) -> Run:
    """Runs at the same time, as one."""
    return Run(
        seconds=max(run.seconds for run in runs),
        cpu_s=sum(run.cpu_s for run in runs),
        peak_bytes=max(run.peak_bytes for run in runs),
    )


def _one_after_the_other(runs: Sequence[Run]) -> Run:
    return Run(
        seconds=sum(run.seconds for run in runs),
        cpu_s=sum(run.cpu_s for run in runs),
        peak_bytes=max(run.peak_bytes for run in runs),
    )


def _written_at(folder: Path) -> float:
    """When the last graph or weights in a folder were written, in seconds of the epoch."""
    return max(file.stat().st_mtime for kind in ("*.bin", "*.xml") for file in folder.rglob(kind))


def _digests(folder: Path) -> dict[str, str]:
    """Of every `.bin` file, by its path."""
    found = {}
    for path in sorted(folder.rglob("*.bin")):
        with path.open("rb") as file:
            found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _differences(rival: Mapping[str, str], ours: Mapping[str, str]) -> set[str]:
    """A model that writes no text is published without the rival's detokenizer."""
    needless = set(rival) - set(ours) if set(rival) - set(ours) <= {"openvino_detokenizer.bin"} else set()
    return {name for name, digest in rival.items() if name not in needless and ours.get(name) != digest}


def _require_completed(job: Mapping[str, Any]) -> None:
    if job["status"] != "completed":
        raise SystemExit(f"the job did not do its work: {job}")


# The models


def _make(model: str, path: str) -> None:
    """Make a model; in a process of its own, whose memory is free afterwards."""
    from tests.fakes.tiny_models import tiny_bert, tiny_llama

    folder = Path(path)
    (tiny_bert if model == "bert" else tiny_llama)(folder)
    if model in SHAPES:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        # Its tokenizer does for any size.
        (folder / "model.safetensors").unlink()
        tiny = json.loads((folder / "config.json").read_text())
        marks = {name: tiny[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        torch.manual_seed(0)
        torch.set_default_dtype(torch.bfloat16)
        LlamaForCausalLM(LlamaConfig(**SHAPES[model], **marks, max_position_embeddings=2048)).save_pretrained(folder)


if __name__ == "__main__":
    main()

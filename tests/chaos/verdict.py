"""The books of a run, checked: what the service said, what its table says, and what is on the disk must agree."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import text

from common.artefacts.layout import Volume
from common.artefacts.manifest import PublishedManifest, check_published, read_published
from common.artefacts.sweep import sweep
from common.store.database import Database
from tests.chaos.client import Account
from tests.chaos.plan import WishKind
from tests.e2e.service import ENDED
from worker.serving import INDEX_NAME

PLANNED_ENDS = {
    WishKind.MISSING: {"source_not_found", "source_private_or_missing"},
    WishKind.POISON: {"child_crashed", "worker_lost"},
}
"""The codes with which these wishes must fail."""

_ENDINGS = {"stage.succeeded", "stage.failed", "stage.cancelled"}
_UNFORESEEN = re.compile(
    r"raised unexpected|request\.failed|Exception in thread|sweep\.failed|forkserver\.cold"
    r"|database\.unavailable +reason=(Argument|Compile|InvalidRequest|Programming|Integrity|Data)Error"
)
_PAUSES = {"stage.retried", "stage.released"}


@dataclass
class Verdict:
    """Everything that is wrong, in words, by kind."""

    lost: list[str] = field(default_factory=list)
    corrupt: list[str] = field(default_factory=list)
    half_published: list[str] = field(default_factory=list)
    duplicate_effects: list[str] = field(default_factory=list)
    leaked: list[str] = field(default_factory=list)
    inconsistent: list[str] = field(default_factory=list)
    """The rest: books that contradict each other, answers that should not be, doubtful measurements."""

    @property
    def counts(self) -> dict[str, int]:
        return {name: len(found) for name, found in vars(self).items()}

    @property
    def passed(self) -> bool:
        return not any(self.counts.values())


@dataclass(frozen=True)
class Books:
    """The job table as it was at the end."""

    jobs: dict[str, Any]
    stages: dict[str, Any]
    events: list[Any]

    @property
    def unfinished(self) -> list[str]:
        return [job.id for job in self.jobs.values() if job.state not in ENDED]

    @property
    def running(self) -> list[str]:
        return [stage.id for stage in self.stages.values() if stage.state in {"queued", "running"}]

    @property
    def runs(self) -> int:
        return sum(event.event == "stage.claimed" for event in self.events)


def read_books(url: str) -> Books:
    """Read the whole job table."""
    database = Database(url)
    try:
        with database.read() as connection:
            jobs = connection.execute(text("SELECT id, state, stage_id, error_code, error FROM jobs")).all()
            stages = connection.execute(text("SELECT id, kind, state, attempt FROM stages")).all()
            events = connection.execute(
                text("SELECT seq, job_id, stage_id, at, event, attempt, note FROM job_events ORDER BY seq")
            ).all()
    finally:
        database.dispose()
    return Books({job.id: job for job in jobs}, {stage.id: stage for stage in stages}, list(events))


def read_unfinished(url: str) -> tuple[int, int]:
    """How many jobs have not ended, and how many stages."""
    database = Database(url)
    try:
        with database.read() as connection:
            jobs = text("SELECT count(*) FROM jobs WHERE state NOT IN ('completed', 'failed', 'canceled')")
            stages = text("SELECT count(*) FROM stages WHERE state IN ('queued', 'running')")
            return connection.execute(jobs).scalar_one(), connection.execute(stages).scalar_one()
    finally:
        database.dispose()


@dataclass
class Auditor:
    """Compares the books with what was wanted. `expected` are the digests that a wish's files must have."""

    volume: Volume
    accounts: Mapping[str, Account]
    expected: Callable[[Account], Mapping[str, str]]
    max_crashes: int
    verdict: Verdict = field(default_factory=Verdict)

    def jobs(self, books: Books, *, keys_work: bool) -> None:
        """Every accepted job has ended as it had to; and there is none that nobody asked for."""
        self.verdict.lost += [
            f"{job_id} was accepted and is gone" for job_id in self.accounts if job_id not in books.jobs
        ]
        for job_id, job in books.jobs.items():
            if job.state not in ENDED:
                self.verdict.lost.append(f"{job_id} is {job.state} for ever")
            elif job_id in self.accounts:
                self._judge(job, self.accounts[job_id])
            elif keys_work:
                self.verdict.inconsistent.append(f"{job_id} is there although nobody was told of it")

    def answers(
        self, listed: Mapping[str, Mapping[str, Any]], attempts: Callable[[str], list[dict[str, Any]]], books: Books
    ) -> None:
        """The API tells what the table says; of a poisoned job, the whole history."""
        told = {job_id: job["status"] for job_id, job in listed.items()}
        for job_id in sorted(told.keys() | books.jobs.keys()):
            state = books.jobs[job_id].state if job_id in books.jobs else None
            if told.get(job_id) != state:
                self.verdict.inconsistent.append(f"{job_id} is {state}, but the API says {told.get(job_id)}")
        for job_id, account in self.accounts.items():
            if account.wish.kind is WishKind.POISON and told.get(job_id) == "failed":
                outcomes = [one.get("outcome") for one in attempts(job_id) if one["stage"] == "convert"]
                if len(outcomes) < self.max_crashes or set(outcomes[:-1]) - {"retried", "released"}:
                    self.verdict.inconsistent.append(f"the attempts of poisoned {job_id} read {outcomes}")

    def events(self, books: Books) -> None:
        """A stage has at most one live lease at a time, and ends once; so does a job."""
        by_stage: dict[str, list[Any]] = defaultdict(list)
        by_job: dict[str, list[str]] = defaultdict(list)
        for event in books.events:
            if event.job_id is not None:
                by_job[event.job_id].append(event.event)
            elif event.stage_id is not None:
                by_stage[event.stage_id].append(event)
        for stage_id, events in by_stage.items():
            self._judge_stage(stage_id, books.stages[stage_id], events)
        for job_id, job in books.jobs.items():
            ends = [event for event in by_job[job_id] if event.removeprefix("job.") in ENDED]
            if by_job[job_id].count("job.submitted") != 1:
                self.verdict.inconsistent.append(f"job {job_id} was submitted other than once: {by_job[job_id]}")
            if job.state in ENDED and ends != [f"job.{job.state}"]:
                self.verdict.inconsistent.append(f"job {job_id} is {job.state}, but its history says {ends}")
        self.verdict.inconsistent += [f"stage {stage_id} never ended" for stage_id in books.running]

    def disk(self, books: Books) -> None:
        """Every completed model has the very bytes that were wanted, and stands in its server's list."""
        for job_id, account in self.accounts.items():
            if job_id in books.jobs and books.jobs[job_id].state == "completed":
                place = self.place(account)
                self.verdict.corrupt += [f"{place}: {problem}" for problem in self._problems(place, account)]

    def publications(self, books: Books, report: Mapping[str, Any]) -> None:
        """The watcher has seen each model come into its place once, and nothing else."""
        self.verdict.half_published += report["sights"]
        if report["missed"]:
            self.verdict.inconsistent.append("the kernel dropped reports: the watcher has not seen everything")
        moved: dict[str, int] = report["moved"]
        for place, times in moved.items():
            if times > 1:
                self.verdict.duplicate_effects.append(f"{place} was renamed into place {times} times")
        for job_id, account in self.accounts.items():
            completed = job_id in books.jobs and books.jobs[job_id].state == "completed"
            if completed and self.place(account).relative_to(self.volume.root).as_posix() not in moved:
                self.verdict.inconsistent.append(f"{self.place(account)} was published, but not seen to be")

    def log(self, lines: Iterable[str]) -> None:
        """Nobody has met an error that was not foreseen: being cut off is, being wrong is not."""
        for line in lines:
            name, _, words = line.partition("|")
            if _UNFORESEEN.search(words):
                self.verdict.inconsistent.append(f"{name.strip()} says:{words[:300]}")

    def leftovers(self) -> None:
        """After the sweeper, nothing is in the work area, and nothing was thrown aside."""
        # The grace is for attempts that begin while the sweeper looks; there are none any more.
        sweep(self.volume, set(), grace_s=0.0)
        for folder in (self.volume.work, self.volume.replaced):
            self.verdict.leaked += [f"left in {folder.name}: {path.name}" for path in folder.iterdir()]

    def place(self, account: Account) -> Path:
        """Where this wish's model belongs."""
        wish = account.wish
        if wish.kind in {WishKind.CONVERT, WishKind.POISON}:
            folder = Path("openvino_models/cpu/int8", wish.model)
        else:
            folder = Path("huggingface", wish.model.replace("/", "_"))
        return self.volume.root / account.download_path / folder

    def _judge(self, job: Any, account: Account) -> None:
        planned = PLANNED_ENDS.get(account.wish.kind)
        if account.cancelled and job.state != "canceled":
            self.verdict.lost.append(f"{job.id} is {job.state}, although its cancelling was confirmed")
        elif job.state == "canceled" and not account.cancel_asked:
            self.verdict.lost.append(f"{job.id} is cancelled, and nobody wanted that")
        elif job.state == "completed" and planned:
            self.verdict.lost.append(f"{job.id} ({account.wish.kind}) is completed, which cannot be")
        elif job.state == "failed" and job.error_code not in (planned or set()):
            self.verdict.lost.append(f"{job.id} ({account.wish.kind}) has failed: {job.error_code}: {job.error}")
        if account.seen not in {None, job.state}:
            self.verdict.inconsistent.append(f"{job.id} was seen {account.seen} and is {job.state}")

    def _judge_stage(self, stage_id: str, stage: Any, events: list[Any]) -> None:
        successes = sum(event.event == "stage.succeeded" for event in events)
        if successes > 1:
            self.verdict.duplicate_effects.append(f"{stage.kind} stage {stage_id} succeeded {successes} times")
        leased, ended, attempt = False, False, 0
        for event in events:
            if event.event == "stage.claimed":
                if leased or ended or event.attempt <= attempt:
                    self.verdict.inconsistent.append(f"stage {stage_id}: attempt {event.attempt} was not free to begin")
                leased, attempt = True, event.attempt
            elif event.event in _PAUSES | _ENDINGS:
                if ended and successes < 2:
                    self.verdict.inconsistent.append(f"stage {stage_id}: {event.event} after its end")
                leased, ended = False, event.event in _ENDINGS

    def _problems(self, place: Path, account: Account) -> list[str]:
        manifest = read_published(place)
        if manifest is None:
            return ["is not there"]
        problems = check_published(place, rehash=True)
        problems += _differences(manifest, self.expected(account))
        if account.wish.kind is WishKind.CONVERT:
            index = place.parent.parent / INDEX_NAME
            if f'"{account.wish.model}"' not in index.read_text():
                problems.append(f"is not in {INDEX_NAME}")
        return problems


def survivors(volume: Volume) -> list[str]:
    """The processes that still know of this volume."""
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except (psutil.Error, OSError):
            continue
        if process.status() != psutil.STATUS_ZOMBIE and any(
            str(volume.root) in value for value in environment.values()
        ):
            found.append(f"process {process.pid} is left: {' '.join(process.cmdline())[:200]}")
    return found


def digests(content: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}


def _differences(manifest: PublishedManifest, expected: Mapping[str, str]) -> list[str]:
    published = {file.path: file.sha256 for file in manifest.files}
    return [
        f"{name} is {published.get(name, 'missing')[:12]}, the right one is {sha256[:12]}"
        for name, sha256 in expected.items()
        if published.get(name) != sha256
    ]

"""One run of chaos: the set is started, wishes and faults come by plan, then there is quiet, and the books are checked."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import common
from common.artefacts.durable import make_folder
from common.artefacts.layout import Volume
from tests.chaos.client import Account, Clients
from tests.chaos.plan import (
    LEASE_S,
    ORGANISATIONS,
    PATHS,
    SLOW_S,
    Database,
    FaultKind,
    Model,
    Plan,
    WishKind,
    files_of,
    make_plan,
    processes,
)
from tests.chaos.plugins.stamp_converter import stamped
from tests.chaos.saboteur import DatabaseSwitch, LockSwitch, ProxySwitch, Saboteur
from tests.chaos.verdict import Auditor, Verdict, digests, read_books, read_unfinished, survivors
from tests.databases import postgres_url
from tests.e2e.service import ENDED, Service
from tests.fakes.huggingface import FakeHuggingFace

Mutant = Literal["no_reconcile", "no_fence"]

MAX_CRASHES = 6
_RECONCILE_S = 0.5
_RETRY_CAP_S = 2.0
_HUB_BYTES_PER_S = 2_000_000
_DRAIN_S = 30.0
_PLUGINS = Path(__file__).parent / "plugins"
_MUTANTS = Path(__file__).parent / "mutants"
_SETTINGS = {
    "ENABLED_PLUGINS": "huggingface,stamp",
    "MODELFERRY_LEASE_S": str(LEASE_S),
    "MODELFERRY_RECONCILE_S": str(_RECONCILE_S),
    "MODELFERRY_RETRY_BASE_S": "0.2",
    "MODELFERRY_RETRY_CAP_S": str(_RETRY_CAP_S),
    "MODELFERRY_MAX_ATTEMPTS": "100",
    "MODELFERRY_MAX_CRASHES": str(MAX_CRASHES),
    "MODELFERRY_CONNECTIONS": "4",
    "MODELFERRY_BLOCK_MB": "1",
    "MODELFERRY_STALL_S": "10",
    "MODELFERRY_CONVERT_SLOTS": "2",
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What kind of run. `patience_s`: when nothing has ended for so long in the quiet, nothing will."""

    jobs: int
    faults: int
    database: Database
    seed: int
    mutant: Mutant | None = None
    patience_s: float = 60.0


@dataclass
class Report:
    """What a run has found."""

    options: Options
    plan: Plan
    verdict: Verdict
    accepted: int
    faults: Counter[str]
    runs: int
    by_state: Counter[str]
    self_ended: list[str]
    looks: int
    seconds: float

    @property
    def line(self) -> str:
        """The JSON line with which a run ends."""
        counts = self.verdict.counts
        return json.dumps(
            {
                "accepted": self.accepted,
                "faults": self.faults.total(),
                **{name: counts[name] for name in ("lost", "corrupt", "half_published", "duplicate_effects")},
                "database": self.options.database,
                "seed": self.options.seed,
                **{name: counts[name] for name in ("leaked", "inconsistent")},
                "mutant": self.options.mutant,
                "plan": self.plan.digest,
                "runs": self.runs,
                "by_state": dict(sorted(self.by_state.items())),
                "by_fault": dict(sorted(self.faults.items())),
                "self_ended": len(self.self_ended),
                "looks": self.looks,
                "seconds": round(self.seconds, 1),
            }
        )


def run(options: Options, folder: Path, say: Callable[[str], None]) -> Report:
    """Do it. `say` gets a line about everything that happens. Use from the main thread."""
    plan = make_plan(options.seed, options.jobs, options.faults, options.database)
    # The service shows the end of its log whenever it ends; here it is kept in the folder instead.
    with redirect_stdout(io.StringIO()), ExitStack() as stack:
        return _Run(options, plan, folder, say, stack).report()


@dataclass
class _Run:
    options: Options
    plan: Plan
    folder: Path
    say: Callable[[str], None]
    stack: ExitStack
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        volume = Volume(self.folder / "models")
        volume.prepare()
        self.volume = volume
        self.environment = {**os.environ, "PYTHONPATH": _pythonpath()}
        self.names = tuple(
            name
            for name in processes(self.options.database)
            if self.options.mutant != "no_reconcile" or not name.startswith("reconcile")
        )
        self.models = {model.name: model for model in self.plan.models}
        self.hub = FakeHuggingFace(bytes_per_s=_HUB_BYTES_PER_S)
        for model in self.models.values():
            self.hub.add_repo(model.name, self._stored(model))

    def report(self) -> Report:
        self.stack.enter_context(self.hub)
        url, switch = self._database()
        service = self.stack.enter_context(self._service(url))
        service.await_ready()
        watcher = self._watcher()
        clients = Clients([service.url(name) for name in self.names if name.startswith("api")])
        self.stack.callback(clients.close)
        saboteur = Saboteur(service, self.hub, switch, self.names, self._tell)
        keys_work = self._overture(service, clients, saboteur)
        self._tell(f"{self.plan.wishes} jobs and {len(self.plan.faults)} faults begin")
        clients.begin(self.plan.posts)
        saboteur.begin(self.plan.faults)
        while saboteur.busy or clients.feeding:
            saboteur.work(0.2)
        self._tell(f"{saboteur.faults} faults are over; waiting for the last jobs")
        self._await_quiet(saboteur)
        auditor = Auditor(self.volume, clients.accounts, self._expected, MAX_CRASHES)
        auditor.answers(clients.listed(), clients.attempts, read_books(self.direct_url))
        clients.close()
        self._end(service, auditor.verdict)
        books = read_books(self.direct_url)
        auditor.jobs(books, keys_work=keys_work)
        auditor.events(books)
        auditor.disk(books)
        seen = watcher.ended()
        auditor.publications(books, seen)
        auditor.leftovers()
        auditor.log(service.lines())
        auditor.verdict.half_published += clients.half_published
        auditor.verdict.inconsistent += clients.complaints
        return Report(
            options=self.options,
            plan=self.plan,
            verdict=auditor.verdict,
            accepted=len(clients.accounts),
            faults=saboteur.done,
            runs=books.runs,
            by_state=Counter(job.state for job in books.jobs.values()),
            self_ended=saboteur.self_ended,
            looks=seen["looks"],
            seconds=time.monotonic() - self.began,
        )

    # The beginning

    def _stored(self, model: Model) -> Mapping[str, Path]:
        """The model's files, on disk: two thousand models would fill the memory."""
        folder = self.folder / "hub" / model.name
        folder.mkdir(parents=True)
        paths = {}
        for name, content in files_of(model, self.plan.seed).items():
            paths[name] = folder / name
            paths[name].write_bytes(content)
        return paths

    def _database(self) -> tuple[str, DatabaseSwitch]:
        """The database's URL for the service, and the switch that makes it go away."""
        if self.options.database == "sqlite":
            file = self.folder / "jobs.db"
            self.direct_url = f"sqlite:///{file}"
            switch = LockSwitch(str(file), self.environment)
            self.stack.callback(switch.close)
            return self.direct_url, switch
        self.direct_url = self.stack.enter_context(postgres_url())
        before, _, socket_folder = self.direct_url.partition("@/")
        name, _, socket_folder = socket_folder.partition("?host=")
        proxy = self._helper("tests.chaos.proxy", str(Path(socket_folder) / ".s.PGSQL.5432"))
        port = int(proxy.told())
        assert proxy.process.stdin is not None
        return f"{before.rstrip(':')}@127.0.0.1:{port}/{name}", ProxySwitch(proxy.process.stdin)

    def _service(self, url: str) -> Service:
        mutant = str(_MUTANTS / "no_fence") if self.options.mutant == "no_fence" else ""
        path = os.pathsep.join(part for part in (mutant, str(_PLUGINS), _pythonpath()) if part)
        settings = {**_SETTINGS, "HF_ENDPOINT": self.hub.endpoint, "PYTHONPATH": path}
        return Service(self.folder, run=self.names, database_url=url, **settings)

    def _watcher(self) -> "_Helper":
        """Start the watcher on every folder that a model may be published in, before there is any."""
        below = ["huggingface", *(f"openvino_models/cpu/int8/{name}" for name in ORGANISATIONS)]
        folders = [self.volume.root / path / folder for path in PATHS for folder in below]
        for folder in folders:
            make_folder(folder)
        watcher = self._helper("tests.chaos.watcher", str(self.volume.root), *map(str, folders))
        assert watcher.told() == "watching"
        return watcher

    def _helper(self, module: str, *arguments: str) -> "_Helper":
        return self.stack.enter_context(_helper([sys.executable, "-m", module, *arguments], self.environment))

    def _overture(self, service: Service, clients: Clients, saboteur: Saboteur) -> bool:
        """The two cases that the promises are about, so that no run leaves them to chance.

        A worker frozen in mid-stage beyond its lease, while another does its stage, and a worker killed in mid-stage.
        Says whether equal Idempotency-Keys get equal answers.
        """
        frozen_post, killed_post = self.plan.overture
        again = False
        if self.options.mutant != "no_reconcile":
            (job_id,) = clients.submit(frozen_post)
            again = clients.submit(frozen_post) == [job_id]
            name = self._converting(service, job_id)
            frozen = saboteur.freeze(name, children=True)
            saboteur.count(FaultKind.FREEZE_TREE, f"overture: {name} is frozen beyond its lease, in mid-stage")
            self._work_until(saboteur, lambda: (clients.job(job_id) or {}).get("status") in ENDED, 6 * LEASE_S)
            saboteur.thaw(frozen)
            if self.options.mutant == "no_fence":
                # Time for the thawed one to do what it must not.
                saboteur.work(2 * SLOW_S)
        (job_id,) = clients.submit(killed_post)
        name = self._converting(service, job_id)
        saboteur.kill(name)
        saboteur.count(FaultKind.KILL_WORKER, f"overture: {name} is killed in mid-stage")
        return again

    def _converting(self, service: Service, job_id: str) -> str:
        """The worker that converts this job's model now."""
        service.wait_for(job_id, lambda job: job["progress"]["phase"] == "converting", 40)
        claims = [
            line for line in service.lines() if "stage.claimed" in line and job_id in line and "kind=convert" in line
        ]
        assert claims, f"nobody has claimed the conversion\n{service.tail()}"
        return claims[-1].partition("|")[0].strip()

    def _work_until(self, saboteur: Saboteur, fulfilled: Callable[[], bool], timeout_s: float) -> None:
        until = time.monotonic() + timeout_s
        while not fulfilled() and time.monotonic() < until:
            saboteur.work(0.2)

    # The end

    def _await_quiet(self, saboteur: Saboteur) -> None:
        """Wait until everything has ended, or until nothing has for so long that nothing will."""
        left, since = (-1, -1), time.monotonic()
        while time.monotonic() - since < self.options.patience_s:
            saboteur.work(0.5)
            now = read_unfinished(self.direct_url)
            if now == (0, 0):
                return
            if now != left:
                left, since = now, time.monotonic()
        self._tell(f"{left[0]} jobs and {left[1]} stages have not ended")

    def _end(self, service: Service, verdict: Verdict) -> None:
        """Ask everybody to end, and look who does not."""
        for parts in ({"api", "reconcile", "download", "convert"}, {"redis"}):
            names = [name for name in self.names if name.partition("-")[0] in parts]
            for name in names:
                os.kill(service.pid(name), signal.SIGTERM)
            verdict.leaked += [words for words in (_drained(service, name) for name in names) if words]
        until = time.monotonic() + 3
        while (left := survivors(self.volume)) and time.monotonic() < until:
            time.sleep(0.2)
        verdict.leaked += left

    def _expected(self, account: Account) -> Mapping[str, str]:
        content = files_of(self.models[account.wish.model], self.plan.seed)
        if account.wish.kind is WishKind.CONVERT:
            content = stamped(content)
        return digests(content)

    def _tell(self, words: str) -> None:
        self.say(f"{time.monotonic() - self.began:+8.2f} s  {words}")


def _drained(service: Service, name: str) -> str | None:
    """Wait until a process that was asked to has ended; in words, if it has not."""
    try:
        service.wait_until(lambda: not service.is_running(name), _DRAIN_S, "ended")
    except AssertionError:
        service.kill(name)
        return f"{name} did not end within {_DRAIN_S:.0f} s of SIGTERM"
    return None


@dataclass
class _Helper:
    """A process of the test's own that is told to end by closing its input."""

    process: subprocess.Popen[str]

    def told(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ended(self) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return json.loads(self.told())


@contextmanager
def _helper(command: list[str], environment: Mapping[str, str]) -> Iterator[_Helper]:
    process = subprocess.Popen(command, env=dict(environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield _Helper(process)
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()


def _pythonpath() -> str:
    """Where the code under test is, and the tests."""
    return str(Path(str(common.__file__)).parent.parent)

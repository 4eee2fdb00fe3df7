"""The runner: claim a stage, supervise the child that runs it, settle the outcome."""

import logging
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from common.artefacts.layout import Volume
from common.broker import Broker
from common.errors import ChildCrashed, OutOfMemory, ServiceUnavailable
from common.outcome import Cancelled, Failed, Outcome, Released, Retry, unexpected
from common.plugins import TransferLimits
from common.records import Claim
from common.settings import Settings
from common.spec import Progress
from common.store.stages import StageStore
from common.vocabulary import Pool, StageKind
from worker.forkserver import Channel, ChannelClosed, Child, Exit, ForkServer
from worker.messages import Advanced, AskFence, Ended, FencePassed, FromChild, StageRequest
from worker.workspace import Workspace

log = logging.getLogger(__name__)

_MESSAGES: msgspec.json.Decoder[FromChild] = msgspec.json.Decoder(FromChild)
_CHILD = "worker.child:run"
_LOG_TAIL_BYTES = 4000
_SETTLE_PAUSE_S = 1.0
_OOM_COUNTERS = (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events"))


class LeaseLost(Exception):
    """Somebody else has this stage now; nothing of ours may be written."""


@dataclass
class Runner:
    """Runs the stages of one pool. Thread-safe: each slot calls `work` in a thread of its own."""

    pool: Pool
    owner: str
    store: StageStore
    broker: Broker
    server: ForkServer
    volume: Volume
    settings: Settings
    _draining: threading.Event = field(default_factory=threading.Event)

    def work(self) -> list[Mapping[str, str]]:
        """Run stages until none is left to claim. Returns a line about each, for whoever watches the queue."""
        lines = []
        while not self._draining.is_set():
            claim = self._claim()
            if claim is None:
                break
            lines.append(self._run(claim))
        return lines

    def drain(self) -> None:
        """Claim nothing more, and give back what is running. The children are stopped, their bytes are kept."""
        self._draining.set()

    @property
    def draining(self) -> bool:
        """Whether the worker is going away."""
        return self._draining.is_set()

    def _claim(self) -> Claim | None:
        try:
            return self.store.claim(self.pool, self.owner)
        except ServiceUnavailable:
            return None  # the reconciler sends another ticket when the database is back

    def _run(self, claim: Claim) -> Mapping[str, str]:
        known = {"stage": claim.stage_id, "kind": claim.kind, "attempt": claim.attempt}
        log.info("stage.claimed", extra={**known, "jobs": ",".join(claim.job_ids)})
        began = time.monotonic()
        rooms = Workspace(self.volume.work / f"{claim.stage_id}.{claim.attempt}")
        try:
            outcome = self._supervise(claim, rooms)
            pools = self._settle(claim, outcome)
        except LeaseLost:
            log.warning("stage.lease_lost", extra=known)
            return {**_line(claim), "outcome": "lease_lost"}
        finally:
            shutil.rmtree(rooms.root, ignore_errors=True)
        for pool in sorted(pools):
            self.broker.enqueue(pool)
        _report(known, outcome, time.monotonic() - began)
        return {**_line(claim), "outcome": type(outcome).__name__.lower()}

    def _supervise(self, claim: Claim, rooms: Workspace) -> Outcome:
        """Run the child to its end, with heartbeats. Raises LeaseLost."""
        kills_before = _oom_kills()
        try:
            child = self._spawn(claim, rooms)
        except ChildCrashed as error:
            return Retry(code=error.code, detail=str(error), hint=error.advice, crashed=True)
        except OSError as error:
            # A stage that cannot even begin must have an outcome too, or it would be taken for a lost worker's.
            log.exception("stage.not_begun")
            return unexpected(error)
        with child:
            outcome = _Watch(self, claim, child).to_its_end()
            if outcome is not None:
                return outcome
            ended = child.wait(timeout_s=10.0)
        return _crash(claim, ended, rooms.log, oom_killed=_oom_kills() > kills_before)

    def _spawn(self, claim: Claim, rooms: Workspace) -> Child:
        self.volume.workspace(rooms.root.name)
        rooms.prepare()
        settings = self.settings
        request = StageRequest(
            stage_id=claim.stage_id,
            attempt=claim.attempt,
            kind=claim.kind,
            work=claim.work,
            input=claim.input,
            models_dir=str(self.volume.root),
            workspace=str(rooms.root),
            enabled_plugins=settings.enabled_plugins,
            settings=settings.plugin_settings,
            secrets=settings.plugin_secrets if claim.kind is StageKind.FETCH else {},
            limits=transfer_limits(settings),
        )
        limit = settings.convert_memory_mb * 1024 * 1024 if claim.kind is StageKind.CONVERT else 0
        return self.server.spawn(
            _CHILD,
            msgspec.json.encode(request),
            log=rooms.log,
            memory_bytes=limit or None,
            environment={"TMPDIR": str(rooms.scratch)},
        )

    def _settle(self, claim: Claim, outcome: Outcome) -> frozenset[Pool]:
        """Write the outcome, however long the database is away: the fence decides whether it still counts."""
        while True:
            try:
                pools = self.store.settle(claim, outcome)
            except ServiceUnavailable:
                log.warning("stage.unsettled", extra={"stage": claim.stage_id})
                time.sleep(_SETTLE_PAUSE_S)
                continue
            if pools is None:
                raise LeaseLost
            return pools


class _Speed:
    """Bytes per second, smoothed over some seconds, so that a speed and an ETA can be read."""

    _WEIGHT = 0.3
    _APART_S = 0.5

    def __init__(self) -> None:
        self._rate: float | None = None
        self._mark: tuple[float, int] | None = None

    def measured(self, progress: Progress) -> Progress:
        now, moved = time.monotonic(), progress.bytes_done - progress.bytes_resumed
        if self._mark is None or moved < self._mark[1]:
            self._mark = (now, moved)
        elapsed = now - self._mark[0]
        if elapsed >= self._APART_S:
            rate = (moved - self._mark[1]) / elapsed
            self._rate = rate if self._rate is None else self._rate + self._WEIGHT * (rate - self._rate)
            self._mark = (now, moved)
        return msgspec.structs.replace(progress, speed_bps=self._rate)


@dataclass
class _Watch:
    """One child under watch: relays its progress to the row and the row's wishes to it."""

    runner: Runner
    claim: Claim
    child: Child
    _progress: Progress | None = field(init=False)
    _told: Progress | None = field(init=False)
    _speed: _Speed = field(default_factory=_Speed)
    _next_beat: float = 0.0

    def __post_init__(self) -> None:
        self._progress = self._told = self.claim.progress

    def to_its_end(self) -> Outcome | None:
        """The outcome, or None when the child died without one. Raises LeaseLost."""
        try:
            while True:
                interrupted = self._look()
                if interrupted is not None:
                    self.child.kill()
                    return interrupted
                message = self._receive(self.child.channel)
                match message:
                    case Advanced(progress=progress):
                        self._progress = onward(self._progress, self._speed.measured(progress))
                    case AskFence():
                        interrupted = self._beat()
                        if interrupted is not None:
                            self.child.kill()
                            return interrupted
                        self.child.channel.send(FencePassed())
                    case Ended(outcome=outcome):
                        self._beat()
                        return outcome
                    case None:
                        pass
        except ChannelClosed:
            return None

    def _receive(self, channel: Channel) -> FromChild | None:
        return channel.receive(_MESSAGES, timeout_s=max(0.0, self._next_beat - time.monotonic()))

    def _look(self) -> Outcome | None:
        if self.runner.draining:
            return Released()
        if time.monotonic() < self._next_beat:
            return None
        return self._beat()

    def _beat(self) -> Outcome | None:
        """One heartbeat. While the database is away the child goes on: the fence keeps the result safe."""
        self._next_beat = time.monotonic() + self.runner.settings.heartbeat_s
        try:
            beat = self.runner.store.heartbeat(self.claim, self._progress if self._progress != self._told else None)
        except ServiceUnavailable:
            return None
        if not beat.held:
            self.child.kill()
            raise LeaseLost
        self._told = self._progress
        return Cancelled() if beat.cancel else None


def onward(before: Progress | None, now: Progress) -> Progress:
    """The newest progress, but never fewer bytes or files than were shown: another attempt is no step back."""
    if before is None or now.bytes_total not in {None, before.bytes_total}:
        return now
    return msgspec.structs.replace(
        now,
        bytes_done=max(before.bytes_done, now.bytes_done),
        bytes_total=before.bytes_total,
        files_done=max(before.files_done, now.files_done),
        files_total=before.files_total if now.files_total is None else now.files_total,
        bytes_resumed=max(before.bytes_resumed, now.bytes_resumed),
    )


def transfer_limits(settings: Settings) -> TransferLimits:
    """How hard the operator lets a transfer pull."""
    return TransferLimits(
        connections=settings.connections,
        block_bytes=settings.block_mb * 1024 * 1024,
        stall_s=settings.stall_s,
        spare_bytes=settings.spare_mb * 1024 * 1024,
    )


def _crash(claim: Claim, ended: Exit | None, log_file: Path, *, oom_killed: bool) -> Outcome:
    """What to make of a child that died without a word."""
    tail = _tail(log_file)
    log.error("stage.child_died", extra={"stage": claim.stage_id, "exit": ended, "output": tail})
    if oom_killed and ended is not None and ended.signal == 9:
        detail = f"The system killed the {claim.kind} process for lack of memory ({_rss(ended)})"
        return Failed(code=OutOfMemory.code, detail=detail, hint=OutOfMemory.hint)
    cause = "it ended" if ended is None else f"signal {ended.signal}" if ended.signal else f"exit code {ended.code}"
    detail = f"The {claim.kind} process died without an outcome ({cause})." + (f"\n{tail}" if tail else "")
    return Retry(code=ChildCrashed.code, detail=detail, hint=ChildCrashed.hint, crashed=True)


def _rss(ended: Exit) -> str:
    return f"it held {ended.max_rss_bytes / 1e9:.1f} GB"


def _tail(log_file: Path) -> str:
    try:
        with log_file.open("rb") as stream:
            stream.seek(max(0, log_file.stat().st_size - _LOG_TAIL_BYTES))
            return stream.read().decode(errors="replace").strip()
    except OSError:
        return ""


def _oom_kills() -> int:
    """How many processes the kernel has killed for lack of memory, as far as can be seen from here."""
    total = 0
    for counter in _OOM_COUNTERS:
        try:
            lines = counter.read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return total


def _line(claim: Claim) -> dict[str, str]:
    source = claim.work.get("source")
    name = source.get("name") if isinstance(source, dict) else None
    return {"kind": claim.kind, "model": str(name), "jobs": ",".join(claim.job_ids), "stage": claim.stage_id}


def _report(known: dict[str, object], outcome: Outcome, seconds: float) -> None:
    told: dict[str, object] = {**known, "outcome": type(outcome).__name__.lower(), "seconds": f"{seconds:.2f}"}
    if isinstance(outcome, Failed | Retry):
        told |= {"code": outcome.code, "detail": outcome.detail}
    log.info("stage.settled", extra=told)

"""The runner: claim a stage, supervise the child that runs it, settle the outcome."""

import contextlib
import logging
import select
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from common import tracing
from common.artefacts.layout import Volume
from common.broker import Broker
from common.errors import ChildCrashed, CredentialsLost, ServiceUnavailable
from common.metrics.instruments import WorkerInstruments
from common.outcome import Cancelled, Failed, Outcome, Released, Retry, Succeeded, unexpected
from common.planning import secret_of
from common.plugins import TransferLimits
from common.records import Claim, LogEntry, MemoryRoom
from common.seals import NOTHING, Credentials, Seal, blot_out
from common.settings import Settings
from common.spec import Progress
from common.store.limits import LimitStore
from common.store.stages import StageStore
from common.vocabulary import Pool, StageKind
from worker.allowances import Allowances, Tidings
from worker.autopsy import cause_of_death, last_words, over_limit
from worker.forkserver import Channel, ChannelClosed, Child, ForkServer
from worker.joblog import Notebook
from worker.machine import Machine, MemoryWatch, hard_limit, private_bytes
from worker.messages import (
    Advanced,
    Allowed,
    Answered,
    AskFence,
    Ended,
    FencePassed,
    FromChild,
    HubBusy,
    Said,
    StageRequest,
    Timed,
)
from worker.spans import ChildSpans, note_outcome, repeat, watched
from worker.workspace import Workspace

log = logging.getLogger(__name__)

_MESSAGES: msgspec.json.Decoder[FromChild] = msgspec.json.Decoder(FromChild)
_CHILD = "worker.child:run"
_ASK_HUBS = frozenset({StageKind.FETCH, StageKind.PLAN, StageKind.ASK})
_KEPT = frozenset({StageKind.FETCH, StageKind.CONVERT})
"""Stages whose result the content store may have already."""
_SETTLE_PAUSE_S = 1.0
_LEAVE_AFTER_S = 10.0


class LeaseLost(Exception):
    """Somebody else has this stage now; nothing of ours may be written."""


class LeftUnsettled(Exception):
    """The worker goes while the database is away: the lease runs out, and the stage goes back to its queue."""


@dataclass
class Runner:
    """Runs the stages of one pool. Thread-safe: each slot calls `work` in a thread of its own."""

    pool: Pool
    owner: str
    store: StageStore
    limits: LimitStore
    broker: Broker
    server: ForkServer
    volume: Volume
    settings: Settings
    room: Callable[[], MemoryRoom] | None = None
    """Tells what this machine has for conversions, where that matters before a claim."""
    slots: int | None = None
    """How many stages may run at a time, beside brief ones; None is as many as there are threads."""
    instruments: WorkerInstruments = field(default_factory=WorkerInstruments.apart)
    allowances: Allowances = field(init=False)
    _draining: threading.Event = field(default_factory=threading.Event)
    _hand_back_at: float = 0.0

    def __post_init__(self) -> None:
        self.allowances = Allowances(self.limits)
        self._free = threading.BoundedSemaphore(self.slots) if self.slots else None

    def work(self) -> list[Mapping[str, str]]:
        """Run stages until none is left to claim. Returns a line about each, for whoever watches the queue."""
        lines: list[Mapping[str, str]] = []
        while not self._draining.is_set():
            with self._slot() as is_free:
                claim = self._claim(brief=not is_free)
                if claim is None:
                    return lines
                with watched(claim):
                    lines.append(self._counted(claim))
        # This worker will not look whether there is more: somebody else has to, and idle ones only hear of it so.
        self.broker.enqueue(self.pool)
        return lines

    def drain(self) -> None:
        """Claim nothing more, and let what is running go on for `drain_s`. Called again: give it back at once.

        What is given back loses its child, and keeps its bytes.
        """
        now = time.monotonic()
        self._hand_back_at = min(self._hand_back_at, now) if self.draining else now + self.settings.drain_s
        self._draining.set()

    @property
    def draining(self) -> bool:
        """Whether the worker is going away."""
        return self._draining.is_set()

    @property
    def patience_s(self) -> float:
        """Of a worker that is going away: how much longer what is running may go on."""
        return max(0.0, self._hand_back_at - time.monotonic())

    @property
    def handing_back(self) -> bool:
        """Whether it is going away, and has waited long enough for what is running."""
        return self.draining and self.patience_s <= 0.0

    @contextlib.contextmanager
    def _slot(self) -> Iterator[bool]:
        """Whether a stage of any length may begin; one thread more than there are slots is left for brief ones."""
        if self._free is None:
            yield True
            return
        is_free = self._free.acquire(blocking=False)
        try:
            yield is_free
        finally:
            if is_free:
                self._free.release()

    def _claim(self, *, brief: bool) -> Claim | None:
        try:
            return self.store.claim(self.pool, self.owner, self.room() if self.room else None, brief=brief)
        except ServiceUnavailable:
            return None  # the reconciler sends another ticket when the database is back

    def _counted(self, claim: Claim) -> Mapping[str, str]:
        began = time.monotonic()
        line = self._run(claim)
        self.instruments.stage_ended(claim.kind, hub_of(claim), line["outcome"], time.monotonic() - began)
        return line

    def _run(self, claim: Claim) -> Mapping[str, str]:
        known = {"stage": claim.stage_id, "kind": claim.kind, "attempt": claim.attempt}
        log.info("stage.claimed", extra={**known, "jobs": ",".join(claim.job_ids)})
        began = time.monotonic()
        rooms = Workspace(self.volume.work / f"{claim.stage_id}.{claim.attempt}")
        try:
            notebook = Notebook()
            outcome = self._supervise(claim, rooms, notebook)
            pools = self._settle(claim, outcome, notebook.close())
        except LeaseLost:
            log.warning("stage.lease_lost", extra=known)
            note_outcome("lease_lost")
            return {**_line(claim), "outcome": "lease_lost"}
        except LeftUnsettled:
            log.warning("stage.left_unsettled", extra=known)
            note_outcome("unsettled")
            return {**_line(claim), "outcome": "unsettled"}
        finally:
            shutil.rmtree(rooms.root, ignore_errors=True)
        for pool in sorted(pools):
            self.broker.enqueue(pool)
        _report(known, outcome, time.monotonic() - began)
        if isinstance(outcome, Succeeded) and "reused" in outcome.result and claim.kind in _KEPT:
            self.instruments.asked_store(had_it=outcome.result["reused"] is True)
        return {**_line(claim), **_ending(outcome)}

    def _supervise(self, claim: Claim, rooms: Workspace, notebook: Notebook) -> Outcome:
        """Run the child to its end, with heartbeats. Raises LeaseLost."""
        try:
            given = self._given(claim)
        except CredentialsLost as error:
            return Failed(code=error.code, detail=str(error), hint=error.advice)
        except ServiceUnavailable:
            return Released()
        # A library may have put a credential into words of its own, in a message or in the log of its end.
        hidden = [*given.secrets.values(), *self.settings.plugin_secrets.values()]
        notebook.hide(hidden)
        return _without(hidden, self._outcome(claim, rooms, given, hidden, notebook))

    def _given(self, claim: Claim) -> Credentials:
        """What the request brought along, for a stage that asks a hub. Raises CredentialsLost, ServiceUnavailable."""
        secret_id = secret_of(claim.kind, claim.work)
        if secret_id is None:
            return NOTHING
        return Seal.of(self.settings).open(secret_id, self.store.sealed(secret_id))

    def _outcome(
        self, claim: Claim, rooms: Workspace, given: Credentials, hidden: Sequence[str], notebook: Notebook
    ) -> Outcome:
        kills_before = Machine().oom_kills()
        try:
            child = self._spawn(claim, rooms, given)
        except ChildCrashed as error:
            return Retry(code=error.code, detail=str(error), hint=error.advice, crashed=True)
        except OSError as error:
            # A stage that cannot even begin must have an outcome too, or it would be taken for a lost worker's.
            log.exception("stage.not_begun")
            return unexpected(error)
        with child:
            converts = claim.kind is StageKind.CONVERT
            baseline = private_bytes(self.server.pid or 0)
            memory = MemoryWatch(self._memory_limit(claim), child.pid, baseline, measures=converts)
            outcome = _Watch(self, claim, child, memory, notebook).to_its_end()
            if converts:
                self.instruments.conversion_peaked(memory.peak_bytes)
            if outcome is not None:
                return outcome
            ended = child.wait(timeout_s=10.0)
        for line in last_words(rooms.log):
            repeat(notebook.hear(Said(level="warning", text=line)))
        killed, peak = Machine().oom_kills() > kills_before, memory.peak_bytes
        return cause_of_death(
            claim,
            ended,
            rooms.log,
            oom_killed=killed,
            memory_limit=memory.limit_bytes,
            peak_bytes=peak,
            hidden=hidden,
        )

    def _memory_limit(self, claim: Claim) -> int | None:
        return self.settings.convert_memory_mb * 1024 * 1024 or None if claim.kind is StageKind.CONVERT else None

    def _spawn(self, claim: Claim, rooms: Workspace, given: Credentials) -> Child:
        # A claim that a power failure undid may have left something under the very same name.
        shutil.rmtree(rooms.root, ignore_errors=True)
        self.volume.workspace(rooms.root.name)
        rooms.prepare()
        settings = self.settings
        request = StageRequest(
            stage_id=claim.stage_id,
            attempt=claim.attempt,
            kind=claim.kind,
            work=claim.work,
            input=claim.input,
            siblings=claim.siblings,
            models_dir=str(self.volume.root),
            workspace=str(rooms.root),
            enabled_plugins=settings.enabled_plugins,
            settings=settings.plugin_settings,
            secrets=settings.plugin_secrets if claim.kind in _ASK_HUBS else {},
            given=given,
            limits=transfer_limits(settings),
            traceparent=tracing.traceparent() if tracing.is_kept() else None,
        )
        limit = self._memory_limit(claim)
        return self.server.spawn(
            _CHILD,
            msgspec.json.encode(request),
            log=rooms.log,
            memory_bytes=None if limit is None else hard_limit(limit),
            environment={"TMPDIR": str(rooms.scratch)},
        )

    def _settle(self, claim: Claim, outcome: Outcome, said: Sequence[LogEntry] = ()) -> frozenset[Pool]:
        """Write the outcome and the last of the log, however long the database is away.

        The fence decides whether it still counts. Only a worker that is going away cannot wait. Raises LeaseLost,
        LeftUnsettled.
        """
        while True:
            try:
                pools = self.store.settle(claim, outcome, said)
            except ServiceUnavailable:
                log.warning("stage.unsettled", extra={"stage": claim.stage_id})
                if self.handing_back and time.monotonic() - self._hand_back_at > _LEAVE_AFTER_S:
                    raise LeftUnsettled from None
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
    """One child under watch: relays its progress to the row, and to it what the row and the limits say."""

    runner: Runner
    claim: Claim
    child: Child
    memory: MemoryWatch
    notebook: Notebook
    _progress: Progress | None = field(init=False)
    _told: Progress | None = field(init=False)
    _speed: _Speed = field(default_factory=_Speed)
    _tidings: Tidings = field(default_factory=Tidings)
    _spans: ChildSpans = field(default_factory=ChildSpans)
    _hub: str = field(init=False)
    _fetched: int = 0
    """How many of this attempt's bytes are counted."""
    _next_beat: float = 0.0

    def __post_init__(self) -> None:
        self._progress = self._told = self.claim.progress
        self._hub = hub_of(self.claim)

    def to_its_end(self) -> Outcome | None:
        """The outcome, or None when the child died without one. Raises LeaseLost."""
        try:
            while True:
                interrupted = self._look()
                if interrupted is not None:
                    self.child.kill()
                    return interrupted
                self._pass_on_allowance()
                message = self._receive(self.child.channel)
                if isinstance(message, Ended):
                    self._beat()
                    # It was told to stop, and not by us: whether its work is still wanted, the row knows.
                    return Released() if isinstance(message.outcome, Cancelled) else message.outcome
                interrupted = self._heed(message)
                if interrupted is not None:
                    self.child.kill()
                    return interrupted
        except ChannelClosed:
            return None

    def _heed(self, message: Advanced | Answered | AskFence | HubBusy | Said | Timed | None) -> Outcome | None:
        """Take in what the child says; the outcome where it must not go on. Raises LeaseLost."""
        match message:
            case Advanced(progress=progress):
                self._count(progress)
                self._progress = onward(self._progress, self._speed.measured(progress))
            case AskFence():
                interrupted = self._stand_at_the_fence()
                if interrupted is not None:
                    return interrupted
                self.child.channel.send(FencePassed())
            case HubBusy(wait_s=wait_s):
                reason = f"It refuses requests, and wants none for {wait_s:.0f} s (429)"
                self.runner.allowances.close_hub(self.claim.hub, wait_s, reason)
            case Said():
                repeat(self.notebook.hear(message))
            case Answered(counts=counts):
                self.runner.instruments.answered(self._hub, counts)
            case Timed():
                self._spans.hear(message, self.notebook.hidden)
            case None:
                pass
        return None

    def _count(self, progress: Progress) -> None:
        """Count what this attempt has fetched. What it found, and what it had counted before, is nothing new."""
        fetched = progress.bytes_done - progress.bytes_resumed
        if self.claim.kind is StageKind.FETCH and fetched > self._fetched:
            self.runner.instruments.fetched(self._hub, fetched - self._fetched)
            self._fetched = fetched

    def _receive(self, channel: Channel) -> FromChild | None:
        longest_s = max(0.0, self._next_beat - time.monotonic())
        if self.claim.hub:
            longest_s = min(longest_s, self._tidings.wait_s())
        return channel.receive(_MESSAGES, timeout_s=self.memory.wait_s(longest_s))

    def _pass_on_allowance(self) -> None:
        """Tell a fetch what it may do now, where that is news to it."""
        allowance = self._tidings.news(self.runner.allowances, self.claim.hub) if self.claim.hub else None
        if allowance is None or not _has_room(self.child.channel):
            return
        # A child that has just ended hears nothing any more; what it has said before that is still to be read.
        with contextlib.suppress(ChannelClosed):
            self.child.channel.send(Allowed(allowance=allowance))
            self._tidings.told(allowance)

    def _look(self) -> Outcome | None:
        if self.runner.handing_back:
            return Released()
        used = self.memory.exceeded()
        if used is not None:
            return over_limit(self.claim, self.memory.limit_bytes or 0, used)
        if time.monotonic() < self._next_beat:
            return None
        return self._beat()

    def _stand_at_the_fence(self) -> Outcome | None:
        """None where the row says that the lease is held. While the database is away nobody can know, so nobody passes.

        Raises LeaseLost.
        """
        while not self.runner.handing_back:
            known, interrupted = self._ask_the_row()
            if known:
                return interrupted
            time.sleep(self.runner.settings.heartbeat_s)
        return Released()

    def _beat(self) -> Outcome | None:
        """One heartbeat. While the database is away the child goes on: the fence keeps the result safe."""
        self._next_beat = time.monotonic() + self.runner.settings.heartbeat_s
        _, interrupted = self._ask_the_row()
        return interrupted

    def _ask_the_row(self) -> tuple[bool, Outcome | None]:
        """Whether the row answered, and if so, why this attempt is to end. Raises LeaseLost."""
        try:
            said = self.notebook.waiting()
            progress = self._progress if self._progress != self._told else None
            beat = self.runner.store.heartbeat(self.claim, progress, said)
        except ServiceUnavailable:
            return False, None
        if not beat.held:
            self.child.kill()
            raise LeaseLost
        self._told = self._progress
        self.notebook.written(len(said))
        return True, Cancelled() if beat.cancel else None


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


def _has_room(channel: Channel) -> bool:
    """Whether a message can be sent now: who supervises must not wait for a child that does not listen."""
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLOUT)
    return bool(poll.poll(0))


def transfer_limits(settings: Settings) -> TransferLimits:
    """How hard the operator lets a transfer pull."""
    return TransferLimits(
        connections=settings.connections,
        block_bytes=settings.block_mb * 1024 * 1024,
        stall_s=settings.stall_s,
        spare_bytes=settings.spare_mb * 1024 * 1024,
    )


def _without(hidden: Sequence[str], outcome: Outcome) -> Outcome:
    """The outcome with no credential in its words."""
    if not isinstance(outcome, Failed | Retry):
        return outcome
    detail, hint = blot_out(outcome.detail, hidden), blot_out(outcome.hint, hidden)
    return msgspec.structs.replace(outcome, detail=detail, hint=hint)


def _line(claim: Claim) -> dict[str, str]:
    name = str(_source(claim).get("name") or "")
    return {"kind": claim.kind, "model": name, "jobs": ",".join(claim.job_ids), "stage": claim.stage_id}


def _source(claim: Claim) -> Mapping[str, object]:
    """The source that a stage is about: its own, or that of the fetch that it plans."""
    fetch = claim.work.get("fetch")
    source = (fetch if isinstance(fetch, dict) else claim.work).get("source")
    return source if isinstance(source, dict) else {}


def _ending(outcome: Outcome) -> dict[str, str]:
    """How an attempt ended, in the words of the metrics, and why where it went wrong."""
    if not isinstance(outcome, Failed | Retry):
        return {"outcome": type(outcome).__name__.lower()}
    crashed = isinstance(outcome, Retry) and outcome.crashed
    return {"outcome": "crashed" if crashed else type(outcome).__name__.lower(), "code": outcome.code}


def hub_of(claim: Claim) -> str:
    """Which hub a stage is about: the one that it asks, or the one that its model is from."""
    return claim.hub or str(_source(claim).get("hub") or "")


def _report(known: dict[str, object], outcome: Outcome, seconds: float) -> None:
    told: dict[str, object] = {**known, "outcome": type(outcome).__name__.lower(), "seconds": round(seconds, 2)}
    if isinstance(outcome, Failed | Retry):
        told |= {"code": outcome.code, "detail": outcome.detail}
    note_outcome(type(outcome).__name__.lower(), outcome.code if isinstance(outcome, Failed | Retry) else None)
    log.info("stage.settled", extra=told)

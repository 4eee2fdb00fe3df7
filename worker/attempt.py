"""The attempt as a plugin sees it, inside the child that runs it."""

import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from common.artefacts.blobs import BlobStore
from common.artefacts.early import EarlyDigests
from common.artefacts.layout import Volume
from common.errors import JobCancelled
from common.metrics.statuses import status_class
from common.plugins import Allowance, TransferLimits
from common.spec import Progress, check_file_path
from common.vocabulary import Phase
from worker.forkserver import Channel
from worker.messages import Advanced, Allowed, Answered, AskFence, FencePassed, HubBusy, ToChild
from worker.workspace import Workspace

_MOST_OFTEN_S = 0.2
_COUNT_EVERY_S = 0.5
_MESSAGES: msgspec.json.Decoder[ToChild] = msgspec.json.Decoder(ToChild)


@dataclass
class StageAttempt:
    """One attempt at a stage; implements `plugins.Attempt` and adds the fence, which plugins never see."""

    channel: Channel
    volume: Volume
    rooms: Workspace
    limits: TransferLimits
    _cancelled: threading.Event = field(default_factory=threading.Event)
    digests: EarlyDigests = field(default_factory=EarlyDigests)
    last: Progress | None = None
    """The newest progress, told or not."""
    _told_at: float = 0.0
    _told_phase: Phase | None = None
    _bytes_per_s: float | None = None
    _silent_until: float = 0.0
    _counting: threading.Lock = field(default_factory=threading.Lock)
    _unsaid: Counter[str] = field(default_factory=Counter)
    """Class of status -> answers of the hub that the supervisor has not heard of."""
    _counted_at: float = 0.0

    def __post_init__(self) -> None:
        self._blobs = BlobStore(self.volume)

    def listen_for_cancel(self) -> None:
        """Turn the supervisor's SIGTERM into JobCancelled at the next checkpoint. Main thread only."""
        signal.signal(signal.SIGTERM, lambda *_: self._cancelled.set())

    @property
    def workspace(self) -> Path:
        return self.rooms.files

    @property
    def parts(self) -> Path:
        return self.volume.parts

    def allowance(self) -> Allowance:
        self._listen()
        return Allowance(bytes_per_s=self._bytes_per_s, silent_s=max(0.0, self._silent_until - time.monotonic()))

    def hub_asks_to_wait(self, wait_s: float) -> None:
        self.channel.send(HubBusy(wait_s=wait_s))

    def heard(self, status: int | None) -> None:
        """Count an answer of the hub; None is a request without one. Any thread may call."""
        with self._counting:
            self._unsaid[status_class(status)] += 1
            is_due = time.monotonic() - self._counted_at >= _COUNT_EVERY_S
        if is_due:
            self.say_counts()

    def say_counts(self) -> None:
        """Tell the supervisor what it does not know yet of the hub's answers."""
        with self._counting:
            self._counted_at = time.monotonic()
            counts, self._unsaid = dict(self._unsaid), Counter()
        if counts:
            self.channel.send(Answered(counts=counts))

    def stored(self, sha256: str) -> Path | None:
        return self._blobs.stored(sha256)

    def store(self, file: Path, sha256: str) -> Path:
        return self._blobs.take(file, sha256)

    def link(self, sha256: str, path: str) -> Path:
        return self._blobs.link(sha256, self.workspace / check_file_path(path))

    def finished(self, file: Path, sha256: str | None = None) -> None:
        self.digests.begin(file, sha256)

    def progress(self, progress: Progress) -> None:
        self.last = progress
        now = time.monotonic()
        if progress.phase is self._told_phase and now - self._told_at < _MOST_OFTEN_S:
            return
        self._told_at, self._told_phase = now, progress.phase
        self.channel.send(Advanced(progress=progress))

    def checkpoint(self) -> None:
        self._listen()
        if self._cancelled.is_set():
            raise JobCancelled

    def fence(self) -> None:
        """Return only if this attempt still holds its lease; otherwise the supervisor kills this process."""
        self.checkpoint()
        self.channel.send(AskFence())
        while not isinstance(message := self.channel.receive(_MESSAGES), FencePassed):
            self._heed(message)

    def _listen(self) -> None:
        """Take in what the supervisor has said meanwhile, so that it never waits for a place to say more."""
        while (message := self.channel.receive(_MESSAGES, timeout_s=0.0)) is not None:
            self._heed(message)

    def _heed(self, message: ToChild | None) -> None:
        if isinstance(message, Allowed):
            self._bytes_per_s = message.allowance.bytes_per_s
            self._silent_until = time.monotonic() + message.allowance.silent_s

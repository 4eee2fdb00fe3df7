"""Runs one transfer: lines fetch, one thread hashes, one stores, and the calling thread coordinates."""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from common.errors import IntegrityMismatch, SourceUnsafe, StageError, TransferStalled
from common.plugins import Attempt, NetworkRules
from common.spec import Progress, RemoteFile, check_distinct, check_file_path
from common.vocabulary import Phase
from worker.cadence import Cadence
from worker.net.connection import Connection, Follows, Network, anywhere
from worker.net.origin import Credential
from worker.transfer.backlog import Backlog
from worker.transfer.content import Block, Checksum, Content, advance
from worker.transfer.line import Classify, Line, Terms
from worker.transfer.pace import Pace, Patience
from worker.transfer.throttle import Throttle
from worker.transfer.watch import Watch

log = logging.getLogger(__name__)

_TICK_S = 0.1
_REPORT_S = 0.25
_JOURNAL_S = 0.5
_AWAITED_S = 0.2
_ALLOWANCE_S = 0.3
_NEWS_S = 0.5
"""A silence that ends so much later than the one known before is a new one."""
_FAREWELL_S = 0.3
"""How long a transfer that ends early waits for its threads. They are woken, but a lookup of a name cannot be."""
_LARGE_BYTES = 16 * 1024 * 1024
"""What is worth a line of its own in the log, once it is there."""
_HASH_BYTES = 64 * 1024 * 1024
"""How far the hasher goes in one content before it looks at the others."""
_HASH_BUFFER_BYTES = 1024 * 1024


def bring(
    files: Sequence[RemoteFile],
    attempt: Attempt,
    credential: Credential | None = None,
    *,
    classify: Classify = lambda _status, _headers: None,
    network: NetworkRules | None = None,
    trusted: bool = True,
    verify: bool = True,
    follows: Follows = anywhere,
    most_bytes: int | None = None,
    patience: Patience = Patience(),  # noqa: B008 - it is frozen
) -> None:
    """Bring all files into the workspace, verified. Safe to repeat: what has arrived once is not fetched again.

    `trusted` says that the files' own URLs were made from an address that the operator has named: then they may lie
    inside a private network, and may redirect into it. Where a hub, or a request, has named them, it must be False.
    Without `verify` any certificate is taken. `follows` raises where a redirect to an address must not be followed.
    `most_bytes` ends a transfer of unknown size that does not end by itself, with SourceUnsafe.

    `attempt.stored`, `store` and `link` are called from other threads too, the rest of the attempt from this one alone.
    Raises StageError, or whatever `attempt.checkpoint` raises; what has arrived is kept then.
    """
    check_distinct([check_file_path(file.path) for file in files])
    attempt.parts.mkdir(parents=True, exist_ok=True)
    limits, rules = attempt.limits, network or NetworkRules()
    reach = Network(limits.connect_s, limits.read_s, rules, trusted=trusted, verify=verify, follows=follows)
    _Mover(files, attempt, lambda: Connection(reach, credential), classify, patience, most_bytes=most_bytes).run()


class _Mover:
    """One call of `bring`."""

    def __init__(
        self,
        files: Sequence[RemoteFile],
        attempt: Attempt,
        connect: Callable[[], Connection],
        classify: Classify,
        patience: Patience,
        *,
        most_bytes: int | None,
    ) -> None:
        now = time.monotonic()
        self._attempt = attempt
        self._connect = connect
        self._most_bytes = most_bytes
        self._backlog = Backlog(files, attempt)
        self._pace = Pace(attempt.limits.connections, now)
        self._stop = threading.Event()
        self._throttle = Throttle(self._stop)
        self._terms = Terms(
            patience=patience, pace=self._pace, throttle=self._throttle, classify=classify, stop=self._stop
        )
        self._watch = Watch(patience, attempt.limits.stall_s, now)
        self._lines: list[Line] = []
        self._lines_lock = threading.Lock()
        self._gone_bytes = 0
        """What the lines that have ended received."""
        self._threads: list[threading.Thread] = []
        self._arrived = threading.Event()
        """There is something to hash."""
        self._verified: queue.SimpleQueue[Content | None] = queue.SimpleQueue()
        self._wake = threading.Event()
        """There is something to coordinate."""
        self._failure: BaseException | None = None
        self._reported = Progress(phase=Phase.WAITING)
        self._passed_on = 0.0
        """Until when others have been told to ask the hub for nothing."""
        self._cadence = Cadence()

    def run(self) -> None:
        """Bring everything, and leave no thread behind."""
        try:
            self._prepare()
            self._start(self._hash)
            self._start(self._keep)
            while not self._backlog.is_done:
                self._breathe()
                self._agree()
                self._staff()
                self._look_after()
                self._wake.wait(_TICK_S)
                self._wake.clear()
                if self._failure is not None:
                    raise self._failure
            self._check_size()
        finally:
            self._end()
        self._report()

    # What the calling thread does

    def _prepare(self) -> None:
        """Show what the content store has, and make sure that there is room for the rest."""
        for content in reversed(self._backlog.contents):
            self._breathe()
            self._backlog.take_stock(content)
            if content.stored_as is not None:
                self._show(content)
        self._backlog.check_room()
        for content in self._backlog.contents:
            self._breathe()
            if not content.finished:
                self._backlog.reserve(content)
        resumed = sum(content.resumed_bytes for content in self._backlog.contents)
        if resumed:
            log.info("transfer.resumed", extra={"bytes": resumed})

    def _breathe(self) -> None:
        """Ask whether to go on, report, and write down what has arrived, as often as is due."""
        if self._cadence.is_due("checkpoint", _TICK_S):
            self._attempt.checkpoint()
        if self._cadence.is_due("report", _REPORT_S):
            self._report()
        if self._cadence.is_due("journal", _JOURNAL_S):
            for content in self._backlog.opened():
                content.save()

    def _agree(self) -> None:
        """Do as all workers together must: keep to our share of the bandwidth, and be silent when the hub wants it."""
        now = time.monotonic()
        refused_until = self._terms.refused_until
        if refused_until > max(now, self._passed_on + _NEWS_S):
            self._attempt.hub_asks_to_wait(refused_until - now)
            self._passed_on = refused_until
        if not self._cadence.is_due("allowance", _ALLOWANCE_S):
            return
        allowance = self._attempt.allowance()
        if self._throttle.limit(allowance.bytes_per_s):
            self._pace.start_over(self._received(), now)
        silent_until = now + allowance.silent_s
        if allowance.silent_s > 0 and silent_until > self._pace.silent_until + _NEWS_S:
            self._pace.ease(now)
        if allowance.silent_s > 0:
            self._pace.hush(silent_until)

    def _staff(self) -> None:
        """Have as many lines as there is work for, within the pace."""
        if self._cadence.is_due("awaited", _AWAITED_S):
            self._backlog.look_for_released()
            self._arrived.set()
        with self._lines_lock:
            missing = min(self._backlog.waiting_blocks, self._pace.connections - len(self._lines))
            new = [Line(self._connect(), self._terms) for _ in range(missing)]
            self._lines += new
        for line in new:
            self._start(partial(self._work, line))

    def _look_after(self) -> None:
        """Adapt the pace, wake lines that have fallen asleep, and notice when nothing moves any more."""
        now = time.monotonic()
        with self._lines_lock:
            lines = list(self._lines)
        self._check_size()
        received = self._received()
        resting = self._pace.is_resting(now, self._terms.patience.longest_s)
        busy = self._backlog.waiting_blocks > 0 and not resting
        self._pace.observe(received, now, busy=busy, limit_bps=self._throttle.bytes_per_s)
        if resting:
            self._watch.rest(now)
        for line in self._watch.sleepers(lines, received, now):
            log.info("transfer.line_reopened", extra={"received": line.received})
            line.connection.abort()
        if not lines or resting or self._watch.has_moved(received):
            self._watch.moved(now)
            self._terms.trouble = None
        elif self._watch.has_stalled(now):
            stalled = TransferStalled(f"No byte has arrived for {self._attempt.limits.stall_s:.0f} s")
            raise self._terms.trouble or stalled

    def _check_size(self) -> None:
        """Raise SourceUnsafe when more has come, or is announced, than may be."""
        if self._most_bytes is None:
            return
        sizes = [content.arrived_bytes if content.size is None else content.size for content in self._backlog.contents]
        if sum(sizes) > self._most_bytes:
            raise SourceUnsafe(
                f"The hub sends more than {self._most_bytes} bytes",
                hint="An operator can raise MODELFERRY_MAX_UNPACKED_MB if the source is to be trusted.",
            )

    def _received(self) -> int:
        with self._lines_lock:
            return self._gone_bytes + sum(line.received for line in self._lines)

    def _report(self) -> None:
        contents = self._backlog.contents
        sizes = [content.size for content in contents]
        done = sum(content.arrived_bytes * content.copies for content in contents)
        progress = Progress(
            phase=Phase.VERIFYING if self._backlog.has_arrived else Phase.DOWNLOADING,
            # A copy that was spoilt is fetched again; what was reported stays reported.
            bytes_done=max(done, self._reported.bytes_done),
            bytes_total=None if None in sizes else sum(content.end * content.copies for content in contents),
            files_done=sum(content.copies for content in contents if content.finished),
            files_total=sum(content.copies for content in contents),
            bytes_resumed=sum(content.resumed_bytes for content in contents),
        )
        if progress != self._reported:
            self._attempt.progress(progress)
            self._reported = progress

    # What the lines do

    def _work(self, line: Line) -> None:
        """Fetch blocks until there are none left, or too many lines."""
        try:
            while not self._stop.is_set() and len(self._lines) <= self._pace.connections:
                unknown = self._backlog.take_unknown()
                if unknown is not None:
                    line.probe(unknown)
                    # Before room is made for it: a size that may not be is no matter of the disk.
                    self._check_size()
                    self._backlog.put_back(unknown)
                    continue
                block = self._backlog.take(len(self._lines))
                # On the way to a block, contents may have been begun of which nothing is missing.
                self._arrived.set()
                if block is None:
                    break
                self._fetch(line, block)
        finally:
            line.connection.close()
            with self._lines_lock:
                self._lines.remove(line)
                self._gone_bytes += line.received

    def _fetch(self, line: Line, block: Block) -> None:
        try:
            line.fetch(block)
        finally:
            block.content.settle(block)
        block.content.save()
        self._arrived.set()

    # What the hasher and the storer do

    def _hash(self) -> None:
        """Go on with the digest of every content that grows, and judge those that are complete."""
        buffer = memoryview(bytearray(_HASH_BUFFER_BYTES))
        judged: set[Content] = set()
        while not self._stop.is_set():
            self._arrived.clear()
            moved = False
            for content in self._backlog.opened():
                if content not in judged and not self._stop.is_set():
                    moved |= self._hash_some(content, buffer)
                    if content.stored_as is not None:
                        judged.add(content)
                        self._verified.put(content)
            if not moved:
                self._arrived.wait()

    def _hash_some(self, content: Content, buffer: memoryview) -> bool:
        """Hash what has arrived of one content, or a good piece of it. False where there is nothing to do."""
        complete, hashed = content.is_complete, content.hashed_bytes
        up_to = min(content.prefix, hashed + _HASH_BYTES)
        if content.stored_as is not None or content.size is None or not (complete or up_to > hashed):
            return False
        checksum = advance(content, buffer, up_to)
        if complete and up_to == content.size:
            self._judge(content, checksum)
        return True

    def _judge(self, content: Content, checksum: Checksum) -> None:
        """Let a content pass that is what the hub promised; one that is not is brought once more."""
        digest = content.digest
        if digest is None or checksum.promised == digest.value:
            content.stored_as = checksum.sha256
            return
        error = IntegrityMismatch(
            f"{content}: the hub promises {digest.algorithm} {digest.value}, but sends {checksum.promised}"
        )
        if content.strikes:
            content.discard()
            raise error
        log.warning("transfer.content_spoilt", extra={"reason": str(error)})
        content.start_over()
        self._wake.set()

    def _keep(self) -> None:
        """Move what was verified into the content store, and show it in the workspace."""
        while (content := self._verified.get()) is not None and not self._stop.is_set():
            if content.checksum is not None:
                self._attempt.store(content.part.path, content.checksum.sha256)
                if content.end >= _LARGE_BYTES:
                    told = {"path": str(content), "bytes": content.end, "sha256": content.checksum.sha256}
                    log.info("file.verified", extra=told)
                content.retire()
            self._show(content)
            if self._backlog.is_done:
                self._wake.set()

    def _show(self, content: Content) -> None:
        for path in content.paths:
            self._attempt.link(content.stored_as or "", check_file_path(path))
        self._backlog.finish(content)

    # Threads

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=self._guard, args=(work,), name="transfer", daemon=True)
        self._threads = [known for known in self._threads if known.is_alive()]
        self._threads.append(thread)
        thread.start()

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - the calling thread raises it
            self._failure = self._failure or error
            self._wake.set()

    def _end(self) -> None:
        """Stop all threads, and keep what has arrived."""
        self._stop.set()
        self._arrived.set()
        self._verified.put(None)
        deadline = time.monotonic() + _FAREWELL_S
        alive = self._threads
        while alive and time.monotonic() < deadline:
            with self._lines_lock:
                for line in self._lines:
                    line.connection.abort()
            alive[0].join(0.02)
            alive = [thread for thread in alive if thread.is_alive()]
        for content in self._backlog.opened():
            with contextlib.suppress(StageError, OSError):
                content.save()
            if not alive:
                content.close()

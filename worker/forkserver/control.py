"""The supervising process's side: keeps a fork server running, and hands out the children it forks."""

import contextlib
import itertools
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from common.errors import ChildCrashed
from worker.forkserver.channel import Channel, ChannelClosed
from worker.forkserver.protocol import Exit, Exited, FromServer, Preloaded, Refused, Signal, Spawn, Started

_REPORTS: msgspec.json.Decoder[FromServer] = msgspec.json.Decoder(FromServer)
_COLD_START_S = 30.0
_FORK_S = 30.0
_ANSWER_S = 1.0
_DEATH_S = 5.0
_TRIES = 2


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """The server can fork. A cold one has imported nothing, for this reason: each child does it anew."""

    import_s: float
    cold: bool
    reason: str | None


class ForkServer:
    """Forks children that have the preloaded modules at hand. Any thread may use it.

    `environment` is the whole environment of the server and its children.
    """

    def __init__(
        self,
        preload: Sequence[str],
        environment: Mapping[str, str],
        log: logging.Logger,
        *,
        ready_timeout_s: float = 180.0,
    ) -> None:
        self._preload = tuple(preload)
        self._environment = dict(environment)
        self._log = log
        self._ready_timeout_s = ready_timeout_s
        self._starting = threading.RLock()
        self._server: _Server | None = None
        self._stopped = False
        self._cold: str | None = None

    @property
    def pid(self) -> int | None:
        """The server's process, while there is one."""
        server = self._server
        return server.process.pid if server is not None and not server.gone.is_set() else None

    @property
    def cold(self) -> bool:
        """Whether children have to import everything themselves."""
        return self._cold is not None

    def start(self) -> None:
        """Launch the server; it imports while the caller goes on. Safe to repeat."""
        with self._starting:
            self._stopped = False
            self._launched()

    def wait_ready(self) -> Ready:
        """Wait until children can be had. Raises ChildCrashed when there will be none."""
        preloaded = self._ready().preloaded
        return Ready(import_s=preloaded.import_s if preloaded else 0.0, cold=self.cold, reason=self._cold)

    def spawn(
        self,
        target: str,
        request: bytes,
        *,
        log: int | Path,
        memory_bytes: int | None = None,
        nice: int = 0,
        environment: Mapping[str, str] | None = None,
    ) -> "Child":
        """Fork a child that calls `module:function` with its channel. Raises ChildCrashed when none can be had.

        With `memory_bytes` the child finds no more memory once it has mapped so much beyond what it was born with.
        """
        with _opened(log) as file:
            for _ in range(_TRIES):
                order = Spawn(
                    token=0,
                    target=target,
                    memory_bytes=memory_bytes,
                    nice=nice,
                    environment=dict(environment or {}),
                )
                with contextlib.suppress(_ServerGone):
                    child = self._ready().spawn(order, file)
                    # A child that is dead already says so when it is waited for.
                    with contextlib.suppress(ChannelClosed):
                        child.channel.send_frame(request)
                    return child
        raise ChildCrashed("The fork server died twice in a row")

    def stop(self) -> None:
        """End the server and all its children. Safe to repeat."""
        # Without the lock: whoever holds it may be waiting for a server that takes its time.
        self._stopped = True
        server = self._server
        if server is not None:
            server.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _ready(self) -> "_Server":
        with self._starting:
            server = self._launched()
            problem = server.problem(self._ready_timeout_s)
            if problem is not None and not self.cold and not self._stopped:
                self._log.error("forkserver.cold", extra={"reason": problem})
                server.stop()
                self._cold = problem
                server = self._launched()
                problem = server.problem(_COLD_START_S)
            if problem is not None:
                raise ChildCrashed(f"The fork server does not start: {problem}")
            return server

    def _launched(self) -> "_Server":
        if self._server is None or self._server.gone.is_set():
            if self._server is not None and not self.cold:
                self._log.warning("forkserver.restarted", extra={"pid": self._server.process.pid})
            self._server = _Server(() if self.cold else self._preload, self._environment)
        if self._stopped:
            self._server.stop()
            raise ChildCrashed("The worker is stopping")
        return self._server


class Child:
    """A forked process, leader of its own process group."""

    def __init__(self, server: "_Server", token: int, channel: Channel) -> None:
        self.pid = 0
        self.channel = channel
        self._server = server
        self._token = token
        self._gone = threading.Event()
        self._exit: Exit | None = None

    def wait(self, timeout_s: float | None = None) -> Exit | None:
        """How it ended; None while it runs. Any number of threads may wait, and again."""
        self._gone.wait(timeout_s)
        return self._exit

    def kill(self, grace_s: float = 0.3) -> Exit | None:
        """Ask its whole process group to end, then end it. None: the kernel cannot end it yet."""
        self._server.signal(self._token, signal.SIGTERM)
        if self.wait(grace_s) is None:
            self._server.signal(self._token, signal.SIGKILL)
            if self.wait(_ANSWER_S) is None:
                # The server does not answer. Nobody has collected the child, so its number is still its own.
                _kill_group(self.pid)
        return self.wait(_DEATH_S)

    def close(self) -> None:
        """Kill it if it still runs, and close the channel."""
        if self._exit is None:
            self.kill()
        self.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def ended(self, how: Exit) -> None:
        """Note the end; the server's reader calls this."""
        self._exit = how
        self._gone.set()


class _ServerGone(Exception):
    """The server died before the child was there."""


class _Server:
    """One fork server process, from its start to its end."""

    def __init__(self, preload: Sequence[str], environment: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "worker.forkserver", str(theirs.fileno()), *preload],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # Ctrl-C in a terminal is for the supervising process, which ends its children in order.
                start_new_session=True,
            )
        self.preloaded: Preloaded | None = None
        self.gone = threading.Event()
        self._link = Channel(ours)
        self._tokens = itertools.count(1)
        self._lock = threading.Lock()
        self._children: dict[int, Child] = {}
        self._answers: dict[int, Started | Refused] = {}
        self._changed = threading.Condition(self._lock)
        threading.Thread(target=self._read, name="forkserver", daemon=True).start()

    def problem(self, timeout_s: float) -> str | None:
        """Wait for the imports; why this server must not fork, or None."""
        with self._changed:
            self._changed.wait_for(lambda: self.preloaded is not None or self.gone.is_set(), timeout_s)
        if self.gone.is_set():
            return "it died while importing" if self.preloaded is None else None
        match self.preloaded:
            case None:
                return f"it was not ready after {timeout_s:.0f} s"
            case Preloaded(failure=str(failure)):
                return f"cannot import {failure}"
            case Preloaded(threads=threads) if threads != 1:
                return f"the imports left {threads} threads"
        return None

    def spawn(self, order: Spawn, log: int) -> Child:
        """Fork. Raises _ServerGone, or ChildCrashed when the machine has no room for a process."""
        ours, theirs = socket.socketpair()
        token = next(self._tokens)
        child = Child(self, token, Channel(ours))
        try:
            with theirs:
                return self._spawn(msgspec.structs.replace(order, token=token), child, (theirs.fileno(), log))
        except BaseException:
            child.channel.close()
            raise

    def signal(self, token: int, number: int) -> None:
        """Send a signal to a child's process group; to one that has ended, nothing."""
        with contextlib.suppress(ChannelClosed):
            self._link.send(Signal(token=token, number=number))

    def stop(self) -> None:
        """Let it kill its children and end; wait until it has."""
        self._link.finish_sending()
        if not self.gone.wait(_DEATH_S):
            self.process.kill()
            self.gone.wait(_DEATH_S)

    def _spawn(self, order: Spawn, child: Child, files: tuple[int, int]) -> Child:
        with self._lock:
            if self.gone.is_set():
                raise _ServerGone
            self._children[order.token] = child
        try:
            self._link.send_frame(msgspec.json.encode(order), files)
        except ChannelClosed as error:
            raise _ServerGone from error
        with self._changed:
            self._changed.wait_for(lambda: order.token in self._answers or self.gone.is_set(), _FORK_S)
            answer = self._answers.pop(order.token, None)
        match answer:
            case Started(pid=pid):
                child.pid = pid
                return child
            case Refused(reason=reason):
                raise ChildCrashed(reason)
            case None:
                self.process.kill()
                raise _ServerGone

    def _read(self) -> None:
        """The reader thread: take in what the server reports until it is gone, then account for what it left."""
        try:
            for report in self._link.messages(_REPORTS):
                self._take_in(report)
        except ChannelClosed:
            pass
        finally:
            self._bury()

    def _take_in(self, report: FromServer) -> None:
        with self._changed:
            match report:
                case Preloaded():
                    self.preloaded = report
                case Started(token=token):
                    self._answers[token] = report
                    self._children[token].pid = report.pid
                case Refused(token=token):
                    self._answers[token] = report
                    del self._children[token]
                case Exited(token=token, exit=ended):
                    self._children.pop(token).ended(ended)
            self._changed.notify_all()

    def _bury(self) -> None:
        self.process.kill()
        self.process.wait()
        with self._changed:
            self.gone.set()
            orphans = list(self._children.values())
            self._children.clear()
            self._changed.notify_all()
        for child in orphans:
            # The kernel kills the child when its server dies; what the child has started is left to us.
            _kill_group(child.pid)
            child.ended(Exit(code=None, signal=signal.SIGKILL, max_rss_bytes=0, cpu_s=0.0, lost=True))
        self._link.close()


def _kill_group(pid: int) -> None:
    if pid:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


@contextlib.contextmanager
def _opened(log: int | Path) -> Iterator[int]:
    if isinstance(log, int):
        yield log
        return
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    try:
        yield file
    finally:
        os.close(file)

"""The fork server's own side: imports, then forks, signals and reaps, in one thread, and never works itself."""

import contextlib
import ctypes
import fcntl
import gc
import importlib
import os
import resource
import select
import signal
import socket
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import msgspec

from worker.forkserver.channel import Channel, ChannelClosed
from worker.forkserver.entry import become_child
from worker.forkserver.protocol import Exit, Exited, FromServer, Preloaded, Refused, Signal, Spawn, Started, ToServer

_COMMANDS: msgspec.json.Decoder[ToServer] = msgspec.json.Decoder(ToServer)
_PR_SET_CHILD_SUBREAPER = 36
_SELDOM = (50_000, 20, 20)
_SETTLE_S = 0.5
_LAST_S = 2.0
_PAUSE_S = 0.005


def serve(control: int, preload: Sequence[str]) -> NoReturn:
    """Import, say so, and fork on command until the supervising process closes its end."""
    link = Channel(socket.socket(fileno=control))
    # Some supervisors of services ask every process of one to end. This one is needed until its stages have ended.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with _dying_with(control):
        preloaded = _preload(preload)
    server = _Server(link)
    with contextlib.suppress(ChannelClosed):
        server.tell(preloaded)
        server.run()
    server.end()
    os._exit(0)


class _Server:
    def __init__(self, link: Channel) -> None:
        self._link = link
        self._tokens: dict[int, int] = {}
        """Of each living child: pid -> token."""
        self._wakeup, notify = socket.socketpair()
        self._wakeup.setblocking(False)
        notify.setblocking(False)
        self._notify = notify
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(notify.fileno(), warn_on_full_buffer=False)
        # What a child leaves behind becomes ours, not a stranger's: it can be found and killed.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def run(self) -> None:
        """Serve until the link closes. Raises ChannelClosed then."""
        poll = select.poll()
        poll.register(self._link, select.POLLIN)
        poll.register(self._wakeup, select.POLLIN)
        while True:
            ready = {file for file, _ in poll.poll()}
            if self._wakeup.fileno() in ready:
                with contextlib.suppress(BlockingIOError):
                    self._wakeup.recv(4096)
                self._reap()
            if self._link.fileno() in ready:
                self._obey()

    def tell(self, message: FromServer) -> None:
        """Report to the supervising process. Raises ChannelClosed."""
        self._link.send(message)

    def end(self) -> None:
        """Kill everything that was ever forked here."""
        deadline = time.monotonic() + _LAST_S
        while time.monotonic() < deadline:
            for pid in [*self._tokens, *_children()]:
                _signal_group(pid, signal.SIGKILL)
            try:
                self._reap()
                os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            time.sleep(_PAUSE_S)

    def _obey(self) -> None:
        """Carry out every command that has come."""
        wait_s: float | None = None
        while (command := self._link.receive(_COMMANDS, wait_s)) is not None:
            wait_s = 0
            match command:
                case Spawn():
                    self._spawn(command)
                case Signal():
                    self._signal(command)

    def _spawn(self, command: Spawn) -> None:
        channel, log = self._link.received_files(2)
        own = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self.tell(Refused(token=command.token, reason=f"No process could be forked: {error.strerror}"))
        else:
            if pid == 0:
                become_child(command, own, channel, log)
            self._tokens[pid] = command.token
            self.tell(Started(token=command.token, pid=pid))
        finally:
            os.close(channel)
            os.close(log)

    def _signal(self, command: Signal) -> None:
        for pid, token in self._tokens.items():
            if token == command.token:
                _signal_group(pid, command.number)

    def _reap(self) -> None:
        """Collect the dead. While a dead leader is not collected, its number, and so its group's, is not given away."""
        with contextlib.suppress(ChildProcessError):
            while (dead := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                pid = dead.si_pid
                token = self._tokens.pop(pid, None)
                if token is not None:
                    _signal_group(pid, signal.SIGKILL)
                _, status, usage = os.wait4(pid, 0)
                if token is not None:
                    self._kill_strays()
                    with contextlib.suppress(ChannelClosed):
                        self.tell(Exited(token=token, exit=_exit(status, usage)))

    def _kill_strays(self) -> None:
        """Kill what has left its group and lost its parent, unless it belongs to a child that lives."""
        for pid in _children():
            with contextlib.suppress(ProcessLookupError):
                if pid not in self._tokens and os.getsid(pid) not in self._tokens:
                    os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def _dying_with(control: int) -> Iterator[None]:
    """Let the kernel end this process when the supervising one goes away: while importing, nobody reads the link."""
    flags = fcntl.fcntl(control, fcntl.F_GETFL)
    fcntl.fcntl(control, fcntl.F_SETOWN, os.getpid())
    # The supervising process sends nothing yet, so a signal for input can only mean its end.
    fcntl.fcntl(control, fcntl.F_SETFL, flags | os.O_ASYNC)
    try:
        yield
    finally:
        fcntl.fcntl(control, fcntl.F_SETFL, flags)


def _preload(modules: Sequence[str]) -> Preloaded:
    began = time.monotonic()
    failure: str | None = None
    for module in modules:
        try:
            importlib.import_module(module)
        except BaseException as error:  # noqa: BLE001 - a library may do anything at import, and raise SystemExit too
            traceback.print_exc()
            failure = f"{module}: {type(error).__name__}: {error}"
            break
    gc.collect()
    gc.freeze()
    # A child makes many objects that live until it ends, and to look through them all again and again is in vain.
    gc.set_threshold(*_SELDOM)
    return Preloaded(import_s=time.monotonic() - began, threads=_threads(), failure=failure)


def _threads() -> int:
    """How many threads there are; those that are just ending are given a moment."""
    deadline = time.monotonic() + _SETTLE_S
    while (threads := len(list(Path("/proc/self/task").iterdir()))) > 1 and time.monotonic() < deadline:
        time.sleep(_PAUSE_S)
    return threads


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        try:
            os.killpg(pid, number)
        except ProcessLookupError:
            # Just forked, and not yet the leader of its own group.
            os.kill(pid, number)


def _children() -> list[int]:
    """Every process whose parent this one is, by birth or because its own parent died."""
    with contextlib.suppress(OSError):
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text("ascii").split()]
    return []


def _exit(status: int, usage: resource.struct_rusage) -> Exit:
    ended = os.waitstatus_to_exitcode(status)
    return Exit(
        code=ended if ended >= 0 else None,
        signal=-ended if ended < 0 else None,
        max_rss_bytes=usage.ru_maxrss * 1024,
        cpu_s=usage.ru_utime + usage.ru_stime,
    )

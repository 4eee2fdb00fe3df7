"""Breaks one thing after another by plan, and starts again what a supervisor of processes would start again."""

import heapq
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Protocol

import psutil

from tests.chaos.plan import FaultKind, FaultOrder, HubTrouble
from tests.e2e.service import Service
from tests.fakes.faults import (
    ArmedFault,
    Cut,
    Drop,
    Fault,
    FlipBit,
    Status,
    Throttle,
    rate_limited,
)
from tests.fakes.faults import (
    FaultKind as HubFault,
)
from tests.fakes.huggingface import FakeHuggingFace
from tests.fakes.traffic import Match

_TICK_S = 0.02
_RETRY_S = 0.1
_CHILD_S = 8.0
"""So long a child is waited for that can be killed; then the fork server itself is."""
_DRAIN_S = 30.0
_SUPERVISOR_S = 1.0
"""A process that ended by itself is started again after so long."""

_TROUBLES: dict[HubTrouble, tuple[Callable[[float], HubFault], Match, int | None]] = {
    HubTrouble.TOO_MANY_REQUESTS: (lambda _: rate_limited(1, header="Retry-After"), Match(origin="hub"), 4),
    HubTrouble.UNAVAILABLE: (lambda _: Status(503), Match(), 8),
    HubTrouble.DROPPED: (lambda _: Drop(reset=True), Match(), 6),
    HubTrouble.TRUNCATED: (lambda pick: Cut(at=int(pick * 100_000)), Match(origin="cdn"), 4),
    HubTrouble.WRONG_BYTES: (lambda pick: FlipBit(offset=int(pick * 1_000)), Match(origin="cdn"), 1),
    HubTrouble.SLOW: (lambda _: Throttle(50_000), Match(origin="cdn"), None),
}


class DatabaseSwitch(Protocol):
    """Makes the database go away for a while."""

    def cut(self, seconds: float, pick: float) -> None: ...


@dataclass
class ProxySwitch:
    """Postgres behind a proxy that is told to cut or to mute."""

    orders: IO[str]

    def cut(self, seconds: float, pick: float) -> None:
        self.orders.write(f"{'cut' if pick < 0.75 else 'mute'} {seconds}\n")
        self.orders.flush()


@dataclass
class LockSwitch:
    """SQLite, whose write lock another process holds."""

    file: str
    environment: Mapping[str, str]
    _lockers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def cut(self, seconds: float, pick: float) -> None:
        del pick
        command = [sys.executable, "-m", "tests.chaos.lock", self.file, str(seconds)]
        self._lockers.append(subprocess.Popen(command, env=dict(self.environment)))

    def close(self) -> None:
        for locker in self._lockers:
            locker.kill()
            locker.wait()


@dataclass
class Saboteur:
    """Carries out fault orders. Use from the main thread alone: it starts processes."""

    service: Service
    hub: FakeHuggingFace
    database: DatabaseSwitch
    names: tuple[str, ...]
    tell: Callable[[str], None]
    done: Counter[str] = field(default_factory=Counter)
    self_ended: list[str] = field(default_factory=list)
    _agenda: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _down: set[str] = field(default_factory=set)
    """Processes that are away on purpose."""

    @property
    def faults(self) -> int:
        """How many have been carried out."""
        return self.done.total()

    @property
    def busy(self) -> bool:
        """Whether something is still to be broken, or to be mended."""
        return bool(self._agenda)

    def begin(self, orders: tuple[FaultOrder, ...]) -> None:
        """Take on the orders, each at its time from now on."""
        for order in orders:
            self._later(order.at_s, lambda order=order: self._carry_out(order))

    def work(self, seconds: float) -> None:
        """Do for so long what is due."""
        until = time.monotonic() + seconds
        while (now := time.monotonic()) < until:
            while self._agenda and self._agenda[0][0] <= now:
                heapq.heappop(self._agenda)[2]()
            self._tend()
            time.sleep(_TICK_S)

    def kill(self, name: str, restart_s: float = 0.0) -> None:
        """kill -9 of one process, not of its children: the kernel has to do that."""
        self._down.add(name)
        with suppress(ProcessLookupError):
            os.kill(self.service.pid(name), signal.SIGKILL)
        self._later(restart_s, lambda: self._restart(name))

    def freeze(self, name: str, *, children: bool) -> list[psutil.Process]:
        """SIGSTOP. Who was stopped, for `thaw`."""
        frozen: list[psutil.Process] = []
        # Twice: what was forked while the first round went on is found by the second.
        for process in [*self._tree(name, children=children), *self._tree(name, children=children)]:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
                frozen.append(process)
        return frozen

    def thaw(self, frozen: list[psutil.Process]) -> None:
        for process in reversed(frozen):
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def count(self, kind: FaultKind, words: str) -> None:
        """Note a fault that has been carried out."""
        self.done[kind.value] += 1
        self.tell(words)

    def _carry_out(self, order: FaultOrder) -> None:
        if order.target in self.names and (order.target in self._down or not self.service.is_running(order.target)):
            # It takes its time to come back: the fault waits for it.
            self._later(_RETRY_S, lambda: self._carry_out(order))
            return
        match order.kind:
            case FaultKind.KILL_WORKER | FaultKind.KILL_API | FaultKind.KILL_RECONCILER | FaultKind.KILL_REDIS:
                self.kill(order.target, order.restart_s)
            case FaultKind.WIPE_REDIS:
                self.service.kill(order.target)
                shutil.rmtree(self.service.folder / "redis", ignore_errors=True)
                self._down.add(order.target)
                self._later(order.restart_s, lambda: self._restart(order.target))
            case FaultKind.KILL_CHILD:
                self._kill_child(order, time.monotonic() + _CHILD_S)
                return
            case FaultKind.KILL_FORKSERVER:
                self._kill_forkserver(order.target)
            case FaultKind.TERM_WORKER:
                self._terminate(order)
            case FaultKind.FREEZE_MAIN | FaultKind.FREEZE_TREE | FaultKind.PAUSE_API | FaultKind.PAUSE_REDIS:
                frozen = self.freeze(order.target, children=order.kind is FaultKind.FREEZE_TREE)
                self._later(order.seconds, lambda: self.thaw(frozen))
            case FaultKind.DATABASE:
                self.database.cut(order.seconds, order.pick)
            case FaultKind.HUB:
                self._trouble_hub(order)
        self.count(order.kind, str(order))

    def _kill_child(self, order: FaultOrder, until: float) -> None:
        children = self._stage_children(order.target)
        if not children and time.monotonic() < until:
            self._later(_RETRY_S / 2, lambda: self._kill_child(order, until))
            return
        if children:
            victim = children[int(order.pick * len(children))]
            with suppress(psutil.NoSuchProcess):
                victim.kill()
        else:
            self._kill_forkserver(order.target)
        self.count(order.kind, str(order))

    def _kill_forkserver(self, name: str) -> None:
        for server in self._tree(name, children=True)[1:2]:
            with suppress(psutil.NoSuchProcess):
                server.kill()

    def _terminate(self, order: FaultOrder) -> None:
        self._down.add(order.target)
        os.kill(self.service.pid(order.target), signal.SIGTERM)
        self._await_end(order, time.monotonic() + _DRAIN_S)

    def _await_end(self, order: FaultOrder, until: float) -> None:
        if not self.service.is_running(order.target):
            self._later(order.restart_s, lambda: self._restart(order.target))
        elif time.monotonic() < until:
            self._later(_RETRY_S, lambda: self._await_end(order, until))
        else:
            self.self_ended.append(f"{order.target} did not end within {_DRAIN_S:.0f} s of SIGTERM")
            self.kill(order.target, order.restart_s)

    def _trouble_hub(self, order: FaultOrder) -> None:
        assert order.trouble is not None
        kind, match, count = _TROUBLES[order.trouble]
        armed = self.hub.add_fault(Fault(kind=kind(order.pick), match=match, count=count))
        self._later(order.seconds, lambda: self._relieve_hub(armed))

    def _relieve_hub(self, armed: ArmedFault) -> None:
        self.hub.remove_fault(armed)

    def _restart(self, name: str) -> None:
        # The whole group: what a killed process left behind must not work beside its successor.
        self.service.restart(name)
        self._down.discard(name)

    def _tend(self) -> None:
        for name in self.names:
            if name not in self._down and not self.service.is_running(name):
                self.self_ended.append(f"{name} ended by itself")
                self.tell(f"{name} has ended by itself, and is started again")
                self._down.add(name)
                self._later(_SUPERVISOR_S, lambda name=name: self._restart(name))

    def _tree(self, name: str, *, children: bool) -> list[psutil.Process]:
        try:
            main = psutil.Process(self.service.pid(name))
            return [main, *(main.children(recursive=True) if children else [])]
        except psutil.NoSuchProcess:
            return []

    def _stage_children(self, name: str) -> list[psutil.Process]:
        try:
            servers = psutil.Process(self.service.pid(name)).children()
            return [child for server in servers for child in server.children()]
        except psutil.NoSuchProcess:
            return []

    def _later(self, seconds: float, work: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (time.monotonic() + seconds, next(self._numbers), work))

"""What the machine, or the container around this process, has to give, and what a child takes of it."""

import contextlib
import os
import re
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import MemoryLimitExceeded, OutOfMemory
from common.records import MemoryRoom
from worker.identity import own_identity

_MACHINE_FIELDS = 3
_ROOT = Path("/")
_LOOK_S = 0.2
_UNHURRIED_S = 1.0
_MB = 1024 * 1024
# Address space is not memory: mapped weights, the stacks of threads and freed blocks count for the kernel's limit.
_HARD_FACTOR = 2
_HARD_SPARE_BYTES = 512 * _MB

_LIMIT_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
_KILL_FILES = ("memory.events", "memory.oom_control")
_PRIVATE = re.compile(rb"^(?:RssAnon|RssShmem|VmSwap):\s+(\d+) kB$", re.MULTILINE)
_DATA = re.compile(rb"^VmData:\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine as this process sees it; `root` is where its /proc and /sys are."""

    root: Path = _ROOT

    def free_bytes(self) -> int:
        """What can still be had: the kernel's estimate, or less where a control group allows less."""
        free = _numbers(self.root / "proc/meminfo").get("MemAvailable:", 0) * 1024
        return max(0, min([free, *self._left_in_groups()]))

    def cores(self) -> int:
        """How many cores' worth of time this process may use."""
        quotas = [quota for group in self._groups("cpu") if (quota := _quota(group)) is not None]
        return max(1, int(min([len(os.sched_getaffinity(0)), *quotas])))

    def oom_kills(self) -> int:
        """How many processes were killed for want of memory: in our control group, or else on the machine."""
        places = [group / name for group in self._groups("memory") for name in _KILL_FILES]
        for place in (*places, self.root / "proc/vmstat"):
            kills = _numbers(place).get("oom_kill")
            if kills is not None:
                return kills
        return 0

    def _left_in_groups(self) -> Iterator[int]:
        for group in self._groups("memory"):
            for limit, usage, cache in _LIMIT_FILES:
                most, used = _number(group / limit), _number(group / usage)
                if most is not None and used is not None:
                    yield most - used + _numbers(group / "memory.stat").get(cache, 0)

    def _groups(self, controller: str) -> list[Path]:
        """Our control group and all around it, as far as they can be seen from here, the innermost first."""
        mount, inside = self.root / "sys/fs/cgroup", ""
        for line in _text(self.root / "proc/self/cgroup").splitlines():
            _, controllers, path = line.split(":", 2)
            if controller in controllers.split(","):
                mount, inside = mount / controller, path
                break
            if not controllers:
                inside = path
        names = [name for name in inside.split("/") if name]
        # A container may see the host's path here and only its own inside there; the mount itself is then its group.
        return [mount.joinpath(*names[:depth]) for depth in range(len(names), -1, -1)]


@dataclass(frozen=True, slots=True)
class MemoryGauge:
    """Tells the memory that a conversion may count on before it starts."""

    machine: str
    budget_bytes: int
    _source: Machine = field(default_factory=Machine)

    def room(self) -> MemoryRoom:
        """What there is at this moment."""
        return MemoryRoom(machine=self.machine, budget_bytes=self.budget_bytes, free_bytes=self._source.free_bytes())


@dataclass(slots=True)
class MemoryWatch:
    """One child's memory under watch. `baseline` is what it was born with; it counts for nothing."""

    limit_bytes: int | None
    leader_pid: int
    baseline: int
    measures: bool = False
    """Whether it looks where there is no limit, too."""
    peak_bytes: int = 0
    _next_look: float = 0.0

    def exceeded(self) -> int | None:
        """How much it uses, where that is too much. Looks a few times a second, however often it is asked."""
        now = time.monotonic()
        if now < self._next_look or (self.limit_bytes is None and not self.measures):
            return None
        self._next_look = now + (_UNHURRIED_S if self.limit_bytes is None else _LOOK_S)
        used = max(0, used_bytes(self.leader_pid) - self.baseline)
        self.peak_bytes = max(self.peak_bytes, used)
        return used if self.limit_bytes is not None and used > self.limit_bytes else None

    def wait_s(self, longest_s: float) -> float:
        """How long to wait, `longest_s` at most, before it should be asked again."""
        return longest_s if self.limit_bytes is None else min(longest_s, _LOOK_S)


def machine_room(budget_bytes: int) -> MemoryGauge:
    """A gauge with the operator's budget, or with what is free now where that is 0."""
    machine = Machine()
    name = "/".join(own_identity().split("/")[:_MACHINE_FIELDS])
    return MemoryGauge(machine=name, budget_bytes=budget_bytes or machine.free_bytes(), _source=machine)


def threads_per_slot(slots: int, machine: Machine | None = None) -> int:
    """How many threads each of so many stages gets, that together they keep every core busy and no more."""
    return max(1, (machine or Machine()).cores() // slots)


def used_bytes(leader_pid: int) -> int:
    """The private memory of all processes in the session that this one leads: anonymous, shared by name, swapped."""
    total = 0
    for name in os.listdir("/proc"):  # noqa: PTH208 - called often; one Path per process would cost more than the rest
        if name.isdigit():
            with contextlib.suppress(OSError):
                pid = int(name)
                if os.getsid(pid) == leader_pid:
                    total += private_bytes(pid)
    return total


def private_bytes(pid: int) -> int:
    """The private memory of one process; 0 when it is gone."""
    return 1024 * sum(map(int, _PRIVATE.findall(_status(pid))))


def hard_limit(limit_bytes: int) -> int:
    """How much more a child may map than it does at birth. A watch sees slow growth long before; this stops a leap."""
    return _HARD_FACTOR * limit_bytes + _HARD_SPARE_BYTES


def left_to_map() -> int | None:
    """What this process may still map; None where there is no limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if limit == resource.RLIM_INFINITY:
        return None
    return limit - 1024 * sum(map(int, _DATA.findall(_status(os.getpid()))))


def no_memory(detail: str) -> MemoryLimitExceeded | OutOfMemory:
    """Why this process got no memory: the operator's limit where there is one, else the machine."""
    return OutOfMemory(detail) if left_to_map() is None else MemoryLimitExceeded(detail)


def _quota(group: Path) -> float | None:
    """The cores' worth of time that a control group allows; None is no limit."""
    words = _text(group / "cpu.max").split() or [
        _text(group / name).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    ]
    most, period = (int(word) if word.isdigit() else None for word in words)
    return most / period if most and period else None


def _number(file: Path) -> int | None:
    """The number in a file; None where there is none, or `max`, or -1."""
    text = _text(file).strip()
    return int(text) if text.isdigit() else None


def _numbers(file: Path) -> dict[str, int]:
    """The numbers in a file of lines with a name and a number each."""
    lines = (line.split() for line in _text(file).splitlines())
    return {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdigit()}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _status(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return b""

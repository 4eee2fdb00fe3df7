"""What a machine or a container has to give is read right from every layout of control groups."""

import mmap
import os
import resource
from pathlib import Path

import pytest

from common.errors import MemoryLimitExceeded, OutOfMemory
from worker.identity import own_identity
from worker.machine import Machine, hard_limit, left_to_map, machine_room, no_memory, private_bytes, threads_per_slot

MB = 1024 * 1024
NO_LIMIT_V1 = "9223372036854771712"
POD = "/kubepods/pod1/box"


def machine(root: Path, files: dict[str, str]) -> Machine:
    """A machine with 8000 MB available, and these files; `cgroup/...` is short for where control groups are."""
    stock = {"proc/meminfo": "MemTotal:       16384000 kB\nMemAvailable:    8192000 kB\nHugePages_Total:       0\n"}
    for name, text in (stock | files).items():
        file = root / name.replace("cgroup/", "sys/fs/cgroup/", 1) if name.startswith("cgroup/") else root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return Machine(root)


def v1(limit: str, used_mb: int, cache_mb: int, group: str = "") -> dict[str, str]:
    return {
        f"cgroup/memory{group}/memory.limit_in_bytes": f"{limit}\n",
        f"cgroup/memory{group}/memory.usage_in_bytes": f"{used_mb * MB}\n",
        f"cgroup/memory{group}/memory.stat": f"inactive_file 0\ntotal_inactive_file {cache_mb * MB}\n",
    }


def v2(limit: str, used_mb: int, cache_mb: int, group: str = "") -> dict[str, str]:
    return {
        f"cgroup{group}/memory.max": f"{limit}\n",
        f"cgroup{group}/memory.current": f"{used_mb * MB}\n",
        f"cgroup{group}/memory.stat": f"anon 5\ninactive_file {cache_mb * MB}\nactive_file 7\n",
    }


V1 = {"proc/self/cgroup": f"9:name=systemd:{POD}\n4:memory:{POD}\n1:cpu,cpuacct:{POD}\n0::/\n"}
V2 = {"proc/self/cgroup": f"0::{POD}\n"}
INSIDE_V2 = {"proc/self/cgroup": "0::/\n"}


class TestFree:
    def test_without_control_groups_it_is_what_the_kernel_says(self, tmp_path: Path) -> None:
        assert machine(tmp_path, {}).free_bytes() == 8000 * MB

    @pytest.mark.parametrize(
        ("files", "expected_mb"),
        [
            pytest.param({**V1, **v1(str(1000 * MB), 700, 100, POD)}, 400, id="v1"),
            pytest.param({**V1, **v1(str(1000 * MB), 700, 100)}, 400, id="v1, only its inside seen"),
            pytest.param({**V1, **v1(NO_LIMIT_V1, 700, 100, POD)}, 8000, id="v1 without a limit"),
            pytest.param({**V2, **v2(str(1000 * MB), 700, 100, POD)}, 400, id="v2"),
            pytest.param(
                {**V2, **v2("max", 700, 0, POD), **v2(str(900 * MB), 800, 0, "/kubepods")}, 100, id="v2 outer"
            ),
            pytest.param({**INSIDE_V2, **v2(str(1000 * MB), 700, 100)}, 400, id="v2 in a container"),
            pytest.param({**V2, **v2("max", 700, 100, POD)}, 8000, id="v2 without a limit"),
            pytest.param({**V2, **v2(str(20_000 * MB), 700, 0, POD)}, 8000, id="more allowed than there is"),
            pytest.param({**V2, **v2(str(500 * MB), 700, 100, POD)}, 0, id="over the limit"),
        ],
    )
    def test_a_control_group_may_leave_less(self, tmp_path: Path, files: dict[str, str], expected_mb: int) -> None:
        assert machine(tmp_path, files).free_bytes() == expected_mb * MB

    def test_a_gauge_knows_the_machine_and_keeps_its_budget(self) -> None:
        gauge = machine_room(3 * MB)
        room = gauge.room()
        assert own_identity().startswith(f"{room.machine}/")
        assert (room.machine.count("/"), room.budget_bytes) == (2, 3 * MB)
        assert room.free_bytes > 50 * MB
        assert machine_room(0).budget_bytes > 50 * MB


class TestCores:
    @pytest.mark.parametrize(
        ("files", "expected"),
        [
            pytest.param({}, None, id="no quota"),
            pytest.param({**V2, f"cgroup{POD}/cpu.max": "max 100000\n"}, None, id="v2 without a quota"),
            pytest.param({**V2, f"cgroup{POD}/cpu.max": "150000 100000\n"}, 1, id="v2"),
            pytest.param({**V2, f"cgroup{POD}/cpu.max": "20000 100000\n"}, 1, id="v2, a part of a core"),
            pytest.param(
                {**V1, "cgroup/cpu/cpu.cfs_quota_us": "100000\n", "cgroup/cpu/cpu.cfs_period_us": "100000\n"}, 1,
                id="v1",
            ),
            pytest.param(
                {**V1, f"cgroup/cpu{POD}/cpu.cfs_quota_us": "-1\n", f"cgroup/cpu{POD}/cpu.cfs_period_us": "100000\n"},
                None, id="v1 without a quota",
            ),
        ],
    )  # fmt: skip
    def test_a_quota_counts_in_whole_cores(self, tmp_path: Path, files: dict[str, str], expected: int | None) -> None:
        assert machine(tmp_path, files).cores() == (expected or len(os.sched_getaffinity(0)))

    def test_slots_share_the_cores(self, tmp_path: Path) -> None:
        cores = len(os.sched_getaffinity(0))
        assert threads_per_slot(1, machine(tmp_path, {})) == cores
        assert threads_per_slot(cores, machine(tmp_path, {})) == 1
        assert threads_per_slot(10 * cores, machine(tmp_path, {})) == 1


class TestKills:
    @pytest.mark.parametrize(
        ("files", "expected"),
        [
            pytest.param({}, 0, id="nowhere told"),
            pytest.param({"proc/vmstat": "nr_free_pages 1\noom_kill 7\n"}, 7, id="vmstat"),
            pytest.param({**V2, f"cgroup{POD}/memory.events": "oom 9\noom_kill 3\noom_group_kill 1\n"}, 3, id="v2"),
            pytest.param({**INSIDE_V2, "cgroup/memory.events": "oom 9\noom_kill 3\n"}, 3, id="v2 in a container"),
            pytest.param(
                {**V1, f"cgroup/memory{POD}/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"}, 2,
                id="v1",
            ),
            pytest.param(
                {**V1, "cgroup/memory/memory.oom_control": "under_oom 0\noom_kill 2\n", "proc/vmstat": "oom_kill 9\n"},
                2, id="v1, only its inside seen",
            ),
            pytest.param(
                {**V1, f"cgroup/memory{POD}/memory.oom_control": "under_oom 0\n", "proc/vmstat": "oom_kill 9\n"}, 9,
                id="an old kernel's group does not count them",
            ),
        ],
    )  # fmt: skip
    def test_the_nearest_counter_counts(self, tmp_path: Path, files: dict[str, str], expected: int) -> None:
        assert machine(tmp_path, files).oom_kills() == expected


def test_this_machine_can_be_read() -> None:
    own = Machine()
    assert own.free_bytes() > 50 * MB
    assert 1 <= own.cores() <= len(os.sched_getaffinity(0))
    assert own.oom_kills() >= 0


def test_private_memory_grows_with_what_is_written() -> None:
    # Memory of its own: a large process may have room for a mere object in what it has freed before.
    with mmap.mmap(-1, 60 * MB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as hoard:
        before = private_bytes(os.getpid())
        hoard.write(b"x" * (60 * MB))
        assert private_bytes(os.getpid()) - before > 30 * MB
    assert private_bytes(1 << 30) == 0, "a process that is gone is no error"


def test_want_of_memory_is_the_limits_fault_where_there_is_one() -> None:
    assert left_to_map() is None
    assert isinstance(no_memory("x"), OutOfMemory)
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (1 << 40, before[1]))
    try:
        left = left_to_map()
        assert left is not None
        assert 1 << 39 < left < 1 << 40
        assert isinstance(no_memory("x"), MemoryLimitExceeded)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def test_the_hard_limit_leaves_the_watch_time_to_see() -> None:
    assert hard_limit(1000 * MB) >= 2000 * MB

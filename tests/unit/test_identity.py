"""A worker's identity tells for certain that it is dead, and never claims it of a living or a foreign one."""

import subprocess
import sys

from worker.identity import is_dead, own_identity


def test_this_process_lives() -> None:
    assert not is_dead(own_identity())


def test_a_process_that_has_ended_is_dead() -> None:
    told = subprocess.run(
        [sys.executable, "-c", "from worker.identity import own_identity; print(own_identity())"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert is_dead(told.stdout.strip())


def test_another_process_that_got_the_same_pid_is_not_taken_for_the_dead_one() -> None:
    host, boot, namespace, pid, started = own_identity().split("/")
    assert is_dead("/".join((host, boot, namespace, pid, str(int(started) - 1))))


def test_nothing_is_claimed_of_other_machines_and_containers() -> None:
    host, boot, namespace, _, _ = own_identity().split("/")
    assert not is_dead(f"elsewhere/{boot}/{namespace}/999999/1")
    assert not is_dead(f"{host}/00000000/{namespace}/999999/1")
    assert not is_dead(f"{host}/{boot}/pid:[1]/999999/1")
    assert not is_dead("garbage")

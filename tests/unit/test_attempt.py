"""The attempt in the child: it takes in what the supervisor says, whenever that comes."""

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from common.artefacts.layout import Volume
from common.outcome import Cancelled
from common.plugins import Allowance, TransferLimits
from worker.attempt import StageAttempt
from worker.forkserver import Channel
from worker.messages import Allowed, AskFence, Ended, FencePassed, FromChild, HubBusy
from worker.workspace import Workspace

MESSAGES: msgspec.json.Decoder[FromChild] = msgspec.json.Decoder(FromChild)


@dataclass
class Pair:
    attempt: StageAttempt
    supervisor: Channel

    def allow(self, bytes_per_s: float | None = None, silent_s: float = 0.0) -> None:
        self.supervisor.send(Allowed(allowance=Allowance(bytes_per_s=bytes_per_s, silent_s=silent_s)))


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    ours, theirs = (Channel(end) for end in socket.socketpair())
    yield Pair(StageAttempt(theirs, Volume(tmp_path), Workspace(tmp_path / "rooms"), TransferLimits()), ours)
    ours.close()
    theirs.close()


def test_without_a_word_everything_is_allowed(pair: Pair) -> None:
    assert pair.attempt.allowance() == Allowance()


def test_the_newest_allowance_holds(pair: Pair) -> None:
    pair.allow(1000.0)
    pair.allow(2000.0)
    assert pair.attempt.allowance().bytes_per_s == 2000.0
    assert pair.attempt.allowance().bytes_per_s == 2000.0
    pair.allow()
    assert pair.attempt.allowance() == Allowance()


def test_a_silence_passes(pair: Pair) -> None:
    pair.allow(silent_s=0.3)
    assert pair.attempt.allowance().silent_s == pytest.approx(0.3, abs=0.1)
    time.sleep(0.35)
    assert pair.attempt.allowance().silent_s == 0.0


def test_to_ask_costs_no_time(pair: Pair) -> None:
    began = time.monotonic()
    for _ in range(1000):
        pair.attempt.allowance()
        pair.attempt.checkpoint()
    assert time.monotonic() - began < 0.5


def test_a_checkpoint_takes_in_what_has_been_said(pair: Pair) -> None:
    for number in range(5000):
        pair.allow(float(number + 1))
        pair.attempt.checkpoint()
    assert pair.attempt.allowance().bytes_per_s == 5000.0


def test_the_fence_hears_an_allowance_that_comes_before_its_answer(pair: Pair) -> None:
    fence = threading.Thread(target=pair.attempt.fence)
    fence.start()
    assert pair.supervisor.receive(MESSAGES, timeout_s=2.0) == AskFence()
    pair.allow(7.0)
    fence.join(0.2)
    assert fence.is_alive()
    pair.supervisor.send(FencePassed())
    fence.join(2.0)
    assert not fence.is_alive()
    assert pair.attempt.allowance().bytes_per_s == 7.0


def test_the_supervisor_hears_that_a_hub_is_busy(pair: Pair) -> None:
    pair.attempt.hub_asks_to_wait(12.5)
    assert pair.supervisor.receive(MESSAGES, timeout_s=2.0) == HubBusy(wait_s=12.5)


def test_a_last_word_is_heard_although_its_speaker_did_not_listen(pair: Pair) -> None:
    pair.allow(1.0)
    pair.attempt.channel.send(Ended(outcome=Cancelled()))
    pair.attempt.channel.close()
    assert pair.supervisor.receive(MESSAGES, timeout_s=2.0) == Ended(outcome=Cancelled())

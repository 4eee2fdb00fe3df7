"""Hubs that lie: whatever a server answers, a job ends with one error of ours, in time, and nothing is left outside."""

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from common.errors import HubUnavailable
from tests.fakes.attempt import LocalAttempt
from tests.hostile.attacks import ENDLESS, GREEDY, HOSTILE_VALUES, MARKER, SLOW, WIRE
from tests.hostile.doors import DOORS, HASTY, LIMITS, TOKEN, outcome
from tests.hostile.endings import ENDINGS
from tests.hostile.raw import RawServer
from tests.hostile.worlds import WORLDS
from worker.net import Credential, HubClient

FILES_ONLY = frozenset({"omz", "hls", "remote-url", "ultralytics-mirror"})
"""These hubs ask for no documents: whether a file is JSON does not matter to them."""
BELIEVED = frozenset({"ultralytics-mirror"})
"""Nobody tells this one what the bytes must be, and its manifest says so: docs/hubs/ultralytics.md."""
WITHOUT_DIGESTS = frozenset({"hls", "remote-url"})
"""What these bring is stored by its own sha256 before it is looked at; no artefact names it, and it is cleared away."""
SILENCE = frozenset({"hub_unavailable", "transfer_stalled"})
PROBES = ("object", "true")
"""A field of which none of these changes anything is read by nobody."""
CODES = frozenset(
    {
        "transfer_stalled",
        "done", "source_unsafe", "hub_unavailable", "integrity_mismatch", "source_not_found", "nothing_to_fetch",
        "source_disabled", "invalid_parameters", "unsupported_architecture", "output_incomplete", "revision_not_found",
        "source_gated", "source_private_or_missing",
    }
)  # fmt: skip


def is_tried(attack: str, door: str) -> bool:
    if attack in SLOW:
        return door == "omz"
    if attack in ENDLESS and door in BELIEVED:
        return False
    return door != "openvino" and not (attack.startswith("json-") and door in FILES_ONLY)


WIRES = [(attack, door) for attack in WIRE for door in DOORS if is_tried(attack, door)]


@pytest.mark.parametrize(("attack", "door"), WIRES, ids=[f"{door}-{attack}" for attack, door in WIRES])
def test_every_answer_ends_in_an_error_of_ours(
    attack: str, door: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    usual, others = ENDINGS[attack]
    endings = {others.get(door, usual)}
    hasty = door in FILES_ONLY and bool(endings & SILENCE)
    attempt = LocalAttempt(tmp_path / "attempt", HASTY if hasty or attack in SLOW else LIMITS)
    if DOORS[door].tls:
        server, front = request.getfixturevalue("tls")
        server.play = WIRE[attack]
        place = DOORS[door].place(front.endpoint, tmp_path / "place", front.certificate)
        ended = outcome(place, attempt)
    else:
        with RawServer(WIRE[attack]) as server:
            ended = outcome(DOORS[door].place(server.own_url, tmp_path / "place"), attempt)
    # Of a transfer that nothing arrives for, either may be said: which one is for the clock to decide.
    assert ended in (endings | SILENCE if hasty else endings)
    if ended != "done":
        assert_nothing_is_left(tmp_path, attempt)
        assert not attempt.kept or door in WITHOUT_DIGESTS


def assert_nothing_is_left(folder: Path, attempt: LocalAttempt) -> None:
    """Parts may wait to be gone on with, and what was verified may be stored; nothing else is anywhere."""
    known = (attempt.workspace, attempt.parts, attempt.root / "blobs", folder / "place")
    assert not [path for path in folder.rglob("*") if path.is_file() and not any(map(path.is_relative_to, known))]
    assert not list(folder.rglob(f"*{MARKER}*"))


def test_every_attack_has_an_ending() -> None:
    assert ENDINGS.keys() == WIRE.keys()


@pytest.mark.parametrize("attack", sorted(SLOW))
def test_a_call_that_never_comes_to_its_answer_ends_at_the_deadline(attack: str) -> None:
    with (
        RawServer(WIRE[attack]) as server,
        HubClient(server.own_url, call_s=0.5) as client,
        pytest.raises(HubUnavailable, match="more than"),
    ):
        client.get("x")


@pytest.mark.parametrize("world", WORLDS)
def test_every_field_of_every_document_may_lie(world: str, tmp_path: Path) -> None:
    """One field at a time, with each of the hostile values: an error of ours, or a manifest that is sound."""
    faults: list[str] = []
    with WORLDS[world]() as made:
        for number, spot in enumerate(made.spots(LocalAttempt(tmp_path / "first", LIMITS))):
            values = [*PROBES, *(name for name in HOSTILE_VALUES if name not in PROBES)]
            for tried, name in enumerate(values):
                attempt = LocalAttempt(
                    tmp_path / f"{number}-{name}", HASTY if world == "pipeline-zoo-models" else LIMITS
                )
                try:
                    ended = made.lie(spot, HOSTILE_VALUES[name], attempt)
                    changes = ended != "done" or tried >= len(PROBES)
                except BaseException as error:
                    ended, changes = f"{type(error).__name__}: {error}", True
                if ended not in CODES:
                    faults.append(f"{spot} {name}: {ended[:200]}")
                if tried == 0:
                    is_read = changes
                is_read |= changes
                if tried == len(PROBES) - 1 and not is_read:
                    break
    assert faults == []
    assert not list(tmp_path.rglob(f"*{MARKER}*"))


def test_a_token_never_follows_a_redirect_of_any_kind() -> None:
    """Neither to another port nor to another name of the same machine; nor does a login in the address get there."""
    with RawServer(lambda visit: visit.send("HTTP/1.1 200 OK", "Content-Length: 2", body=b"{}")) as other:
        for host in ("127.0.0.1", "localhost", "user:password@127.0.0.1"):
            location = f"http://{host}:{other.port}/stolen"
            with RawServer(
                lambda visit, to=location: visit.send("HTTP/1.1 307 Go", f"Location: {to}", "Content-Length: 0")
            ) as hub:
                with HubClient(hub.own_url, credential=Credential.bearer(hub.own_url, TOKEN)) as client:
                    client.get("x", headers={"X-Api-Key": TOKEN, "Cookie": TOKEN, "Authorization": f"Basic {TOKEN}"})
                assert TOKEN.encode() in hub.requests[0].head
        assert len(other.requests) == 3
        assert not any(TOKEN.encode() in visit.head for visit in other.requests)
        assert not any(b"password" in visit.head.lower() for visit in other.requests)
        assert not any(visit.header("Authorization") for visit in other.requests)


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is read from /proc")
@pytest.mark.parametrize(
    "hub", ["huggingface", "geti", "ollama", "ollama-server", "pipeline-zoo-models", "ultralytics"]
)
def test_no_answer_takes_more_memory_than_is_allowed(hub: str, tmp_path: Path) -> None:
    """In a process of its own, which says how much it grew with each of the answers."""
    with ExitStack() as servers:
        urls = [servers.enter_context(RawServer(play)).own_url for play in GREEDY.values()]
        done = subprocess.run(
            [sys.executable, "-m", "tests.hostile.appetite", hub, str(tmp_path), *urls],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "done" not in done.stdout

"""What of an attempt's lines is kept, and what a child sends of them."""

import logging
import socket
import time
from collections.abc import Iterator

import msgspec
import pytest

from worker.forkserver import Channel
from worker.joblog import Notebook, Telling
from worker.messages import FromChild, Said

SECRET = "credential0of0the0operator"
DECODER: msgspec.json.Decoder[FromChild] = msgspec.json.Decoder(FromChild)


def texts(notebook: Notebook) -> list[str]:
    return [entry.text for entry in notebook.waiting()]


def say(notebook: Notebook, text: str, *, level: str = "info", **fields: str) -> None:
    notebook.hear(Said(level=level, text=text, fields=dict(fields)))


def test_lines_wait_until_the_table_has_them() -> None:
    notebook = Notebook()
    say(notebook, "one")
    say(notebook, "two")
    assert texts(notebook) == ["one", "two"]
    say(notebook, "three")
    notebook.written(2)
    assert texts(notebook) == ["three"]
    assert notebook.close()[0].text == "three"


def test_a_line_tells_how_old_it_is() -> None:
    notebook = Notebook()
    say(notebook, "one")
    time.sleep(0.05)
    (entry,) = notebook.waiting()
    assert 0.05 <= entry.age_s < 5


def test_while_the_table_is_away_only_some_lines_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.joblog._BURST", 10_000)
    notebook = Notebook()
    for number in range(300):
        say(notebook, f"line {number}")
    assert len(notebook.waiting()) == 200
    notebook.written(200)
    say(notebook, "the database is back")
    assert texts(notebook) == ["100 lines were left out here: too many came at once.", "the database is back"]


def test_too_many_at_once_are_left_out_and_counted() -> None:
    notebook = Notebook()
    for number in range(150):
        say(notebook, f"line {number}")
    kept = texts(notebook)
    assert 100 <= len(kept) <= 110
    left_out = notebook.close()[-1]
    assert left_out.level == "warning"
    assert left_out.text == f"{150 - len(kept)} lines were left out here: too many came at once."


def test_what_the_child_has_not_sent_is_counted_too() -> None:
    notebook = Notebook()
    notebook.hear(Said(level="info", text="after a flood", lost=7))
    assert texts(notebook) == ["7 lines were left out here: too many came at once.", "after a flood"]


def test_an_attempt_keeps_only_so_many_lines_but_more_of_its_troubles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.joblog._BURST", 10_000)
    notebook = Notebook()
    kept: list[str] = []
    for number in range(700):
        say(notebook, f"line {number}")
        say(notebook, f"trouble {number}", level="warning") if number >= 400 else None
        kept += texts(notebook)
        notebook.written(len(notebook.waiting()))
    assert len(kept) == 500
    assert kept[399] == "line 399"
    assert kept[400] == "trouble 400"
    assert [entry.text for entry in notebook.close()] == [
        "This attempt has said more than is kept: the rest of it is left out."
    ]


def test_no_credential_is_kept_in_whatever_form_it_comes() -> None:
    notebook = Notebook()
    notebook.hide([SECRET, f"{SECRET}-and-more"])
    say(notebook, f"a {SECRET} and {SECRET}-and-more", url=f"https://x/?token={SECRET}", **{f"n{SECRET}": "v"})
    say(notebook, "Bearer abcdefghijkl hf_abcdefghijkl https://user:password@host/")
    seen = repr([(entry.text, entry.fields) for entry in notebook.waiting()])
    for hidden in (SECRET, "-and-more", "abcdefghijkl", "password"):
        assert hidden not in seen


@pytest.mark.parametrize("before", range(7960, 8001, 3))
def test_a_credential_that_is_cut_in_half_is_not_kept_either(before: int) -> None:
    notebook = Notebook()
    notebook.hide([SECRET])
    # Enough of them that what is left of the line would be short enough to be kept whole.
    line = (SECRET * 400)[: before // len(SECRET) * len(SECRET)] + "x" * (before % len(SECRET)) + SECRET
    say(notebook, line[:8000])
    (entry,) = notebook.waiting()
    assert SECRET[:4] not in entry.text


def test_a_long_line_is_cut_and_one_that_no_database_takes_is_written_out() -> None:
    notebook = Notebook()
    say(notebook, "x" * 5000, field="y" * 5000, nul="a\0b")
    say(notebook, "a\0b", level="nonsense-and-far-too-long")
    long, odd = notebook.waiting()
    assert (len(long.text), len(str(long.fields["field"]))) == (2004, 504)
    assert long.fields["nul"] == "a\\x00b"
    assert (odd.text, odd.level) == ("a\\x00b", "warning")


@pytest.fixture
def told() -> Iterator[tuple[logging.Logger, Channel]]:
    near, far = socket.socketpair()
    handler, parent = Telling(Channel(near)), logging.getLogger("worker.test_joblog")
    parent.addHandler(handler)
    parent.setLevel(logging.DEBUG)
    yield parent, Channel(far)
    parent.removeHandler(handler)
    near.close()
    far.close()


def heard(channel: Channel) -> list[Said]:
    found = []
    while (message := channel.receive(DECODER, timeout_s=0.0)) is not None:
        assert isinstance(message, Said)
        found.append(message)
    return found


def test_a_child_sends_what_it_logs(told: tuple[logging.Logger, Channel]) -> None:
    log, channel = told
    log.debug("too.small")
    log.info("source.resolved", extra={"files": 3, "bytes": 9, "revision": "abc"})
    log.warning("odd.event", extra={"path": Channel, "not_a_number": float("nan"), "huge": 10**30})
    log.info("source.resolved", extra={"files": 3})
    try:
        int("no number")
    except ValueError:
        log.exception("stage.broken")
    resolved, odd, incomplete, broken = heard(channel)
    assert resolved.text == "The source: 3 file(s), 9 bytes, revision abc."
    assert resolved.fields["files"] == 3
    assert (odd.level, odd.text) == ("warning", "odd.event")
    assert odd.fields["huge"] == str(10**30)
    assert incomplete.text == "source.resolved"
    assert broken.level == "error"
    assert str(broken.fields["traceback"]).endswith("'no number'\n")


def test_a_library_is_heard_only_when_something_is_wrong(told: tuple[logging.Logger, Channel]) -> None:
    log, channel = told
    (handler,) = log.handlers
    other = logging.getLogger("somebodys.library")
    other.addHandler(handler)
    other.setLevel(logging.DEBUG)
    other.propagate = False
    other.info("all is well")
    other.warning("this %s is odd", "thing")
    other.warning("this %d is a mistake in the library", "thing")
    other.removeHandler(handler)
    assert [said.text for said in heard(channel)] == ["this thing is odd"]


def test_a_supervisor_that_does_not_listen_stops_nobody(told: tuple[logging.Logger, Channel]) -> None:
    log, channel = told
    began = time.monotonic()
    for number in range(3000):
        log.info("line %d %s", number, "x" * 5000)
    assert time.monotonic() - began < 5
    assert 0 < len(heard(channel)) <= 101
    channel.close()
    log.info("nobody is there")

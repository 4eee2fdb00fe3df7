"""Lines of the log: their form, their fields, and what is blotted out of them."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any, Literal

import pytest

from common.log import SharedThreads, about, configure, known, not_reserved

SECRETS = {
    "hf": "hf_abcdefghijklmnop",
    "key": "mf_0123456789ab_" + "s" * 43,
    "bearer": "Bearer abc.def-ghi",
    "url": "https://user:pass-word@example.org/x",
    "signed": "https://example.org/x?X-Amz-Signature=0123456789abcdef",
}
HIDDEN = ("hf_abcdefghijklmnop", "s" * 43, "abc.def-ghi", "pass-word", "0123456789abcdef")

log = logging.getLogger("tests.of.the.log")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def stream_of(style: Literal["text", "json"], **names: object) -> io.StringIO:
    stream = io.StringIO()
    configure("info", style, stream, names=names)
    return stream


def only(stream: io.StringIO) -> dict[str, Any]:
    (line,) = stream.getvalue().splitlines()
    read: dict[str, Any] = json.loads(line)
    return read


def test_a_json_line_has_the_same_four_fields_first_and_then_its_own() -> None:
    stream = stream_of("json", service="modelferry-worker", pool="download")
    log.warning("stage.settled", extra={"seconds": 1.5, "count": 3, "ok": True, "nothing": None, "pool": "convert"})
    line = only(stream)
    assert list(line)[:4] == ["at", "level", "event", "logger"]
    assert (line["level"], line["event"], line["logger"]) == ("warning", "stage.settled", "tests.of.the.log")
    assert line["at"].endswith("+00:00")
    assert (line["seconds"], line["count"], line["ok"], line["nothing"]) == (1.5, 3, True, None)
    assert (line["service"], line["pool"]) == ("modelferry-worker", "convert")


def test_what_is_no_number_is_text() -> None:
    stream = stream_of("json")
    log.info("x", extra={"list": [1, 2], "huge": float("inf"), "none": float("nan"), "error": ValueError("no")})
    line = only(stream)
    assert (line["list"], line["huge"], line["none"], line["error"]) == ("[1, 2]", "inf", "nan", "no")


def test_a_field_cannot_take_the_place_of_what_every_line_has() -> None:
    stream = stream_of("json")
    log.info("x", extra={"level": "error", "event": "y", "logger": "z"})
    line = only(stream)
    assert (line["level"], line["event"], line["logger"]) == ("info", "x", "tests.of.the.log")
    assert (line["level_"], line["event_"], line["logger_"]) == ("error", "y", "z")


def test_lines_are_about_what_their_thread_is_about_whichever_library_writes_them() -> None:
    stream = stream_of("json")
    with about(stage="s1", attempt=2, unknown=None), about(request_id="r1"):
        logging.getLogger("some.library").warning("it %s", "happened")
        assert known("stage") == "s1"
    line = only(stream)
    assert (line["stage"], line["attempt"], line["request_id"], line["event"]) == ("s1", 2, "r1", "it happened")
    assert "unknown" not in line
    assert known("stage") is None


def test_nobody_who_is_quoted_in_a_line_makes_it_one_of_another_stage() -> None:
    stream = stream_of("json")
    with about(stage="mine"):
        log.info("x", extra={"stage": "forged"})
    assert only(stream)["stage"] == "mine"


def test_threads_work_under_the_fields_of_whoever_gives_them_something_to_do() -> None:
    stream = stream_of("json")
    with SharedThreads(1) as threads:
        with about(request_id="r1"):
            first = threads.submit(log.info, "first")
        first.result()
        threads.submit(log.info, "second").result()
    one, two = (json.loads(line) for line in stream.getvalue().splitlines())
    assert one["request_id"] == "r1"
    assert "request_id" not in two


@pytest.mark.parametrize("style", ["text", "json"])
def test_secrets_are_blotted_out_wherever_they_are(style: Literal["text", "json"]) -> None:
    stream = stream_of(style)
    with about(**{name: f"about {text}" for name, text in SECRETS.items()}):
        for name, text in SECRETS.items():
            log.info("message with %s", text, extra={f"field_{name}": text, "nested": {name: [text]}})
            try:
                raise ValueError(text)  # noqa: TRY301 - its text is to be logged
            except ValueError:
                log.exception("it broke")
    written = stream.getvalue()
    assert written.count("***") >= 4 * len(SECRETS)
    assert [secret for secret in HIDDEN if secret in written] == []
    if style == "json":
        assert len([json.loads(line) for line in written.splitlines()]) == 2 * len(SECRETS)


def test_a_secret_beside_a_line_break_or_a_quote_is_found_and_the_line_stays_json() -> None:
    stream = stream_of("json")
    log.info('a "quote" at http://x",y\n"b@c', extra={"said": 'Bearer\n"abc', "more": "Bearer\nabcdefgh"})
    line = only(stream)
    assert line["event"] == 'a "quote" at http://x",y\n"b@c'
    assert line["more"] == "***"


def test_text_lines_have_the_fields_behind_the_event_each_once() -> None:
    stream = stream_of("text", service="modelferry-api")
    with about(stage="s1", request_id="r1"):
        log.info("stage.claimed", extra={"stage": "s1", "attempt": 1})
    line = stream.getvalue().rstrip("\n")
    assert line.endswith("info    stage.claimed  stage=s1 attempt=1 request_id=r1")


def test_fields_of_strangers_never_break_a_record() -> None:
    stream = stream_of("json")
    fields = {"name": "x", "msg": "y", "args": "z", "levelname": "q", "message": "m", "asctime": "n", "kept": "k"}
    log.info("x", extra=not_reserved(fields))
    assert only(stream)["kept"] == "k"

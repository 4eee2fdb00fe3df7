"""The reader of event streams, held against the rules of the HTML standard."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.client.sse import EventReader, EventTooLarge, ServerSentEvent

STREAM = (
    b"\xef\xbb\xbf: a comment\r\n"
    b"retry: 1500\n"
    b"event: snapshot\rid: 1\rdata: {\rdata: \xc3\xa4}\r\r"
    b"data:no space\n\n"
    b"id\ndata:  two spaces\r\n\r\n"
    b"id: a\0b\ndata\n\n"
    b"event: nothing\n\n"
    b"id: 7\n\n"
    b"data: last\nunknown: x\nretry: soon\n\n"
    b"data: never finished\n"
)
EVENTS = [
    ServerSentEvent("snapshot", "{\nä}", "1"),
    ServerSentEvent("message", "no space", "1"),
    ServerSentEvent("message", " two spaces", ""),
    ServerSentEvent("message", "", ""),
    ServerSentEvent("message", "last", "7"),
]


def read(*pieces: bytes) -> tuple[list[ServerSentEvent], EventReader]:
    reader = EventReader()
    return [event for piece in pieces for event in reader.feed(piece)], reader


def test_one_piece() -> None:
    events, reader = read(STREAM)
    assert events == EVENTS
    assert (reader.retry_ms, reader.last_id) == (1500, "7")


def test_two_pieces_cut_at_every_byte() -> None:
    for at in range(len(STREAM) + 1):
        assert read(STREAM[:at], STREAM[at:])[0] == EVENTS, at


def test_byte_by_byte_and_with_empty_pieces() -> None:
    assert read(*(STREAM[at : at + 1] for at in range(len(STREAM))))[0] == EVENTS
    assert read(*(piece for at in range(len(STREAM)) for piece in (b"", STREAM[at : at + 1], b"")))[0] == EVENTS


LINE_ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])
VALUES = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=12)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_events_in_any_pieces(data: st.DataObject) -> None:
    """What is written as the standard says comes out again, however it is cut."""
    wanted = data.draw(st.lists(st.tuples(VALUES, st.lists(VALUES, min_size=1, max_size=3), VALUES), max_size=5))
    fields = [
        field
        for event, lines, event_id in wanted
        for field in (f"event: {event}", *(f"data: {line}" for line in lines), f"id: {event_id}", ": heartbeat", "")
    ]
    end = data.draw(LINE_ENDS)
    written = b"".join(field.encode() + end for field in fields)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(written)), max_size=12)))
    pieces = [written[begin:stop] for begin, stop in zip([0, *cuts], [*cuts, len(written)], strict=True)]
    expected = [ServerSentEvent(event or "message", "\n".join(lines), event_id) for event, lines, event_id in wanted]
    assert read(*pieces)[0] == expected


@settings(max_examples=150, deadline=None)
@given(noise=st.binary(max_size=300), cuts=st.lists(st.integers(0, 300), max_size=10))
def test_noise_in_any_pieces(noise: bytes, cuts: list[int]) -> None:
    bounds = sorted(min(cut, len(noise)) for cut in cuts)
    pieces = [noise[begin:end] for begin, end in zip([0, *bounds], [*bounds, len(noise)], strict=True)]
    assert read(*pieces)[0] == read(noise)[0]


def test_text_that_is_no_utf_8_is_read_all_the_same() -> None:
    assert read(b"data: \xff\n\n")[0] == [ServerSentEvent("message", "\ufffd", "")]


@pytest.mark.parametrize("pieces", [[b"data: 1234567890\n"] * 7, [b"x" * 30] * 3, [b"data: " + b"x" * 70 + b"\n"]])
def test_an_event_has_a_bound(pieces: list[bytes]) -> None:
    reader = EventReader(most_bytes=60)
    with pytest.raises(EventTooLarge):
        [event for piece in pieces for event in reader.feed(piece)]


def test_a_reader_goes_on_from_an_id() -> None:
    reader = EventReader("41")
    assert list(reader.feed(b"data: x\n\nid: 42\n")) == [ServerSentEvent("message", "x", "41")]
    assert reader.last_id == "41"

"""What goes over a stream: frames of the event-stream format, each encoded once for all who get it."""

import msgspec

from api.live_views import event_view, log_line, progress_event
from api.wire import JobView, View
from api.wire.live import StreamEnd
from common.store.events import JobEvent, Position
from common.vocabulary import JobState

BEGINNING = b"retry: 2000\n\n"
"""How many milliseconds a client waits before it comes back."""
HEARTBEAT = b": still here\n\n"

_ENCODER = msgspec.json.Encoder()


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a stream."""

    content: bytes
    position: Position | None = None
    """What a client that comes back has seen with this; None where it is of the moment."""
    is_log: bool = False
    ends: JobState | None = None
    """Of the last event of a job: the job's last state."""


def event_frame(event: JobEvent, job: JobView | None) -> Frame:
    """Something that has happened to a job."""
    content = _content("job", event_view(event, job), event.position)
    return Frame(content=content, position=event.position, ends=event.ends)


def log_frame(event: JobEvent) -> Frame:
    """Something that an attempt has said."""
    return Frame(content=_content("log", log_line(event), event.position), position=event.position, is_log=True)


def progress_frame(job: JobView) -> Frame:
    """How far a job is."""
    return Frame(content=_content("progress", progress_event(job)))


def snapshot_frame(view: View, position: Position) -> Frame:
    """How everything stood at a position."""
    return Frame(content=_content("snapshot", view, position), position=position)


def end_frame(job_id: str, status: JobState) -> Frame:
    """Nothing will follow."""
    return Frame(content=_content("end", StreamEnd(job_id=job_id, status=status)))


def _content(name: str, view: View, position: Position | None = None) -> bytes:
    known = b"" if position is None else b"id: %b\n" % position.text().encode()
    # JSON has no line breaks outside its strings, and writes those inside as escapes.
    return b"%bevent: %b\ndata: %b\n\n" % (known, name.encode(), _ENCODER.encode(view))

"""What the event streams tell, as values."""

import msgspec

from api.client.call import decoded
from api.client.sse import ServerSentEvent
from api.wire import JobView
from api.wire.live import EventView, LogLine, ProgressEvent, Snapshot, StreamEnd

StreamData = JobView | Snapshot | EventView | LogLine | ProgressEvent | StreamEnd


class StreamEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a stream. What `data` is decides `event`."""

    event: str
    """`snapshot`, `job`, `log`, `progress` or `end`."""
    id: str
    """What `last_event_id` goes on from."""
    data: StreamData
    """Of `snapshot` a JobView, or the Snapshot of all jobs; then EventView, LogLine, ProgressEvent, StreamEnd."""


def stream_event(address: str, came: ServerSentEvent, snapshot: type[JobView] | type[Snapshot]) -> StreamEvent | None:
    """Nothing for an event of a later version. Raises NotUnderstood for what is none of ours."""
    kinds: dict[str, type[StreamData]] = {
        "snapshot": snapshot,
        "job": EventView,
        "log": LogLine,
        "progress": ProgressEvent,
        "end": StreamEnd,
    }
    kind = kinds.get(came.event)
    if kind is None:
        return None
    return StreamEvent(event=came.event, id=came.id, data=decoded(address, came.data, kind))

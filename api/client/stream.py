"""An event stream while its connections come and go. It opens none itself, so that both clients share it."""

from collections.abc import Sequence

from api.client.call import Query, given, path_of
from api.client.errors import NotUnderstood, Refused, Unreachable
from api.client.events import StreamEvent, stream_event
from api.client.patience import Patience
from api.client.sse import EventReader, EventTooLarge
from api.wire import JobView
from api.wire.live import Snapshot

HEARTBEATS_S = 45.0
"""A living stream says something more often than this."""

_OVER = 204
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0


class Stream:
    """One stream: how to ask for it, and what it has told. Its reader goes on where the last connection ended."""

    def __init__(
        self,
        address: str,
        path: str,
        snapshot: type[JobView] | type[Snapshot],
        *,
        last_event_id: str | None = None,
        query: Query = (),
    ) -> None:
        self.path = path
        self.query = query
        self.silence_s = HEARTBEATS_S
        """For so long a connection may say nothing before it counts as cut."""
        self.ended = False
        """Whether the service has said that nothing more will come."""
        self.has_told = False
        """Whether any event has come at all."""
        self.was_opened = False
        """Whether a connection has been answered with success."""
        self._address = address
        self._snapshot = snapshot
        self._patience = Patience()
        self._reader = EventReader(last_event_id or "")
        self._cuts = 0

    @property
    def headers(self) -> dict[str, str]:
        """What a request for the rest of the stream says."""
        # Compressed events would wait in the compressor for those that follow.
        asking = {"Accept": "text/event-stream", "Accept-Encoding": "identity", "Cache-Control": "no-store"}
        return asking | ({"Last-Event-ID": self._reader.last_id} if self._reader.last_id else {})

    @property
    def pause_s(self) -> float:
        """How long to wait before the next connection: longer after each that has brought nothing."""
        told_ms = self._reader.retry_ms
        first_s = _FIRST_PAUSE_S if told_ms is None else told_ms / 1000
        return min(first_s * 2.0**self._cuts, max(first_s, _LONGEST_PAUSE_S))

    def opened(self, status: int, content_type: str) -> None:
        """A connection has been answered with success. Raises NotUnderstood where this is no stream."""
        if status == _OVER:
            self.ended = True
        elif content_type.partition(";")[0].strip().lower() != "text/event-stream":
            raise NotUnderstood(f"{self._address} does not answer with a stream of events")
        retry_ms = self._reader.retry_ms
        self._reader = EventReader(self._reader.last_id)
        self._reader.retry_ms = retry_ms
        self._cuts += 1
        self.was_opened = True

    def heard(self, chunk: bytes) -> Sequence[StreamEvent]:
        """The events that some bytes complete. Raises NotUnderstood."""
        try:
            came = list(self._reader.feed(chunk))
        except EventTooLarge as error:
            raise NotUnderstood(f"{self._address}: {error}") from error
        if came:
            self.has_told = True
            self._cuts = 0
            self._patience.answered()
        told = (stream_event(self._address, event, self._snapshot) for event in came)
        events = [event for event in told if event is not None]
        self.ended = self.ended or any(event.event == "end" for event in events)
        return events

    def failed(self, error: Refused | Unreachable) -> None:
        """A connection was not to be had, or broke. Raises the error again unless another one is worth a try."""
        if not self.was_opened:
            raise error
        self._patience.failed(error)
        self._cuts += 1


def stream_of_job(address: str, job_id: str, last_event_id: str | None) -> Stream:
    """Everything that happens to one job."""
    return Stream(address, path_of("jobs", job_id, "events"), JobView, last_event_id=last_event_id)


def stream_of_all(address: str, last_event_id: str | None = None, *, logs: bool = False) -> Stream:
    """Everything that happens to all jobs. It never ends."""
    query = given(logs="true" if logs else None)
    return Stream(address, "events", Snapshot, last_event_id=last_event_id, query=query)

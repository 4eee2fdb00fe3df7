"""What one client is sent: first what it has missed, or how everything stands; then what happens."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable

import msgspec

from api.live.feed import Feed
from api.live.frames import BEGINNING, HEARTBEAT, Frame, end_frame, event_frame, log_frame, snapshot_frame
from api.live.listener import Left, Listener
from api.live_views import snapshot
from api.views import Places, job_view
from common.errors import NoSuchJob, ServiceUnavailable
from common.lifecycle import ENDED_JOBS
from common.store.database import Database
from common.store.events import EventStore, JobEvent, Position
from common.store.jobs import JobStore
from common.vocabulary import JobState

_FRESH_S = 1.0
"""For so long one picture of all jobs serves everybody who comes."""


class _Part(msgspec.Struct, frozen=True, kw_only=True):
    """Some of what a client is sent before it listens."""

    frames: list[Frame]
    behind: Position | None
    more: bool = False
    ends: JobState | None = None
    """The last state of the client's job, where there will be nothing more."""


class Streams:
    """Opens streams. Each is an iterator of bytes, to be closed when its client has left."""

    def __init__(
        self, *, feed: Feed, events: EventStore, jobs: JobStore, places: Places, heartbeat_s: float = 15.0
    ) -> None:
        self.feed = feed
        self.events = events
        self._jobs = jobs
        self._places = places
        self._heartbeat_s = heartbeat_s
        self._picture: Frame | None = None
        self._pictured_at = 0.0
        self._picturing = threading.Lock()

    @staticmethod
    def of(database: Database, places: Places) -> "Streams":
        """The streams of one web process. Opens no connection yet."""
        events, jobs = EventStore(database), JobStore(database)
        return Streams(feed=Feed(events, jobs, places), events=events, jobs=jobs, places=places)

    def known(self, last_id: str | None) -> Position | None:
        """The position that a client wants to go on from; None where that says nothing, or nothing of this table.

        Raises ServiceUnavailable.
        """
        position = Position.read(last_id) if last_id else None
        return position if position is not None and position <= self.events.head() else None

    def is_over(self, job_id: str, after: Position | None) -> bool:
        """Whether a client that has seen so much has seen everything. Raises NoSuchJob, ServiceUnavailable."""
        ended = self._jobs.job(job_id).state in ENDED_JOBS
        return ended and after is not None and not self.events.of_job(job_id, after, limit=1)

    async def of_job(self, job_id: str, after: Position | None) -> AsyncIterator[bytes]:
        """The stream of one job: until it has ended, the client does not keep up, or the process goes away."""

        def part(behind: Position | None) -> _Part:
            return self._job(job_id) if behind is None else self._missed_of(job_id, behind)

        async for content in self._stream(job_id, after, part, logs=True):
            yield content

    async def of_all(self, after: Position | None, *, logs: bool) -> AsyncIterator[bytes]:
        """The stream of all jobs."""

        def part(behind: Position | None) -> _Part:
            return self._everything() if behind is None else self._missed(behind, logs=logs)

        async for content in self._stream(None, after, part, logs=logs):
            yield content

    async def _stream(
        self, job_id: str | None, behind: Position | None, part: Callable[[Position | None], _Part], *, logs: bool
    ) -> AsyncIterator[bytes]:
        yield BEGINNING
        try:
            async with self.feed.listening(job_id, logs=logs) as listener:
                more = True
                while more and not self.feed.closed:
                    # What is read of the table after one has begun to listen meets what is heard.
                    first = await asyncio.to_thread(part, behind)
                    for frame in first.frames:
                        yield frame.content
                    behind, more = first.behind, first.more
                    if first.ends is not None and job_id is not None:
                        yield end_frame(job_id, first.ends).content
                        return
                async for content in self._live(listener, behind):
                    yield content
        except (Left, NoSuchJob, ServiceUnavailable):
            # The client comes back with what it has seen last.
            return

    async def _live(self, listener: Listener, behind: Position | None) -> AsyncIterator[bytes]:
        """What happens, but for what the client has got already. Raises Left."""
        ends: JobState | None = None
        while True:
            frame = await listener.next(self._heartbeat_s) if ends is None else listener.taken()
            if frame is None and ends is not None and listener.job_id is not None:
                yield end_frame(listener.job_id, ends).content
                return
            if frame is None:
                yield HEARTBEAT
                continue
            if frame.position is not None:
                if behind is not None and frame.position <= behind:
                    continue
                behind = frame.position
            yield frame.content
            if listener.job_id is not None:
                ends = ends or frame.ends

    def _job(self, job_id: str) -> _Part:
        """How a job stands. The position comes first: what happens between the two is told again."""
        head = self.events.head()
        job = self._jobs.job(job_id)
        frame = snapshot_frame(job_view(job, self._places), head)
        return _Part(frames=[frame], behind=head, ends=job.state if job.state in ENDED_JOBS else None)

    def _everything(self) -> _Part:
        """How all jobs stand. Whoever comes while a picture is taken waits for it, and gets the same one."""
        with self._picturing:
            # One that is older than what the feed has told of would leave a gap.
            fresh = time.monotonic() - self._pictured_at < _FRESH_S
            frame = self._picture
            if frame is None or frame.position is None or not fresh or frame.position < self.feed.behind:
                head = self.events.head()
                frame = snapshot_frame(snapshot(self._jobs.active(), self._jobs.counts(), self._places), head)
                self._picture, self._pictured_at = frame, time.monotonic()
        return _Part(frames=[frame], behind=frame.position)

    def _missed_of(self, job_id: str, after: Position) -> _Part:
        events = self.events.of_job(job_id, after)
        ends = next((event.ends for event in events if event.ends), None)
        behind = events[-1].position if events else after
        return _Part(frames=self._frames(events), behind=behind, more=bool(events), ends=ends)

    def _missed(self, after: Position, *, logs: bool) -> _Part:
        news = self.events.since(after, logs=logs)
        shown = [event for event in news.events if not event.hidden]
        return _Part(frames=self._frames(shown), behind=news.behind, more=news.more)

    def _frames(self, events: list[JobEvent]) -> list[Frame]:
        happened = {event.job_id for event in events if not event.is_said}
        known = {job.id: job_view(job, self._places) for job in self._jobs.some(happened)} if happened else {}
        return [log_frame(event) if event.is_said else event_frame(event, known.get(event.job_id)) for event in events]

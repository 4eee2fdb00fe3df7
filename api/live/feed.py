"""The feed: looks at the table once a second, while somebody listens, and tells everybody what they want of it."""

import asyncio
import contextlib
import itertools
import logging
import threading
from collections.abc import AsyncIterator, Iterable

import msgspec

from api.live.frames import Frame, event_frame, log_frame, progress_frame
from api.live.listener import Listener
from api.views import Places, job_view
from api.wire import JobView
from common.errors import ServiceUnavailable
from common.lifecycle import ENDED_JOBS
from common.records import JobRecord
from common.store.events import BEGINNING, EventStore, JobEvent, News, Position
from common.store.jobs import JobStore
from common.vocabulary import HIDDEN

log = logging.getLogger(__name__)

_ROUNDS_BETWEEN_ROLLS = 10

_Progress = dict[str, dict[str, object]]


class _Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What all listeners together want to hear of."""

    everybody: bool
    jobs: frozenset[str]
    logs: bool

    def takes(self, event: JobEvent) -> bool:
        """Whether anybody is to be told of this."""
        return event.job_id in self.jobs or (self.everybody and not event.hidden)


class _Told(msgspec.Struct, frozen=True, kw_only=True):
    """A frame, and whom it is about."""

    job_id: str
    hidden: bool
    frame: Frame


class Feed:
    """One for each web process. Its listeners live in one event loop; `close` may be called from anywhere."""

    def __init__(self, events: EventStore, jobs: JobStore, places: Places, *, period_s: float = 1.0) -> None:
        self._events = events
        self._jobs = jobs
        self._places = places
        self._period_s = period_s
        self._listeners: set[Listener] = set()
        self._round: asyncio.Task[None] | None = None
        self._looking = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = threading.Event()
        self.behind = BEGINNING
        """What listeners that join now will not hear of: they have to read it."""

    @property
    def closed(self) -> bool:
        """Whether the process is going away."""
        return self._closed.is_set()

    @contextlib.asynccontextmanager
    async def listening(self, job_id: str | None = None, *, logs: bool = False) -> AsyncIterator[Listener]:
        """A listener that hears of everything behind `behind`. Raises ServiceUnavailable."""
        listener = Listener(job_id, logs=logs)
        try:
            # Not while somebody looks for those who have been there before: what is found then, nobody keeps for it.
            async with self._looking:
                self._listeners.add(listener)
                await self._start()
            if self.closed:
                listener.leave()
            yield listener
        finally:
            self._listeners.discard(listener)
            if not self._listeners and self._round is not None:
                self._round.cancel()
                self._round = None

    def close(self) -> None:
        """End every stream, and let none begin: the process is going away. Safe to repeat, from any thread."""
        self._closed.set()
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._dismiss)

    def _dismiss(self, listeners: Iterable[Listener] | None = None) -> None:
        for listener in list(self._listeners if listeners is None else listeners):
            listener.leave()

    async def _start(self) -> None:
        """Begin to look, from where the table stands now."""
        self._loop = asyncio.get_running_loop()
        if self._round is None or self._round.done():
            self.behind = await asyncio.to_thread(self._events.head)
            self._round = asyncio.create_task(self._look_around())

    async def _look_around(self) -> None:
        progress: _Progress = {}
        for number in itertools.count(1):
            await asyncio.sleep(self._period_s)
            try:
                progress = await self._look_to_the_end(progress)
                if number % _ROUNDS_BETWEEN_ROLLS == 0:
                    self._dismiss(await self._forsaken())
            except ServiceUnavailable:
                # Who listens hears the heartbeat meanwhile, and everything that was missed afterwards.
                log.warning("feed.blind")
            except Exception:
                log.exception("feed.failed")

    async def _look_to_the_end(self, progress: _Progress) -> _Progress:
        more = True
        while more:
            async with self._looking:
                news, told = await asyncio.to_thread(self._look, self.behind, self._wanted(), progress)
                self._tell(told)
                self.behind, more = news.behind, news.more
                progress = {stage.id: stage.progress for stage in news.running}
        return progress

    def _wanted(self) -> _Wanted:
        return _Wanted(
            everybody=any(listener.job_id is None for listener in self._listeners),
            jobs=frozenset(listener.job_id for listener in self._listeners if listener.job_id is not None),
            logs=any(listener.logs for listener in self._listeners),
        )

    def _look(self, behind: Position, wanted: _Wanted, progress: _Progress) -> tuple[News, list[_Told]]:
        """One question, and a second one for the jobs to which something has happened. In a thread."""
        news = self._events.news(behind, logs=wanted.logs)
        events = [event for event in news.events if wanted.takes(event)]
        moved = [
            job_id
            for stage in news.running
            if progress.get(stage.id) != stage.progress
            for job_id in stage.job_ids
            if wanted.everybody or job_id in wanted.jobs
        ]
        changed = {event.job_id for event in events if not event.is_said} | set(moved)
        records = {record.id: record for record in self._jobs.some(changed)} if changed else {}
        return news, self._told(events, moved, records)

    def _told(self, events: list[JobEvent], moved: list[str], records: dict[str, JobRecord]) -> list[_Told]:
        views = {job_id: job_view(record, self._places) for job_id, record in records.items()}
        told = [
            _Told(job_id=event.job_id, hidden=event.hidden, frame=_frame(event, views.get(event.job_id)))
            for event in events
        ]
        return told + [
            _Told(job_id=job_id, hidden=records[job_id].spec.operation in HIDDEN, frame=progress_frame(views[job_id]))
            for job_id in moved
            if job_id in records and records[job_id].state not in ENDED_JOBS
        ]

    def _tell(self, told: list[_Told]) -> None:
        everybody = [listener for listener in self._listeners if listener.job_id is None]
        by_job: dict[str, list[Listener]] = {}
        for listener in self._listeners:
            if listener.job_id is not None:
                by_job.setdefault(listener.job_id, []).append(listener)
        for one in told:
            for listener in [*([] if one.hidden else everybody), *by_job.get(one.job_id, ())]:
                if listener.wants(one.frame):
                    listener.offer(one.frame)

    async def _forsaken(self) -> list[Listener]:
        """Those who wait for what will not come: their job was forgotten before it was told how it ended.

        They come back, and hear so.
        """
        watched = {listener.job_id for listener in self._listeners if listener.job_id is not None}
        if not watched:
            return []
        known = {record.id for record in await asyncio.to_thread(self._jobs.some, watched)}
        return [listener for listener in self._listeners if listener.job_id in watched - known]


def _frame(event: JobEvent, job: JobView | None) -> Frame:
    return log_frame(event) if event.is_said else event_frame(event, job)

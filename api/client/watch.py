"""Waiting for jobs: what has been seen of them, what to ask, and whether to listen. Both clients share it."""

from collections.abc import Iterator, Sequence

from msgspec import structs

from api.client.errors import NotUnderstood, Refused, Unreachable
from api.client.events import StreamEvent
from api.client.patience import Patience
from api.client.stream import Stream
from api.wire import JobView
from api.wire.live import EventView, LogLine, ProgressEvent, Snapshot, StreamEnd
from common.vocabulary import JobState

ENDED = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELED})

_FIRST_WORD_S = 3.0
"""A stream that passes through to us begins with a snapshot at once; what comes no further is held up on the way."""
_SILENCE_S = 20.0
"""A little more than there is between two heartbeats."""
_SHORTEST_SILENCE_S = 0.2


class Watch:
    """Some jobs until all have ended. The stream tells of them; where there is none, they are asked for in turn."""

    def __init__(self, ids: Sequence[str], stream: Stream, timeout_s: float | None) -> None:
        self.stream = stream
        self.patience = Patience(timeout_s)
        self.listens = True
        """Whether there is a stream that says something."""
        self._order = list(ids)
        self._ids = dict.fromkeys(ids)
        self._seen: dict[str, JobView] = {}
        self._asking: list[str] = []
        self._silence_s = _FIRST_WORD_S

    @property
    def over(self) -> bool:
        """Whether every job has ended."""
        return all(job_id in self._seen and self._seen[job_id].status in ENDED for job_id in self._ids)

    @property
    def jobs(self) -> list[JobView]:
        """The jobs as they were seen last, in the order in which they were asked for."""
        return [self._seen[job_id] for job_id in self._order]

    def open(self) -> None:
        """Before each connection. Raises TimedOut. The silence that a connection may keep ends before the deadline."""
        self.check()
        longest_s = _SILENCE_S if self.stream.has_told else _FIRST_WORD_S
        self._silence_s = min(longest_s, max(self.patience.left_s / 2, _SHORTEST_SILENCE_S))
        self.stream.silence_s = self._silence_s

    def hears_on(self) -> bool:
        """Whether to stay with this connection: not if its silence could last beyond the deadline."""
        left_s = self.patience.left_s
        return not self.over and left_s > 0 and self._silence_s <= max(left_s, _SHORTEST_SILENCE_S)

    def hear(self, event: StreamEvent) -> list[JobView]:
        """The jobs that are no longer as they were."""
        self.patience.answered()
        match event.data:
            case JobView() as job:
                return self.tell(job)
            case Snapshot(jobs=jobs):
                awaited = [job for job in jobs if job.id in self._ids]
                self._ask(set(self._ids) - {job.id for job in awaited})
                return [changed for job in awaited for changed in self.tell(job)]
            case EventView(job=JobView() as job):
                return self.tell(job)
            case ProgressEvent(job_id=job_id) as progress if job_id in self._seen and progress.status not in ENDED:
                changes = {"status": progress.status, "progress": progress.progress}
                return self.tell(structs.replace(self._seen[job_id], **changes))
            case EventView(job_id=job_id) | ProgressEvent(job_id=job_id) | StreamEnd(job_id=job_id):
                self._ask({job_id} & set(self._ids))
            case LogLine():
                pass
        return []

    def questions(self) -> Iterator[str]:
        """The jobs of which something has been heard that does not say all."""
        while self._asking:
            yield self._asking.pop(0)

    def unended(self) -> list[str]:
        """The jobs to ask for where no stream tells of them."""
        return [job_id for job_id in self._ids if job_id not in self._seen or self._seen[job_id].status not in ENDED]

    def tell(self, job: JobView) -> list[JobView]:
        """A job as it is now: itself if that is new."""
        known = self._seen.get(job.id)
        if job.id not in self._ids or known == job or (known is not None and known.status in ENDED):
            return []
        self._seen[job.id] = job
        return [job]

    def answered(self, job: JobView) -> list[JobView]:
        """A job that was asked for: itself if that is new."""
        self.patience.answered()
        return self.tell(job)

    def left(self, error: Refused | Unreachable | None = None) -> None:
        """A connection has ended, somehow. What is not there, or keeps back what it gets, is not listened to again."""
        useless = isinstance(error, Refused | NotUnderstood) or (self.stream.was_opened and not self.stream.has_told)
        if useless or self.stream.ended:
            self.listens = False

    def pause_s(self) -> float:
        """How long to wait before the next connection or round of questions. Raises TimedOut."""
        self.check()
        return min(self.stream.pause_s, self.patience.left_s) if self.listens else self.patience.pause_s()

    def check(self) -> None:
        """Raises TimedOut."""
        count = len(self.unended())
        self.patience.check("The job has not ended" if count == 1 else f"{count} jobs have not ended")

    def _ask(self, ids: set[str]) -> None:
        ended = {job_id for job_id in ids if job_id in self._seen and self._seen[job_id].status in ENDED}
        self._asking += sorted(ids - ended - set(self._asking))

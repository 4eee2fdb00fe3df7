"""Event streams, and the log of a job."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any, TypeVar, cast

from litestar import Request, Response, get
from litestar.datastructures import Headers, MultiDict
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Parameter, Schema
from litestar.openapi.spec.enums import OpenAPIType
from litestar.params import FromPath, QueryParams
from litestar.response import Stream
from litestar.response.streaming import ASGIStreamingResponse
from litestar.types import Receive, Send
from pydantic import BaseModel, Field, field_validator

from api.compat.decoding import Reader
from api.live.streams import Streams
from api.live_views import log_page
from api.problems import documented
from api.routes.documented import reads
from api.usecases import Jobs
from api.wire.live import LogPage
from common.store.events import BEGINNING, Position

M = TypeVar("M", bound=BaseModel)

_KIND = "text/event-stream"
_OK = 200
_NO_CONTENT = 204
_LAST_ID = "Last-Event-ID"

_HEADERS = (
    Parameter(
        name=_LAST_ID,
        param_in="header",
        required=False,
        description="The id of the last event that was seen: what came after it comes first, and no snapshot.",
        schema=Schema(type=OpenAPIType.STRING),
    ),
)
_STREAMED = {
    _OK: ResponseSpec(
        data_container=str, media_type=_KIND, description="The events, as they come.", generate_examples=False
    )
}
_NOTHING_MORE = {
    _NO_CONTENT: ResponseSpec(
        data_container=None,
        description="The job has ended, and the client has seen all of it: it need not come back.",
        generate_examples=False,
    )
}


class StreamQuery(BaseModel):
    """From where to go on, for a client that cannot set a header."""

    last_event_id: Annotated[
        str | None, Field(max_length=64, description=f"The same as the header {_LAST_ID}, which goes before it.")
    ] = None


class AllQuery(StreamQuery):
    """What to be told of all jobs."""

    logs: Annotated[bool, Field(description="Whether to send the lines of the jobs' logs, too.")] = False


class LogQuery(BaseModel):
    """Which part of a log."""

    after: Annotated[str | None, Field(max_length=64, description="Only what came after the line of this id.")] = None
    limit: Annotated[int, Field(ge=1, le=1000, description="At most so many lines.")] = 500

    @field_validator("after")
    @classmethod
    def _is_an_id(cls, after: str | None) -> str | None:
        if after and Position.read(after) is None:
            raise ValueError("this is no id of a line")
        return after

    @property
    def position(self) -> Position:
        """Behind which line to begin."""
        return (Position.read(self.after) if self.after else None) or BEGINNING


class EventStream(Stream):
    """An answer that goes on for as long as there is something to tell."""

    def __init__(self, frames: AsyncIterator[bytes]) -> None:
        self._frames = frames
        # A proxy that buffers would hold back what is to be seen now.
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(frames, media_type=_KIND, headers=headers)

    def to_asgi_response(self, app: Any, request: Request[Any, Any, Any], **more: Any) -> ASGIStreamingResponse:
        """The same, but its source is closed as soon as the client has left, wherever it stands then."""
        del app, request
        more.pop("type_encoders", None)
        headers = {**(more.pop("headers", None) or {}), **self.headers}
        return _Closing(iterator=self._frames, headers=headers, **{**more, "media_type": _KIND})


class _Closing(ASGIStreamingResponse):
    async def send_body(self, send: Send, receive: Receive) -> None:
        async with aclosing(cast("AsyncGenerator[bytes, None]", self.iterator)):
            await super().send_body(send, receive)


@get(
    "/jobs/{job_id:str}/events",
    tags=["jobs"],
    summary="Watch a job",
    operation_class=reads(query=StreamQuery, headers=_HEADERS),
    responses={**_STREAMED, **_NOTHING_MORE, **documented(404, 422, 503)},
)
async def watch_job(
    job_id: FromPath[str],
    headers: Headers,
    query: QueryParams,
    jobs: NamedDependency[Jobs],
    streams: NamedDependency[Streams],
) -> Response[Any]:
    """Server-sent events: how the job stands, then what happens, and an `end`.

    `snapshot` holds a JobView, `job` an EventView, `log` a LogLine, `progress` a ProgressEvent, `end` a StreamEnd. A
    client that comes back with the id that it has seen last gets no snapshot, and misses nothing.
    """
    asked = _read(StreamQuery, query)

    def look() -> tuple[Position | None, bool]:
        jobs.job(job_id)
        after = streams.known(headers.get(_LAST_ID) or asked.last_event_id)
        return after, streams.is_over(job_id, after)

    after, is_over = await asyncio.to_thread(look)
    return Response(None, status_code=_NO_CONTENT) if is_over else EventStream(streams.of_job(job_id, after))


@get(
    "/events",
    tags=["jobs"],
    summary="Watch all jobs",
    operation_class=reads(query=AllQuery, headers=_HEADERS),
    responses={**_STREAMED, **documented(422, 503)},
)
async def watch_all(headers: Headers, query: QueryParams, streams: NamedDependency[Streams]) -> Response[Any]:
    """Server-sent events: how all jobs stand, then what happens. They never end by themselves.

    `snapshot` holds a Snapshot, `job` an EventView, `progress` a ProgressEvent, and `log`, where wanted, a LogLine.
    """
    asked = _read(AllQuery, query)
    after = await asyncio.to_thread(streams.known, headers.get(_LAST_ID) or asked.last_event_id)
    return EventStream(streams.of_all(after, logs=asked.logs))


@get(
    "/jobs/{job_id:str}/log",
    sync_to_thread=True,
    tags=["jobs"],
    summary="Read a job's log",
    operation_class=reads(query=LogQuery),
    responses=documented(400, 404, 422, 503),
)
def read_log(
    job_id: FromPath[str], query: QueryParams, jobs: NamedDependency[Jobs], streams: NamedDependency[Streams]
) -> LogPage:
    """What has happened to the job, and what its attempts have said, in order."""
    asked = _read(LogQuery, query)
    jobs.job(job_id)
    return log_page(streams.events.of_job(job_id, asked.position, limit=asked.limit))


def _read(model: type[M], query: MultiDict[Any]) -> M:
    reader = Reader()
    asked = reader.query(model, query.multi_items())
    if asked is None:
        raise reader.refusal()
    return asked

"""The client for code that runs in an event loop."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import wraps
from inspect import isawaitable
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

import anyio
import httpx

from api.client import calls
from api.client.call import Call, refusal
from api.client.errors import Refused, Unreachable
from api.client.events import StreamEvent
from api.client.http import answer_of, listening, options, reaching, request_of, shown
from api.client.patience import Patience
from api.client.signatures import with_self
from api.client.stream import Stream, stream_of_all, stream_of_job
from api.client.watch import Watch
from api.wire import JobView
from api.wire.gates import GateView
from common.settings import service_address

P = ParamSpec("P")
V = TypeVar("V")

Told = Callable[[V], Awaitable[object] | object]
"""What is called with something new. It may be a coroutine function."""


def awaiting(call: Callable[P, Call[V]]) -> "Callable[Concatenate[AsyncClient, P], Awaitable[V]]":
    """A method of AsyncClient that makes this call."""

    @wraps(call)
    async def method(self: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> V:
        return await self.run(call(*args, **kwargs))

    return with_self(method, call)


class AsyncClient:
    """Speaks to one service, as Client does, and is made as that is. Close it, or use it as a context."""

    def __init__(
        self,
        address: str | None = None,
        *,
        timeout_s: float = 30.0,
        tenant: str | None = None,
        api_key: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        address = address or service_address()
        self._address = shown(address)
        self._timeout_s = timeout_s
        self._http = httpx.AsyncClient(**options(address, timeout_s, tenant, api_key), transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Let go of the connections."""
        await self._http.aclose()

    health = awaiting(calls.health)
    ready = awaiting(calls.ready)
    overview = awaiting(calls.overview)
    workers = awaiting(calls.workers)
    plugins = awaiting(calls.plugins)
    limits = awaiting(calls.limits)
    put_limit = awaiting(calls.put_limit)
    remove_limit = awaiting(calls.remove_limit)

    submit = awaiting(calls.submit)
    plan = awaiting(calls.plan)
    jobs = awaiting(calls.jobs)
    page = awaiting(calls.page)
    job = awaiting(calls.job)
    attempts = awaiting(calls.attempts)
    log = awaiting(calls.log)
    provenance = awaiting(calls.provenance)
    cancel = awaiting(calls.cancel)
    retry = awaiting(calls.retry)
    delete = awaiting(calls.delete)
    jobs_of_model = awaiting(calls.jobs_of_model)
    results = awaiting(calls.results)

    search = awaiting(calls.search)
    models = awaiting(calls.models)
    model = awaiting(calls.model)
    remove_model = awaiting(calls.remove_model)
    verify_model = awaiting(calls.verify_model)
    upload = awaiting(calls.upload)

    gates = awaiting(calls.gates)
    gate = awaiting(calls.gate)
    put_gate = awaiting(calls.put_gate)
    remove_gate = awaiting(calls.remove_gate)

    webhooks = awaiting(calls.webhooks)
    webhook = awaiting(calls.webhook)
    add_webhook = awaiting(calls.add_webhook)
    change_webhook = awaiting(calls.change_webhook)
    remove_webhook = awaiting(calls.remove_webhook)
    rotate_webhook = awaiting(calls.rotate_webhook)
    send_test_message = awaiting(calls.send_test_message)
    deliveries = awaiting(calls.deliveries)
    redeliver = awaiting(calls.redeliver)

    audit = awaiting(calls.audit)
    whoami = awaiting(calls.whoami)
    keys = awaiting(calls.keys)
    key = awaiting(calls.key)
    add_key = awaiting(calls.add_key)
    rotate_key = awaiting(calls.rotate_key)
    revoke_key = awaiting(calls.revoke_key)

    async def run(self, call: Call[V]) -> V:
        """Make a call. Raises Refused or Unreachable."""
        with request_of(call, self._timeout_s) as request, reaching(self._address):
            response = await self._http.request(**request)
        return call.read(answer_of(self._address, response))

    def events(self, job_id: str, last_event_id: str | None = None) -> AsyncGenerator[StreamEvent, None]:
        """What happens to a job, until its end, as `Client.events` tells it."""
        return self._events(stream_of_job(self._address, job_id, last_event_id))

    def all_events(self, last_event_id: str | None = None, *, logs: bool = False) -> AsyncGenerator[StreamEvent, None]:
        """What happens to all jobs, without end, as `Client.all_events` tells it."""
        return self._events(stream_of_all(self._address, last_event_id, logs=logs))

    async def wait(
        self, job_id: str, *, timeout_s: float | None = None, on_progress: Told[JobView] | None = None
    ) -> JobView:
        """The job, once it is completed, failed or canceled, as `Client.wait` tells it."""
        watch = Watch([job_id], stream_of_job(self._address, job_id, None), timeout_s)
        return (await self._watched(watch, on_progress))[0]

    async def wait_all(
        self, job_ids: Sequence[str], *, timeout_s: float | None = None, on_progress: Told[JobView] | None = None
    ) -> list[JobView]:
        """The jobs in this order, once all have ended, as `Client.wait_all` tells it."""
        return await self._watched(Watch(job_ids, stream_of_all(self._address), timeout_s), on_progress)

    async def wait_gate(
        self, name: str, *, timeout_s: float | None = None, on_change: Told[GateView] | None = None
    ) -> GateView:
        """The gate, once it is open, as `Client.wait_gate` tells it."""
        patience = Patience(timeout_s)
        seen: GateView | None = None
        while True:
            try:
                gate = await self.gate(name)
            except (Refused, Unreachable) as error:
                patience.failed(error)
            else:
                patience.answered()
                if gate != seen:
                    await _tell(on_change, gate)
                if gate.open:
                    return gate
                seen = gate
            patience.check(f"The gate {name} has not opened")
            await anyio.sleep(patience.pause_s())

    async def _events(self, stream: Stream) -> AsyncGenerator[StreamEvent, None]:
        while not stream.ended:
            try:
                async with aclosing(self._connection(stream)) as pieces:
                    async for events in pieces:
                        for event in events:
                            yield event
            except (Refused, Unreachable) as error:
                stream.failed(error)
            if not stream.ended:
                await anyio.sleep(stream.pause_s)

    async def _connection(self, stream: Stream) -> AsyncGenerator[Sequence[StreamEvent], None]:
        """What one connection tells, piece by piece, until it ends or the stream does."""
        with reaching(self._address):
            async with self._http.stream(**listening(stream, self._timeout_s)) as response:
                if not response.is_success:
                    await response.aread()
                    raise refusal(answer_of(self._address, response))
                stream.opened(response.status_code, response.headers.get("Content-Type", ""))
                async for chunk in response.aiter_bytes():
                    yield stream.heard(chunk)
                    if stream.ended:
                        return

    async def _watched(self, watch: Watch, told: Told[JobView] | None) -> list[JobView]:
        while not watch.over:
            if watch.listens:
                await self._listen(watch, told)
            for job_id in watch.unended():
                await self._ask(watch, job_id, told)
            if not watch.over:
                await anyio.sleep(watch.pause_s())
        return watch.jobs

    async def _listen(self, watch: Watch, told: Told[JobView] | None) -> None:
        watch.open()
        try:
            async with aclosing(self._connection(watch.stream)) as pieces:
                async for events in pieces:
                    for changed in (job for event in events for job in watch.hear(event)):
                        await _tell(told, changed)
                    for job_id in watch.questions():
                        await self._ask(watch, job_id, told)
                    if not watch.hears_on():
                        return
            watch.left()
        except (Refused, Unreachable) as error:
            watch.left(error)

    async def _ask(self, watch: Watch, job_id: str, told: Told[JobView] | None) -> None:
        try:
            job = await self.job(job_id)
        except (Refused, Unreachable) as error:
            watch.patience.failed(error)
            return
        for changed in watch.answered(job):
            await _tell(told, changed)


async def _tell(told: Told[V] | None, news: V) -> None:
    if told is not None:
        waits = told(news)
        if isawaitable(waits):
            await waits

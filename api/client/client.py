"""The client for ordinary code: every call waits for its answer."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import wraps
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

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


def blocking(call: Callable[P, Call[V]]) -> "Callable[Concatenate[Client, P], V]":
    """A method of Client that makes this call."""

    @wraps(call)
    def method(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> V:
        return self.run(call(*args, **kwargs))

    return with_self(method, call)


class Client:
    """Speaks to one service. Every method raises Refused or Unreachable. Close it, or use it as a context.

    Without an address it speaks to MODELFERRY_URL, or to http://127.0.0.1:8200. `tenant` is who asks, unless a call
    says otherwise. Without an API key it sends that of MODELFERRY_API_KEY, or what MODELFERRY_API_KEY_FILE holds; an
    empty one is none. Making one raises ValueError for what can be no key, and SettingsError for a file without one.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        timeout_s: float = 30.0,
        tenant: str | None = None,
        api_key: str | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        address = address or service_address()
        self._address = shown(address)
        self._timeout_s = timeout_s
        self._http = httpx.Client(**options(address, timeout_s, tenant, api_key), transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    health = blocking(calls.health)
    ready = blocking(calls.ready)
    overview = blocking(calls.overview)
    workers = blocking(calls.workers)
    plugins = blocking(calls.plugins)
    limits = blocking(calls.limits)
    put_limit = blocking(calls.put_limit)
    remove_limit = blocking(calls.remove_limit)

    submit = blocking(calls.submit)
    plan = blocking(calls.plan)
    jobs = blocking(calls.jobs)
    page = blocking(calls.page)
    job = blocking(calls.job)
    attempts = blocking(calls.attempts)
    log = blocking(calls.log)
    provenance = blocking(calls.provenance)
    cancel = blocking(calls.cancel)
    retry = blocking(calls.retry)
    delete = blocking(calls.delete)
    jobs_of_model = blocking(calls.jobs_of_model)
    results = blocking(calls.results)

    search = blocking(calls.search)
    models = blocking(calls.models)
    model = blocking(calls.model)
    remove_model = blocking(calls.remove_model)
    verify_model = blocking(calls.verify_model)
    upload = blocking(calls.upload)

    gates = blocking(calls.gates)
    gate = blocking(calls.gate)
    put_gate = blocking(calls.put_gate)
    remove_gate = blocking(calls.remove_gate)

    webhooks = blocking(calls.webhooks)
    webhook = blocking(calls.webhook)
    add_webhook = blocking(calls.add_webhook)
    change_webhook = blocking(calls.change_webhook)
    remove_webhook = blocking(calls.remove_webhook)
    rotate_webhook = blocking(calls.rotate_webhook)
    send_test_message = blocking(calls.send_test_message)
    deliveries = blocking(calls.deliveries)
    redeliver = blocking(calls.redeliver)

    audit = blocking(calls.audit)
    whoami = blocking(calls.whoami)
    keys = blocking(calls.keys)
    key = blocking(calls.key)
    add_key = blocking(calls.add_key)
    rotate_key = blocking(calls.rotate_key)
    revoke_key = blocking(calls.revoke_key)

    def run(self, call: Call[V]) -> V:
        """Make a call. Raises Refused or Unreachable."""
        with request_of(call, self._timeout_s) as request, reaching(self._address):
            response = self._http.request(**request)
        return call.read(answer_of(self._address, response))

    def events(self, job_id: str, last_event_id: str | None = None) -> Generator[StreamEvent, None, None]:
        """What happens to a job, until its end. Connections that break are made again, and nothing is missed.

        Raises Refused or Unreachable for the first connection, and later if the service stays away for a minute.
        """
        return self._events(stream_of_job(self._address, job_id, last_event_id))

    def all_events(self, last_event_id: str | None = None, *, logs: bool = False) -> Generator[StreamEvent, None, None]:
        """What happens to all jobs, without end. Raises as `events` does."""
        return self._events(stream_of_all(self._address, last_event_id, logs=logs))

    def wait(
        self, job_id: str, *, timeout_s: float | None = None, on_progress: Callable[[JobView], object] | None = None
    ) -> JobView:
        """The job, once it is completed, failed or canceled. `on_progress` gets it whenever it has changed.

        Raises TimedOut; Refused for a job that is not there; Unreachable if the service stays away for a minute.
        """
        watch = Watch([job_id], stream_of_job(self._address, job_id, None), timeout_s)
        return self._watched(watch, on_progress)[0]

    def wait_all(
        self,
        job_ids: Sequence[str],
        *,
        timeout_s: float | None = None,
        on_progress: Callable[[JobView], object] | None = None,
    ) -> list[JobView]:
        """The jobs in this order, once all have ended. Raises as `wait` does."""
        return self._watched(Watch(job_ids, stream_of_all(self._address), timeout_s), on_progress)

    def wait_gate(
        self, name: str, *, timeout_s: float | None = None, on_change: Callable[[GateView], object] | None = None
    ) -> GateView:
        """The gate, once it is open. Raises TimedOut, Refused or Unreachable, as `wait` does."""
        patience = Patience(timeout_s)
        seen: GateView | None = None
        while True:
            try:
                gate = self.gate(name)
            except (Refused, Unreachable) as error:
                patience.failed(error)
            else:
                patience.answered()
                if on_change is not None and gate != seen:
                    on_change(gate)
                if gate.open:
                    return gate
                seen = gate
            patience.check(f"The gate {name} has not opened")
            time.sleep(patience.pause_s())

    def _events(self, stream: Stream) -> Generator[StreamEvent, None, None]:
        while not stream.ended:
            try:
                for events in self._connection(stream):
                    yield from events
            except (Refused, Unreachable) as error:
                stream.failed(error)
            if not stream.ended:
                time.sleep(stream.pause_s)

    def _connection(self, stream: Stream) -> Generator[Sequence[StreamEvent], None, None]:
        """What one connection tells, piece by piece, until it ends or the stream does."""
        with reaching(self._address), self._http.stream(**listening(stream, self._timeout_s)) as response:
            if not response.is_success:
                response.read()
                raise refusal(answer_of(self._address, response))
            stream.opened(response.status_code, response.headers.get("Content-Type", ""))
            for chunk in response.iter_bytes():
                yield stream.heard(chunk)
                if stream.ended:
                    return

    def _watched(self, watch: Watch, on_progress: Callable[[JobView], object] | None) -> list[JobView]:
        told = on_progress or (lambda _: None)
        while not watch.over:
            if watch.listens:
                self._listen(watch, told)
            for job_id in watch.unended():
                self._ask(watch, job_id, told)
            if not watch.over:
                time.sleep(watch.pause_s())
        return watch.jobs

    def _listen(self, watch: Watch, told: Callable[[JobView], object]) -> None:
        watch.open()
        try:
            with closing(self._connection(watch.stream)) as pieces:
                for events in pieces:
                    for changed in (job for event in events for job in watch.hear(event)):
                        told(changed)
                    for job_id in watch.questions():
                        self._ask(watch, job_id, told)
                    if not watch.hears_on():
                        return
            watch.left()
        except (Refused, Unreachable) as error:
            watch.left(error)

    def _ask(self, watch: Watch, job_id: str, told: Callable[[JobView], object]) -> None:
        try:
            job = self.job(job_id)
        except (Refused, Unreachable) as error:
            watch.patience.failed(error)
            return
        for changed in watch.answered(job):
            told(changed)

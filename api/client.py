"""A typed client of the HTTP API, for the command line and for tests. It knows nothing but the wire."""

from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote, urlsplit

import httpx
import msgspec

from api.wire import (
    AttemptPage,
    AttemptView,
    CancelView,
    Fault,
    Health,
    JobPage,
    JobView,
    LimitPage,
    LimitView,
    PluginPage,
    Readiness,
    ResultPage,
    Started,
)
from common.errors import ModelferryError
from common.vocabulary import JobState, LimitScope, ModelType, Priority

V = TypeVar("V")


class Refused(ModelferryError):
    """The service answered, and said no."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class Unreachable(ModelferryError):
    """Nobody answers at this address, or somebody who is no Modelferry."""


class _Problem(msgspec.Struct, frozen=True):
    """A `Problem` or a `FaultyRequest`."""

    detail: str | list[Fault]


class WantedModel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One model of a submission."""

    name: str
    hub: str
    type: ModelType | None = None
    is_ovms: bool = False
    revision: str | None = None
    priority: Priority | None = None
    config: dict[str, object] | None = None


class Client:
    """Speaks to one service. Every method raises Refused or Unreachable. Close it, or use it as a context."""

    def __init__(self, address: str, *, timeout_s: float = 30.0) -> None:
        # A proxy for the outside world cannot reach this very machine.
        self._http = httpx.Client(
            base_url=address, timeout=timeout_s, trust_env=not _is_loopback(address), follow_redirects=True
        )
        self._address = address

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection."""
        self._http.close()

    def health(self) -> Health:
        """Whether the web process answers."""
        return self._get("health", Health)

    def ready(self) -> Readiness:
        """Whether a job submitted now would run, and the startup models are there."""
        response = self._send("GET", "ready")
        try:
            return msgspec.json.decode(response.content, type=Readiness)
        except msgspec.DecodeError:
            return self._accepted(response, Readiness)

    def submit(
        self,
        models: Sequence[WantedModel],
        download_path: str = "",
        *,
        idempotency_key: str | None = None,
        tenant: str | None = None,
    ) -> Started:
        """Ask for models. All are accepted, or none. Under one key, the same request starts nothing twice."""
        body = msgspec.json.encode({"models": models})
        headers = _asking(idempotency_key, tenant)
        query = {"download_path": download_path}
        return self._accepted(self._send("POST", "models/download", query=query, body=body, headers=headers), Started)

    def jobs(self, status: JobState | None = None, limit: int | None = None, offset: int | None = None) -> JobPage:
        """Jobs, oldest first."""
        return self._get("jobs", JobPage, _given(status=status, limit=limit, offset=offset))

    def page(
        self,
        cursor: str = "",
        *,
        limit: int | None = None,
        status: JobState | None = None,
        newest_first: bool = False,
    ) -> JobPage:
        """Some jobs; `next_cursor` of the answer leads to those that follow."""
        sort = "-created_at" if newest_first else None
        return self._get("jobs", JobPage, _given(cursor=cursor, limit=limit, status=status, sort=sort))

    def job(self, job_id: str) -> JobView:
        """One job."""
        return self._get(_path("jobs", job_id), JobView)

    def attempts(self, job_id: str) -> list[AttemptView]:
        """Every attempt at a job's stages, oldest first."""
        return self._get(_path("jobs", job_id, "attempts"), AttemptPage).attempts

    def cancel(self, job_id: str) -> CancelView:
        """End a job now."""
        return self._accepted(self._send("POST", _path("jobs", job_id, "cancel")), CancelView)

    def retry(self, job_id: str, *, idempotency_key: str | None = None, tenant: str | None = None) -> JobView:
        """Try a failed or cancelled job again: a new job."""
        headers = _asking(idempotency_key, tenant)
        return self._accepted(self._send("POST", _path("jobs", job_id, "retry"), headers=headers), JobView)

    def delete(self, job_id: str) -> None:
        """Forget a job that has ended. Its model stays."""
        self._done(self._send("DELETE", _path("jobs", job_id)))

    def jobs_of_model(self, name: str) -> JobPage:
        """Every job for one model, oldest first."""
        return self._get("models/jobs", JobPage, {"model_name": name})

    def results(self) -> ResultPage:
        """Every completed job, in short."""
        return self._get("models/results", ResultPage)

    def plugins(self) -> PluginPage:
        """The hubs and converters that are installed."""
        return self._get("plugins", PluginPage)

    def limits(self) -> LimitPage:
        """Every limit that is set, and the hubs as they are."""
        return self._get("limits", LimitPage)

    def put_limit(
        self, scope: LimitScope, name: str, *, max_running: int | None = None, bytes_per_s: int | None = None
    ) -> LimitView:
        """Set a limit; what is not given is not limited. Of the service, the name is `*`."""
        body = msgspec.json.encode({"max_running": max_running, "bytes_per_s": bytes_per_s})
        return self._accepted(self._send("PUT", _path("limits", scope, name), body=body), LimitView)

    def remove_limit(self, scope: LimitScope, name: str) -> None:
        """Take a limit away."""
        self._done(self._send("DELETE", _path("limits", scope, name)))

    def _get(self, path: str, view: type[V], query: Mapping[str, str] | None = None) -> V:
        return self._accepted(self._send("GET", path, query=query), view)

    def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        kind = {} if body is None else {"Content-Type": "application/json"}
        try:
            return self._http.request(method, path, params=query, content=body, headers={**kind, **(headers or {})})
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unreachable(f"No answer from {self._address}: {str(error) or type(error).__name__}") from error

    def _accepted(self, response: httpx.Response, view: type[V]) -> V:
        self._done(response)
        return self._decoded(response, view)

    def _done(self, response: httpx.Response) -> None:
        if not response.is_success:
            raise Refused(response.status_code, _detail(response))

    def _decoded(self, response: httpx.Response, view: type[V]) -> V:
        try:
            return msgspec.json.decode(response.content, type=view)
        except msgspec.DecodeError as error:
            raise Unreachable(f"{self._address} does not speak Modelferry's language: {error}") from error


def _path(*parts: str) -> str:
    return "/".join(quote(part, safe="") for part in parts)


def _given(**query: str | int | None) -> dict[str, str]:
    return {name: str(value) for name, value in query.items() if value is not None}


def _asking(idempotency_key: str | None, tenant: str | None) -> dict[str, str]:
    """The headers of a request that starts work. The key is quoted: bare, its own quotes would not count."""
    headers = {} if tenant is None else {"Modelferry-Tenant": tenant}
    if idempotency_key is not None:
        escaped = idempotency_key.replace("\\", "\\\\").replace('"', '\\"')
        headers["Idempotency-Key"] = f'"{escaped}"'
    return headers


def _detail(response: httpx.Response) -> str:
    """The service's own words; for several faults, one line each."""
    try:
        problem = msgspec.json.decode(response.content, type=_Problem)
    except msgspec.DecodeError:
        return f"{response.status_code} {response.reason_phrase}"
    if isinstance(problem.detail, str):
        return problem.detail
    return "\n".join(f"{'.'.join(str(step) for step in fault.loc)}: {fault.msg}" for fault in problem.detail)


def _is_loopback(address: str) -> bool:
    host = urlsplit(address).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

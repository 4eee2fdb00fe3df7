"""What is asked of the service as a whole."""

from collections.abc import Sequence

from api.client.call import UNAVAILABLE, Call, as_view, check, json_body, path_of
from api.wire import Health, LimitPage, LimitView, PluginPage, Readiness
from api.wire.overview import OverviewView, WorkerPage
from common.vocabulary import LimitScope


def health() -> Call[Health]:
    """Whether the web process answers."""
    return Call(method="GET", path="health", read=as_view(Health))


def ready(gates: Sequence[str] = ()) -> Call[Readiness]:
    """Whether a job submitted now would run, the startup models are there, and these gates are open."""
    query = [("gate", name) for name in gates]
    return Call(method="GET", path="ready", query=query, read=as_view(Readiness, also=UNAVAILABLE))


def overview() -> Call[OverviewView]:
    """The service at a glance."""
    return Call(method="GET", path="overview", read=as_view(OverviewView))


def workers() -> Call[WorkerPage]:
    """The workers that have shown a sign of life lately."""
    return Call(method="GET", path="workers", read=as_view(WorkerPage))


def plugins() -> Call[PluginPage]:
    """The hubs and converters that are installed."""
    return Call(method="GET", path="plugins", read=as_view(PluginPage))


def limits() -> Call[LimitPage]:
    """Every limit that is set, and the hubs as they are."""
    return Call(method="GET", path="limits", read=as_view(LimitPage))


def put_limit(
    scope: LimitScope, name: str, *, max_running: int | None = None, bytes_per_s: int | None = None
) -> Call[LimitView]:
    """Set a limit; what is not given is not limited. Of the service, the name is `*`."""
    body = json_body({"max_running": max_running, "bytes_per_s": bytes_per_s})
    return Call(method="PUT", path=path_of("limits", scope, name), body=body, read=as_view(LimitView))


def remove_limit(scope: LimitScope, name: str) -> Call[None]:
    """Take a limit away."""
    return Call(method="DELETE", path=path_of("limits", scope, name), read=check)

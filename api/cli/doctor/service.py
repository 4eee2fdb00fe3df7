"""The service as a client finds it."""

from collections import Counter
from collections.abc import Callable

from api.cli.doctor.findings import Findings, fail, ok, warn
from api.client import Client, Refused, Unreachable
from common.errors import ModelferryError

_FIXES = {
    "database": "Look at the log of the API: it cannot reach the database.",
    "redis": "Start Redis, or correct REDIS_URL of the API and the workers.",
    "download_worker": "Start one: python -m worker download",
    "convert_worker": "Start one: python -m worker convert. It loads its libraries for some seconds.",
}


_NOT_LET_IN = frozenset({401, 403})
_KEY = "Set MODELFERRY_API_KEY, or name a file that holds a key with --api-key-file."


def look(connect: Callable[[], Client], address: str) -> Findings:
    """Whether it answers, what it lacks, and who works for it."""
    try:
        with connect() as client:
            client.health()
            yield ok("service", f"answers at {address}")
            yield from _parts(client)
            yield from _workers(client)
    except Unreachable as error:
        yield fail(
            "service", str(error), "Start it with `modelferry up`, or name another with --url or MODELFERRY_URL."
        )
    except ModelferryError as error:
        yield fail("service", f"{address}: {error}", "Is that address the service's?")


def _parts(client: Client) -> Findings:
    for part, lack in client.ready().parts.items():
        if lack == "ok":
            yield ok("ready", part)
        else:
            yield fail("ready", f"{part}: {lack}", _FIXES.get(part, "The message says what is missing."))


def _workers(client: Client) -> Findings:
    try:
        workers = client.workers().workers
    except Refused as refused:
        # Or else it is an older service, which does not tell.
        if refused.status in _NOT_LET_IN:
            yield warn("access", f"The service lets in nobody without a key: {refused}", _KEY)
        return
    if not workers:
        yield warn("workers", "none seen lately", "Start some: python -m worker download, convert, reconcile")
        return
    counted = Counter(f"{worker.pool} {worker.state}" for worker in workers)
    yield ok("workers", ", ".join(f"{count} {kind}" for kind, count in sorted(counted.items())))

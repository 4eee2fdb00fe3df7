"""The database and Redis."""

import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from api.cli.doctor.findings import Findings, fail, ok, warn
from api.embedded.redis_server import find_redis_server
from common.errors import ServiceUnavailable
from common.settings import Settings

_MOST_SKEW_S = 5.0
_SQLITE = "sqlite:///"
_MIGRATE = "Run `python -m migrations.command` with the same DATABASE_URL; `modelferry up` does it by itself."


def look(settings: Settings, around: Mapping[str, str]) -> Findings:
    """Where jobs and tickets are kept."""
    yield from _database(settings, around)
    yield from _redis(settings, around)


def _database(settings: Settings, around: Mapping[str, str]) -> Findings:
    url = settings.store_url
    if not around.get("DATABASE_URL") and not around.get("MODELS_DIR"):
        url = f"{_SQLITE}{Path('models/.modelferry/state/modelferry.db').absolute()}"
    if url.startswith(_SQLITE) and not Path(url.removeprefix(_SQLITE)).exists():
        yield ok("database", f"SQLite at {url.removeprefix(_SQLITE)}, made at the first start")
        return
    try:
        # Here rather than above: a mere client may lack them.
        from common.store.checkup import look_at  # noqa: PLC0415
        from migrations.command import newest  # noqa: PLC0415
    except ImportError as error:
        yield warn("database", f"Cannot be looked at: {error.name} is not installed.", "Install the service here.")
        return
    try:
        before = time.time()
        found = look_at(url)
        after = time.time()
    except ServiceUnavailable:
        yield fail("database", f"{_without_secrets(url)} does not answer.", "Start it, or correct DATABASE_URL.")
        return
    except Exception as error:  # noqa: BLE001 - a wrong URL can fail in any way a driver knows
        yield fail("database", f"DATABASE_URL cannot be used ({type(error).__name__}).", "Correct DATABASE_URL.")
        return
    yield ok("database", f"{found.kind} {found.version} at {_without_secrets(url)}")
    if found.revision is None:
        yield fail("database", "It has no tables yet.", _MIGRATE)
    elif found.revision != newest():
        yield fail("database", f"Its tables are those of {found.revision}; wanted is {newest()}.", _MIGRATE)
    else:
        yield ok("database", f"tables as wanted ({found.revision})")
    skew = max(before - found.clock_s, found.clock_s - after, 0.0)
    if skew > _MOST_SKEW_S:
        yield warn("clock", f"This machine and the database differ by {skew:.0f} s.", "Set the clocks by NTP.")
    else:
        yield ok("clock", "agrees with that of the database")


def _redis(settings: Settings, around: Mapping[str, str]) -> Findings:
    if not around.get("REDIS_URL"):
        server = find_redis_server(around)
        if server is None:
            yield warn(
                "redis", "REDIS_URL is not set, and no server is installed.",
                "Install redis-server or 'modelferry[embedded]' for `modelferry up`, or set REDIS_URL.",
            )  # fmt: skip
        else:
            yield ok("redis", f"REDIS_URL is not set; `modelferry up` starts {server}")
        return
    try:
        # Here rather than above: a mere client may lack it.
        from common.broker import Broker  # noqa: PLC0415

        facts = Broker(settings.redis_url).facts()
    except ImportError as error:
        yield warn("redis", f"Cannot be looked at: {error.name} is not installed.", "Install the service here.")
        return
    except (ServiceUnavailable, ValueError) as error:
        told = str(error) if isinstance(error, ServiceUnavailable) else "REDIS_URL is no URL of Redis"
        yield fail("redis", f"{told}: {_without_secrets(settings.redis_url)}", "Start it, or correct REDIS_URL.")
        return
    yield from _redis_settings(facts, _without_secrets(settings.redis_url))


def _redis_settings(facts: Mapping[str, object], where: str) -> Findings:
    yield ok("redis", f"version {facts.get('valkey_version') or facts.get('redis_version')} at {where}")
    policy = str(facts.get("maxmemory_policy", "noeviction"))
    if facts.get("maxmemory") and policy != "noeviction":
        yield warn("redis", f"It throws keys away when it is full ({policy}).", "Set maxmemory-policy noeviction.")
    if not facts.get("aof_enabled"):
        yield warn(
            "redis", "It keeps no log (AOF): after its restart waiting jobs start a little later.",
            "Set appendonly yes. No job is lost without it.",
        )  # fmt: skip
    else:
        yield ok("redis", f"keeps a log (AOF), and throws nothing away ({policy})")


def _without_secrets(url: str) -> str:
    """Where a URL leads, without user and password."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"

"""Whether callers are asked who they are, and whether anybody could answer."""

from pathlib import Path

from api.cli.doctor.findings import Finding, Findings, fail, ok, warn
from common.errors import ServiceUnavailable
from common.settings import Settings, is_loopback

_SQLITE = "sqlite:///"
_FIRST = (
    "Set MODELFERRY_ADMIN_KEY (or MODELFERRY_ADMIN_KEY_FILE) for the API, and make keys with it: `modelferry keys add`."
)


def look(settings: Settings) -> Findings:
    """Who would be let in by these settings."""
    if not settings.asks_callers:
        yield _open(settings)
        return
    yield ok("access", "callers are asked who they are")
    known = {"an admin's key": settings.admin_key, "an identity provider": settings.oidc_issuer}
    named = [words for words, given in known.items() if given]
    if named:
        yield ok("access", f"the settings name {' and '.join(named)}")
        return
    count = _keys(settings)
    if count is None:
        yield warn("access", "The database does not tell how many keys there are.", "See what is said of it above.")
    elif count:
        yield ok("access", f"{count} {'keys let' if count > 1 else 'key lets'} somebody in")
    else:
        yield fail("access", "Callers are asked for a key, and there is none: nobody can come in.", _FIRST)


def _open(settings: Settings) -> Finding:
    if is_loopback(settings.host):
        return ok("access", f"nobody is asked for a key: the service listens at {settings.host} alone")
    return warn(
        "access", f"Nobody is asked for a key, and the service listens at {settings.host} (MODELFERRY_ACCESS=off).",
        "Leave it so only where no stranger can reach it. Else unset MODELFERRY_ACCESS, and make keys.",
    )  # fmt: skip


def _keys(settings: Settings) -> int | None:
    """How many keys let somebody in, where that can be known."""
    url = settings.store_url
    if url.startswith(_SQLITE) and not Path(url.removeprefix(_SQLITE)).exists():
        return 0
    try:
        # Here rather than above: a mere client may lack what they need.
        from common.store.apikeys import ApiKeyStore  # noqa: PLC0415
        from common.store.database import Database  # noqa: PLC0415

        database = Database(url)
    except Exception:  # noqa: BLE001 - a wrong URL can fail in any way a driver knows
        return None
    try:
        return ApiKeyStore(database).count()
    except ServiceUnavailable:
        return None
    finally:
        database.dispose()

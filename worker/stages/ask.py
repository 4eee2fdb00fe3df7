"""Ask: put a question to a hub, for a client that waits."""

from typing import cast

import msgspec

from common.errors import InvalidParameters, SourceUnsafe
from common.outcome import Succeeded
from common.planning import AskWork
from common.plugins import GuardedHub, ListingHub, ListPage, ListQuery
from common.spec import CredentialCheck, Listing
from common.tracing import step
from worker.stages.tools import Tools

_MOST_BYTES = 2 * 1024 * 1024
_STRANGE = "The hub's plugin, or a mirror in between, is at fault. Nothing was stored."


def answer(work: AskWork, tools: Tools) -> Succeeded:
    """What the hub answers, as the stage's result. Raises what the hub raises."""
    match work.question:
        case Listing() as asked:
            return Succeeded(artefact="", result=_listed(work, asked, tools))
        case CredentialCheck():
            _check_credentials(work, tools)
            return Succeeded(artefact="")


def _listed(work: AskWork, asked: Listing, tools: Tools) -> dict[str, object]:
    if tools.catalog.hub(work.hub).listing_filters is None:
        raise InvalidParameters(f"Hub '{work.hub}' does not support listing models")
    hub = cast("ListingHub", tools.hub(work.hub))
    with step("list", hub=work.hub):
        page = hub.list(ListQuery(filters=asked.filters, limit=asked.limit, offset=asked.offset))
    if len(page.items) > asked.limit:
        page = msgspec.structs.replace(page, items=page.items[: asked.limit], has_more=True)
    return _checked(page)


def _checked(page: ListPage) -> dict[str, object]:
    """A page as JSON. What a hub says may be of any size and any kind, and it is to be stored and shown."""
    try:
        told = msgspec.json.encode(page)
        if len(told) > _MOST_BYTES:
            raise SourceUnsafe(f"The hub's list of {len(page.items)} models takes {len(told)} bytes", hint=_STRANGE)
        msgspec.json.decode(told, type=ListPage)
    except (TypeError, ValueError, msgspec.ValidationError, RecursionError) as error:
        raise SourceUnsafe(
            f"The hub's list of models has another form than it must have: {error}", hint=_STRANGE
        ) from error
    found: dict[str, object] = msgspec.json.decode(told)
    return found


def _check_credentials(work: AskWork, tools: Tools) -> None:
    if not tools.catalog.hub(work.hub).checks_credentials:
        raise InvalidParameters(f"Hub '{work.hub}' cannot check credentials")
    with step("check credentials", hub=work.hub):
        cast("GuardedHub", tools.hub(work.hub)).check_credentials()

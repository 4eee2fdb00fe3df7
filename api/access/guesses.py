"""How often one address may come with a key or a token that nobody knows."""

import time
from math import ceil

from litestar.datastructures import Headers
from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.status_codes import HTTP_401_UNAUTHORIZED
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from api.access.callers import NOBODY, credential_in
from api.access.door import operation_of
from api.access.rate import Counts, Rate, address_of, home_of
from common.access import Way, digest_of
from common.errors import TooManyRequests, Unauthenticated

GUESSES = "20/minute"

_LOGIN = "log_in"
_MOST_SHUT = 50_000
_MOST_PROVEN = 10_000


class GuessesLimited(ASGIMiddleware):
    """Refuses an address that has come with too many keys or tokens nobody knows. Stands before the door.

    It is refused before the next one is looked at, so that guessing is as slow as that, and costs no database. Keys
    and tokens that were let in before go on being let in: whoever guesses behind the same address shuts out nobody.
    """

    scopes = (ScopeType.HTTP,)

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._rate = Rate.of(GUESSES)
        self._shut: dict[str, float] = {}
        self._proven: dict[str, None] = {}

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Costs nothing where no credential comes along."""
        credential = credential_in(Headers.from_scope(scope))
        if operation_of(scope) == _LOGIN:
            await self._logging_in(scope, receive, send, next_app)
        elif credential is None:
            await next_app(scope, receive, send)
        else:
            await self._bringing(digest_of(credential), scope, receive, send, next_app)

    async def _bringing(self, digest: str, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        address = home_of(address_of(scope))
        if digest not in self._proven:
            self._refuse_while_shut(address)
        try:
            await next_app(scope, receive, send)
        except Unauthenticated:
            self._proven.pop(digest, None)
            await self._note_failure(address)
            raise
        if scope["state"].get("caller", NOBODY).way in {Way.KEY, Way.TOKEN, Way.SETTING}:
            if len(self._proven) >= _MOST_PROVEN:
                self._proven.clear()
            self._proven[digest] = None

    async def _logging_in(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """The key is in the form, and a wrong one is answered with the form again."""
        address = home_of(address_of(scope))
        self._refuse_while_shut(address)

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == HTTP_401_UNAUTHORIZED:
                await self._note_failure(address)
            await send(message)

        await next_app(scope, receive, told)

    def _refuse_while_shut(self, address: str) -> None:
        wait_s = self._shut.get(address, 0.0) - time.monotonic()
        if wait_s > 0:
            raise TooManyRequests(
                f"Too many keys or tokens that nobody knows have come from your address: wait {ceil(wait_s)} s.", wait_s
            )

    async def _note_failure(self, address: str) -> None:
        standing = await self._counts.standing(f"guesses:{address}", self._rate)
        if standing.left:
            return
        now = time.monotonic()
        if len(self._shut) >= _MOST_SHUT:
            self._shut = {shut: until for shut, until in self._shut.items() if until > now}
        self._shut[address] = now + standing.resets_in_s

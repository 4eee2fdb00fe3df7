"""Answers that go on, such as streams of events: for as long as whoever has asked for them may have them."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Self

from litestar.types import HTTPReceiveMessage, Message, Receive, Send

_LOOK_S = 3.0


class Lasting:
    """The ends of one connection, between the server and a route. Use it as a context.

    While an answer goes on, `still` is asked now and then; once it says no, the answer ends as if its client had left.
    """

    def __init__(self, receive: Receive, send: Send, still: Callable[[], Awaitable[bool]]) -> None:
        self._receive = receive
        self._send = send
        self._still = still
        self._over = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._ended = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._looking is not None:
            self._looking.cancel()
            with suppress(asyncio.CancelledError):
                await self._looking
        if self._over.is_set() and not self._ended:
            # An answer without an end would be an error to the server.
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def send(self, message: Message) -> None:
        """As the server's. An answer that does not come as a whole begins to be looked after."""
        if message["type"] == "http.response.body":
            self._ended = not message.get("more_body", False)
            if not self._ended and self._looking is None:
                self._looking = asyncio.create_task(self._look())
        await self._send(message)

    async def receive(self) -> HTTPReceiveMessage:
        """As the server's; or that the client has left, once it may have no more."""
        message = asyncio.ensure_future(self._receive())
        over = asyncio.ensure_future(self._over.wait())
        try:
            await asyncio.wait({message, over}, return_when=asyncio.FIRST_COMPLETED)
            return message.result() if message.done() else {"type": "http.disconnect"}  # type: ignore[return-value]  # of HTTP
        finally:
            message.cancel()
            over.cancel()

    async def _look(self) -> None:
        while not self._over.is_set():
            await asyncio.sleep(_LOOK_S)
            if not await self._still():
                self._over.set()

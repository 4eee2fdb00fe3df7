"""Notices that a client has left, and ends what was done for it."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from litestar.types import Receive

from common.errors import RequestError

T = TypeVar("T")


class ClientGone(RequestError):
    """Whoever asked has left; nobody will read the answer."""

    code = "client_gone"


async def attended(receive: Receive, executor: Executor, work: Callable[[Callable[[], None]], T]) -> T:
    """Do some work in a thread. It is given a checkpoint, which raises ClientGone once the client has left."""
    gone = threading.Event()

    def checkpoint() -> None:
        if gone.is_set():
            raise ClientGone("The client left before the answer")

    watching = asyncio.create_task(_watch(receive, gone))
    try:
        return await asyncio.get_running_loop().run_in_executor(executor, work, checkpoint)
    finally:
        gone.set()
        watching.cancel()


async def _watch(receive: Receive, gone: threading.Event) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    gone.set()

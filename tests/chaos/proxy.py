"""A TCP address in front of a Unix socket that can be cut, so that a database can be away without being stopped.

    python -m tests.chaos.proxy SOCKET

It prints its port, and then obeys the lines of its input: `cut SECONDS` resets every connection and refuses new ones
for so long, `mute SECONDS` passes nothing on for so long. It ends when its input is closed.
"""

import asyncio
import socket
import struct
import sys
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path

_LOOPBACK = "127.0.0.1"
_CHUNK_BYTES = 65536
_RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Passes bytes on in both directions, as long as it may."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.port = 0

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._connected, _LOOPBACK, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self, seconds: float) -> None:
        """End every connection by a reset, and refuse new ones for a while."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            raw: socket.socket | None = writer.get_extra_info("socket")
            if raw is not None and raw.family is socket.AF_INET:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()
        await asyncio.sleep(seconds)
        await self.listen()

    async def mute(self, seconds: float) -> None:
        """Keep every connection, and pass nothing on for a while."""
        self._flowing.clear()
        await asyncio.sleep(seconds)
        self._flowing.set()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            beyond_reader, beyond_writer = await asyncio.open_unix_connection(str(self._target))
        except OSError:
            writer.close()
            return
        self._writers |= {writer, beyond_writer}
        try:
            await asyncio.gather(self._pump(reader, beyond_writer), self._pump(beyond_reader, writer))
        finally:
            self._writers -= {writer, beyond_writer}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
        with suppress(OSError):
            writer.close()


async def serve(target: Path) -> None:
    proxy = Proxy(target)
    await proxy.listen()
    print(proxy.port, flush=True)
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    running: set[asyncio.Task[None]] = set()
    while line := (await orders.readline()).decode().split():
        what, seconds = line[0], float(line[1])
        order: Coroutine[None, None, None] = proxy.cut(seconds) if what == "cut" else proxy.mute(seconds)
        running = {task for task in running if not task.done()} | {asyncio.create_task(order)}


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))

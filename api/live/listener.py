"""One open stream's place in the feed: a bounded queue that is filled for all and emptied by one."""

import asyncio
from collections import deque

from api.live.frames import Frame

_MOST_FRAMES = 1000
_MOST_BYTES = 16 * 1024 * 1024
"""What may wait for a client that does not read. Frames are shared, so many slow clients cost little more than one."""


class Left(Exception):
    """There will be nothing more for this listener: the feed is closed, or it has not kept up."""


class Listener:
    """Lives in the event loop; nothing of it may be called from a thread."""

    def __init__(self, job_id: str | None, *, logs: bool) -> None:
        self.job_id = job_id
        """Whose events are wanted; None is everybody's."""
        self.logs = logs
        """Whether what attempts say is wanted, too."""
        self._waiting: deque[Frame] = deque()
        self._bytes = 0
        self._left = False
        self._changed = asyncio.Event()

    def wants(self, frame: Frame) -> bool:
        """Whether a frame of its jobs is for it."""
        return self.logs or not frame.is_log

    def offer(self, frame: Frame) -> None:
        """Put a frame into the queue. A queue that is full ends the stream: who comes back has missed nothing."""
        crowded = 2 * len(self._waiting) > _MOST_FRAMES
        if self._left or (crowded and frame.position is None):
            return
        if len(self._waiting) >= _MOST_FRAMES or self._bytes + len(frame.content) > _MOST_BYTES:
            self.leave()
            return
        self._waiting.append(frame)
        self._bytes += len(frame.content)
        self._changed.set()

    def leave(self) -> None:
        """End the stream now. What waits is dropped."""
        self._left = True
        self._waiting.clear()
        self._bytes = 0
        self._changed.set()

    def taken(self) -> Frame | None:
        """The oldest frame that waits; None where none does. Raises Left."""
        if self._left:
            raise Left
        if not self._waiting:
            self._changed.clear()
            return None
        frame = self._waiting.popleft()
        self._bytes -= len(frame.content)
        return frame

    async def next(self, timeout_s: float) -> Frame | None:
        """The next frame; None where none comes in time. Raises Left."""
        frame = self.taken()
        if frame is not None:
            return frame
        try:
            await asyncio.wait_for(self._changed.wait(), timeout_s)
        except TimeoutError:
            return None
        return self.taken()

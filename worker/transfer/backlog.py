"""What is left to bring: the contents of one transfer, in which order their blocks are handed out, and who waits."""

import threading
from collections.abc import Sequence

from common.errors import DiskFull
from common.plugins import Attempt
from common.spec import RemoteFile
from common.vocabulary import DigestAlgorithm
from worker.transfer.content import Block, Content, group, has_digest
from worker.transfer.part import Part, Ranges, claim, free_bytes, held_bytes, part_path, read_journal

_MOST_OPEN = 96
"""How many parts may be open: small files arrive faster than a slow volume stores them."""


class Backlog:
    """The contents of a transfer, from queued over open to finished. Any thread may ask for work."""

    def __init__(self, files: Sequence[RemoteFile], attempt: Attempt) -> None:
        self.contents = group(files)
        self._attempt = attempt
        self._parts = attempt.parts
        self._limits = attempt.limits
        self._queued: list[Content] = []
        """Not begun yet, the next one last."""
        self._open: list[Content] = []
        self._awaited: list[Content] = []
        """Those that another transfer is bringing just now."""
        self._unfinished = len(self.contents)
        self._lock = threading.Lock()

    @property
    def is_done(self) -> bool:
        """Whether every content is in the store and shown at its paths."""
        return self._unfinished == 0

    @property
    def waiting_blocks(self) -> int:
        """How many pieces of work nobody does yet; at least one where there is any."""
        with self._lock:
            return self._waiting()

    @property
    def has_arrived(self) -> bool:
        """Whether every byte is here, and only checks and moves are left."""
        with self._lock:
            begun = not self._queued and not self._awaited
            return begun and all(content.is_complete for content in self._open)

    def opened(self) -> list[Content]:
        """The contents that are growing."""
        with self._lock:
            return list(self._open)

    def take_stock(self, content: Content) -> None:
        """See how much of a content is here. What is not in the store is queued; begin with the smallest."""
        if self._is_stored(content):
            return
        content.found_bytes = self._held_by_part(content)
        with self._lock:
            self._queued.append(content)

    def check_room(self) -> None:
        """Raise DiskFull unless the volume has room for all that is missing."""
        needed = sum(
            max(0, (content.size or 0) - held_bytes(self._parts, content.key or "")) for content in self._queued
        )
        free, spare = free_bytes(self._parts), self._limits.spare_bytes
        if needed and needed + spare > free:
            msg = f"{needed} bytes are missing and {spare} must stay free, but the volume has only {free} bytes free"
            raise DiskFull(msg)

    def reserve(self, content: Content) -> None:
        """Take the room for a large file now, so that a job that starts later sees what is left. Raises DiskFull."""
        large = content.size is not None and content.size > self._limits.block_bytes
        part = claim(self._parts, content.key) if large and content.key is not None else None
        if part is None:
            return
        try:
            part.reserve(content.end)
        except DiskFull:
            if not part.recall(content.size).covered:
                part.discard()
            raise
        finally:
            part.close()

    def take_unknown(self) -> Content | None:
        """A content of which the listing does not tell enough to begin it. `put_back` it when it is known."""
        with self._lock:
            if self._queued and not self._queued[-1].is_known:
                return self._queued.pop()
        return None

    def put_back(self, content: Content) -> None:
        """Queue a content as the next one."""
        with self._lock:
            self._queued.append(content)

    def take(self, lines: int) -> Block | None:
        """The next block: of a content that has been begun, else of the largest one that has not.

        `lines` is how many ask: when fewer blocks than that are left, they are handed out in halves.
        """
        with self._lock:
            scarce = self._waiting() < lines
            for content in self._open:
                block = content.take(scarce=scarce)
                if block is not None:
                    return block
            while self._queued and self._queued[-1].is_known and len(self._open) < _MOST_OPEN:
                content = self._queued.pop()
                if not self._begin(content):
                    self._awaited.append(content)
                    continue
                block = content.take()
                if block is not None:
                    return block
        return None

    def look_for_released(self) -> None:
        """Try again to get hold of what another transfer has been bringing."""
        with self._lock:
            for content in list(self._awaited):
                content.found_bytes = self._held_by_part(content)
                if self._begin(content):
                    self._awaited.remove(content)

    def finish(self, content: Content) -> None:
        """The content is stored and shown."""
        with self._lock:
            content.finished = True
            self._unfinished -= 1
            if content.is_open:
                content.close()
                self._open.remove(content)

    def _waiting(self) -> int:
        return len(self._queued) + sum(content.waiting_blocks for content in self._open)

    def _begin(self, content: Content) -> bool:
        """Get hold of a content's part, and open the content; False while another transfer has it."""
        part = self._claim(content)
        if part is None:
            return False
        try:
            if self._is_stored(content):
                # Another transfer has brought it since this one looked.
                part.discard()
                ranges = Ranges([(0, content.found_bytes)])
            else:
                part.reserve(content.size or 0)
                ranges = part.recall(content.size) if content.digest or content.etag else Ranges()
            content.open(part, ranges, self._limits.block_bytes)
        except BaseException:
            part.close()
            raise
        self._open.append(content)
        return True

    def _claim(self, content: Content) -> Part | None:
        key = content.key or ""
        part = claim(self._parts, key)
        if part is not None and part.length > (content.size or 0):
            # It cannot be this content, and a part is never made shorter.
            part.discard()
            part.close()
            part = claim(self._parts, key)
        return part

    def _is_stored(self, content: Content) -> bool:
        """Whether the content store has this content already."""
        sha256 = self._name_in_store(content)
        blob = None if sha256 is None else self._attempt.stored(sha256)
        if sha256 is None or blob is None:
            return False
        digest = content.digest
        if digest is not None and digest.algorithm is not DigestAlgorithm.SHA256 and not has_digest(blob, digest):
            return False
        content.find(sha256, blob.stat().st_size)
        return True

    def _name_in_store(self, content: Content) -> str | None:
        """The sha256 of a content: the hub's own word, or what a note says that another transfer has left."""
        if content.digest is not None and content.digest.algorithm is DigestAlgorithm.SHA256:
            return content.digest.value
        return None if content.key is None else read_journal(part_path(self._parts, content.key)).sha256

    def _held_by_part(self, content: Content) -> int:
        if content.key is None:
            return 0
        return Ranges(read_journal(part_path(self._parts, content.key)).ranges).covered

"""One thing that a transfer brings: where it comes from, where it belongs, and how much of it has arrived."""

import hashlib
import sys
import threading
import uuid
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from common.artefacts.layout import ONCE
from common.errors import IntegrityMismatch
from common.spec import Digest, RemoteFile
from common.vocabulary import DigestAlgorithm
from worker.transfer.part import Part, Ranges

UNKNOWN_END = sys.maxsize
"""Where a block ends whose content's size nobody knows yet."""

_LEAST_BYTES = 1024 * 1024
"""Smaller blocks would cost more in requests than they gain."""


class Block:
    """A stretch of one content that one connection fetches. What lies before `at` has arrived."""

    def __init__(self, content: "Content", start: int, stop: int) -> None:
        self.content = content
        self.start = self.at = start
        self.stop = stop

    @property
    def is_all(self) -> bool:
        """Whether this is the whole content, of which nothing has arrived."""
        return self.at == 0 and self.stop >= self.content.end


class Checksum:
    """The digests of a content that grows from its first byte on."""

    def __init__(self, digest: Digest | None, size: int | None) -> None:
        self.at = 0
        self._sha256 = hashlib.sha256()
        self._other = _hasher_of(digest, size)

    @property
    def sha256(self) -> str:
        """The name that the content store gives it."""
        return self._sha256.hexdigest()

    @property
    def promised(self) -> str:
        """What the hub should have called it."""
        return self.sha256 if self._other is None else self._other.hexdigest()

    def update(self, data: memoryview) -> None:
        """Go on with the next bytes."""
        self._sha256.update(data)
        if self._other is not None:
            self._other.update(data)
        self.at += len(data)


class Content:
    """All files of a job that have the same bytes: fetched once, shown at every path.

    Lines take blocks from it and settle them, a hasher reads what has arrived; any thread may call anything.
    """

    def __init__(self, files: list[RemoteFile]) -> None:
        first = files[0]
        self.paths = [file.path for file in files]
        self.url = first.url
        self.digest = first.digest
        self.size = first.size
        self.key = None if first.digest is None else f"{first.digest.algorithm}-{first.digest.value}"
        """What its part is called; None until the hub has told what identifies a file without digest."""
        self.is_known = first.digest is not None and first.size is not None
        """Whether it can be begun without asking the hub more about it."""
        self.etag: str | None = None
        self.route: str | None = None
        """Where the bytes are, once the hub has said it: its own address, or one of a CDN that may expire."""
        self.asking = threading.Lock()
        """Held by the one connection that asks the hub for the route, so that the others can wait for its answer."""
        self.single = False
        """Only one connection may fetch it: the server does not do ranges, or a first copy was spoilt."""
        self.strikes = 0
        self.found_bytes = 0
        """What an earlier attempt, or the content store, had of it."""
        self.stored_as: str | None = None
        """Its sha256, once it is known to be good."""
        self.finished = False
        self.checksum: Checksum | None = None
        self._part: Part | None = None
        self._ranges = Ranges()
        self._pending: deque[tuple[int, int]] = deque()
        self._active: set[Block] = set()
        self._stream: Block | None = None
        """The block of the one connection, where only one may fetch it."""
        self._saved: list[tuple[int, int]] = []
        self._retired = False
        """Its journal says the last word already."""
        self._saving = threading.Lock()
        self._lock = threading.Lock()

    def __str__(self) -> str:
        return self.paths[0]

    @property
    def copies(self) -> int:
        """How many files it is."""
        return len(self.paths)

    @property
    def end(self) -> int:
        """Where its last block ends."""
        return UNKNOWN_END if self.size is None else self.size

    @property
    def part(self) -> Part:
        """The part it grows in. Only while it is open."""
        if self._part is None:
            raise AssertionError(f"{self} is not open")
        return self._part

    @property
    def is_open(self) -> bool:
        """Whether this process holds its part."""
        return self._part is not None

    @property
    def arrived_bytes(self) -> int:
        """How much of one copy is here."""
        if self.finished:
            return self.size or 0
        return self._snapshot().covered if self.is_open else self.found_bytes

    @property
    def resumed_bytes(self) -> int:
        """How much of all copies did not have to be fetched; a second copy of the same bytes never has."""
        return self.found_bytes + (self.arrived_bytes * (self.copies - 1) if self.finished else 0)

    @property
    def hashed_bytes(self) -> int:
        """How far its digests are."""
        return 0 if self.checksum is None else self.checksum.at

    @property
    def prefix(self) -> int:
        """Up to where no byte is missing, as far as blocks have been settled."""
        with self._lock:
            return self._ranges.prefix

    @property
    def is_complete(self) -> bool:
        """Whether every byte is here."""
        with self._lock:
            return self.is_open and not self._active and self._ranges.prefix == self.size

    def identify(self, etag: str | None, size: int | None, *, single: bool) -> None:
        """The hub has told what its listing does not."""
        self.etag = etag
        self.size = size
        self.single = single
        self.is_known = True
        if self.key is None:
            # An address alone does not say whether it is the same content as the last time.
            known = repr((self.url, etag, size)).encode()
            self.key = f"{ONCE}{uuid.uuid4().hex}" if etag is None else f"etag-{hashlib.sha256(known).hexdigest()}"

    def find(self, sha256: str, size: int) -> None:
        """The content store has it."""
        self.stored_as = sha256
        self.size = self.found_bytes = size

    def open(self, part: Part, ranges: Ranges, block_bytes: int) -> None:
        """Go on in this part, in which `ranges` have arrived."""
        with self._lock:
            self._part = part
            self._retired = self.stored_as is not None
            self._ranges = ranges
            self.found_bytes = ranges.covered
            gaps = [(ranges.prefix, self.end)] if self.single else _blocks(ranges.gaps(self.end), block_bytes)
            self._pending = deque(span for span in gaps if span[0] < span[1])

    def close(self) -> None:
        """Let go of the part."""
        with self._lock:
            part, self._part = self._part, None
        if part is not None:
            part.close()

    def take(self, *, scarce: bool = False) -> Block | None:
        """The next block that nobody fetches; half of it where blocks are `scarce`, so that all lines end together."""
        with self._lock:
            if not self._pending or self.finished:
                return None
            start, stop = self._pending.popleft()
            half = (stop - start) // 2
            if scarce and not self.single and half >= _LEAST_BYTES:
                self._pending.appendleft((start + half, stop))
                stop = start + half
            block = Block(self, start, stop)
            self._active.add(block)
            if self.single:
                self._stream = block
            return block

    @property
    def waiting_blocks(self) -> int:
        """How many blocks nobody fetches yet."""
        return len(self._pending)

    def settle(self, block: Block) -> None:
        """A line is done with a block; what it has not fetched waits for another one."""
        with self._lock:
            self._active.discard(block)
            self._ranges.add(block.start, block.at)
            if block.at < block.stop and self._stream in {None, block}:
                self._pending.appendleft((block.at, block.stop))

    def is_superseded(self, block: Block) -> bool:
        """Whether another line brings all of it, so that this block is not needed."""
        return self._stream not in {None, block}

    def widen(self, block: Block) -> bool:
        """The server sends the whole file whatever is asked: let this block be all that is missing.

        False where another line does that already.
        """
        with self._lock:
            if self._stream is None:
                self.single = True
                self._stream = block
                self._pending.clear()
                self._ranges.add(block.start, block.at)
                block.start = block.at = self._ranges.prefix
                block.stop = self.end
            return self._stream is block

    def end_with(self, block: Block) -> None:
        """The server says that nothing follows this block: now the size is known."""
        with self._lock:
            self.size = block.stop = block.at

    def start_over(self) -> None:
        """Forget all that has arrived: it was not what the hub promised. One connection shall bring it anew."""
        with self._lock:
            self.strikes += 1
            self.single = True
            self.found_bytes = 0
            self.checksum = None
            self.route = None
            self._ranges = Ranges()
            self._stream = None
            self._pending = deque([(0, self.end)])
        self.save()

    def save(self) -> None:
        """Write down what has arrived."""
        # The snapshot too: an older one must not overwrite a newer one.
        with self._saving:
            part, spans = self._part, list(self._snapshot())
            if part is not None and spans != self._saved and not self._retired:
                part.save(spans, self.size)
                self._saved = spans

    def retire(self) -> None:
        """The part has gone to the content store: forget its journal, or leave a note where the content is now."""
        named_so = self.digest is not None and self.digest.algorithm is DigestAlgorithm.SHA256
        with self._saving:
            self._retired = True
            self.part.retire(None if named_so else self.stored_as)

    def discard(self) -> None:
        """Remove the part with all that has arrived."""
        with self._saving:
            self._retired = True
            self.part.retire(None)
            self.part.discard()

    def _snapshot(self) -> Ranges:
        with self._lock:
            ranges = Ranges(self._ranges)
            for block in self._active:
                ranges.add(block.start, block.at)
            return ranges


def _hasher_of(digest: Digest | None, size: int | None) -> "hashlib._Hash | None":
    """What computes a promised digest that is no plain sha256."""
    match digest and digest.algorithm:
        case DigestAlgorithm.SHA384:
            return hashlib.sha384()
        case DigestAlgorithm.GIT_SHA1:
            return hashlib.sha1(b"blob %d\0" % (size or 0), usedforsecurity=False)
        case _:
            return None


def group(files: Iterable[RemoteFile]) -> list[Content]:
    """One content for all files of one digest, the largest first; those of unknown size before all."""
    files_by_key: dict[object, list[RemoteFile]] = {}
    for file in files:
        files_by_key.setdefault(file.digest or file.path, []).append(file)
    contents = [Content(same) for same in files_by_key.values()]
    return sorted(contents, key=lambda content: content.end, reverse=True)


def has_digest(file: Path, digest: Digest) -> bool:
    """Whether a file has this digest."""
    checksum = Checksum(digest, file.stat().st_size)
    buffer = memoryview(bytearray(_LEAST_BYTES))
    with file.open("rb", buffering=0) as content:
        while count := content.readinto(buffer):
            checksum.update(buffer[:count])
    return checksum.promised == digest.value


def advance(content: Content, buffer: memoryview, up_to: int) -> Checksum:
    """Go on with the digests of a content, as far as it has arrived without a gap and not beyond `up_to`."""
    checksum = content.checksum = content.checksum or Checksum(content.digest, content.size)
    while checksum.at < up_to:
        count = content.part.read(buffer[: up_to - checksum.at], checksum.at)
        if count == 0:
            raise IntegrityMismatch(f"{content}: its part has lost bytes on the volume of the models")
        checksum.update(buffer[:count])
    return checksum


def _blocks(gaps: list[tuple[int, int]], block_bytes: int) -> list[tuple[int, int]]:
    return [
        (start, min(stop, start + block_bytes))
        for gap_start, stop in gaps
        for start in range(gap_start, stop, block_bytes)
    ]

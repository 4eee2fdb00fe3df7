"""The form of an upload: read as it comes, its file straight to the disk."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from io import BufferedWriter
from pathlib import Path
from typing import TypeVar

import msgspec
from litestar.datastructures import Headers
from litestar.types import Receive
from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from api.compat.decoding import Unprocessable, UnreadableBody
from api.compat.leaving import ClientGone
from api.wire import Fault
from common.errors import DiskFull, UploadTooLarge, is_disk_full

T = TypeVar("T")

_MIB = 1024 * 1024
_FORM_BYTES = 64 * 1024
"""How much of a request may be other than the file: the form around it, and the other fields."""
_FIELD_BYTES = 4096
_MOST_PARTS = 32
_FILE = "file"
_DEFAULTS = {"provider": "geti", "framework": "openvino", "precision": "FP16"}
_FIELDS = frozenset({"model_name", *_DEFAULTS})


class UploadForm(msgspec.Struct, frozen=True, kw_only=True):
    """What an upload says, as it came; its file is on the disk."""

    file: Path
    sha256: str
    model_name: str
    provider: str
    framework: str
    precision: str


class UploadLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The most that a file may have, how much of it is written at a time, and how long nothing of it may come."""

    most_mb: int
    block_bytes: int
    idle_s: float = 60.0

    @property
    def most_bytes(self) -> int:
        """The same in bytes."""
        return self.most_mb * _MIB


async def read_upload(
    receive: Receive, headers: Headers, file: Path, limits: UploadLimits, executor: Executor
) -> UploadForm:
    """Read the form, and its file into `file`, which must not exist; needs little memory whatever its size.

    Raises UploadTooLarge, Unprocessable, UnreadableBody, ClientGone or DiskFull; then a part of the file may be left.
    """
    _check_declared(headers.get("content-length"), limits)
    kind, options = parse_options_header(headers.get("content-type", ""))
    if kind != "multipart/form-data":
        raise Unprocessable([_missing(_FILE), _missing("model_name")])
    incoming = _Incoming(file, limits, executor)
    try:
        parser = PushMultipartParser(options.get("boundary", ""), max_segment_count=_MOST_PARTS)
        async for chunk in _chunks(receive, limits):
            for event in parser.parse(chunk):
                await incoming.take(event)
        parser.close()
        await incoming.close()
    except MultipartError as error:
        raise UnreadableBody("There was an error parsing the body") from error
    except OSError as error:
        if is_disk_full(error):
            raise DiskFull("The volume of the models has no room for the upload") from error
        raise
    finally:
        incoming.let_go()
    return incoming.form()


async def _chunks(receive: Receive, limits: UploadLimits) -> AsyncIterator[bytes]:
    left = limits.most_bytes + _FORM_BYTES
    more = True
    while more:
        try:
            event = await asyncio.wait_for(receive(), limits.idle_s)
        except TimeoutError as error:
            # Others wait for this one's turn.
            raise ClientGone(f"Nothing more of the upload came for {limits.idle_s:g} seconds") from error
        if event["type"] != "http.request":
            raise ClientGone("The client left in the middle of the upload")
        left -= len(event["body"])
        if left < 0:
            raise _exceeds(limits)
        if event["body"]:
            yield event["body"]
        more = event["more_body"]


class _Incoming:
    """Takes the parser's events, one by one, and holds at most one block of the file."""

    def __init__(self, file: Path, limits: UploadLimits, executor: Executor) -> None:
        self._file = file
        self._limits = limits
        self._executor = executor
        self._fields: dict[str, bytearray] = {}
        self._name = ""
        self._target: BufferedWriter | None = None
        self._block = bytearray()
        self._size = 0
        self._digest = hashlib.sha256()

    async def take(self, event: MultipartSegment | bytes | bytearray | None) -> None:
        """The beginning of a part, some of its content, or its end."""
        if isinstance(event, MultipartSegment):
            await self._begin(event)
        elif event is not None and self._name == _FILE:
            await self._take_file(event)
        elif event is not None and self._name in _FIELDS:
            self._take_field(event)

    async def close(self) -> None:
        """Bring the rest of the file to the disk."""
        if self._target is not None:
            await self._flush()
            await self._aside(self._target.close)

    def let_go(self) -> None:
        """Close the file, whatever has become of it."""
        if self._target is not None:
            # Without its buffer: that may be what did not fit onto the disk.
            self._target.raw.close()

    def form(self) -> UploadForm:
        """What has come. Raises Unprocessable."""
        texts = {name: bytes(value).decode("utf-8", "replace") for name, value in self._fields.items() if value}
        faults = [_missing(_FILE)] if self._target is None else []
        faults += [] if "model_name" in texts else [_missing("model_name")]
        if faults:
            raise Unprocessable(faults)
        return UploadForm(file=self._file, sha256=self._digest.hexdigest(), **{**_DEFAULTS, **texts})

    async def _begin(self, part: MultipartSegment) -> None:
        self._name = part.name or ""
        if self._name == _FILE and part.filename is None:
            # A text of that name is no file.
            self._name = ""
        if self._name not in {_FILE, *_FIELDS}:
            return
        if self._name in self._fields or (self._name == _FILE and self._target is not None):
            raise Unprocessable([_twice(self._name)])
        if self._name == _FILE:
            self._target = await self._aside(lambda: self._file.open("xb"))
        else:
            self._fields[self._name] = bytearray()

    async def _take_file(self, content: bytes | bytearray) -> None:
        self._size += len(content)
        if self._size > self._limits.most_bytes:
            raise _exceeds(self._limits)
        self._block += content
        if len(self._block) >= self._limits.block_bytes:
            await self._flush()

    def _take_field(self, content: bytes | bytearray) -> None:
        value = self._fields[self._name]
        value += content
        if len(value) > _FIELD_BYTES:
            message = f"String should have at most {_FIELD_BYTES} characters"
            raise Unprocessable([Fault(type="string_too_long", loc=["body", self._name], msg=message)])

    async def _flush(self) -> None:
        block, self._block = self._block, bytearray()
        await self._aside(lambda: self._write(block))

    def _write(self, block: bytearray) -> None:
        if self._target is not None:
            self._target.write(block)
            self._digest.update(block)

    async def _aside(self, work: Callable[[], T]) -> T:
        """In a thread: a disk may take its time, and others are served by this one."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)


def _check_declared(declared: str | None, limits: UploadLimits) -> None:
    size = int(declared) if declared is not None and declared.isdecimal() else 0
    if size > limits.most_bytes + _FORM_BYTES:
        raise UploadTooLarge(f"File size {size} bytes exceeds the {limits.most_mb}MB upload limit.")


def _exceeds(limits: UploadLimits) -> UploadTooLarge:
    return UploadTooLarge(f"File size exceeds the {limits.most_mb}MB upload limit.")


def _missing(name: str) -> Fault:
    return Fault(type="missing", loc=["body", name], msg="Field required")


def _twice(name: str) -> Fault:
    return Fault(type="value_error", loc=["body", name], msg="Value error, the field came more than once")

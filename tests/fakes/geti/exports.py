"""The zips that Geti servers export."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

from tests.fakes.exchange import Reply, reply_with

CHUNK_BYTES = 64 * 1024


def zip_of(files: Mapping[str, bytes], *, compressed: bool = False) -> bytes:
    """A zip with these members, in order, under whatever names."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return held.getvalue()


def export_of(word: str, *, size: int = 2000) -> dict[str, bytes]:
    """What an OpenVINO export holds, told apart from others by a word."""
    return {
        "deployment/models/model.xml": f"<net name='{word}'/>".encode(),
        "deployment/models/model.bin": word.encode() * (size // len(word)),
        "deployment/config.json": b"{}",
        "README.md": b"How to run it.",
    }


def reply_with_zip(content: bytes, *, form: str = "chunked") -> Reply:
    """A download without ranges, digest or ETag. `form` is how its end is told: `chunked`, `length` or `close`."""
    headers = {"Content-Type": "application/zip", "Content-Disposition": 'attachment; filename="../../evil.zip"'}
    if form == "length":
        return reply_with(200, content, headers)
    if form == "close":
        return Reply(status=200, headers=tuple(headers.items()), pieces=(content,))
    pieces: list[bytes] = []
    for start in range(0, len(content), CHUNK_BYTES):
        chunk = content[start : start + CHUNK_BYTES]
        pieces += [b"%x\r\n" % len(chunk), chunk, b"\r\n"]
    framed = (*headers.items(), ("Transfer-Encoding", "chunked"))
    return Reply(status=200, headers=framed, pieces=(*pieces, b"0\r\n\r\n"))

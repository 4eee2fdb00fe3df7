"""Reads the query of the audit trail."""

from base64 import b64decode, urlsafe_b64encode
from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec
from pydantic import AwareDatetime, BaseModel, Field, PlainValidator, WithJsonSchema

from api.compat.decoding import Reader

_PAGE = 100


class Cursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where a page begins. Opaque to clients; another form takes another version."""

    before: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None
    version: Literal[1] = 1

    def text(self) -> str:
        """As clients pass it on."""
        return urlsafe_b64encode(msgspec.json.encode(self)).rstrip(b"=").decode()


_CURSORS = msgspec.json.Decoder(Cursor)


def _cursor(text: str) -> Cursor:
    if not text:
        return Cursor()
    try:
        return _CURSORS.decode(b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (ValueError, msgspec.DecodeError) as error:
        raise ValueError("this is no cursor of an earlier page") from error


class AuditQuery(BaseModel):
    """Which entries to list; all of them if nothing is said."""

    caller: Annotated[str | None, Field(description="Only what this caller has asked.")] = None
    operation: Annotated[str | None, Field(description="Only requests for this operation.")] = None
    since: Annotated[AwareDatetime | None, Field(description="Only from this moment on, with its time zone.")] = None
    until: Annotated[AwareDatetime | None, Field(description="Only before this moment, with its time zone.")] = None
    status: Annotated[
        Literal["1xx", "2xx", "3xx", "4xx", "5xx"] | None, Field(description="Only answers of this kind.")
    ] = None
    limit: Annotated[int, Field(ge=1, le=1000, description="At most so many entries.")] = _PAGE
    cursor: Annotated[
        Cursor | None,
        PlainValidator(_cursor),
        WithJsonSchema({"type": "string"}),
        Field(description="`next_cursor` of the page before; empty for the first page."),
    ] = None

    @property
    def hundred(self) -> int | None:
        """The first digit of the status that is asked for."""
        return None if self.status is None else int(self.status[0])


def read_audit_query(query: Iterable[tuple[str, str]]) -> AuditQuery:
    """Raises Unprocessable."""
    reader = Reader()
    asked = reader.query(AuditQuery, query)
    if asked is None:
        raise reader.refusal()
    return asked

"""The queries of the routes that list jobs."""

from base64 import b64decode, urlsafe_b64encode
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Literal

import msgspec
from msgspec import structs
from pydantic import BaseModel, Field, PlainValidator, ValidationInfo, WithJsonSchema, field_validator

from api.compat.decoding import Reader, Unprocessable
from api.wire import Fault
from common.vocabulary import JobState

_PAGE = 100


class Sort(StrEnum):
    """In which order pages of jobs come."""

    OLDEST_FIRST = "created_at"
    NEWEST_FIRST = "-created_at"


class Cursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where a page begins. Opaque to clients; another form takes another version."""

    version: Literal[1] = 1
    sort: Sort | None = None
    after: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None

    @property
    def newest_first(self) -> bool:
        """Whether the pages go back in time."""
        return self.sort is Sort.NEWEST_FIRST

    def text(self) -> str:
        """As clients pass it on."""
        return urlsafe_b64encode(msgspec.json.encode(self)).rstrip(b"=").decode()


BEGINNING = Cursor()

_CURSORS = msgspec.json.Decoder(Cursor)


def _cursor(text: str) -> Cursor:
    if not text:
        return BEGINNING
    try:
        return _CURSORS.decode(b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (ValueError, msgspec.DecodeError) as error:
        raise ValueError("this is no cursor of an earlier page") from error


class JobsQuery(BaseModel):
    """Which jobs to list; all of them if nothing is said. With `cursor` or `sort` they come in pages."""

    status: Annotated[JobState | None, Field(description="Only jobs of this status.")] = None
    limit: Annotated[
        int | None,
        Field(ge=1, le=1000, description=f"At most so many jobs. With `cursor` or `sort` {_PAGE}, if nothing is said."),
    ] = None
    cursor: Annotated[
        Cursor | None,
        PlainValidator(_cursor),
        WithJsonSchema({"type": "string"}),
        Field(description="`next_cursor` of the page before; empty for the first page."),
    ] = None
    sort: Annotated[Sort | None, Field(description="By age; oldest first, if nothing is said.")] = None
    offset: Annotated[
        int | None,
        Field(ge=0, lt=2**31, description="Pass over so many jobs first. Not together with `cursor` or `sort`."),
    ] = None

    @field_validator("sort")
    @classmethod
    def _continues(cls, sort: Sort | None, info: ValidationInfo) -> Sort | None:
        cursor: Cursor | None = info.data.get("cursor")
        if cursor is not None and cursor.sort not in {None, sort}:
            raise ValueError("the cursor belongs to a page of another order")
        return sort

    @property
    def wants_total(self) -> bool:
        """Whether the client asked for less than everything, and so may want to know how much there is."""
        return bool(self.model_fields_set)

    @property
    def wants_page(self) -> bool:
        """Whether the answer shall tell how to go on."""
        return bool(self.model_fields_set & {"cursor", "sort"})

    @property
    def page_limit(self) -> int:
        """How many jobs a page has."""
        return self.limit or _PAGE

    @property
    def beginning(self) -> Cursor:
        """Where the page begins, and in which order: a cursor keeps the one that its first page had."""
        cursor = self.cursor or BEGINNING
        return structs.replace(cursor, sort=self.sort or cursor.sort or Sort.OLDEST_FIRST)


class ModelJobsQuery(BaseModel):
    """The jobs of one model."""

    model_name: Annotated[str, Field(description="Exactly as it was submitted.")]


def read_jobs_query(query: Iterable[tuple[str, str]]) -> JobsQuery:
    """Raises Unprocessable."""
    reader = Reader()
    asked = reader.query(JobsQuery, query)
    if asked is None:
        raise reader.refusal()
    if asked.wants_page and asked.offset is not None:
        raise _refused("offset", "an offset cannot stand beside a cursor or a sort")
    return asked


def read_model_name(query: Iterable[tuple[str, str]]) -> str:
    """Raises Unprocessable."""
    reader = Reader()
    asked = reader.query(ModelJobsQuery, query)
    if asked is None:
        raise reader.refusal()
    return asked.model_name


def _refused(name: str, message: str) -> Unprocessable:
    return Unprocessable([Fault(type="value_error", loc=["query", name], msg=f"Value error, {message}")])

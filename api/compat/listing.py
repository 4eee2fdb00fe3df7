"""The queries of the routes that list jobs."""

from collections.abc import Iterable
from typing import Annotated

from pydantic import BaseModel, Field

from api.compat.decoding import Reader
from common.vocabulary import JobState


class JobsQuery(BaseModel):
    """Which jobs to list; all of them if nothing is said."""

    status: Annotated[JobState | None, Field(description="Only jobs of this status.")] = None
    limit: Annotated[int | None, Field(ge=1, le=1000, description="At most so many jobs.")] = None
    offset: Annotated[int | None, Field(ge=0, lt=2**31, description="Pass over so many jobs first.")] = None

    @property
    def wants_total(self) -> bool:
        """Whether the client asked for less than everything, and so may want to know how much there is."""
        return bool(self.model_fields_set)


class ModelJobsQuery(BaseModel):
    """The jobs of one model."""

    model_name: Annotated[str, Field(description="Exactly as it was submitted.")]


def read_jobs_query(query: Iterable[tuple[str, str]]) -> JobsQuery:
    """Raises Unprocessable."""
    reader = Reader()
    asked = reader.query(JobsQuery, query)
    if asked is None:
        raise reader.refusal()
    return asked


def read_model_name(query: Iterable[tuple[str, str]]) -> str:
    """Raises Unprocessable."""
    reader = Reader()
    asked = reader.query(ModelJobsQuery, query)
    if asked is None:
        raise reader.refusal()
    return asked.model_name

"""The query of the route that lists the models on the volume."""

from collections.abc import Iterable
from typing import Annotated

from pydantic import BaseModel, Field

from api.compat.decoding import Reader

_PAGE = 100


class LocalModelsQuery(BaseModel):
    """Which models to list."""

    hub: Annotated[str | None, Field(description="Only models of this hub.")] = None
    name: Annotated[str | None, Field(description="Only models whose name holds this text, in any case.")] = None
    precision: Annotated[str | None, Field(description="Only models of this precision, in any case.")] = None
    limit: Annotated[int, Field(ge=1, le=1000, description="At most so many models.")] = _PAGE
    offset: Annotated[int, Field(ge=0, lt=2**31, description="Pass over so many models first.")] = 0


def read_local_models_query(query: Iterable[tuple[str, str]]) -> LocalModelsQuery:
    """Raises Unprocessable."""
    reader = Reader()
    asked = reader.query(LocalModelsQuery, query)
    if asked is None:
        raise reader.refusal()
    return asked

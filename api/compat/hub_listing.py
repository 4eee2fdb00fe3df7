"""The body of a listing: which models of a hub a client wants to see."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from api.compat.credentials import Overrides
from api.compat.decoding import Reader
from api.compat.lenient import Whole
from api.questions import ListingWish


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _filters(value: object) -> object:
    return {} if value is None else value


class ModelListRequest(BaseModel):
    """Which models to list. A key that is not listed here, and is not null, is a filter too, and wins."""

    model_config = ConfigDict(extra="allow", hide_input_in_errors=True)

    hub: Annotated[str, BeforeValidator(_lower), Field(description="In any case.", examples=["huggingface"])]
    filters: Annotated[
        dict[str, Any],
        BeforeValidator(_filters),
        Field(description="GET /plugins tells which filters a hub knows.", examples=[{"search": "qwen"}]),
    ] = {}
    limit: Annotated[Whole, Field(ge=1, le=200)] = 50
    offset: Annotated[Whole, Field(ge=0, le=2**31 - 1)] = 0
    override_credentials: Overrides = None

    def wish(self) -> ListingWish:
        """What is wanted, in our own words."""
        more = {name: value for name, value in (self.model_extra or {}).items() if value is not None}
        return ListingWish(
            hub=self.hub,
            filters={**self.filters, **more},
            limit=self.limit,
            offset=self.offset,
            credentials=self.override_credentials or {},
        )


def read_listing(body: bytes, content_type: str | None) -> ListingWish:
    """Raises Unprocessable with every fault of the body, or UnreadableBody."""
    reader = Reader()
    asked = reader.body(ModelListRequest, body, content_type)
    if asked is None:
        raise reader.refusal()
    return asked.wish()

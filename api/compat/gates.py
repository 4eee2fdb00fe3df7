"""The bodies and queries about gates, read by the rules of a submission."""

from collections.abc import Iterable
from typing import Annotated

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from api.compat.decoding import Reader
from api.compat.submission import HUBS, ModelRequest
from common.gates import GATE_NAME
from common.planning import Wish

MOST_MODELS = 100
"""How many models one gate may wait for."""
_MOST_ASKED = 50


def _gate_name(name: str) -> str:
    if not GATE_NAME.fullmatch(name):
        raise ValueError("must be 1 to 63 of a-z 0-9 . _ - and begin with a letter or a digit")
    return name


GateName = Annotated[
    str, AfterValidator(_gate_name), Field(max_length=63, json_schema_extra={"pattern": f"^{GATE_NAME.pattern}$"})
]


class GateRequest(BaseModel):
    """The models that a gate waits for."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    models: Annotated[list[ModelRequest], Field(min_length=1, max_length=MOST_MODELS)]
    download_path: Annotated[
        str, Field(description="Where to publish, below MODELS_DIR; empty for MODELS_DIR itself.", examples=["llm"])
    ] = ""


class ReadyQuery(BaseModel):
    """Gates that are to be open too."""

    gate: Annotated[
        list[GateName],
        Field(max_length=_MOST_ASKED, description="The name of a gate that is to be open; may come more than once."),
    ] = []


class GateWishes(msgspec.Struct, frozen=True, kw_only=True):
    """A gate that has the documented shape. Where its wishes go is still the path that the client gave."""

    download_path: str
    wishes: tuple[Wish, ...]


def read_gate(body: bytes, content_type: str | None, installed_hubs: Iterable[str]) -> GateWishes:
    """Raises Unprocessable with every fault of the body, UnreadableBody, or InvalidSpec."""
    reader = Reader({"hubs": dict.fromkeys([*HUBS, *installed_hubs])})
    wanted = reader.body(GateRequest, body, content_type)
    if wanted is None:
        raise reader.refusal()
    return GateWishes(download_path=wanted.download_path, wishes=tuple(model.wish() for model in wanted.models))


def read_gate_names(query: Iterable[tuple[str, str]]) -> list[str]:
    """The gates that a query names, each once. Raises Unprocessable."""
    reader = Reader()
    asked = reader.query(ReadyQuery, [("gate", [value for name, value in query if name == "gate"])])
    if asked is None:
        raise reader.refusal()
    return list(dict.fromkeys(asked.gate))

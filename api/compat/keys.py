"""What requests about API keys say, as pydantic models; and the readers that make values of them."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from api.compat.decoding import Reader
from api.compat.lenient import Whole
from common.vocabulary import Role

_TENANT = r"^[A-Za-z0-9._@:-]{1,64}$"
_MOST_DAYS = 3650
_MOST_HOURS = 24 * 365
_GRACE_HOURS = 24


def _shown(name: str) -> str:
    if not name.isprintable() or name != name.strip():
        raise ValueError("a name is printable, and neither begins nor ends with a space")
    return name


def _role(word: str) -> str:
    if word not in set(Role):
        raise ValueError(f"a role is one of {', '.join(Role)}")
    return word


class KeyRequest(BaseModel):
    """A new API key."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    name: Annotated[
        str,
        Field(min_length=1, max_length=64, description="Whose it is, as the audit trail shows it.", examples=["ci"]),
        AfterValidator(_shown),
    ]
    role: Annotated[
        str,
        Field(description="What its holder may do.", json_schema_extra={"enum": [*Role]}),
        AfterValidator(_role),
    ]
    tenant: Annotated[
        str | None,
        Field(pattern=_TENANT, description="On whose turn its holder's jobs are, whatever the requests say."),
    ] = None
    expires_in_days: Annotated[
        Whole | None, Field(ge=1, le=_MOST_DAYS, description="Without it the key does not expire.")
    ] = None


class RotationRequest(BaseModel):
    """How a key is given another secret."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    former_lasts_hours: Annotated[
        Whole, Field(ge=0, le=_MOST_HOURS, description="For so long the former secret lets in too.")
    ] = _GRACE_HOURS


def read_key(body: bytes, content_type: str | None) -> KeyRequest:
    """The body of a new key. Raises Unprocessable or UnreadableBody."""
    reader = Reader()
    asked = reader.body(KeyRequest, body, content_type)
    if asked is None:
        raise reader.refusal()
    return asked


def read_rotation(body: bytes, content_type: str | None) -> RotationRequest:
    """The body of a rotation, which may be empty. Raises Unprocessable or UnreadableBody."""
    if not body:
        return RotationRequest()
    reader = Reader()
    asked = reader.body(RotationRequest, body, content_type)
    if asked is None:
        raise reader.refusal()
    return asked

"""What the hub means when it says no."""

from collections.abc import Mapping

from common.errors import (
    HubUnavailable,
    RevisionNotFound,
    SourceDisabled,
    SourceGated,
    SourceNotFound,
    SourcePrivateOrMissing,
    StageError,
    TokenInvalid,
)


def refusal(status: int, headers: Mapping[str, str], *, name: str) -> StageError | None:  # noqa: PLR0911 - a table
    """What the hub means by a status of 4xx and its error headers, most telling first."""
    code, message = headers.get("x-error-code"), headers.get("x-error-message")
    if code == "GatedRepo":
        return gated_source(name)
    if message == "Access to this resource is disabled.":
        return SourceDisabled(f"'{name}' is disabled at the hub")
    if code == "RevisionNotFound":
        return RevisionNotFound(f"'{name}' has no such revision")
    if code == "EntryNotFound":
        return SourceNotFound(f"'{name}' has lost a file that the hub lists")
    if status == 401 and message == "Invalid credentials in Authorization header":
        return token_refused()
    if status in {401, 403}:
        return SourcePrivateOrMissing(
            f"'{name}' was not found or is private: provide an HF_TOKEN that may read it if it exists"
        )
    if status == 404:
        return SourceNotFound(f"'{name}' was not found at the hub")
    return None


def gated_source(name: str) -> SourceGated:
    return SourceGated(
        f"'{name}' is a gated model: accept its terms on its page at the hub, and provide the HF_TOKEN of that account"
    )


def token_refused() -> TokenInvalid:
    """The hub knows nobody by this token."""
    return TokenInvalid("The hub does not accept the HF_TOKEN that is set")


def listing_refusal(status: int, _headers: Mapping[str, str]) -> StageError:
    """What the hub means by a status of 4xx where it was asked for a listing, and not for one model."""
    if status == 401:
        return TokenInvalid("The hub wants an HF_TOKEN that it knows for this listing")
    if status == 404:
        return SourceNotFound("The hub has no such listing or collection, or it is private")
    return HubUnavailable(f"The hub answered {status} when asked for a listing")


def whoami_refusal(status: int, _headers: Mapping[str, str]) -> StageError:
    """What the hub means by a status of 4xx where it was asked whom it takes us for."""
    return token_refused() if status in {401, 403} else HubUnavailable(f"The hub answered {status} about the HF_TOKEN")

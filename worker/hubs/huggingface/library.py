"""The hub's own library, speaking through our client: for metadata only, every call bounded, every address judged."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from huggingface_hub import HfApi, close_session, constants, set_client_factory
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils._http import default_client_factory

from common.errors import HubUnavailable, SourceNotFound, StageError
from worker.hubs.huggingface.refusals import refusal
from worker.net import HubClient
from worker.net.client import check_extent

_PASSED_ON = frozenset({"accept", "content-type", "user-agent"})
"""What the library may tell a hub. Its token is not among it: our client shows that, to the hub itself alone."""


@contextmanager
def library(client: HubClient, endpoint: str) -> Iterator[HfApi]:
    """The library, without any token of its own. It would find one that somebody has left on this machine."""
    # Without this it would ask huggingface.co, whatever the endpoint, who runs this process.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    set_client_factory(lambda: httpx.Client(transport=_Through(client), trust_env=False))
    try:
        yield HfApi(endpoint=endpoint, token=False, library_name="modelferry")
    finally:
        # Whoever else uses the library in this process gets it as it was.
        set_client_factory(default_client_factory)
        close_session()


@contextmanager
def errors_about(name: str) -> Iterator[None]:
    """Turn what the library raises into our errors, by type and by the hub's own codes.

    They do not name the library's errors as their cause: those repeat what the hub has said, which may be the token.
    """
    try:
        yield
    except HfHubHTTPError as error:
        raise from_library(error, name) from None
    except HFValidationError as error:
        raise SourceNotFound(f"'{name}' cannot be the name of a model at this hub") from error
    except OfflineModeIsEnabled as error:
        raise HubUnavailable("HF_HUB_OFFLINE forbids to ask the hub") from error
    except httpx.HTTPError as error:
        raise HubUnavailable(f"The hub cannot be reached: {type(error).__name__}") from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise HubUnavailable(f"The hub's answer about '{name}' makes no sense") from None


def from_library(error: HfHubHTTPError, name: str) -> StageError:
    """What the hub meant by an answer that the library took for an error."""
    response = error.response
    headers = {key.lower(): value for key, value in response.headers.items()}
    known = refusal(response.status_code, headers, name=name)
    return known or HubUnavailable(f"The hub answered {response.status_code} when asked about '{name}'")


class _Through(httpx.BaseTransport):
    """Has our own client ask what the library wants to know. It alone could wait for ever, or ask anybody."""

    def __init__(self, client: HubClient) -> None:
        self._client = client

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        headers = {name: value for name, value in request.headers.items() if name in _PASSED_ON}
        reply = self._client.ask(request.method, str(request.url), headers=headers, document=request.read() or None)
        check_extent(reply.body)
        return httpx.Response(reply.status, headers=dict(reply.headers), content=reply.body, request=request)

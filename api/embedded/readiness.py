"""Tells the user when the service is ready, or what it lacks after a while, by asking it."""

import http.client
import json
import time

from api.embedded.console import SERVICE, Console
from common.settings import Settings

_TICK_S = 0.5
_ANSWER_S = 2
_STARTUP_MODELS = "startup_models"
"""What /ready calls them (`api.startup.PART`, whose import would take longer than all the rest)."""
_PATIENCE_S = 60.0
_ASKS = "callers are asked for a key: MODELFERRY_ADMIN_KEY is the first one, which makes others (modelferry keys add)"
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what a user may ask for, not what we bind


class ReadinessWatch:
    """Asks /ready now and then, and tells the user once when all is there, or what is missing after a while."""

    def __init__(self, settings: Settings, console: Console) -> None:
        self._settings = settings
        self._console = console
        self._ready = False
        self._next_look_at = 0.0
        self._complain_at: float | None = time.monotonic() + _PATIENCE_S

    def look(self) -> None:
        now = time.monotonic()
        if self._ready or now < self._next_look_at:
            return
        lacking = self._lacking()
        if not lacking:
            self._ready = True
            self._welcome()
        elif self._complain_at is not None and now > self._complain_at:
            self._complain_at = None
            self._console.line(SERVICE, f"not ready after {_PATIENCE_S:.0f} s:")
            for part, lack in lacking.items():
                self._console.line(SERVICE, f"  {part}: {lack}")
        self._next_look_at = time.monotonic() + _TICK_S

    def _lacking(self) -> dict[str, str]:
        """Part -> what is missing. Models that are still to come keep nobody from the service."""
        host = _ANY_ADDRESS.get(self._settings.host, self._settings.host)
        found = lacking(host, self._settings.port)
        return {part: lack for part, lack in found.items() if part != _STARTUP_MODELS}

    def _welcome(self) -> None:
        host = _ANY_ADDRESS.get(self._settings.host, self._settings.host)
        address = f"http://{f'[{host}]' if ':' in host else host}:{self._settings.port}"
        for text in (
            f"ready at {address}",
            f"dashboard: {address}/   API: {address}/docs",
            f"models go to {self._settings.models_dir.absolute()}",
        ):
            self._console.line(SERVICE, text)
        if self._settings.asks_callers and not (self._settings.admin_key or self._settings.oidc_issuer):
            self._console.line(SERVICE, _ASKS)


def lacking(host: str, port: int) -> dict[str, str]:
    """Part -> what is missing, by /ready of the service at this address. Empty when it is ready."""
    # http.client and nothing above it: a proxy from the environment has no say about this machine.
    connection = http.client.HTTPConnection(host, port, timeout=_ANSWER_S)
    try:
        connection.request("GET", "/ready")
        answer = connection.getresponse()
        body = answer.read()
        if answer.status == http.HTTPStatus.OK:
            return {}
        parts = json.loads(body)["parts"]
        return {str(part): str(lack) for part, lack in parts.items() if lack != "ok"}
    except (OSError, http.client.HTTPException):
        return {"api": "The API does not answer."}
    except (ValueError, KeyError, AttributeError, TypeError):
        return {"api": "Something else answers at this address."}
    finally:
        connection.close()

"""Anonymous tokens: what a registry asks even those for who only read what is public."""

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from common.errors import SourcePrivateOrMissing, SourceUnsafe
from worker.net import Credential, HubClient, Origin

HINT_NAME = "Check the spelling of the name, and the tags on the model's page at its registry."
HINT_PUBLIC = "Only public models can be pulled here. Check the name, or pull a private model with Ollama itself."

# A word is looked for at its start only: a long one would be tried again at each of its letters.
_PARAMETER = re.compile(r'\b(\w{1,40})="([^"\\]{0,2000})"')
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{1,16384}")


def refused(name: str) -> SourcePrivateOrMissing:
    """The registry does not show the model to everybody."""
    return SourcePrivateOrMissing(f"'{name}' was not found at its registry, or is not public", hint=HINT_PUBLIC)


def wants_token(headers: Mapping[str, str]) -> bool:
    """Whether a 401 says where a token is to be had. Header names are in lower case."""
    return headers.get("www-authenticate", "").lower().startswith("bearer ")


def anonymous_token(client: HubClient, challenge: str, url: str, name: str) -> Credential:
    """What opens the registry that has answered 401 at `url`, for somebody without an account.

    The challenge may only send us to the registry itself: it would be a way to have us ask any address.
    Raises SourcePrivateOrMissing.
    """
    told = {key.lower(): value for key, value in _PARAMETER.findall(challenge)}
    try:
        if Origin.of(told.get("realm", "")) != Origin.of(url):
            raise refused(name)
    except SourceUnsafe as error:
        raise refused(name) from error
    parts = urlsplit(told["realm"])
    params = dict(parse_qsl(parts.query)) | {key: told[key] for key in ("service", "scope") if key in told}
    reply = client.get(urlunsplit((parts.scheme, parts.netloc, parts.path, "", "")), params=params)
    document = reply.json() if reply.status == 200 else None
    token = (document.get("token") or document.get("access_token")) if isinstance(document, dict) else None
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise refused(name)
    return Credential.bearer(url, token)

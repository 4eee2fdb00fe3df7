"""Proxies and certificates, as the environment names them."""

import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from api.cli.doctor.findings import Findings, fail, ok, warn

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_FILES = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE")
_SCHEMES = frozenset({"http", "https", "socks5", "socks5h"})


def look(around: Mapping[str, str]) -> Findings:
    """What lies between here and the outside."""
    named = {name: value for name in _PROXIES if (value := around.get(name) or around.get(name.lower()))}
    for name, value in named.items():
        where = _address(value)
        if where is None:
            yield fail("proxy", f"{name} is no address of a proxy.", f"Write {name}=http://host:port")
        else:
            yield ok("proxy", f"{name} leads to {where}")
    if named and not (around.get("NO_PROXY") or around.get("no_proxy")):
        yield warn(
            "proxy", "NO_PROXY is not set: hosts of your own are asked through the proxy, too.",
            "List them, with commas: NO_PROXY=localhost,127.0.0.1,.internal",
        )  # fmt: skip
    for name in _FILES:
        if around.get(name):
            yield from check_certificates(name, around[name])


def check_certificates(name: str, file: str) -> Findings:
    """Whether a file holds certificates to trust."""
    try:
        if not Path(file).is_dir():
            ssl.create_default_context(cafile=file)
    except FileNotFoundError:
        yield fail("certificates", f"{name}={file} does not exist.", "Name a file with certificates, or unset it.")
    except (ssl.SSLError, OSError) as error:
        yield fail(
            "certificates", f"{name}={file} cannot be read: {error}", "Name a file in PEM form that is readable."
        )
    else:
        yield ok("certificates", f"{name}={file} can be read")


def _address(url: str) -> str | None:
    """Host and port, without the credentials that may stand before them."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _SCHEMES or not parts.hostname:
        return None
    return f"{parts.hostname}:{port}" if port else parts.hostname

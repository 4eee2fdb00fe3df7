"""What the hostile suites share."""

from collections.abc import Iterator

import pytest

from tests.fakes.tls import TlsFront
from tests.hostile.raw import RawServer


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RawServer, TlsFront]]:
    """A server behind TLS, whose play each test changes."""
    with RawServer(lambda _visit: None) as server:
        front = TlsFront(tmp_path_factory.mktemp("tls"), server.port)
        server.url = front.endpoint
        yield server, front
        front.close()

"""The byte mover behind proxies, and over TLS."""

import hashlib
import random
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import HubUnavailable, JobCancelled, SourceUnsafe
from common.plugins import NetworkRules, TransferLimits
from common.spec import Digest, RemoteFile
from common.vocabulary import DigestAlgorithm
from tests.fakes.attempt import LocalAttempt
from tests.fakes.faults import Fault, Stall
from tests.fakes.hf_repository import LfsPolicy
from tests.fakes.huggingface import FakeHuggingFace
from tests.fakes.proxy import ForwardProxy
from tests.fakes.tls import TlsFront
from worker.transfer import Patience, bring

DATA = random.Random(1).randbytes(1_500_000)
DIGEST = Digest(algorithm=DigestAlgorithm.SHA256, value=hashlib.sha256(DATA).hexdigest())
HASTY = Patience(tries=2, first_s=0.01)


@pytest.fixture
def attempt(tmp_path: Path) -> LocalAttempt:
    return LocalAttempt(tmp_path / "volume", TransferLimits(block_bytes=256 * 1024, spare_bytes=0))


@pytest.fixture
def hub() -> Iterator[FakeHuggingFace]:
    # Without large files nothing is sent on to the CDN, which speaks no TLS.
    with FakeHuggingFace(lfs=LfsPolicy((), 1 << 30)) as hub:
        hub.add_repo("org/model", {"model.safetensors": DATA})
        yield hub


@pytest.fixture
def proxy() -> Iterator[ForwardProxy]:
    with ForwardProxy() as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def tls(hub: FakeHuggingFace, tmp_path: Path) -> Iterator[TlsFront]:
    tls = TlsFront(tmp_path, int(hub.endpoint.rpartition(":")[2]))
    yield tls
    tls.close()


def listed(endpoint: str) -> list[RemoteFile]:
    url = f"{endpoint}/org/model/resolve/main/model.safetensors"
    return [RemoteFile(path="model.safetensors", size=len(DATA), digest=DIGEST, url=url)]


def brought(attempt: LocalAttempt) -> bool:
    return (attempt.workspace / "model.safetensors").read_bytes() == DATA


def test_a_proxy_is_asked_with_its_own_login(
    hub: FakeHuggingFace, proxy: ForwardProxy, attempt: LocalAttempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://user:p%40ss@{proxy.address}")
    bring(listed(hub.endpoint), attempt)
    assert brought(attempt)
    login = f"Basic {b64encode(b'user:p@ss').decode()}"
    assert len(proxy.asked) == len(hub.requests)
    assert {(method, given) for method, _, given in proxy.asked} == {("GET", login)}
    assert not any("proxy-authorization" in request.headers for request in hub.requests)


def test_a_proxy_is_not_asked_for_what_it_is_not_for(
    hub: FakeHuggingFace, proxy: ForwardProxy, attempt: LocalAttempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://{proxy.address}")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    bring(listed(hub.endpoint), attempt)
    assert brought(attempt)
    assert not proxy.asked


def test_a_hub_is_reached_over_tls(tls: TlsFront, attempt: LocalAttempt) -> None:
    bring(listed(tls.endpoint), attempt, network=NetworkRules(ca_bundle=str(tls.certificate)))
    assert brought(attempt)


def test_a_hub_is_reached_over_tls_through_a_proxy(
    tls: TlsFront, proxy: ForwardProxy, attempt: LocalAttempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", proxy.address)
    bring(listed(tls.endpoint), attempt, network=NetworkRules(ca_bundle=str(tls.certificate)))
    assert brought(attempt)
    assert {(method, target) for method, target, _ in proxy.asked} == {
        ("CONNECT", tls.endpoint.removeprefix("https://"))
    }


def test_authorities_come_from_the_environment(
    tls: TlsFront, attempt: LocalAttempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tls.certificate))
    bring(listed(tls.endpoint), attempt)
    assert brought(attempt)


def test_an_unknown_authority_is_refused(tls: TlsFront, attempt: LocalAttempt) -> None:
    with pytest.raises(HubUnavailable, match="certificate is not trusted"):
        bring(listed(tls.endpoint), attempt, patience=HASTY)


def test_a_redirect_out_of_tls_is_refused(hub: FakeHuggingFace, tls: TlsFront, attempt: LocalAttempt) -> None:
    hub.lfs = LfsPolicy()
    with pytest.raises(SourceUnsafe, match="unencrypted"):
        bring(listed(tls.endpoint), attempt, network=NetworkRules(ca_bundle=str(tls.certificate)))
    assert hub.requests.count(origin="cdn") == 0


def test_a_cancel_is_heard_over_tls(hub: FakeHuggingFace, tls: TlsFront, attempt: LocalAttempt) -> None:
    hub.add_fault(Fault(kind=Stall(30, at=1000)))
    threading.Timer(0.3, attempt.cancelled.set).start()
    started = time.monotonic()
    with pytest.raises(JobCancelled):
        bring(listed(tls.endpoint), attempt, network=NetworkRules(ca_bundle=str(tls.certificate)))
    assert time.monotonic() - started < 0.3 + 1

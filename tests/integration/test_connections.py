"""Connections to hubs, over real sockets: where they may lead, what they carry along, and when they end."""

import hashlib
import json
import logging
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from common.errors import HubUnavailable, RateLimited, SourceNotFound, SourceUnsafe, StageError, TokenInvalid
from common.plugins import NetworkRules, TransferLimits
from common.spec import Digest, RemoteFile
from common.vocabulary import DigestAlgorithm
from tests.fakes.attempt import LocalAttempt
from tests.fakes.exchange import Pause, Reply, Request, reply_with, reply_with_json
from tests.fakes.loopback import Answer, LoopbackServer
from tests.fakes.proxy import ForwardProxy
from tests.fakes.tls import TlsFront
from tests.fakes.traffic import RequestLog
from worker.net import Credential, HubClient, Origin
from worker.transfer import Patience, bring

DATA = bytes(range(256)) * 64
DIGEST = Digest(algorithm=DigestAlgorithm.SHA256, value=hashlib.sha256(DATA).hexdigest())
SECRET = "hf_0123456789secret"
HASTY = Patience(tries=2, first_s=0.01)
INWARD = [
    "169.254.169.254", "localhost", "[::1]", "0x7f000001", "2130706433", "127.1", "[::ffff:10.0.0.1]", "127.0.0.2",
    "private.example",
]  # fmt: skip


class Site:
    """Servers on loopback with a common log, and a name for the first of them that nothing else has."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.log = RequestLog()

    def serve(self, name: str, answer: Answer) -> str:
        server = self._stack.enter_context(LoopbackServer(name, answer, self.log))
        return f"http://127.0.0.1:{server.port}"

    def asked(self, name: str) -> list[tuple[str, str]]:
        return [(request.method, request.path) for request in self.log.matching(origin=name)]


@pytest.fixture
def site() -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(stack)


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy, and a resolver that knows some names: `hub.example` and `private.example` are on loopback."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    true_lookup = socket.getaddrinfo

    def look_up(host: str, *details: object, **options: object) -> object:
        known = host in {"hub.example", "private.example"}
        return true_lookup("127.0.0.1" if known else host, *details, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


def redirect(location: str, status: int = 302, **headers: str) -> Reply:
    return reply_with(status, headers={"Location": location, **headers})


def file_reply(_: Request) -> Reply:
    return reply_with(200, DATA, {"ETag": '"x"'})


def attempt_in(folder: Path) -> LocalAttempt:
    return LocalAttempt(folder / "volume", TransferLimits(spare_bytes=0, read_s=5, connect_s=5))


def remote(url: str) -> list[RemoteFile]:
    return [RemoteFile(path="model.bin", size=len(DATA), digest=DIGEST, url=url)]


def named_public(endpoint: str) -> tuple[str, NetworkRules]:
    """A hub as a public one is seen: what it leads to is not let through because of where it lies itself."""
    port = endpoint.rpartition(":")[2]
    return f"http://hub.example:{port}", NetworkRules(private_hosts=frozenset({f"hub.example:{port}"}))


class TestAddresses:
    @pytest.mark.parametrize("host", INWARD)
    def test_a_redirect_leads_to_nothing_inside(self, site: Site, tmp_path: Path, host: str) -> None:
        inner = site.serve("inner", file_reply)
        target = f"http://{host}:{inner.rpartition(':')[2]}/secret"
        home, rules = named_public(site.serve("hub", lambda _: redirect(target)))
        with HubClient(home, rules, trusted=False) as client, pytest.raises(SourceUnsafe, match="private network"):
            client.get("models")
        with pytest.raises(SourceUnsafe, match="private network"):
            bring(remote(f"{home}/file"), attempt_in(tmp_path), network=rules, trusted=False)
        assert not site.asked("inner")
        assert site.log.peak_connections("inner") == 0
        assert len(site.asked("hub")) == 2

    @pytest.mark.parametrize("host", INWARD)
    def test_nothing_inside_is_a_home_that_a_stranger_names(self, site: Site, tmp_path: Path, host: str) -> None:
        home = f"http://{host}:{site.serve('inner', file_reply).rpartition(':')[2]}"
        with HubClient(home, trusted=False) as client, pytest.raises(SourceUnsafe, match="private network"):
            client.get("models")
        with pytest.raises(SourceUnsafe, match="private network"):
            bring(remote(f"{home}/file"), attempt_in(tmp_path), trusted=False)
        assert site.log.peak_connections("inner") == 0

    def test_the_operators_own_hub_may_be_inside(self, site: Site, tmp_path: Path) -> None:
        cdn = site.serve("cdn", file_reply)
        home = site.serve("hub", lambda _: redirect(f"{cdn}/file"))
        with HubClient(home) as client:
            assert client.get("models").body == DATA
        attempt = attempt_in(tmp_path)
        bring(remote(f"{home}/file"), attempt)
        assert (attempt.workspace / "model.bin").read_bytes() == DATA

    @pytest.mark.parametrize("by_port", [False, True])
    def test_the_operator_lets_one_host_through(self, site: Site, tmp_path: Path, by_port: bool) -> None:
        port = site.serve("cdn", file_reply).rpartition(":")[2]
        home, rules = named_public(site.serve("hub", lambda _: redirect(f"http://private.example:{port}/file")))
        named = f"private.example:{port}" if by_port else "private.example"
        wider = NetworkRules(private_hosts=rules.private_hosts | {named})
        with HubClient(home, wider, trusted=False) as client:
            assert client.get("models").body == DATA
        bring(remote(f"{home}/file"), attempt_in(tmp_path), network=wider, trusted=False)
        other = NetworkRules(private_hosts=rules.private_hosts | {"private.example:1"})
        with HubClient(home, other, trusted=False) as client, pytest.raises(SourceUnsafe):
            client.get("models")

    def test_a_listing_that_names_an_address_inside_is_not_followed(self, site: Site) -> None:
        home, rules = named_public(site.serve("hub", lambda _: reply_with_json([])))
        inner = site.serve("inner", file_reply)
        with HubClient(home, rules, trusted=False) as client, pytest.raises(SourceUnsafe):
            client.get(f"{inner}/secret")
        assert not site.asked("inner")

    def test_a_kept_connection_serves_no_hub_that_may_not_have_it(self, site: Site, tmp_path: Path) -> None:
        inner = site.serve("inner", file_reply)
        home, rules = named_public(site.serve("hub", lambda _: redirect(f"{inner}/other")))
        wider = NetworkRules(private_hosts=rules.private_hosts | {inner.removeprefix("http://")})
        files = [*remote(f"{inner}/file"), RemoteFile(path="b", size=3, digest=None, url=f"{home}/file")]
        with pytest.raises(SourceUnsafe):
            bring(files, attempt_in(tmp_path), network=rules, trusted=False)
        with suppress(StageError):
            bring(files, attempt_in(tmp_path), network=wider, trusted=False)
        assert ("GET", "/other") in site.asked("inner")

    @pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://hub.example/x", "http://[::1", "gopher:"])
    def test_only_http_is_spoken(self, site: Site, location: str) -> None:
        home = site.serve("hub", lambda _: redirect(location))
        with HubClient(home) as client, pytest.raises(SourceUnsafe):
            client.get("models")


class TestCredentials:
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_a_token_is_shown_to_its_own_origin_alone(self, site: Site, tmp_path: Path, status: int) -> None:
        cdn = site.serve("cdn", file_reply)
        home = site.serve("hub", lambda _: redirect(f"{cdn}/file", status))
        credential = Credential.bearer(home, SECRET)
        with HubClient(home, credential=credential) as client:
            assert client.get("models", headers={"X-Api-Key": "key", "Cookie": "a=b"}).body == DATA
        bring(remote(f"{home}/file"), attempt_in(tmp_path), credential)
        seen = [set(request.headers) for request in site.log.matching(origin="cdn")]
        assert len(seen) == 2
        assert not set.union(*seen) & {"authorization", "x-api-key", "cookie"}
        assert all(request.had_authorization for request in site.log.matching(origin="hub"))

    def test_a_token_comes_back_with_a_redirect_back_home(self, site: Site) -> None:
        places: dict[str, str] = {}
        places["other"] = site.serve("other", lambda _: redirect(f"{places['hub']}/last"))

        def answer(request: Request) -> Reply:
            return reply_with(200, b"ok") if request.path == "/last" else redirect(f"{places['other']}/x")

        places["hub"] = site.serve("hub", answer)
        with HubClient(places["hub"], credential=Credential.bearer(places["hub"], SECRET)) as client:
            assert client.get("first").url == f"{places['hub']}/last"
        assert [request.had_authorization for request in site.log] == [True, False, True]

    def test_no_token_and_no_query_is_in_an_error_or_a_log(
        self, site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        closed = "http://127.0.0.1:9/file?X-Signature=signedvalue"
        home = site.serve("hub", lambda _: redirect(closed))
        credential = Credential.bearer(home, SECRET)
        errors: list[BaseException] = []
        with HubClient(home, credential=credential) as client:
            for address in ("models?key=queryvalue", closed, "a\nb?key=queryvalue", "http://[bad?key=queryvalue"):
                with pytest.raises(StageError) as caught:
                    client.get(address)
                errors.append(caught.value)
        with pytest.raises(StageError) as caught:
            bring(remote(f"{home}/file"), attempt_in(tmp_path), credential, patience=HASTY)
        with pytest.raises(TokenInvalid) as refused:
            Credential.bearer(home, f"{SECRET}\r\nX: y")
        shown = caplog.text
        for error in [*errors, caught.value, refused.value]:
            shown += "".join(traceback.format_exception(error))
        for secret in (SECRET, "signedvalue", "queryvalue"):
            assert secret not in shown


class TestEnds:
    def test_five_redirects_are_followed_and_not_six(self, site: Site) -> None:
        def answer(request: Request) -> Reply:
            left = int(request.path.removeprefix("/"))
            return redirect(f"/{left - 1}") if left else reply_with(200, b"there")

        with HubClient(site.serve("hub", answer)) as client:
            assert client.get("5").body == b"there"
            with pytest.raises(HubUnavailable, match="redirects more than 5 times"):
                client.get("6")

    def test_a_redirect_loop_ends(self, site: Site, tmp_path: Path) -> None:
        home = site.serve("hub", lambda request: redirect(request.path))
        with HubClient(home) as client, pytest.raises(HubUnavailable, match="redirects"):
            client.get("models")
        with pytest.raises(HubUnavailable, match="redirects"):
            bring(remote(f"{home}/file"), attempt_in(tmp_path), patience=HASTY)

    @pytest.mark.parametrize("chunked", [False, True])
    def test_an_answer_that_is_too_long_is_refused(self, site: Site, chunked: bool) -> None:
        reply = reply_with(200, bytes(5000))
        home = site.serve("hub", lambda _: reply.without_header("Content-Length") if chunked else reply)
        with HubClient(home, most_bytes=4999) as client, pytest.raises(SourceUnsafe, match="too long"):
            client.get("models")
        with HubClient(home, most_bytes=5000) as client:
            assert len(client.get("models").body) == 5000

    def test_a_body_that_trickles_ends_at_the_deadline(self, site: Site) -> None:
        pieces = tuple(piece for _ in range(100) for piece in (b"x", Pause(0.05)))
        reply = Reply(status=200, headers=(("Content-Length", "100"),), pieces=pieces)
        home = site.serve("hub", lambda _: reply)
        assert _seconds_until(HubUnavailable, lambda: _ask(home, call_s=0.5)) < 1.5

    def test_a_silent_server_ends_at_the_deadline(self, site: Site) -> None:
        home = site.serve("hub", lambda _: Reply(status=200, delay_s=20))
        assert _seconds_until(HubUnavailable, lambda: _ask(home, call_s=0.5)) < 1.5

    def test_headers_that_trickle_end_at_the_deadline(self) -> None:
        with _Dripping() as home:
            assert _seconds_until(HubUnavailable, lambda: _ask(home, call_s=0.5)) < 1.5

    def test_a_compressed_answer_is_refused(self, site: Site) -> None:
        home = site.serve("hub", lambda _: reply_with(200, b"x", {"Content-Encoding": "gzip"}))
        with HubClient(home) as client, pytest.raises(SourceUnsafe, match="compresses"):
            client.get("models")

    def test_too_many_calls_are_a_listing_without_end(self, site: Site) -> None:
        with HubClient(site.serve("hub", lambda _: reply_with_json([])), most_calls=3) as client:
            for _ in range(3):
                client.get("page")
            with pytest.raises(SourceUnsafe, match="no end"):
                client.get("page")

    def test_a_connection_serves_the_next_call_and_a_closed_one_does_not_matter(self, site: Site) -> None:
        home = site.serve(
            "hub", lambda request: reply_with_json({}, {"Connection": "close"} if "x" in request.path else {})
        )
        with HubClient(home) as client:
            for path in ("a", "b", "x", "c"):
                assert client.get(path).json() == {}
        assert site.log.peak_connections("hub") <= 2

    def test_no_thread_is_left(self, site: Site) -> None:
        before = threading.active_count()
        home = site.serve("hub", lambda _: reply_with_json({}))
        with HubClient(home) as client:
            for _ in range(20):
                client.get("models")
        assert not [thread for thread in threading.enumerate() if thread.name == "deadline"], before


class TestQuestions:
    def test_parameters_headers_and_bodies_arrive(self, site: Site) -> None:
        bodies: list[tuple[str, bytes, str]] = []

        def answer(request: Request) -> Reply:
            bodies.append((request.method, request.body, request.headers.get("content-type", "")))
            return reply_with_json({"q": request.query}, {"X-Twice": "a"})

        with HubClient(site.serve("hub", answer) + "/api/") as client:
            asked = client.get("models", params={"tag": ["a", "b c"], "none": None, "n": 5}, headers={"Accept": "x/y"})
            assert asked.json() == {"q": {"tag": ["a", "b c"], "n": ["5"]}}
            assert client.get("models?x=1", params={"y": "\u00e9"}).json() == {"q": {"x": ["1"], "y": ["\u00e9"]}}
            client.post("login", {"user": "me"})
            client.ask("POST", "form", document=b"a=b", headers={"Content-Type": "application/x-www-form-urlencoded"})
            client.get("with space/\u00e9")
        assert site.asked("hub")[0] == ("GET", "/api/models")
        assert site.log[0].headers["accept"] == "x/y"
        assert site.log[0].headers["accept-encoding"] == "identity"
        assert bodies[2] == ("POST", json.dumps({"user": "me"}).encode(), "application/json")
        assert bodies[3] == ("POST", b"a=b", "application/x-www-form-urlencoded")

    def test_the_head_of_an_answer_has_no_body(self, site: Site) -> None:
        home = site.serve("hub", lambda _: reply_with(200, DATA, {"ETag": '"x"'}))
        with HubClient(home) as client:
            for _ in range(2):
                reply = client.head("file")
                assert (reply.body, reply.headers["content-length"], reply.headers["etag"]) == (b"", "16384", '"x"')
            assert client.get("file").body == DATA
        assert site.log.peak_connections("hub") == 1

    @pytest.mark.parametrize(
        ("status", "method"), [(301, "GET"), (302, "GET"), (303, "GET"), (307, "POST"), (308, "POST")]
    )
    def test_a_redirect_keeps_or_loses_the_method(self, site: Site, status: int, method: str) -> None:
        def answer(request: Request) -> Reply:
            return redirect("/b", status) if request.path == "/a" else reply_with(200, request.body)

        with HubClient(site.serve("hub", answer)) as client:
            assert client.post("a", {}).body == (b"{}" if method == "POST" else b"")
        assert site.asked("hub") == [("POST", "/a"), (method, "/b")]

    def test_what_was_posted_is_sent_nowhere_else(self, site: Site) -> None:
        other = site.serve("other", file_reply)
        with HubClient(site.serve("hub", lambda _: redirect(other, 307))) as client, pytest.raises(SourceUnsafe):
            client.post("login", {"password": SECRET})
        assert not site.asked("other")

    @pytest.mark.parametrize(
        ("status", "error"),
        [
            (429, RateLimited),
            (500, HubUnavailable),
            (503, HubUnavailable),
            (408, HubUnavailable),
            (404, SourceNotFound),
        ],
    )
    def test_refusals_have_their_own_errors(self, site: Site, status: int, error: type[StageError]) -> None:
        home = site.serve("hub", lambda _: reply_with(status, headers={"Retry-After": "7", "X-Why": "because"}))

        def classify(status: int, headers: object) -> StageError | None:
            assert isinstance(headers, dict)
            return SourceNotFound(headers["x-why"]) if status == 404 else None

        with HubClient(home, classify=classify) as client, pytest.raises(error) as caught:
            client.get("models")
        assert getattr(caught.value, "wait_s", 7) == 7

    def test_other_statuses_are_for_the_caller(self, site: Site) -> None:
        with HubClient(site.serve("hub", lambda _: reply_with(401, b"{}", {"WWW-Authenticate": "Bearer"}))) as client:
            reply = client.get("models")
        assert (reply.status, reply.headers["www-authenticate"], reply.json()) == (401, "Bearer", {})

    def test_an_answer_that_is_no_json_is_the_hubs_fault(self, site: Site) -> None:
        with HubClient(site.serve("hub", lambda _: reply_with(200, b"<html>"))) as client:
            reply = client.get("models")
        with pytest.raises(HubUnavailable, match="no JSON"):
            reply.json()

    @pytest.mark.parametrize("home", ["hub.example", "ftp://hub.example", "file:///etc", ""])
    def test_a_home_must_be_a_url(self, home: str) -> None:
        with pytest.raises(SourceUnsafe):
            HubClient(home)


class TestProxies:
    @pytest.fixture
    def proxy(self) -> Iterator[ForwardProxy]:
        with ForwardProxy() as proxy:
            yield proxy

    def test_a_hubs_own_proxy_is_asked_for_everything(
        self, site: Site, tmp_path: Path, proxy: ForwardProxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        cdn = site.serve("cdn", file_reply)
        home = site.serve("hub", lambda _: redirect(f"{cdn}/file"))
        rules = NetworkRules(proxy=f"http://me:pass@{proxy.address}")
        with HubClient(home, rules) as client:
            assert client.get("models").body == DATA
        bring(remote(f"{home}/file"), attempt_in(tmp_path), network=rules)
        assert [target for _, target, _ in proxy.asked] == [
            f"{home}/models",
            f"{cdn}/file",
            f"{home}/file",
            f"{cdn}/file",
        ]
        assert all(login for *_, login in proxy.asked)
        assert not any("proxy-authorization" in request.headers for request in site.log)

    @pytest.mark.parametrize("host", [host for host in INWARD if host != "private.example"])
    def test_addresses_inside_are_refused_before_a_proxy_is_asked(
        self, tmp_path: Path, proxy: ForwardProxy, host: str
    ) -> None:
        rules = NetworkRules(proxy=proxy.address)
        for scheme in ("http", "https"):
            with HubClient(f"{scheme}://{host}", rules, trusted=False) as client, pytest.raises(SourceUnsafe):
                client.get("models")
            with pytest.raises(SourceUnsafe):
                bring(remote(f"{scheme}://{host}/file"), attempt_in(tmp_path), network=rules, trusted=False)
        assert not proxy.asked

    def test_a_proxy_resolves_names_itself(self, site: Site, proxy: ForwardProxy) -> None:
        port = site.serve("hub", file_reply).rpartition(":")[2]
        with HubClient(f"http://hub.example:{port}", NetworkRules(proxy=proxy.address), trusted=False) as client:
            assert client.get("file").body == DATA

    def test_a_proxy_that_refuses_is_told_in_words(self, site: Site) -> None:
        proxy = site.serve("proxy", lambda _: reply_with(407, headers={"Proxy-Authenticate": "Basic"}))
        for scheme in ("http", "https"):
            client = HubClient(f"{scheme}://hub.example", NetworkRules(proxy=proxy))
            with client, pytest.raises(HubUnavailable, match="the proxy"):
                client.get("models")

    def test_a_proxy_of_another_kind_is_refused_in_words(self, site: Site) -> None:
        home = site.serve("hub", file_reply)
        rules = NetworkRules(proxy="socks5://me:pass@127.0.0.1:9")
        with HubClient(home, rules) as client, pytest.raises(HubUnavailable, match="http://host:port") as caught:
            client.get("models")
        assert "pass" not in str(caught.value)


class TestTls:
    @pytest.fixture
    def tls(self, site: Site, tmp_path: Path) -> Iterator[TlsFront]:
        home = site.serve("hub", self.answer)
        front = TlsFront(tmp_path, int(home.rpartition(":")[2]))
        yield front
        front.close()

    def answer(self, request: Request) -> Reply:
        return redirect("http://127.0.0.1:9/plain") if request.path == "/down" else file_reply(request)

    def test_a_hubs_own_authorities_are_trusted_and_no_others(self, tls: TlsFront) -> None:
        with HubClient(tls.endpoint, NetworkRules(ca_bundle=str(tls.certificate))) as client:
            assert client.get("file").body == DATA
        with HubClient(tls.endpoint) as client, pytest.raises(HubUnavailable, match="certificate is not trusted here"):
            client.get("file")

    def test_a_bundle_that_is_not_there_is_told_in_words(self, tls: TlsFront, tmp_path: Path) -> None:
        for path in (tmp_path / "none.pem", tmp_path):
            rules = NetworkRules(ca_bundle=str(path))
            with HubClient(tls.endpoint, rules) as client, pytest.raises(HubUnavailable, match="certificates to trust"):
                client.get("file")
            with pytest.raises(HubUnavailable, match="certificates to trust"):
                bring(remote(f"{tls.endpoint}/file"), attempt_in(tmp_path), network=rules)

    def test_the_name_is_verified_although_its_address_was_judged(self, tls: TlsFront) -> None:
        elsewhere = tls.endpoint.replace("localhost", "hub.example")
        rules = NetworkRules(ca_bundle=str(tls.certificate))
        with HubClient(elsewhere, rules) as client, pytest.raises(HubUnavailable, match="certificate is not trusted"):
            client.get("file")

    def test_an_operator_may_renounce_certificates(self, tls: TlsFront) -> None:
        with HubClient(tls.endpoint, verify=False) as client:
            assert client.get("file").body == DATA

    def test_the_way_out_of_tls_is_refused(self, tls: TlsFront) -> None:
        with HubClient(tls.endpoint, NetworkRules(ca_bundle=str(tls.certificate))) as client:
            with pytest.raises(SourceUnsafe, match="unencrypted"):
                client.get("down")
            with pytest.raises(SourceUnsafe, match="unencrypted"):
                client.get(tls.endpoint.replace("https", "http") + "/file")

    def test_through_a_proxy_too(self, tls: TlsFront) -> None:
        with ForwardProxy() as proxy:
            rules = NetworkRules(ca_bundle=str(tls.certificate), proxy=proxy.address)
            with HubClient(tls.endpoint, rules, credential=Credential.bearer(tls.endpoint, SECRET)) as client:
                assert client.get("file").body == DATA
            assert [method for method, *_ in proxy.asked] == ["CONNECT"]

    def test_a_server_without_tls_is_told_in_words(self, site: Site) -> None:
        home = site.serve("plain", file_reply).replace("http:", "https:")
        with HubClient(home) as client, pytest.raises(HubUnavailable, match=r"TLS|ECONNRESET|ended"):
            client.get("file")


def test_an_origin_is_the_same_with_and_without_its_port() -> None:
    assert Origin.of("https://Hub.example./a") == Origin.of("https://hub.example:443/b")
    assert Origin.of("http://hub.example") != Origin.of("https://hub.example")


class _Dripping:
    """Answers with one byte of a header now and then, for ever."""

    def __enter__(self) -> str:
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            connection, _ = self._listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                for _ in range(200):
                    connection.sendall(b"X")
                    time.sleep(0.05)


def _ask(home: str, *, call_s: float) -> None:
    with HubClient(home, call_s=call_s) as client:
        client.get("models")


def _seconds_until(error: type[StageError], act: Callable[[], None]) -> float:
    started = time.monotonic()
    with pytest.raises(error):
        act()
    return time.monotonic() - started

"""Which addresses a hub may lead to."""

import socket

import pytest

from common.errors import HubUnavailable, SourceUnsafe, TokenInvalid
from common.plugins import NetworkRules
from worker.net.connection import Question
from worker.net.guard import Depth, Guard, depth_of, literal_address
from worker.net.origin import Credential, Origin, request_target
from worker.net.proxies import Proxy, proxy_for

PUBLIC = "93.184.216.34"
HOME = Origin("https", PUBLIC, 443)


def guard(home: Origin = HOME, *private_hosts: str, trusted: bool = True) -> Guard:
    return Guard(rules=NetworkRules(private_hosts=frozenset(private_hosts)), home=home, trusted=trusted)


def http(host: str, port: int = 80) -> Origin:
    return Origin("http", host, port)


@pytest.mark.parametrize(
    ("address", "depth"),
    [
        (PUBLIC, Depth.PUBLIC),
        ("2606:2800:220:1::1", Depth.PUBLIC),
        ("::ffff:93.184.216.34", Depth.PUBLIC),
        ("64:ff9b::5db8:d822", Depth.PUBLIC),
        ("10.0.0.1", Depth.PRIVATE),
        ("172.16.5.5", Depth.PRIVATE),
        ("192.168.1.1", Depth.PRIVATE),
        ("100.64.0.1", Depth.PRIVATE),
        ("fd00::1", Depth.PRIVATE),
        ("fec0::1", Depth.PRIVATE),
        ("::ffff:10.0.0.1", Depth.PRIVATE),
        ("64:ff9b::a00:1", Depth.PRIVATE),
        ("127.0.0.1", Depth.LOOPBACK),
        ("127.8.8.8", Depth.LOOPBACK),
        ("::1", Depth.LOOPBACK),
        ("::ffff:127.0.0.1", Depth.LOOPBACK),
        ("169.254.169.254", Depth.SPECIAL),
        ("::ffff:169.254.169.254", Depth.SPECIAL),
        ("64:ff9b::a9fe:a9fe", Depth.SPECIAL),
        ("fe80::1%eth0", Depth.SPECIAL),
        ("0.0.0.0", Depth.SPECIAL),
        ("::", Depth.SPECIAL),
        ("224.0.0.1", Depth.SPECIAL),
        ("ff02::1", Depth.SPECIAL),
        ("255.255.255.255", Depth.SPECIAL),
        ("::7f00:1", Depth.SPECIAL),
        ("2002:7f00:1::1", Depth.SPECIAL),
        ("2001:0:7f00:1::", Depth.SPECIAL),
    ],
)
def test_how_far_inside_an_address_lies(address: str, depth: Depth) -> None:
    assert depth_of(address) is depth


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("127.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("localhost", "127.0.0.1"),
        ("a.localhost", "127.0.0.1"),
        ("hub.example", None),
        ("10.0.0.1 x", None),
        ("h\u00fcb.example", None),
    ],
)
def test_names_that_are_addresses(host: str, address: str | None) -> None:
    assert literal_address(host) == address


INWARD = [
    "169.254.169.254", "localhost", "::1", "0x7f000001", "2130706433", "127.1", "::ffff:10.0.0.1", "10.0.0.1", "0.0.0.0",
]  # fmt: skip


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("host", INWARD)
def test_a_public_hub_does_not_lead_inside(host: str, trusted: bool) -> None:
    with pytest.raises(SourceUnsafe, match="private network") as caught:
        guard(trusted=trusted).addresses(http(host))
    assert "MODELFERRY_PRIVATE_HOSTS" in caught.value.advice
    with pytest.raises(SourceUnsafe):
        guard(trusted=trusted).check_name(http(host))


@pytest.mark.parametrize("host", INWARD)
def test_a_hub_that_a_stranger_named_may_not_be_inside(host: str) -> None:
    home = http(host)
    with pytest.raises(SourceUnsafe):
        guard(home, trusted=False).addresses(home)
    assert guard(home).addresses(home)


@pytest.mark.parametrize(
    ("home", "target", "allowed"),
    [
        ("10.0.0.9", "10.0.0.5", True),
        ("10.0.0.9", "192.168.0.1", True),
        ("10.0.0.9", "127.0.0.1", False),
        ("10.0.0.9", "169.254.169.254", False),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "10.0.0.5", True),
        ("127.0.0.1", "169.254.169.254", False),
        ("127.0.0.1", "0.0.0.0", False),
        ("169.254.1.1", "169.254.169.254", False),
    ],
)
def test_a_hub_inside_leads_no_further_inside_than_it_lies(home: str, target: str, allowed: bool) -> None:
    def check() -> None:
        guard(http(home, 8080)).check(http(target), target)

    if allowed:
        check()
        return
    with pytest.raises(SourceUnsafe):
        check()


@pytest.mark.parametrize("named", ["10.0.0.5", "10.0.0.5:8080"])
def test_an_operator_lets_one_host_through(named: str) -> None:
    judge = guard(HOME, named, trusted=False)
    judge.check(http("10.0.0.5", 8080), "10.0.0.5")
    for other in (http("10.0.0.6", 8080), http("mirror.example", 8080)):
        with pytest.raises(SourceUnsafe):
            judge.check(other, "10.0.0.5")
    if ":" in named:
        with pytest.raises(SourceUnsafe):
            judge.check(http("10.0.0.5", 81), "10.0.0.5")


class Resolver:
    """Answers for the names that it knows, each time with the next of their answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **names: list[list[str]]) -> None:
        self.names = {name.replace("_", "."): answers for name, answers in names.items()}
        self.asked: list[str] = []
        monkeypatch.setattr(socket, "getaddrinfo", self)

    def __call__(self, host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        self.asked.append(host)
        answers = self.names[host]
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]


def test_a_name_is_judged_by_its_addresses_and_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = Resolver(monkeypatch, cdn_example=[[PUBLIC], ["127.0.0.1"]])
    addresses = guard(trusted=False).addresses(http("cdn.example"))
    assert [address for _, address in addresses] == [(PUBLIC, 80)]
    assert resolver.asked == ["cdn.example"]
    with pytest.raises(SourceUnsafe, match=r"cdn\.example"):
        guard(trusted=False).addresses(http("cdn.example"))


def test_one_private_address_among_others_is_one_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    Resolver(monkeypatch, cdn_example=[[PUBLIC, "10.0.0.1"]])
    with pytest.raises(SourceUnsafe):
        guard().addresses(http("cdn.example"))


def test_a_name_is_let_through_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    Resolver(monkeypatch, mirror_internal=[["10.0.0.5"]])
    for named in ("mirror.internal", "mirror.internal:8080"):
        assert guard(HOME, named).addresses(http("mirror.internal", 8080))
    with pytest.raises(SourceUnsafe):
        guard(HOME, "mirror.internal:8080").addresses(http("mirror.internal", 8081))


def test_a_home_is_judged_by_where_its_name_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    Resolver(monkeypatch, hub_internal=[["10.0.0.5"]], hub_example=[[PUBLIC]])
    guard(http("hub.internal")).check(http("10.0.0.6"), "10.0.0.6")
    with pytest.raises(SourceUnsafe):
        guard(http("hub.example")).check(http("10.0.0.6"), "10.0.0.6")


class TestRedirects:
    """What is sent to where a redirect leads."""

    SENT = {"Accept": "a/b", "Range": "bytes=0-1", "X-Api-Key": "k", "Cookie": "c", "Authorization": "t"}

    def question(self, method: str, content: bytes | None = None) -> Question:
        url = "https://hub.example/a"
        return Question(method, url, url, {**self.SENT, "Content-Type": "application/json"}, content)

    def test_secrets_stay_at_their_origin(self) -> None:
        same = self.question("GET").led_to("/b", 302)
        assert dict(same.headers) == self.SENT
        for elsewhere in ("https://cdn.example/b", "https://hub.example:444/b"):
            other = self.question("GET").led_to(elsewhere, 302)
            assert set(other.headers) == {"Accept", "Range"}

    @pytest.mark.parametrize(
        ("method", "status", "next_method"),
        [
            ("GET", 302, "GET"), ("HEAD", 302, "HEAD"), ("HEAD", 303, "HEAD"), ("POST", 301, "GET"),
            ("POST", 302, "GET"), ("POST", 303, "GET"), ("POST", 307, "POST"), ("POST", 308, "POST"),
        ],
    )  # fmt: skip
    def test_the_method_is_kept_or_lost_as_http_wants_it(self, method: str, status: int, next_method: str) -> None:
        content = b"{}" if method == "POST" else None
        led = self.question(method, content).led_to("/b", status)
        assert led.method == next_method
        assert led.content == (b"{}" if next_method == "POST" else None)
        assert ("Content-Type" in led.headers) == (next_method == "POST")

    def test_what_was_posted_goes_nowhere_else(self) -> None:
        with pytest.raises(SourceUnsafe, match="another place"):
            self.question("POST", b'{"password": "x"}').led_to("https://other.example/", 307)


class TestProxies:
    @pytest.mark.parametrize("address", ["proxy.example:3128", "//proxy.example:3128", "http://proxy.example:3128/"])
    def test_an_address_may_leave_out_its_scheme(self, address: str) -> None:
        assert Proxy.at(address) == Proxy("proxy.example", 3128)

    def test_a_login_is_not_shown(self) -> None:
        assert "pass" not in repr(Proxy.at("http://user:pass@proxy.example"))

    @pytest.mark.parametrize("address", ["socks5://user:pass@p:1", "https://p:1", "http://", "http://p:99999", "://"])
    def test_other_kinds_are_refused_in_words(self, address: str) -> None:
        with pytest.raises(HubUnavailable, match="proxy") as caught:
            Proxy.at(address)
        assert "pass" not in str(caught.value)

    def test_the_hubs_own_comes_before_the_environments(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("https_proxy", "http://theirs:1")
        monkeypatch.setenv("no_proxy", "hub.example")
        origin = Origin("https", "hub.example", 443)
        assert proxy_for(origin, NetworkRules(proxy="http://ours:2")) == Proxy("ours", 2)
        assert proxy_for(origin, NetworkRules()) is None
        assert proxy_for(Origin("https", "other.example", 443), NetworkRules()) == Proxy("theirs", 1)


def test_a_login_in_a_url_is_sent_nowhere() -> None:
    url = "http://user:secret@hub.example:8080/a?b=c"
    assert request_target(url, absolute=False) == "/a?b=c"
    assert request_target(url, absolute=True) == "http://hub.example:8080/a?b=c"


@pytest.mark.parametrize("token", ["hf_secret\nX: y", "hf_s\u00e9cret", "hf_secret\x00"])
def test_a_token_that_cannot_stand_in_a_header_is_refused_unseen(token: str) -> None:
    with pytest.raises(TokenInvalid) as caught:
        Credential.bearer("https://hub.example", token)
    assert "cret" not in str(caught.value)

"""Bearer tokens of an identity provider, against one on loopback that really signs and rotates its keys."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from jwt.warnings import InsecureKeyLengthWarning

from api.access import provider as provider_module
from api.access.oidc import Tokens
from api.access.provider import Provider as Keys
from common.access import Way
from common.errors import ServiceUnavailable
from common.settings import Settings
from common.vocabulary import Role
from tests.fakes.exchange import Pause, Reply, reply_with, reply_with_json
from tests.fakes.oidc import Key, Provider, ec_key, ed_key, rsa_key, signed_with_the_public_half, unsigned
from tests.fakes.tls import TlsFront
from tests.web import Web, web

FIRST, OTHER = rsa_key("first"), rsa_key("other")
ROLES = "mf-admins=admin, mf-people=operator, readers=viewer"


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider([FIRST]) as running:
        yield running


def settings(provider: Provider, **more: Any) -> Settings:
    wanted: dict[str, Any] = {"oidc_audience": provider.audience, "oidc_roles": ROLES, **more}
    return Settings(oidc_issuer=provider.issuer, **wanted)


def tokens(provider: Provider, **more: Any) -> Tokens:
    found = Tokens.of(settings(provider, **more))
    assert found is not None
    return found


@pytest.fixture
def service(provider: Provider, tmp_path: Path) -> Iterator[Web]:
    with web(
        tmp_path, access="required", oidc_issuer=provider.issuer, oidc_audience=provider.audience, oidc_roles=ROLES
    ) as running:
        yield running


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


class TestOverHttp:
    def test_the_holder_is_let_in_with_its_role(self, service: Web, provider: Provider) -> None:
        reader = bearer(provider.token(sub="ann", roles=["readers"]))
        assert service.get("/jobs", headers=reader).status_code == 200
        refused = service.post("/models/download", params={"download_path": "x"}, json={"models": []}, headers=reader)
        assert (refused.status_code, refused.headers["x-error-code"]) == (403, "forbidden")
        who = service.get("/whoami", headers=bearer(provider.token(sub="eve", roles=["x", "mf-admins"]))).json()
        assert (who["name"], who["way"], who["role"]) == ("eve", "token", "admin")

    def test_who_has_no_role_is_known_and_refused(self, service: Web, provider: Provider) -> None:
        answer = service.get("/jobs", headers=bearer(provider.token(roles=["others"])))
        assert (answer.status_code, answer.headers["x-error-code"]) == (403, "forbidden")

    def test_a_bad_token_is_no_credential(self, service: Web, provider: Provider) -> None:
        answer = service.get("/jobs", headers=bearer(provider.token(roles=["readers"], aud="another service")))
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")

    def test_a_provider_that_is_away_is_not_the_callers_fault(self, service: Web, provider: Provider) -> None:
        token = provider.token(roles=["readers"])
        provider.go_away()
        answer = service.get("/jobs", headers=bearer(token))
        assert answer.status_code == 503
        assert "retry-after" in answer.headers
        assert token not in answer.text

    def test_no_token_is_in_the_log(self, service: Web, provider: Provider, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("DEBUG")
        good, bad = provider.token(roles=["readers"]), provider.token(OTHER, roles=["readers"])
        for token in (good, bad, "a.b.c"):
            service.get("/jobs", headers=bearer(token))
        said = "\n".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records)
        assert good.split(".")[2] not in said
        assert bad.split(".")[2] not in said


class TestWhatIsBelieved:
    def test_a_good_token(self, provider: Provider) -> None:
        caller = tokens(provider)(provider.token(sub="ann", roles=["mf-people"]))
        assert caller is not None
        assert (caller.name, caller.way, caller.role) == ("ann", Way.TOKEN, Role.OPERATOR)

    @pytest.mark.parametrize("make", [rsa_key, ec_key, ed_key])
    def test_every_kind_of_key(self, provider: Provider, make: Any) -> None:
        provider.rotate(make("k"))
        assert tokens(provider)(provider.token(roles=["readers"])) is not None

    @pytest.mark.parametrize(
        "spoilt",
        [
            {"exp": 1_000_000_000},
            {"exp": None},
            {"iat": None},
            {"iat": 4_000_000_000},
            {"nbf": 4_000_000_000},
            {"iss": "https://another.example"},
            {"iss": None},
            {"aud": "another service"},
            {"aud": ["a", "b"]},
            {"aud": None},
            {"exp": "soon"},
            {"sub": None},
            {"sub": 7},
        ],
        ids=str,
    )
    def test_claims_that_do_not_hold(self, provider: Provider, spoilt: dict[str, object]) -> None:
        assert tokens(provider)(provider.token(**{"roles": ["readers"], **spoilt})) is None

    def test_clocks_may_differ_a_little(self, provider: Provider) -> None:
        now = int(time.time())
        ours = tokens(provider)
        assert ours(provider.token(exp=now - 30, roles=["readers"])) is not None
        assert ours(provider.token(nbf=now + 30, iat=now + 30, roles=["readers"])) is not None
        assert ours(provider.token(exp=now - 90, roles=["readers"])) is None
        assert ours(provider.token(nbf=now + 90, roles=["readers"])) is None

    def test_one_of_several_audiences_is_enough(self, provider: Provider) -> None:
        assert tokens(provider)(provider.token(aud=["a", provider.audience], roles=["readers"])) is not None

    def test_signatures_that_do_not_hold(self, provider: Provider) -> None:
        ours, good = tokens(provider), provider.token(roles=["readers"])
        head, body, signature = good.split(".")
        claims = json.loads(base64.urlsafe_b64decode(body + "=="))
        more = base64.urlsafe_b64encode(json.dumps({**claims, "roles": ["mf-admins"]}).encode()).rstrip(b"=").decode()
        assert ours(f"{head}.{more}.{signature}") is None
        assert ours(f"{head}.{body}.") is None
        assert ours(unsigned(good)) is None
        assert ours(signed_with_the_public_half(good, FIRST)) is None
        assert ours(provider.token(Key("first", "RS256", OTHER.private), roles=["readers"])) is None
        assert ours(provider.token(Key("first", "PS256", FIRST.private), roles=["readers"])) is None
        assert ours(good) is not None

    @pytest.mark.parametrize("text", ["", "x", "a.b.c", "." * 5000, "é.é.é", "a.b.c" * 10_000, "\0.\0.\0"])
    def test_what_is_no_token(self, provider: Provider, text: str) -> None:
        assert tokens(provider)(text) is None
        assert provider.asked == [], "the provider is not troubled with that"

    def test_a_token_that_is_too_long(self, provider: Provider) -> None:
        assert tokens(provider)(provider.token(roles=["readers"], filler="x" * 20_000)) is None

    def test_headers_that_name_keys_of_their_own(self, provider: Provider) -> None:
        theirs = {"jwk": OTHER.described, "jku": "http://127.0.0.1:1/keys", "x5u": "http://127.0.0.1:1/"}
        forged = provider.token(Key("first", "RS256", OTHER.private), header=theirs, roles=["mf-admins"])
        assert tokens(provider)(forged) is None


class TestRolesAndNames:
    @pytest.mark.parametrize(
        ("claim", "said", "role"),
        [
            ("roles", {"roles": ["readers", "mf-people"]}, Role.OPERATOR),
            ("roles", {"roles": "readers mf-admins"}, Role.ADMIN),
            ("roles", {"roles": "readers"}, Role.VIEWER),
            ("realm_access.roles", {"realm_access": {"roles": ["mf-people"]}}, Role.OPERATOR),
            ("https://models.example/roles", {"https://models.example/roles": ["readers"]}, Role.VIEWER),
            ("realm_access.roles", {"realm_access": ["mf-admins"]}, None),
            ("roles", {"roles": [7, None, ["mf-admins"]]}, None),
            ("roles", {"roles": {"mf-admins": True}}, None),
            ("roles", {}, None),
        ],
        ids=str,
    )
    def test_roles(self, provider: Provider, claim: str, said: dict[str, object], role: Role | None) -> None:
        caller = tokens(provider, oidc_roles_claim=claim)(provider.token(**said))
        assert caller is not None
        assert caller.role is role

    def test_anybody_may_have_a_role(self, provider: Provider) -> None:
        ours = tokens(provider, oidc_roles="*=viewer, mf-admins=admin")
        plain, admin = ours(provider.token()), ours(provider.token(roles=["mf-admins"]))
        assert plain is not None
        assert plain.role is Role.VIEWER
        assert admin is not None
        assert admin.role is Role.ADMIN

    @pytest.mark.parametrize(
        ("said", "name"),
        [
            ({"email": "ann@models.example"}, "ann@models.example"),
            ({}, "u-1"),
            ({"email": "a\nb\x00c"}, "a?b?c"),
            ({"email": "x" * 500}, "x" * 128),
            ({"email": ["ann"]}, "u-1"),
        ],
        ids=str,
    )
    def test_names(self, provider: Provider, said: dict[str, object], name: str) -> None:
        caller = tokens(provider, oidc_name_claim="email")(provider.token(**said))
        assert caller is not None
        assert caller.name == name


class TestKeys:
    def test_they_are_asked_for_once(self, provider: Provider) -> None:
        ours = tokens(provider)
        for number in range(5):
            assert ours(provider.token(sub=f"u-{number}")) is not None
        assert len(provider.asked) == 2, "the description, and the keys"

    def test_many_at_once_ask_once(self, provider: Provider) -> None:
        ours, found = tokens(provider), []
        threads = [
            threading.Thread(target=lambda number=number: found.append(ours(provider.token(sub=f"u-{number}"))))
            for number in range(12)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [caller for caller in found if caller is None] == []
        assert len(provider.asked) == 2

    def test_a_token_is_remembered_until_its_end(self, provider: Provider) -> None:
        ours = tokens(provider)
        token = provider.token(sub="ann")
        assert ours.at_once(token) is None
        assert ours(token) == ours.at_once(token)
        assert token not in repr(vars(ours))
        nearly_over = provider.token(exp=int(time.time()) - 10)
        assert ours(nearly_over) is not None, "within the leeway"
        assert ours.at_once(nearly_over) is None

    def test_a_new_key_is_found_and_an_old_one_forgotten(
        self, provider: Provider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(provider_module, "_APART_S", 0.0)
        ours = tokens(provider)
        assert ours(provider.token()) is not None
        provider.rotate(OTHER)
        assert ours(provider.token(OTHER)) is not None
        assert ours(provider.token(FIRST, sub="u-2")) is None

    def test_unknown_keys_ask_once_a_minute(self, provider: Provider) -> None:
        ours = tokens(provider)
        assert ours(provider.token()) is not None
        before = len(provider.asked)
        for number in range(20):
            assert ours(provider.token(Key(f"k-{number}", "RS256", OTHER.private))) is None
        assert len(provider.asked) == before

    def test_a_token_without_a_name_for_its_key(self, provider: Provider) -> None:
        def nameless(key: Key) -> str:
            return jwt.encode(provider.claims(), key.private, algorithm="RS256")

        assert tokens(provider)(nameless(FIRST)) is not None, "there is but one"
        provider.rotate(FIRST, OTHER)
        assert tokens(provider)(nameless(FIRST)) is None, "there is a choice"

    def test_a_provider_that_goes_away(self, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
        ours = tokens(provider)
        assert ours(provider.token()) is not None
        provider.go_away()
        assert ours(provider.token(sub="u-2")) is not None
        monkeypatch.setattr(provider_module, "_FRESH_S", 0.0)
        monkeypatch.setattr(provider_module, "_APART_S", 0.0)
        assert ours(provider.token(sub="u-3")) is not None, "what is known goes on to hold"
        with pytest.raises(ServiceUnavailable):
            ours(provider.token(OTHER))
        monkeypatch.setattr(provider_module, "_LAST_S", 0.0)
        with pytest.raises(ServiceUnavailable):
            ours(provider.token(sub="u-4"))
        monkeypatch.setattr(provider_module, "_LAST_S", 3600.0)
        monkeypatch.setattr(provider_module, "_AFTER_FAILURE_S", 0.0)
        provider.come_back()
        provider.rotate(OTHER)
        assert ours(provider.token(OTHER, sub="u-5")) is not None

    def test_a_provider_that_was_never_there_is_not_asked_by_everybody(self, provider: Provider) -> None:
        ours, token = tokens(provider), provider.token()
        provider.answer = reply_with(500)
        for _ in range(10):
            with pytest.raises(ServiceUnavailable):
                ours(token)
        assert len(provider.asked) == 1

    @pytest.mark.parametrize(
        "description",
        [
            {"issuer": "https://another.example"},
            {"issuer": 7},
            {"jwks_uri": None},
            {"jwks_uri": "http://models.example/keys"},
            {"jwks_uri": "file:///etc/passwd"},
            {"jwks_uri": "ftp://127.0.0.1/keys"},
            {"jwks_uri": "http://[/"},
            {"jwks_uri": ""},
        ],
        ids=str,
    )
    def test_descriptions_that_are_not_followed(self, provider: Provider, description: dict[str, object]) -> None:
        provider.description = description
        with pytest.raises(ServiceUnavailable):
            tokens(provider)(provider.token())
        assert len(provider.asked) == 1

    def test_what_stands_where_the_keys_should_be(self, provider: Provider) -> None:
        for answer in (
            reply_with(200, b"<html>"),
            reply_with(200, b"\xff\xfe"),
            reply_with(302, headers={"Location": "http://127.0.0.1:1/"}),
            reply_with_json([]),
            reply_with_json({"keys": []}),
            reply_with_json({"issuer": provider.issuer, "jwks_uri": provider.issuer, "keys": [{"kty": "RSA"}]}),
            reply_with(200, b"[" * 100_000),
            reply_with(200, b'{"keys": "' + b"x" * 1_000_000 + b'"}'),
        ):
            provider.answer = answer
            with pytest.raises(ServiceUnavailable):
                tokens(provider)(provider.token())

    def test_an_answer_that_never_ends(self, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(provider_module, "_MOST_S", 0.5)
        trickle = tuple(piece for _ in range(100) for piece in (b" ", Pause(0.1)))
        provider.answer = Reply(status=200, headers=(("Content-Length", "100"),), pieces=trickle)
        began = time.monotonic()
        with pytest.raises(ServiceUnavailable):
            tokens(provider)(provider.token())
        assert time.monotonic() - began < 5

    def test_keys_that_are_of_no_use_are_passed_over(self, provider: Provider) -> None:
        shared = {"kty": "oct", "k": "c2VjcmV0", "kid": "shared", "alg": "HS256"}
        short = rsa_key("short", 1024)
        encrypting = {**OTHER.described, "use": "enc", "kid": "enc"}
        provider.answer = reply_with_json(
            {
                "issuer": provider.issuer,
                "jwks_uri": f"{provider.issuer}/keys",
                "keys": [shared, short.described, encrypting, {"kty": "XX"}, {}, FIRST.described],
            }
        )
        ours = tokens(provider)
        assert ours(provider.token(FIRST)) is not None
        assert ours(provider.token(Key("enc", "RS256", OTHER.private))) is None
        claims = {**provider.claims(), "roles": ["mf-admins"]}
        forged = jwt.encode(claims, b"secret" * 8, algorithm="HS256", headers={"kid": "shared"})
        assert ours(forged) is None
        with pytest.warns(InsecureKeyLengthWarning):
            weak = jwt.encode(claims, short.private, algorithm="RS256", headers={"kid": "short"})
        assert ours(weak) is None


class TestTls:
    def test_a_certificate_that_nobody_knows(self, provider: Provider, tmp_path: Path) -> None:
        front = TlsFront(tmp_path, provider._server.port)
        issuer = f"{front.endpoint}/realms/models"
        try:
            provider.description = {"issuer": issuer, "jwks_uri": f"{issuer}/keys"}
            with pytest.raises(ServiceUnavailable):
                Keys(issuer).key("first", "RS256")
            assert Keys(issuer, str(front.certificate)).key("first", "RS256") is not None
            provider.description = {"issuer": issuer, "jwks_uri": f"{provider.issuer}/keys"}
            with pytest.raises(ServiceUnavailable):
                Keys(issuer, str(front.certificate)).key("first", "RS256")
        finally:
            front.close()

    def test_an_issuer_without_tls_is_spoken_of(self, provider: Provider, caplog: pytest.LogCaptureFixture) -> None:
        tokens(provider)
        assert "provider.unencrypted" in caplog.messages


def test_without_an_issuer_there_are_no_tokens() -> None:
    assert Tokens.of(Settings()) is None

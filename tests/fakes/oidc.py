"""An identity provider on loopback: its description, its keys, which it rotates, and tokens that it really signs."""

from __future__ import annotations

import base64
import hmac
import json
import time
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from tests.fakes.exchange import Reply, Request, reply_with_json
from tests.fakes.loopback import LoopbackServer, OnLoopback
from tests.fakes.traffic import RequestLog

_ISSUER = "/realms/models"


@dataclass(frozen=True)
class Key:
    """A pair of keys with a name."""

    name: str
    algorithm: str
    private: Any

    @property
    def described(self) -> dict[str, Any]:
        """The public half, as a JSON Web Key."""
        public = self.private.public_key()
        match public:
            case rsa.RSAPublicKey():
                described = RSAAlgorithm.to_jwk(public, as_dict=True)
            case ec.EllipticCurvePublicKey():
                described = ECAlgorithm.to_jwk(public, as_dict=True)
            case _:
                described = OKPAlgorithm.to_jwk(public, as_dict=True)
        described.pop("key_ops", None)
        return {**described, "kid": self.name, "use": "sig", "alg": self.algorithm}


def rsa_key(name: str, bits: int = 2048) -> Key:
    return Key(name, "RS256", rsa.generate_private_key(65537, bits))


def ec_key(name: str) -> Key:
    return Key(name, "ES256", ec.generate_private_key(ec.SECP256R1()))


def ed_key(name: str) -> Key:
    return Key(name, "EdDSA", ed25519.Ed25519PrivateKey.generate())


@dataclass
class Provider(OnLoopback):
    """Use it as a context. What it says of itself can be spoilt: `description` and `answer` win over the truth."""

    keys: list[Key] = field(default_factory=lambda: [rsa_key("first")])
    audience: str = "modelferry"
    description: dict[str, Any] = field(default_factory=dict)
    answer: Reply | None = None
    log: RequestLog = field(default_factory=RequestLog)

    def __post_init__(self) -> None:
        self._server = LoopbackServer("provider", self._reply, self.log)

    def go_away(self) -> None:
        self._server.stop()

    def come_back(self) -> None:
        self._server.start()

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self._server.port}{_ISSUER}"

    @property
    def asked(self) -> list[str]:
        """The paths that were asked for."""
        return [request.path for request in self.log]

    def rotate(self, *keys: Key) -> None:
        """Sign with these from now on, and say no more of the others."""
        self.keys = list(keys)

    def token(self, key: Key | None = None, *, header: dict[str, Any] | None = None, **claims: object) -> str:
        """A token that is good unless a claim says otherwise; None leaves a claim out."""
        key = key or self.keys[0]
        said = {**self.claims(), **claims}
        kept = {name: value for name, value in said.items() if value is not None}
        return jwt.encode(kept, key.private, algorithm=key.algorithm, headers={"kid": key.name, **(header or {})})

    def claims(self) -> dict[str, Any]:
        now = int(time.time())
        return {"iss": self.issuer, "aud": self.audience, "sub": "u-1", "iat": now, "nbf": now, "exp": now + 300}

    def _reply(self, request: Request) -> Reply:
        if self.answer is not None:
            return self.answer
        if request.path == f"{_ISSUER}/.well-known/openid-configuration":
            return reply_with_json({"issuer": self.issuer, "jwks_uri": f"{self.issuer}/keys", **self.description})
        if request.path == f"{_ISSUER}/keys":
            return reply_with_json({"keys": [key.described for key in self.keys]})
        return reply_with_json({"error": "not found"}, status=404)


def unsigned(token: str) -> str:
    """The same claims with the algorithm `none`."""
    claims = jwt.decode(token, options={"verify_signature": False})
    return jwt.encode(claims, "", algorithm="none", headers={"kid": jwt.get_unverified_header(token)["kid"]})


def signed_with_the_public_half(token: str, key: Key) -> str:
    """The old trick: a shared secret that is the public key, which everybody knows. No library makes that any more."""
    public = key.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    header = _encoded(json.dumps({"alg": "HS256", "typ": "JWT", "kid": key.name}).encode())
    said = f"{header}.{token.split('.')[1]}"
    return f"{said}.{_encoded(hmac.digest(public, said.encode(), 'sha256'))}"


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()

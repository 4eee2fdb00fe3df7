"""A loopback server that speaks TLS, with a certificate of its own."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.fakes.loopback import Answer, LoopbackServer
from tests.fakes.traffic import RequestLog


@dataclass(frozen=True)
class Identity:
    """A key, and a certificate for `localhost` and 127.0.0.1 that nobody has signed but itself."""

    certificate: Path
    key: Path

    @classmethod
    def made_in(cls, folder: Path) -> Self:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        names: list[x509.GeneralName] = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(key, hashes.SHA256())
        )
        identity = cls(folder / "certificate.pem", folder / "key.pem")
        identity.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        identity.key.write_bytes(key.private_bytes(*form))
        return identity


class TlsServer(LoopbackServer):
    """As LoopbackServer. A client that does not trust the certificate gets nothing, and is not logged."""

    def __init__(self, origin: str, answer: Answer, log: RequestLog, identity: Identity) -> None:
        super().__init__(origin, answer, log)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(identity.certificate, identity.key)

    def _converse(self, connection: socket.socket) -> None:
        # A connection that is shut while it is read loses its TLS state under the reader.
        with (
            suppress(OSError, ValueError, AttributeError),
            self._context.wrap_socket(connection, server_side=True) as secured,
        ):
            super()._converse(secured)

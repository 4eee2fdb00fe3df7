"""TLS for fake servers: a certificate that nobody else has signed, and a front that decrypts and passes on."""

from __future__ import annotations

import ipaddress
import select
import socket
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


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


class TlsFront:
    """An https front of a server on loopback, with a certificate of its own."""

    def __init__(self, folder: Path, port: int) -> None:
        identity = Identity.made_in(folder)
        self.certificate = identity.certificate
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(identity.certificate, identity.key)
        self._upstream = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"https://localhost:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with (
            connection,
            suppress(OSError),
            self._context.wrap_socket(connection, server_side=True) as client,
            socket.create_connection(("127.0.0.1", self._upstream)) as upstream,
        ):
            _pass_on(client, upstream)
            client.shutdown(socket.SHUT_RDWR)


def _pass_on(client: ssl.SSLSocket, upstream: socket.socket) -> None:
    """Carry both directions until one ends. By one thread: OpenSSL lets no two of them use a connection at once."""
    while True:
        ready = [client] if client.pending() else select.select([client, upstream], [], [])[0]
        if client in ready:
            try:
                # A record need not have arrived whole, and upstream may have something to say meanwhile.
                client.settimeout(0)
                question = client.recv(65536)
            except ssl.SSLWantReadError:
                question = None
            finally:
                client.settimeout(None)
            if question == b"":
                return
            upstream.sendall(question or b"")
        if upstream in ready:
            answer = upstream.recv(65536)
            if not answer:
                return
            client.sendall(answer)

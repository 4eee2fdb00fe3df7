"""A loopback server that speaks TLS, with a certificate of its own."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress

from tests.fakes.loopback import Answer, LoopbackServer
from tests.fakes.tls import Identity
from tests.fakes.traffic import RequestLog


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

"""Geti servers on loopback: version 2 over TLS, and version 3."""

from tests.fakes.geti.exports import export_of, zip_of
from tests.fakes.geti.shelves import Architecture, Export, Shelf, Training
from tests.fakes.geti.tls import Identity, TlsServer
from tests.fakes.geti.version2 import FakeGeti2
from tests.fakes.geti.version3 import FakeGeti3

__all__ = [
    "Architecture",
    "Export",
    "FakeGeti2",
    "FakeGeti3",
    "Identity",
    "Shelf",
    "TlsServer",
    "Training",
    "export_of",
    "zip_of",
]

"""Whom to trust when a connection is encrypted."""

import ssl

import certifi

from common.errors import HubUnavailable


def make_tls(ca_bundle: str | None = None, *, verify: bool = True) -> ssl.SSLContext:
    """Trust this bundle of authorities; without one the system's (SSL_CERT_FILE and SSL_CERT_DIR say which).

    Raises HubUnavailable where the bundle cannot be read.
    """
    context = _trusting(ca_bundle)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _trusting(ca_bundle: str | None) -> ssl.SSLContext:
    if ca_bundle is not None:
        try:
            return ssl.create_default_context(cafile=ca_bundle)
        except OSError as error:
            hint = "See MODELFERRY_CA_BUNDLES and REQUESTS_CA_BUNDLE in docs/connections.md."
            raise HubUnavailable("The certificates to trust for this hub cannot be read here", hint=hint) from error
    known = ssl.get_default_verify_paths()
    if known.cafile is None and known.capath is None:
        return ssl.create_default_context(cafile=certifi.where())
    return ssl.create_default_context()

"""The entry of the web process: `python -m api.asgi`, or `uvicorn --no-proxy-headers api.asgi:app`."""

import math
import sys

import uvicorn

from api.app import create_app
from api.live.leaving import patience_s
from common import log, tracing
from common.settings import listed, read_settings
from common.store.schema import SchemaTooOld, refuse_older

settings = read_settings()
log.configure(settings.log_level, settings.log_format, names={"service": "modelferry-api"})
tracing.configure("modelferry-api")
app = create_app(settings)


def main() -> int:
    """Serve until SIGTERM. Returns the exit code of a process that cannot begin."""
    try:
        refuse_older(settings.store_url)
    except SchemaTooOld as error:
        print(f"modelferry: {error}", file=sys.stderr)  # noqa: T201 - the reason why nobody will answer
        return 2
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        # Left to itself, uvicorn believes whoever is on this machine that it asks for somebody else.
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=listed(settings.trusted_proxies),
        # A client that does not read what it is sent must not hold up the end.
        timeout_graceful_shutdown=math.ceil(patience_s(settings.drain_s)),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The entry of the web process: `uvicorn api.asgi:app`, or `python -m api.asgi`."""

import uvicorn

from api.app import create_app
from common import log
from common.settings import read_settings

_PATIENCE_S = 4
"""How long the end waits for answers that are on their way."""

settings = read_settings()
log.configure(settings.log_level, settings.log_format)
app = create_app(settings)

if __name__ == "__main__":
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        # A client that does not read what it is sent must not hold up the end.
        timeout_graceful_shutdown=_PATIENCE_S,
    )

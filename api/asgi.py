"""The entry of the web process: `uvicorn api.asgi:app`, or `python -m api.asgi`."""

import uvicorn

from api.app import create_app
from common import log
from common.settings import read_settings

settings = read_settings()
log.configure(settings.log_level, settings.log_format)
app = create_app(settings)

if __name__ == "__main__":
    uvicorn.run(app, host=settings.host, port=settings.port, log_config=None, access_log=False)

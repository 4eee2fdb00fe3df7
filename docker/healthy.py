"""Ends well if the process of this container is: `python healthy.py [address]`. For HEALTHCHECK, which needs no curl.

Without an address it asks whether the process is alive, at the port at which each process of Modelferry tells.
"""

import http.client
import os
import sys
from urllib.parse import urlsplit

_ANSWER_S = 4


def main(arguments: list[str]) -> int:
    where = urlsplit(arguments[0] if arguments else "/healthz")
    port = where.port or int(os.environ.get("MODELFERRY_METRICS_PORT", "9400"))
    # http.client and nothing above it: a proxy from the environment has no say about this container.
    connection = http.client.HTTPConnection(where.hostname or "127.0.0.1", port, timeout=_ANSWER_S)
    try:
        connection.request("GET", where.path)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        print(f"{where.path} at port {port}: {error}")
        return 1
    print(f"{where.path} at port {port}: {status}")
    return int(status != http.HTTPStatus.OK)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

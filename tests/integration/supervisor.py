"""A supervising process that tells who its fork server, child and grandchildren are, and then waits to be killed."""

import json
import logging
import sys
import time
from pathlib import Path

from tests.integration.forkserver_jobs import ANY
from worker.forkserver import ForkServer

if __name__ == "__main__":
    environment = json.loads(sys.argv[1])
    with ForkServer(json.loads(sys.argv[2]), environment, logging.getLogger()) as server:
        if sys.argv[3] == "importing":
            print(json.dumps([server.pid]), flush=True)
        else:
            child = server.spawn("tests.integration.forkserver_jobs:breed", b"ignore", log=Path(sys.argv[4]))
            grandchildren = child.channel.receive(ANY)
            assert isinstance(grandchildren, list)
            print(json.dumps([server.pid, child.pid, *grandchildren]), flush=True)
        time.sleep(600)

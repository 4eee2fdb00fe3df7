"""The fork server's process entry: `python -m worker.forkserver <socket> [module ...]`; only a ForkServer calls it."""

import sys

from worker.forkserver.forking import serve

if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2:])

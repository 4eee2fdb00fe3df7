"""`python -m api.mcp`: an MCP server on standard input and output, for a service that runs elsewhere."""

import argparse

from api.mcp.stdio import main

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m api.mcp", description=__doc__)
    parser.add_argument("--address", help="the service. Default: MODELFERRY_URL, or http://127.0.0.1:8200")
    main(parser.parse_args().address)

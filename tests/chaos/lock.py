"""Holds a SQLite database's write lock for a while: `python -m tests.chaos.lock FILE SECONDS`."""

import sqlite3
import sys
import time


def main() -> None:
    connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10)
    connection.execute("BEGIN EXCLUSIVE")
    time.sleep(float(sys.argv[2]))
    connection.execute("ROLLBACK")
    connection.close()


if __name__ == "__main__":
    main()

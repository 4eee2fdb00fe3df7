"""The environment of this run: what is handed on to a service, and what decides how things are shown."""

import os


def environment() -> dict[str, str]:
    """A copy of it."""
    return dict(os.environ)  # noqa: TID251 - this is the entry of a process that hands it on

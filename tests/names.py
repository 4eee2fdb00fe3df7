"""Names of parametrised tests."""

import re


def plainly(value: object) -> str:
    """A value in words that are the same in every process: where something lies in memory is left out."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))

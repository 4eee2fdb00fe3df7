"""Statuses of HTTP in few words: a label must have few values."""

_OWN_CLASSES = frozenset({429})
"""What is counted apart from others of its class: it says something else."""


def status_class(status: int | None) -> str:
    """`2xx` and so on, `429`, and `none` where there was no answer."""
    if status is None or not 100 <= status < 600:
        return "none"
    return str(status) if status in _OWN_CLASSES else f"{status // 100}xx"

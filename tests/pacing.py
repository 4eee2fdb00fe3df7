"""Whether a measured rate keeps a limit."""

ABOVE = 1.15
BELOW = 0.55
"""A busy machine may make anything slower; nothing makes it faster than it is allowed to be."""


def keeps(limit: float, rate: float) -> bool:
    """Whether a rate uses a limit and does not exceed it."""
    assert BELOW * limit <= rate <= ABOVE * limit, f"{rate / limit:.2f} times the limit"
    return True

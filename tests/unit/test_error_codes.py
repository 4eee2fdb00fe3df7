"""The codes of errors are told apart. What the pages say about them is held by test_docs.py."""

from typing import Any

from common import errors


def codes(
    branch: type[errors.ModelferryError], *, but: frozenset[type[errors.ModelferryError]] = frozenset()
) -> list[str]:
    """The codes of one branch of the error tree; whatever tests and routes derive from it is not in it."""
    every: list[Any] = [error for error in vars(errors).values() if isinstance(error, type)]
    return [error.code for error in every if issubclass(error, branch) and error not in but]


def test_no_two_errors_share_a_code() -> None:
    # The roots of the branches lend their code to whoever has none.
    every = codes(errors.StageError, but=frozenset({errors.StageError, errors.PermanentError}))
    assert len(every) == len(set(every))
    refusals = codes(errors.RequestError)
    assert len(refusals) == len(set(refusals))

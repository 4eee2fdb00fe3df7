"""Whose code may run is for the operator to say, repository by repository."""

import pytest

from common.spec import Source
from worker.stages.tools import trusts


@pytest.mark.parametrize(
    ("listed", "trusted"),
    [("", False), ("org/other", False), ("org", False), ("org/model-2", False), ("x, org/model", True), ("*", True)],
)
def test_only_a_repository_that_is_named_is_trusted(listed: str, trusted: bool) -> None:
    assert trusts(listed, Source(hub="huggingface", name="org/model")) == ("*" if trusted else "")

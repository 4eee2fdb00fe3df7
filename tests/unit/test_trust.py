"""Whose code may run is for the operator to say, repository by repository and commit by commit."""

import pytest

from common.settings import SettingsError, read_settings
from common.spec import Source
from worker.stages.tools import allows

COMMIT = "a" * 40


@pytest.mark.parametrize(
    ("listed", "allowed"),
    [
        ("", False),
        (f"org/other@{COMMIT}", False),
        ("org", False),
        (f"org/model@{'b' * 40}", False),
        (f"org/model-2@{COMMIT}", False),
        (f"x, org/model@{COMMIT}", True),
        ("org/model", True),
        ("*", True),
    ],
)
def test_only_a_repository_that_is_named_is_allowed(listed: str, allowed: bool) -> None:
    assert allows(listed, Source(hub="huggingface", name="org/model"), COMMIT) is allowed


@pytest.mark.parametrize("listed", ["org/model", "org/model@main", f"org/model@{COMMIT}, other", "@", "org/model@"])
def test_code_is_trusted_at_a_commit_only(listed: str) -> None:
    with pytest.raises(SettingsError, match="MODELFERRY_TRUST_REMOTE_CODE must name repositories with commits"):
        read_settings({"MODELFERRY_TRUST_REMOTE_CODE": listed})


@pytest.mark.parametrize("listed", ["*", f"org/model@{COMMIT}", f"a@{COMMIT}, b/c@{COMMIT}", " "])
def test_commits_and_everything_can_be_trusted(listed: str) -> None:
    assert read_settings({"MODELFERRY_TRUST_REMOTE_CODE": listed}).trust_remote_code == listed

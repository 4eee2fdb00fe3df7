"""What names and commits of this hub look like. Both become part of addresses and paths."""

import re

from huggingface_hub.hf_api import ModelInfo

from common.errors import SourceUnsafe

NAME = re.compile(r"(?!.*\.\.)[\w.-]{1,96}(/[\w.-]{1,96})?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


def identity(info: ModelInfo) -> tuple[str, str]:
    """The repository's present name, which a rename changes, and the commit. Raises SourceUnsafe."""
    name, commit = str(info.id), str(info.sha)
    if not NAME.fullmatch(name) or not _COMMIT.fullmatch(commit):
        raise SourceUnsafe("The hub names a repository or a commit that cannot be one")
    return name, commit

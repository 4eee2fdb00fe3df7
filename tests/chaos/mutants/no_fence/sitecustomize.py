"""A worker without its fence: it may change a stage that is not its own any more. Chaos must see the harm."""

import sys
from typing import Any

_POOLS = {"download", "convert"}

if sys.orig_argv[-2:-1] == ["worker"] and sys.orig_argv[-1] in _POOLS:
    from common.store import stages

    if not hasattr(stages, "_fence"):
        sys.exit("There is no fence to take away: this mutant must follow the store")

    from sqlalchemy import Integer, Text, bindparam, or_

    def _open_gate() -> Any:
        # The store binds these two; true whatever they are.
        attempt, owner = bindparam("the_attempt", type_=Integer), bindparam("the_owner", type_=Text)
        return (stages.StageRow.id == bindparam("the_stage"), or_(attempt > 0, owner != ""))

    stages._fence = _open_gate

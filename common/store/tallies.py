"""The tallies: jobs that are forgotten, and still count."""

from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy import Connection

from common.store.database import AnyRow, insert_into
from common.store.tables import JobRow, TallyRow
from common.vocabulary import HIDDEN

COUNTED = (
    JobRow.operation,
    JobRow.spec["hub"].as_string().label("hub"),
    JobRow.state,
    JobRow.created_at,
    JobRow.ended_at,
)
"""What has to be known of a job that is deleted."""


def add(connection: Connection, gone: Sequence[AnyRow]) -> None:
    """Count these jobs, which were deleted in the same transaction. What clients were never shown is not counted."""
    ended: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for row in gone:
        if row.operation not in HIDDEN and row.ended_at is not None:
            ended[row.operation, row.hub, row.state].append(max(0.0, row.ended_at - row.created_at))
    # In one order, so that two who do so at one moment do not wait for each other.
    for (operation, hub, state), seconds in sorted(ended.items()):
        new = insert_into(TallyRow, connection.dialect.name).values(
            operation=operation, hub=hub, state=state, jobs=len(seconds), seconds=sum(seconds)
        )
        more = {"jobs": TallyRow.jobs + new.excluded.jobs, "seconds": TallyRow.seconds + new.excluded.seconds}
        connection.execute(new.on_conflict_do_update(index_elements=["operation", "hub", "state"], set_=more))

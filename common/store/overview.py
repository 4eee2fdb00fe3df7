"""What the job table tells of the service as a whole, at a cost that hardly grows with it."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Connection, case, cast, exists, func, select, union
from sqlalchemy.orm import InstrumentedAttribute, aliased
from sqlalchemy.sql.functions import Function

from common.store.database import Database, Now
from common.store.jobs import IS_ACTIVE
from common.store.tables import JobRow, JobStageRow, StageRow
from common.vocabulary import HIDDEN, JobState, StageKind, StageState

HOURS = 24
_HOUR_S = 3600
_FAILURES = 5


class HourRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What happened in one hour."""

    begins_at: datetime
    bytes_fetched: int = 0
    completed: int = 0
    failed: int = 0


class OverviewStore:
    """Numbers over many rows. All methods raise ServiceUnavailable when the database is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def hours(self) -> list[HourRecord]:
        """The hours of the last day by the clock, oldest first; the last one is not over."""
        with self._database.read() as connection:
            now = float(connection.execute(select(Now())).scalar_one())
            first = (int(now // _HOUR_S) - HOURS + 1) * _HOUR_S
            ended = _ended(connection, first)
            fetched = _fetched(connection, first)
        return [
            HourRecord(
                begins_at=datetime.fromtimestamp(first, UTC) + timedelta(hours=hour),
                bytes_fetched=fetched.get(hour, 0),
                completed=ended.get((hour, JobState.COMPLETED), 0),
                failed=ended.get((hour, JobState.FAILED), 0),
            )
            for hour in range(HOURS)
        ]

    def failures(self) -> list[str]:
        """The ids of the newest jobs that failed within a day and that nobody has tried again, newest first."""
        again = aliased(JobRow)
        # There is no index of what tries a job again, but one of what has its model.
        tried_again = exists().where(again.model_name == JobRow.model_name, again.retry_of == JobRow.id)
        query = (
            select(JobRow.id)
            .where(
                JobRow.ended_at > Now() - HOURS * _HOUR_S,
                JobRow.state == JobState.FAILED,
                JobRow.operation.not_in(sorted(HIDDEN)),
                ~tried_again,
            )
            .order_by(JobRow.seq.desc())
            .limit(_FAILURES)
        )
        with self._database.read() as connection:
            return list(connection.execute(query).scalars())


def _ended(connection: Connection, first: int) -> Mapping[tuple[int, JobState], int]:
    """(hour, state) -> how many jobs have ended so."""
    hour = _hour(JobRow.ended_at, first)
    query = (
        select(hour.label("hour"), JobRow.state, func.count().label("jobs"))
        .where(JobRow.ended_at >= first, JobRow.operation.not_in(sorted(HIDDEN)))
        .group_by(hour, JobRow.state)
    )
    return {(int(row.hour), JobState(row.state)): row.jobs for row in connection.execute(query)}


def _fetched(connection: Connection, first: int) -> Mapping[int, int]:
    """Hour -> bytes that came from hubs, counted when their stage ended. Several jobs may share a stage."""
    # Whose fetch ended within the day either goes on or has ended within it, too: there are indexes of both.
    theirs = select(JobStageRow.stage_id).join(JobRow, JobRow.id == JobStageRow.job_id)
    wanted = union(theirs.where(IS_ACTIVE), theirs.where(JobRow.ended_at >= first)).subquery()
    told = StageRow.progress["bytes_done"].as_string()
    whole = StageRow.progress["bytes_total"].as_string()
    # The last heartbeat of a fetch that has succeeded came before its last bytes.
    done = case((StageRow.state == StageState.SUCCEEDED, func.coalesce(whole, told)), else_=told)
    new = cast(done, BigInteger) - func.coalesce(cast(StageRow.progress["bytes_resumed"].as_string(), BigInteger), 0)
    hour = _hour(StageRow.ended_at, first)
    query = (
        select(hour.label("hour"), func.sum(new).label("bytes"))
        .join(wanted, wanted.c.stage_id == StageRow.id)
        .where(StageRow.kind == StageKind.FETCH.value, StageRow.ended_at >= first, told.is_not(None))
        .group_by(hour)
    )
    return {int(row.hour): max(0, int(row.bytes or 0)) for row in connection.execute(query)}


def _hour(moment: InstrumentedAttribute[float | None], first: int) -> Function[Any]:
    """How many whole hours lie between `first` and a moment; a `floor` that every SQLite has."""
    return func.round((moment - first) / _HOUR_S - 0.5)

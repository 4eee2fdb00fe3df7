"""The operator's limits, and hubs that have told us to wait: what both mean for claims and for running transfers."""

from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, Connection, bindparam, delete, exists, func, select, update

from common.errors import NoSuchLimit
from common.plugins import Allowance
from common.records import HubRecord, LimitRecord
from common.store.database import AnyRow, Database, Now, ahead, insert_into
from common.store.tables import RUNNING, HubRow, LimitRow, StageRow
from common.vocabulary import LimitScope, Pool, StageKind

_IS_FETCH = StageRow.kind == StageKind.FETCH.value


class LimitStore:
    """Limits in the table; they hold at once, everywhere. All methods raise ServiceUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def limits(self) -> list[LimitRecord]:
        """Every limit that is set."""
        query = select(LimitRow).order_by(LimitRow.scope, LimitRow.name)
        with self._database.read() as connection:
            return [_limit(row) for row in connection.execute(query)]

    def put(self, limit: LimitRecord) -> None:
        """Set a limit, or change it."""
        values = {"max_running": limit.max_running, "bytes_per_s": limit.bytes_per_s}
        with self._database.write() as connection:
            statement = insert_into(LimitRow, connection.dialect.name).values(
                scope=limit.scope, name=limit.name, **values
            )
            connection.execute(statement.on_conflict_do_update(index_elements=["scope", "name"], set_=values))

    def remove(self, scope: LimitScope, name: str) -> None:
        """Take a limit away. Raises NoSuchLimit."""
        with self._database.write() as connection:
            gone = connection.execute(delete(LimitRow).where(LimitRow.scope == scope, LimitRow.name == name))
        if not gone.rowcount:
            raise NoSuchLimit(f"No limit is set for {scope} '{name}'")

    def hubs(self) -> list[HubRecord]:
        """The hubs that are being asked for something, or that nobody may ask just now."""
        with self._database.read() as connection:
            running = _running(connection)
            closed = {row.name: row for row in _closed(connection)}
        return [
            HubRecord(
                name=name,
                running=running.get(name, 0),
                resumes_at=datetime.fromtimestamp(closed[name].resume_at, UTC) if name in closed else None,
                reason=closed[name].reason if name in closed else None,
            )
            for name in sorted({*running, *closed})
        ]

    def allowances(self) -> dict[str, Allowance]:
        """Hub -> what each of its running fetches may do now: equal shares of the bandwidth, and silence."""
        rates = select(LimitRow).where(LimitRow.bytes_per_s.is_not(None))
        with self._database.read() as connection:
            limits = {(row.scope, row.name): row.bytes_per_s for row in connection.execute(rates)}
            running = _running(connection)
            silent = {row.name: row.left_s for row in _closed(connection)}
        service = limits.get((LimitScope.SERVICE, "*"))
        allowances = {}
        for hub, count in running.items():
            shares = [service / sum(running.values())] if service else []
            if limit := limits.get((LimitScope.HUB, hub)):
                shares.append(limit / count)
            allowances[hub] = Allowance(bytes_per_s=min(shares, default=None), silent_s=silent.get(hub, 0.0))
        return allowances

    def close_hub(self, hub: str, wait_s: float, reason: str) -> None:
        """Let nobody ask this hub for anything for so long. The longest wish counts."""
        with self._database.write() as connection:
            close(connection, hub, lambda _: wait_s, reason)


def close(connection: Connection, hub: str, wait_s: Callable[[int], float], reason: str) -> None:
    """Close a hub for `wait_s(strikes)` seconds; `strikes` counts how often that happened in a row before."""
    known = connection.execute(
        select(HubRow.strikes, (HubRow.resume_at - Now()).label("left_s"), _is_closed().label("closed"))
        .where(HubRow.name == hub)
        .with_for_update()
    ).one_or_none()
    if known is None:
        wait = wait_s(0)
        connection.execute(
            insert_into(HubRow, connection.dialect.name)
            .values(name=hub, resume_at=Now() + wait, wait_s=wait, strikes=1, reason=reason)
            .on_conflict_do_nothing()
        )  # fmt: skip
        return
    # Whoever was on the way when the hub closed hears the same: that is no further strike.
    wait = wait_s(known.strikes - 1 if known.closed else known.strikes)
    if not known.closed or wait > known.left_s:
        strikes = known.strikes if known.closed else known.strikes + 1
        changes = {"resume_at": Now() + wait, "wait_s": wait, "strikes": min(strikes, 100), "reason": reason}
        connection.execute(update(HubRow).where(HubRow.name == hub).values(**changes))


def reopen(connection: Connection, hub: str) -> None:
    """A fetch from this hub has succeeded: its strikes are forgotten."""
    connection.execute(_REOPEN, {"hub": hub})


def anything_counts() -> ColumnElement[bool]:
    """Whether a limit goes by what runs."""
    return exists().where(LimitRow.max_running.is_not(None))


def within_limits(pool: Pool) -> tuple[ColumnElement[bool], ...]:
    """What must hold for a stage of this pool to be claimed now, as far as limits and hubs are concerned.

    The numbers are those of the moment, so no two may claim by them at one time.
    """
    running = select(func.count()).select_from(StageRow).where(RUNNING)
    fetches = running.where(StageRow.hub == LimitRow.name, _IS_FETCH).correlate(LimitRow).scalar_subquery()
    full = LimitRow.max_running <= fetches
    full_hubs = select(LimitRow.name).where(LimitRow.scope == LimitScope.HUB, full)
    busy = LimitRow.max_running <= running.where(StageRow.tenant == LimitRow.name).correlate(LimitRow).scalar_subquery()
    busy_tenants = select(LimitRow.name).where(LimitRow.scope == LimitScope.TENANT, busy)
    crowded = (
        LimitRow.max_running <= running.where(StageRow.pool == LimitRow.name).correlate(LimitRow).scalar_subquery()
    )
    return (
        StageRow.hub.not_in(select(HubRow.name).where(_is_closed())),
        # A plan or a question is over in a moment: it does not wait for transfers that last for hours.
        ~_IS_FETCH | StageRow.hub.not_in(full_hubs),
        StageRow.tenant.not_in(busy_tenants),
        ~exists().where(LimitRow.scope == LimitScope.POOL, LimitRow.name == pool, crowded),
    )


def _is_closed() -> ColumnElement[bool]:
    return ahead(HubRow.resume_at, HubRow.wait_s)


_REOPEN = delete(HubRow).where(HubRow.name == bindparam("hub"), ~_is_closed())


def _closed(connection: Connection) -> list[AnyRow]:
    query = select(HubRow.name, HubRow.resume_at, (HubRow.resume_at - Now()).label("left_s"), HubRow.reason)
    return list(connection.execute(query.where(_is_closed())))


def _running(connection: Connection) -> dict[str, int]:
    query = (
        select(StageRow.hub, func.count().label("fetches"))
        .where(RUNNING, _IS_FETCH, StageRow.hub != "")
        .group_by(StageRow.hub)
    )
    return {row.hub: row.fetches for row in connection.execute(query)}


def _limit(row: AnyRow) -> LimitRecord:
    return LimitRecord(
        scope=LimitScope(row.scope), name=row.name, max_running=row.max_running, bytes_per_s=row.bytes_per_s
    )

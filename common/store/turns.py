"""Whose turn it is: the order in which waiting stages are claimed, as one number on each row.

A stage's rank is its class times 2^40, plus its turn. Publications, plans and questions are a class before all others,
because they take no time and somebody waits for each; then come the priorities. Turns are the start tags of start-time
fair queueing (Goyal, Vin, Cheng: SIGCOMM 1996): a tenant's stage comes one turn after the last one of the same tenant
that waits, but not before the turn that is being served. So five hundred jobs of one tenant and one of another are
begun in the order 1, 1, 2, 3, ...; and whoever claims has only to take the smallest rank, however many wait.
"""

import msgspec
from sqlalchemy import Connection, and_, bindparam, func, select

from common.store.tables import QUEUED, RUNNING, StageRow
from common.vocabulary import Pool, Priority, StageKind

_CLASS = 1 << 40
_AT_ONCE = frozenset({StageKind.PUBLISH, StageKind.PLAN, StageKind.ASK})
_CLASSES = {Priority.HIGH: 1, Priority.NORMAL: 2, Priority.LOW: 3}


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """On whose behalf a stage is wanted, and how much."""

    tenant: str
    priority: Priority


_in_class = and_(
    StageRow.pool == bindparam("pool"), StageRow.rank >= bindparam("low"), StageRow.rank < bindparam("high")
)
_TURNS = select(
    select(func.max(StageRow.rank))
    .where(_in_class, QUEUED, StageRow.tenant == bindparam("tenant"))
    .scalar_subquery()
    .label("own"),
    select(func.max(StageRow.rank)).where(_in_class, RUNNING).scalar_subquery().label("served"),
)


def next_rank(connection: Connection, kind: StageKind, pool: Pool, standing: Standing) -> int:
    """The rank of a stage that is wanted now. Two at one moment may get the same: the older goes first then."""
    low = _CLASS * (0 if kind in _AT_ONCE else _CLASSES[standing.priority])
    asked = {"pool": pool, "tenant": standing.tenant, "low": low, "high": low + _CLASS}
    own, served = connection.execute(_TURNS, asked).one()
    return max(low, low if own is None else own + 1, low if served is None else served)

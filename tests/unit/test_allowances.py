"""Allowances: one question a second for all slots, and a child hears only what is news."""

import time
from pathlib import Path

import pytest

from common.errors import ServiceUnavailable
from common.plugins import Allowance
from common.store.database import Database
from common.store.limits import LimitStore
from worker.allowances import Allowances, Tidings

HUB = "huggingface"


class Table(LimitStore):
    """Limits that stand in no table, and that can be away."""

    def __init__(self, folder: Path) -> None:
        super().__init__(Database(f"sqlite:///{folder / 'unused.db'}"))
        self.says: dict[str, Allowance] = {}
        self.away = False
        self.questions = 0
        self.closed: list[tuple[str, float]] = []

    def allowances(self) -> dict[str, Allowance]:
        self.questions += 1
        self._fail_if_away()
        return self.says

    def close_hub(self, hub: str, wait_s: float, reason: str) -> None:  # noqa: ARG002 - the signature of the real one
        self._fail_if_away()
        self.closed.append((hub, wait_s))

    def _fail_if_away(self) -> None:
        if self.away:
            raise ServiceUnavailable("away")


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(tmp_path)


def test_all_slots_ask_once_a_second(table: Table) -> None:
    table.says = {HUB: Allowance(bytes_per_s=5.0)}
    allowances = Allowances(table)
    for _ in range(100):
        assert allowances.of(HUB).bytes_per_s == 5.0
    assert table.questions == 1
    time.sleep(1.05)
    allowances.of(HUB)
    assert table.questions == 2


def test_the_first_fetch_of_a_hub_does_not_wait_for_the_next_question(table: Table) -> None:
    allowances = Allowances(table)
    assert allowances.of(HUB) == Allowance()
    table.says = {HUB: Allowance(bytes_per_s=5.0)}
    assert allowances.of(HUB).bytes_per_s == 5.0


def test_a_silence_runs_down_between_two_questions(table: Table) -> None:
    table.says = {HUB: Allowance(silent_s=10.0)}
    allowances = Allowances(table)
    allowances.of(HUB)
    time.sleep(0.3)
    assert allowances.of(HUB).silent_s == pytest.approx(9.2, abs=0.55)


def test_what_was_last_said_holds_while_the_database_is_away(table: Table) -> None:
    table.says = {HUB: Allowance(bytes_per_s=5.0)}
    allowances = Allowances(table)
    allowances.of(HUB)
    table.away = True
    time.sleep(1.05)
    assert allowances.of(HUB).bytes_per_s == 5.0
    allowances.close_hub(HUB, 3.0, "busy")
    assert table.closed == []


def test_who_closes_a_hub_asks_anew(table: Table) -> None:
    table.says = {HUB: Allowance()}
    allowances = Allowances(table)
    allowances.of(HUB)
    allowances.close_hub(HUB, 3.0, "busy")
    table.says = {HUB: Allowance(silent_s=3.0)}
    assert allowances.of(HUB).silent_s == pytest.approx(2.5, abs=0.55)
    assert table.closed == [(HUB, 3.0)]


def news(tidings: Tidings, allowances: Allowances) -> Allowance | None:
    time.sleep(tidings.wait_s())
    allowance = tidings.news(allowances, HUB)
    if allowance is not None:
        tidings.told(allowance)
    return allowance


def test_a_child_hears_only_what_is_new(table: Table) -> None:
    allowances, tidings = Allowances(table), Tidings()
    assert news(tidings, allowances) is None, "that everything is allowed is no news"
    table.says = {HUB: Allowance(bytes_per_s=100.0)}
    assert news(tidings, allowances) == Allowance(bytes_per_s=100.0)
    assert news(tidings, allowances) is None
    table.says = {HUB: Allowance(bytes_per_s=100.5)}
    time.sleep(1.05)
    assert news(tidings, allowances) is None, "a rate that is hardly another one is no news"
    table.says = {HUB: Allowance(bytes_per_s=50.0)}
    time.sleep(1.05)
    assert news(tidings, allowances) == Allowance(bytes_per_s=50.0)
    table.says = {}
    time.sleep(1.05)
    assert news(tidings, allowances) == Allowance()


def test_a_silence_is_told_once(table: Table) -> None:
    table.says = {HUB: Allowance(silent_s=2.0)}
    allowances, tidings = Allowances(table), Tidings()
    assert news(tidings, allowances) is not None
    assert news(tidings, allowances) is None


def test_what_could_not_be_sent_is_still_news(table: Table) -> None:
    table.says = {HUB: Allowance(bytes_per_s=5.0)}
    allowances, tidings = Allowances(table), Tidings()
    assert tidings.news(allowances, HUB) is not None
    assert tidings.news(allowances, HUB) is None, "not at once"
    assert news(tidings, allowances) is not None

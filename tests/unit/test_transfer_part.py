"""Parts: what has arrived, and what of it can be believed after a crash."""

import multiprocessing
import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import DiskFull
from worker.transfer.part import Journal, Part, Ranges, claim, held_bytes, part_path, read_journal

KEY = "sha256-abc"

spans = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=12)


@given(spans)
def test_ranges_cover_what_was_added_and_nothing_else(added: list[tuple[int, int]]) -> None:
    ranges = Ranges(added)
    covered = {offset for start, stop in added for offset in range(start, stop)}
    assert {offset for start, stop in ranges for offset in range(start, stop)} == covered
    assert ranges.covered == len(covered)
    missing = {offset for start, stop in ranges.gaps(60) for offset in range(start, stop)}
    assert missing == set(range(60)) - covered
    assert ranges.prefix == min(set(range(61)) - covered)


@given(spans)
def test_ranges_are_disjoint_and_in_order(added: list[tuple[int, int]]) -> None:
    edges = [edge for span in Ranges(added) for edge in span]
    assert edges == sorted(set(edges))


@pytest.fixture
def part(tmp_path: Path) -> Part:
    part = claim(tmp_path, KEY)
    assert part is not None
    part.reserve(100)
    return part


def test_a_part_remembers_its_ranges(part: Part, tmp_path: Path) -> None:
    part.write(memoryview(b"abc"), 10)
    part.save([(10, 13)], 100)
    part.close()
    again = claim(tmp_path, KEY)
    assert again is not None
    assert list(again.recall(100)) == [(10, 13)]
    into = bytearray(3)
    assert again.read(memoryview(into), 10) == 3
    assert bytes(into) == b"abc"
    again.close()


def test_a_part_has_one_owner(part: Part, tmp_path: Path) -> None:
    assert claim(tmp_path, KEY) is None
    part.close()
    again = claim(tmp_path, KEY)
    assert again is not None
    again.close()


def test_a_part_that_was_moved_away_is_made_anew(part: Part, tmp_path: Path) -> None:
    part.save([(0, 100)], 100)
    part.path.rename(tmp_path / "blob")
    part.close()
    again = claim(tmp_path, KEY)
    assert again is not None
    again.reserve(100)
    # The journal speaks of the file that has become a blob: believing it would pass off zeros as content.
    assert again.recall(100).covered == 0
    again.close()


@pytest.mark.parametrize("ranges", [[(5, 3)], [(0, 10), (5, 20)], [(-3, 5)], [(0, 101)], [(20, 30), (0, 10)]], ids=str)
def test_a_journal_that_makes_no_sense_is_not_believed(part: Part, ranges: list[tuple[int, int]]) -> None:
    part.save(ranges, 100)
    assert part.recall(100).covered == 0
    part.close()


def test_a_journal_of_another_size_is_not_believed(part: Part) -> None:
    part.save([(0, 10)], 99)
    assert part.recall(100).covered == 0
    assert part.recall(None).covered == 0
    part.close()


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"ranges": 5}', b"\xff"])
def test_a_torn_journal_is_an_empty_one(tmp_path: Path, text: bytes) -> None:
    part_path(tmp_path, KEY).with_suffix(".json").write_bytes(text)
    assert read_journal(part_path(tmp_path, KEY)) == Journal()


def test_a_part_is_never_made_shorter(part: Part) -> None:
    part.reserve(10)
    assert part.length == 100
    part.close()


def test_a_retired_part_leaves_nothing_or_a_note(part: Part) -> None:
    part.save([(0, 100)], 100)
    part.retire("ab" * 32)
    assert read_journal(part.path).sha256 == "ab" * 32
    part.retire(None)
    assert read_journal(part.path) == Journal()
    part.close()


def test_room_is_reserved_on_the_volume(tmp_path: Path) -> None:
    part = claim(tmp_path, KEY)
    assert part is not None
    assert held_bytes(tmp_path, KEY) == 0
    part.reserve(1 << 20)
    assert held_bytes(tmp_path, KEY) >= 1 << 20
    part.close()


def test_a_full_volume_is_told_from_other_trouble(tmp_path: Path) -> None:
    full = Part(tmp_path / "x.part", os.open("/dev/full", os.O_RDWR))
    with pytest.raises(DiskFull, match="bytes free"):
        full.write(memoryview(b"x"), 0)
    full.close()


def test_a_journal_is_small(part: Part) -> None:
    part.save([(0, 8), (16, 24)], 100)
    inode = part.path.stat().st_ino
    text = part.path.with_suffix(".json").read_bytes()
    assert msgspec.json.decode(text) == {"inode": inode, "size": 100, "ranges": [[0, 8], [16, 24]]}
    part.close()


def test_transfers_that_follow_each_other_over_one_key_spoil_no_journal(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_bring_often, args=(tmp_path,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]


def _bring_often(folder: Path) -> None:
    """What a transfer of a small file does with its part, over and over."""
    for _ in range(400):
        part = claim(folder, KEY)
        if part is not None:
            part.save([(0, 1)], 2)
            part.discard()
            part.retire("a" * 64)
            part.close()

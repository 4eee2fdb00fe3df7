"""The operator's own files that a conversion may read: which ones, and what tells their contents apart."""

from pathlib import Path

import pytest

from common.artefacts.layout import Volume
from common.errors import InvalidParameters
from worker.stages.data import digest_of


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    volume = Volume(tmp_path / "models")
    volume.prepare()
    (volume.root / "texts").mkdir()
    (volume.root / "texts" / "a.txt").write_text("one")
    (tmp_path / "secret.txt").write_text("nobody's business")
    return volume


def test_a_file_and_a_folder_are_named_by_their_content(volume: Volume) -> None:
    file, folder = digest_of(volume, "texts/a.txt"), digest_of(volume, "texts")
    assert (len(file), len(folder)) == (64, 64)
    (volume.root / "texts" / "a.txt").write_text("two")
    assert digest_of(volume, "texts/a.txt") != file
    changed = digest_of(volume, "texts")
    assert changed != folder
    (volume.root / "texts" / "a.txt").rename(volume.root / "texts" / "b.txt")
    assert digest_of(volume, "texts") != changed, "names tell which label or order a sample has"


def test_the_place_does_not_count(volume: Volume) -> None:
    (volume.root / "elsewhere").mkdir()
    (volume.root / "elsewhere" / "a.txt").write_text("one")
    assert digest_of(volume, "elsewhere") == digest_of(volume, "texts")


@pytest.mark.parametrize(
    "path",
    [
        "../secret.txt",
        "/etc/passwd",
        "texts/../../secret.txt",
        ".modelferry",
        ".modelferry/state",
        "nothing",
        "no/such",
    ],
)
def test_what_is_outside_or_not_there_is_refused(volume: Volume, path: str) -> None:
    with pytest.raises(InvalidParameters):
        digest_of(volume, path)


@pytest.mark.parametrize("name", ["link.txt", "texts/link.txt"])
def test_no_link_leads_out(volume: Volume, name: str) -> None:
    (volume.root / name).symlink_to(volume.root.parent / "secret.txt")
    for path in (name, name.rpartition("/")[0] or name):
        with pytest.raises(InvalidParameters):
            digest_of(volume, path)


def test_an_empty_folder_is_no_data(volume: Volume) -> None:
    (volume.root / "empty").mkdir()
    with pytest.raises(InvalidParameters, match="no plain files"):
        digest_of(volume, "empty")

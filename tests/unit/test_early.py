"""Digests that are computed before they are needed."""

import hashlib
import os
from pathlib import Path

from common.artefacts.early import EarlyDigests
from common.artefacts.layout import Volume
from common.artefacts.manifest import ArtefactStore

CONTENT = bytes(range(256)) * 200_000


def test_a_file_that_stays_as_it_was_has_its_digest(tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    file.write_bytes(CONTENT)
    early = EarlyDigests()
    early.begin(file)
    assert early.of(file) == hashlib.sha256(CONTENT).hexdigest()


def test_a_file_that_was_changed_has_none(tmp_path: Path) -> None:
    early = EarlyDigests()
    for name, change in {"longer": b"more", "replaced": None}.items():
        file = tmp_path / name
        file.write_bytes(b"content")
        early.begin(file)
        early.of(file)
        if change is None:
            (tmp_path / "other").write_bytes(b"CONTENT")
            (tmp_path / "other").replace(file)
        else:
            file.write_bytes(b"content" + change)
        assert early.of(file) is None, name


def test_a_rewrite_of_the_same_length_is_a_change(tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    file.write_bytes(b"one")
    early = EarlyDigests()
    early.begin(file)
    early.of(file)
    file.write_bytes(b"two")
    os.utime(file, ns=(0, 0))
    assert early.of(file) is None


def test_an_unknown_or_vanished_file_has_none(tmp_path: Path) -> None:
    early = EarlyDigests()
    file = tmp_path / "model.bin"
    file.write_bytes(b"content")
    assert early.of(file) is None
    early.begin(file)
    early.of(file)
    file.unlink()
    file.write_bytes(b"another")
    assert early.of(file) is None


def test_the_store_takes_a_folder_by_early_digests_and_computes_the_others(tmp_path: Path) -> None:
    store = ArtefactStore(Volume(tmp_path / "models"))
    folder = tmp_path / "output"
    folder.mkdir()
    (folder / "model.bin").write_bytes(CONTENT)
    (folder / "config.json").write_bytes(b"{}")
    early = EarlyDigests()
    early.begin(folder / "model.bin")
    taken = {file.path: file.sha256 for file in store.blobs.take_folder(folder, early.of)}
    assert taken == {
        "model.bin": hashlib.sha256(CONTENT).hexdigest(),
        "config.json": hashlib.sha256(b"{}").hexdigest(),
    }
    for sha256 in taken.values():
        stored = store.blobs.stored(sha256)
        assert stored is not None
        assert hashlib.sha256(stored.read_bytes()).hexdigest() == sha256

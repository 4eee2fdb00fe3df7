"""The models on a volume: found as the disk has them, verified, removed."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from common.artefacts.durable import locked
from common.artefacts.layout import Volume
from common.artefacts.library import Library, LocalModel, model_id
from common.artefacts.locks import folders_lock_of, lock_of
from common.artefacts.manifest import ArtefactStore
from common.artefacts.publish import Index, PublicationPlan, publish, staging_of
from common.artefacts.removal import Removal, remove
from common.artefacts.retire import PLACE, READY, UNLISTED
from common.artefacts.served import INDEX_NAME
from common.artefacts.sweep import sweep
from common.artefacts.verification import Verification, remembered, state_of, verify
from common.errors import JobCancelled, ModelBusy, NoSuchModel
from tests.stored_models import FOLDER, a_plan, a_store, a_stored_artefact, content_of


def nothing() -> None:
    """Nobody objects, and nobody leaves."""


@pytest.fixture
def store(tmp_path: Path) -> ArtefactStore:
    return a_store(tmp_path / "models")


@pytest.fixture
def library(store: ArtefactStore) -> Library:
    return Library(store.volume)


def show(store: ArtefactStore, folder: str = FOLDER, version: int = 1) -> Path:
    plan = a_plan(a_stored_artefact(store, content_of(version), revision=f"c{version}"), folder)
    return publish(store, plan, fence=nothing).path


def dropped(volume: Volume, *paths: str) -> None:
    for path in paths:
        (volume.root / path).parent.mkdir(parents=True, exist_ok=True)
        (volume.root / path).write_bytes(b"12345")


def folders(library: Library) -> list[str]:
    return [model.folder for model in library.models()]


def only(library: Library) -> LocalModel:
    (model,) = library.models()
    return model


def state(library: Library, model: LocalModel) -> str:
    standing = library.standing(model)
    return state_of(standing, remembered(library.volume, model, standing))


class TestFinding:
    def test_a_published_model_is_what_its_manifest_says(self, store: ArtefactStore, library: Library) -> None:
        show(store)
        model = only(library)
        assert (model.folder, model.name, model.hub, model.revision) == (FOLDER, "org/model", "huggingface", "c1")
        assert (model.managed, model.licence, model.format) == (True, "apache-2.0", "transformers")
        assert model.id == model_id(FOLDER)
        standing = library.standing(model)
        assert (standing.bytes, standing.files) == (sum(map(len, content_of(1).values())), 5)
        assert library.model(model.id) == model
        assert library.manifest(model).name == "org/model"

    def test_they_come_in_the_order_of_their_paths(self, store: ArtefactStore, library: Library) -> None:
        wanted = ["a/b", "a-b", "a/c/d", "B", "z"]
        for folder in wanted:
            show(store, folder)
        assert folders(library) == ["B", "a/b", "a/c/d", "a-b", "z"]

    def test_the_list_never_lags_behind_the_disk(self, store: ArtefactStore, library: Library) -> None:
        for version in (1, 2, 1, 2):
            show(store, version=version)
            assert only(library).revision == f"c{version}"
            assert library.model(model_id(FOLDER)).revision == f"c{version}"
        os.utime(store.volume.root / FOLDER / ".modelferry.json", (0, 0))
        assert only(library).revision == "c2"
        (store.volume.root / FOLDER).rename(store.volume.root / "elsewhere")
        assert folders(library) == ["elsewhere"]
        with pytest.raises(NoSuchModel):
            library.model(model_id(FOLDER))
        shutil.rmtree(store.volume.root / "elsewhere")
        assert library.models() == []

    def test_what_was_seen_and_has_settled_is_not_read_again(self, store: ArtefactStore, library: Library) -> None:
        show(store)
        time.sleep(2.1)
        first = only(library)
        assert only(library) is first
        show(store, version=2)
        assert only(library).revision == "c2"

    @pytest.mark.parametrize(
        "files",
        [
            ["model.xml", "model.bin"],
            ["Net.XML", "net.bin"],
            ["a.safetensors"],
            ["a.GGUF"],
            ["a.onnx"],
            ["model_index.json"],
        ],
    )
    def test_a_folder_with_model_files_is_listed_without_a_manifest(self, library: Library, files: list[str]) -> None:
        dropped(library.volume, *(f"by/hand/{name}" for name in files), "by/hand/sub/vocab.txt")
        model = only(library)
        assert (model.folder, model.name, model.managed, model.hub) == ("by/hand", "hand", False, None)
        standing = library.standing(model)
        assert (standing.bytes, standing.files) == (5 * (len(files) + 1), len(files) + 1)
        assert state(library, model) == "unchecked"
        assert library.model(model.id) == model

    def test_what_is_no_model_is_not_listed(self, library: Library) -> None:
        dropped(library.volume, "a/model.xml", "b/model.bin", "c/notes.txt", "d/one.xml", "d/two.bin")
        assert library.models() == []

    def test_dot_folders_and_links_do_not_count(self, library: Library) -> None:
        dropped(library.volume, ".cache/a.gguf", "x/.hidden/a.gguf", "real/a.gguf")
        (library.volume.root / "link").symlink_to("real")
        assert folders(library) == ["real"]

    def test_one_foreign_model_is_one_entry_and_ours_below_it_is_its_own(
        self, store: ArtefactStore, library: Library
    ) -> None:
        dropped(store.volume, "sd/model_index.json", "sd/unet/a.safetensors", "sd/vae/b.safetensors")
        show(store, "sd/ours")
        assert folders(library) == ["sd", "sd/ours"]
        assert library.standing(library.models()[0]).files == 3

    def test_loose_files_in_the_volume_are_a_model_beside_the_others(self, library: Library) -> None:
        dropped(library.volume, "a.onnx", "b/c.onnx")
        assert folders(library) == ["", "b"]
        assert [library.standing(model).files for model in library.models()] == [1, 1]

    def test_a_manifest_that_cannot_be_trusted_makes_no_model_of_ours(
        self, store: ArtefactStore, library: Library
    ) -> None:
        folder = show(store)
        (folder / ".modelferry.json").write_text("{}")
        assert (only(library).managed, only(library).hub) == (False, None)

    def test_deep_folders_are_no_trouble(self, library: Library) -> None:
        root = os.fspath(library.volume.root)
        depths = range(1, 1101)
        for depth in depths:
            Path(root + "/d" * depth).mkdir()
        try:
            assert library.models() == []
        finally:
            for depth in reversed(depths):
                Path(root + "/d" * depth).rmdir()


class TestStanding:
    def test_missing_files_and_wrong_sizes_are_seen_at_once(self, store: ArtefactStore, library: Library) -> None:
        folder = show(store)
        assert state(library, only(library)) == "unchecked"
        (folder / "model.xml").unlink()
        (folder / "config.json").write_text("{}")
        assert state(library, only(library)) == "spoilt"
        problems = library.standing(only(library)).problems
        assert [problem.split(" ")[0] for problem in problems] == ["config.json", "model.xml"]

    def test_a_graph_may_be_edited_but_not_missing(self, store: ArtefactStore, library: Library) -> None:
        folder = show(store)
        (folder / "graph.pbtxt").write_text("cache_size: 10")
        assert library.standing(only(library)).edited == ("graph.pbtxt",)
        assert state(library, only(library)) == "unchecked"
        (folder / "graph.pbtxt").unlink()
        assert state(library, only(library)) == "spoilt"


def checked(library: Library, checkpoint: Callable[[], None] = nothing) -> Verification:
    return verify(library, only(library), checkpoint=checkpoint)


def flip(path: Path) -> None:
    """Change one bit in place, and leave no trace of it in the times, as a disk does."""
    status = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        first = file.read(1)
        file.seek(0)
        file.write(bytes([first[0] ^ 1]))
    path.chmod(0o444)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


class TestVerification:
    def test_a_good_model_is_remembered_as_good(self, store: ArtefactStore, library: Library) -> None:
        folder = show(store)
        found = checked(library)
        assert (found.state, found.checked_files, found.problems) == ("good", 5, ())
        assert found.bytes == sum(map(len, content_of(1).values()))
        assert state(library, only(library)) == "good"
        (folder / "graph.pbtxt").write_text("cache_size: 10")
        assert state(library, only(library)) == "good"
        assert checked(library).edited == ("graph.pbtxt",)
        assert state(library, only(library)) == "good"

    def test_a_replaced_or_changed_model_is_unchecked_again(self, store: ArtefactStore, library: Library) -> None:
        folder = show(store)
        checked(library)
        show(store, version=2)
        assert state(library, only(library)) == "unchecked"
        checked(library)
        os.utime(folder / "config.json")
        assert state(library, only(library)) == "unchecked"

    def test_one_flipped_bit_is_found_and_taken_out_of_the_store(self, store: ArtefactStore, library: Library) -> None:
        folder, twin = show(store), show(store, "twin")
        artefact = library.manifest(library.models()[0]).artefact
        flip(folder / "model.bin")
        model = library.model(model_id(FOLDER))
        assert state(library, model) == "unchecked"
        found = verify(library, model, checkpoint=nothing)
        assert (found.state, found.content_removed) == ("spoilt", 1)
        assert found.problems == ("model.bin has another content than was published",)
        assert state(library, model) == "spoilt"
        # The other model shows the same inode; nobody is given it any more, and it may be fetched anew.
        assert store.load(artefact) is None
        assert verify(library, library.model(model_id("twin")), checkpoint=nothing).content_removed == 0
        a_stored_artefact(store, content_of(1), revision="c1")
        assert show(store).samefile(folder)
        assert state(library, library.model(model_id(FOLDER))) == "unchecked"
        assert verify(library, library.model(model_id(FOLDER)), checkpoint=nothing).state == "good"
        assert not (folder / "model.bin").samefile(twin / "model.bin")
        # What was replaced was ours although it was spoilt: it is not kept, and it goes with its last name.
        assert list(store.volume.replaced.iterdir()) == []
        assert len(list(store.volume.spoilt.iterdir())) == 1
        assert removed(store, "twin").kept is None
        assert list(store.volume.spoilt.iterdir()) == []

    def test_spoilt_content_goes_with_a_model_that_was_deleted_by_hand(
        self, store: ArtefactStore, library: Library
    ) -> None:
        folder = show(store)
        flip(folder / "model.bin")
        assert checked(library).content_removed == 1
        sweep(store.volume, set())
        (spoilt,) = store.volume.spoilt.iterdir()
        shutil.rmtree(folder)
        assert sweep(store.volume, set()) == [spoilt]

    def test_a_spoilt_copy_does_not_cost_the_good_blob(self, store: ArtefactStore, library: Library) -> None:
        folder = show(store)
        artefact = only(library).artefact or ""
        (folder / "config.json").write_bytes(b'{"version": 7}')
        found = checked(library)
        assert (found.state, found.content_removed) == ("spoilt", 0)
        assert store.load(artefact) is not None

    def test_a_blob_that_was_replaced_meanwhile_stays(self, store: ArtefactStore, library: Library) -> None:
        folder = show(store)
        file = next(one for one in library.manifest(only(library)).files if one.path == "model.bin")
        other = (folder / "config.json").stat().st_ino
        assert not store.blobs.condemn(file.sha256, other)
        assert store.blobs.is_blob(folder / "model.bin", file)

    def test_it_ends_when_nobody_waits(self, store: ArtefactStore, library: Library) -> None:
        show(store)

        def left() -> None:
            raise JobCancelled

        with pytest.raises(JobCancelled):
            checked(library, left)
        assert not library.volume.verified.exists()

    def test_a_model_that_changes_under_it_is_not_judged(self, store: ArtefactStore, library: Library) -> None:
        show(store)
        swaps = iter([2])

        def swap() -> None:
            for version in swaps:
                show(store, version=version)

        with pytest.raises(ModelBusy):
            checked(library, swap)
        assert state(library, only(library)) == "unchecked"

        def vanish() -> None:
            shutil.rmtree(store.volume.root / FOLDER, ignore_errors=True)

        with pytest.raises(NoSuchModel):
            checked(library, vanish)

    def test_links_and_devices_are_problems_not_content(self, store: ArtefactStore, library: Library) -> None:
        folder = show(store)
        (folder / "model.xml").unlink()
        (folder / "model.xml").symlink_to("/dev/zero")
        (folder / "config.json").unlink()
        os.mkfifo(folder / "config.json")
        assert len(checked(library).problems) == 2


def removed(store: ArtefactStore, folder: str = FOLDER) -> Removal:
    return remove(store.volume, folder, fence=nothing)


def served(store: ArtefactStore, version: int = 1, folder: str = "openvino_models/cpu/int8") -> Path:
    """A model in a folder with a list."""

    def enter(at: Path) -> None:
        entry = {"config": {"name": "org/model", "base_path": "org/model"}}
        (at / INDEX_NAME).write_text(json.dumps({"model_config_list": [entry]}))

    plan = a_plan(a_stored_artefact(store, content_of(version)), f"{folder}/org/model")
    listed = PublicationPlan(
        artefact=plan.artefact,
        destination=plan.destination,
        description=plan.description,
        index=Index(folder=folder, update=enter),
    )
    return publish(store, listed, fence=nothing).path


def public(volume: Volume) -> list[str]:
    return sorted(path.name for path in volume.root.iterdir() if not path.name.startswith("."))


class TestRemoval:
    def test_nothing_is_left_but_the_cache(self, store: ArtefactStore) -> None:
        show(store, "deep/er/model")
        gone = removed(store, "deep/er/model")
        assert (gone.folder, gone.kept, gone.kept_files) == ("deep/er/model", None, ())
        assert public(store.volume) == []
        assert list(store.volume.work.glob("publish.*")) == []
        assert store.load(gone.manifest.artefact) is not None

    def test_neighbours_stay(self, store: ArtefactStore, library: Library) -> None:
        for folder in ("shelf/one", "shelf/two"):
            show(store, folder)
        removed(store, "shelf/one")
        assert folders(library) == ["shelf/two"]
        assert state(library, only(library)) == "unchecked"
        assert checked(library).state == "good"

    def test_what_is_not_ours_is_kept_and_named(self, store: ArtefactStore) -> None:
        folder = show(store)
        (folder / "graph.pbtxt").write_text("cache_size: 10")
        dropped(store.volume, f"{FOLDER}/notes/mine.txt")
        gone = removed(store)
        assert gone.kept_files == ("graph.pbtxt", "notes/mine.txt")
        assert gone.kept is not None
        assert (store.volume.root / gone.kept / "graph.pbtxt").read_text() == "cache_size: 10"
        assert public(store.volume) == []

    def test_its_entry_leaves_the_list_and_the_list_its_folder(self, store: ArtefactStore) -> None:
        folder = served(store)
        removed(store, folder.relative_to(store.volume.root).as_posix())
        assert public(store.volume) == []

    def test_other_entries_stay(self, store: ArtefactStore) -> None:
        folder = served(store)
        index = folder.parents[1] / INDEX_NAME
        other = {"config": {"name": "other", "base_path": "other"}}
        index.write_text(
            json.dumps({"model_config_list": [*json.loads(index.read_text())["model_config_list"], other]})
        )
        removed(store, folder.relative_to(store.volume.root).as_posix())
        assert json.loads(index.read_text()) == {"model_config_list": [other]}

    def test_a_list_that_is_none_does_not_keep_the_model(self, store: ArtefactStore) -> None:
        folder = served(store)
        (folder.parents[1] / INDEX_NAME).write_text("no json")
        removed(store, folder.relative_to(store.volume.root).as_posix())
        assert not folder.exists()
        assert (folder.parents[1] / INDEX_NAME).read_text() == "no json"

    def test_who_objects_is_heard_and_nothing_happens(self, store: ArtefactStore, library: Library) -> None:
        show(store)

        def objection() -> None:
            raise ModelBusy("no")

        with pytest.raises(ModelBusy):
            remove(store.volume, FOLDER, fence=objection)
        assert checked(library).state == "good"

    def test_not_while_it_is_being_published(self, store: ArtefactStore, library: Library) -> None:
        folder = show(store)
        with locked(lock_of(store.volume, folder)), pytest.raises(ModelBusy):
            removed(store)
        assert checked(library).state == "good"

    @pytest.mark.parametrize("folder", [FOLDER, "../x", "/etc", ".modelferry/state", ""])
    def test_nothing_else_can_be_removed(self, store: ArtefactStore, folder: str) -> None:
        dropped(store.volume, "mine.txt", f"{FOLDER}/mine.txt")
        with pytest.raises(NoSuchModel):
            removed(store, folder)
        assert (store.volume.root / FOLDER / "mine.txt").exists()

    def test_while_others_make_folders_the_empty_ones_stay(self, store: ArtefactStore) -> None:
        show(store, "shelf/model")
        with locked(folders_lock_of(store.volume), shared=True):
            removed(store, "shelf/model")
        assert public(store.volume) == ["shelf"]

    def test_no_folder_goes_while_another_model_moves_in(self, store: ArtefactStore, library: Library) -> None:
        show(store, "shelf/old")
        plan = a_plan(a_stored_artefact(store, content_of(2)), "shelf/new")

        def in_between() -> None:
            removed(store, "shelf/old")

        publish(store, plan, fence=in_between)
        assert folders(library) == ["shelf/new"]

    @pytest.mark.parametrize("finisher", ["sweep", "publish", "remove"])
    def test_what_a_crash_leaves_is_cleared_away(self, store: ArtefactStore, finisher: str) -> None:
        folder = served(store)
        inside = folder.relative_to(store.volume.root).as_posix()
        staging = staging_of(store.volume, folder)
        staging.mkdir()
        (staging / PLACE).write_text(inside)
        (staging / UNLISTED).write_text("org/model")
        folder.rename(staging / READY)
        if finisher == "sweep":
            assert staging in sweep(store.volume, set(), grace_s=-1.0)
        elif finisher == "publish":
            show(store, inside, version=2)
        else:
            with pytest.raises(NoSuchModel):
                removed(store, inside)
        assert not staging.exists()
        assert list(store.volume.replaced.iterdir()) == []
        assert not (folder.parents[1] / INDEX_NAME).exists()
        assert folder.exists() == (finisher == "publish")

    def test_a_crash_before_the_rename_changes_nothing(self, store: ArtefactStore, library: Library) -> None:
        folder = served(store)
        staging = staging_of(store.volume, folder)
        staging.mkdir()
        (staging / PLACE).write_text(folder.relative_to(store.volume.root).as_posix())
        (staging / UNLISTED).write_text("org/model")
        assert staging in sweep(store.volume, set(), grace_s=-1.0)
        assert (folder.parents[1] / INDEX_NAME).exists()
        assert checked(library).state == "good"

"""A reader of a published model sees the old one or the new one, whatever happens to who publishes it."""

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from common.artefacts.durable import locked, write_atomically
from common.artefacts.layout import Volume
from common.artefacts.locks import lock_of
from common.artefacts.manifest import ArtefactStore, PublishedManifest, check_published, find_published, read_published
from common.artefacts.publish import Description, Index, PublicationPlan, publish, staging_of
from common.artefacts.retire import ASIDE, BUILDING, PLACE, READY
from common.artefacts.swap import ExchangeUnsupported, put_in_place
from common.artefacts.sweep import sweep
from common.errors import ContentLost, DiskFull, PublicationRefused, SourceUnsafe
from common.spec import Destination
from tests.stored_models import FOLDER, a_plan, a_store, a_stored_artefact, content_of

ROOT = Path(__file__).parents[2]


class LeaseLost(Exception):
    pass


def hold() -> None:
    """The lease is still ours."""


def lose() -> None:
    raise LeaseLost


@pytest.fixture
def store(tmp_path: Path) -> ArtefactStore:
    return a_store(tmp_path / "models")


def a_version(store: ArtefactStore, version: int, folder: str = FOLDER) -> PublicationPlan:
    return a_plan(a_stored_artefact(store, content_of(version)), folder)


def version_at(folder: Path) -> int:
    """Which version a whole directory holds; every file must agree."""
    assert check_published(folder, rehash=True) == []
    version = int(json.loads((folder / "config.json").read_bytes())["version"])
    for path, content in content_of(version).items():
        assert (folder / path).read_bytes() == content
    return version


def leftovers(volume: Volume) -> list[Path]:
    return [*volume.work.glob("publish.*"), *volume.replaced.iterdir()]


class TestPublication:
    def test_a_model_is_published_with_its_manifest(self, store: ArtefactStore) -> None:
        plan = a_version(store, 1)
        done = publish(store, plan, fence=hold)
        assert done.path == store.volume.root / FOLDER
        assert not done.reused
        assert version_at(done.path) == 1
        manifest = read_published(done.path)
        assert manifest == done.manifest
        assert manifest is not None
        assert manifest.artefact == plan.artefact.id
        assert manifest.licence == "apache-2.0"
        assert [file.path for file in manifest.files] == sorted(content_of(1))
        assert manifest.total_bytes == sum(map(len, content_of(1).values()))
        assert list(find_published(store.volume)) == [(done.path, manifest)]
        assert leftovers(store.volume) == []

    def test_weights_are_links_and_small_text_is_a_copy(self, store: ArtefactStore) -> None:
        plan = a_version(store, 1)
        folder = publish(store, plan, fence=hold).path
        by_path = {file.path: store.blobs.path(file.sha256) for file in plan.artefact.files}
        for path in ("model.bin", "unet/weights.bin", "model.xml"):
            assert (folder / path).samefile(by_path[path])
            assert (folder / path).stat().st_mode & 0o777 == 0o444
        for path in ("config.json", "graph.pbtxt"):
            assert not (folder / path).samefile(by_path[path])
            assert (folder / path).stat().st_mode & 0o777 == 0o664

    def test_the_tree_is_open_to_the_group_whatever_the_umask(self, store: ArtefactStore) -> None:
        plan = a_version(store, 1, "deep/er/model")
        os.chown(store.volume.root, -1, 4242) if os.geteuid() == 0 else None
        store.volume.root.chmod(0o2775)
        old = os.umask(0o077)
        try:
            folder = publish(store, replace(plan, dress=lambda new: (new / "made").mkdir()), fence=hold).path
        finally:
            os.umask(old)
        group = store.volume.root.stat().st_gid
        for path in (folder.parent.parent, folder.parent, folder, folder / "unet", folder / "made"):
            assert path.stat().st_mode & 0o7777 == 0o2775
            assert path.stat().st_gid == group
        assert (folder / "config.json").stat().st_gid == group
        assert not any(path.stat().st_mode & 0o002 for path in folder.rglob("*"))

    def test_the_same_again_touches_nothing(self, store: ArtefactStore) -> None:
        plan = a_version(store, 1)
        first = publish(store, plan, fence=hold)
        before = first.path.stat()
        again = publish(store, plan, fence=hold)
        assert again.reused
        assert again.manifest == first.manifest
        assert first.path.stat() == before
        assert leftovers(store.volume) == []

    def test_another_version_takes_the_place_and_the_old_one_goes(self, store: ArtefactStore) -> None:
        publish(store, a_version(store, 1), fence=hold)
        done = publish(store, a_version(store, 2), fence=hold)
        assert not done.reused
        assert version_at(done.path) == 2
        assert leftovers(store.volume) == []
        assert {store.blobs.path(file.sha256).stat().st_nlink for file in a_version(store, 1).artefact.files} == {1}

    def test_other_serving_options_are_another_publication(self, store: ArtefactStore) -> None:
        plan = a_version(store, 1)
        publish(store, plan, fence=hold)
        other = replace(plan, description=Description(name="org/model", hub="huggingface", serving={"cache_size": 4}))
        assert not publish(store, other, fence=hold).reused
        assert publish(store, other, fence=hold).reused

    @pytest.mark.parametrize("edited", ["config.json", "graph.pbtxt"])
    def test_an_edited_file_is_put_back_and_the_edit_is_kept(self, store: ArtefactStore, edited: str) -> None:
        plan = a_version(store, 1)
        folder = publish(store, plan, fence=hold).path
        (folder / edited).write_text("edited")
        done = publish(store, plan, fence=hold)
        assert not done.reused
        assert version_at(done.path) == 1
        assert done.kept is not None
        assert [path.name for path in done.kept.iterdir()] == [edited]
        assert (done.kept / edited).read_text() == "edited"
        assert done.kept.parent == store.volume.replaced

    @pytest.mark.parametrize("lost", ["model.bin", "config.json", ".modelferry.json"])
    def test_a_lost_file_is_put_back(self, store: ArtefactStore, lost: str) -> None:
        plan = a_version(store, 1)
        folder = publish(store, plan, fence=hold).path
        (folder / lost).unlink()
        assert not publish(store, plan, fence=hold).reused
        assert version_at(folder) == 1

    def test_a_copied_weight_of_the_same_content_is_good_enough(self, store: ArtefactStore) -> None:
        plan = a_version(store, 1)
        weights = publish(store, plan, fence=hold).path / "model.bin"
        content = weights.read_bytes()
        weights.unlink()
        weights.write_bytes(content)
        assert publish(store, plan, fence=hold).reused
        weights.write_bytes(b"x" * len(content))
        assert not publish(store, plan, fence=hold).reused

    def test_files_that_others_put_into_a_model_are_kept(self, store: ArtefactStore) -> None:
        folder = publish(store, a_version(store, 1), fence=hold).path
        (folder / "cache").mkdir()
        (folder / "cache" / "compiled.blob").write_bytes(b"cache")
        assert publish(store, a_version(store, 1), fence=hold).reused
        done = publish(store, a_version(store, 2), fence=hold)
        assert done.kept is not None
        assert (done.kept / "cache" / "compiled.blob").read_bytes() == b"cache"
        assert not (done.kept / "model.bin").exists()

    def test_a_link_inside_a_model_is_never_followed_to_delete(self, store: ArtefactStore, tmp_path: Path) -> None:
        folder = publish(store, a_version(store, 1), fence=hold).path
        elsewhere = tmp_path / "elsewhere"
        (folder / "unet").rename(elsewhere)
        (folder / "unet").symlink_to(elsewhere)
        publish(store, a_version(store, 2), fence=hold)
        assert (elsewhere / "weights.bin").exists()

    def test_a_foreign_directory_is_moved_aside(self, store: ArtefactStore) -> None:
        foreign = store.volume.root / FOLDER
        (foreign / "sub").mkdir(parents=True)
        (foreign / "sub" / "precious.bin").write_bytes(b"precious")
        done = publish(store, a_version(store, 1), fence=hold)
        assert version_at(done.path) == 1
        assert done.kept is not None
        assert done.kept.name.endswith("-org_model")
        assert (done.kept / "sub" / "precious.bin").read_bytes() == b"precious"

    def test_an_empty_directory_is_no_obstacle(self, store: ArtefactStore) -> None:
        (store.volume.root / FOLDER).mkdir(parents=True)
        done = publish(store, a_version(store, 1), fence=hold)
        assert done.kept is None
        assert version_at(done.path) == 1

    def test_the_dress_is_part_of_the_publication(self, store: ArtefactStore) -> None:
        def dress(folder: Path) -> None:
            (folder / "graph.pbtxt").write_text("cache_size: 4")
            (folder / "1").mkdir()
            (folder / "1" / "extra.bin").write_bytes(b"extra")

        plan = replace(a_version(store, 1), dress=dress)
        done = publish(store, plan, fence=hold)
        assert check_published(done.path, rehash=True) == []
        assert "1/extra.bin" in {file.path for file in done.manifest.files}
        assert (done.path / "graph.pbtxt").read_text() == "cache_size: 4"
        assert (done.path / "1" / "extra.bin").stat().st_mode & 0o777 == 0o664
        assert publish(store, plan, fence=hold).reused
        assert not publish(store, replace(plan, dress=None), fence=hold).reused

    @pytest.mark.parametrize("name", [".modelferry.json", "MODEL.BIN"])
    def test_a_dress_with_dangerous_names_is_not_published(self, store: ArtefactStore, name: str) -> None:
        plan = replace(a_version(store, 1), dress=lambda folder: (folder / name).touch())
        with pytest.raises(SourceUnsafe):
            publish(store, plan, fence=hold)
        assert not (store.volume.root / FOLDER).exists()
        assert leftovers(store.volume) == []

    def test_a_lost_lease_leaves_the_old_one(self, store: ArtefactStore) -> None:
        with pytest.raises(LeaseLost):
            publish(store, a_version(store, 1), fence=lose)
        assert not (store.volume.root / FOLDER).exists()
        publish(store, a_version(store, 1), fence=hold)
        with pytest.raises(LeaseLost):
            publish(store, a_version(store, 2), fence=lose)
        assert version_at(store.volume.root / FOLDER) == 1
        assert leftovers(store.volume) == []

    def test_lost_content_is_said(self, store: ArtefactStore) -> None:
        plan = a_version(store, 1)
        store.blobs.path(plan.artefact.files[2].sha256).unlink()
        with pytest.raises(ContentLost):
            publish(store, plan, fence=hold)
        assert leftovers(store.volume) == []

    def test_a_full_volume_is_said(self, store: ArtefactStore) -> None:
        def dress(folder: Path) -> None:
            shutil.copyfile(folder / "model.bin", "/dev/full")

        with pytest.raises(DiskFull):
            publish(store, replace(a_version(store, 1), dress=dress), fence=hold)

    def test_a_publication_shows_its_progress_to_nobody(self, store: ArtefactStore) -> None:
        def fence() -> None:
            assert not (store.volume.root / FOLDER).exists()

        publish(store, a_version(store, 1), fence=fence)


class TestObstacles:
    @pytest.mark.parametrize("in_the_way", ["huggingface/org_model", "huggingface"])
    def test_a_file_in_the_way_is_refused_and_stays(self, store: ArtefactStore, in_the_way: str) -> None:
        file = store.volume.root / in_the_way
        file.parent.mkdir(exist_ok=True)
        file.write_text("precious")
        with pytest.raises(PublicationRefused):
            publish(store, a_version(store, 1), fence=hold)
        assert file.read_text() == "precious"

    @pytest.mark.parametrize("folder", ["", "..", "../outside", "/etc/x", ".modelferry/blobs/x", "a\0b"])
    def test_a_place_outside_is_refused(self, store: ArtefactStore, folder: str) -> None:
        with pytest.raises(PublicationRefused):
            publish(store, a_plan(a_stored_artefact(store), folder), fence=hold)

    def test_a_link_that_leads_out_is_refused(self, store: ArtefactStore, tmp_path: Path) -> None:
        (tmp_path / "outside").mkdir()
        (store.volume.root / "huggingface").symlink_to(tmp_path / "outside")
        with pytest.raises(PublicationRefused):
            publish(store, a_version(store, 1), fence=hold)
        assert list((tmp_path / "outside").iterdir()) == []

    def test_a_link_that_leads_out_at_the_last_moment_is_refused(self, store: ArtefactStore, tmp_path: Path) -> None:
        (tmp_path / "outside").mkdir()

        def fence() -> None:
            (store.volume.root / "huggingface").rmdir()
            (store.volume.root / "huggingface").symlink_to(tmp_path / "outside")

        with pytest.raises(PublicationRefused):
            publish(store, a_version(store, 1), fence=fence)
        assert list((tmp_path / "outside").iterdir()) == []

    def test_a_link_within_is_followed(self, store: ArtefactStore) -> None:
        (store.volume.root / "real").mkdir()
        (store.volume.root / "huggingface").symlink_to("real")
        assert publish(store, a_version(store, 1), fence=hold).path == store.volume.root / "real" / "org_model"

    def test_models_do_not_nest(self, store: ArtefactStore) -> None:
        publish(store, a_version(store, 1, "a/model"), fence=hold)
        for folder in ("a/model/inner", "a"):
            with pytest.raises(PublicationRefused):
                publish(store, a_version(store, 2, folder), fence=hold)
        assert version_at(store.volume.root / "a/model") == 1


class TestIndex:
    def test_the_index_is_updated_after_the_swap_and_after_a_reuse(self, store: ArtefactStore) -> None:
        seen: list[tuple[Path, bool]] = []

        def update(folder: Path) -> None:
            seen.append((folder, (folder / "org/model" / "config.json").exists()))

        place = "openvino_models/cpu/int8"
        plan = replace(
            a_version(store, 1, f"root/{place}/org/model"),
            destination=Destination(root="root", folder=f"{place}/org/model"),
            index=Index(folder=place, update=update),
        )
        publish(store, plan, fence=hold)
        publish(store, plan, fence=hold)
        assert seen == [(store.volume.root / "root" / place, True)] * 2

    def test_many_publications_lose_no_entry(self, store: ArtefactStore) -> None:
        def update(name: str, folder: Path) -> None:
            file = folder / "config_all.json"
            names = json.loads(file.read_bytes()) if file.exists() else []
            time.sleep(0.005)
            write_atomically(file, json.dumps(sorted({*names, name})).encode())

        def publish_one(name: str) -> None:
            index = Index(folder="models", update=lambda folder: update(name, folder))
            publish(store, replace(a_plan(artefact, f"models/{name}"), index=index), fence=hold)

        artefact = a_stored_artefact(store)
        names = [f"m{number:02}" for number in range(8)]
        threads = [threading.Thread(target=publish_one, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert json.loads((store.volume.root / "models/config_all.json").read_bytes()) == names
        assert len(list(find_published(store.volume))) == 8


class TestManifests:
    def test_problems_are_named(self, store: ArtefactStore) -> None:
        folder = publish(store, a_version(store, 1), fence=hold).path
        assert check_published(folder) == check_published(folder, rehash=True) == []
        (folder / "graph.pbtxt").write_text("# VERSION 1\n")
        assert check_published(folder) == []
        assert check_published(folder, rehash=True) == ["graph.pbtxt has another content than was published"]
        (folder / "graph.pbtxt").unlink()
        (folder / "config.json").write_text("")
        (folder / "model.xml").unlink()
        (folder / "model.xml").symlink_to("model.bin")
        problems = check_published(folder)
        assert [problem.split()[0] for problem in problems] == ["config.json", "graph.pbtxt", "model.xml"]
        (folder / ".modelferry.json").unlink()
        assert len(check_published(folder)) == 1

    def test_a_manifest_of_a_later_kind_is_not_ours_to_delete(self, store: ArtefactStore) -> None:
        done = publish(store, a_version(store, 1), fence=hold)
        later = msgspec.json.encode(msgspec.structs.replace(done.manifest, schema=2))
        (done.path / ".modelferry.json").write_bytes(later)
        assert read_published(done.path) is None
        kept = publish(store, a_version(store, 2), fence=hold).kept
        assert kept is not None
        assert (kept / "model.bin").exists()

    def test_unknown_fields_are_passed_over(self, store: ArtefactStore) -> None:
        done = publish(store, a_version(store, 1), fence=hold)
        document = json.loads((done.path / ".modelferry.json").read_bytes()) | {"later": 1}
        (done.path / ".modelferry.json").write_text(json.dumps(document))
        assert read_published(done.path) == done.manifest


@contextmanager
def a_publisher(models_dir: Path, first: int, count: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.integration.publisher", str(models_dir), str(first), str(count), FOLDER]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline().strip() == word


def look(place: Path) -> int | None:
    """Read the whole directory through one handle, as of one moment; None when it was replaced meanwhile."""
    folder = os.open(place, os.O_RDONLY | os.O_DIRECTORY)  # there must always be one
    try:
        manifest = msgspec.json.decode(_read(folder, ".modelferry.json"), type=PublishedManifest)
        content = {file.path: _read(folder, file.path) for file in manifest.files}
        version = int(json.loads(content["config.json"])["version"])
        assert content == content_of(version)
    except FileNotFoundError:
        # Only a directory that has been replaced may lose files.
        assert os.fstat(folder).st_ino != place.stat().st_ino
        return None
    else:
        return version
    finally:
        os.close(folder)


def _read(folder: int, path: str) -> bytes:
    with os.fdopen(os.open(path, os.O_RDONLY, dir_fd=folder), "rb") as file:
        return file.read()


class TestChaos:
    def test_a_watcher_sees_whole_models_only(self, store: ArtefactStore) -> None:
        publish(store, a_version(store, 1), fence=hold)
        place = store.volume.root / FOLDER
        seen: list[int | None] = []
        with a_publisher(store.volume.root, 2, 200) as process:
            while process.poll() is None:
                seen.append(look(place))
            assert process.returncode == 0
        whole = [version for version in seen if version is not None]
        assert {2, 3} <= set(whole)
        assert len(whole) > 200
        assert leftovers(store.volume) == []

    def test_a_killed_publisher_leaves_old_or_new(self, store: ArtefactStore) -> None:
        publish(store, a_version(store, 1), fence=hold)
        place = store.volume.root / FOLDER
        chance = random.Random(7)
        torn = 0
        for _ in range(20):
            with a_publisher(store.volume.root, 2, 0) as process:
                wait_for(process, "ready")
                time.sleep(chance.uniform(0, 0.15))
                process.kill()
                process.wait()
            assert version_at(place) in {1, 2, 3}
            torn += bool(list(store.volume.work.glob("publish.*")))
            publish(store, a_version(store, 1), fence=hold)
            assert version_at(place) == 1
            assert leftovers(store.volume) == []
        assert torn > 0, "no kill hit a publication in the making"

    def test_two_processes_publish_to_one_place(self, store: ArtefactStore) -> None:
        publish(store, a_version(store, 1), fence=hold)
        place = store.volume.root / FOLDER
        with a_publisher(store.volume.root, 2, 25) as one, a_publisher(store.volume.root, 4, 25) as other:
            while one.poll() is None or other.poll() is None:
                look(place)
            assert one.returncode == other.returncode == 0
        assert version_at(place) in {2, 4}
        assert leftovers(store.volume) == []


def refuse_exchange(_new: Path, _parent: int, _name: str) -> None:
    raise ExchangeUnsupported


class TestWithoutExchange:
    def test_the_old_directory_goes_aside(self, tmp_path: Path) -> None:
        for name in ("new", "old"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "file").write_text(name)
        parent = os.open(tmp_path, os.O_RDONLY)
        try:
            put_in_place(tmp_path / "new", parent, "old", tmp_path / "aside", refuse_exchange)
        finally:
            os.close(parent)
        assert (tmp_path / "old" / "file").read_text() == "new"
        assert (tmp_path / "aside" / "file").read_text() == "old"
        assert not (tmp_path / "new").exists()

    def test_an_old_directory_left_aside_is_put_back(self, store: ArtefactStore) -> None:
        place = publish(store, a_version(store, 1), fence=hold).path
        staging = self.interrupted(store, place)
        with pytest.raises(LeaseLost):
            publish(store, a_version(store, 2), fence=lose)
        assert version_at(place) == 1
        assert not staging.exists()

    def test_the_sweep_puts_it_back_too(self, store: ArtefactStore) -> None:
        place = publish(store, a_version(store, 1), fence=hold).path
        staging = self.interrupted(store, place)
        assert staging in sweep(store.volume, set(), now=lambda: datetime.now(UTC) + timedelta(hours=2))
        assert version_at(place) == 1

    def interrupted(self, store: ArtefactStore, place: Path) -> Path:
        """What a process leaves that was killed after the first rename and before the second one."""
        staging = staging_of(store.volume, place)
        staging.mkdir()
        (staging / PLACE).write_text(FOLDER)
        place.rename(staging / ASIDE)
        return staging


class TestSweep:
    later = staticmethod(lambda: datetime.now(UTC) + timedelta(hours=2))

    def leave(self, store: ArtefactStore) -> tuple[Path, Path]:
        """A killed publication over a foreign directory: exchanged, and not yet cleared away."""
        place = publish(store, a_version(store, 1), fence=hold).path
        staging = staging_of(store.volume, place)
        (staging / READY).mkdir(parents=True)
        (staging / READY / "precious").write_text("precious")
        (staging / BUILDING).mkdir()
        (staging / PLACE).write_text(FOLDER)
        return place, staging

    def test_foreign_content_of_a_killed_publication_is_kept(self, store: ArtefactStore) -> None:
        place, staging = self.leave(store)
        assert staging in sweep(store.volume, set(), now=self.later)
        assert version_at(place) == 1
        (kept,) = store.volume.replaced.iterdir()
        assert (kept / "precious").read_text() == "precious"

    def test_a_publication_at_work_is_left_alone(self, store: ArtefactStore) -> None:
        place, staging = self.leave(store)
        with locked(lock_of(store.volume, place)):
            assert staging not in sweep(store.volume, set(), now=self.later)
        assert (staging / READY / "precious").exists()

    def test_an_unknown_leftover_goes(self, store: ArtefactStore) -> None:
        staging = store.volume.workspace("publish.unknown")
        assert staging in sweep(store.volume, set(), now=self.later)

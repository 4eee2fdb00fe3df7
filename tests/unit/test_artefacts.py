"""Content is stored once, and a record is believed only while its content is there."""

import hashlib
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.artefacts.blobs import StoredFile
from common.artefacts.durable import locked, locked_if_free, write_atomically
from common.artefacts.layout import Volume
from common.artefacts.manifest import ArtefactStore, converted_key, find_published, read_published, source_key
from common.artefacts.sweep import sweep
from common.errors import ContentLost, OutputIncomplete, SourceUnsafe
from common.spec import Digest, Manifest, RemoteFile, Source, Target, check_file_path
from common.vocabulary import DigestAlgorithm, Format, ModelType, Precision
from tests.stored_models import a_store, a_stored_artefact

HELLO = hashlib.sha256(b"hello").hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> ArtefactStore:
    return a_store(tmp_path / "models")


def a_file(volume: Volume, data: bytes = b"hello", name: str = "file") -> Path:
    file = volume.workspace("test.1") / name
    file.write_bytes(data)
    return file


class TestBlobs:
    def test_a_taken_file_is_moved_and_read_only(self, store: ArtefactStore) -> None:
        file = a_file(store.volume)
        blob = store.blobs.take(file, HELLO)
        assert blob == store.volume.blobs / HELLO[:2] / HELLO == store.blobs.stored(HELLO, 5)
        assert not file.exists()
        assert blob.read_bytes() == b"hello"
        assert blob.stat().st_mode & 0o777 == 0o444

    def test_taking_is_safe_to_repeat(self, store: ArtefactStore) -> None:
        file = a_file(store.volume)
        blob = store.blobs.take(file, HELLO)
        inode = blob.stat().st_ino
        assert store.blobs.take(file, HELLO) == blob
        assert store.blobs.take(a_file(store.volume), HELLO).stat().st_ino == inode
        assert not file.exists()

    def test_taking_nothing_is_an_error(self, store: ArtefactStore) -> None:
        with pytest.raises(FileNotFoundError):
            store.blobs.take(store.volume.work / "nothing", HELLO)

    def test_a_truncated_blob_is_no_hit_and_is_mended(self, store: ArtefactStore) -> None:
        blob = store.blobs.take(a_file(store.volume), HELLO)
        blob.chmod(0o644)
        blob.write_bytes(b"hel")
        assert store.blobs.stored(HELLO, 5) is None
        store.blobs.take(a_file(store.volume), HELLO)
        assert blob.read_bytes() == b"hello"

    def test_what_is_no_plain_file_is_no_blob(self, store: ArtefactStore, tmp_path: Path) -> None:
        blob = store.blobs.path(HELLO)
        blob.parent.mkdir()
        (tmp_path / "elsewhere").write_bytes(b"hello")
        blob.symlink_to(tmp_path / "elsewhere")
        assert store.blobs.stored(HELLO) is None

    @pytest.mark.parametrize("digest", ["", "../../etc", HELLO.upper(), HELLO[:-1], HELLO + "\n", "g" * 64])
    def test_a_digest_becomes_a_path_only_when_it_is_one(self, store: ArtefactStore, digest: str) -> None:
        with pytest.raises(ValueError, match="sha256"):
            store.blobs.path(digest)

    def test_many_threads_take_one_content(self, store: ArtefactStore) -> None:
        files = [a_file(store.volume, name=f"file{number}") for number in range(8)]
        threads = [threading.Thread(target=store.blobs.take, args=(file, HELLO)) for file in files]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not any(file.exists() for file in files)
        assert store.blobs.path(HELLO).read_bytes() == b"hello"
        assert [path.name for path in store.blobs.path(HELLO).parent.iterdir()] == [HELLO]

    def test_a_link_is_the_blob_itself_and_replaces_what_was_there(self, store: ArtefactStore) -> None:
        blob = store.blobs.take(a_file(store.volume), HELLO)
        at = store.volume.workspace("test.2") / "deep" / "model.bin"
        for _ in range(2):
            assert store.blobs.link(HELLO, at).samefile(blob)
        at.unlink()
        at.write_bytes(b"other")
        assert store.blobs.link(HELLO, at).samefile(blob)
        assert list(at.parent.iterdir()) == [at]

    @pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system")
    def test_another_file_system_gets_a_copy_and_gives_one(self, store: ArtefactStore) -> None:
        folder = Path("/dev/shm") / f"modelferry-test-{os.getpid()}"
        folder.mkdir()
        try:
            file = folder / "from"
            file.write_bytes(b"hello")
            blob = store.blobs.take(file, HELLO)
            assert blob.read_bytes() == b"hello"
            assert not file.exists()
            at = store.blobs.link(HELLO, folder / "to")
            assert at.read_bytes() == b"hello"
            assert not at.samefile(blob)
            assert at.stat().st_mode & 0o777 == 0o444
        finally:
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()

    def test_missing_content_is_lost(self, store: ArtefactStore) -> None:
        with pytest.raises(ContentLost):
            store.blobs.link(HELLO, store.volume.work / "x")

    def test_a_folder_is_taken_whole(self, store: ArtefactStore) -> None:
        folder = store.volume.workspace("test.3") / "out"
        (folder / "sub").mkdir(parents=True)
        (folder / "b.bin").write_bytes(b"hello")
        (folder / "sub" / "a.json").write_bytes(b"{}")
        files = store.blobs.take_folder(folder)
        assert [file.path for file in files] == ["b.bin", "sub/a.json"]
        assert files[0] == StoredFile(path="b.bin", size=5, sha256=HELLO)
        again = store.volume.workspace("test.4")
        store.blobs.lay_out(files, again)
        assert (again / "b.bin").samefile(store.blobs.path(HELLO))
        assert (again / "sub/a.json").stat().st_mode & 0o777 == 0o664
        assert not (again / "sub/a.json").samefile(store.blobs.path(files[1].sha256))

    @pytest.mark.parametrize(("name", "refusal"), [("link", OutputIncomplete), (".modelferry.json", SourceUnsafe)])
    def test_a_folder_with_something_odd_is_not_taken(
        self, store: ArtefactStore, name: str, refusal: type[Exception]
    ) -> None:
        folder = store.volume.workspace("test.5")
        (folder / "a.bin").write_bytes(b"hello")
        if name == "link":
            (folder / name).symlink_to("/etc/passwd")
        else:
            (folder / name).touch()
        with pytest.raises(refusal):
            store.blobs.take_folder(folder)
        assert (folder / "a.bin").exists()


class TestRecords:
    def test_a_record_is_read_back(self, store: ArtefactStore) -> None:
        artefact = a_stored_artefact(store)
        assert store.load(artefact.id) == artefact
        assert store.load("source-" + "0" * 32) is None

    def test_a_record_without_its_content_is_no_hit(self, store: ArtefactStore) -> None:
        artefact = a_stored_artefact(store)
        store.blobs.path(artefact.files[0].sha256).unlink()
        assert store.load(artefact.id) is None
        assert store.load(artefact.id, complete=False) == artefact
        with pytest.raises(ContentLost):
            store.save(artefact)

    @pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
    def test_a_broken_record_is_none(self, store: ArtefactStore, text: bytes) -> None:
        artefact = a_stored_artefact(store)
        (store.volume.artefacts / f"{artefact.id}.json").write_bytes(text)
        assert store.load(artefact.id) is None

    @pytest.mark.parametrize("path", ["../x", "/etc/x", "a\\b", "model.bin/x", "MODEL.BIN", ".modelferry/x"])
    def test_a_hostile_record_is_none(self, store: ArtefactStore, path: str) -> None:
        artefact = a_stored_artefact(store)
        evil = msgspec.structs.replace(artefact.files[0], path=path)
        hostile = msgspec.structs.replace(artefact, files=(*artefact.files, evil))
        (store.volume.artefacts / f"{artefact.id}.json").write_bytes(msgspec.json.encode(hostile))
        assert store.load(artefact.id) is None
        with pytest.raises(SourceUnsafe):
            store.save(hostile)

    def test_a_record_of_another_id_is_none(self, store: ArtefactStore) -> None:
        artefact = a_stored_artefact(store)
        other = "source-" + "1" * 32
        (store.volume.artefacts / f"{other}.json").write_bytes(msgspec.json.encode(artefact))
        assert store.load(other) is None

    @pytest.mark.parametrize("artefact_id", ["", "../x", "a/b", "a.b", "ü"])
    def test_an_id_becomes_a_path_only_when_it_is_one(self, store: ArtefactStore, artefact_id: str) -> None:
        with pytest.raises(ValueError, match="id"):
            store.load(artefact_id)

    @settings(max_examples=200)
    @given(st.lists(st.sampled_from([".", "..", "", "a", "B", ".cache"]) | st.text(max_size=5), max_size=5))
    def test_no_file_of_an_artefact_leaves_its_folder(self, parts: list[str]) -> None:
        path = "/".join(parts)
        try:
            check_file_path(path)
        except SourceUnsafe:
            return
        folder = Path("/models/here")
        joined = Path(os.path.normpath(folder / path))
        assert joined.is_relative_to(folder)
        assert joined != folder


class TestKeys:
    def manifest(self, **changes: object) -> Manifest:
        files = (
            RemoteFile(path="a", size=1, digest=Digest(algorithm=DigestAlgorithm.SHA256, value=HELLO), url="x"),
            RemoteFile(path="b", size=2, digest=None, url="y"),
        )
        plain = Manifest(
            source=Source(hub="huggingface", name="org/model", revision="main"),
            revision="c0ffee",
            format=Format.TRANSFORMERS,
            files=files,
        )
        return msgspec.structs.replace(plain, **changes)

    def test_equal_content_has_one_key(self) -> None:
        plain = self.manifest()
        other_way = self.manifest(
            files=tuple(msgspec.structs.replace(file, url="mirror") for file in reversed(plain.files)),
            source=Source(hub="huggingface", name="org/model", revision="c0ffee"),
            licence="mit",
        )
        assert source_key(plain) == source_key(other_way)
        assert source_key(plain).startswith("source-")
        assert len(source_key(plain)) == len("source-") + 32

    def test_whatever_decides_the_content_changes_the_key(self) -> None:
        plain = self.manifest()
        others = [
            self.manifest(revision="other"),
            self.manifest(source=Source(hub="other", name="org/model")),
            self.manifest(source=Source(hub="huggingface", name="org/other")),
            self.manifest(files=plain.files[:1]),
            self.manifest(files=(plain.files[0], msgspec.structs.replace(plain.files[1], size=3))),
            self.manifest(files=(msgspec.structs.replace(plain.files[0], path="c"), plain.files[1])),
        ]
        assert len({source_key(manifest) for manifest in (plain, *others)}) == 7

    def test_a_conversion_is_keyed_by_input_target_recipe_and_tools(self) -> None:
        target = Target(format=Format.OPENVINO, model_type=ModelType.LLM, precision=Precision.INT8, device="CPU")
        plain = converted_key("source-1", target, {"a": 1, "b": 2}, {"nncf": "3"})
        assert plain == converted_key("source-1", target, {"b": 2, "a": 1}, {"nncf": "3"})
        others = {
            converted_key("source-2", target, {"a": 1, "b": 2}, {"nncf": "3"}),
            converted_key("source-1", msgspec.structs.replace(target, device="GPU"), {"a": 1, "b": 2}, {"nncf": "3"}),
            converted_key("source-1", target, {"a": 1}, {"nncf": "3"}),
            converted_key("source-1", target, {"a": 1, "b": 2}, {"nncf": "4"}),
        }
        assert len(others - {plain}) == 4


class TestDurable:
    def test_an_atomic_write_replaces_and_leaves_nothing_beside(self, tmp_path: Path) -> None:
        file = tmp_path / "config_all.json"
        write_atomically(file, b"one")
        write_atomically(file, b"two")
        assert file.read_bytes() == b"two"
        assert file.stat().st_mode & 0o777 == 0o664
        assert list(tmp_path.iterdir()) == [file]

    def test_a_failed_write_leaves_the_old_content(self, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        with pytest.raises(IsADirectoryError):
            write_atomically(tmp_path / "folder", b"x")
        assert [path.name for path in tmp_path.iterdir()] == ["folder"]

    def test_a_lock_is_held_against_other_threads(self, tmp_path: Path) -> None:
        lock = tmp_path / "lock"
        with locked(lock), locked_if_free(lock) as free:
            assert not free
        with locked_if_free(lock) as free:
            assert free


class TestSweep:
    later = staticmethod(lambda: datetime.now(UTC) + timedelta(hours=2))

    def test_only_dead_workspaces_go(self, store: ArtefactStore) -> None:
        live = store.volume.workspace("live.1")
        dead = store.volume.workspace("dead.1")
        (dead / "sub").mkdir()
        (dead / "sub" / "file").touch(0o444)
        assert sweep(store.volume, {"live.1"}, now=self.later) == [dead]
        assert live.is_dir()
        assert not dead.exists()

    def test_a_workspace_of_this_hour_may_have_begun_after_the_look(self, store: ArtefactStore) -> None:
        young = store.volume.workspace("young.1")
        assert sweep(store.volume, set()) == []
        assert young.is_dir()

    def test_old_parts_go(self, store: ArtefactStore) -> None:
        (store.volume.parts / "young.part").touch()
        old = store.volume.parts / "old.part"
        old.touch()
        os.utime(old, (0, 0))
        assert sweep(store.volume, set()) == [old]

    def test_parts_that_nothing_can_go_on_with_go_after_a_day(self, store: ArtefactStore) -> None:
        names = ("once-0123.part", "sha256-0123.part")
        for name in names:
            (store.volume.parts / name).touch()
        assert sweep(store.volume, set(), now=self.later) == []
        tomorrow = datetime.now(UTC) + timedelta(days=1, hours=1)
        assert sweep(store.volume, set(), now=lambda: tomorrow) == [store.volume.parts / names[0]]

    def test_a_link_in_the_workspaces_is_removed_and_not_followed(self, store: ArtefactStore, tmp_path: Path) -> None:
        (tmp_path / "precious").mkdir()
        (store.volume.work / "x.1").symlink_to(tmp_path / "precious")
        sweep(store.volume, set(), now=self.later)
        assert (tmp_path / "precious").is_dir()
        assert not (store.volume.work / "x.1").is_symlink()


def test_a_manifest_that_is_no_plain_file_is_none(store: ArtefactStore) -> None:
    folder = store.volume.root / "model"
    folder.mkdir()
    assert read_published(folder) is None
    os.mkfifo(folder / ".modelferry.json")
    assert read_published(folder) is None
    assert list(find_published(store.volume)) == []

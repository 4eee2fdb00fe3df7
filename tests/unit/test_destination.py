"""A client may name any place below MODELS_DIR, and no other."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.artefacts.layout import Volume
from common.errors import DestinationInvalid, DestinationOutside

OUTSIDE = "Requested model destination must remain under MODELS_DIR."
INVALID = "Requested model destination is not a valid path under MODELS_DIR."


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    models = tmp_path / "models"
    models.mkdir()
    (models / "inside").mkdir()
    (models / "a.file").touch()
    (tmp_path / "outside").mkdir()
    (models / "way_out").symlink_to(tmp_path / "outside")
    (models / "way_in").symlink_to("inside")
    (models / "dangling_out").symlink_to(tmp_path / "nowhere")
    (models / "loop").symlink_to("loop")
    (models / "ring_a").symlink_to("ring_b")
    (models / "ring_b").symlink_to("ring_a")
    (models / ".modelferry").mkdir()
    (models / "to_private").symlink_to(".modelferry")
    return Volume(models)


@pytest.mark.parametrize(
    ("asked", "root"),
    [
        ("", ""),
        (".", ""),
        ("./", ""),
        ("x", "x"),
        ("x/", "x"),
        ("x//y/./z", "x/y/z"),
        ("Mixed/Case", "Mixed/Case"),
        ("nested/../x", "x"),
        ("way_in/x", "inside/x"),
        ("way_in/../x", "x"),
        ("...", "..."),
        ("a b/ü", "a b/ü"),
        ("deep/.modelferry", "deep/.modelferry"),
    ],
)
def test_a_place_inside_is_normalised(volume: Volume, asked: str, root: str) -> None:
    before = sorted(os.walk(volume.root))
    assert volume.destination(asked) == root
    assert sorted(os.walk(volume.root)) == before


def test_an_absolute_path_inside_is_taken(volume: Volume) -> None:
    assert volume.destination(f"{volume.root}/x/y") == "x/y"
    assert volume.destination(str(volume.root)) == ""


def test_models_dir_may_itself_be_a_link(volume: Volume, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(volume.root)
    linked = Volume(tmp_path / "link")
    assert linked.root == volume.root
    assert linked.destination(f"{tmp_path}/link/x") == linked.destination(f"{volume.root}/x") == "x"


def test_models_dir_need_not_exist_yet(tmp_path: Path) -> None:
    assert Volume(tmp_path / "later").destination("a/../b") == "b"
    assert not (tmp_path / "later").exists()


@pytest.mark.parametrize(
    "asked",
    [
        "..", "../x", "a/../../x", "/etc/x", "/", "way_out", "way_out/x", "way_out/../models_", "dangling_out/x",
        ".modelferry", ".modelferry/blobs", "x/../.modelferry/work", "to_private/x", ".ModelFerry/x",
        "../models_evil/x",
    ],
)  # fmt: skip
def test_a_place_outside_is_refused(volume: Volume, asked: str) -> None:
    with pytest.raises(DestinationOutside) as refused:
        volume.destination(asked)
    assert str(refused.value) == OUTSIDE


@pytest.mark.parametrize(
    "asked",
    [
        "x\0y", "\0", "line\nbreak", "\udcff", "loop", "loop/x", "loop/../way_out/x", "ring_a/x", "a.file",
        "a.file/x", "a.file/../x", "n" * 256, "missing/" + "n" * 256, "d/" * 600, "d/" * 5000, "ü" * 128,
    ],
)  # fmt: skip
def test_what_can_be_no_directory_is_refused(volume: Volume, asked: str) -> None:
    with pytest.raises(DestinationInvalid) as refused:
        volume.destination(asked)
    assert str(refused.value) == INVALID


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "..",
                ".",
                "",
                "x",
                "way_out",
                "way_in",
                "loop",
                "ring_a",
                "dangling_out",
                "to_private",
                "a.file",
                "inside",
            ]
        )
        | st.text(max_size=6),
        max_size=7,
    ),
    st.sampled_from(["", "/", "//"]),
)
def test_no_destination_is_outside(tmp_path_factory: pytest.TempPathFactory, parts: list[str], front: str) -> None:
    volume = _shared_volume(tmp_path_factory)
    asked = front + "/".join(parts)
    try:
        root = volume.destination(asked)
    except (DestinationOutside, DestinationInvalid):
        return
    place = volume.root / root
    assert place.is_relative_to(volume.root)
    assert not place.is_relative_to(volume.private)
    assert Path(os.path.realpath(place)) == place
    assert ".." not in root.split("/")
    assert volume.destination(root) == root


def test_a_published_place_is_checked_again_when_it_is_used(volume: Volume, tmp_path: Path) -> None:
    assert volume.published("root", "huggingface/model") == volume.root / "root/huggingface/model"
    (volume.root / "root").symlink_to(tmp_path / "outside")
    with pytest.raises(DestinationOutside):
        volume.published("root", "huggingface/model")


@pytest.mark.parametrize(
    ("root", "folder", "refusal"),
    [
        ("", "", DestinationInvalid),
        ("", "../x", DestinationOutside),
        ("", "/etc/x", DestinationOutside),
        ("../x", "y", DestinationOutside),
        ("a", "../y", DestinationOutside),
        ("a", "", DestinationInvalid),
        ("", ".modelferry/blobs", DestinationOutside),
        ("", "a.file/model", DestinationInvalid),
        ("", "a\0b", DestinationInvalid),
    ],
)
def test_a_published_place_is_a_directory_of_its_own(
    volume: Volume, root: str, folder: str, refusal: type[Exception]
) -> None:
    with pytest.raises(refusal):
        volume.published(root, folder)


def test_the_private_folders_are_open_to_the_group_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        volume = Volume(tmp_path / "new" / "models")
        volume.prepare()
        volume.prepare()
        volume.workspace("stage.1")
    finally:
        os.umask(old)
    for folder in (volume.root, volume.blobs, volume.work / "stage.1", volume.state):
        assert folder.stat().st_mode & 0o777 == 0o775


@pytest.mark.parametrize("name", ["", "x", "../x.1", "a/b.1", ".1", "a.", "publish.1/../x"])
def test_a_workspace_has_a_plain_name(volume: Volume, name: str) -> None:
    with pytest.raises(ValueError, match="workspace"):
        volume.workspace(name)


def _shared_volume(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    """One volume for all examples of a property: `destination` creates nothing in it."""
    models = tmp_path_factory.getbasetemp() / "property" / "models"
    if not models.exists():
        models.mkdir(parents=True)
        (models / "inside").mkdir()
        (models / "a.file").touch()
        (models / "way_out").symlink_to("../..")
        (models / "way_in").symlink_to("inside")
        (models / "dangling_out").symlink_to("../nowhere")
        (models / "loop").symlink_to("loop")
        (models / "ring_a").symlink_to("ring_b/x")
        (models / "ring_b").symlink_to("ring_a")
        (models / "to_private").symlink_to(".modelferry")
    return Volume(models)

"""Seals: what is closed can be opened by those who share the key, under its own name, and by nobody else."""

import base64
import multiprocessing
import stat
from pathlib import Path

import pytest

from common.credentials import credentials_for
from common.errors import CredentialsLost, InvalidSpec, ServiceUnavailable
from common.planning import Wish
from common.plugins import ConfigKey, HubPlugin
from common.seals import Credentials, Seal, blot_out
from common.settings import Settings, SettingsError, read_settings
from common.spec import Spec
from common.vocabulary import Format

KEY = bytes(range(32))
TOKEN = "hf_abcdefghijklmnopqrstuvwxyz"
GIVEN = Credentials(settings={"HOST": "geti.example"}, secrets={"TOKEN": TOKEN})


def made(folder: Path) -> bytes:
    return Seal(None, folder).close("a", GIVEN)


def test_what_is_sealed_can_be_opened_by_whoever_has_the_key(tmp_path: Path) -> None:
    sealed = Seal(KEY, tmp_path).close("a", GIVEN)
    assert TOKEN.encode() not in sealed
    assert Seal(KEY, tmp_path).open("a", sealed) == GIVEN
    assert list(tmp_path.iterdir()) == [], "the operator's key is enough"


def test_no_two_seals_are_equal(tmp_path: Path) -> None:
    assert Seal(KEY, tmp_path).close("a", GIVEN) != Seal(KEY, tmp_path).close("a", GIVEN)


@pytest.mark.parametrize("harm", ["name", "key", "bit", "form", "cut", "gone"])
def test_anything_else_opens_nothing(tmp_path: Path, harm: str) -> None:
    sealed = Seal(KEY, tmp_path).close("a", GIVEN)
    harmed: bytes | None = {
        "bit": sealed[:-1] + bytes([sealed[-1] ^ 1]),
        "form": b"\x02" + sealed[1:],
        "cut": sealed[:9],
        "gone": None,
    }.get(harm, sealed)
    seal = Seal(KEY[::-1] if harm == "key" else KEY, tmp_path)
    with pytest.raises(CredentialsLost) as lost:
        seal.open("b" if harm == "name" else "a", harmed)
    assert lost.value.code == "credentials_lost"
    assert lost.value.advice
    assert TOKEN not in str(lost.value)


def test_a_note_is_read_for_its_purpose_alone(tmp_path: Path) -> None:
    seal = Seal(KEY, tmp_path)
    note = seal.note("a", b"words")
    assert b"words" not in note
    assert Seal(KEY, tmp_path).noted("a", note) == b"words"
    for other in (note[:-1], note[1:], note[:5], b"", b"\x01" + note[1:], note[:-1] + bytes([note[-1] ^ 1])):
        assert seal.noted("a", other) is None
    assert seal.noted("b", note) is None
    assert Seal(KEY[::-1], tmp_path).noted("a", note) is None
    assert seal.noted("a", seal.close("a", GIVEN)) is None, "credentials are no note"
    with pytest.raises(CredentialsLost):
        seal.open("a", note)


def test_a_note_needs_a_key(tmp_path: Path) -> None:
    (tmp_path / "seal.key").write_bytes(b"short")
    with pytest.raises(ServiceUnavailable):
        Seal(None, tmp_path).note("a", b"words")
    with pytest.raises(ServiceUnavailable):
        Seal(None, tmp_path).noted("a", b"\x02" + bytes(40))


def test_a_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    sealed = made(folder)
    file = folder / "seal.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.read_bytes()
    assert len(before) == 32
    assert Seal(None, folder).open("a", sealed) == GIVEN
    assert file.read_bytes() == before
    assert {path.name for path in folder.iterdir()} == {"seal.key", "seal.key.lock"}


def test_processes_that_race_for_the_key_all_have_the_same(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as processes:
        boxes = processes.map(made, [tmp_path / "state"] * 24)
    assert all(Seal(None, tmp_path / "state").open("a", box) == GIVEN for box in boxes)


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 33])
def test_a_file_that_is_no_key_seals_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "seal.key").write_bytes(content)
    with pytest.raises(ServiceUnavailable):
        made(tmp_path)
    with pytest.raises(CredentialsLost):
        Seal(None, tmp_path).open("a", b"\x01" + bytes(60))


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(KEY)
    (tmp_path / "seal.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ServiceUnavailable):
        made(tmp_path)


def test_the_operators_key_is_checked_at_the_start() -> None:
    fine = base64.b64encode(KEY).decode()
    assert read_settings({"MODELFERRY_SECRET_KEY": fine}).secret_key == fine
    for wrong in ("short", base64.b64encode(b"x" * 31).decode(), "x" * 44):
        with pytest.raises(SettingsError, match="MODELFERRY_SECRET_KEY must be 32 bytes in base64") as refused:
            read_settings({"MODELFERRY_SECRET_KEY": wrong})
        assert wrong not in str(refused.value)


def test_all_processes_of_one_service_share_a_seal(tmp_path: Path) -> None:
    settings = Settings(models_dir=tmp_path)
    assert Seal.of(settings).open("a", Seal.of(settings).close("a", GIVEN)) == GIVEN
    other = Settings(models_dir=tmp_path, secret_key=base64.b64encode(KEY).decode())
    assert Seal(KEY, tmp_path).open("a", Seal.of(other).close("a", GIVEN)) == GIVEN


def test_nothing_that_holds_credentials_shows_them() -> None:
    wish = Wish(name="m", hub="h", root="", credentials={"TOKEN": TOKEN})
    assert TOKEN not in f"{wish!r} {wish} {GIVEN!r} {GIVEN}"


def test_a_credential_is_blotted_out_of_any_text() -> None:
    assert blot_out(f"no {TOKEN}, not {TOKEN}", [TOKEN, "no"]) == "no ***, not ***"


# What a request may bring


class _NoOptions(Spec, frozen=True):
    pass


HUB = HubPlugin(
    name="place",
    description="A place.",
    options=_NoOptions,
    formats=frozenset({Format.ARCHIVE}),
    implementation="nowhere:Nothing",
    settings=frozenset({"HOST", "ALLOWED"}),
    secrets=frozenset({"TOKEN"}),
    config_keys=(
        ConfigKey(name="HOST", description="Where.", sensitive=False, group="g"),
        ConfigKey(name="TOKEN", description="Who.", group="g"),
        ConfigKey(name="ALLOWED", description="What.", sensitive=False, narrows=True),
    ),
)


def test_each_value_goes_where_the_hub_looks_for_it() -> None:
    given = credentials_for(HUB, {"HOST": "a", "TOKEN": "b", "ALLOWED": "c"})
    assert given == Credentials(settings={"HOST": "a", "REQUESTED_ALLOWED": "c"}, secrets={"TOKEN": "b"})
    assert not credentials_for(HUB, {})


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"X": "v"}, "Unknown override key 'X' for hub 'place'. Allowed keys: ALLOWED, HOST, TOKEN."),
        ({"HOST": "v"}, "When overriding 'place' credentials, 'TOKEN' must also be provided in the request."),
        ({"TOKEN": "v"}, "When overriding 'place' credentials, 'HOST' must also be provided in the request."),
        ({"ALLOWED": "v" * 8193}, "longer than 8192 characters"),
        ({"ALLOWED": "a\nb"}, "control character"),
        ({"ALLOWED": "a\x00"}, "control character"),
        ({"HOST": "h", "TOKEN": "é"}, "holds a control character"),
        ({"ALLOWED": ""}, "is empty"),
    ],
)
def test_case_72_what_cannot_be_brought(given: dict[str, str], told: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        credentials_for(HUB, given)
    assert told in str(refused.value)


def test_case_72_the_longest_value_is_taken() -> None:
    assert credentials_for(HUB, {"ALLOWED": "v" * 8192})

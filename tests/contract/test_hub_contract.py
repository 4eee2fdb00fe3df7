"""What every hub plugin promises, whoever wrote it: the same tests for ours and for a third party's.

    HUB_PLACES=my_tests.places:my_place python -m pytest tests/contract/test_hub_contract.py

tries the hub of `my_place` instead of ours; see tests/contract/places.py and docs/plugins.md.
"""

import hashlib
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.catalog.registry import Catalog
from common.errors import InvalidSpec, JobCancelled, StageError, TokenInvalid
from common.planning import Wish, plan
from common.plugins import Access, GuardedHub, HubPlugin, ListingHub, ListPage, ListQuery
from common.spec import JobSpec, check_distinct, check_file_path
from common.vocabulary import ModelType
from tests.contract.places import MODEL, SECRET, Place, factories, place_of
from tests.fakes.attempt import LocalAttempt
from tests.fakes.errand import Errand

__all__ = ["MODEL", "SECRET", "Place", "contents"]

ROOT = Path(__file__).parents[2]
NOT_A_SECRET = "a-token-that-nobody-knows"
A_WHILE = settings(max_examples=60, deadline=None, database=None)
REVISIONS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_./+@-]{0,99}", fullmatch=True)

HOSTILE_NAMES = [
    "", " ", ".", "..", "../x", "x/..", "x/../y", "x/../../y", "..x", "x..y/..", "./x", "/", "/etc/passwd", "//x", "x/", "x//y",
    "x/./y", "~/x/..", "\\", "..\\x", "x\\y", "x\\..\\y", "C:\\x", "x\0", "x\0/../y", "x\ny", "x\r", "\tx", "x\x1b[2J",
    "x\x7f", "x\x85y", "-", "-x", "--upload-pack=x", ".x", ".git", ".modelferry", "x" * 300, "x/" + "y" * 300, "x/" * 400 + "x",
    "x\u2215y", "x\u2044y", "x\uff0fy", "x\u29f8y", "x\u2571y", "x\uff3cy", "x\u2216y", "\uff0e\uff0e/x", "\u2024\u2024/x",
    "x\u200by", "x\u202ey", "x\ufeff", "\ud800", "x,../y", "x,x/../../y", "file:///etc/passwd", "x?y=../z/..",
]  # fmt: skip
HOSTILE_REVISIONS = [
    "",
    "..",
    "../x",
    "x/../y",
    "x/",
    "/x",
    "\\x",
    "x\\y",
    "x\0",
    "x\n",
    "-x",
    ".x",
    " ",
    "x" * 300,
    "x\u2215y",
]


@pytest.fixture(params=factories())
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    folder = tmp_path / "place"
    folder.mkdir()
    with place_of(request.param, folder) as place:
        yield place


@pytest.fixture
def attempt(tmp_path: Path) -> LocalAttempt:
    return LocalAttempt(tmp_path / "attempt")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names_of(place: Place) -> st.SearchStrategy[str]:
    """Names as the hub's descriptor admits them."""
    return st.from_regex(re.compile(place.plugin.name_pattern, re.ASCII), fullmatch=True)


def planner(place: Place) -> Callable[..., JobSpec]:
    """Says what a download through this hub comes to, by name and revision. Raises InvalidSpec."""
    catalog = Catalog.installed(f"all,{place.plugin.name}")
    model_type = cast("ModelType | None", place.raw.get("model_type"))
    config = {key: value for key, value in place.raw.items() if key != "model_type"}

    def planned(name: str = place.name, revision: str | None = None) -> JobSpec:
        hub = place.plugin.name
        wish = Wish(name=name, hub=hub, root="root", revision=revision, config=config, model_type=model_type)
        return plan(wish, catalog)

    return planned


def is_refused(planned: Callable[..., JobSpec], name: str, revision: str | None = None) -> bool:
    try:
        planned(name, revision)
    except InvalidSpec:
        return True
    return False


class TestTheDescriptor:
    def test_it_is_whole(self, place: Place) -> None:
        plugin = place.plugin
        assert isinstance(plugin, HubPlugin)
        assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", plugin.name)
        assert plugin.description.endswith(".")
        assert plugin.formats
        assert issubclass(plugin.options, msgspec.Struct)
        assert place.hub is not place.hub

    def test_options_that_make_no_sense_are_refused(self, place: Place) -> None:
        fields = place.plugin.options.__struct_fields__
        for name in fields:
            with pytest.raises(InvalidSpec):
                place.plugin.bind({name: object()})
        if "extra" in fields:
            assert place.plugin.bind({"made_up": 1}).extra == {"made_up": 1}
        else:
            with pytest.raises(InvalidSpec):
                place.plugin.bind({"made_up": 1})
        assert place.plugin.bind(msgspec.to_builtins(place.plugin.bind({}))) == place.plugin.bind({})

    def test_what_a_request_may_bring_is_what_the_hub_reads(self, place: Place) -> None:
        plugin = place.plugin
        for key in plugin.config_keys:
            assert key.description.endswith(".")
            assert key.name in plugin.settings | plugin.secrets
            assert key.sensitive == (key.name in plugin.secrets)
        assert not plugin.settings & plugin.secrets
        assert plugin.secrets or not plugin.checks_credentials


class TestNames:
    def test_hostile_names_are_refused_before_there_is_a_job(self, place: Place) -> None:
        planned = planner(place)
        assert planned().source.name == place.name
        assert [name for name in HOSTILE_NAMES if not is_refused(planned, name)] == []

    def test_hostile_revisions_are_refused_before_there_is_a_job(self, place: Place) -> None:
        planned = planner(place)
        assert [text for text in HOSTILE_REVISIONS if not is_refused(planned, place.name, text)] == []

    def test_a_list_of_names_has_no_gaps_and_no_repeats(self, place: Place) -> None:
        planned, one = planner(place), place.name
        assert not planned().parted
        if place.plugin.several is not None:
            assert planned(f"{one},{one}2").parted
            lists = (f"{one},", f",{one}", f"{one},,{one}2", f"{one},{one}", ",", f"{one},../x", f"{one}, {one}2")
            assert [names for names in lists if not is_refused(planned, names)] == []

    def test_every_name_has_a_folder_inside_that_of_the_hub(self, place: Place) -> None:
        planned = planner(place)
        home = planned().destination.folder.split("/")[0]

        @A_WHILE
        @given(name=names_of(place), revision=st.none() | REVISIONS)
        def holds(name: str, revision: str | None) -> None:
            try:
                spec = planned(name, revision)
            except InvalidSpec:
                return  # one that no file system takes
            for folder in (spec.destination.folder, spec.shelf):
                assert check_file_path(folder) == folder
                first, *rest = folder.split("/")
                assert first == home
                assert not any(part.startswith((".", "-")) for part in (first, *rest))
            assert spec.destination.root == "root"

        holds()

    def test_no_model_lies_inside_another(self, place: Place) -> None:
        names, planned = names_of(place), planner(place)

        @A_WHILE
        @given(one=names, other=names, joined=st.sampled_from(["{1}", "{0}/{1}", "{1}/{0}", "{0}_{1}", "{0}:{1}"]))
        def holds(one: str, other: str, joined: str) -> None:
            pair = (one, joined.format(one, other))
            try:
                folders = [f"{planned(name).destination.folder}/" for name in pair]
            except InvalidSpec:
                return
            if folders[0] != folders[1] and not any(map(place.plugin.names_several, pair)):
                assert not folders[0].startswith(folders[1])
                assert not folders[1].startswith(folders[0])

        holds()


class TestResolve:
    def test_it_pins_a_revision_and_is_pure(self, place: Place, tmp_path: Path) -> None:
        before = contents(tmp_path)
        first, second = place.resolve(), place.resolve()
        assert first == second
        assert first.revision
        assert first.source == place.source()
        assert first.files
        check_distinct([check_file_path(file.path) for file in first.files])
        assert contents(tmp_path) == before

    def test_it_survives_the_way_to_the_table_and_back(self, place: Place) -> None:
        manifest = place.resolve()
        assert msgspec.json.decode(msgspec.json.encode(manifest), type=type(manifest)) == manifest

    def test_what_it_promises_is_what_is_fetched(self, place: Place, attempt: LocalAttempt) -> None:
        manifest = place.resolve()
        fetched = place.fetch(manifest, attempt)
        sizes = {file.path: file.size for file in manifest.files if file.size is not None}
        assert all(len(fetched[path]) == size for path, size in sizes.items() if path in fetched)
        if manifest.total_bytes is not None and fetched.keys() == sizes.keys():
            assert manifest.total_bytes == sum(map(len, fetched.values()))

    def test_a_missing_source_is_refused_for_good(self, place: Place) -> None:
        for name in ("org/nowhere", "nowhere"):
            with pytest.raises(StageError) as told:
                place.resolve(name)
            assert told.value.code in {"source_not_found", "source_private_or_missing", "invalid_parameters"}
            assert str(told.value)


class TestFetch:
    def test_twice_leaves_the_same_bytes_in_the_workspace_only(self, place: Place, tmp_path: Path) -> None:
        attempt = LocalAttempt(tmp_path / "attempt")
        elsewhere = set(tmp_path.rglob("*"))
        for _ in range(2):
            assert place.fetch(place.resolve(), attempt) == place.model
        written = {path for path in set(tmp_path.rglob("*")) - elsewhere if not path.is_relative_to(attempt.root)}
        assert written == set()
        assert attempt.reports

    def test_one_that_is_cancelled_stops_and_a_later_one_completes(self, place: Place, attempt: LocalAttempt) -> None:
        manifest = place.resolve()
        attempt.cancelled.set()
        with pytest.raises(JobCancelled):
            place.fetch(manifest, attempt)
        assert not place.model.keys() <= contents(attempt.workspace).keys()
        attempt.cancelled.clear()
        assert place.fetch(manifest, attempt) == place.model

    def test_one_that_is_killed_is_taken_up_by_the_next(self, place: Place, tmp_path: Path) -> None:
        """Whatever step it dies at, nothing that it leaves is in the way."""
        attempt = LocalAttempt(tmp_path / "attempt")
        for step in (1, 2, 4, 7):
            with Visit(place, tmp_path, f"workspace-{step}", dies_at=step) as visit:
                assert visit.wait() in {-signal.SIGKILL, 0}
                assert visit.was_killed or step > 1, "not even one step was made known to the attempt"
        assert place.fetch(place.resolve(), attempt) == place.model
        assert_good(attempt.root)

    def test_two_at_once_leave_one_good_copy(self, place: Place, tmp_path: Path) -> None:
        visits = [Visit(place, tmp_path, workspace, together=2) for workspace in ("first", "second")]
        with visits[0], visits[1]:
            for visit in visits:
                assert visit.wait() == 0, visit.told
                assert visit.fetched == place.model
        assert_good(tmp_path / "attempt")
        # Neither a home directory nor the one that a process happens to be started in is a place for anything.
        assert contents(tmp_path / "home") == {}


class TestSecrets:
    def test_none_is_in_a_log_or_in_what_is_kept(
        self, place: Place, attempt: LocalAttempt, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        hub, manifest = place.hub, place.resolve()
        place.fetch(manifest, attempt)
        kept = msgspec.json.encode([manifest, attempt.reports]).decode()
        for secret in place.access.secrets.values():
            assert secret not in caplog.text
            assert secret not in repr(hub)
            assert secret not in repr(place.access)
            assert secret not in kept
            assert not any(secret in path.name for path in attempt.root.rglob("*"))
        assert not any("@" in file.url.partition("://")[2].partition("/")[0] for file in manifest.files)

    def test_a_wrong_one_is_refused_and_not_repeated(
        self, place: Place, attempt: LocalAttempt, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        manifest = place.resolve()
        wrong = with_secrets(place, dict.fromkeys(place.access.secrets, NOT_A_SECRET))
        refusals: list[StageError] = []
        for ask in (wrong.resolve, lambda: wrong.fetch(manifest, attempt)):
            try:
                ask()  # A hub may let anyone have what is for all.
            except StageError as error:
                refusals.append(error)
        for error in refusals:
            assert NOT_A_SECRET not in f"{error!r} {error.__cause__!r} {error.advice}"
        assert NOT_A_SECRET not in caplog.text

    def test_they_can_be_checked(self, place: Place) -> None:
        if not place.plugin.checks_credentials:
            pytest.skip("this hub checks no credentials")
        assert place.access.secrets, "the place of such a hub has credentials that are right"
        cast("GuardedHub", place.hub).check_credentials()
        wrong = with_secrets(place, dict.fromkeys(place.access.secrets, NOT_A_SECRET))
        with pytest.raises(TokenInvalid) as told:
            cast("GuardedHub", wrong.hub).check_credentials()
        assert NOT_A_SECRET not in f"{told.value!r} {told.value.advice}"


class TestListing:
    def test_pages_have_no_gaps_and_no_repeats(self, place: Place) -> None:
        everything = listed(place, limit=1000)
        assert not everything.has_more
        names = [item.name for item in everything.items]
        assert names
        for limit in (1, 2, 7):
            pages = paged(place, limit, most=len(names))
            assert [item.name for page in pages for item in page.items] == names
            assert {page.total for page in pages} <= {len(names), None}

    def test_what_is_listed_can_be_asked_for(self, place: Place) -> None:
        planned = planner(place)
        for item in listed(place, limit=1000).items:
            assert planned(item.name).source.name == item.name


class Visit:
    """A process in which the hub fetches the model into the store below `folder`."""

    def __init__(
        self, place: Place, folder: Path, workspace: str, *, dies_at: int | None = None, together: int = 1
    ) -> None:
        root, home = folder / "attempt", folder / "home"
        home.mkdir(exist_ok=True)
        errand = Errand(
            hub=place.plugin.name,
            source=place.source(),
            access=place.access,
            raw=place.raw,
            root=str(root),
            workspace=workspace,
            dies_at=dies_at,
            together=together,
        )
        self.told = ""
        self._workspace = root / workspace
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.errand"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=home,
            env={**os.environ, "HOME": str(home), "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
        )
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(errand))
        self._process.stdin.close()
        self._process.stdin = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        told, complaint = self._process.communicate(timeout=60)
        self.told = told.decode() + complaint.decode()
        if self._process.returncode == 0:
            self._paths = msgspec.json.decode(told, type=list[str])
        return self._process.returncode

    @property
    def was_killed(self) -> bool:
        return self._process.returncode == -signal.SIGKILL

    @property
    def fetched(self) -> dict[str, bytes]:
        return {path: (self._workspace / path).read_bytes() for path in self._paths}


def assert_good(root: Path) -> None:
    """Whatever has come into the content store is what its name says."""
    for blob in (root / "blobs").iterdir():
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name


def with_secrets(place: Place, secrets: dict[str, str]) -> Place:
    access: Access = msgspec.structs.replace(place.access, secrets=secrets)
    return Place(place.plugin, access, place.raw, place.model, place.name)


def listed(place: Place, limit: int, offset: int = 0) -> ListPage:
    if place.plugin.listing_filters is None:
        pytest.skip("this hub has no list")
    return cast("ListingHub", place.hub).list(ListQuery(limit=limit, offset=offset))


def paged(place: Place, limit: int, most: int) -> list[ListPage]:
    """The pages, one after the other; no more of them than there can be."""
    pages = [listed(place, limit)]
    while pages[-1].has_more and len(pages) * limit < most:
        assert len(pages[-1].items) == limit
        pages.append(listed(place, limit, len(pages) * limit))
    assert not pages[-1].has_more
    return pages

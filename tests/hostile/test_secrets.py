"""Tokens: shown to their own origin alone, and in nothing that is said, logged or kept, whatever a hub answers."""

import logging
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from common.errors import StageError
from common.plugins import Access, ListQuery
from common.seals import Credentials
from tests.contract.places import Place
from tests.fakes.attempt import LocalAttempt
from tests.fakes.faults import Fault, FaultKind, SetHeader
from tests.fakes.huggingface import FakeHuggingFace
from tests.hostile.doors import DOORS, LIMITS, TOKEN, check_words
from tests.hostile.raw import Play, RawServer, Visit
from worker.messages import StageRequest
from worker.net import Credential, HubClient

GUARDED = ("huggingface", "openvino", "geti")
"""Hubs that are shown a token."""
STATUSES = (200, 206, 302, 400, 401, 403, 404, 409, 418, 422, 429, 451, 500, 503)
HEADERS = (
    "X-Error-Message",
    "X-Error-Code",
    "X-HF-Warning",
    "WWW-Authenticate",
    "Retry-After",
    "X-Request-Id",
    "ETag",
    "Link",
    "Content-Type",
    "X-Repo-Commit",
)
"""Those that a client reads, or shows."""


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No test's log has the token, at any level."""
    caplog.set_level(logging.DEBUG)
    yield
    assert TOKEN not in caplog.text


def echo(status: int, header: str | None) -> Play:
    """Answers with the token that it was shown: in a header, or in every word of a document."""

    def play(visit: Visit) -> None:
        token = (visit.header("Authorization") or visit.header("x-api-key") or "none").removeprefix("Bearer ")
        words = f'{{"error":"{token}","message":"{token}","detail":"{token}","id":"{token}","sha":"{token}"}}'.encode()
        extra = [f'{header}: topic; <http://x/?token={token}>; rel="next" {token}'] if header else []
        visit.send(f"HTTP/1.1 {status} {token}", *extra, f"Content-Length: {len(words)}", body=words)

    return play


def asks(place: Place, folder: Path) -> list[Callable[[], object]]:
    """All that a hub can be asked."""
    hub = place.hub
    attempt = LocalAttempt(folder, LIMITS)
    found: list[Callable[[], object]] = [place.resolve]
    if place.plugin.listing_filters is not None:
        found.append(lambda: hub.list(ListQuery()))  # type: ignore[attr-defined]
    if place.plugin.checks_credentials:
        found.append(lambda: hub.check_credentials())  # type: ignore[attr-defined]  # noqa: PLW0108
    found.append(lambda: place.fetch(place.resolve(), attempt))
    return found


def assert_silent(error: StageError) -> None:
    check_words(error)
    told = "".join(traceback.format_exception(error))
    assert TOKEN not in told
    seen: BaseException | None = error
    while seen is not None:
        assert TOKEN not in f"{seen!r} {seen} {seen.args}"
        seen = seen.__cause__


@pytest.mark.parametrize("header", [None, *HEADERS], ids=str)
@pytest.mark.parametrize("hub", GUARDED)
def test_a_hub_that_repeats_the_token_brings_it_nowhere(hub: str, header: str | None, tmp_path: Path) -> None:
    for status in STATUSES:
        with RawServer(echo(status, header)) as server:
            place = DOORS[hub].place(server.own_url, tmp_path / "place")
            for number, ask in enumerate(asks(place, tmp_path / f"{status}")):
                server.requests.clear()
                try:
                    said = ask()
                except StageError as error:
                    assert_silent(error)
                else:
                    assert TOKEN not in repr(said), (status, number)
                assert server.requests, (status, number)
            assert any(TOKEN.encode() in visit.head for visit in server.requests) or hub != "geti"
    assert not any(TOKEN in path.name for path in tmp_path.rglob("*"))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("hub", GUARDED)
def test_no_redirect_takes_the_token_along(hub: str, status: int, tmp_path: Path) -> None:
    """To another port, to another name, and with a login in the address."""
    with RawServer(lambda visit: visit.send("HTTP/1.1 200 OK", "Content-Length: 2", body=b"{}")) as thief:
        for host in ("127.0.0.1", "localhost", f"{TOKEN}:{TOKEN}@127.0.0.1", "127.0.0.1."):
            location = f"http://{host}:{thief.port}/x?token=none"

            def play(visit: Visit, to: str = location) -> None:
                visit.send(f"HTTP/1.1 {status} Go", f"Location: {to}", "Content-Length: 0")

            with RawServer(play) as server:
                place = DOORS[hub].place(server.own_url, tmp_path / "place")
                for ask in asks(place, tmp_path / "attempt"):
                    try:
                        ask()
                    except StageError as error:
                        assert_silent(error)
                assert all(TOKEN.encode() in visit.head for visit in server.requests)
        assert thief.requests
        for visit in thief.requests:
            assert TOKEN.encode() not in visit.head
            assert visit.header("Authorization") is None
            assert visit.header("x-api-key") is None
            assert visit.header("Cookie") is None
            assert visit.header("Referer") is None


def test_no_cookie_is_kept(tmp_path: Path) -> None:
    """What a hub wants to see again could be seen by another."""

    def play(visit: Visit) -> None:
        visit.send("HTTP/1.1 404 No", f"Set-Cookie: token={TOKEN}; Domain=127.0.0.1", "Content-Length: 0")

    with RawServer(play) as server:
        place = DOORS["huggingface"].place(server.own_url, tmp_path / "place")
        for ask in asks(place, tmp_path / "attempt") * 2:
            with pytest.raises(StageError):
                ask()
        assert not any(visit.header("Cookie") for visit in server.requests)


@pytest.mark.parametrize(("hub", "setting"), [("geti", "GETI_HOST"), ("huggingface", "HF_ENDPOINT")])
def test_the_operators_token_stays_with_the_operators_server(hub: str, setting: str, tmp_path: Path) -> None:
    """Where the request has named the server, and not the token."""
    with RawServer(echo(404, None)) as server:
        place = DOORS[hub].place(server.own_url, tmp_path / "place")
        access = msgspec.structs.replace(place.access, given=frozenset({setting}))
        foreign = Place(place.plugin, access, place.raw, name=place.name)
        with pytest.raises(StageError) as told:
            foreign.resolve()
        assert_silent(told.value)
        # A server that only a request names may not be on this machine either.
        assert server.requests == []


def test_nothing_shows_a_token_by_its_repr() -> None:
    credential = Credential.bearer("http://127.0.0.1:1", TOKEN)
    access = Access(secrets={"HF_TOKEN": TOKEN}, settings={"HF_ENDPOINT": f"http://u:{TOKEN}@x"})
    with HubClient("http://127.0.0.1:1", credential=credential) as client:
        for one in (credential, access, client, Credentials(secrets={"HF_TOKEN": TOKEN})):
            assert TOKEN not in f"{one!r} {one}"
    for door in GUARDED:
        place = DOORS[door].place("http://127.0.0.1:1", Path("/nowhere"))
        assert TOKEN not in f"{place.hub!r} {place.hub} {place.plugin!r}"
    assert "secrets" in StageRequest.__struct_fields__


class TestWhatIsKept:
    """A real download with a token, of a hub that repeats it in the headers of every file."""

    @pytest.fixture
    def fake(self) -> Iterator[FakeHuggingFace]:
        with FakeHuggingFace() as fake:
            fake.tokens[TOKEN] = {"org/model"}
            fake.add_repo("org/model", {"config.json": b"{}", "model.safetensors": bytes(5000)}, private=True)
            yield fake

    @pytest.mark.parametrize(
        "kind", [SetHeader("ETag", f'"{TOKEN}"'), SetHeader("X-HF-Warning", f"topic; {TOKEN}")], ids=["etag", "warning"]
    )
    def test_no_file_holds_the_token(self, fake: FakeHuggingFace, kind: FaultKind, tmp_path: Path) -> None:
        fake.add_fault(Fault(kind=kind))
        access = Access(settings={"HF_ENDPOINT": fake.endpoint}, secrets={"HF_TOKEN": TOKEN})
        place = Place(DOORS["huggingface"].place(fake.endpoint, tmp_path).plugin, access, {})
        attempt = LocalAttempt(tmp_path / "attempt", LIMITS)
        manifest = place.resolve()
        place.fetch(manifest, attempt)
        assert TOKEN not in msgspec.json.encode([manifest, attempt.reports]).decode()
        for path in tmp_path.rglob("*"):
            assert TOKEN not in path.name
            assert not path.is_file() or TOKEN.encode() not in path.read_bytes()
        assert not fake.requests.matching(origin="cdn") or not any(
            request.had_authorization for request in fake.requests.matching(origin="cdn")
        )

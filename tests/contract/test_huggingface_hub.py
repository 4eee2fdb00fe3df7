"""The Hugging Face adapter against a hub that speaks the real protocol, and lies where it can."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from common.catalog.huggingface import HUGGINGFACE, OPENVINO, HuggingFaceOptions
from common.errors import (
    HubUnavailable,
    NotConverted,
    NothingToFetch,
    RateLimited,
    RevisionNotFound,
    SourceDisabled,
    SourceGated,
    SourceNotFound,
    SourcePrivateOrMissing,
    SourceUnsafe,
    StageError,
    TokenInvalid,
)
from common.plugins import Access, Hub, TransferLimits
from common.spec import Manifest, Source
from common.vocabulary import DigestAlgorithm, Format
from tests.fakes.attempt import LocalAttempt
from tests.fakes.faults import (
    Drop,
    Fault,
    FaultKind,
    Gzip,
    RedirectLoop,
    RedirectTo,
    RewriteJson,
    SetHeader,
    Status,
    rate_limited,
)
from tests.fakes.hf_documents import lying_listing
from tests.fakes.hf_repository import Content
from tests.fakes.huggingface import FakeHuggingFace
from tests.fakes.traffic import Match
from worker.hubs.huggingface import HuggingFaceHub

REPO = "org/model"
FILES: dict[str, Content] = {
    "README.md": b"---\nlicense: apache-2.0\n---\n# A model\n",
    "config.json": b'{"model_type": "llama"}',
    "tokenizer/vocab.txt": b"a\nb\n",
    "model.safetensors": bytes(range(256)) * 9000,
    "pytorch_model.bin": b"the same weights as a pickle",
    "gen \u00e9.json": b"{}",
    "a#b?c.json": b"[]",
}
CHOSEN = {path for path in FILES if path != "pytorch_model.bin"}
TOKEN = "hf_0123456789abcdef"


@pytest.fixture
def fake() -> Iterator[FakeHuggingFace]:
    with FakeHuggingFace() as fake:
        fake.add_repo(REPO, FILES)
        fake.tokens[TOKEN] = {"org/gated", "org/private"}
        fake.tokens["hf_stranger"] = set()
        yield fake


def hub_at(fake: FakeHuggingFace, token: str | None = None) -> Hub[HuggingFaceOptions]:
    secrets = {} if token is None else {"HF_TOKEN": token}
    return HUGGINGFACE.load(Access(settings={"HF_ENDPOINT": fake.endpoint + "/"}, secrets=secrets))


def resolve(
    fake: FakeHuggingFace,
    name: str = REPO,
    *,
    revision: str | None = None,
    token: str | None = None,
) -> Manifest:
    source = Source(hub="huggingface", name=name, revision=revision)
    return hub_at(fake, token).resolve(source, HuggingFaceOptions())


class TestResolving:
    def test_a_source_is_pinned_and_listed_with_digests(self, fake: FakeHuggingFace) -> None:
        manifest = resolve(fake)
        commit = fake.repo(REPO).head
        assert manifest.revision == commit.sha
        assert manifest.licence == "apache-2.0"
        assert manifest.format is Format.TRANSFORMERS
        assert {file.path for file in manifest.files} == CHOSEN
        for file in manifest.files:
            blob = commit.files[file.path]
            assert file.size == blob.size
            assert file.digest is not None
            large = file.digest.algorithm is DigestAlgorithm.SHA256
            assert file.digest.value == (blob.sha256 if large else blob.git_oid)
            assert large == (file.path == "model.safetensors")

    def test_resolving_moves_no_files_and_asks_no_more_than_it_must(self, fake: FakeHuggingFace) -> None:
        resolve(fake)
        asked = [request.path.removeprefix("/api/models/org/model") for request in fake.requests]
        assert asked[0] == ""
        assert set(asked[1:]) == {f"/tree/{fake.repo(REPO).sha}"}

    @pytest.mark.parametrize("revision", ["main", "dev/x", "v1", "refs/pr/1"])
    def test_a_revision_may_be_anything_that_git_knows(self, fake: FakeHuggingFace, revision: str) -> None:
        fake.commit(REPO, {"config.json": b"{}"}, branch="dev/x")
        fake.commit(REPO, {"config.json": b"[]"}, branch="refs/pr/1")
        fake.repo(REPO).tag("v1")
        commit = fake.repo(REPO).find(revision)
        assert commit is not None
        assert resolve(fake, revision=revision).revision == commit.sha

    def test_a_commit_made_meanwhile_changes_nothing(self, fake: FakeHuggingFace, tmp_path: Path) -> None:
        manifest = resolve(fake)
        fake.commit(REPO, {"config.json": b"changed"})
        hub_at(fake).fetch(manifest, HuggingFaceOptions(), LocalAttempt(tmp_path, TransferLimits(spare_bytes=0)))
        assert (tmp_path / "workspace" / "config.json").read_bytes() == FILES["config.json"]

    def test_a_renamed_repository_is_found(self, fake: FakeHuggingFace, tmp_path: Path) -> None:
        fake.rename(REPO, "new/name")
        manifest = resolve(fake)
        assert manifest.source.name == REPO
        assert all("/new/name/resolve/" in file.url for file in manifest.files)
        hub_at(fake).fetch(manifest, HuggingFaceOptions(), LocalAttempt(tmp_path, TransferLimits(spare_bytes=0)))

    def test_a_pre_converted_model_is_told_from_others(self, fake: FakeHuggingFace) -> None:
        fake.add_repo("org/ir", {"openvino_model.xml": b"<net/>", "openvino_model.bin": b"w", "config.json": b"{}"})
        assert resolve(fake, "org/ir").format is Format.OPENVINO
        door = OPENVINO.load(Access(settings={"HF_ENDPOINT": fake.endpoint}))
        manifest = door.resolve(Source(hub="huggingface", name="org/ir"), OPENVINO.bind(OPENVINO.preset))
        assert {file.path for file in manifest.files} == {"openvino_model.xml", "openvino_model.bin", "config.json"}
        with pytest.raises(NotConverted):
            door.resolve(Source(hub="huggingface", name=REPO), OPENVINO.bind(OPENVINO.preset))

    def test_a_library_setting_sends_nobody_elsewhere(self, fake: FakeHuggingFace) -> None:
        resolve(fake)
        assert fake.requests.count("/api/agent-harnesses") == 0


class TestFetching:
    def test_every_chosen_file_is_brought(self, fake: FakeHuggingFace, tmp_path: Path) -> None:
        attempt = LocalAttempt(tmp_path, TransferLimits(spare_bytes=0))
        hub_at(fake).fetch(resolve(fake), HuggingFaceOptions(), attempt)
        for path in CHOSEN:
            assert (attempt.workspace / path).read_bytes() == FILES[path]

    def test_a_second_fetch_leaves_the_same_bytes_and_asks_nothing(self, fake: FakeHuggingFace, tmp_path: Path) -> None:
        attempt = LocalAttempt(tmp_path, TransferLimits(spare_bytes=0))
        manifest = resolve(fake)
        hub_at(fake).fetch(manifest, HuggingFaceOptions(), attempt)
        fake.requests.clear()
        hub_at(fake).fetch(manifest, HuggingFaceOptions(), attempt)
        assert len(fake.requests) == 0
        assert {path.name for path in attempt.workspace.iterdir()} == {path.partition("/")[0] for path in CHOSEN}

    def test_a_gated_model_is_brought_with_a_token_that_the_cdn_never_sees(
        self, fake: FakeHuggingFace, tmp_path: Path
    ) -> None:
        fake.add_repo("org/gated", FILES, gated="manual")
        manifest = resolve(fake, "org/gated", token=TOKEN)
        attempt = LocalAttempt(tmp_path, TransferLimits(spare_bytes=0))
        hub_at(fake, TOKEN).fetch(manifest, HuggingFaceOptions(), attempt)
        assert all(request.had_authorization for request in fake.requests.matching(origin="hub"))
        assert not any(request.had_authorization for request in fake.requests.matching(origin="cdn"))
        assert fake.requests.count(origin="cdn") > 0

    def test_a_model_that_is_gated_meanwhile_is_refused_as_such(self, fake: FakeHuggingFace, tmp_path: Path) -> None:
        manifest = resolve(fake)
        fake.repo(REPO).gated = "auto"
        with pytest.raises(SourceGated, match="gated"):
            hub_at(fake).fetch(manifest, HuggingFaceOptions(), LocalAttempt(tmp_path, TransferLimits(spare_bytes=0)))


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "token", "error"),
        [
            ("org/missing", None, SourcePrivateOrMissing),
            ("org/missing", TOKEN, SourceNotFound),
            ("org/private", None, SourcePrivateOrMissing),
            ("org/private", "hf_stranger", SourceNotFound),
            ("org/gated", None, SourceGated),
            ("org/gated", "hf_stranger", SourceGated),
            ("org/disabled", None, SourceDisabled),
            (REPO, "hf_unknown", TokenInvalid),
            ("org/gated", "hf_unknown", TokenInvalid),
            ("no--good", None, SourceNotFound),
            ("datasets/org/x", None, SourceNotFound),
        ],
    )
    def test_each_has_its_own_error(
        self, fake: FakeHuggingFace, name: str, token: str | None, error: type[StageError]
    ) -> None:
        fake.add_repo("org/private", FILES, private=True)
        fake.add_repo("org/gated", FILES, gated="auto")
        fake.add_repo("org/disabled", FILES, disabled=True)
        with pytest.raises(error) as caught:
            resolve(fake, name, token=token)
        assert caught.type is error
        assert "hf_" not in str(caught.value)

    def test_a_private_model_opens_with_its_token(self, fake: FakeHuggingFace) -> None:
        fake.add_repo("org/private", FILES, private=True)
        assert resolve(fake, "org/private", token=TOKEN).files

    def test_a_gated_model_says_what_to_do(self, fake: FakeHuggingFace) -> None:
        fake.add_repo("org/gated", FILES, gated="auto")
        with pytest.raises(SourceGated, match=r"org/gated.*gated.*HF_TOKEN"):
            resolve(fake, "org/gated")

    def test_a_missing_revision_has_its_own_error(self, fake: FakeHuggingFace) -> None:
        with pytest.raises(RevisionNotFound):
            resolve(fake, revision="nowhere")

    def test_an_empty_repository_holds_nothing(self, fake: FakeHuggingFace) -> None:
        fake.add_repo("org/empty", {})
        with pytest.raises(NothingToFetch):
            resolve(fake, "org/empty")

    def test_a_mirror_that_sends_no_codes_is_understood(self, fake: FakeHuggingFace) -> None:
        fake.add_fault(Fault(kind=Status(401, message="Invalid username or password."), match=Match("/api/models/*")))
        with pytest.raises(SourcePrivateOrMissing):
            resolve(fake)

    def test_a_mirror_that_cannot_check_access_is_believed(self, fake: FakeHuggingFace) -> None:
        fake.add_repo("org/gated", FILES, gated="auto")
        fake.add_fault(Fault(kind=Status(404, message="no such call"), match=Match("*/auth-check")))
        assert resolve(fake, "org/gated").files


class TestTrouble:
    @pytest.mark.parametrize("path", ["/api/models/org/model", "*/tree/*"])
    @pytest.mark.parametrize(
        "kind", [Status(503), Status(500), Drop(), Drop(reset=True), RedirectLoop(), Status(408)], ids=str
    )
    def test_a_hub_that_does_not_work_is_asked_again_later(
        self, fake: FakeHuggingFace, path: str, kind: FaultKind
    ) -> None:
        fake.add_fault(Fault(kind=kind, match=Match(path)))
        with pytest.raises(HubUnavailable):
            resolve(fake)

    def test_nothing_old_is_served_while_the_hub_is_down(self, fake: FakeHuggingFace) -> None:
        resolve(fake)
        fake.stop()
        with pytest.raises(HubUnavailable):
            resolve(fake)

    @pytest.mark.parametrize("path", ["/api/models/org/model", "*/tree/*", "*/auth-check"])
    @pytest.mark.parametrize("header", ["Retry-After", "RateLimit"])
    def test_a_rate_limit_tells_how_long(self, fake: FakeHuggingFace, path: str, header: str) -> None:
        fake.repo(REPO).gated = "auto"
        fake.add_fault(Fault(kind=rate_limited(77, header=header, resource="api"), match=Match(path)))
        fake.tokens[TOKEN] = {REPO}
        with pytest.raises(RateLimited) as caught:
            resolve(fake, token=TOKEN)
        assert caught.value.wait_s == 77

    @pytest.mark.parametrize("document", [[], {}, "text", 5, None, {"id": 5}], ids=str)
    @pytest.mark.parametrize("path", ["/api/models/org/model", "*/tree/*"])
    def test_an_answer_without_sense_is_trouble(self, fake: FakeHuggingFace, path: str, document: object) -> None:
        fake.add_fault(Fault(kind=RewriteJson(lambda _: document), match=Match(path)))
        with pytest.raises((HubUnavailable, SourceUnsafe, NothingToFetch)):
            resolve(fake)

    def test_an_answer_that_comes_compressed_unasked_is_refused(self, fake: FakeHuggingFace) -> None:
        fake.add_fault(Fault(kind=Gzip(), match=Match("/api/*")))
        with pytest.raises(SourceUnsafe, match="compresses"):
            resolve(fake)
        assert {request.headers["accept-encoding"] for request in fake.requests} == {"identity"}


class TestHostileHub:
    @pytest.mark.parametrize(
        "name",
        [
            "../../evil",
            "/etc/cron.d/x",
            "a/../../b",
            "a\\b",
            "a\0b",
            ".cache/x",
            ".modelferry.json",
            "x" * 300,
            "CONFIG.json",
        ],
    )
    def test_dangerous_names_are_refused(self, fake: FakeHuggingFace, name: str) -> None:
        fake.add_fault(Fault(kind=lying_listing(names={"model.safetensors": name}), match=Match("*/tree/*")))
        with pytest.raises(SourceUnsafe):
            resolve(fake)

    @pytest.mark.parametrize("oid", ["", "../x", "A" * 64, "0" * 63, "0" * 40])
    def test_digests_that_are_none_are_refused(self, fake: FakeHuggingFace, oid: str) -> None:
        fake.add_fault(Fault(kind=lying_listing(oids={"model.safetensors": oid}), match=Match("*/tree/*")))
        with pytest.raises(SourceUnsafe):
            resolve(fake)

    @pytest.mark.parametrize("size", [-1, "7", None, 1.5])
    def test_impossible_sizes_are_refused(self, fake: FakeHuggingFace, size: int) -> None:
        fake.add_fault(Fault(kind=lying_listing(sizes={"model.safetensors": size}), match=Match("*/tree/*")))
        with pytest.raises(SourceUnsafe):
            resolve(fake)

    @pytest.mark.parametrize(
        "changes", [{"id": "../../x"}, {"id": "a/b/c"}, {"sha": "main"}, {"sha": "../" * 13 + "x"}]
    )
    def test_an_identity_that_is_none_is_refused(self, fake: FakeHuggingFace, changes: dict[str, str]) -> None:
        def lie(document: object) -> object:
            assert isinstance(document, dict)
            return {**document, **changes}

        fake.add_fault(Fault(kind=RewriteJson(lie), match=Match("/api/models/org/model")))
        with pytest.raises(SourceUnsafe):
            resolve(fake)

    def test_a_listing_without_end_is_refused(self, fake: FakeHuggingFace) -> None:
        loop = f'<{fake.endpoint}/api/models/org/model/tree/{fake.repo(REPO).sha}?recursive=true>; rel="next"'
        fake.add_fault(Fault(kind=SetHeader("Link", loop), match=Match("*/tree/*")))
        fake.add_fault(Fault(kind=RewriteJson(lambda _: []), match=Match("*/tree/*")))
        with pytest.raises(SourceUnsafe):
            resolve(fake)

    def test_too_many_files_are_refused(self, fake: FakeHuggingFace) -> None:
        entry = {"type": "file", "size": 1, "oid": "0" * 40}
        many = [{**entry, "path": f"{number}.json"} for number in range(10_001)]
        fake.add_fault(Fault(kind=RewriteJson(lambda _: many), match=Match("*/tree/*")))
        with pytest.raises(SourceUnsafe, match="10000"):
            resolve(fake)

    def test_the_token_does_not_follow_a_listing_elsewhere(self, fake: FakeHuggingFace) -> None:
        with FakeHuggingFace() as other:
            fake.add_fault(
                Fault(
                    kind=SetHeader("Link", f'<{other.endpoint}/api/models/x/tree/y>; rel="next"'),
                    match=Match("*/tree/*"),
                )
            )
            with pytest.raises(StageError):
                resolve(fake, token=TOKEN)
            assert len(other.requests) > 0
            assert not any(request.had_authorization for request in other.requests)

    def test_the_token_does_not_follow_a_redirect(self, fake: FakeHuggingFace) -> None:
        with FakeHuggingFace() as other:
            other.add_repo(REPO, FILES)
            fake.add_fault(
                Fault(kind=RedirectTo(f"{other.endpoint}/api/models/{REPO}"), match=Match("/api/models/org/model"))
            )
            resolve(fake, token=TOKEN)
            assert len(other.requests) > 0
            assert not any(request.had_authorization for request in other.requests)


def test_the_descriptor_names_what_the_hub_asks_for() -> None:
    assert HUGGINGFACE.secrets == {"HF_TOKEN"}
    assert HUGGINGFACE.settings == {"HF_ENDPOINT"}
    assert isinstance(HUGGINGFACE.load(Access()), HuggingFaceHub)

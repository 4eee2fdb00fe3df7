"""The real clients of the Hugging Face hub work against our stand-in, and the stand-in can be made to misbehave."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast
from urllib.parse import urlsplit

import pytest

# The client reads its environment when it is imported.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

from huggingface_hub import HfApi, RepoFile, close_session, snapshot_download
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.fakes.faults import (
    Cut,
    Drop,
    ExpireSignedUrl,
    Fault,
    FaultKind,
    FlipBit,
    Gzip,
    IgnoreRange,
    OmitHeader,
    RedirectLoop,
    RedirectTo,
    SetHeader,
    Stall,
    Status,
    Throttle,
    Trickle,
    WrongContentRange,
    rate_limited,
)
from tests.fakes.hf_documents import lying_listing
from tests.fakes.hf_repository import LfsPolicy
from tests.fakes.huggingface import FakeHuggingFace, SmallFiles
from tests.fakes.traffic import Match

PROJECT = Path(__file__).parents[2]
T = TypeVar("T")
GOOD = "hf_good"
README = b"---\nlicense: mit\npipeline_tag: text-generation\ntags:\n- tiny\n- ferry\n---\n# A model\n"
WEIGHTS = bytes(range(256)) * 1200
FILES = {
    "README.md": README,
    "config.json": b'{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}',
    "empty.txt": b"",
    "model.safetensors": WEIGHTS,
    "onnx/model.onnx": b"onnx" * 1000,
    "onnx/deep/notes.txt": b"deep",
}


@dataclass(frozen=True)
class Response:
    status: int
    headers: Mapping[str, str]
    body: bytes
    whole: bool = True


@pytest.fixture
def hub() -> Iterator[FakeHuggingFace]:
    with FakeHuggingFace() as fake:
        fake.add_repo("org/model", FILES)
        fake.tokens = {GOOD: {"org/gated", "org/private"}, "hf_stranger": set()}
        yield fake
    close_session()


@pytest.fixture
def api(hub: FakeHuggingFace) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=False)


class TestRealClient:
    @pytest.mark.parametrize("small_files", ["redirect", "direct"])
    def test_a_snapshot_has_the_same_bytes(self, hub: FakeHuggingFace, tmp_path: Path, small_files: SmallFiles) -> None:
        hub.small_files = small_files
        snapshot_download("org/model", endpoint=hub.endpoint, local_dir=tmp_path, token=False)
        assert {name: (tmp_path / name).read_bytes() for name in FILES} == FILES
        assert (hub.requests.count("*/resolve-cache/*") > 0) == (small_files == "redirect")

    def test_a_name_may_have_one_part(self, hub: FakeHuggingFace, tmp_path: Path) -> None:
        hub.add_repo("gpt2", FILES)
        snapshot_download("gpt2", endpoint=hub.endpoint, local_dir=tmp_path, token=False)
        assert {name: (tmp_path / name).read_bytes() for name in FILES} == FILES

    def test_files_on_disk_are_served_alike(self, hub: FakeHuggingFace, tmp_path: Path) -> None:
        for name, content in FILES.items():
            (tmp_path / "made" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "made" / name).write_bytes(content)
        hub.add_directory("org/disk", tmp_path / "made")
        snapshot_download("org/disk", endpoint=hub.endpoint, local_dir=tmp_path / "got", token=False)
        assert {name: (tmp_path / "got" / name).read_bytes() for name in FILES} == FILES

    def test_info_tells_sizes_and_hashes(self, hub: FakeHuggingFace, api: HfApi) -> None:
        info = api.model_info("org/model", files_metadata=True)
        by_name = {sibling.rfilename: sibling for sibling in info.siblings or []}
        assert info.sha == hub.repo("org/model").sha
        assert (info.author, info.gated, info.pipeline_tag) == ("org", False, "text-generation")
        assert info.card_data is not None
        assert info.card_data.license == "mit"
        assert info.tags is not None
        assert {"tiny", "ferry", "llama", "license:mit"} <= set(info.tags)
        assert {name: sibling.size for name, sibling in by_name.items()} == {n: len(c) for n, c in FILES.items()}
        weights = by_name["model.safetensors"]
        assert weights.lfs is not None
        assert weights.lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
        assert by_name["config.json"].lfs is None

    def test_info_without_blobs_and_with_expand(self, api: HfApi) -> None:
        plain = api.model_info("org/model")
        assert [sibling.size for sibling in plain.siblings or []] == [None] * len(FILES)
        few = api.model_info("org/model", expand=["gated", "sha"])
        assert (few.gated, few.siblings, few.author) == (False, None, None)

    def test_a_tree_comes_in_pages(self, hub: FakeHuggingFace, api: HfApi) -> None:
        hub.add_repo("org/many", {f"part-{number:02}.bin": bytes([number]) for number in range(12)})
        listed = list(api.list_repo_tree("org/many"))
        assert [entry.path for entry in listed] == [f"part-{number:02}.bin" for number in range(12)]
        assert hub.requests.count("*/tree/main") == 3

    def test_a_tree_has_folders(self, api: HfApi) -> None:
        top = {entry.path for entry in api.list_repo_tree("org/model", expand=True)}
        assert top == {"README.md", "config.json", "empty.txt", "model.safetensors", "onnx"}
        below = {entry.path for entry in api.list_repo_tree("org/model", "onnx", recursive=True)}
        assert below == {"onnx/deep", "onnx/deep/notes.txt", "onnx/model.onnx"}
        with pytest.raises(EntryNotFoundError):
            list(api.list_repo_tree("org/model", "nowhere"))

    def test_paths_info(self, api: HfApi) -> None:
        found = api.get_paths_info("org/model", ["model.safetensors", "onnx", "nowhere"], expand=True)
        assert [entry.path for entry in found] == ["model.safetensors", "onnx"]
        assert isinstance(found[0], RepoFile)
        assert found[0].size == len(WEIGHTS)

    def test_branches_tags_and_commits(self, hub: FakeHuggingFace, api: HfApi, tmp_path: Path) -> None:
        first = hub.repo("org/model").sha
        second = hub.commit("org/model", {"config.json": b"{}", "empty.txt": None})
        dev = hub.commit("org/model", {"new.txt": b"new"}, branch="dev/x")
        hub.repo("org/model").tag("v1.0", first)
        hub.repo("org/model").branch("refs/pr/1", second)
        refs = api.list_repo_refs("org/model", include_pull_requests=True)
        assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": second, "dev/x": dev}
        assert {ref.name: ref.target_commit for ref in refs.tags} == {"v1.0": first}
        assert [ref.ref for ref in refs.pull_requests or []] == ["refs/pr/1"]
        for revision, sha in {"main": second, "dev/x": dev, "v1.0": first, "refs/pr/1": second, first: first}.items():
            assert api.model_info("org/model", revision=revision).sha == sha
        assert not api.file_exists("org/model", "empty.txt")
        assert api.file_exists("org/model", "empty.txt", revision=first)
        path = api.hf_hub_download("org/model", "new.txt", revision="dev/x", local_dir=tmp_path)
        assert Path(path).read_bytes() == b"new"

    def test_listing_is_searched_filtered_sorted_and_paged(self, hub: FakeHuggingFace, api: HfApi) -> None:
        for number in range(7):
            hub.add_repo(f"acme/bert-{number}", {"README.md": README}, facts={"downloads": number})
        hub.add_repo("acme/secret-bert", {}, private=True)
        assert len(list(api.list_models())) == 8
        found = [model.id for model in api.list_models(search="BERT", author="acme", sort="downloads", limit=6)]
        assert found == [f"acme/bert-{number}" for number in (6, 5, 4, 3, 2, 1)]
        assert hub.requests.count("/api/models") == 4
        assert [model.id for model in api.list_models(filter=["ferry", "llama"])] == ["org/model"]
        assert list(api.list_models(pipeline_tag="text-classification")) == []

    def test_a_listing_shows_what_is_asked_for(self, hub: FakeHuggingFace, api: HfApi) -> None:
        hub.add_repo("org/gated", {"README.md": README}, gated="auto", facts={"downloads": 9})
        (model,) = api.list_models(search="gated", expand=["downloads", "gated", "tags"])
        assert (model.downloads, model.gated, model.likes) == (9, "auto", None)
        assert "ferry" in (model.tags or [])

    def test_a_collection_keeps_its_order(self, hub: FakeHuggingFace, api: HfApi) -> None:
        hub.add_repo("org/second", {})
        hub.add_repo("org/hidden", {}, private=True)
        hub.add_collection("org/best-0123456789abcdef01234567", ["org/second", "org/hidden", "org/model"])
        found = api.get_collection("org/best-0123456789abcdef01234567")
        assert [(one.item_id, one.item_type) for one in found.items] == [
            ("org/second", "model"),
            ("org/model", "model"),
        ]
        with pytest.raises(HfHubHTTPError, match="404"):
            api.get_collection("org/none-0123456789abcdef01234567")

    def test_safetensors_headers_are_counted(self, hub: FakeHuggingFace, api: HfApi) -> None:
        header = json.dumps({"w": {"dtype": "BF16", "shape": [3, 4], "data_offsets": [0, 24]}}).encode()
        hub.add_repo("org/st", {"model.safetensors": len(header).to_bytes(8, "little") + header + bytes(24)})
        counted = api.model_info("org/st").safetensors
        assert counted is not None
        assert (counted.parameters, counted.total) == ({"BF16": 12}, 12)

    def test_whoami_and_auth_check(self, hub: FakeHuggingFace, api: HfApi) -> None:
        hub.add_repo("org/gated", FILES, gated="manual")
        assert api.whoami(token=GOOD)["name"] == "tester"
        api.auth_check("org/model")
        api.auth_check("org/gated", token=GOOD)
        for token in (False, "hf_stranger"):
            with pytest.raises(GatedRepoError):
                api.auth_check("org/gated", token=token)
        with pytest.raises(HfHubHTTPError, match="Invalid user token"):
            api.whoami(token="hf_unknown")

    def test_a_renamed_repository_is_found(self, hub: FakeHuggingFace, api: HfApi, tmp_path: Path) -> None:
        hub.rename("org/model", "org/renamed")
        assert api.model_info("org/model", files_metadata=True).id == "org/renamed"
        snapshot_download("org/model", endpoint=hub.endpoint, local_dir=tmp_path, token=False)
        assert (tmp_path / "model.safetensors").read_bytes() == WEIGHTS

    def test_the_token_stays_on_the_hub(self, hub: FakeHuggingFace, tmp_path: Path) -> None:
        hub.add_repo("org/gated", FILES, gated="auto")
        snapshot_download("org/gated", endpoint=hub.endpoint, local_dir=tmp_path, token=GOOD)
        assert all(request.had_authorization for request in hub.requests.matching(origin="hub"))
        assert hub.requests.count(origin="cdn", status=200) == 2
        assert not any(request.had_authorization for request in hub.requests.matching(origin="cdn"))
        assert hub.requests.bytes_served("model.safetensors", origin="cdn") == len(WEIGHTS)

    def test_a_cut_download_is_resumed(self, hub: FakeHuggingFace, api: HfApi, tmp_path: Path) -> None:
        mebibyte = 1024 * 1024
        content = os.urandom(mebibyte) * 16
        hub.add_repo("org/large", {"large.bin": content})
        cut = hub.add_fault(Fault(kind=Cut(at=12 * mebibyte), match=Match("large.bin"), count=1))
        path = api.hf_hub_download("org/large", "large.bin", local_dir=tmp_path)
        assert Path(path).read_bytes() == content
        assert cut.hits == 1
        assert [request.range_start for request in hub.requests.matching(origin="cdn")] == [None, 10 * mebibyte]
        assert hub.requests.bytes_served(origin="cdn") == 18 * mebibyte

    def test_a_rate_limit_is_waited_for(self, hub: FakeHuggingFace, api: HfApi, tmp_path: Path) -> None:
        # The client's first HEAD gives up at once, its second one waits.
        limit = hub.add_fault(Fault(kind=rate_limited(0), match=Match("config.json", method="HEAD"), count=2))
        seconds, _ = timed(lambda: api.hf_hub_download("org/model", "config.json", local_dir=tmp_path))
        assert limit.hits == 2
        assert seconds >= 1

    def test_a_lying_mirror_is_believed_by_the_client(self, hub: FakeHuggingFace, api: HfApi, tmp_path: Path) -> None:
        """Why our own transfer checks every hash: one flipped bit is a success to this client."""
        hub.add_fault(Fault(kind=FlipBit(offset=1000, bit=3), match=Match(origin="cdn")))
        path = api.hf_hub_download("org/model", "model.safetensors", local_dir=tmp_path)
        got = Path(path).read_bytes()
        assert [at for at, (a, b) in enumerate(zip(got, WEIGHTS, strict=True)) if a != b] == [1000]

    def test_transformers_loads_from_it(self, hub: FakeHuggingFace, tmp_path: Path) -> None:
        tokenizer = {
            "version": "1.0",
            "added_tokens": [],
            "pre_tokenizer": {"type": "Whitespace"},
            "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1, "ferry": 2}, "unk_token": "[UNK]"},
        }
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"}
        files = {"tokenizer.json": tokenizer, "tokenizer_config.json": settings, "config.json": {"model_type": "bert"}}
        hub.add_repo("org/text", {name: json.dumps(document).encode() for name, document in files.items()})
        program = (
            "from transformers import AutoConfig, AutoTokenizer\n"
            "print(AutoConfig.from_pretrained('org/text').model_type)\n"
            "print(AutoTokenizer.from_pretrained('org/text')('a ferry').input_ids)\n"
        )
        environment = {
            "PATH": os.environ["PATH"],
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(tmp_path),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        run = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
        )
        assert run.stdout.splitlines() == ["bert", "[1, 2]"], run.stderr


class TestErrors:
    def test_a_missing_repository(self, api: HfApi) -> None:
        for token, status in ((False, 401), (GOOD, 404)):
            with pytest.raises(RepositoryNotFoundError) as caught:
                api.model_info("org/nothing", token=token)
            assert caught.value.response.status_code == status

    def test_a_private_repository(self, hub: FakeHuggingFace, api: HfApi) -> None:
        hub.add_repo("org/private", FILES, private=True)
        assert api.model_info("org/private", token=GOOD).private
        assert "org/private" in {model.id for model in api.list_models(token=GOOD)}
        for token in (False, "hf_stranger"):
            with pytest.raises(RepositoryNotFoundError):
                api.model_info("org/private", token=token)

    def test_a_gated_repository_shows_its_listing_and_keeps_its_files(
        self, hub: FakeHuggingFace, api: HfApi, tmp_path: Path
    ) -> None:
        hub.add_repo("org/gated", FILES, gated="manual")
        assert api.model_info("org/gated").gated == "manual"
        assert list(api.list_repo_tree("org/gated"))
        for token, status in ((False, 401), ("hf_stranger", 403)):
            with pytest.raises(GatedRepoError) as caught:
                api.hf_hub_download("org/gated", "config.json", token=token, local_dir=tmp_path)
            assert caught.value.response.status_code == status
        api.hf_hub_download("org/gated", "config.json", token=GOOD, local_dir=tmp_path)

    def test_a_disabled_repository(self, hub: FakeHuggingFace, api: HfApi) -> None:
        hub.add_repo("org/disabled", FILES, disabled=True)
        with pytest.raises(DisabledRepoError):
            api.model_info("org/disabled")

    def test_a_missing_revision_and_a_missing_file(self, api: HfApi, tmp_path: Path) -> None:
        with pytest.raises(RevisionNotFoundError):
            api.model_info("org/model", revision="no/where")
        with pytest.raises(EntryNotFoundError):
            api.hf_hub_download("org/model", "no/where.txt", local_dir=tmp_path)

    def test_an_unknown_token(self, api: HfApi) -> None:
        with pytest.raises(HfHubHTTPError) as caught:
            api.model_info("org/model", token="hf_unknown")
        assert not isinstance(caught.value, RepositoryNotFoundError)
        assert caught.value.response.status_code == 401

    def test_an_unknown_page(self, hub: FakeHuggingFace) -> None:
        assert get(f"{hub.endpoint}/api/nothing/of/the/kind").status == 404
        assert get(f"{hub.endpoint}/nothing").status == 404


class TestFiles:
    def test_hashes_are_those_of_git(self, hub: FakeHuggingFace, api: HfApi, tmp_path: Path) -> None:
        if shutil.which("git") is None:
            pytest.skip("git is not installed")
        hub.lfs = LfsPolicy(patterns=(), threshold_bytes=len(WEIGHTS))
        for name, content in FILES.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content)
        for arguments in (["init", "-q"], ["add", "."]):
            subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
        tree = subprocess.run(["git", "write-tree"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
        listed = subprocess.run(
            ["git", "ls-tree", "-r", "-t", tree.strip()], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout
        theirs = {line.split("\t")[1]: line.split()[2] for line in listed.splitlines()}
        ours = {}
        for entry in api.list_repo_tree("org/model", recursive=True):
            ours[entry.path] = entry.blob_id if isinstance(entry, RepoFile) else entry.tree_id
        assert ours == theirs

    def test_a_large_file_is_redirected_to_a_signed_address(self, hub: FakeHuggingFace) -> None:
        head = get(f"{hub.endpoint}/org/model/resolve/main/model.safetensors", method="HEAD")
        assert (head.status, head.headers["X-Repo-Commit"]) == (302, hub.repo("org/model").sha)
        assert head.headers["X-Linked-Size"] == str(len(WEIGHTS))
        assert head.headers["X-Linked-Etag"] == f'"{hashlib.sha256(WEIGHTS).hexdigest()}"'
        assert not any("xet" in name.lower() for name in head.headers)
        location = head.headers["Location"]
        assert location.startswith(f"{hub.cdn_endpoint}/")
        assert get(location).body == WEIGHTS
        assert get(location.partition("?")[0]).status == 403
        assert get(location.replace("Signature=", "Signature=0")).status == 403

    def test_a_signed_address_ends_after_its_uses_and_its_time(self, hub: FakeHuggingFace) -> None:
        hub.signer.uses = 2
        location = weights_url(hub)
        assert [get(location).status for _ in range(3)] == [200, 200, 403]
        hub.signer.uses = None
        hub.signer.seconds = 0.05
        location = weights_url(hub)
        time.sleep(0.06)
        assert get(location).status == 403

    @pytest.mark.parametrize(
        ("asked", "status", "start", "stop"),
        [
            ("bytes=0-0", 206, 0, 1),
            ("bytes=100-199", 206, 100, 200),
            ("bytes=100-", 206, 100, len(WEIGHTS)),
            ("bytes=-10", 206, len(WEIGHTS) - 10, len(WEIGHTS)),
            (f"bytes=5-{10**9}", 206, 5, len(WEIGHTS)),
            ("bytes=9-3", 200, 0, len(WEIGHTS)),
            ("bytes=0-1,5-6", 200, 0, len(WEIGHTS)),
            (f"bytes={len(WEIGHTS)}-", 416, 0, 0),
        ],
    )
    def test_ranges(self, hub: FakeHuggingFace, asked: str, status: int, start: int, stop: int) -> None:
        response = get(weights_url(hub), {"Range": asked})
        assert (response.status, response.body) == (status, WEIGHTS[start:stop])
        total = len(WEIGHTS)
        expected = {206: f"bytes {start}-{stop - 1}/{total}", 416: f"bytes */{total}"}.get(status)
        assert response.headers.get("Content-Range") == expected

    def test_a_range_with_a_stale_condition_gets_the_whole_file(self, hub: FakeHuggingFace) -> None:
        location = weights_url(hub)
        etag = get(location, method="HEAD").headers["ETag"]
        assert get(location, {"Range": "bytes=5-", "If-Range": etag}).status == 206
        assert get(location, {"Range": "bytes=5-", "If-Range": '"another"'}).status == 200

    @pytest.mark.parametrize("name", ["../../evil.txt", "a\\b.txt", "/etc/evil.txt", "nul\0.txt", "Config.json"])
    def test_hostile_names_are_listed_and_served(self, hub: FakeHuggingFace, api: HfApi, name: str) -> None:
        hub.add_repo("org/hostile", {"config.json": b"{}", name: b"evil"})
        info = api.model_info("org/hostile", files_metadata=True)
        assert name in {sibling.rfilename for sibling in info.siblings or []}
        assert name in {entry.path for entry in api.list_repo_tree("org/hostile", recursive=True)}
        url = f"{hub.endpoint}/org/hostile/resolve/main/{http_quoted(name)}"
        assert follow(url) == b"evil"

    def test_a_name_that_the_client_folded_is_served(self, hub: FakeHuggingFace) -> None:
        hub.add_repo("org/hostile", {"../../evil.txt": b"evil"})
        assert get(f"{hub.endpoint}/org/hostile/evil.txt").body == b"evil"

    def test_listings_can_lie(self, hub: FakeHuggingFace, api: HfApi) -> None:
        lie = lying_listing(
            names={"config.json": "../x"}, oids={"model.safetensors": "zz", "README.md": "yy"}, sizes={"README.md": 7}
        )
        hub.add_fault(Fault(kind=lie, match=Match(origin="hub")))
        by_name = {entry.path: entry for entry in api.list_repo_tree("org/model")}
        weights, readme = by_name["model.safetensors"], by_name["README.md"]
        assert isinstance(weights, RepoFile)
        assert isinstance(readme, RepoFile)
        assert weights.lfs is not None
        assert (weights.lfs.sha256, readme.blob_id, readme.size) == ("zz", "yy", 7)
        assert "../x" in by_name
        siblings = api.model_info("org/model", files_metadata=True).siblings or []
        assert ("README.md", "yy", 7) in {(one.rfilename, one.blob_id, one.size) for one in siblings}


class TestFaults:
    def test_status_with_headers(self, hub: FakeHuggingFace) -> None:
        hub.add_fault(Fault(kind=rate_limited(3), count=1))
        hub.add_fault(Fault(kind=rate_limited(7, header="Retry-After"), count=1))
        hub.add_fault(Fault(kind=Status(503), count=1))
        url = f"{hub.endpoint}/api/models/org/model"
        first, second, third, fourth = (get(url) for _ in range(4))
        assert (first.status, first.headers["RateLimit"]) == (429, '"resolvers";r=0;t=3')
        assert (second.status, second.headers["Retry-After"]) == (429, "7")
        assert (third.status, fourth.status) == (503, 200)

    @pytest.mark.parametrize("reset", [False, True])
    def test_drop(self, hub: FakeHuggingFace, reset: bool) -> None:
        hub.add_fault(Fault(kind=Drop(reset=reset), count=1))
        with pytest.raises(ConnectionResetError if reset else http.client.RemoteDisconnected):
            get(weights_url_of(hub.cdn_endpoint))
        assert hub.requests[0].status == 0

    def test_cut(self, hub: FakeHuggingFace) -> None:
        location = weights_url(hub)
        cut = hub.add_fault(Fault(kind=Cut(at=1000), match=Match(origin="cdn"), count=1))
        assert get(location, method="HEAD").status == 200
        assert get(location, {"Range": "bytes=0-999"}).whole
        assert cut.hits == 0
        torn = get(location, {"Range": "bytes=50-"})
        assert (torn.whole, torn.body, cut.hits) == (False, WEIGHTS[50:1050], 1)
        assert hub.requests.bytes_served(origin="cdn") == 2000
        assert get(location).whole

    def test_stall(self, hub: FakeHuggingFace) -> None:
        location = weights_url(hub)
        for at in (None, 10):
            stall = hub.add_fault(Fault(kind=Stall(0.2, at=at), count=1))
            seconds, response = timed(lambda: get(location))
            assert (response.body, stall.hits) == (WEIGHTS, 1)
            assert seconds >= 0.2

    @pytest.mark.parametrize("kind", [Trickle(chunk_bytes=100, interval_s=0.1), Throttle(1000)])
    def test_slow_bodies(self, hub: FakeHuggingFace, kind: FaultKind) -> None:
        location = weights_url(hub)
        hub.add_fault(Fault(kind=kind, match=Match(origin="cdn"), count=1))
        seconds, response = timed(lambda: get(location, {"Range": "bytes=0-299"}))
        assert response.body == WEIGHTS[:300]
        assert seconds >= 0.2

    def test_ignored_range(self, hub: FakeHuggingFace) -> None:
        location = weights_url(hub)
        hub.add_fault(Fault(kind=IgnoreRange(), count=1))
        answers = [get(location, headers) for headers in ({}, {"Range": "bytes=5-"}, {"Range": "bytes=5-"})]
        assert [(one.status, len(one.body)) for one in answers] == [
            (200, len(WEIGHTS)),
            (200, len(WEIGHTS)),
            (206, len(WEIGHTS) - 5),
        ]

    def test_wrong_content_range(self, hub: FakeHuggingFace) -> None:
        location = weights_url(hub)
        for kind, told in {
            WrongContentRange(): f"bytes 6-10/{len(WEIGHTS)}",
            WrongContentRange(value="nonsense"): "nonsense",
        }.items():
            hub.add_fault(Fault(kind=kind, count=1))
            assert get(location, {"Range": "bytes=5-9"}).headers["Content-Range"] == told

    @pytest.mark.parametrize("on_disk", [False, True])
    def test_flipped_bit(self, hub: FakeHuggingFace, tmp_path: Path, on_disk: bool) -> None:
        (tmp_path / "weights").write_bytes(WEIGHTS)
        hub.add_repo("org/model", {"model.safetensors": tmp_path / "weights" if on_disk else WEIGHTS})
        location = weights_url(hub)
        flip = hub.add_fault(Fault(kind=FlipBit(offset=1000, bit=7), match=Match(origin="cdn"), count=1))
        assert get(location, {"Range": "bytes=0-999"}).body == WEIGHTS[:1000]
        assert flip.hits == 0
        spoilt = bytes([WEIGHTS[1000] ^ 0x80])
        assert get(location, {"Range": "bytes=990-1009"}).body == WEIGHTS[990:1000] + spoilt + WEIGHTS[1001:1010]
        assert get(location).body == WEIGHTS

    def test_headers_left_out_and_put_in(self, hub: FakeHuggingFace) -> None:
        url = f"{hub.endpoint}/org/model/resolve/main/model.safetensors"
        hub.add_fault(Fault(kind=OmitHeader("x-linked-size"), count=1))
        hub.add_fault(Fault(kind=SetHeader("X-Linked-Etag", '"../../x"'), count=1))
        head = get(url, method="HEAD")
        assert "X-Linked-Size" not in head.headers
        assert head.headers["X-Linked-Etag"] == '"../../x"'
        hub.add_fault(Fault(kind=OmitHeader("Content-Length"), match=Match(origin="cdn")))
        assert get(weights_url(hub)).body == WEIGHTS

    def test_expiring_signed_address(self, hub: FakeHuggingFace) -> None:
        hub.add_fault(Fault(kind=ExpireSignedUrl(uses=2), match=Match(origin="cdn")))
        location = weights_url(hub)
        assert [get(location).status for _ in range(4)] == [200, 200, 403, 403]
        assert get(weights_url(hub)).status == 200

    def test_redirects(self, hub: FakeHuggingFace) -> None:
        url = f"{hub.endpoint}/api/models/org/model?blobs=true"
        for kind, location in {
            RedirectLoop(): url,
            RedirectLoop(relative=True): "/api/models/org/model?blobs=true",
            RedirectTo("http://169.254.169.254/latest"): "http://169.254.169.254/latest",
        }.items():
            hub.add_fault(Fault(kind=kind, count=1))
            response = get(url)
            assert (response.status, response.headers["Location"]) == (302, location)

    def test_gzip(self, hub: FakeHuggingFace) -> None:
        hub.add_fault(Fault(kind=Gzip(), count=1))
        response = get(weights_url_of(hub.endpoint, "config.json", "/api/resolve-cache/models/org/model/main"))
        assert response.headers["Content-Encoding"] == "gzip"
        assert response.body[:2] == b"\x1f\x8b"

    def test_a_fault_meets_only_what_it_matches(self, hub: FakeHuggingFace) -> None:
        location = weights_url(hub)
        match = Match(re.compile(r"/repos/.*safetensors$"), origin="cdn", method="GET", range_start=lambda at: at > 100)
        armed = hub.add_fault(Fault(kind=Status(500), match=match, count=1, skip=1))
        ranges = ["bytes=0-9", "bytes=200-209", "bytes=300-309", "bytes=400-409"]
        assert [get(location, {"Range": one}).status for one in ranges] == [206, 206, 500, 206]
        armed_for_ever = hub.add_fault(Fault(kind=Status(500), match=Match("*.safetensors", range_start=7)))
        assert [get(location, {"Range": "bytes=7-9"}).status for _ in range(2)] == [500, 500]
        hub.remove_fault(armed_for_ever)
        assert (get(location).status, armed.hits, armed_for_ever.hits) == (200, 1, 2)


class TestServer:
    def test_a_connection_serves_many_requests(self, hub: FakeHuggingFace) -> None:
        connection = http.client.HTTPConnection(urlsplit(hub.endpoint).netloc)
        for _ in range(3):
            connection.request("GET", "/api/models/org/model")
            assert json.loads(connection.getresponse().read())["id"] == "org/model"
        assert (hub.requests.count(), hub.requests.peak_connections("hub")) == (3, 1)
        connection.close()
        hub.requests.clear()
        assert len(hub.requests) == 0

    def test_parallel_requests_are_counted(self, hub: FakeHuggingFace) -> None:
        location = weights_url(hub)
        hub.add_fault(Fault(kind=Stall(0.2), match=Match(origin="cdn")))
        threads = [threading.Thread(target=get, args=(location,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert hub.requests.peak_in_flight("cdn") == 4
        assert hub.requests.bytes_served(origin="cdn") == 4 * len(WEIGHTS)

    def test_it_stops_at_once_and_comes_back_at_the_same_port(self, hub: FakeHuggingFace) -> None:
        hub.add_fault(Fault(kind=Stall(60), count=1))
        failed: list[Exception] = []
        url = f"{hub.endpoint}/api/models/org/model"
        waiting = threading.Thread(target=collect_failure, args=(url, failed))
        waiting.start()
        while not hub.requests.count():
            time.sleep(0.005)
        seconds, _ = timed(hub.stop)
        waiting.join()
        assert seconds < 1
        assert len(failed) == 1
        with pytest.raises(ConnectionRefusedError):
            get(url)
        hub.start()
        assert get(url).status == 200

    def test_nonsense_gets_no_answer_and_does_no_harm(self, hub: FakeHuggingFace) -> None:
        parts = urlsplit(hub.endpoint)
        with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=10) as connection:
            connection.sendall(b"this is not HTTP\r\n\r\n")
            assert connection.recv(1) == b""
        assert get(f"{hub.endpoint}/api/models/org/model").status == 200

    def test_it_runs_as_a_process_of_its_own(self, tmp_path: Path) -> None:
        (tmp_path / "root" / "org" / "disk").mkdir(parents=True)
        (tmp_path / "root" / "org" / "disk" / "model.safetensors").write_bytes(WEIGHTS)
        log = tmp_path / "access.jsonl"
        command = [sys.executable, "-m", "tests.fakes.huggingface", "--root", str(tmp_path / "root")]
        options = ["--rate", "1000000", "--access-log", str(log)]
        with subprocess.Popen([*command, *options], cwd=PROJECT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            urls = json.loads(process.stdout.readline())
            seconds, body = timed(lambda: follow(f"{urls['endpoint']}/org/disk/resolve/main/model.safetensors"))
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=5) == 0
        assert body == WEIGHTS
        assert seconds > 0.8 * len(WEIGHTS) / 1_000_000
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert [(line["origin"], line["status"], line["bytes"]) for line in lines] == [
            ("hub", 302, 0),
            ("cdn", 200, len(WEIGHTS)),
        ]


def get(url: str, headers: Mapping[str, str] | None = None, *, method: str = "GET") -> Response:
    """One plain request, with nothing followed, repeated or repaired."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    try:
        connection.request(method, f"{parts.path}?{parts.query}" if parts.query else parts.path, headers=headers or {})
        response = connection.getresponse()
        try:
            body, whole = response.read(), True
        except http.client.IncompleteRead as torn:
            body, whole = torn.partial, False
        return Response(response.status, cast("Mapping[str, str]", response.headers), body, whole)
    finally:
        connection.close()


def follow(url: str) -> bytes:
    response = get(url)
    while 300 <= response.status < 400:
        location = response.headers["Location"]
        url = location if "://" in location else f"{'/'.join(url.split('/')[:3])}{location}"
        response = get(url)
    assert response.status == 200
    return response.body


def weights_url(hub: FakeHuggingFace) -> str:
    """A fresh signed address of the weights."""
    return get(weights_url_of(hub.endpoint), method="HEAD").headers["Location"]


def weights_url_of(endpoint: str, name: str = "model.safetensors", where: str = "/org/model/resolve/main") -> str:
    return f"{endpoint}{where}/{name}"


def timed(work: Callable[[], T]) -> tuple[float, T]:
    started = time.monotonic()
    answer = work()
    return time.monotonic() - started, answer


def collect_failure(url: str, failed: list[Exception]) -> None:
    try:
        get(url)
    except (OSError, http.client.HTTPException) as error:
        failed.append(error)


def http_quoted(name: str) -> str:
    return "".join(one if one.isalnum() or one in "/.-" else f"%{ord(one):02X}" for one in name)

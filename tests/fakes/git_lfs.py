"""A Git forge on loopback with one repository whose large files are behind Git LFS.

It answers as a GitHub Enterprise server does: questions below /api/v3, Git's own content below /raw, and the published
Git LFS batch API below the repository's address. The large files are on a port of their own, at signed addresses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import quote

from tests.fakes.exchange import Reply, Request, reply_with, reply_with_file, reply_with_json
from tests.fakes.faults import ArmedFault, Fault, FaultPlan
from tests.fakes.hf_repository import Blob, Commit, Content, LfsPolicy, Repository, git_oid
from tests.fakes.loopback import LoopbackServer, OnLoopback
from tests.fakes.signed_urls import UrlSigner
from tests.fakes.traffic import RequestLog

MEDIA_TYPE = "application/vnd.git-lfs+json"
LARGE_FILES = LfsPolicy(patterns=("*.xml", "*.bin", "*.json"), threshold_bytes=10**12)
MOST_AT_ONCE = 100


class FakeForge(OnLoopback):
    """Serves `owner/name` from memory. Start it, or use it as a context manager.

    `quota` is how many questions the API still answers, `header` what each request for a large file must carry.
    """

    def __init__(
        self,
        files: Mapping[str, Content],
        *,
        name: str = "dlstreamer/pipeline-zoo-models",
        signed_url_seconds: float = 3600.0,
        signed_url_uses: int | None = None,
    ) -> None:
        self.repository = Repository(name)
        self.repository.commit(files)
        self.requests = RequestLog()
        self.faults = FaultPlan()
        self.signer = UrlSigner(signed_url_seconds, signed_url_uses)
        self.quota = 60
        self.truncated = False
        self.modes: dict[str, str] = {}
        """Files that are not plain: their path, and Git's mode of them."""
        self.header: dict[str, str] = {}
        self.lost: dict[str, int] = {}
        """Large files that have trouble: their path, and its code."""
        self._forge = LoopbackServer("hub", self.faults.around(self._answer), self.requests)
        self._storage = LoopbackServer("cdn", self.faults.around(self._answer_storage), self.requests)

    @property
    def url(self) -> str:
        return f"http://{self._forge.host}:{self._forge.port}/{self.repository.name}"

    @property
    def storage_url(self) -> str:
        return f"http://{self._storage.host}:{self._storage.port}"

    def servers(self) -> tuple[LoopbackServer, ...]:
        return (self._forge, self._storage)

    def add_fault(self, fault: Fault) -> ArmedFault:
        return self.faults.add(fault)

    def _answer(self, request: Request) -> Reply:
        name = self.repository.name
        for prefix, answer in (
            (f"/api/v3/repos/{name}/", self._answer_api),
            (f"/raw/{name}/", self._answer_raw),
            (f"/{name}.git/info/lfs/", self._answer_lfs),
        ):
            if request.path.startswith(prefix):
                return answer(request, request.path.removeprefix(prefix))
        return reply_with_json({"message": "Not Found"}, status=404)

    # The API

    def _answer_api(self, request: Request, rest: str) -> Reply:
        if self.quota <= 0:
            headers = {"X-RateLimit-Limit": "60", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "32503680000"}
            return reply_with_json({"message": "API rate limit exceeded"}, headers, 403)
        self.quota -= 1
        headers = {"X-RateLimit-Limit": "60", "X-RateLimit-Remaining": str(self.quota)}
        kind, _, revision = rest.rpartition("commits/")
        if rest.startswith("commits/") and not kind:
            return self._commit(request, revision, headers)
        if rest.startswith("git/trees/"):
            return self._tree(request, rest.removeprefix("git/trees/"), headers)
        return reply_with_json({"message": "Not Found"}, headers, 404)

    def _commit(self, request: Request, revision: str, headers: dict[str, str]) -> Reply:
        commit = self.repository.find(revision)
        if commit is None:
            return reply_with_json({"message": f"No commit found for SHA: {revision}"}, headers, 422)
        if request.headers.get("accept") == "application/vnd.github.sha":
            named = {"Content-Type": "application/vnd.github.sha; charset=utf-8", **headers}
            return reply_with(200, commit.sha.encode(), named)
        return reply_with_json({"sha": commit.sha, "commit": {"message": commit.title}}, headers)

    def _tree(self, request: Request, revision: str, headers: dict[str, str]) -> Reply:
        commit = self.repository.find(revision)
        if commit is None:
            return reply_with_json({"message": "Not Found"}, headers, 404)
        entries: dict[str, dict[str, object]] = {}
        for path, blob in commit.files.items():
            parts = path.split("/")
            for depth in range(1, len(parts)):
                folder = "/".join(parts[:depth])
                entries[folder] = {"path": folder, "mode": "040000", "type": "tree", "sha": git_oid("tree", b"")}
            entries[path] = self._entry(path, blob)
        listed = [entry for path, entry in sorted(entries.items()) if "recursive" in request.query or "/" not in path]
        return reply_with_json({"sha": commit.sha, "tree": listed, "truncated": self.truncated}, headers)

    def _entry(self, path: str, blob: Blob) -> dict[str, object]:
        mode = self.modes.get(path, "100644")
        if mode == "160000":
            return {"path": path, "mode": mode, "type": "commit", "sha": blob.git_oid}
        content = self.in_git(path, blob)
        return {"path": path, "mode": mode, "type": "blob", "sha": git_oid("blob", content), "size": len(content)}

    # Git's own content

    def _answer_raw(self, request: Request, rest: str) -> Reply:
        revision, _, path = rest.partition("/")
        commit = self.repository.find(revision)
        blob = commit.files.get(path) if commit else None
        if blob is None:
            return reply_with(404, b"404: Not Found")
        content = self.in_git(path, blob)
        headers = {"ETag": f'W/"{git_oid("blob", content)}"', "Content-Type": "text/plain; charset=utf-8"}
        return reply_with_file(request, content, len(content), headers)

    def in_git(self, path: str, blob: Blob) -> bytes:
        """What Git has of a file: of a large one, its pointer."""
        if LARGE_FILES.covers(path, blob):
            return blob.pointer
        assert isinstance(blob.content, bytes)
        return blob.content

    # Git LFS

    def _answer_lfs(self, request: Request, rest: str) -> Reply:
        if rest != "objects/batch":
            return _refused(404, "Not found")
        if request.method != "POST":
            return _refused(405, "Only POST")
        if not request.headers.get("accept", "").startswith(MEDIA_TYPE):
            return _refused(406, "The Accept header needs to be application/vnd.git-lfs+json")
        if not request.headers.get("content-type", "").startswith(MEDIA_TYPE):
            return _refused(415, "The Content-Type header needs to be application/vnd.git-lfs+json")
        return self._batch(request)

    def _batch(self, request: Request) -> Reply:
        try:
            asked = json.loads(request.body)
            wanted = [(str(one["oid"]), int(one["size"])) for one in asked["objects"]]
        except (ValueError, KeyError, TypeError):
            return _refused(422, "The request is not understood")
        known = asked.get("operation") == "download" and asked.get("hash_algo", "sha256") == "sha256"
        if not known or "basic" not in asked.get("transfers", ["basic"]):
            return _refused(422, "Only basic downloads by sha256 are offered")
        if len(wanted) > MOST_AT_ONCE:
            return _refused(413, "Too many objects")
        objects = [self._object(oid, size) for oid, size in wanted]
        document = {"transfer": "basic", "hash_algo": "sha256", "objects": objects}
        return reply_with(200, json.dumps(document).encode(), {"Content-Type": MEDIA_TYPE})

    def _object(self, oid: str, size: int) -> dict[str, object]:
        path, blob = self._large(oid)
        if blob is None or path in self.lost:
            code = self.lost.get(path, 404)
            return {"oid": oid, "size": size, "error": {"code": code, "message": "Object does not exist"}}
        action: dict[str, object] = {
            "href": f"{self.storage_url}{self.signer.sign(quote(f'/{self.repository.name}/{oid}'))}",
            "expires_in": int(self.signer.seconds),
        }
        if self.header:
            action["header"] = self.header
        return {"oid": oid, "size": blob.size, "authenticated": True, "actions": {"download": action}}

    def _answer_storage(self, request: Request) -> Reply:
        _, blob = self._large(request.path.rpartition("/")[2])
        if blob is None:
            return reply_with(404)
        sent = {name.lower(): value for name, value in self.header.items()}
        if not self.signer.opens(request) or not sent.items() <= dict(request.headers).items():
            return reply_with(403, b"<Error><Code>AccessDenied</Code></Error>")
        return reply_with_file(request, blob.content, blob.size, {"ETag": f'"{blob.sha256[:32]}"'})

    def _large(self, oid: str) -> tuple[str, Blob | None]:
        for commit in self.repository.commits:
            for path, blob in commit.files.items():
                if LARGE_FILES.covers(path, blob) and blob.sha256 == oid:
                    return path, blob
        return "", None


def file_at(commit: Commit, path: str) -> bytes:
    """The content of a file of a commit."""
    content = commit.files[path].content
    assert isinstance(content, bytes)
    return content


def _refused(status: int, message: str) -> Reply:
    return reply_with(status, json.dumps({"message": message}).encode(), {"Content-Type": MEDIA_TYPE})

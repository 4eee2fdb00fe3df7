"""A Hugging Face hub on loopback: its API and files on one port, its CDN on another."""

from __future__ import annotations

import argparse
import json
import posixpath
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, TextIO
from urllib.parse import parse_qs, quote

from tests.fakes.exchange import Pace, Reply, Request, reply_with, reply_with_file, reply_with_json
from tests.fakes.faults import ArmedFault, Fault, FaultPlan
from tests.fakes.hf_documents import collection_document, entry, is_clean, model_document, refs_document, siblings, tree
from tests.fakes.hf_listing import expanded, is_set, page, wanted
from tests.fakes.hf_refusals import (
    Refusal,
    collection_missing,
    entry_missing,
    not_logged_in,
    page_missing,
    repo_disabled,
    repo_gated,
    repo_missing,
    repo_moved,
    revision_missing,
    token_unknown,
)
from tests.fakes.hf_repository import Blob, Commit, Content, Gated, LfsPolicy, Repository, files_below
from tests.fakes.loopback import LoopbackServer, OnLoopback
from tests.fakes.signed_urls import UrlSigner
from tests.fakes.traffic import RequestLog

MODEL_VERBS = {"auth-check", "paths-info", "refs", "resolve", "revision", "tree"}
SmallFiles = Literal["redirect", "direct"]
SMALL_PAGE = 5
HUB_PAGE = 1000


class FakeHuggingFace(OnLoopback):
    """Serves repositories that live in memory or on disk. Start it, or use it as a context manager.

    `tokens` maps each valid token to the gated and private repositories it opens.
    `small_files` is how files that git itself keeps are answered: by a relative redirect, or directly.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        cdn_port: int = 0,
        page_size: int = SMALL_PAGE,
        small_files: SmallFiles = "redirect",
        lfs: LfsPolicy | None = None,
        signed_url_seconds: float = 3600.0,
        signed_url_uses: int | None = None,
        bytes_per_s: int | None = None,
        access_log: TextIO | None = None,
    ) -> None:
        self.page_size = page_size
        self.small_files: SmallFiles = small_files
        self.lfs = lfs or LfsPolicy()
        self.signer = UrlSigner(signed_url_seconds, signed_url_uses)
        self.tokens: dict[str, set[str]] = {}
        self.requests = RequestLog(access_log)
        self.faults = FaultPlan()
        self._repos: dict[str, Repository] = {}
        self._renamed: dict[str, str] = {}
        self._collections: dict[str, tuple[str, list[str]]] = {}
        self._cdn_blobs: dict[str, Blob] = {}
        pace = Pace.of_rate(bytes_per_s) if bytes_per_s else None
        self._hub = LoopbackServer(
            "hub", self.faults.around(self._answer_hub), self.requests, host=host, port=port, pace=pace
        )
        self._cdn = LoopbackServer(
            "cdn", self.faults.around(self._answer_cdn), self.requests, host=host, port=cdn_port, pace=pace
        )

    @property
    def endpoint(self) -> str:
        return f"http://{self._hub.host}:{self._hub.port}"

    @property
    def cdn_endpoint(self) -> str:
        return f"http://{self._cdn.host}:{self._cdn.port}"

    def servers(self) -> tuple[LoopbackServer, ...]:
        return (self._hub, self._cdn)

    def add_repo(
        self,
        name: str,
        files: Mapping[str, Content],
        *,
        gated: Gated = False,
        private: bool = False,
        disabled: bool = False,
        branches: Mapping[str, Mapping[str, Content]] | None = None,
        tags: Mapping[str, str] | None = None,
        facts: Mapping[str, object] | None = None,
    ) -> Repository:
        """Add a repository. A branch holds the files of main and its own; a tag names a revision.

        `facts` are fields of the model document that no file can tell, such as `downloads`.
        """
        repo = Repository(name, gated, private, disabled, facts or {})
        repo.commit(files, title="Initial commit")
        for branch, changes in (branches or {}).items():
            repo.commit(changes, branch=branch)
        for tag, revision in (tags or {}).items():
            repo.tag(tag, revision)
        self._repos[name] = repo
        return repo

    def add_directory(self, name: str, directory: Path) -> Repository:
        """Add a repository with the files that lie in a directory now."""
        return self.add_repo(name, files_below(directory))

    def repo(self, name: str) -> Repository:
        return self._repos[name]

    def commit(self, name: str, files: Mapping[str, Content | None], *, branch: str = "main") -> str:
        return self._repos[name].commit(files, branch=branch)

    def rename(self, old: str, new: str) -> None:
        """Move a repository; the old name goes on as a redirect."""
        repo = self._repos.pop(old)
        repo.name = new
        self._repos[new] = repo
        self._renamed[old] = new

    def remove(self, name: str) -> None:
        del self._repos[name]

    def add_collection(self, slug: str, names: Sequence[str], *, title: str = "A collection") -> None:
        """Add a collection of models, known by `owner/title-and-a-number`."""
        self._collections[slug] = (title, list(names))

    def add_fault(self, fault: Fault) -> ArmedFault:
        return self.faults.add(fault)

    def remove_fault(self, armed: ArmedFault) -> None:
        self.faults.remove(armed)

    def _answer_hub(self, request: Request) -> Reply:
        try:
            return self._route(request)
        except Refusal as refusal:
            return refusal.reply()

    def _route(self, request: Request) -> Reply:
        segments = request.segments
        match segments:
            case ["api", "whoami-v2"]:
                return self._whoami(request)
            case ["api", "models"]:
                return self._list_models(request)
            case ["api", "collections", owner, name]:
                return self._collection(request, f"{owner}/{name}")
            case ["api", "models", *rest]:
                name, verb = _name_and_verb(rest)
                return self._answer_model(request, self._visible(request, name), verb)
            case ["api", "resolve-cache", "models", first, second, third, *rest]:
                # A name of one part is rare, and only the repositories tell it from an author.
                names = [first] if first in self._repos else [first, second]
                revision, *path = [first, second, third, *rest][len(names) :]
                repo = self._readable(request, "/".join(names))
                return self._serve_small_file(request, repo, revision, "/".join(path))
            case ["api", *_]:
                raise page_missing()
            case _:
                return self._answer_file(request, *_name_and_verb(segments))

    def _answer_file(self, request: Request, name: str, verb: list[str]) -> Reply:
        match verb:
            case ["resolve", revision, *path] if path:
                return self._resolve(request, self._readable(request, name), revision, "/".join(path))
            case _:
                return self._serve_lost_name(request)

    def _answer_model(self, request: Request, repo: Repository, verb: list[str]) -> Reply:
        match verb:
            case []:
                return self._model(request, repo, repo.head)
            case ["revision", revision]:
                return self._model(request, repo, _commit(repo, revision))
            case ["tree", revision, *folder]:
                return self._tree(request, _commit(repo, revision), "/".join(folder))
            case ["paths-info", revision]:
                return self._paths_info(request, _commit(repo, revision))
            case ["refs"]:
                with_pull_requests = request.asks("include_prs") is not None
                return reply_with_json(refs_document(repo, with_pull_requests=with_pull_requests))
            case ["auth-check", *_]:
                self._check_gate(request, repo)
                return reply_with_json({})
            case _:
                raise page_missing()

    def _whoami(self, request: Request) -> Reply:
        token = self._valid_token(request)
        if token is None:
            raise not_logged_in()
        access = {"displayName": "test token", "role": "read"}
        return reply_with_json(
            {
                "type": "user",
                "id": "0" * 24,
                "name": "tester",
                "fullname": "Tester",
                "orgs": [],
                "auth": {"type": "access_token", "accessToken": access},
            }
        )

    def _list_models(self, request: Request) -> Reply:
        opened = self.tokens.get(self._valid_token(request) or "", set())
        documents = []
        for repo in list(self._repos.values()):
            if (not repo.private or repo.name in opened) and not repo.disabled:
                document = model_document(repo, repo.head)
                if request.asks("full"):
                    document["siblings"] = siblings(repo.head, self.lfs, with_blobs=False)
                documents.append(document)
        found = [expanded(request, document) for document in wanted(request, documents)]
        models, headers = page(request, found, self.page_size)
        return reply_with_json(models, headers)

    def _collection(self, request: Request, slug: str) -> Reply:
        opened = self.tokens.get(self._valid_token(request) or "", set())
        if slug not in self._collections:
            raise collection_missing()
        title, names = self._collections[slug]
        repos = [self._repos[name] for name in names if name in self._repos]
        shown = [repo for repo in repos if not repo.private or repo.name in opened]
        return reply_with_json(collection_document(slug, title, shown))

    def _model(self, request: Request, repo: Repository, commit: Commit) -> Reply:
        document = model_document(repo, commit)
        with_blobs = request.asks("blobs") is not None
        document["siblings"] = siblings(commit, self.lfs, with_blobs=with_blobs)
        return reply_with_json(expanded(request, document), {"X-Repo-Commit": commit.sha})

    def _tree(self, request: Request, commit: Commit, folder: str) -> Reply:
        recursive, expand = (is_set(request.asks(name)) for name in ("recursive", "expand"))
        entries = tree(commit, self.lfs, folder, recursive=recursive, expand=expand)
        if entries is None:
            raise entry_missing(folder, commit.sha)
        entries, headers = page(request, entries, self.page_size)
        return reply_with_json(entries, {**headers, "X-Repo-Commit": commit.sha})

    def _paths_info(self, request: Request, commit: Commit) -> Reply:
        asked = _form(request)
        expand = is_set(next(iter(asked.get("expand", [])), None))
        found = []
        for path in asked.get("paths", []):
            try:
                found.append(entry(commit, self.lfs, path, expand=expand))
            except KeyError:
                continue
        return reply_with_json(found)

    def _resolve(self, request: Request, repo: Repository, revision: str, path: str) -> Reply:
        commit = _commit(repo, revision)
        blob = commit.files.get(path)
        if blob is None:
            raise entry_missing(path, commit.sha)
        if self.lfs.covers(path, blob):
            return self._redirect_to_cdn(request, repo, commit, path)
        if self.small_files == "redirect" and is_clean(path):
            target = quote(f"/api/resolve-cache/models/{repo.name}/{commit.sha}/{path}")
            return reply_with(307, headers={**_small_file_headers(commit, blob), "Location": target})
        return reply_with_file(request, blob.content, blob.size, _small_file_headers(commit, blob))

    def _redirect_to_cdn(self, request: Request, repo: Repository, commit: Commit, path: str) -> Reply:
        blob = commit.files[path]
        self._cdn_blobs[blob.sha256] = blob
        signed = self.signer.sign(quote(f"/repos/{repo.name}/{blob.sha256}/{path.rpartition('/')[2]}"))
        host = request.address.rpartition(":")[0] or request.address
        headers = {
            "Location": f"http://{host}:{self._cdn.port}{signed}",
            "X-Repo-Commit": commit.sha,
            "X-Linked-Size": str(blob.size),
            "X-Linked-Etag": f'"{blob.sha256}"',
            "Accept-Ranges": "bytes",
        }
        return reply_with(302, headers=headers)

    def _serve_small_file(self, request: Request, repo: Repository, revision: str, path: str) -> Reply:
        commit = _commit(repo, revision)
        blob = commit.files.get(path)
        if blob is None:
            raise entry_missing(path, commit.sha)
        return reply_with_file(request, blob.content, blob.size, _small_file_headers(commit, blob))

    def _serve_lost_name(self, request: Request) -> Reply:
        """Serve a file whose hostile name was folded away when the client made an address of it."""
        for repo in self._repos.values():
            for path in (path for path in repo.head.files if not is_clean(path)):
                folded = {
                    posixpath.normpath(f"/{repo.name}/resolve/{quote(revision, safe='')}/{path}")
                    for revision in ("main", repo.sha)
                }
                if request.path in folded:
                    return self._resolve(request, self._readable(request, repo.name), "main", path)
        raise page_missing()

    def _answer_cdn(self, request: Request) -> Reply:
        oid = "".join(request.segments[-2:-1])
        blob = self._cdn_blobs.get(oid)
        if blob is None or not self.signer.opens(request):
            return reply_with(403, b"<Error><Code>AccessDenied</Code><Message>Access denied</Message></Error>")
        # A storage service names its objects in its own way: this is not the hash of the file.
        return reply_with_file(request, blob.content, blob.size, {"ETag": f'"{oid[:32]}-1"'})

    def _visible(self, request: Request, name: str) -> Repository:
        """The repository, if whoever asks may know of it."""
        token = self._valid_token(request)
        if name in self._renamed:
            raise repo_moved(request.target, name, self._renamed[name])
        repo = self._repos.get(name)
        if repo is None or (repo.private and name not in self.tokens.get(token or "", set())):
            raise repo_missing(anonymous=token is None)
        if repo.disabled:
            raise repo_disabled()
        return repo

    def _readable(self, request: Request, name: str) -> Repository:
        """The repository, if whoever asks may read its files."""
        repo = self._visible(request, name)
        self._check_gate(request, repo)
        return repo

    def _check_gate(self, request: Request, repo: Repository) -> None:
        token = self._valid_token(request)
        if not repo.gated or repo.name in self.tokens.get(token or "", set()):
            return
        raise repo_gated(repo.name, anonymous=token is None)

    def _valid_token(self, request: Request) -> str | None:
        header = request.headers.get("authorization")
        if header is None:
            return None
        token = header.removeprefix("Bearer ").strip()
        if token not in self.tokens:
            raise token_unknown()
        return token


def _commit(repo: Repository, revision: str) -> Commit:
    commit = repo.find(revision)
    if commit is None:
        raise revision_missing(revision)
    return commit


def _name_and_verb(segments: list[str]) -> tuple[str, list[str]]:
    """Divide a path after its repository's name, which has one part or two."""
    parts = 1 if segments[1:2] and segments[1] in MODEL_VERBS else 2
    return "/".join(segments[:parts]), segments[parts:]


def _small_file_headers(commit: Commit, blob: Blob) -> dict[str, str]:
    return {"X-Repo-Commit": commit.sha, "ETag": f'"{blob.git_oid}"', "Accept-Ranges": "bytes"}


def _form(request: Request) -> dict[str, list[str]]:
    if request.headers.get("content-type", "").startswith("application/json"):
        document = json.loads(request.body)
        return {name: value if isinstance(value, list) else [str(value)] for name, value in document.items()}
    return parse_qs(request.body.decode())


def main() -> None:
    """Serve each directory ROOT/ORG/NAME as a repository until SIGTERM."""
    options = _parser().parse_args()
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    with ExitStack() as stack:
        log = stack.enter_context(options.access_log.open("a")) if options.access_log else None
        hub = FakeHuggingFace(
            host=options.host,
            port=options.port,
            cdn_port=options.cdn_port,
            page_size=HUB_PAGE,
            bytes_per_s=options.rate,
            access_log=log,
        )
        for name, directory in _directories(options.root):
            hub.add_directory(name, directory)
        stack.enter_context(hub)
        json.dump({"endpoint": hub.endpoint, "cdn_endpoint": hub.cdn_endpoint}, sys.stdout)
        print(flush=True)
        stopped.wait()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fakes.huggingface", description=main.__doc__)
    parser.add_argument("--root", type=Path, required=True, help="a directory of ORG/NAME directories")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 chooses a free one")
    parser.add_argument("--cdn-port", type=int, default=0)
    parser.add_argument("--rate", type=int, help="bytes per second and connection")
    parser.add_argument("--access-log", type=Path, help="a file that gets one JSON line per request")
    return parser


def _directories(root: Path) -> Iterator[tuple[str, Path]]:
    for author in sorted(path for path in root.iterdir() if path.is_dir()):
        for directory in sorted(path for path in author.iterdir() if path.is_dir()):
            yield f"{author.name}/{directory.name}", directory


if __name__ == "__main__":
    main()

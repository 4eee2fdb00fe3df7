"""Builds the JSON documents of the Hugging Face hub API out of repositories and commits."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from datetime import datetime

from tests.fakes.faults import RewriteJson
from tests.fakes.hf_repository import Blob, Commit, LfsPolicy, Repository, git_oid

Document = dict[str, object]


def model_document(repo: Repository, commit: Commit) -> Document:
    """A model without its files, as in a listing."""
    card = commit.card
    document: Document = {
        "_id": commit.sha[:24],
        "id": repo.name,
        "modelId": repo.name,
        "author": repo.author,
        "sha": commit.sha,
        "createdAt": _timestamp(repo.commits[0].created_at),
        "lastModified": _timestamp(commit.created_at),
        "private": repo.private,
        "gated": repo.gated,
        "disabled": repo.disabled,
        "downloads": 0,
        "likes": 0,
        "tags": card.tags,
        "cardData": dict(card.data),
        "config": dict(card.config),
        "usedStorage": sum(blob.size for blob in commit.files.values()),
    }
    for name in ("pipeline_tag", "library_name"):
        if name in card.data:
            document[name] = card.data[name]
    if card.parameters:
        document["safetensors"] = {
            "parameters": dict(card.parameters),
            "total": sum(card.parameters.values()),
        }
    return {**document, **repo.facts}


def collection_document(slug: str, title: str, items: Iterable[Repository]) -> Document:
    """A collection with its models, in their order. Of a model it tells less than a listing does."""
    fields = ("id", "author", "downloads", "gated", "lastModified", "likes", "pipeline_tag", "private")
    entries = []
    for position, repo in enumerate(items):
        told = model_document(repo, repo.head)
        entry_of_model = {name: told[name] for name in fields if name in told}
        entries.append({"_id": f"{position:024x}", "position": position, "type": "model", **entry_of_model})
    owner = {"_id": "0" * 24, "name": slug.partition("/")[0], "type": "org"}
    return {
        "slug": slug,
        "title": title,
        "owner": owner,
        "items": entries,
        "lastUpdated": "2025-01-02T03:04:05.000Z",
        "position": 0,
        "private": False,
        "theme": "blue",
        "upvotes": 0,
        "gating": False,
    }


def siblings(commit: Commit, lfs: LfsPolicy, *, with_blobs: bool) -> list[Document]:
    return [
        {"rfilename": name, **(_blob_document(name, blob, lfs) if with_blobs else {})}
        for name, blob in sorted(commit.files.items())
    ]


def tree(commit: Commit, lfs: LfsPolicy, folder: str, *, recursive: bool, expand: bool) -> list[Document] | None:
    """What lies in a folder, or None where there is no such folder."""
    folders = _folders(commit)
    if folder and folder not in folders:
        return None
    inside = f"{folder}/" if folder else ""
    names = [name for name in (*folders, *commit.files) if name.startswith(inside) and name != folder]
    return [entry(commit, lfs, name, expand=expand) for name in sorted(names) if recursive or _parent(name) == folder]


def entry(commit: Commit, lfs: LfsPolicy, path: str, *, expand: bool) -> Document:
    """One file or folder of a tree. KeyError where there is none."""
    blob = commit.files.get(path)
    if blob is None:
        if path not in _folders(commit):
            raise KeyError(path)
        document: Document = {
            "type": "directory",
            "path": path,
            "oid": _folder_oid(commit, lfs, path),
            "size": 0,
        }
    else:
        document = {"type": "file", "path": path, "size": blob.size, "oid": _git_oid(path, blob, lfs)}
        if lfs.covers(path, blob):
            document["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": len(blob.pointer)}
    if expand:
        date = _timestamp(commit.created_at)
        document["lastCommit"] = {"id": commit.sha, "title": commit.title, "date": date}
        document["securityFileStatus"] = {"status": "safe", "avScan": None, "pickleImportScan": None}
    return document


def refs_document(repo: Repository, *, with_pull_requests: bool) -> Document:
    kinds = {"branches": "refs/heads/", "tags": "refs/tags/", "converts": "refs/convert/"}
    if with_pull_requests:
        kinds["pullRequests"] = "refs/pr/"
    return {
        kind: [
            {"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": sha}
            for ref, sha in repo.refs.items()
            if ref.startswith(prefix)
        ]
        for kind, prefix in kinds.items()
    }


def lying_listing(
    *,
    names: Mapping[str, str] | None = None,
    oids: Mapping[str, str] | None = None,
    sizes: Mapping[str, int] | None = None,
) -> RewriteJson:
    """A kind of fault: listings that give files, by their true name, another name, hash or size."""

    def lie(document: object) -> object:
        if isinstance(document, list):
            return [_lie_about(one, names or {}, oids or {}, sizes or {}) for one in document]
        if isinstance(document, dict) and isinstance(document.get("siblings"), list):
            lied = [_lie_about(one, names or {}, oids or {}, sizes or {}) for one in document["siblings"]]
            return {**document, "siblings": lied}
        return document

    return RewriteJson(lie)


def is_clean(name: str) -> bool:
    """Whether a file name is one that git would allow."""
    return all(part not in {"", ".", ".."} for part in name.split("/"))


def _lie_about(document: object, names: Mapping[str, str], oids: Mapping[str, str], sizes: Mapping[str, int]) -> object:
    if not isinstance(document, dict):
        return document
    true_name = str(document.get("rfilename", document.get("path")))
    lied = dict(document)
    lfs = dict(lied["lfs"]) if isinstance(lied.get("lfs"), dict) else None
    if true_name in names:
        lied["rfilename" if "rfilename" in lied else "path"] = names[true_name]
    if true_name in oids:
        where, key = (lied, "blobId" if "rfilename" in lied else "oid") if lfs is None else (lfs, "oid")
        where["sha256" if "sha256" in where else key] = oids[true_name]
    if true_name in sizes:
        for holder in (lied, lfs or {}):
            holder["size"] = sizes[true_name]
    if lfs is not None:
        lied["lfs"] = lfs
    return lied


def _blob_document(name: str, blob: Blob, lfs: LfsPolicy) -> Document:
    document: Document = {"size": blob.size, "blobId": _git_oid(name, blob, lfs)}
    if lfs.covers(name, blob):
        document["lfs"] = {"sha256": blob.sha256, "size": blob.size, "pointerSize": len(blob.pointer)}
    return document


def _git_oid(name: str, blob: Blob, lfs: LfsPolicy) -> str:
    return blob.pointer_oid if lfs.covers(name, blob) else blob.git_oid


def _parent(name: str) -> str:
    return posixpath.dirname(name) if is_clean(name) else ""


def _folders(commit: Commit) -> list[str]:
    found: dict[str, None] = {}
    for name in commit.files:
        folder = _parent(name)
        while folder:
            found[folder] = None
            folder = _parent(folder)
    return list(found)


def _folder_oid(commit: Commit, lfs: LfsPolicy, folder: str) -> str:
    """The name that git gives to a folder."""
    lines = []
    for name in _children(commit, folder):
        blob = commit.files.get(name)
        mode = "40000" if blob is None else "100644"
        oid = _folder_oid(commit, lfs, name) if blob is None else _git_oid(name, blob, lfs)
        lines.append(f"{mode} {posixpath.basename(name)}\0".encode() + bytes.fromhex(oid))
    return git_oid("tree", b"".join(lines))


def _children(commit: Commit, folder: str) -> Iterable[str]:
    folders = set(_folders(commit))
    names = [name for name in (*folders, *commit.files) if _parent(name) == folder]

    def git_order(name: str) -> str:
        return f"{name}/" if name in folders else name

    return sorted(names, key=git_order)


def _timestamp(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.000Z")

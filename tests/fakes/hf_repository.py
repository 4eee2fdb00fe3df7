"""Model repositories as a Hugging Face hub keeps them: blobs with real hashes, commits, branches and tags."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Literal

from tests.fakes.hf_card import Card, read_card

LFS_PATTERNS = ("*.safetensors", "*.bin", "*.onnx", "*.gguf", "*.h5", "*.msgpack", "*.pt")
LFS_THRESHOLD_BYTES = 1024 * 1024
FIRST_COMMIT_AT = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)

Content = bytes | Path
Gated = Literal[False, "auto", "manual"]


@dataclass(frozen=True)
class Blob:
    """The content of one file. Hashes are computed when somebody asks, and then kept."""

    content: Content
    size: int
    mtime_ns: int = 0

    @classmethod
    def of(cls, content: Content) -> Blob:
        if isinstance(content, bytes):
            return cls(content, len(content))
        facts = content.stat()
        return cls(content, facts.st_size, facts.st_mtime_ns)

    @cached_property
    def sha256(self) -> str:
        if isinstance(self.content, bytes):
            return hashlib.sha256(self.content).hexdigest()
        with self.content.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @cached_property
    def git_oid(self) -> str:
        content = self.content if isinstance(self.content, bytes) else self.content.read_bytes()
        return git_oid("blob", content)

    @cached_property
    def pointer(self) -> bytes:
        """The small text that git keeps in place of a large file."""
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()

    @cached_property
    def pointer_oid(self) -> str:
        return git_oid("blob", self.pointer)

    @property
    def identity(self) -> str:
        """Tells contents apart without reading a large file."""
        return self.sha256 if isinstance(self.content, bytes) else f"{self.content} {self.size} {self.mtime_ns}"


@dataclass(frozen=True)
class LfsPolicy:
    """Which files are large ones, known by their sha256 and served by the CDN."""

    patterns: tuple[str, ...] = LFS_PATTERNS
    threshold_bytes: int = LFS_THRESHOLD_BYTES

    def covers(self, name: str, blob: Blob) -> bool:
        basename = name.rpartition("/")[2]
        return blob.size > self.threshold_bytes or any(fnmatchcase(basename, glob) for glob in self.patterns)


@dataclass(frozen=True)
class Commit:
    """The files of a repository at one moment."""

    sha: str
    title: str
    created_at: datetime
    files: Mapping[str, Blob]

    @cached_property
    def card(self) -> Card:
        return read_card({name: blob.content for name, blob in self.files.items()})


@dataclass
class Repository:
    """One repository: its history, who may read it, and what its page says."""

    name: str
    gated: Gated = False
    private: bool = False
    disabled: bool = False
    facts: Mapping[str, object] = field(default_factory=dict)
    _commits: dict[str, Commit] = field(default_factory=dict)
    _refs: dict[str, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def author(self) -> str:
        return self.name.partition("/")[0]

    @property
    def sha(self) -> str:
        return self._refs["refs/heads/main"]

    @property
    def head(self) -> Commit:
        return self._commits[self.sha]

    @property
    def commits(self) -> list[Commit]:
        with self._lock:
            return list(self._commits.values())

    @property
    def refs(self) -> dict[str, str]:
        """Commits by full reference name, such as `refs/heads/main` or `refs/tags/v1`."""
        with self._lock:
            return dict(self._refs)

    def commit(self, files: Mapping[str, Content | None], *, branch: str = "main", title: str = "Update files") -> str:
        """Add or replace files on a branch, remove those that are None, and tell the new commit's name."""
        with self._lock:
            ref = full_ref(branch)
            parent = self._commits.get(self._refs.get(ref, self._refs.get("refs/heads/main", "")))
            blobs = dict(parent.files) if parent else {}
            for name, content in files.items():
                blobs.pop(name, None)
                if content is not None:
                    blobs[name] = Blob.of(content)
            commit = self._new_commit(blobs, parent, title)
            self._commits[commit.sha] = commit
            self._refs[ref] = commit.sha
            return commit.sha

    def branch(self, name: str, revision: str = "main") -> None:
        self._point(full_ref(name), revision)

    def tag(self, name: str, revision: str = "main") -> None:
        self._point(f"refs/tags/{name}", revision)

    def find(self, revision: str) -> Commit | None:
        """The commit that a branch, a tag, a full reference or a commit's own name means."""
        with self._lock:
            for ref in (full_ref(revision), f"refs/tags/{revision}"):
                if ref in self._refs:
                    return self._commits[self._refs[ref]]
            return self._commits.get(revision)

    def _point(self, ref: str, revision: str) -> None:
        commit = self.find(revision)
        if commit is None:
            raise KeyError(revision)
        with self._lock:
            self._refs[ref] = commit.sha

    def _new_commit(self, blobs: Mapping[str, Blob], parent: Commit | None, title: str) -> Commit:
        number = len(self._commits)
        lines = [self.name, str(number), title, parent.sha if parent else ""]
        lines += [f"{blob.identity} {name}" for name, blob in sorted(blobs.items())]
        sha = hashlib.sha1("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()
        return Commit(sha, title, FIRST_COMMIT_AT + timedelta(hours=number), blobs)


def full_ref(branch: str) -> str:
    return branch if branch.startswith("refs/") else f"refs/heads/{branch}"


def git_oid(kind: str, content: bytes) -> str:
    return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content).hexdigest()


def files_below(directory: Path) -> dict[str, Path]:
    """The files of a model directory by their name in the repository, without what tools leave behind."""
    return {path.relative_to(directory).as_posix(): path for path in sorted(_walk(directory))}


def _walk(directory: Path) -> Iterable[Path]:
    for path in directory.iterdir():
        if path.is_dir():
            if path.name not in {".git", ".cache"}:
                yield from _walk(path)
        elif path.is_file():
            yield path

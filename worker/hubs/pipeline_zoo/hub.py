"""The hub: which models of the repository are meant, which files they are, and how these are fetched."""

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec

from common.catalog.pipeline_zoo import PIPELINE_ZOO, PipelineZooOptions
from common.errors import IntegrityMismatch, InvalidParameters, SourceNotFound, SourcePrivateOrMissing, SourceUnsafe
from common.plugins import Access, Attempt, Hub, ListingHub, ListItem, ListPage, ListQuery, NetworkRules
from common.spec import Digest, Manifest, RemoteFile, Source, check_distinct, check_file_path
from common.vocabulary import DigestAlgorithm, Format
from worker.hubs.pipeline_zoo.forge import Entry, Forge, commit_of, content_of, files_of, refusal
from worker.hubs.pipeline_zoo.lfs import MOST_POINTER_BYTES, Loan, Pointer, borrow, read_pointer
from worker.hubs.pipeline_zoo.licences import kind_of
from worker.net import HubClient, Origin
from worker.transfer import bring

_DEFAULT_URL = "https://github.com/dlstreamer/pipeline-zoo-models"
_DEFAULT_REVISION = "main"
_STORAGE = "storage/"
_OWNER = "dlstreamer"
_ALL = "all"
_NAME = re.compile(PIPELINE_ZOO.name_pattern, re.ASCII)
_LICENCE = re.compile(r"(LICEN[SC]E|COPYING)(\.(md|txt))?", re.IGNORECASE)
_MOST_LICENCE_BYTES = 256 * 1024
_MOST_BYTES = 16 * 1024 * 1024
_MOST_FILE_BYTES = 8 * 1024**4
"""Larger than any file of a model."""
_LENT_S = 60.0
_MOST_LOANS = 10
"""So many times in a row addresses may end that were not even good for `_LENT_S`."""

_Models = dict[str, list[Entry]]


@dataclass(frozen=True, slots=True)
class _Doors:
    """Whom to ask: `api` for commits and trees, `files` for what they hold."""

    api: HubClient
    files: HubClient


class PipelineZooHub:
    """The repository at PIPELINE_ZOO_URL."""

    def __init__(self, access: Access) -> None:
        url = access.settings.get("PIPELINE_ZOO_URL") or _DEFAULT_URL
        self._forge = Forge.of(url, access.settings.get("PIPELINE_ZOO_API_URL") or None)
        self._network = access.network

    def resolve(self, source: Source, options: PipelineZooOptions) -> Manifest:  # noqa: ARG002 - it has no choices
        """Pin the repository to a commit and list the files of the models."""
        _check_names(source.name)
        with self._doors() as doors:
            commit = commit_of(doors.api, source.revision or _DEFAULT_REVISION)
            entries = files_of(doors.api, commit)
            models = _models(entries)
            chosen = {name: models[name] for name in _chosen(source.name, models)}
            parted = PIPELINE_ZOO.names_several(source.name)
            files = [
                self._remote_file(doors.files, commit, entry, (f"{name}/" if parted else "") + _inside(entry, name))
                for name, held in chosen.items()
                for entry in held
            ]
            licence = self._licence(doors.files, commit, entries, chosen)
        check_distinct([file.path for file in files])
        _check_pairs([file.path for file in files])
        return Manifest(source=source, revision=commit, format=Format.OPENVINO, files=tuple(files), licence=licence)

    def fetch(self, manifest: Manifest, options: PipelineZooOptions, attempt: Attempt) -> None:  # noqa: ARG002
        """Bring the files. Where the large ones are is asked now, and again when those addresses have expired."""
        short_loans = 0
        while True:
            attempt.checkpoint()
            borrowed_at = time.monotonic()
            loan = self._borrow(manifest.files, attempt)
            files = [_at(file, loan) for file in manifest.files]
            try:
                bring(files, attempt, loan.credential, network=self._reach(), trusted=False)
            except (SourcePrivateOrMissing, SourceNotFound):
                now = time.monotonic()
                short_loans = short_loans + 1 if now - borrowed_at < _LENT_S else 0
                if now < loan.good_until or short_loans > _MOST_LOANS:
                    raise
            else:
                return

    def list(self, query: ListQuery) -> ListPage:
        """The models of the repository as it is now, by name."""
        with self._doors() as doors:
            names = sorted(_models(files_of(doors.api, _DEFAULT_REVISION)))
        search = str(query.filters.get("search") or "").casefold()
        found = [name for name in names if search in name.casefold()]
        shown = found[query.offset : query.offset + query.limit]
        return ListPage(
            items=tuple(ListItem(name=name, owner=_OWNER) for name in shown),
            has_more=query.offset + len(shown) < len(found),
            total=len(found),
        )

    @contextmanager
    def _doors(self) -> Iterator[_Doors]:
        with (
            HubClient(self._forge.api, self._network, classify=refusal, most_bytes=_MOST_BYTES) as api,
            HubClient(self._forge.repository, self._network, classify=refusal) as files,
        ):
            yield _Doors(api, files)

    def _remote_file(self, client: HubClient, commit: str, entry: Entry, path: str) -> RemoteFile:
        """A file as it is fetched: small ones may be pointers, which stand for the file itself."""
        url, size = self._forge.file(commit, entry.path), entry.size
        if not entry.is_plain or size is None or size < 0:
            raise SourceUnsafe(f"The Pipeline Zoo lists {entry.path[:200]!r}, which is no plain file")
        digest = Digest(algorithm=DigestAlgorithm.GIT_SHA1, value=entry.sha)
        pointer = read_pointer(content_of(client, url, entry)) if size <= MOST_POINTER_BYTES else None
        if pointer is not None:
            size, digest = pointer.size, Digest(algorithm=DigestAlgorithm.SHA256, value=pointer.oid)
        if size > _MOST_FILE_BYTES:
            raise SourceUnsafe(f"The Pipeline Zoo lists an impossible size for {entry.path[:200]!r}")
        return RemoteFile(path=check_file_path(path), size=size, digest=digest, url=url)

    def _licence(self, client: HubClient, commit: str, entries: Sequence[Entry], chosen: _Models) -> str | None:
        """The licence of all the models, if it is one and known. A model without its own has the repository's."""
        shared = _licence_file(entries, "")
        found = {name: _licence_file(held, f"{_STORAGE}{name}/") or shared for name, held in chosen.items()}
        kinds = set()
        for entry in {entry.sha: entry for entry in found.values() if entry is not None}.values():
            text = content_of(client, self._forge.file(commit, entry.path), entry).decode("utf-8", "replace")
            kinds.add(kind_of(text))
        return next(iter(kinds)) if len(kinds) == 1 and None not in found.values() else None

    def _borrow(self, files: Sequence[RemoteFile], attempt: Attempt) -> Loan:
        """Where the large files are that the content store does not have."""
        wanted = {
            file.digest.value: Pointer(file.digest.value, file.size)
            for file in files
            if file.digest is not None
            and file.digest.algorithm is DigestAlgorithm.SHA256
            and file.size is not None
            and attempt.stored(file.digest.value) is None
        }
        with self._doors() as doors:
            return borrow(doors.files, self._forge.repository, list(wanted.values()))

    def _reach(self) -> NetworkRules:
        """The operator has named the repository, which may be anywhere; not the places that the answers name."""
        named = {Origin.of(url) for url in (self._forge.repository, self._forge.raw)}
        hosts = self._network.private_hosts | {f"{origin.host}:{origin.port}" for origin in named}
        return msgspec.structs.replace(self._network, private_hosts=frozenset(hosts))


def _check_names(name: str) -> None:
    if name == _ALL:
        return
    for one in name.split(","):
        if not _NAME.fullmatch(one) or ".." in one:
            raise InvalidParameters(f"Invalid model name: {one[:100]!r}")


def _models(entries: Sequence[Entry]) -> _Models:
    """The models that can be asked for by name, with their files, in the order of the names."""
    models: _Models = {}
    for entry in sorted(entries, key=lambda entry: entry.path):
        name, _, path = entry.path.removeprefix(_STORAGE).partition("/")
        if entry.path.startswith(_STORAGE) and path and _NAME.fullmatch(name) and ".." not in name:
            models.setdefault(name, []).append(entry)
    return models


def _chosen(asked: str, models: _Models) -> list[str]:
    """The names that are meant. Raises SourceNotFound for all that are missing at once."""
    names = list(models) if asked == _ALL else asked.split(",")
    missing = [name for name in names if name not in models]
    if missing or not names:
        raise SourceNotFound(
            f"Pipeline-zoo model(s) not found in repository storage: {', '.join(missing) or 'there is none'}",
            hint="Check the spelling; POST /models/list with hub 'pipeline-zoo-models' shows the names.",
        )
    return names


def _inside(entry: Entry, model: str) -> str:
    return entry.path.removeprefix(f"{_STORAGE}{model}/")


def _check_pairs(paths: Sequence[str]) -> None:
    """Raise IntegrityMismatch where a network lacks its weights."""
    known = set(paths)
    for path in paths:
        if path.endswith(".xml") and f"{path.removesuffix('.xml')}.bin" not in known:
            raise IntegrityMismatch(
                f"{path} has no .bin beside it in the repository",
                hint="The model is not whole in the Pipeline Zoo. Try another revision.",
            )


def _licence_file(entries: Sequence[Entry], folder: str) -> Entry | None:
    for entry in entries:
        name = entry.path.removeprefix(folder)
        small = entry.is_plain and (entry.size or 0) <= _MOST_LICENCE_BYTES
        if entry.path.startswith(folder) and small and _LICENCE.fullmatch(name):
            return entry
    return None


def _at(file: RemoteFile, loan: Loan) -> RemoteFile:
    """The file with the address that was lent for it, if it is a large one."""
    lent = loan.urls.get(file.digest.value) if file.digest else None
    return file if lent is None else msgspec.structs.replace(file, url=lent)


_contract: type[Hub[PipelineZooOptions]] = PipelineZooHub
_listing: type[ListingHub] = PipelineZooHub

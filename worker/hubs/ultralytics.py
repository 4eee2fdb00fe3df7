"""Ultralytics' official weights: a release of files at GitHub, or the same files at a mirror."""

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from common.catalog.ultralytics import (
    CALIBRATION,
    LICENCE,
    PROFILE,
    UltralyticsOptions,
    names_in,
    official_models,
)
from common.clock import utc_now
from common.errors import (
    InvalidParameters,
    PluginNotInstalled,
    RateLimited,
    RevisionNotFound,
    SourceNotFound,
    SourcePrivateOrMissing,
    SourceUnsafe,
    StageError,
)
from common.plugins import Access, Attempt, Hub, ListingHub, ListItem, ListPage, ListQuery
from common.spec import Digest, Manifest, RemoteFile, Source, check_file_path
from common.vocabulary import DigestAlgorithm, Format
from worker.net import HubClient
from worker.transfer import bring

_ASSETS = "https://github.com/ultralytics/assets/releases/download"
_GITHUB = re.compile(r"https://github\.com/(?P<repository>[\w.-]+/[\w.-]+)/releases/download")
_WEIGHTS_RELEASE, _PICTURES_RELEASE = "v8.4.0", "v0.0.0"
_RELEASE = re.compile(r"v\d{1,4}\.\d{1,4}\.\d{1,4}", re.ASCII)
_PAGE = 100
_MOST_ASSETS = 10_000
_LONGEST_WAIT_S = 3600.0
_MOST_FILE_BYTES = 4 * 1024**3
"""Larger than any file of these releases."""
_LENGTH = re.compile(r"\d{1,15}", re.ASCII)

# These pictures lie at neither of the two releases. Who offers them offers no digest; they have not changed since 2017.
_COCO = "http://images.cocodataset.org/zips/val2017.zip"
_COCO_BYTES = 815_585_330
_COCO_SHA256 = "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05"

_OWNER = "ultralytics"
_USE = "vision"
_PRECISIONS = ("fp32", "fp16", "int8")


class _Asset(msgspec.Struct, frozen=True):
    """A file of a release, as the release lists it. Fields that nobody reads are left out."""

    name: str
    size: int | None = None
    digest: str | None = None
    id: int | None = None
    updated_at: str | None = None
    etag: str | None = None

    @property
    def mark(self) -> str:
        """What changes when the file is replaced, where no digest tells."""
        return f"{self.name} {self.size} {self.id} {self.updated_at} {self.etag}"


class _Release(msgspec.Struct, frozen=True):
    """A release, as the hub describes it."""

    id: int
    assets: list[_Asset] = []


class UltralyticsHub:
    """The releases below ULTRALYTICS_ASSETS_URL, described by the API at ULTRALYTICS_RELEASES_URL.

    Where the first is GitHub's, the second need not be set. Where it is another's and the second is not set, there is
    nobody to tell digests: sizes are asked of the files themselves, and the manifest says so.
    """

    def __init__(self, access: Access) -> None:
        self._access = access
        self._assets = (access.settings.get("ULTRALYTICS_ASSETS_URL") or _ASSETS).rstrip("/")
        self._releases = access.settings.get("ULTRALYTICS_RELEASES_URL") or _releases_of(self._assets)
        self._coco = access.settings.get("ULTRALYTICS_COCO_URL") or _COCO

    def resolve(self, source: Source, options: UltralyticsOptions) -> Manifest:
        """Find the weights, and the pictures to calibrate with, in their releases."""
        self._check_profile()
        names = _checked_names(source.name, options)
        tag = _tag(source.revision)
        one = len(names) == 1 and not _is_list(source.name)
        with self._client() as client:
            weights = self._find(client, tag, [f"{name}.pt" for name in names])
            found = [(asset, tag, asset.name if one else _in_folder(asset.name)) for asset in weights]
            if options.quantize not in {None, "coco"}:
                pictures = self._find(client, _PICTURES_RELEASE, [f"{options.quantize}.zip"])
                found += [(asset, _PICTURES_RELEASE, f"{CALIBRATION}/{asset.name}") for asset in pictures]
        files = [self._remote_file(*each) for each in found]
        if options.quantize == "coco":
            files.append(_coco_file(self._coco))
        return Manifest(
            source=source,
            revision=_pinned(tag, [asset for asset, _, _ in found]),
            format=Format.PYTORCH,
            files=tuple(files),
            licence=LICENCE,
            facts=_facts(names, options, files),
        )

    def fetch(self, manifest: Manifest, options: UltralyticsOptions, attempt: Attempt) -> None:  # noqa: ARG002 - resolved
        """Bring the files of the manifest, and nothing else: what is done with them is the converter's."""
        most_bytes = len(manifest.files) * _MOST_FILE_BYTES
        bring(manifest.files, attempt, classify=_refusal, network=self._access.network, most_bytes=most_bytes)

    def list(self, query: ListQuery) -> ListPage:
        """The official models whose names hold the text that is searched for. Asks nobody."""
        wanted = str(query.filters.get("search") or "").lower()
        found = [model for model in official_models().values() if wanted in model.name]
        shown = found[query.offset : query.offset + query.limit]
        items = tuple(
            ListItem(
                name=model.name,
                owner=_OWNER,
                precisions=_PRECISIONS,
                tags=(model.family, model.task),
                model_type=_USE,
                metadata={"task": model.task, "family": model.family},
                license=LICENCE,
            )
            for model in shown
        )
        return ListPage(items=items, has_more=query.offset + len(shown) < len(found), total=len(found))

    def _check_profile(self) -> None:
        """Say before anything is fetched that nobody here could export it."""
        if PROFILE not in json.loads(self._access.settings.get("MODELFERRY_PROFILES") or "{}"):
            raise PluginNotInstalled(
                "Models of hub 'ultralytics' are exported by a library of Ultralytics', which is not installed here",
                hint=f"Its licence is {LICENCE}. To install it: python3 scripts/setup.py --profile {PROFILE}; then "
                f"name its folder to every process: MODELFERRY_PROFILES={PROFILE}=/folder. "
                "See docs/hubs/ultralytics.md.",
            )

    def _client(self) -> HubClient:
        return HubClient(self._releases or self._assets, self._access.network, classify=_refusal_but_404)

    def _find(self, client: HubClient, tag: str, names: Sequence[str]) -> tuple[_Asset, ...]:
        """These files of one release, in their order. Raises SourceNotFound, RevisionNotFound."""
        if self._releases is None:
            return tuple(self._asked(client, tag, name) for name in names)
        missing = set(names)
        found: dict[str, _Asset] = {}
        for asset in _listed(client, tag):
            if asset.name in missing:
                found[asset.name] = asset
                missing.discard(asset.name)
            if not missing:
                break
        if missing:
            raise SourceNotFound(f"Release {tag} has no file {min(missing)}")
        return tuple(found[name] for name in names)

    def _asked(self, client: HubClient, tag: str, name: str) -> _Asset:
        """What the file tells of itself, where there is no list."""
        reply = client.head(f"{self._assets}/{tag}/{name}")
        if reply.status != 200:
            raise SourceNotFound(f"The mirror answered {reply.status} for {tag}/{name}")
        length = reply.headers.get("content-length", "")
        etag = reply.headers.get("etag") or reply.headers.get("last-modified")
        return _Asset(name=name, size=int(length) if _LENGTH.fullmatch(length) else None, etag=etag)

    def _remote_file(self, asset: _Asset, tag: str, path: str) -> RemoteFile:
        if asset.size is not None and not 0 <= asset.size <= _MOST_FILE_BYTES:
            raise SourceUnsafe(f"The hub lists an impossible size for {asset.name}")
        return RemoteFile(
            path=check_file_path(path),
            size=asset.size,
            digest=_digest(asset),
            url=f"{self._assets}/{tag}/{asset.name}",
        )


def _releases_of(assets: str) -> str | None:
    """Where the API describes the releases of a repository at GitHub; None for any other place."""
    found = _GITHUB.fullmatch(assets)
    return f"https://api.github.com/repos/{found['repository']}/releases" if found else None


def _checked_names(wish: str, options: UltralyticsOptions) -> tuple[str, ...]:
    """The official models that are meant. Raises InvalidParameters, SourceNotFound."""
    if options.quantize is not None and _is_list(wish):
        raise InvalidParameters(
            f"INT8 requires a single model. Received '{wish}' with quantize='{options.quantize}'. "
            "Ask for the models one by one, or leave 'quantize' out.",
            hint="Send one request for each model.",
        )
    names, known = names_in(wish), official_models()
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3)
            raise SourceNotFound(
                f"'{name[:100]}' is no official model of Ultralytics that Modelferry exports",
                hint=f"Did you mean {', '.join(close)}?" if close else "POST /models/list names all of them.",
            )
    return names


def _is_list(wish: str) -> bool:
    return "," in wish or wish in {"all", "yolo_all"}


def _in_folder(file: str) -> str:
    return f"{file.removesuffix('.pt')}/{file}"


def _tag(revision: str | None) -> str:
    """The release to take weights from. Raises RevisionNotFound."""
    if revision is None:
        return _WEIGHTS_RELEASE
    if not _RELEASE.fullmatch(revision):
        raise RevisionNotFound(
            f"'{revision[:100]}' is no release of Ultralytics' weights",
            hint=f"Name a release such as {_WEIGHTS_RELEASE}, or leave 'revision' out.",
        )
    return revision


def _listed(client: HubClient, tag: str) -> Iterator[_Asset]:
    """The files of a release: those that its description names, then those on further pages."""
    release: _Release = _decoded(client, f"tags/{tag}", {}, _Release)
    yield from release.assets
    seen = 0
    for page in range(1, _MOST_ASSETS // _PAGE + 1):
        assets = _decoded(client, f"{release.id}/assets", {"per_page": _PAGE, "page": page}, list[_Asset])
        # GitHub repeats what the description named; what is new there is what matters.
        yield from assets
        seen += len(assets)
        if len(assets) < _PAGE:
            return
    raise SourceUnsafe(f"Release {tag} lists more than {seen - 1} files")


def _decoded(client: HubClient, path: str, params: Mapping[str, int], kind: Any) -> Any:
    reply = client.get(path, params=params)
    if reply.status != 200:
        raise RevisionNotFound(
            f"The hub answered {reply.status} when asked for release {path}",
            hint="Check 'revision', and ULTRALYTICS_RELEASES_URL where a mirror is used.",
        )
    try:
        return msgspec.convert(reply.json(), kind)
    except msgspec.ValidationError as error:
        raise SourceUnsafe("The hub describes its release in a way that makes no sense") from error


def _digest(asset: _Asset) -> Digest | None:
    """The digest that the release names. Assets from before June 2025 may have none."""
    if asset.digest is None:
        return None
    algorithm, _, value = asset.digest.partition(":")
    if algorithm != DigestAlgorithm.SHA256:
        return None
    return Digest(algorithm=DigestAlgorithm.SHA256, value=value)


def _coco_file(url: str) -> RemoteFile:
    digest = Digest(algorithm=DigestAlgorithm.SHA256, value=_COCO_SHA256)
    return RemoteFile(path=f"{CALIBRATION}/coco.zip", size=_COCO_BYTES, digest=digest, url=url)


def _pinned(tag: str, assets: Sequence[_Asset]) -> str:
    """The release; with a mark of its own where a file without a digest could be replaced unseen."""
    marks = sorted(asset.mark for asset in assets if _digest(asset) is None)
    if not marks:
        return tag
    return f"{tag}-{hashlib.sha256(repr(marks).encode()).hexdigest()[:12]}"


def _facts(names: Sequence[str], options: UltralyticsOptions, files: Sequence[RemoteFile]) -> dict[str, object]:
    facts: dict[str, object] = {"int8_requested": options.quantize is not None}
    if len(names) == 1:
        # Without the suffix that a request may have.
        facts["model_name"] = names[0]
    unverified = [file.path for file in files if file.digest is None]
    if unverified:
        facts["warnings"] = {"without_digest": unverified}
    return facts


def _refusal(status: int, headers: Mapping[str, str]) -> StageError | None:
    """What the hub means by a status of 4xx."""
    if status in {401, 403}:
        if headers.get("x-ratelimit-remaining") == "0":
            return RateLimited(
                "GitHub answers no more questions from this address for now",
                hint="GitHub allows 60 an hour from one address. Modelferry waits as long as it asks to.",
                wait_s=_until(headers.get("x-ratelimit-reset", "")),
            )
        return SourcePrivateOrMissing("The hub refuses to hand out this file", hint="Check ULTRALYTICS_ASSETS_URL.")
    if status == 404:
        return SourceNotFound("The hub has no such release or file", hint="Check ULTRALYTICS_ASSETS_URL.")
    return None


def _refusal_but_404(status: int, headers: Mapping[str, str]) -> StageError | None:
    """The same for a question, where what is not there depends on what was asked."""
    return None if status == 404 else _refusal(status, headers)


def _until(reset: str) -> float | None:
    """The seconds until a time that is told in seconds since 1970."""
    if not reset.isdecimal():
        return None
    return min(max(0.0, float(reset) - utc_now().timestamp()), _LONGEST_WAIT_S)


_contract: type[Hub[UltralyticsOptions]] = UltralyticsHub
_lists: type[ListingHub] = UltralyticsHub

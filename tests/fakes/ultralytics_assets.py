"""Ultralytics' releases as GitHub serves them: an API that describes, downloads that redirect to another origin."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.fakes.exchange import Pace, Reply, Request, reply_with, reply_with_file, reply_with_json
from tests.fakes.faults import ArmedFault, Fault, FaultPlan
from tests.fakes.hf_repository import Blob, Content
from tests.fakes.loopback import LoopbackServer, OnLoopback
from tests.fakes.signed_urls import UrlSigner
from tests.fakes.traffic import RequestLog

REPOSITORY = "ultralytics/assets"
WEIGHTS, PICTURES = "v8.4.0", "v0.0.0"
_PER_PAGE = 30


@dataclass
class Release:
    """The files that hang on one tag, in the order in which they were added."""

    id: int
    files: dict[str, Blob] = field(default_factory=dict)
    without_digest: set[str] = field(default_factory=set)
    ids: dict[str, int] = field(default_factory=dict)


class FakeUltralyticsAssets(OnLoopback):
    """Three ports: `api`, `hub` with the downloads, and `cdn`, to whose signed addresses the downloads redirect.

    `described` is how many assets the description of a release names; the others are on the pages of its list only.
    """

    def __init__(self, *, described: int = 1000, bytes_per_s: int | None = None) -> None:
        self.described = described
        self.requests = RequestLog()
        self.faults = FaultPlan()
        self.signer = UrlSigner()
        self.releases: dict[str, Release] = {}
        self._lock = threading.Lock()
        self._next_id = 1000
        pace = None if bytes_per_s is None else Pace.of_rate(bytes_per_s)
        self._servers = {
            "api": LoopbackServer("api", self.faults.around(self._answer_api), self.requests),
            "hub": LoopbackServer("hub", self.faults.around(self._answer_hub), self.requests),
            "cdn": LoopbackServer("cdn", self.faults.around(self._answer_cdn), self.requests, pace=pace),
        }

    @property
    def assets_url(self) -> str:
        return f"{self._address('hub')}/{REPOSITORY}/releases/download"

    @property
    def releases_url(self) -> str:
        return f"{self._address('api')}/repos/{REPOSITORY}/releases"

    @property
    def settings(self) -> dict[str, str]:
        return {"ULTRALYTICS_ASSETS_URL": self.assets_url, "ULTRALYTICS_RELEASES_URL": self.releases_url}

    def servers(self) -> tuple[LoopbackServer, ...]:
        return tuple(self._servers.values())

    def add(self, files: Mapping[str, Content], *, tag: str = WEIGHTS, digests: bool = True) -> None:
        """Hang files on a release; one that is there is replaced, and becomes another asset."""
        with self._lock:
            release = self.releases.setdefault(tag, Release(self._number()))
            for name, content in files.items():
                release.files[name] = Blob.of(content)
                release.ids[name] = self._number()
                (release.without_digest.discard if digests else release.without_digest.add)(name)

    def add_fault(self, fault: Fault) -> ArmedFault:
        return self.faults.add(fault)

    def _number(self) -> int:
        self._next_id += 1
        return self._next_id

    def _address(self, origin: str) -> str:
        server = self._servers[origin]
        return f"http://{server.host}:{server.port}"

    def _answer_api(self, request: Request) -> Reply:
        match request.segments:
            case ["repos", *repository, "releases", "tags", tag] if "/".join(repository) == REPOSITORY:
                release = self.releases.get(tag)
                return _missing() if release is None else reply_with_json(self._document(tag, release))
            case ["repos", *repository, "releases", number, "assets"] if "/".join(repository) == REPOSITORY:
                return self._page(request, number)
            case _:
                return _missing()

    def _page(self, request: Request, number: str) -> Reply:
        for tag, release in self.releases.items():
            if str(release.id) == number:
                size = min(int(request.asks("per_page") or _PER_PAGE), 100)
                start = (int(request.asks("page") or 1) - 1) * size
                return reply_with_json(self._assets(tag, release)[start : start + size])
        return _missing()

    def _document(self, tag: str, release: Release) -> dict[str, object]:
        return {
            "url": f"{self.releases_url}/{release.id}",
            "assets_url": f"{self.releases_url}/{release.id}/assets",
            "id": release.id,
            "tag_name": tag,
            "name": tag,
            "draft": False,
            "prerelease": False,
            "assets": self._assets(tag, release)[: self.described],
        }

    def _assets(self, tag: str, release: Release) -> list[dict[str, object]]:
        return [
            {
                "url": f"{self.releases_url}/assets/{release.ids[name]}",
                "id": release.ids[name],
                "name": name,
                "label": "",
                "content_type": "application/octet-stream",
                "state": "uploaded",
                "size": blob.size,
                "digest": None if name in release.without_digest else f"sha256:{blob.sha256}",
                "download_count": 7,
                "created_at": "2026-01-14T10:00:00Z",
                "updated_at": "2026-01-14T10:00:09Z",
                "browser_download_url": f"{self.assets_url}/{tag}/{name}",
            }
            for name, blob in release.files.items()
        ]

    def _answer_hub(self, request: Request) -> Reply:
        match request.segments:
            case [*repository, "releases", "download", tag, name] if "/".join(repository) == REPOSITORY:
                release = self.releases.get(tag)
                if release is not None and name in release.files:
                    location = self.signer.sign(f"/github-production-release-asset/{release.ids[name]}")
                    return reply_with(302, headers={"Location": f"{self._address('cdn')}{location}"})
        return reply_with(404, b"Not Found")

    def _answer_cdn(self, request: Request) -> Reply:
        if not self.signer.opens(request):
            return reply_with(403, b"<Error><Code>AuthenticationFailed</Code></Error>")
        number = int(request.segments[-1])
        for release in self.releases.values():
            for name, blob in release.files.items():
                if release.ids[name] == number:
                    etag = f'"0x{blob.sha256[:15].upper()}"'
                    return reply_with_file(request, blob.content, blob.size, {"ETag": etag})
        return reply_with(404, b"<Error><Code>BlobNotFound</Code></Error>")


def _missing() -> Reply:
    return reply_with_json({"message": "Not Found", "status": "404"}, status=404)

"""Hub `shelf`: models on a plain web server, which tells what it has in files of JSON."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import quote

import msgspec

from common.errors import (
    InvalidParameters,
    RevisionNotFound,
    SourceNotFound,
    SourcePrivateOrMissing,
    SourceUnsafe,
    StageError,
    TokenInvalid,
)
from common.plugins import Access, Attempt, ConfigKey, Hub, HubPlugin, ListItem, ListPage, ListQuery
from common.spec import Digest, Manifest, RemoteFile, Source, Spec, check_file_path
from common.vocabulary import Format
from worker.net import Credential, HubClient
from worker.transfer import bring


class ShelfOptions(Spec, frozen=True):
    channel: Literal["released", "preview"] = "released"


SHELF = HubPlugin(
    name="shelf",
    description="Downloads models from a web server that lists their files.",
    options=ShelfOptions,
    formats=frozenset({Format.TRANSFORMERS}),
    implementation="modelferry_shelf:ShelfHub",
    settings=frozenset({"SHELF_URL"}),
    secrets=frozenset({"SHELF_TOKEN"}),
    config_keys=(ConfigKey(name="SHELF_TOKEN", description="Opens the shelf."),),
    checks_credentials=True,
    listing_filters=frozenset({"search"}),
    place=lambda name, revision, options: "shelf/" + f"{name}@{revision or options.channel}".replace("/", "--"),
)


class _Page(msgspec.Struct):
    """<name>/<channel>.json; `files` has the size and the digest of each path."""

    revision: str
    files: Annotated[dict[str, tuple[Annotated[int, msgspec.Meta(ge=0)], Digest]], msgspec.Meta(min_length=1)]


class ShelfHub:
    def __init__(self, access: Access) -> None:
        self._url, token = access.settings.get("SHELF_URL", "").rstrip("/"), access.secrets.get("SHELF_TOKEN")
        if not self._url:
            raise InvalidParameters("SHELF_URL is not set", hint="Set it for the download workers.")
        self._credential = Credential.bearer(self._url, token) if token else None
        self._network = access.network

    def resolve(self, source: Source, options: ShelfOptions) -> Manifest:
        page: _Page = self._ask(f"{quote(source.name)}/{options.channel}.json", _Page)
        if source.revision not in {None, page.revision}:
            raise RevisionNotFound(f"The shelf has '{source.name}' in revision '{page.revision[:80]}' only")
        home = f"{self._url}/{quote(source.name)}/{quote(page.revision, safe='')}"
        files = tuple(
            RemoteFile(path=check_file_path(path), size=size, digest=digest, url=f"{home}/{quote(path)}")
            for path, (size, digest) in sorted(page.files.items())
        )
        return Manifest(source=source, revision=page.revision, format=Format.TRANSFORMERS, files=files)

    def fetch(self, manifest: Manifest, _options: ShelfOptions, attempt: Attempt) -> None:
        bring(manifest.files, attempt, self._credential, network=self._network)

    def list(self, query: ListQuery) -> ListPage:
        names = sorted(n for n in self._ask("index.json", set[str]) if str(query.filters.get("search") or "") in n)
        items = tuple(ListItem(name=name) for name in names[query.offset :])
        return ListPage(items=items[: query.limit], has_more=len(items) > query.limit, total=len(names))

    def check_credentials(self) -> None:
        self._ask("index.json", set[str])

    def _ask(self, path: str, kind: Any) -> Any:
        with HubClient(self._url, self._network, credential=self._credential, classify=_refusal) as client:
            body = client.get(path).body
        try:
            return msgspec.json.decode(body, type=kind)
        except (ValueError, RecursionError) as error:
            raise SourceUnsafe(f"The shelf's {path[:200]} makes no sense") from error


def _refusal(status: int, _headers: Mapping[str, str]) -> StageError | None:
    kind = {401: TokenInvalid, 403: SourcePrivateOrMissing, 404: SourceNotFound}.get(status)
    return kind(f"The shelf answers {status}", hint="Check the name, SHELF_URL and SHELF_TOKEN.") if kind else None


_contract: type[Hub[ShelfOptions]] = ShelfHub

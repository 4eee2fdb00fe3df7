"""A third-party hub plugin: every directory below FOLDER_HUB is a model. The plugin contract in 80 lines."""

import hashlib
import os
from pathlib import Path

from common.errors import HubUnavailable, InvalidParameters, RateLimited, SourceGated, SourceNotFound, TokenInvalid
from common.plugins import Access, Attempt, ConfigKey, Hub, HubPlugin, ListItem, ListPage, ListQuery
from common.spec import Digest, Manifest, Progress, RemoteFile, Source, Spec
from common.vocabulary import DigestAlgorithm, Format, Phase

ROOT = Path(__file__).parent / "models"
TOKEN = "the-right-token"


class FolderOptions(Spec, frozen=True):
    """Where the models are."""

    root: str = str(ROOT)
    extra: dict[str, object] = {}


class FolderHub:
    """Copies files; their digests are their revision."""

    def __init__(self, access: Access) -> None:
        self._token = access.secrets.get("FOLDER_TOKEN")
        self._access = access

    def list(self, query: ListQuery) -> ListPage:
        if self._token not in {None, TOKEN}:
            raise TokenInvalid(f"Nobody knows the token {self._token}")
        match query.filters.get("search", ""):
            case "trouble":
                raise HubUnavailable("The folder has been taken away")
            case "busy":
                raise RateLimited("Not now", wait_s=60.0)
            case "strange":
                raise InvalidParameters("Nothing can be strange")
            case "endless":
                items = [ListItem(name="x" * 3_000_000)]
            case "wrong":
                return ListPage(items=(ListItem(name=object()),), has_more=False)  # type: ignore[arg-type]  # on purpose
            case "access":
                items = [ListItem(name="access", metadata={**self._access.settings, "given": [*self._access.given]})]
            case word:
                items = [ListItem(name=f"model-{n}", metadata={"n": n, "more": None}) for n in range(5)]
                items = [item for item in items if str(word) in item.name]
        end = query.offset + query.limit
        return ListPage(items=tuple(items[query.offset : end]), has_more=end < len(items), total=len(items))

    def _check_terms(self, name: str) -> None:
        if self._token is None:
            raise SourceGated(f"{name} is gated: bring a FOLDER_TOKEN")
        if self._token != TOKEN:
            raise TokenInvalid(f"Nobody knows the token {self._token}")

    def check_credentials(self) -> None:
        if self._token != TOKEN:
            raise TokenInvalid("The folder does not know this token")

    def resolve(self, source: Source, options: FolderOptions) -> Manifest:
        if source.name.startswith("gated"):
            self._check_terms(source.name)
        folder = Path(options.root) / source.name
        if not folder.is_dir():
            raise SourceNotFound(f"{source.name} is not in the folder")
        files = tuple(_file(path, folder) for path in sorted(folder.rglob("*")) if path.is_file())
        revision = hashlib.sha256(repr(files).encode()).hexdigest()
        return Manifest(source=source, revision=revision, format=Format.TRANSFORMERS, files=files)

    def fetch(self, manifest: Manifest, options: FolderOptions, attempt: Attempt) -> None:
        for done, file in enumerate(manifest.files):
            attempt.checkpoint()
            attempt.progress(Progress(phase=Phase.DOWNLOADING, files_done=done, files_total=len(manifest.files)))
            assert file.digest
            part = attempt.parts / f"folder-{os.getpid()}-{file.digest.value}.part"
            part.write_bytes((Path(options.root) / manifest.source.name / file.path).read_bytes())
            attempt.store(part, file.digest.value)
            attempt.link(file.digest.value, file.path)


FOLDER = HubPlugin(
    name="folder",
    description="Models in a local folder.",
    options=FolderOptions,
    formats=frozenset({Format.TRANSFORMERS}),
    implementation="folder_hub:FolderHub",
    settings=frozenset({"FOLDER_ROOTS"}),
    secrets=frozenset({"FOLDER_TOKEN"}),
    config_keys=(
        ConfigKey(name="FOLDER_TOKEN", description="Opens the folder."),
        ConfigKey(name="FOLDER_ROOTS", description="Where to look.", sensitive=False, narrows=True),
    ),
    checks_credentials=True,
    listing_filters=frozenset({"search"}),
)


def _file(path: Path, folder: Path) -> RemoteFile:
    content = path.read_bytes()
    digest = Digest(algorithm=DigestAlgorithm.SHA256, value=hashlib.sha256(content).hexdigest())
    return RemoteFile(path=path.relative_to(folder).as_posix(), size=len(content), digest=digest, url=path.as_uri())


_contract: type[Hub[FolderOptions]] = FolderHub

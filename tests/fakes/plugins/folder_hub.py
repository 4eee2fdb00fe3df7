"""A third-party hub plugin: every directory below FOLDER_HUB is a model. Half of the plugin contract in 50 lines."""

import hashlib
from pathlib import Path

from common.errors import SourceNotFound
from common.plugins import Access, Attempt, Hub, HubPlugin
from common.spec import Digest, Manifest, Progress, RemoteFile, Source, Spec
from common.vocabulary import DigestAlgorithm, Format, Phase

ROOT = Path(__file__).parent / "models"


class FolderOptions(Spec, frozen=True):
    """Where the models are."""

    root: str = str(ROOT)
    extra: dict[str, object] = {}


class FolderHub:
    """Copies files; their digests are their revision."""

    def __init__(self, access: Access) -> None:
        del access

    def resolve(self, source: Source, options: FolderOptions) -> Manifest:
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
            part = attempt.parts / f"folder-{file.digest.value}.part"
            part.write_bytes((Path(options.root) / manifest.source.name / file.path).read_bytes())
            attempt.store(part, file.digest.value)
            attempt.link(file.digest.value, file.path)


FOLDER = HubPlugin(
    name="folder",
    description="Models in a local folder.",
    options=FolderOptions,
    formats=frozenset({Format.TRANSFORMERS}),
    implementation="folder_hub:FolderHub",
)


def _file(path: Path, folder: Path) -> RemoteFile:
    content = path.read_bytes()
    digest = Digest(algorithm=DigestAlgorithm.SHA256, value=hashlib.sha256(content).hexdigest())
    return RemoteFile(path=path.relative_to(folder).as_posix(), size=len(content), digest=digest, url=path.as_uri())


_contract: type[Hub[FolderOptions]] = FolderHub

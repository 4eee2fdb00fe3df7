"""What of a model on the volume, and of an upload, a client sees."""

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from api.library import Held, HeldPage, HeldWhole
from api.uploads import Uploaded
from api.views import Places
from api.wire import View
from common.artefacts.library import model_id
from common.artefacts.removal import Removal
from common.artefacts.verification import State, Verification


class UploadedView(View, frozen=True):
    """The answer to an upload."""

    status: Literal["success"]
    message: str
    job_id: str
    model_name: str
    model_path: str
    """Absolute, inside the container: the directory of the published model."""


class LocalModelView(View, frozen=True):
    """A model on the volume. What nobody knows of it is null."""

    id: str
    """Stands for the place, and so stays the same when the model is replaced."""
    name: str
    managed: bool
    """Whether Modelferry has published it. What others have put there has neither a hub nor digests."""
    hub: str | None
    revision: str | None
    precision: str | None
    device: str | None
    model_type: str | None
    format: str | None
    licence: str | None
    bytes: int
    files: int
    path: str
    """Absolute, inside the container."""
    host_path: str
    """The same as the host sees it."""
    published_at: str | None
    state: State
    """`spoilt`: a file is missing or has another size, or the last verification found other content."""
    verified_at: str | None
    """When every file was read and found as `state` says, with no change since."""


class LocalModelPage(View, frozen=True):
    """Some of the models on the volume, in the order of their paths."""

    models: list[LocalModelView]
    total: int
    """How many there are with these filters."""
    limit: int
    offset: int


class LocalFileView(View, frozen=True):
    """A file of a published model, as it was published."""

    path: str
    size: int
    sha256: str


class SamePlaceView(View, frozen=True):
    """Another place where the same content is published."""

    id: str
    path: str


class WholeLocalModelView(LocalModelView, frozen=True):
    """Everything that is known of a model on the volume."""

    problems: list[str]
    """What is wrong with its files."""
    edited: list[str]
    """Graphs of the model server that were changed in place. They are there to be changed."""
    requested_revision: str | UnsetType | None = UNSET
    artefact: str | UnsetType = UNSET
    file_list: list[LocalFileView] | UnsetType = UNSET
    recipe: dict[str, object] | UnsetType = UNSET
    serving: dict[str, object] | UnsetType = UNSET
    versions: dict[str, str] | UnsetType = UNSET
    evidence: dict[str, object] | UnsetType = UNSET
    elsewhere: list[SamePlaceView] | UnsetType = UNSET


class RemovalView(View, frozen=True):
    """A model that has been removed."""

    id: str
    name: str
    path: str
    """Absolute, inside the container: where it was."""
    bytes: int
    """The size of what was published. Its content stays in the cache until room is needed."""
    kept_path: str | None
    """Absolute, inside the container: where the files are that were not as Modelferry had published them."""
    kept_files: list[str]


class VerificationView(View, frozen=True):
    """What came of reading every file of a model."""

    id: str
    state: Literal["good", "spoilt"]
    checked_files: int
    bytes: int
    seconds: float
    problems: list[str]
    edited: list[str]
    content_removed: int
    """How many files of the content store were spoilt too. They are gone from it, and will be fetched anew."""
    verified_at: str


def uploaded_view(uploaded: Uploaded, places: Places) -> UploadedView:
    """The answer to an upload that was published."""
    return UploadedView(
        status="success",
        message=f"Model '{uploaded.names.model_name}' uploaded successfully.",
        job_id=uploaded.job_id,
        model_name=uploaded.names.model_name,
        model_path=places.inside(uploaded.names.folder),
    )


def local_page(page: HeldPage, places: Places, *, limit: int, offset: int) -> LocalModelPage:
    """Some models."""
    views = [LocalModelView(**_in_short(held, places)) for held in page.held]
    return LocalModelPage(models=views, total=page.total, limit=limit, offset=offset)


def local_model(whole: HeldWhole, places: Places) -> WholeLocalModelView:
    """One model with everything."""
    held, manifest = whole.held, whole.manifest
    verification = held.verification
    problems = held.standing.problems or (verification.problems if verification else ())
    edited = {*held.standing.edited, *(verification.edited if verification else ())}
    short = WholeLocalModelView(**_in_short(held, places), problems=list(problems), edited=sorted(edited))
    if manifest is None:
        return short
    return msgspec.structs.replace(
        short,
        requested_revision=manifest.requested_revision,
        artefact=manifest.artefact,
        file_list=[LocalFileView(path=file.path, size=file.size, sha256=file.sha256) for file in manifest.files],
        recipe=manifest.recipe,
        serving=manifest.serving,
        versions=manifest.versions,
        evidence=msgspec.to_builtins(manifest.evidence) if manifest.evidence else UNSET,
        elsewhere=[SamePlaceView(id=other.id, path=places.inside(other.folder)) for other in whole.elsewhere],
    )


def removal_view(removal: Removal, places: Places) -> RemovalView:
    """What has become of a removal."""
    return RemovalView(
        id=model_id(removal.folder),
        name=removal.manifest.name,
        path=places.inside(removal.folder),
        bytes=removal.manifest.total_bytes,
        kept_path=None if removal.kept is None else places.inside(removal.kept),
        kept_files=list(removal.kept_files),
    )


def _in_short(held: Held, places: Places) -> dict[str, Any]:
    model = held.model
    path = places.inside(model.folder)
    verification = held.verification
    return {
        "id": model.id,
        "name": model.name,
        "managed": model.managed,
        "hub": model.hub,
        "revision": model.revision,
        "precision": model.precision,
        "device": model.device,
        "model_type": model.model_type,
        "format": model.format,
        "licence": model.licence,
        "bytes": held.standing.bytes,
        "files": held.standing.files,
        "path": path,
        "host_path": places.on_host(path),
        "published_at": model.published_at,
        "state": held.state,
        "verified_at": verification.verified_at if verification else None,
    }


def verification_view(asked: str, verification: Verification) -> VerificationView:
    """What came of a verification."""
    return VerificationView(
        id=asked,
        state=verification.state,
        checked_files=verification.checked_files,
        bytes=verification.bytes,
        seconds=verification.seconds,
        problems=list(verification.problems),
        edited=list(verification.edited),
        content_removed=verification.content_removed,
        verified_at=verification.verified_at,
    )

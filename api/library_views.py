"""What of a model on the volume, and of an upload, a client sees."""

from typing import Any

import msgspec
from msgspec import UNSET

from api.library import Held, HeldPage, HeldWhole
from api.uploads import Uploaded
from api.views import Places
from api.wire.local import (
    LocalFileView,
    LocalModelPage,
    LocalModelView,
    RemovalView,
    SamePlaceView,
    UploadedView,
    VerificationView,
    WholeLocalModelView,
)
from common.artefacts.library import model_id
from common.artefacts.removal import Removal
from common.artefacts.verification import Verification


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

"""What is seen of the models on the volume, and of an upload."""

from typing import Literal

from msgspec import UNSET, UnsetType

from api.wire import View


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
    state: Literal["unchecked", "good", "spoilt"]
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

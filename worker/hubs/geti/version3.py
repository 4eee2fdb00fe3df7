"""Geti 3: one machine's projects, each with a flat list of models and their variants."""

from collections.abc import Iterator

from worker.hubs.geti.door import Door, answer
from worker.hubs.geti.values import (
    Document,
    Group,
    Model,
    Project,
    Trained,
    Variant,
    document,
    documents,
    identifier,
    text,
)
from worker.net import HubClient

PROJECTS = "api/projects"
_FORMATS = {"openvino": "OpenVINO", "onnx": "ONNX", "pytorch": "PyTorch"}
"""Its words for formats, and those of Geti 2 that requests use."""
_BASE = "PyTorch"
_TRAINED = "successful"


class Geti3:
    """A server of version 3. It has no organisations, no workspaces and no groups of models."""

    def __init__(self, door: Door, client: HubClient) -> None:
        self._door = door
        self._client = client

    def projects(self) -> Iterator[Project]:
        """All in one answer."""
        for one in documents(answer(self._client.get(PROJECTS))):
            yield Project(id=identifier(one.get("id")), name=text(one.get("name")))

    def groups(self, project: Project) -> Iterator[Group]:
        """Each model is alone: nothing says which ones are older and newer forms of one."""
        for one in documents(answer(self._client.get(f"{PROJECTS}/{project.id}/models"))):
            training = one.get("training_info")
            told = training if isinstance(training, dict) else {}
            if one.get("files_deleted") or told.get("status") not in (None, _TRAINED):
                continue
            ended = told.get("end_time")
            trained = Trained(
                id=identifier(one.get("id")),
                name=text(one.get("name")),
                version=None,
                created=ended if isinstance(ended, str) else None,
                document=one,
            )
            yield Group(id=None, name=None, models=(trained,))

    def model(self, project: Project, group: Group, trained: Trained) -> Model | None:
        """The listing has told all already."""
        address = f"{self._door.home}/{PROJECTS}/{project.id}/models/{trained.id}/variants"
        listed = documents(trained.document.get("variants"))
        variants = [_variant(one, address, project) for one in listed if not one.get("files_deleted")]
        if not variants:
            return None
        bases = [variant.url for variant in variants if variant.model_format == _BASE]
        return Model(
            project=project,
            group=group,
            id=trained.id,
            name=trained.name,
            version=None,
            created=trained.created,
            base_url=bases[0] if bases else None,
            variants=tuple(variant for variant in variants if variant.model_format != _BASE),
        )

    def check(self) -> None:
        """The list of projects is all that can be asked."""
        documents(answer(self._client.get(PROJECTS)))


def _variant(found: Document, address: str, project: Project) -> Variant:
    name, kind = identifier(document(found).get("id")), text(found.get("format"))
    return Variant(
        id=name,
        model_format=_FORMATS.get(kind, kind),
        precisions=(text(found.get("precision")),),
        url=f"{address}/{name}/binary",
        fields={"project_id": project.id, "project_name": project.name, **found},
    )

"""Open Model Zoo: its own models by a catalogue that knows every file's digest, and what DL Streamer wants beside."""

import difflib
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import msgspec

from common.catalog.omz import CATALOGUE, CONVERTED, LABELS, OmzOptions
from common.errors import (
    HubUnavailable,
    InvalidParameters,
    RevisionNotFound,
    SourceNotFound,
    StageError,
    UnsupportedModel,
)
from common.plugins import Access, Attempt, Hub
from common.spec import Digest, Manifest, RemoteFile, Source, check_distinct, check_file_path
from common.vocabulary import DigestAlgorithm, Format
from worker.transfer import bring

_DEFAULT_HOME = "https://storage.openvinotoolkit.org"
_PRECISION = re.compile(r"(FP32|FP16|INT8|INT4)(-[A-Z0-9]+)?")
_MADE_HERE = ("FP16", "FP32")
"""The precisions that a checkpoint is converted to."""
_OUR_RULES = 1
"""Goes into the revision: a change of the files that are written here makes a new one."""


class ZooModel(msgspec.Struct, frozen=True):
    """One model of the catalogue. Each file: path, size, SHA-384, path at the storage."""

    licence: str
    files: list[tuple[str, int, str, str]]


class ZooCatalogue(msgspec.Struct, frozen=True):
    """What the zoo offers. `public` are the models that it only tells where to find."""

    release: str
    models: dict[str, ZooModel]
    public: list[str]


class OmzHub:
    """The storage at OMZ_URL, as the catalogue in OMZ_CATALOGUE describes it, or the one of this package."""

    def __init__(self, access: Access) -> None:
        self._catalogue = Path(access.settings.get("OMZ_CATALOGUE") or CATALOGUE)
        self._home = (access.settings.get("OMZ_URL") or _DEFAULT_HOME).rstrip("/")
        self._network = access.network
        self._trusted = "OMZ_URL" not in access.given

    def resolve(self, source: Source, options: OmzOptions) -> Manifest:
        """Look the models up. Asks nobody: the digests in the catalogue are what is wanted.

        Raises SourceNotFound, RevisionNotFound, UnsupportedModel, InvalidParameters.
        """
        zoo = read_catalogue(self._catalogue)
        names = source.name.split(",")
        models = {name: _find(zoo, name) for name in names}
        parted = "," in source.name
        files = [
            self._remote_file(f"{name}/{file[0]}" if parted else file[0], file)
            for name, model in models.items()
            for file in _chosen(name, model, options.precision)
        ]
        check_distinct([file.path for file in files])
        revision = _revision(files)
        if source.revision not in {None, revision}:
            raise RevisionNotFound(
                f"Open Model Zoo has one revision of '{source.name}': {revision}",
                hint="Leave the revision out: the files of this hub are named by their digests.",
            )
        return Manifest(
            source=source,
            revision=revision,
            format=Format.PYTORCH if CONVERTED & models.keys() else Format.OPENVINO,
            files=tuple(files),
            licence=" AND ".join(sorted({model.licence for model in models.values()})),
            facts=_facts(options),
        )

    def fetch(self, manifest: Manifest, options: OmzOptions, attempt: Attempt) -> tuple[str, ...]:  # noqa: ARG002
        """Bring the files, and write what belongs beside some models."""
        bring(manifest.files, attempt, classify=_refusal, network=self._network, trusted=self._trusted)
        paths = [file.path for file in manifest.files]
        parted = "," in manifest.source.name
        for name in manifest.source.name.split(","):
            for path, content in _beside(name):
                paths.append(f"{name}/{path}" if parted else path)
                _write(attempt, paths[-1], content)
        return tuple(paths)

    def _remote_file(self, path: str, file: tuple[str, int, str, str]) -> RemoteFile:
        _, size, digest, at = file
        return RemoteFile(
            path=check_file_path(path),
            size=size,
            digest=Digest(algorithm=DigestAlgorithm.SHA384, value=digest),
            url=f"{self._home}{quote(at)}",
        )


def read_catalogue(path: Path) -> ZooCatalogue:
    """The catalogue in this file. Raises HubUnavailable where it is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=ZooCatalogue)
    except (OSError, msgspec.MsgspecError) as error:
        raise HubUnavailable(
            "The catalogue of Open Model Zoo cannot be read",
            hint="Let OMZ_CATALOGUE name a file that scripts/omz_catalog.py has written, or leave it out.",
        ) from error


def _find(zoo: ZooCatalogue, name: str) -> ZooModel:
    found = zoo.models.get(name)
    if found is not None:
        return found
    if name in zoo.public:
        raise UnsupportedModel(
            f"'{name}' is a public model of Open Model Zoo: it comes as a checkpoint that nothing here converts",
            hint=f"Models of Intel's own, and of the public ones {', '.join(sorted(CONVERTED))}, are offered.",
        )
    if name == "all":
        raise SourceNotFound("'all' is no model of Open Model Zoo: name the models, with commas")
    near = difflib.get_close_matches(name, [*zoo.models, *zoo.public], n=1, cutoff=0.4)
    hint = f"; the nearest name that it has is '{near[0]}'" if near else ""
    raise SourceNotFound(f"Open Model Zoo {zoo.release} has no model '{name}'{hint}")


def _chosen(name: str, model: ZooModel, wanted: str | None) -> list[tuple[str, int, str, str]]:
    """The files of the wanted precision, and those that belong to all."""
    held = sorted({precision for file in model.files if (precision := _precision_of(file[0]))} or _MADE_HERE)
    if wanted is None:
        return model.files
    taken = _matching(wanted, held)
    if not taken:
        raise InvalidParameters(f"'{name}' has no precision '{wanted}'. It has: {', '.join(held)}.")
    return [file for file in model.files if _precision_of(file[0]) in {None, *taken}]


def _matching(wanted: str, held: Sequence[str]) -> list[str]:
    """The precision of that name, or those with weights of that precision: clients know no more than `int8`."""
    named = [precision for precision in held if precision.lower() == wanted.lower()]
    return named or [precision for precision in held if precision.lower().endswith(f"-{wanted.lower()}")]


def _precision_of(path: str) -> str | None:
    folders = PurePosixPath(path).parts[:-1]
    return next((folder for folder in folders if _PRECISION.fullmatch(folder)), None)


def _revision(files: Sequence[RemoteFile]) -> str:
    """Names the content: the same files have the same revision, wherever they come from."""
    listed = sorted([file.path, file.digest.value] for file in files if file.digest)
    return hashlib.sha256(msgspec.json.encode([_OUR_RULES, listed])).hexdigest()[:40]


def _facts(options: OmzOptions) -> dict[str, object]:
    ignored = sorted({"post_processing"} & options.extra.keys())
    if not ignored:
        return {}
    message = "What belongs beside a model is decided by its name."
    return {"warnings": {"ignored_fields": ignored, "message": message}}


def _refusal(status: int, _headers: Mapping[str, str]) -> StageError | None:
    if status in {404, 410}:
        return SourceNotFound(
            "The storage does not have a file that the catalogue names",
            hint="Check OMZ_URL: it must hold the zoo's files under the paths of the original storage.",
        )
    return None


def _beside(name: str) -> Iterator[tuple[str, bytes]]:
    """What DL Streamer is told about a model: pre- and post-processing, in the form that its elements read."""
    if name in _MODEL_PROC:
        path, make = _MODEL_PROC[name]
        yield path, msgspec.json.format(msgspec.json.encode(make()), indent=4) + b"\n"


def _face_detection() -> dict[str, Any]:
    return _model_proc({"converter": "detection_output", "labels": ["background", "face"]})


def _age_gender() -> dict[str, Any]:
    gender = {
        "layer_name": "prob",
        "attribute_name": "gender",
        "converter": "label",
        "method": "max",
        "labels": ["Female", "Male"],
    }
    # The network answers with a hundredth of the years.
    age = {
        "layer_name": "age_conv3",
        "attribute_name": "age",
        "converter": "text",
        "text_scale": 100.0,
        "text_precision": 0,
    }
    return _model_proc(gender, age)


def _image_classes() -> dict[str, Any]:
    labels = LABELS.read_text(encoding="utf-8").splitlines()
    document = _model_proc({"converter": "label", "method": "max", "labels": labels})
    document["input_preproc"] = [{"format": "image", "params": {"resize": "aspect-ratio", "crop": "central"}}]
    return document


def _model_proc(*outputs: dict[str, Any]) -> dict[str, Any]:
    return {"json_schema_version": "2.2.0", "input_preproc": [], "output_postproc": list(outputs)}


_MODEL_PROC: Mapping[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "face-detection-retail-0004": ("face-detection-retail-0004.json", _face_detection),
    "age-gender-recognition-retail-0013": ("age-gender-recognition-retail-0013.json", _age_gender),
    "mobilenet-v2-pytorch": ("mobilenet-v2.json", _image_classes),
}


def _write(attempt: Attempt, path: str, content: bytes) -> None:
    at = attempt.workspace / path
    at.parent.mkdir(parents=True, exist_ok=True)
    # An earlier attempt's file may be a link to something in the store by now.
    at.unlink(missing_ok=True)
    at.write_bytes(content)


_contract: type[Hub[OmzOptions]] = OmzHub

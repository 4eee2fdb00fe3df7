"""The models of the health and life sciences suites: a few files at fixed addresses, whose digests nobody publishes."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree as ET  # nosec B405 # for a parser that refuses document types

import msgspec

from common.archives import ArchiveLimits, unpack
from common.catalog.hls import CHECKPOINT, NAMES, HlsOptions
from common.errors import (
    IntegrityMismatch,
    InvalidParameters,
    OutputIncomplete,
    RevisionNotFound,
    SourceNotFound,
    SourceUnsafe,
    StageError,
)
from common.plugins import Access, Attempt, Hub
from common.spec import Digest, Manifest, RemoteFile, Source
from common.vocabulary import DigestAlgorithm, Format, ModelType
from worker.net import HubClient
from worker.transfer import bring

_POSE_URL = (
    "https://storage.openvinotoolkit.org/repositories/open_model_zoo/public/2022.1/"
    "human-pose-estimation-3d-0001/human-pose-estimation-3d.tar.gz"
)
_POSE_BYTES = 18_421_831
# By Open Model Zoo 2024.6, models/public/human-pose-estimation-3d-0001/model.yml: for this very address.
_POSE_SHA384 = "14d1b70eb2d4102969b29c7716cbcdf9d1acd35839e044d2e62d69fbce4b98aa06cb954bb703d411cf991ffd809c6ea9"
_ECG_URL = "https://raw.githubusercontent.com/Einse57/OpenVINO_sample/master/ai-ecg-master"
_RPPG_URL = "https://github.com/xliucs/MTTS-CAN/raw/main/mtts_can.hdf5"

_ARCHIVE = "human-pose-estimation-3d.tar.gz"
_KERAS = "mtts_can.hdf5"
_HDF5_BEGINS = b"\x89HDF\r\n\x1a\n"
_LEAST_BYTES = 1024
"""No model of these is smaller; what a server says instead of one may be."""
_MOST_XML_BYTES = 4 * 1024 * 1024
_MB = 1024 * 1024
_LENGTH = re.compile(r"\d{1,15}")
_NO_MODEL = (
    "The server sent something else in place of the model, such as an error page. Look at the address in a browser, "
    "and at the setting that names it."
)


class HlsHub:
    """The addresses in HLS_3D_POSE_CHECKPOINT_URL, HLS_ECG_BASE_URL and HLS_RPPG_MODEL_URL."""

    def __init__(self, access: Access) -> None:
        self._settings = access.settings
        self._network = access.network
        self._given = access.given
        self._most_bytes = int(access.settings.get("MODELFERRY_MAX_UNPACKED_MB") or 1024) * _MB

    def resolve(self, source: Source, options: HlsOptions) -> Manifest:
        """Ask each server what it has now: the revision names that.

        Raises InvalidParameters, SourceNotFound, SourcePrivateOrMissing, RevisionNotFound, RateLimited, HubUnavailable,
        SourceUnsafe.
        """
        model_type = _checked_type(source.name, options)
        files = [self._seen(file, trusted=self._trusts(model_type)) for file in self._wanted(model_type)]
        revision = _revision(files)
        if source.revision not in {None, revision}:
            raise RevisionNotFound(
                f"The server of '{source.name}' keeps no revisions; what it has now is {revision}",
                hint="Leave the revision out.",
            )
        return Manifest(
            source=source,
            revision=revision,
            format=Format.OPENVINO if model_type is ModelType.AI_ECG else Format.PYTORCH,
            files=tuple(file for file, _ in files),
            facts={"type": model_type.value},
        )

    def fetch(self, manifest: Manifest, options: HlsOptions, attempt: Attempt) -> tuple[str, ...]:
        """Bring the files, and make sure that they are a model, whatever they are called.

        What arrives has no digest to be held against, so it is looked at. Raises IntegrityMismatch.
        """
        model_type = _checked_type(manifest.source.name, options)
        bring(
            manifest.files,
            attempt,
            classify=_refusal,
            network=self._network,
            trusted=self._trusts(model_type),
            most_bytes=self._most_bytes,
        )
        if model_type is ModelType.POSE_3D:
            return self._unpacked(attempt)
        for file in manifest.files:
            _check(attempt.workspace / file.path)
        return tuple(file.path for file in manifest.files)

    def _wanted(self, model_type: ModelType) -> list[RemoteFile]:
        address = self._settings.get(_SETTINGS[model_type]) or _DEFAULTS[model_type]
        if model_type is ModelType.AI_ECG:
            paths = [f"{name}{suffix}" for name in NAMES[model_type] for suffix in (".bin", ".xml")]
            home = address.rstrip("/")
            return [RemoteFile(path=path, size=None, digest=None, url=f"{home}/{path}") for path in sorted(paths)]
        if model_type is ModelType.RPPG:
            return [RemoteFile(path=_KERAS, size=None, digest=None, url=address)]
        if address != _POSE_URL:
            return [RemoteFile(path=_ARCHIVE, size=None, digest=None, url=address)]
        digest = Digest(algorithm=DigestAlgorithm.SHA384, value=_POSE_SHA384)
        return [RemoteFile(path=_ARCHIVE, size=_POSE_BYTES, digest=digest, url=address)]

    def _seen(self, file: RemoteFile, *, trusted: bool) -> tuple[RemoteFile, str]:
        """The file with the size that its server tells, and what tells this content from a later one."""
        if file.digest is not None:
            return file, file.digest.value
        with HubClient(file.url, self._network, classify=_refusal, trusted=trusted) as client:
            reply = client.head(file.url)
        # Some servers know no HEAD: then the transfer will see.
        headers = reply.headers if reply.status == 200 else {}
        length = headers.get("content-length", "")
        size = int(length) if _LENGTH.fullmatch(length) else None
        if size is not None and size > self._most_bytes:
            raise SourceUnsafe(
                f"The server offers {size} bytes as {file.path}, which are too many",
                hint="An operator can raise MODELFERRY_MAX_UNPACKED_MB.",
            )
        return msgspec.structs.replace(file, size=size), headers.get("etag") or headers.get("last-modified") or ""

    def _trusts(self, model_type: ModelType) -> bool:
        """Whether the operator has named the address, and not a request."""
        return _SETTINGS[model_type] not in self._given

    def _unpacked(self, attempt: Attempt) -> tuple[str, ...]:
        """The checkpoint out of its archive, which holds programs beside it: those stay where they are."""
        paths = unpack(
            attempt.workspace / _ARCHIVE,
            attempt.workspace,
            ArchiveLimits(most_bytes=self._most_bytes),
            rename=lambda path: CHECKPOINT if path.rpartition("/")[2] == CHECKPOINT else None,
            checkpoint=attempt.checkpoint,
        )
        if not paths:
            raise OutputIncomplete(
                f"The archive holds no file {CHECKPOINT}",
                hint="Let HLS_3D_POSE_CHECKPOINT_URL name the archive that Open Model Zoo offers, or a copy of it.",
            )
        return paths


_SETTINGS = {
    ModelType.POSE_3D: "HLS_3D_POSE_CHECKPOINT_URL",
    ModelType.AI_ECG: "HLS_ECG_BASE_URL",
    ModelType.RPPG: "HLS_RPPG_MODEL_URL",
}
_DEFAULTS = {ModelType.POSE_3D: _POSE_URL, ModelType.AI_ECG: _ECG_URL, ModelType.RPPG: _RPPG_URL}


def _checked_type(name: str, options: HlsOptions) -> ModelType:
    """The type, if it is one of this hub's and has a model of this name."""
    model_type = options.model_type
    if model_type is None or model_type not in NAMES:
        known = ", ".join(NAMES)
        raise InvalidParameters(f"Hub 'hls' needs a 'type', one of: {known}.", hint=f"Set 'type' to one of: {known}.")
    if name not in NAMES[model_type]:
        # Clients of the contract read this very sentence.
        raise InvalidParameters(
            f"Invalid model name '{name}' for type '{model_type.value}'. Expected one of: {list(NAMES[model_type])}.",
            hint="Each type of this hub has models of its own.",
        )
    return model_type


def _revision(files: list[tuple[RemoteFile, str]]) -> str:
    """Names what the servers have: another address, size or tag is another revision."""
    listed = [(file.path, file.url, file.size, tag) for file, tag in files]
    return hashlib.sha256(msgspec.json.encode(listed)).hexdigest()[:40]


def _refusal(status: int, _headers: Mapping[str, str]) -> StageError | None:
    if status in {404, 410}:
        return SourceNotFound("There is no file at the address of the model", hint=_NO_MODEL)
    return None


def _check(path: Path) -> None:
    """Raise IntegrityMismatch on what cannot be the file that its name says."""
    size = path.stat().st_size
    if size < _LEAST_BYTES:
        raise _no_model(path, f"has {size} bytes only")
    if path.suffix == ".hdf5":
        with path.open("rb") as file:
            if file.read(len(_HDF5_BEGINS)) != _HDF5_BEGINS:
                raise _no_model(path, "is no HDF5 file")
    elif path.suffix == ".xml":
        _check_ir(path)


def _check_ir(path: Path) -> None:
    """Whether this describes a network, all of whose weights are within the file beside it."""
    weights = path.with_suffix(".bin").stat().st_size
    if path.stat().st_size > _MOST_XML_BYTES:
        raise _no_model(path, "is too long")
    try:
        # Without a document type there is nothing to expand.
        root = ET.fromstring(path.read_bytes(), ET.XMLParser(target=_Plain()))  # noqa: S314 # nosec B314
        ends = [
            int(one.get("offset", "")) + int(one.get("size", "")) for one in root.iterfind("layers/layer/data[@offset]")
        ]
    except (ET.ParseError, ValueError) as error:
        raise _no_model(path, "is no OpenVINO model") from error
    if root.tag != "net" or not ends:
        raise _no_model(path, "is no OpenVINO model")
    if max(ends) > weights:
        raise _no_model(path, f"needs {max(ends)} bytes of weights, and {path.stem}.bin has {weights}")


class _Plain(ET.TreeBuilder):
    """Refuses a document type: a network has none; a web page and a document that grows without end have one.

    Whatever alphabet it is written in: only the parser knows that.
    """

    def doctype(self, *_: object) -> None:
        """Called before anything that it declares. Raises ValueError."""
        raise ValueError


def _no_model(path: Path, why: str) -> IntegrityMismatch:
    return IntegrityMismatch(f"What arrived as {path.name} {why}", hint=_NO_MODEL)


_contract: type[Hub[HlsOptions]] = HlsHub

"""The Hugging Face hub: pins a repository to a commit, chooses its files, and has them fetched."""

import re
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from itertools import islice
from pathlib import PurePosixPath
from urllib.parse import quote

import httpx
from huggingface_hub import HfApi, close_session, constants, set_client_factory
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.hf_api import ModelInfo, RepoFile
from huggingface_hub.utils._http import default_client_factory

from common.catalog.huggingface import HuggingFaceOptions
from common.errors import (
    HubUnavailable,
    NotConverted,
    NothingToFetch,
    RateLimited,
    RevisionNotFound,
    SourceDisabled,
    SourceGated,
    SourceNotFound,
    SourcePrivateOrMissing,
    SourceUnsafe,
    StageError,
    TokenInvalid,
)
from common.plugins import Access, Attempt, Hub
from common.spec import Digest, Manifest, RemoteFile, Source, check_distinct, check_file_path
from common.vocabulary import DigestAlgorithm, Format
from worker.transfer import Credential, bring
from worker.transfer.connection import Origin, make_tls, wished_wait

_DEFAULT_ENDPOINT = "https://huggingface.co"
_NAME = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")

_MOST_FILES = 10_000
_MOST_CALLS = 200
"""So many calls list more files than are allowed; a listing that needs more has no end."""
_MOST_BYTES = 32 * 1024 * 1024
_CONNECT_S = 10.0
_SILENCE_S = 30.0
_CALL_S = 120.0
_READ_BYTES = 64 * 1024

# What is left out where a repository holds the same weights in a better form. Whole folders, then names.
_OTHER_FOLDERS = ("onnx", "original", "coreml")
_OTHER_NAMES = (
    "*.h5", "*.msgpack", "*.ot", "*.onnx", "*.onnx_data*", "*.onnx.data", "*.gguf", "*.pt", "*.pth", "*.ckpt",
    "consolidated*", "flax*", "tf_*",
)  # fmt: skip
_SIDE_FILES = (
    "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.vocab", "*.merges", "vocab*", "merges*", "*.md",
    "README*", "LICENSE*", "LICENCE*",
)  # fmt: skip
# As diffusers and transformers name them; a shard's number may stand before or after the variant.
_VARIANT = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:-\d{5}-of-\d{5})?\.(?P<variant>[A-Za-z][\w]{0,15})"
    r"(?:-\d{5}-of-\d{5})?\.(?:safetensors|bin)"
)
_PICKLED_WEIGHTS = ("pytorch_model*.bin", "diffusion_pytorch_model*.bin", "adapter_model*.bin", "model*.bin")


class HuggingFaceHub:
    """The hub at HF_ENDPOINT, with HF_TOKEN where one is set."""

    def __init__(self, access: Access) -> None:
        self._endpoint = (access.settings.get("HF_ENDPOINT") or _DEFAULT_ENDPOINT).rstrip("/")
        self._token = access.secrets.get("HF_TOKEN") or None
        self._ca_bundle = access.settings.get("REQUESTS_CA_BUNDLE") or None

    def resolve(self, source: Source, options: HuggingFaceOptions) -> Manifest:
        """Pin the source to a commit, make sure that its files may be read, and choose them from the listing."""
        with self._errors_about(source), self._library() as api:
            info = api.model_info(source.name, revision=source.revision, token=self._token or False)
            name, commit = _identity(info)
            if info.disabled:
                raise SourceDisabled(f"'{source.name}' is disabled at the hub")
            if info.gated is not False:
                self._knock(api, name, source, gated=bool(info.gated))
            listing = api.list_repo_tree(name, revision=commit, recursive=True, token=self._token or False)
            entries = [entry for entry in islice(listing, 2 * _MOST_FILES) if isinstance(entry, RepoFile)]
        if len(entries) > _MOST_FILES:
            raise SourceUnsafe(f"'{source.name}' holds more than {_MOST_FILES} files")
        files = [self._remote_file(entry, name, commit) for entry in entries]
        check_distinct([file.path for file in files])
        chosen, kind = select([file.path for file in files], options, source.name)
        return Manifest(
            source=source,
            revision=commit,
            format=kind,
            files=tuple(file for file in files if file.path in chosen),
            licence=_licence(info),
            made_of=_made_of(info),
        )

    def fetch(self, manifest: Manifest, options: HuggingFaceOptions, attempt: Attempt) -> None:  # noqa: ARG002 - chosen
        """Bring the files of the manifest. The token goes to the hub's own address and to no other."""
        credential = Credential.bearer(self._endpoint, self._token) if self._token else None
        classify = partial(_refusal, name=manifest.source.name)
        bring(manifest.files, attempt, credential, classify=classify, ca_bundle=self._ca_bundle)

    @contextmanager
    def _library(self) -> Iterator[HfApi]:
        """The hub's own library, asked for metadata only, through a client with limits."""
        # Without this it would ask huggingface.co, whatever the endpoint, who runs this process.
        constants.HF_HUB_DISABLE_TELEMETRY = True
        tls = make_tls(self._ca_bundle)
        set_client_factory(lambda: _BoundedClient(self._endpoint, tls))
        try:
            yield HfApi(endpoint=self._endpoint, token=self._token or False, library_name="modelferry")
        finally:
            # Whoever else uses the library in this process gets it as it was.
            set_client_factory(default_client_factory)
            close_session()

    def _knock(self, api: HfApi, name: str, source: Source, *, gated: bool) -> None:
        """Anyone may list a gated repository: find out before anything is queued whether its files may be read."""
        try:
            api.auth_check(name, token=self._token or False)
        except HfHubHTTPError as error:
            refused = error.response.status_code in {401, 403}
            if gated and refused and not isinstance(_from_library(error, source.name), TokenInvalid):
                raise _gated(source.name) from error
            if refused or error.response.headers.get("X-Error-Code") is not None:
                raise
            # A mirror that does not know this call. The files themselves will tell.

    def _remote_file(self, entry: RepoFile, name: str, commit: str) -> RemoteFile:
        path = check_file_path(str(entry.path))
        if entry.lfs is not None:
            size, digest = entry.lfs.size, Digest(algorithm=DigestAlgorithm.SHA256, value=str(entry.lfs.sha256))
        else:
            size, digest = entry.size, Digest(algorithm=DigestAlgorithm.GIT_SHA1, value=str(entry.blob_id))
        if not isinstance(size, int) or size < 0:
            raise SourceUnsafe(f"The hub lists an impossible size for {path}")
        url = f"{self._endpoint}/{quote(name)}/resolve/{commit}/{quote(path)}"
        return RemoteFile(path=path, size=size, digest=digest, url=url)

    @contextmanager
    def _errors_about(self, source: Source) -> Iterator[None]:
        """Turn what the hub's library raises into our errors, by type and by the hub's own codes."""
        try:
            yield
        except HfHubHTTPError as error:
            raise _from_library(error, source.name) from error
        except HFValidationError as error:
            raise SourceNotFound(f"'{source.name}' cannot be the name of a model at this hub") from error
        except OfflineModeIsEnabled as error:
            raise HubUnavailable("HF_HUB_OFFLINE forbids to ask the hub") from error
        except httpx.HTTPError as error:
            raise HubUnavailable(f"The hub cannot be reached: {type(error).__name__}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise HubUnavailable(f"The hub's answer about '{source.name}' makes no sense") from error


def select(paths: Sequence[str], options: HuggingFaceOptions, name: str = "") -> tuple[frozenset[str], Format]:
    """Which files are wanted, and what form of model they are.

    The best form of weights wins: safetensors, then PyTorch's pickles, then OpenVINO IR, then whatever there is;
    with `require_ir` it is the IR. Raises NotConverted and NothingToFetch.
    """
    held = _without_copies([path for path in paths if not _fits(path, options.exclude)], options)
    pairs = _ir_pairs(held)
    if options.require_ir and not pairs:
        raise NotConverted(f"'{name}' holds no OpenVINO model: no .xml file with its .bin beside it")
    chosen = (
        [path for path in held if _fits(path, options.include)] if options.include else _preset(held, pairs, options)
    )
    if not chosen:
        raise NothingToFetch(f"'{name}' holds no files that are wanted")
    has_ir = bool(_ir_pairs(chosen))
    other = any(_is_weights(path) for path in chosen if path not in pairs)
    return frozenset(chosen), Format.OPENVINO if has_ir and not other else Format.TRANSFORMERS


def _preset(held: list[str], pairs: frozenset[str], options: HuggingFaceOptions) -> list[str]:
    safe_folders = {_folder(path) for path in held if _is_safetensors(path)}
    has_pickles = any(_is_pickle(path) for path in held if path not in pairs)
    if options.require_ir:
        return [path for path in held if path in pairs or not (_is_weights(path) or _is_other(path))]
    if safe_folders:
        # A component that comes as a pickle only is needed beside others that come as safetensors.
        return [
            path
            for path in held
            if path not in pairs
            and not _is_other(path)
            and not (path.endswith(".bin") and _folder(path) in safe_folders)
        ]
    if has_pickles:
        return [path for path in held if path not in pairs and not _is_other(path)]
    if pairs:
        return [path for path in held if path in pairs or not _is_other(path)]
    return held


def _without_copies(paths: list[str], options: HuggingFaceOptions) -> list[str]:
    """Leave out weights that are there a second time: in another variant, or of a whole pipeline in one file."""
    if options.include:
        return paths
    plain = {_folder(path) for path in paths if _is_weights(path) and _variant(path) is None}
    asked = {_folder(path) for path in paths if _variant(path) == options.variant is not None}

    def is_copy(path: str) -> bool:
        if not _is_weights(path):
            return False
        if "model_index.json" in paths and not _folder(path):
            return True
        variant, folder = _variant(path), _folder(path)
        return variant != options.variant if folder in asked else variant is not None and folder in plain

    return [path for path in paths if not is_copy(path)]


def _variant(path: str) -> str | None:
    """The word that tells this form of the weights from others: `model.fp16.safetensors` -> `fp16`."""
    found = _VARIANT.fullmatch(path.rpartition("/")[2])
    return found["variant"] if found else None


def _ir_pairs(paths: Iterable[str]) -> frozenset[str]:
    """OpenVINO models: each .xml that has its .bin beside it, and that .bin."""
    known = set(paths)
    stems = [path.removesuffix(".xml") for path in known if path.endswith(".xml")]
    return frozenset(f"{stem}{suffix}" for stem in stems if f"{stem}.bin" in known for suffix in (".xml", ".bin"))


def _is_safetensors(path: str) -> bool:
    return path.endswith(".safetensors") and not _is_other(path)


def _is_pickle(path: str) -> bool:
    return any(fnmatchcase(PurePosixPath(path).name, pattern) for pattern in _PICKLED_WEIGHTS)


def _is_weights(path: str) -> bool:
    return path.endswith((".safetensors", ".bin"))


def _is_other(path: str) -> bool:
    """Whether this is the same model for another framework."""
    *folders, name = path.split("/")
    if folders and folders[0] in _OTHER_FOLDERS:
        return True
    side = any(fnmatchcase(name, pattern) for pattern in _SIDE_FILES)
    return not side and any(fnmatchcase(name, pattern) for pattern in _OTHER_NAMES)


def _fits(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(path, f"{pattern}*" if pattern.endswith("/") else pattern) for pattern in patterns)


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _identity(info: ModelInfo) -> tuple[str, str]:
    """The repository's present name, which a rename changes, and the commit. Both become part of an address."""
    name, commit = str(info.id), str(info.sha)
    if not _NAME.fullmatch(name) or ".." in name or not _COMMIT.fullmatch(commit):
        raise SourceUnsafe("The hub names a repository or a commit that cannot be one")
    return name, commit


def _licence(info: ModelInfo) -> str | None:
    card = info.card_data
    named = card.get("license") if card is not None else None
    if isinstance(named, list):
        named = ", ".join(map(str, named))
    tagged = [tag.removeprefix("license:") for tag in info.tags or [] if tag.startswith("license:")]
    return str(named) if named else next(iter(tagged), None)


def _made_of(info: ModelInfo) -> tuple[str, ...]:
    named = info.card_data.get("base_model") if info.card_data is not None else None
    return tuple(str(name) for name in (named if isinstance(named, list) else [named] if named else []))


def _from_library(error: HfHubHTTPError, name: str) -> StageError:
    response = error.response
    headers = {key.lower(): value for key, value in response.headers.items()}
    known = _refusal(response.status_code, headers, name=name)
    return known or HubUnavailable(f"The hub answered {response.status_code} when asked about '{name}'")


def _refusal(status: int, headers: Mapping[str, str], *, name: str) -> StageError | None:  # noqa: PLR0911 - a table
    """What the hub means by a status of 4xx and its error headers, most telling first."""
    code, message = headers.get("x-error-code"), headers.get("x-error-message")
    if code == "GatedRepo":
        return _gated(name)
    if message == "Access to this resource is disabled.":
        return SourceDisabled(f"'{name}' is disabled at the hub")
    if code == "RevisionNotFound":
        return RevisionNotFound(f"'{name}' has no such revision")
    if code == "EntryNotFound":
        return SourceNotFound(f"'{name}' has lost a file that the hub lists")
    if status == 401 and message == "Invalid credentials in Authorization header":
        return TokenInvalid("The hub does not accept the HF_TOKEN that is set")
    if status in {401, 403}:
        return SourcePrivateOrMissing(
            f"'{name}' was not found or is private: provide an HF_TOKEN that may read it if it exists"
        )
    if status == 404:
        return SourceNotFound(f"'{name}' was not found at the hub")
    return None


def _gated(name: str) -> SourceGated:
    return SourceGated(
        f"'{name}' is a gated model: accept its terms on its page at the hub, and provide the HF_TOKEN of that account"
    )


class _BoundedClient(httpx.Client):
    """What the hub's library speaks through: every call has an end in time and size, and errors that mean 'later'.

    The library itself would wait for ever, retry on its own terms, and show a token to whatever a listing links to.
    """

    def __init__(self, endpoint: str, tls: ssl.SSLContext) -> None:
        super().__init__(
            verify=tls, follow_redirects=True, max_redirects=5, event_hooks={"request": [self._check_address]}
        )
        self._origin = Origin.of(endpoint)
        self._calls = 0

    def send(self, request: httpx.Request, **options: object) -> httpx.Response:
        """Send one request of the library and read the whole answer."""
        self._calls += 1
        if self._calls > _MOST_CALLS:
            raise SourceUnsafe("The hub's listing has no end")
        request.extensions["timeout"] = httpx.Timeout(_SILENCE_S, connect=_CONNECT_S).as_dict()
        deadline = time.monotonic() + _CALL_S
        try:
            response = super().send(request, **{**options, "stream": True})  # type: ignore[arg-type]
            try:
                body = _read(response, deadline)
            finally:
                response.close()
        except httpx.TransportError as error:
            raise HubUnavailable(f"The hub cannot be reached: {type(error).__name__}") from error
        _raise_if_later(response)
        headers = [pair for pair in response.headers.items() if pair[0] not in {"content-encoding", "content-length"}]
        return httpx.Response(response.status_code, headers=headers, content=body, request=response.request)

    def _check_address(self, request: httpx.Request) -> None:
        """Look at each address before it is asked, also at those that redirects and listings name."""
        origin = Origin.of(str(request.url))
        if origin != self._origin:
            request.headers.pop("Authorization", None)
        if self._origin.scheme == "https" and origin.scheme != "https":
            raise SourceUnsafe("The hub redirects from https to an unencrypted address")


def _read(response: httpx.Response, deadline: float) -> bytes:
    body = bytearray()
    for piece in response.iter_bytes(_READ_BYTES):
        body += piece
        if len(body) > _MOST_BYTES:
            raise SourceUnsafe("The hub's listing is far too long")
        if time.monotonic() > deadline:
            raise HubUnavailable(f"The hub took more than {_CALL_S:.0f} s for one answer")
    return bytes(body)


def _raise_if_later(response: httpx.Response) -> None:
    status, wait_s = response.status_code, wished_wait(response.headers)
    if status == 429:
        raise RateLimited("The hub asks for fewer requests (429)", wait_s=wait_s)
    if status == 408 or status >= 500:
        raise HubUnavailable(f"The hub answered {status}", wait_s=wait_s)


_contract: type[Hub[HuggingFaceOptions]] = HuggingFaceHub

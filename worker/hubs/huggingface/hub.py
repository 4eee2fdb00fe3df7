"""Pins a repository to a commit, has its files fetched, and answers what else a hub is asked."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from urllib.parse import quote

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import ModelInfo, RepoFile

from common.catalog.huggingface import HuggingFaceOptions
from common.errors import HubUnavailable, SourceDisabled, SourceUnsafe, TokenInvalid
from common.plugins import Access, Attempt, GuardedHub, Hub, ListingHub, ListPage, ListQuery
from common.spec import Digest, Manifest, RemoteFile, Source, check_distinct, check_file_path
from common.vocabulary import DigestAlgorithm
from worker.hubs.huggingface.library import errors_about, from_library, library
from worker.hubs.huggingface.listing import collected, listed, names_collection
from worker.hubs.huggingface.naming import identity
from worker.hubs.huggingface.refusals import gated_source, listing_refusal, refusal, whoami_refusal
from worker.hubs.huggingface.selection import select
from worker.net import Credential, HubClient
from worker.net.client import Classify
from worker.transfer import bring

_DEFAULT_ENDPOINT = "https://huggingface.co"
_MOST_FILES = 10_000
_MOST_CALLS = 200
"""So many calls list more files than are allowed; a listing that needs more has no end."""
_MOST_BYTES = 16 * 1024 * 1024
_MOST_FILE_BYTES = 8 * 1024**4
"""Larger than any file of a model."""
_MOST_WORDS = 200
_MOST_BASES = 100


class HuggingFaceHub:
    """The hub at HF_ENDPOINT, with HF_TOKEN where one is set."""

    def __init__(self, access: Access) -> None:
        self._endpoint = (access.settings.get("HF_ENDPOINT") or _DEFAULT_ENDPOINT).rstrip("/")
        self._token = access.secrets.get("HF_TOKEN", "").strip()
        self._network = access.network
        self._trusted = "HF_ENDPOINT" not in access.given

    def resolve(self, source: Source, options: HuggingFaceOptions) -> Manifest:
        """Pin the source to a commit, make sure that its files may be read, and choose them from the listing."""
        with self._client() as client, errors_about(source.name), library(client, self._endpoint) as api:
            info = api.model_info(source.name, revision=source.revision, token=False)
            name, commit = identity(info)
            if info.disabled:
                raise SourceDisabled(f"'{source.name}' is disabled at the hub")
            if info.gated is not False:
                self._knock(api, name, source, gated=bool(info.gated))
            listing = api.list_repo_tree(name, revision=commit, recursive=True, token=False)
            entries = [entry for entry in islice(listing, 2 * _MOST_FILES) if isinstance(entry, RepoFile)]
            licence, made_of = _licence(info), _made_of(info)
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
            licence=licence,
            made_of=made_of,
        )

    def fetch(self, manifest: Manifest, options: HuggingFaceOptions, attempt: Attempt) -> None:  # noqa: ARG002 - chosen
        """Bring the files of the manifest. The token goes to the hub's own address and to no other."""
        classify = partial(refusal, name=manifest.source.name)
        network, trusted = self._network, self._trusted
        bring(manifest.files, attempt, self._credential, classify=classify, network=network, trusted=trusted)

    def list(self, query: ListQuery) -> ListPage:
        """The models that the filters want: by downloads, or in the order of a collection.

        Raises TokenInvalid, InvalidParameters, SourceNotFound, RateLimited, HubUnavailable and SourceUnsafe.
        """
        with self._client(listing_refusal) as client, errors_about("its models"):
            if names_collection(query):
                return collected(client, query)
            with library(client, self._endpoint) as api:
                return listed(api, query)

    def check_credentials(self) -> None:
        """Return if the hub knows HF_TOKEN. Raises TokenInvalid, also where there is none, and HubUnavailable."""
        if not self._token:
            raise TokenInvalid("There is no HF_TOKEN, neither set nor given with the request")
        with self._client(whoami_refusal) as client:
            if not isinstance(client.get("api/whoami-v2").json(), dict):
                raise HubUnavailable("The hub does not tell whom the HF_TOKEN belongs to")

    @property
    def _credential(self) -> Credential | None:
        return Credential.bearer(self._endpoint, self._token) if self._token else None

    @contextmanager
    def _client(self, classify: Classify = lambda _status, _headers: None) -> Iterator[HubClient]:
        with HubClient(
            self._endpoint,
            self._network,
            credential=self._credential,
            classify=classify,
            trusted=self._trusted,
            most_bytes=_MOST_BYTES,
            most_calls=_MOST_CALLS,
        ) as client:
            yield client

    def _knock(self, api: HfApi, name: str, source: Source, *, gated: bool) -> None:
        """Anyone may list a gated repository: find out before anything is queued whether its files may be read."""
        try:
            api.auth_check(name, token=False)
        except HfHubHTTPError as error:
            refused = error.response.status_code in {401, 403}
            if gated and refused and not isinstance(from_library(error, source.name), TokenInvalid):
                raise gated_source(source.name) from None
            if refused or error.response.headers.get("X-Error-Code") is not None:
                raise
            # A mirror that does not know this call. The files themselves will tell.

    def _remote_file(self, entry: RepoFile, name: str, commit: str) -> RemoteFile:
        path = check_file_path(str(entry.path))
        if entry.lfs is not None:
            size, digest = entry.lfs.size, Digest(algorithm=DigestAlgorithm.SHA256, value=str(entry.lfs.sha256))
        else:
            size, digest = entry.size, Digest(algorithm=DigestAlgorithm.GIT_SHA1, value=str(entry.blob_id))
        if type(size) is not int or not 0 <= size <= _MOST_FILE_BYTES:
            raise SourceUnsafe(f"The hub lists an impossible size for {path}")
        url = f"{self._endpoint}/{quote(name)}/resolve/{commit}/{quote(path)}"
        return RemoteFile(path=path, size=size, digest=digest, url=url)


def _licence(info: ModelInfo) -> str | None:
    card = info.card_data
    named = card.get("license") if card is not None else None
    if isinstance(named, list):
        named = ", ".join(map(str, named))
    tagged = [tag.removeprefix("license:") for tag in info.tags or [] if tag.startswith("license:")]
    return _plain(named) if named else next(map(_plain, tagged), None)


def _made_of(info: ModelInfo) -> tuple[str, ...]:
    named = info.card_data.get("base_model") if info.card_data is not None else None
    return tuple(
        _plain(name) for name in (named if isinstance(named, list) else [named] if named else [])[:_MOST_BASES]
    )


def _plain(word: object) -> str:
    """A word of a card as it may be stored and shown: not endless, and of printable characters."""
    return "".join(char if char.isprintable() else " " for char in str(word)[:_MOST_WORDS])


_contract: type[Hub[HuggingFaceOptions]] = HuggingFaceHub
_listing: type[ListingHub] = HuggingFaceHub
_guarded: type[GuardedHub] = HuggingFaceHub

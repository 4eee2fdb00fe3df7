"""The hub of the catalog: finds a model on a Geti server, has its export brought, and lists what there is."""

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from common.archives import ArchiveLimits
from common.catalog.geti import GetiOptions
from common.errors import HubUnavailable, IntegrityMismatch, RevisionNotFound, SourceNotFound
from common.plugins import Access, Attempt, GuardedHub, Hub, ListingHub, ListPage, ListQuery
from common.spec import Manifest, Progress, RemoteFile, Source
from common.vocabulary import Format, Phase
from worker.hubs.geti.door import Door, is_page, lost, own_advice, refusal, stranger
from worker.hubs.geti.exports import lay_out
from worker.hubs.geti.listing import list_models
from worker.hubs.geti.search import BASE, Choice, find
from worker.hubs.geti.values import Server
from worker.hubs.geti.version2 import PRODUCT_INFO, Geti2
from worker.hubs.geti.version3 import PROJECTS, Geti3
from worker.net import HubClient
from worker.transfer import bring

log = logging.getLogger(__name__)

_ARCHIVE = "export.zip"
_OPENVINO = "OpenVINO"
_VERSIONS = frozenset({"product-version", "build-version"})
_MIB = 1024 * 1024
_MOST_UNPACKED_MB = 51200


class GetiHub:
    """The server at GETI_HOST, asked with GETI_TOKEN."""

    def __init__(self, access: Access) -> None:
        self._access = access
        unpacked_mb = int(access.settings.get("MODELFERRY_MAX_UNPACKED_MB") or _MOST_UNPACKED_MB)
        self._limits = ArchiveLimits(most_bytes=unpacked_mb * _MIB)

    def resolve(self, source: Source, options: GetiOptions) -> Manifest:
        """Find the export that is meant. Its ids are the revision: what was trained once does not change."""
        door = Door.to(self._access)
        with _server(door) as server:
            choice = find(server, source, options)
        revision = _identity(choice, options, door)
        if source.revision is not None and "." in source.revision and source.revision != revision:
            raise RevisionNotFound(
                f"'{source.name}' has no such export '{source.revision}'; this is {revision}",
                hint="Give the number or the id of a version as revision, or none for the latest.",
            )
        return Manifest(
            source=source,
            revision=revision,
            format=_format(choice),
            files=(RemoteFile(path=_ARCHIVE, size=None, digest=None, url=_address(choice, options)),),
            facts=_facts(choice, options),
        )

    def fetch(self, manifest: Manifest, options: GetiOptions, attempt: Attempt) -> tuple[str, ...]:  # noqa: ARG002 - chosen
        """Bring the export, and lay out what it holds. One that arrives broken is brought once more."""
        (archive,) = manifest.files
        try:
            return self._fetch(archive, manifest.format, attempt)
        except IntegrityMismatch as error:
            log.warning("geti.export_spoilt", extra={"reason": str(error)})
        return self._fetch(archive, manifest.format, attempt)

    def list(self, query: ListQuery) -> ListPage:
        """The newest model of each group, by project and name."""
        with _server(Door.to(self._access)) as server:
            return list_models(server, query)

    def check_credentials(self) -> None:
        """Return if the server knows the token."""
        with _server(Door.to(self._access)) as server:
            server.check()

    def _fetch(self, archive: RemoteFile, kind: Format, attempt: Attempt) -> tuple[str, ...]:
        door = Door.to(self._access)
        with own_advice():
            bring(
                [archive],
                attempt,
                door.credential,
                classify=lost,
                network=door.network,
                trusted=door.trusted,
                verify=door.verify,
                most_bytes=self._limits.most_bytes,
            )
        attempt.progress(Progress(phase=Phase.VERIFYING))
        brought = attempt.workspace / archive.path
        paths = lay_out(brought, attempt.workspace, kind, self._limits, attempt.checkpoint)
        if archive.path not in paths:
            brought.unlink()
        return paths


@contextmanager
def _server(door: Door) -> Iterator[Server]:
    """The server behind the door, whichever version it is. Raises InvalidParameters where it is no Geti at all."""
    with own_advice(), door.client() as client:
        yield _greet(door, client)


def _greet(door: Door, client: HubClient) -> Server:
    """Ask for what only one of the versions has."""
    info = _data(client, PRODUCT_INFO)
    if isinstance(info, dict) and info.keys() & _VERSIONS:
        return Geti2(door, client)
    if isinstance(_data(client, PROJECTS), list):
        return Geti3(door, client)
    raise stranger(door)


def _data(client: HubClient, path: str) -> object:
    """What a server answers here; None where it is no data, such as the page that it has for every address."""
    reply = client.get(path)
    error = refusal(reply.status, reply.headers)
    if error is not None:
        raise error
    if reply.status != 200 or is_page(reply):
        return None
    try:
        found: object = reply.json()
    except HubUnavailable:
        return None
    return found


def _identity(choice: Choice, options: GetiOptions, door: Door) -> str:
    """What names these bytes for ever: on which server, which training, which export of it."""
    export = BASE if choice.variant is None else choice.variant.id
    only = ["model"] if _is_model_only(choice, options) else []
    version = [] if choice.model.version is None else [f"v{choice.model.version}"]
    # Ids are the server's own words: one server must not pass for another by using its ids.
    server = hashlib.sha256(door.home.encode()).hexdigest()[:12]
    return ".".join([choice.model.id, export, *only, *version, server])


def _address(choice: Choice, options: GetiOptions) -> str:
    if choice.variant is None:
        if choice.model.base_url is None:
            raise SourceNotFound(f"'{choice.model.name}' has no base weights")
        return choice.model.base_url
    return f"{choice.variant.url}?model_only=true" if _is_model_only(choice, options) else choice.variant.url


def _is_model_only(choice: Choice, options: GetiOptions) -> bool:
    """Whether to ask for less than the whole export; where there are no groups nobody knows how."""
    return options.model_only and choice.variant is not None and choice.model.group.id is not None


def _format(choice: Choice) -> Format:
    if choice.variant is None:
        return Format.PYTORCH
    return Format.OPENVINO if choice.variant.model_format == _OPENVINO else Format.ARCHIVE


def _facts(choice: Choice, options: GetiOptions) -> dict[str, object]:
    model, facts = choice.model, dict[str, object]()
    facts["model_id"] = model.id
    if model.group.id is not None:
        facts["model_group_id"] = model.group.id
    facts["export_type"] = options.export_type
    if choice.variant is not None:
        facts["model_format"] = choice.variant.model_format
    if choice.ignored:
        message = (
            f"No export of '{model.name}' has these fields, so they did not narrow the search: "
            f"{', '.join(choice.ignored)}"
        )
        facts["warnings"] = {"ignored_fields": sorted(choice.ignored), "message": message}
    return facts


_contract: type[Hub[GetiOptions]] = GetiHub
_lists: type[ListingHub] = GetiHub
_guarded: type[GuardedHub] = GetiHub

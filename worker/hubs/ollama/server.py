"""Has an Ollama server that runs pull a model, and publishes a note of what it has then."""

import re
import time
from contextlib import closing
from urllib.parse import urlsplit

import msgspec

from common.catalog.ollama import OllamaName
from common.clock import utc_now
from common.errors import (
    DiskFull,
    HubUnavailable,
    InvalidParameters,
    InvalidSpec,
    OutputIncomplete,
    RateLimited,
    SourceNotFound,
    SourcePrivateOrMissing,
    SourceUnsafe,
    StageError,
    TransferStalled,
)
from common.plugins import Access, Attempt
from common.spec import Manifest, Progress, RemoteFile, Source
from common.vocabulary import Format, Phase
from worker.hubs.ollama.lines import Lines
from worker.hubs.ollama.tokens import HINT_NAME
from worker.net import NO_JSON, HubClient, Network, Origin
from worker.net.connection import Question

NOTE = "ollama.json"

_DEFAULT_PORT = 11434
_QUIET_S = 3600.0
"""How long the server may say nothing while it checks what it has pulled: it reads all of it."""
_MOST_LAYERS = 1000
_MOST_WORDS = 200
_MOST_SAID = 2000
_HINT_KEY = "Check the name, and whether the server's own key may read the model."
_ADDRESS = re.compile(r"\w+://\S+")


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """What is published: where the model is, and which one it is. The server keeps the model itself."""

    server: str
    model: str
    digest: str
    size: int


class _Event(msgspec.Struct, kw_only=True):
    """One line of a pull."""

    status: str = ""
    error: str = ""
    digest: str = ""
    total: int = 0
    completed: int = 0


class _Tagged(msgspec.Struct, kw_only=True):
    name: str = ""
    model: str = ""
    digest: str = ""
    size: int = 0


class _Tags(msgspec.Struct, kw_only=True):
    models: list[_Tagged] | None = None


class Server:
    """The Ollama server at OLLAMA_HOST."""

    def __init__(self, host: str, access: Access) -> None:
        self._address = address_of(host)
        self._rules = access.network
        self._trusted = "OLLAMA_HOST" not in access.given

    def resolve(self, source: Source, name: OllamaName, facts: dict[str, object]) -> Manifest:
        """Make sure that the server is there. Only a pull can tell what the name stands for: each one is its own."""
        with self._client() as client:
            if client.get("api/version").status != 200:
                raise HubUnavailable("What answers at OLLAMA_HOST is no Ollama server")
        return Manifest(
            source=source,
            revision=f"{name.tag}@{utc_now().isoformat()}",
            format=Format.GGUF,
            files=(RemoteFile(path=NOTE, size=None, digest=None, url=f"{self._address}/api/tags"),),
            facts=facts,
        )

    def fetch(self, manifest: Manifest, name: OllamaName, attempt: Attempt) -> None:  # noqa: ARG002 - nothing is listed
        """Have the server pull, make sure that it has the model, and write the note."""
        attempt.checkpoint()
        self._pull(name, attempt)
        attempt.checkpoint()
        note = self._note(name)
        at = attempt.workspace / NOTE
        # It may be a link to stored content, which must not change.
        at.unlink(missing_ok=True)
        at.write_bytes(msgspec.json.format(msgspec.json.encode(note)) + b"\n")

    def _pull(self, name: OllamaName, attempt: Attempt) -> None:
        pull = _Pull(name.short, attempt)
        network = Network(attempt.limits.connect_s, _QUIET_S, self._rules, trusted=self._trusted)
        body = msgspec.json.encode({"model": name.short, "stream": True})
        headers = {"Content-Type": "application/json"}
        question = Question("POST", f"{self._address}/api/pull", self._address, headers, body)
        lines = Lines(question, network, lambda: pull.breathe(lines.silent_s), pull.refusal)
        with closing(iter(lines)) as received:
            for line in received:
                pull.hear(line)
                if pull.is_done:
                    return
        raise HubUnavailable(f"The Ollama server has ended the pull of '{name.short}' without success")

    def _note(self, name: OllamaName) -> Note:
        """What the server has under this name. Raises OutputIncomplete where that is nothing."""
        with self._client() as client:
            reply = client.get("api/tags")
        try:
            tags = msgspec.json.decode(reply.body, type=_Tags)
        except NO_JSON as error:
            raise HubUnavailable("The Ollama server does not tell which models it has") from error
        for entry in tags.models or []:
            if _means(entry.name or entry.model, name):
                return Note(server=self._address, model=name.short, digest=_sha256(entry.digest), size=entry.size)
        raise OutputIncomplete(
            f"The Ollama server reports success, but does not have '{name.short}'",
            hint="Look into the server's log: it may have lost the model, or keep its models elsewhere.",
        )

    def _client(self) -> HubClient:
        return HubClient(self._address, self._rules, trusted=self._trusted)


class _Pull:
    """How far one pull is, by what the server says."""

    def __init__(self, name: str, attempt: Attempt) -> None:
        self.is_done = False
        self._name = name
        self._attempt = attempt
        self._phase = Phase.RESOLVING
        self._totals: dict[str, int] = {}
        self._completed: dict[str, int] = {}
        self._seen: tuple[Phase, int] = (self._phase, 0)
        self._moved_at = time.monotonic()

    def breathe(self, silent_s: float) -> None:
        """Ask whether to go on. While it downloads, a server tells of progress all the time."""
        self._attempt.checkpoint()
        now = (self._phase, sum(self._completed.values()))
        if now != self._seen:
            self._seen, self._moved_at = now, time.monotonic()
        limit_s = _QUIET_S if self._phase is Phase.VERIFYING else self._attempt.limits.stall_s
        if silent_s > limit_s:
            raise TransferStalled(f"The Ollama server has said nothing for {limit_s:.0f} s")
        if time.monotonic() - self._moved_at > limit_s:
            raise TransferStalled(f"The Ollama server talks, but has got no further for {limit_s:.0f} s")

    def hear(self, line: bytes) -> None:
        """Take in one line. Raises StageError where it tells of a failure."""
        try:
            event = msgspec.json.decode(line, type=_Event)
        except NO_JSON as error:
            raise HubUnavailable("The Ollama server does not speak as one") from error
        if event.error:
            raise _failure(self._name, event.error)
        self.is_done = event.status == "success"
        if event.digest:
            self._count(event)
        elif self._totals:
            self._phase = Phase.VERIFYING
        self._report()

    def refusal(self, status: int, line: bytes) -> StageError:
        """What a status means with which the server answers instead of pulling."""
        try:
            said = msgspec.json.decode(line, type=_Event).error
        except NO_JSON:
            said = ""
        if status == 429:
            return RateLimited("The Ollama server asks for fewer requests (429)")
        if status in {401, 403}:
            return SourcePrivateOrMissing(
                f"The Ollama server refuses to pull '{self._name}' ({status})", hint=_HINT_KEY
            )
        if status == 400:
            return InvalidParameters(f"The Ollama server does not take the name '{self._name}'{_quoted(said)}")
        if said:
            return _failure(self._name, said)
        return HubUnavailable(f"The Ollama server answered {status}")

    def _count(self, event: _Event) -> None:
        if len(self._totals) >= _MOST_LAYERS and event.digest not in self._totals:
            raise SourceUnsafe(f"The Ollama server tells of more than {_MOST_LAYERS} layers")
        self._phase = Phase.DOWNLOADING
        self._totals[event.digest] = max(0, event.total)
        seen = self._completed.get(event.digest, 0)
        # Of a layer that begins anew, what was reported stays reported.
        self._completed[event.digest] = max(seen, min(event.completed, event.total))

    def _report(self) -> None:
        # The first layer is nearly all of a model; the others become known one after the other.
        done = [digest for digest, total in self._totals.items() if self._completed[digest] >= total]
        self._attempt.progress(
            Progress(
                phase=self._phase,
                bytes_done=sum(self._completed.values()),
                bytes_total=sum(self._totals.values()) if self._totals else None,
                files_done=len(done),
            )
        )


def address_of(host: str) -> str:
    """The address of a server as Ollama's own tools read OLLAMA_HOST: `[scheme://]host[:port][/path]`.

    Raises InvalidParameters. A login in it is left out: it would end in notes and logs.
    """
    scheme, separator, rest = host.strip().partition("://")
    if not separator:
        scheme, rest = "http", scheme
    try:
        parts = urlsplit(f"{scheme}://{'127.0.0.1' if rest.startswith(':') else ''}{rest}")
        port = parts.port or ({"http": 80, "https": 443}.get(scheme.lower()) if separator else _DEFAULT_PORT)
        name = parts.hostname or "127.0.0.1"
        address = f"{scheme.lower()}://{f'[{name}]' if ':' in name else name}:{port}{parts.path.rstrip('/')}"
        Origin.of(address)
    except (ValueError, SourceUnsafe) as error:
        raise InvalidParameters(
            "OLLAMA_HOST names no server", hint="Set OLLAMA_HOST to http://host:port, or to nothing."
        ) from error
    return address


def _means(listed: str, name: OllamaName) -> bool:
    try:
        return OllamaName.of(listed).is_same(name)
    except InvalidSpec:
        return False


def _sha256(digest: str) -> str:
    value = digest.removeprefix("sha256:")
    if not re.fullmatch(r"[0-9a-f]{64}", value):
        raise HubUnavailable("The Ollama server does not tell the model's digest")
    return f"sha256:{value}"


def _failure(name: str, said: str) -> StageError:
    """What a failed pull means. The protocol has no codes: the server's words are all there is."""
    words = said.lower()
    if "file does not exist" in words or "not found" in words:
        return SourceNotFound(f"The Ollama server cannot find '{name}' at its registry", hint=HINT_NAME)
    if "unauthorized" in words or "access denied" in words:
        return SourcePrivateOrMissing(f"The Ollama server may not pull '{name}'", hint=_HINT_KEY)
    if "no space left" in words:
        return DiskFull(
            "The volume of the Ollama server is full",
            hint="Free space there, or remove models from the server, then submit again.",
        )
    return HubUnavailable(f"The Ollama server could not pull '{name}'{_quoted(said)}")


def _quoted(said: str) -> str:
    """The server's own words, for people: short, printable, and without addresses, which may be signed."""
    words = "".join(
        char if char.isprintable() else " " for char in _ADDRESS.sub("...", said[:_MOST_SAID])[:_MOST_WORDS]
    ).strip()
    return f": it says '{words}'" if words else ""

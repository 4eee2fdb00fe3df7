"""The file with the models to ask for at a start: read and checked as a whole, by the rules of a request's body."""

import json
import os
import stat
from collections.abc import Callable, Collection, Iterable
from pathlib import PurePosixPath
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from api.compat.decoding import Reader, Unprocessable, UnreadableBody
from api.compat.gates import MOST_MODELS, GateName
from api.compat.submission import HUBS, ModelRequest
from api.compat.yaml_text import UnusableYaml, read_yaml
from api.wire import Fault

MOST_BYTES = 1024 * 1024
"""The largest file that is read."""

STARTUP = "startup"
"""The gate of the models that stand in no gate of their own."""

_MOST_GATES = 100
_LONGEST_PATH = 4096
_MOST_FAULTS = 10


class StartupFileUnusable(Exception):
    """The file as a whole is passed over. The message says why, and repeats no value of the file."""


def _download_path(path: str) -> str:
    if not path.strip():
        raise ValueError("must not be blank")
    if "\0" in path:
        raise ValueError("must not hold a NUL")
    return path


DownloadPath = Annotated[str, Field(min_length=1, max_length=_LONGEST_PATH), AfterValidator(_download_path)]


class StartupModel(ModelRequest):
    """One model that is wanted from the start, and where, if not where the others go."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    download_path: DownloadPath | None = None


StartupModelList = Annotated[list[StartupModel], Field(min_length=1, max_length=MOST_MODELS)]


def _own_name(name: str) -> str:
    if name == STARTUP:
        raise ValueError("is the name of the gate of 'models'")
    return name


class StartupGate(BaseModel):
    """A gate of its own, and where its models go, if not where the others go."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    download_path: DownloadPath | None = None
    models: StartupModelList


class StartupFile(BaseModel):
    """What the file holds."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    download_path: DownloadPath
    parallel_downloads: bool | None = False
    """Has no effect, as in a request."""
    models: StartupModelList = []
    gates: Annotated[
        dict[Annotated[GateName, AfterValidator(_own_name)], StartupGate], Field(min_length=1, max_length=_MOST_GATES)
    ] = {}

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.models and not self.gates:
            raise ValueError("names no models: there must be 'models', or 'gates'")
        return self

    def groups(self) -> dict[str, StartupGate]:
        """The gates of the file, that of its own models among them, each with where its models go."""
        own = {STARTUP: StartupGate(download_path=self.download_path, models=self.models)} if self.models else {}
        others = {
            name: gate.model_copy(update={"download_path": gate.download_path or self.download_path})
            for name, gate in self.gates.items()
        }
        return own | others


def read_startup_file(path: str, installed_hubs: Iterable[str]) -> StartupFile:
    """Read and check the file. Raises StartupFileUnusable, whatever is wrong with it."""
    if not path:
        raise StartupFileUnusable("The path is empty")
    parse = _PARSERS.get(PurePosixPath(path).suffix.lower())
    if parse is None:
        raise StartupFileUnusable(f"The name must end in {', '.join(sorted(_PARSERS))}")
    value = parse(_text(path))
    try:
        # As JSON once more: what a request cannot say is refused here too, and by the same words.
        body = json.dumps(value, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError):
        raise StartupFileUnusable("It holds a value that JSON cannot express") from None
    return _checked(body, installed_hubs)


def _text(path: str) -> str:
    try:
        content = _content(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise StartupFileUnusable(f"It cannot be read: {reason or 'the path is not usable'}") from None
    if len(content) > MOST_BYTES:
        raise StartupFileUnusable(f"It is larger than {MOST_BYTES} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StartupFileUnusable(f"It is not UTF-8 at byte {error.start}") from None


def _content(path: str) -> bytes:
    """At most one byte more than may be there. Links are followed: a mounted ConfigMap is made of them."""
    # Without waiting for the other end of a pipe that has the name of the file.
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(number, "rb") as stream:  # noqa: PTH123 - Path.open takes no flags
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise StartupFileUnusable("It is not a regular file")
        return stream.read(MOST_BYTES + 1)


def _json(text: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=_distinct)
    except json.JSONDecodeError as error:
        raise StartupFileUnusable(f"It is not JSON at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise StartupFileUnusable("It is nested too deeply") from None
    except ValueError:
        raise StartupFileUnusable("It holds a number that is too long") from None


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise StartupFileUnusable(f"The key {twice[:80]!r} stands twice in one object")
    return found


def _yaml(text: str) -> object:
    try:
        return read_yaml(text)
    except UnusableYaml as error:
        raise StartupFileUnusable(str(error)) from None


_PARSERS: dict[str, Callable[[str], object]] = {".json": _json, ".yaml": _yaml, ".yml": _yaml}


def _checked(body: bytes, installed_hubs: Iterable[str]) -> StartupFile:
    reader = Reader({"hubs": dict.fromkeys([*HUBS, *installed_hubs])})
    try:
        file = reader.body(StartupFile, body, None)
    except (Unprocessable, UnreadableBody):
        raise StartupFileUnusable("It holds text that is not Unicode, or is nested too deeply") from None
    if file is None:
        raise StartupFileUnusable(_told(reader.refusal().faults))
    return file


def _told(faults: Collection[Fault]) -> str:
    told = [f"{'.'.join(str(part) for part in fault.loc[1:]) or 'the file'}: {fault.msg}" for fault in faults]
    more = len(told) - _MOST_FAULTS
    return "; ".join(told[:_MOST_FAULTS]) + (f"; and {more} more" if more > 0 else "")

"""What a Geti server holds, in the words of neither of its versions."""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from common.errors import HubUnavailable, SourceUnsafe

Document = Mapping[str, object]

_IDENTIFIER = re.compile(r"[A-Za-z0-9_-]{1,80}", re.ASCII)
_MOST_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Project:
    """A project of the workspace."""

    id: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A model as the listing of its group has it."""

    id: str
    name: str
    version: str | None
    created: str | None
    document: Document = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The models that one architecture was trained to in a project, the newest first. Version 3 has none: no id."""

    id: str | None
    name: str | None
    models: tuple[Trained, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A model in one form that can be exported. `url` is the call that exports it."""

    id: str
    model_format: str
    precisions: tuple[str, ...]
    url: str
    fields: Document = field(repr=False)
    """All that the server says of it."""

    def __str__(self) -> str:
        return " ".join((shown(self.model_format), *(shown(precision) for precision in self.precisions)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A trained model and what can be exported of it. `base_url` is the call for its weights as they were trained."""

    project: Project
    group: Group
    id: str
    name: str
    version: str | None
    created: str | None
    base_url: str | None
    variants: tuple[Variant, ...]


class Server(Protocol):
    """A Geti server of any version. Raises StageError at each call."""

    def projects(self) -> Iterator[Project]:
        """Every project of the workspace, in the server's order."""

    def groups(self, project: Project) -> Iterator[Group]:
        """The project's groups of models in the server's order, without what the server has purged."""

    def model(self, project: Project, group: Group, trained: Trained) -> Model | None:
        """What is to be known of a model; None where it is not one that can be used."""

    def check(self) -> None:
        """Return if the server takes the token."""


def identifier(value: object) -> str:
    """An id that may become part of an address. Raises SourceUnsafe."""
    if not isinstance(value, str) or not _IDENTIFIER.fullmatch(value):
        raise SourceUnsafe("The Geti server names something by an id that is none")
    return value


def document(value: object) -> Document:
    """A JSON object. Raises HubUnavailable."""
    if not isinstance(value, dict):
        raise senseless()
    return value


def documents(value: object) -> list[Document]:
    """A list of JSON objects. Raises HubUnavailable."""
    if not isinstance(value, list):
        raise senseless()
    return [document(one) for one in value]


def text(value: object) -> str:
    """A string. Raises HubUnavailable."""
    if not isinstance(value, str):
        raise senseless()
    return value


def senseless() -> HubUnavailable:
    """The server's words do not mean anything."""
    return HubUnavailable("The Geti server's answer makes no sense", hint="Check GETI_HOST and the server's version.")


def shown(value: str) -> str:
    """A server's word as it may stand in a message: in one line, of printable characters, and not endless."""
    plain = "".join(" " if unicodedata.category(char)[0] in "CZ" else char for char in value[:_MOST_CHARACTERS])
    return " ".join(plain.split())

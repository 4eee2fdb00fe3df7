"""What a Geti server holds, to be filled by tests. Ids are made up where a test gives none."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.fakes.geti.exports import export_of, zip_of

_NUMBERS = itertools.count(1)


def new_id() -> str:
    """As the ids of MongoDB look."""
    return f"{next(_NUMBERS):024x}"


@dataclass(kw_only=True)
class Export:
    """A form of a model: what the listing says of it, and the zip."""

    precision: str = "FP16"
    model_format: str = "OpenVINO"
    optimization_type: str = "MO"
    status: str = "SUCCESS"
    purged: bool = False
    has_xai_head: bool = False
    fields: Mapping[str, object] = field(default_factory=dict)
    """Further fields, or other values of the usual ones."""
    content: bytes | None = None
    id: str = field(default_factory=new_id)

    def packed(self, *, model_only: bool = False) -> bytes:
        if self.content is not None:
            return self.content
        code = {} if model_only else {"python/demo.py": b"print()", "python/models/net.py": b"print()"}
        return zip_of({**export_of(self.id), **code})


@dataclass(kw_only=True)
class Training:
    """A model: one training of an architecture."""

    name: str
    version: int = 1
    exports: list[Export] = field(default_factory=lambda: [Export()])
    base: bytes = field(default_factory=lambda: zip_of({"weights.pth": b"weights"}))
    purged: bool = False
    status: str | None = None
    created: str | None = None
    id: str = field(default_factory=new_id)

    @property
    def creation_date(self) -> str:
        return self.created or f"2025-0{self.version}-01T10:00:00.123000+00:00"


@dataclass(kw_only=True)
class Architecture:
    """A group of models."""

    name: str
    trainings: list[Training] = field(default_factory=list)
    id: str = field(default_factory=new_id)


@dataclass(kw_only=True)
class Shelf:
    """A project. One that is closed may be seen but not opened."""

    name: str
    architectures: list[Architecture] = field(default_factory=list)
    closed: bool = False
    id: str = field(default_factory=new_id)

    def add(self, *trainings: Training) -> Shelf:
        """A group that holds these models; named as the first one."""
        self.architectures.append(Architecture(name=trainings[0].name, trainings=list(trainings)))
        return self

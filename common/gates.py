"""What a gate is: the models that it waits for, and what is known to have become of each."""

import re
from datetime import datetime

import msgspec

from common.errors import NoSuchGate
from common.spec import JobSpec, Spec

GATE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)
"""How a gate may be called."""


class GateWish(Spec, frozen=True, omit_defaults=True):
    """One model that a gate waits for."""

    name: str
    hub: str
    """As the client wrote it."""
    spec: JobSpec | None = None
    """How the wish was judged, without credentials; None where it was refused, or has not been judged yet."""

    @property
    def essence(self) -> tuple[object, ...] | None:
        """What tells this wish from others: what was asked for, not how urgently, and not what it comes to."""
        spec = self.spec
        if spec is None:
            return None
        return (spec.hub, spec.operation, spec.source, spec.model_type, spec.destination, spec.config)

    @property
    def place(self) -> str | None:
        """Where it is to be published, relative to MODELS_DIR."""
        return None if self.spec is None else f"{self.spec.destination.root}/{self.spec.destination.folder}".lstrip("/")


class GateFate(Spec, frozen=True, omit_defaults=True):
    """What is known to have become of one wish. Whether its model is there now, only the disk knows."""

    job_id: str | None = None
    """The last of the jobs that were to bring the model."""
    done: bool = False
    """Whether that job is completed; then nobody asks for it any more."""
    published: bool = False
    """Whether the model was there at some time."""
    replaces: bool = False
    """Whether what lies at its place may be something else that looks like it: then only its own job counts."""
    revision: str | None = None
    """What the job has found the asked revision to be."""
    models: tuple[str, ...] | None = None
    """Which models a wish for several has brought."""
    code: str | None = None
    """Why the wish was refused."""
    error: str | None = None


class GateRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A gate as the table has it. There is one fate for each wish."""

    name: str
    wishes: tuple[GateWish, ...]
    fates: tuple[GateFate, ...]
    version: int
    created_at: datetime
    changed_at: datetime


def no_such_gate(name: str) -> NoSuchGate:
    """What somebody hears who asks for a gate that is not there."""
    return NoSuchGate(f"There is no gate {name[:80]!r}")

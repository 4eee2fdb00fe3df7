"""What each tool-chain profile can convert, from tables that were written down when the tools were installed.

The tables are made by scripts/dump_capabilities.py; see docs/profiles.md.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from common.catalog.openvino.nature import Nature
from common.errors import InvalidParameters, UnsupportedModel

DEFAULT = "default"
"""The worker's own environment."""

GUIDE = "docs/profiles.md"

# optimum-intel has no exporter for object detection. Ours was made for these two and tried with no others: a detector
# answers with boxes and scores in a way of its own, so a graph that can be traced is not yet one that is right. Nor was
# it tried with another release of transformers than the worker's own.
_OBJECT_DETECTION = "object-detection"
_DETECTORS = frozenset({"detr", "yolos"})

_TABLES = Path(__file__).with_name("capabilities")
_PIPELINES = "diffusers"


class Bounds(msgspec.Struct, frozen=True):
    """The releases of transformers that an exporter was written for, both ends included."""

    min: str | None = None
    max: str | None = None


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """What one environment can convert."""

    profile: str
    versions: dict[str, str]
    """Distribution -> release, without the name of a build."""
    architectures: dict[str, dict[str, dict[str, Bounds]]]
    """Library -> architecture -> task -> bounds."""
    model_types: frozenset[str]
    """The architectures that its transformers knows by itself."""
    classes: frozenset[str]
    """The models, tokenizers and processors that its transformers has."""
    extras: frozenset[str]
    """Modules beyond the set-up that it has."""
    synonyms: dict[str, str]
    """Other words for tasks."""

    def knows(self, architecture: str, classes: Sequence[str]) -> bool:
        """Whether its transformers loads such a model without any code of the repository."""
        return architecture in self.model_types and self.classes.issuperset(classes)

    def obstacle(self, nature: Nature) -> str | None:
        """Why a model cannot be converted there; None where it can."""
        return self._ignorance(nature) or self._no_exporter(nature) or self._absence(nature)

    def _ignorance(self, nature: Nature) -> str | None:
        if nature.library not in self.architectures:
            return f"Models of the library '{nature.library}' take a package that is not installed"
        if nature.library == _PIPELINES or nature.brings_code is not None:
            return None
        transformers = f"transformers {self.versions['transformers']}"
        if nature.architecture not in self.model_types:
            return f"{transformers} does not know models of type '{nature.architecture}'"
        strange = [name for name in nature.classes if name not in self.classes and is_known_class(name)]
        return f"{transformers} has no class {strange[0]}" if strange else None

    def _no_exporter(self, nature: Nature) -> str | None:
        """Why there is no exporter for such models and this task, or none for the installed release."""
        optimum = f"optimum-intel {self.versions['optimum-intel']}"
        task = self.synonyms.get(nature.task, nature.task)
        if task == _OBJECT_DETECTION:
            return self._no_detector(nature.architecture)
        tasks = self.architectures[nature.library].get(nature.architecture)
        if tasks is None:
            kind = "pipelines of class" if nature.library == _PIPELINES else "models of type"
            return f"{optimum} cannot convert {kind} '{nature.architecture}'"
        if task not in tasks:
            can = ", ".join(sorted(tasks)) or "nothing"
            return f"{optimum} cannot convert '{nature.architecture}' models for {task}; it can for: {can}"
        return self._wrong_release(nature.architecture, tasks[task])

    def _no_detector(self, architecture: str) -> str | None:
        if self.profile != DEFAULT:
            return f"Object detection is converted in profile '{DEFAULT}' only"
        known = ", ".join(sorted(_DETECTORS))
        return (
            None if architecture in _DETECTORS else f"Object detection is converted for {known}, not '{architecture}'"
        )

    def _wrong_release(self, architecture: str, bounds: Bounds) -> str | None:
        here = self.versions["transformers"]
        early = bounds.min is not None and _release(here) < _release(bounds.min)
        late = bounds.max is not None and _release(here) > _release(bounds.max)
        if not early and not late:
            return None
        ends = [bounds.min and f"at least {bounds.min}", bounds.max and f"at most {bounds.max}"]
        wanted = " and ".join(end for end in ends if end)
        return f"Converting '{architecture}' models takes transformers of {wanted}; installed is {here}"

    def _absence(self, nature: Nature) -> str | None:
        absent = [module for module in nature.needs if module not in self.extras]
        return f"This model needs a library that is not installed: {absent[0]}" if absent else None


@functools.cache
def tables() -> Mapping[str, Table]:
    """Every profile that Modelferry knows -> what it can convert; the worker's own environment comes first."""
    read = [msgspec.json.decode(path.read_bytes(), type=Table) for path in _TABLES.glob("*.json")]
    return {table.profile: table for table in sorted(read, key=lambda table: (table.profile != DEFAULT, table.profile))}


def tasks_of(library: str, architecture: str) -> frozenset[str]:
    """What such models can be converted for, in whichever environment."""
    known = (table.architectures.get(library, {}).get(architecture, {}) for table in tables().values())
    return frozenset(task for tasks in known for task in tasks)


def is_known_class(name: str) -> bool:
    """Whether some environment's transformers has this class."""
    return any(name in table.classes for table in tables().values())


def is_known(architecture: str, classes: Sequence[str]) -> bool:
    """Whether some environment loads such models without any code of the repository."""
    return any(table.knows(architecture, classes) for table in tables().values())


def route(nature: Nature, asked: str | None, installed: Sequence[str]) -> str:
    """The profile that will convert the model: the one that was asked for, or the first that can.

    Raises UnsupportedModel when none of those that are installed can, InvalidParameters when there is no such profile.
    """
    here = [DEFAULT, *(name for name in installed if name in tables() and name != DEFAULT)]
    if asked is not None and asked not in here:
        raise InvalidParameters(
            f"There is no profile {asked[:40]!r} here; there is: {', '.join(here)}",
            hint=f"Leave out 'profile', or let an operator install it: see {GUIDE}.",
        )
    obstacles: dict[str, str] = {}
    for name in here if asked is None else [asked]:
        obstacle = tables()[name].obstacle(nature)
        if obstacle is None:
            return name
        obstacles[name] = obstacle
    raise UnsupportedModel(_told(obstacles), hint=_way_out(nature, obstacles, here))


def _told(obstacles: Mapping[str, str]) -> str:
    if len(set(obstacles.values())) == 1:
        return next(iter(obstacles.values()))
    return "; ".join(f"in profile '{name}': {why}" for name, why in obstacles.items())


def _way_out(nature: Nature, tried: Mapping[str, str], here: Sequence[str]) -> str | None:
    """The profile that could convert the model, and how to come by it."""
    able = [name for name, table in tables().items() if name not in tried and table.obstacle(nature) is None]
    ready = [name for name in able if name in here]
    if ready:
        return f"Profile '{ready[0]}' can convert this model: leave out 'profile', or set it to that."
    if able:
        return (
            f"Profile '{able[0]}' can convert this model. An operator installs it with "
            f"`python3 scripts/setup.py --profile {able[0]}` and names its folder in MODELFERRY_PROFILES: see {GUIDE}."
        )
    return None


def _release(version: str) -> tuple[int, ...]:
    """A release as numbers, in which 5.0 and 5.0.0 are equal."""
    numbers = [int(part) for part in version.split(".") if part.isdigit()]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)

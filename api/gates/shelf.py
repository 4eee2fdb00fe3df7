"""Looks whether what a wish asks for is on the volume: the manifest of one known place, and the sizes of its files."""

import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Literal, NamedTuple

import msgspec

from common.artefacts.layout import Volume
from common.artefacts.library import has_settled, identity_of, standing_of, summary
from common.artefacts.manifest import PublishedManifest, read_published
from common.artefacts.verification import remembered
from common.errors import DestinationInvalid, DestinationOutside
from common.gates import GateFate
from common.planning import flatten
from common.spec import MANIFEST_NAME, JobSpec, Target

_MOST_MANIFESTS = 1000


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What is at the place where a wish is to be published."""

    found: Literal["good", "spoilt", "other", "nothing"]
    """`other`: a whole model, but not the one that was asked for."""
    folder: str
    """Relative to MODELS_DIR."""
    told: str = ""
    """What is wrong with it."""
    revision: str | None = None
    certain: bool = True
    """Whether it was made with the options that were asked for, as far as its manifest tells."""


class _Seen(NamedTuple):
    identity: tuple[int, ...]
    manifest: PublishedManifest


class Shelf:
    """The published models of one volume. Manifests are remembered as long as they stay the same files."""

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self._seen: OrderedDict[Path, _Seen] = OrderedDict()
        self._changing = Lock()

    def look(self, spec: JobSpec, fate: GateFate) -> Look:
        """What there is of this wish. Of several models in one wish, the first that is not good tells of all."""
        place = f"{spec.destination.root}/{spec.destination.folder}".lstrip("/")
        if not spec.parted:
            return self._look(spec, fate, spec.source.name, place)
        names = _names(spec, fate)
        looks = [self._look(spec, fate, name, f"{place}/{name}") for name in names]
        bad = [look for look in looks if look.found != "good"]
        if bad or not looks:
            return (
                bad[0] if bad else Look(found="nothing", folder=place, told="Which models there are is not known yet.")
            )
        return msgspec.structs.replace(looks[0], folder=place, certain=all(look.certain for look in looks))

    def _look(self, spec: JobSpec, fate: GateFate, name: str, folder: str) -> Look:
        try:
            at = self.volume.published("", folder)
        except (DestinationOutside, DestinationInvalid):
            return Look(found="nothing", folder=folder, told="Nothing can be published there any more.")
        manifest = self._manifest(at)
        if manifest is None:
            return Look(found="nothing", folder=folder, told="Nothing is published there.")
        difference = _difference(manifest, spec, fate, name)
        if difference is not None:
            return Look(found="other", folder=folder, told=difference, revision=manifest.revision)
        problem = self._problem(at, folder, manifest)
        if problem is not None:
            return Look(found="spoilt", folder=folder, told=problem, revision=manifest.revision)
        certain = _has_options(manifest, spec)
        return Look(found="good", folder=folder, revision=manifest.revision, certain=certain)

    def _manifest(self, at: Path) -> PublishedManifest | None:
        try:
            status = os.lstat(at / MANIFEST_NAME)
        except OSError:
            return None
        identity = identity_of(status)
        known = self._seen.get(at)
        if known is not None and known.identity == identity:
            return known.manifest
        manifest = read_published(at)
        if manifest is not None and has_settled(status):
            self._keep(at, _Seen(identity, manifest))
        return manifest

    def _keep(self, at: Path, seen: _Seen) -> None:
        with self._changing:
            self._seen[at] = seen
            self._seen.move_to_end(at)
            while len(self._seen) > _MOST_MANIFESTS:
                self._seen.popitem(last=False)

    def _problem(self, at: Path, folder: str, manifest: PublishedManifest) -> str | None:
        """What is wrong with the files: by their sizes, and by the last verification of just these files."""
        standing = standing_of(at, manifest)
        if standing.problems:
            return standing.problems[0]
        verified = remembered(self.volume, summary(folder, manifest), standing)
        if verified is None or verified.state != "spoilt":
            return None
        return verified.problems[0] if verified.problems else "A file has another content than was published"


def _names(spec: JobSpec, fate: GateFate) -> Sequence[str]:
    """The models of a wish for several; none as long as nobody has found out which they are."""
    if fate.models is not None:
        return fate.models
    names = spec.source.name.split(",")
    return names if len(names) > 1 else ()


def _difference(manifest: PublishedManifest, spec: JobSpec, fate: GateFate, name: str) -> str | None:
    """Why this is not the model that was asked for, or None."""
    if manifest.name != name or manifest.source.hub != spec.source.hub:
        return "Another model is published there."
    if not _is_revision(manifest, spec.source.revision, fate):
        return "Another revision is published there."
    if not _is_form(manifest.target, spec.target):
        return "The model is published there in another form."
    return None


def _is_revision(manifest: PublishedManifest, asked: str | None, fate: GateFate) -> bool:
    """A name of a revision, such as a branch, is what the gate's own job has found it to be."""
    if asked is None or asked in {manifest.requested_revision, manifest.revision}:
        return True
    return fate.revision is not None and fate.revision == manifest.revision


def _is_form(made: Target | None, wanted: Target | None) -> bool:
    if made is None or wanted is None:
        return made is wanted
    same = (made.format, made.precision, made.device) == (wanted.format, wanted.precision, wanted.device)
    return same and (wanted.model_type is None or made.model_type in {None, wanted.model_type})


def _has_options(manifest: PublishedManifest, spec: JobSpec) -> bool:
    """Whether the manifest tells of no other options than were asked for. Options of a download are in no manifest."""
    if spec.target is None:
        return not spec.config
    given = flatten(spec.config)
    wanted = {key: value for key, value in spec.converter_options.items() if key in given}
    made = {key: value for key, value in manifest.recipe.items() if key in wanted}
    return manifest.serving == spec.serving_options and all(wanted[key] == value for key, value in made.items())

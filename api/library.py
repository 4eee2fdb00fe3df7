"""What a user can do with the models that are on the volume: look, verify, remove."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from common.artefacts.library import Library, LocalModel, Standing
from common.artefacts.manifest import PublishedManifest
from common.artefacts.removal import Removal, remove
from common.artefacts.verification import State, Verification, forget, remembered, state_of, verify
from common.clock import Clock, utc_now
from common.errors import ModelBusy, NotManaged, ServiceUnavailable
from common.store.jobs import JobStore

_MOST_READING = 2
"""How many models one web process reads at once: they share a disk."""


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A model with how its files are."""

    model: LocalModel
    standing: Standing
    verification: Verification | None
    state: State


class HeldPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some models, and how many there are in all."""

    held: list[Held]
    total: int


class HeldWhole(msgspec.Struct, frozen=True, kw_only=True):
    """A model with all that its manifest says, and where else the same content is published."""

    held: Held
    manifest: PublishedManifest | None
    elsewhere: list[LocalModel]


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """The verbs, over the volume; the job table is asked only before a removal."""

    library: Library
    store: JobStore
    now: Clock = utc_now
    reading: threading.Semaphore = field(default_factory=lambda: threading.BoundedSemaphore(_MOST_READING))

    def page(self, *, hub: str | None, name: str | None, precision: str | None, limit: int, offset: int) -> HeldPage:
        """Models in the order of their paths. `name` is any part of one; case does not count."""
        found = [
            model
            for model in self.library.models()
            if (hub is None or (model.hub or "") == hub.lower())
            and (name is None or name.lower() in model.name.lower())
            and (precision is None or (model.precision or "").lower() == precision.lower())
        ]
        return HeldPage(held=[self._held(model) for model in found[offset : offset + limit]], total=len(found))

    def model(self, model_id: str) -> HeldWhole:
        """One model. Raises NoSuchModel."""
        model = self.library.model(model_id)
        manifest = self.library.manifest(model) if model.managed else None
        same = [] if manifest is None else [other for other in self.library.models() if _is_same(other, model)]
        return HeldWhole(held=self._held(model), manifest=manifest, elsewhere=same)

    def remove(self, model_id: str) -> Removal:
        """Remove a model that Modelferry has published.

        Raises NoSuchModel, NotManaged, ModelBusy, PublicationRefused or ServiceUnavailable.
        """
        model = self._managed(model_id, "removed")

        def fence() -> None:
            publishing = self.store.publishing_to(model.folder)
            if publishing:
                raise ModelBusy(f"Job {publishing[0]} has not ended and publishes to this place: cancel it first.")

        removal = remove(self.library.volume, model.folder, fence=fence, now=self.now)
        forget(self.library.volume, model.id)
        return removal

    def verify(self, model_id: str, checkpoint: Callable[[], None]) -> Verification:
        """Read every file of a model again. `checkpoint` may raise to end it.

        Raises NoSuchModel, NotManaged, ModelBusy or ServiceUnavailable.
        """
        model = self._managed(model_id, "verified")
        if not self.reading.acquire(blocking=False):
            raise ServiceUnavailable("As many models are being verified as may be at once. Try again shortly.")
        try:
            return verify(self.library, model, checkpoint=checkpoint, now=self.now)
        finally:
            self.reading.release()

    def _managed(self, model_id: str, wanted: str) -> LocalModel:
        model = self.library.model(model_id)
        if not model.managed:
            raise NotManaged(
                f"'{model.folder or '.'}' was not published by Modelferry, so it cannot be {wanted} here: "
                "there is no manifest that says what belongs to it. Whoever put it there can remove it by hand."
            )
        return model

    def _held(self, model: LocalModel) -> Held:
        standing = self.library.standing(model)
        verification = remembered(self.library.volume, model, standing) if model.managed else None
        return Held(model=model, standing=standing, verification=verification, state=state_of(standing, verification))


def _is_same(other: LocalModel, model: LocalModel) -> bool:
    return other.artefact == model.artefact and other.id != model.id

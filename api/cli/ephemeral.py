"""A service of the command's own: `modelferry pull --ephemeral`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from api.cli.environment import environment
from api.cli.exits import Exit, Stop
from api.cli.interrupts import Interrupted, interruptible
from api.cli.output import note
from api.client import WantedModel
from api.embedded.ephemeral import EphemeralService, ServiceEnded, ephemeral_service

_READY_WITHIN_S = 180.0
_DEFAULT_MODELS_DIR = "./models"


class OwnService:
    """The service, for as long as the command runs."""

    def __init__(self, service: EphemeralService, *, converting: bool) -> None:
        self.tend = service.tend
        self.address = service.address
        self._service = service
        self._unneeded = () if converting else ("convert_worker",)

    def await_ready(self) -> None:
        """Wait until it could run the job."""
        note("Starting a service for this one errand ...")
        self._service.await_ready(_READY_WITHIN_S, without=self._unneeded)


@contextmanager
def own_service(models_dir: Path | None, models: Sequence[WantedModel]) -> Iterator[OwnService]:
    """The service while the block runs; then it ends, and nothing is left of it but the models.

    Raises Stop for a signal, and where the service does not start or ends too early.
    """
    around = environment()
    converting = any(_converts(model) for model in models)
    folder = models_dir or Path(around.get("MODELS_DIR") or _DEFAULT_MODELS_DIR)
    try:
        with interruptible() as interrupts, ephemeral_service(around, folder, converting=converting) as service:
            try:
                yield OwnService(service, converting=converting)
            finally:
                interrupts.ignore()
    except Interrupted as interrupt:
        note("Interrupted. What has arrived is kept: the same command goes on there.")
        raise Stop(interrupt.exit_code) from None
    except ServiceEnded as error:
        raise Stop(Exit.UNREACHABLE, str(error)) from None


def _converts(model: WantedModel) -> bool:
    """Whether a job for it has to convert anything, or might."""
    # Here rather than above: only this command needs the catalog, and all others shall start at once.
    from common.catalog.registry import Catalog  # noqa: PLC0415

    hub = Catalog.installed("all").hubs.get(model.hub.lower())
    return model.is_ovms or hub is None or hub.finish is not None

"""Takes over a model that is in OpenVINO's form already, if it is the one that was asked for."""

import os
from pathlib import Path

from common.catalog.openvino import OpenVINOOptions
from common.errors import InvalidParameters
from common.plugins import Order
from worker.converters.openvino.check import precision_of, quant_mode_of
from worker.converters.openvino.paths import Site


def adopt(site: Site, order: Order[OpenVINOOptions]) -> None:
    """Show the source's files in the order's folder. Raises InvalidParameters where it is of another precision."""
    wanted = order.target.precision
    found = precision_of(site.model)
    if found is not wanted:
        raise InvalidParameters(
            f"The repository holds a model that is converted already, with {found or 'other'} weights, not {wanted}",
            hint=f"Ask for the precision '{found}', or name the repository of the original model."
            if found
            else "Name the repository of the original model.",
        )
    rounded = quant_mode_of(site.model)
    if (order.options.quant_mode is not None) != (rounded is not None):
        raise InvalidParameters(
            f"The repository holds a model that is converted already, with its activations "
            f"{'quantised' if rounded else 'as they are'}",
            hint="Name the repository of the original model.",
        )
    for file in sorted(_files(site.model)):
        to = order.folder / file.relative_to(site.model)
        to.parent.mkdir(parents=True, exist_ok=True)
        # What is taken is kept under its sha256, so another name for the same file costs nothing.
        os.link(file, to)


def _files(model: Path) -> list[Path]:
    return [file for file in model.rglob("*") if file.is_file()]

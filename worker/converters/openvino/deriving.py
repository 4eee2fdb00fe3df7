"""Makes a model with compressed weights of the same model in FP16, which was converted and kept before.

Nothing is loaded or traced again. The weights are not those of a direct conversion, bit by bit, where the source has
other numbers than FP16: they were rounded once before.
"""

import os
from pathlib import Path

import openvino as ov
from optimum.intel import OVWeightQuantizationConfig
from optimum.intel.openvino.quantization import _weight_only_quantization

from common.catalog.openvino.fields import OpenVINOOptions
from common.errors import InvalidParameters
from common.plugins import Order
from worker.converters.openvino import strict
from worker.converters.openvino.check.files import MODEL
from worker.converters.openvino.fast import as_read_again, write_settings
from worker.converters.openvino.faults import option_errors
from worker.converters.openvino.naming import save_reproducibly
from worker.converters.openvino.paths import Site
from worker.converters.openvino.reuse import reused_functions
from worker.converters.openvino.steps import Steps

_OWN = frozenset({f"{MODEL}.xml", f"{MODEL}.bin"})


def export(site: Site, order: Order[OpenVINOOptions], steps: Steps) -> None:
    """Write the model with compressed weights, and what lies beside it. Raises InvalidParameters."""
    planned = strict.planned(site, order)
    settings = planned["ov_config"].quantization_config
    if not isinstance(settings, OVWeightQuantizationConfig):
        raise InvalidParameters(f"Of a model in FP16 nothing in {order.target.precision} can be made")
    order.folder.mkdir(parents=True, exist_ok=True)
    graph = site.model / f"{MODEL}.xml"
    model = as_read_again(ov.Core().read_model(graph), graph, planned["task"])
    steps.ended("load")
    with reused_functions(), option_errors():
        model = _weight_only_quantization(model, settings)
    steps.ended("compress")
    save_reproducibly(model, order.folder / f"{MODEL}.xml")
    write_settings(order.folder, settings, planned["task"])
    _show_the_rest(site.model, order.folder)
    steps.ended("save")


def _show_the_rest(base: Path, folder: Path) -> None:
    for file in sorted(base.rglob("*")):
        path = file.relative_to(base)
        if file.is_file() and path.as_posix() not in _OWN and not (folder / path).exists():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            os.link(file, folder / path)

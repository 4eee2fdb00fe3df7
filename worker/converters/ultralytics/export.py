"""The entry of an export in the environment that has Ultralytics' library; only the converter starts it.

`python -m worker.converters.ultralytics.export <folder of the environment> <errand> <file descriptor for the report>`
"""

import contextlib
import errno
import importlib
import importlib.metadata
import logging
import os
import pickle  # nosec B403 # the name of an error, which is all that is used
import resource
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from common.catalog.ultralytics import PROFILE
from common.errors import (
    ConversionFailed,
    DiskFull,
    OutputIncomplete,
    PickleRefused,
    StageError,
    is_disk_full,
)
from worker.converters.ultralytics.errand import Done, Errand, Pictures, Report
from worker.elsewhere import Failed, begin, check_packages, end, send
from worker.machine import no_memory

log = logging.getLogger(__name__)

_LONGEST = 2000
_CLASSIFY, _POSE, _SEGMENT = "classify", "pose", "segment"
_FONTS = ("Arial.ttf", "Arial.Unicode.ttf")
# The native libraries throw plain RuntimeErrors for this; there is no type to go by.
_NO_MEMORY = ("std::bad_alloc", "bad allocation", "DefaultCPUAllocator", "Cannot allocate memory")
_OPERATORS = ("nms", "qnms")
_INT8_BITS = 8


def main(folder: str, request: str, reports: int) -> None:
    """Do what the errand says, with the packages of `folder` before all others."""
    begin(folder)
    errand = msgspec.json.decode(Path(request).read_bytes(), type=Errand)
    tempfile.tempdir = errand.scratch
    send(reports, _outcome(errand))
    end()


def _outcome(errand: Errand) -> Report:
    try:
        check_packages(PROFILE, errand.packages)
        _settle(Path(errand.scratch))
        _export(errand)
    except StageError as error:
        return Failed.by(error)
    except Exception as error:
        # The last fence before the process ends.
        log.exception("export.failed")
        return Failed.by(_explained(error, errand))
    return Done(peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def _settle(scratch: Path) -> None:
    """Tell the library where it may write, and what it must leave alone. To be called before it is imported."""
    config = scratch / "config"
    environment = os.environ  # noqa: TID251 - part of a process entry: this is how the library is told
    environment.update(
        {
            "MPLCONFIGDIR": str(config),
            "ULTRALYTICS_SAFE_LOAD": "true",
            "YOLO_AUTOINSTALL": "false",
            "YOLO_CONFIG_DIR": str(config),
            "YOLO_OFFLINE": "true",
            "YOLO_VERBOSE": "false",
        }
    )
    fonts = config / "Ultralytics"
    fonts.mkdir(parents=True, exist_ok=True)
    for font in _FONTS:
        # Who calibrates draws nothing, but would fetch the font that it would draw with.
        (fonts / font).touch()
    # What it writes without being told where, and paths in the model's metadata, begin here.
    os.chdir(scratch)


def _export(errand: Errand) -> None:
    if errand.task == _CLASSIFY:
        # Weights of this kind hold the transformations of their pictures.
        _import_torchvision()
    library = importlib.import_module("ultralytics")
    weights = Path(f"{errand.name}.pt")
    weights.unlink(missing_ok=True)
    weights.symlink_to(errand.weights)
    model = library.YOLO(str(weights.absolute()), task=errand.task)
    if model.task != errand.task:
        raise ConversionFailed(f"'{errand.name}' is a model to {model.task}, and not to {errand.task}")
    if errand.pictures is None:
        _save(_made(model), errand, {"FP32": False, "FP16": True})
    else:
        data = _data_set(errand.pictures, model)
        _save(_made(model, quantize=_INT8_BITS, data=data), errand, {"INT8": False})


def _made(model: Any, **more: object) -> Path:
    """The folder that the library has written.

    `nms=False` chooses the head that needs no suppression of overlapping boxes, where the model has one: that is what
    applications expect of YOLOv10 and YOLO26.
    """
    return Path(str(model.export(format="openvino", nms=False, device="cpu", **more)))


def _save(made: Path, errand: Errand, forms: dict[str, bool]) -> None:
    """Write the model in each form, with what applications look for in it. Raises OutputIncomplete."""
    openvino = importlib.import_module("openvino")
    written = next(made.glob("*.xml"), None)
    if written is None:
        raise OutputIncomplete(f"The export of '{errand.name}' left no model")
    graph = openvino.Core().read_model(written)
    graph.set_rt_info(errand.kind, ["model_info", "model_type"])
    graph.set_rt_info(openvino.get_version(), "Runtime_version")
    if errand.task == _SEGMENT:
        graph.output(0).set_names({"boxes"})
        graph.output(1).set_names({"masks"})
    for form, halves in forms.items():
        folder = Path(errand.output) / form
        folder.mkdir(parents=True)
        openvino.save_model(graph, folder / f"{errand.name}.xml", compress_to_fp16=halves)
        shutil.copyfile(made / "metadata.yaml", folder / "metadata.yaml")


def _data_set(pictures: Pictures, model: Any) -> str:
    """A description of the pictures as the library reads it. Only pictures count: no labels are given.

    Labels would do harm: those of one task are broken ones for another, and their pictures would be left out.
    """
    if model.task == _CLASSIFY:
        for split in ("train", "val"):
            folder = Path(pictures.name, split, "pictures")
            folder.mkdir(parents=True)
            for picture in Path(pictures.folder).iterdir():
                (folder / picture.name).hardlink_to(picture)
        return pictures.name
    description: dict[str, object] = {
        "train": pictures.folder,
        "val": pictures.folder,
        # Only their number matters. The model's own might ask for a font to draw them with.
        "names": {number: f"class {number}" for number in range(len(model.names))},
    }
    if model.task == _POSE:
        description["kpt_shape"] = list(model.model.model[-1].kpt_shape)
    file = Path(f"{pictures.name}.yaml")
    # Whatever is JSON is YAML as well.
    file.write_bytes(msgspec.json.encode(description))
    return str(file)


def _import_torchvision() -> None:
    """Import it, also a build whose native part does not go with the torch that is here.

    The wheels of most registries want the torch for CUDA. Nothing of the native part is used here, but the package
    cannot be imported unless the operators that it would add are known by name.
    """
    with contextlib.suppress(RuntimeError):
        importlib.import_module("torchvision")
        return
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    _known.append(importlib.import_module("torch.library").Library("torchvision", "DEF"))
    for operator in _OPERATORS:
        _known[0].define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    importlib.import_module("torchvision")


_known: list[Any] = []
"""What is defined lives as long as this."""


def _explained(error: Exception, errand: Errand) -> StageError:
    causes = [error, error.__cause__, error.__context__]
    if any(isinstance(cause, pickle.UnpicklingError) for cause in causes):
        return PickleRefused(
            f"The weights of '{errand.name}' are no checkpoint of Ultralytics': they name other classes than its own",
            hint="Use the official weights. A mirror that offers others is not to be trusted.",
        )
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(mark in str(error) for mark in _NO_MEMORY)
    ):
        return no_memory(f"The export of '{errand.name}' ran out of memory")
    if is_disk_full(error):
        return DiskFull(f"The volume is full: {errno.errorcode[errno.ENOSPC]} while exporting '{errand.name}'")
    text = " ".join(str(error).split()).replace(errand.scratch, "...").replace(sys.prefix, "...")
    return ConversionFailed(f"The export of '{errand.name}' failed: {type(error).__name__}: {text}"[:_LONGEST])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))

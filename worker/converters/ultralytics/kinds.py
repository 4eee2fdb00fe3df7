"""What DL Streamer calls a model's kind, in the model itself: it says how the outputs are to be read."""

from common.catalog.ultralytics import OfficialModel

_WORDS = {"yolov10": "yolo_v10", "yolo11": "yolo_v11", "yolo26": "yolo_v26"}
_USUAL = "yolo_v8"
"""All others answer as YOLOv8 does: the older ones are those with its head."""
_CLASSIFIER = "label"
_SUFFIXES = {"detect": "", "segment": "_seg", "pose": "_pose", "obb": "_obb"}


def kind_of(model: OfficialModel) -> str:
    """The word for `model_info/model_type`."""
    if model.task == "classify":
        return _CLASSIFIER
    return f"{_WORDS.get(model.family, _USUAL)}{_SUFFIXES[model.task]}"

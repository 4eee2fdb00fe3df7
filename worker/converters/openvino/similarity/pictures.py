"""Asks models that see pictures: what they are called, where things are, what there is to say about them."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from optimum.intel.openvino.modeling_visual_language import MODEL_TYPE_TO_CLS_MAPPING, OVModelForVisualCausalLM
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    AutoModelForImageTextToText,
    AutoModelForObjectDetection,
    AutoProcessor,
)

from common.errors import InvalidParameters
from worker.converters.openvino.similarity.comparing import Answer, Array
from worker.converters.openvino.similarity.probing import EXACT, Subject, array
from worker.converters.openvino.similarity.questions import picture, texts

_MODEL = "openvino_model"
_BOXES = "pred_boxes"


class Viewer:
    """Asks a classifier for the labels of pictures, or a detector for boxes and their labels."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        # The class for processors of pictures alone refuses to work without torchvision; this one does not.
        processor = AutoProcessor.from_pretrained(subject.model, **subject.local)
        self._questions = [
            {name: array(values) for name, values in processor(images=picture(number), return_tensors="pt").items()}
            for number in range(subject.samples)
        ]

    def original(self) -> Iterator[Answer]:
        detects = self._subject.options.task == "object-detection"
        original = self._subject.load(AutoModelForObjectDetection if detects else AutoModelForImageClassification)
        for given in self._questions:
            said = original.ask(**original.known(given))
            yield _seen({name: array(said[name]) for name in ("logits", _BOXES) if name in said})

    def converted(self) -> Iterator[Answer]:
        graph = self._subject.graph(_MODEL)
        for given in self._questions:
            yield _seen(graph.ask(given))


class Describer:
    """Asks a model that sees and writes, at every place of a prompt with a picture, what comes next.

    How picture and text are put together differs from family to family; optimum knows it of each that it converts.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        config = AutoConfig.from_pretrained(subject.model, **subject.local)
        family = MODEL_TYPE_TO_CLS_MAPPING.get(config.model_type)
        if family is None:
            raise InvalidParameters(f"'verify' is not offered for '{config.model_type}' models of type 'vlm'")
        processor = AutoProcessor.from_pretrained(subject.model, **subject.local)
        self._questions: list[dict[str, Any]] = [
            dict(family.preprocess_inputs(text=text, image=picture(number), processor=processor, config=config))
            for number, text in enumerate(texts(subject.samples))
        ]

    def original(self) -> Iterator[Answer]:
        original = self._subject.load(AutoModelForImageTextToText)
        for given in self._questions:
            yield _written(original.ask(**given, use_cache=False).logits)

    def converted(self) -> Iterator[Answer]:
        model = OVModelForVisualCausalLM.from_pretrained(
            self._subject.folder, export=False, device="CPU", ov_config=EXACT, **self._subject.local
        )
        for given in self._questions:
            yield _written(torch.as_tensor(model(**given).logits))


def _seen(answers: Mapping[str, Array]) -> Answer:
    boxes = {_BOXES: answers[_BOXES]} if _BOXES in answers else {}
    return Answer(choices={"logits": answers["logits"]}, vectors=boxes)


def _written(logits: torch.Tensor) -> Answer:
    return Answer(choices={"logits": array(logits)})

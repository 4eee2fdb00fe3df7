"""The fast engine: upstream's own trace and compression, without what lies between them.

Upstream writes the traced model to disk, reads it again, compresses it, and writes it once more. Here the traced model
is caught where it would be saved, compressed in memory with the settings upstream would use, and saved once; for all
orders that upstream would trace in the same way. It is not traced a second time to compare: the finished model is run
instead. The weights are the same, bit by bit.
"""

import importlib.metadata
import inspect
import json
import logging
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openvino as ov
import optimum.exporters.openvino.__main__ as exporter
import torch
from optimum.exporters.openvino import convert as tracer
from optimum.intel import OVConfig, OVWeightQuantizationConfig
from optimum.intel.openvino import configuration
from optimum.intel.openvino.configuration import OVPipelineQuantizationConfig
from optimum.intel.openvino.modeling_base import OVBaseModel
from optimum.intel.openvino.modeling_seq2seq import OVModelForSeq2SeqLM
from optimum.intel.openvino.quantization import _weight_only_quantization

from common.catalog.openvino.fields import OpenVINOOptions
from common.errors import JobCancelled
from common.plugins import Attempt, Order
from common.vocabulary import ModelType, Precision
from worker.converters.openvino import strict
from worker.converters.openvino.check.files import MODEL
from worker.converters.openvino.faults import option_errors
from worker.converters.openvino.loading import is_half, kind_of, read_config, told_to_load
from worker.converters.openvino.naming import name_plainly, save_reproducibly
from worker.converters.openvino.paths import Site
from worker.converters.openvino.patterns import patterns_found_once
from worker.converters.openvino.reuse import reused_functions
from worker.converters.openvino.saving import Saver, sizes_by_address
from worker.converters.openvino.steps import Steps

log = logging.getLogger(__name__)

_WRITTEN_FOR: Mapping[str, tuple[str, ...]] = {
    "nncf": ("3.4.0",),
    "openvino": ("2026.4.1",),
    "optimum": ("2.3.0",),
    "optimum-intel": ("2.2.0",),
    "transformers": ("5.5.4",),
}
_BITS = {Precision.INT4: 5, Precision.INT8: 8, Precision.FP16: 16, Precision.FP32: 32}
"""For each weight, about. What takes most is written first, while the others are made."""
_MOST_COPIED_BYTES = 64 * 1024 * 1024
_PLAIN = frozenset({Precision.FP32, Precision.FP16})
_TYPES = frozenset(
    {
        ModelType.LLM,
        ModelType.VLM,
        ModelType.EMBEDDINGS,
        ModelType.RERANK,
        ModelType.SPEECH2TEXT,
        ModelType.TEXT2SPEECH,
        ModelType.VISION,
    }
)
_NEEDS_STRICT = ("quant_mode", "awq", "scale_estimation", "gptq", "lora_correction", "dataset")
_PICTURES_AND_TEXT = "image-text-to-text"
_TEXT_ENCODERS = frozenset({"feature-extraction", "text-classification"})
_WITHOUT_DATA = "weight_quantization_error"
_LANGUAGE_MODELS = {"openvino_language_model.xml": "lm_model", "openvino_mtp_model.xml": "mtp_model"}
"""The parts of a model for pictures and text that get the wanted precision."""
_OTHER_PARTS = OVWeightQuantizationConfig(bits=8, sym=True)
"""What upstream makes of its other parts."""


class Mismatch(Exception):
    """Upstream is not what this engine was written for, or the order is not for it."""


def suits(order: Order[OpenVINOOptions]) -> bool:
    """Whether the fast engine can fulfil this order with the versions that are installed."""
    options, target = order.options, order.target
    return (
        target.precision in _BITS
        and target.model_type in _TYPES
        and options.library in {None, "transformers"}
        and not any(getattr(options, name) for name in _NEEDS_STRICT)
        and options.sensitivity_metric in {None, _WITHOUT_DATA}
        # Upstream changes the inputs of a model that shows its cache before it compresses it.
        and not (options.disable_stateful and target.precision not in _PLAIN)
        and is_at_home()
    )


def is_at_home() -> bool:
    """Whether all tools are of the versions that this engine was written for."""
    return all(importlib.metadata.version(name) in versions for name, versions in _WRITTEN_FOR.items())


@dataclass(frozen=True, slots=True)
class Written:
    """What there is for one order, or will be when its weights are saved."""

    steps: Steps
    saving: Sequence[Future[None]]


def export(
    site: Site, orders: Sequence[Order[OpenVINOOptions]], attempt: Attempt, steps: Steps, saver: Saver
) -> tuple[Written | None, ...]:
    """Trace once, and write IR and tokenizers for all orders; the first of them must succeed.

    Returns None for an order that did not come along. Raises Mismatch where the strict engine has to do it, and
    whatever upstream raises.
    """
    _check_shape()
    batch = _Batch(site, _planned(site, orders), attempt, steps, saver)
    with _caught(batch), patterns_found_once():
        exporter.main_export(**batch.arguments)
    if not batch.saved:
        raise Mismatch("upstream has saved no model")
    batch.finish()
    done = {id(form.order): Written(form.steps, form.saving) for form in batch.forms if form.error is None}
    return tuple(done.get(id(order)) for order in orders)


@dataclass(eq=False)
class _Form:
    """One order, and what upstream would do with it."""

    order: Order[OpenVINOOptions]
    planned: Mapping[str, Any]
    steps: Steps
    saving: list[Future[None]] = field(default_factory=list)
    error: Exception | None = None

    @property
    def settings(self) -> OVWeightQuantizationConfig | None:
        """How its weights are compressed; None where they are not."""
        wanted = self.planned["ov_config"].quantization_config
        if wanted is not None and not isinstance(wanted, OVWeightQuantizationConfig):
            raise Mismatch(f"upstream would compress with {type(wanted).__name__}")
        return wanted


class _Batch:
    """The orders that one trace serves."""

    def __init__(
        self,
        site: Site,
        forms: Sequence[_Form],
        attempt: Attempt,
        steps: Steps,
        saver: Saver,
    ) -> None:
        first = forms[0]
        loading = _Loading.of(site)
        others = [form for form in forms[1:] if _traced_alike(first, form, loading)]
        self.forms = [first, *sorted(others, key=lambda form: -_BITS[form.order.target.precision])]
        self.saved: list[Path] = []
        self._loading = loading
        self._attempt = attempt
        self._shared = steps
        self._saver = saver
        self._output = first.order.folder
        self._held: dict[int, torch.Tensor] = {}
        self.arguments = {
            **first.planned,
            "output": self._output,
            "ov_config": self._config(),
            "local_files_only": True,
        }
        if not self._is_as_stored:
            self.arguments["model_loading_kwargs"] = dict(told_to_load(site, first.order))

    def hold(self, source: object) -> None:
        """Keep the weights of the source, which upstream lets go of before they are written."""
        if isinstance(source, torch.nn.Module):
            tensors = (*source.parameters(), *source.buffers())
            self._held.update((tensor.data_ptr(), tensor) for tensor in tensors)

    def ended(self, step: str) -> None:
        """A step that all orders share is over."""
        self._shared.ended(step)
        self._attempt.checkpoint()

    def catch(self, model: ov.Model, path: Path) -> None:
        """Write a traced model in every form that it is wanted in."""
        self.ended("convert")
        self.saved.append(path)
        name_plainly(model)
        shared = sizes_by_address(model)
        lent = {address: size for address, size in shared.items() if address not in self._held}
        # Of a model in several parts upstream goes on with the next one, and may do to the source what it likes.
        must_stay = path.stem != MODEL or sum(lent.values()) > _MOST_COPIED_BYTES
        for form in [form for form in self.forms if form.error is None]:
            with self._kept_apart(form):
                if form.settings is None:
                    self._save(form, model, path, () if must_stay else lent, owner=self._held)
                else:
                    self._save(form, self._compressed(form, form.settings, model, path), path, shared)
        if must_stay:
            self._saver.settle()
        self._shared.ended("write")

    def finish(self) -> None:
        """Write what lies beside the models."""
        self._shared.ended("tokenizers")
        first, *others = (form for form in self.forms if form.error is None)
        for form in others:
            with self._kept_apart(form):
                _copy_all_but(self.saved, first.order.folder, form.order.folder)
        for form in (first, *others):
            with self._kept_apart(form):
                if form.settings is not None:
                    write_settings(form.order.folder, form.settings, form.planned["task"])
                if self._is_halved(form):
                    _tell_halved(form.order.folder)
        for form in self.forms:
            shared = {name: value for name, value in self._shared.seconds.items() if name != "write"}
            form.steps.seconds = shared | form.steps.seconds

    @property
    def _is_as_stored(self) -> bool:
        """Whether the weights are loaded in the number format that they have.

        They have to be where more is made of them than one plain form; and they are where they become float16 as they
        are written, which takes neither time nor memory before that.
        """
        precisions = {form.order.target.precision for form in self.forms}
        becomes_half = self._loading.is_bfloat and precisions == {Precision.FP16}
        return len(precisions) > 1 or not precisions <= _PLAIN or becomes_half

    def _config(self) -> OVConfig:
        """What upstream decides by in which precision to load. With none named, it is the source's own."""
        return OVConfig() if self._is_as_stored else OVConfig(dtype=self.forms[0].order.target.precision.value)

    def _is_halved(self, form: _Form) -> bool:
        """Whether the weights were loaded in bfloat16, and this one is in float16."""
        return self._loading.is_bfloat and form.order.target.precision is Precision.FP16

    def _compressed(self, form: _Form, settings: OVWeightQuantizationConfig, model: ov.Model, path: Path) -> ov.Model:
        form.steps.restart()
        model = as_read_again(model.clone(), path, form.planned["task"])
        with reused_functions(), option_errors():
            model = _weight_only_quantization(model, _settings_for(path, form.planned["task"], settings))
        form.steps.ended("compress")
        return model

    def _save(self, form: _Form, model: ov.Model, path: Path, lent: Collection[int], owner: object = None) -> None:
        form.steps.restart()
        target = form.order.folder / path.relative_to(self._output)
        target.parent.mkdir(parents=True, exist_ok=True)
        is_half = form.order.target.precision is Precision.FP16
        saving = self._saver.save(
            model, target, compress_to_fp16=is_half, halve=self._is_halved(form), lent=lent, owner=owner
        )
        if saving is not None:
            form.saving.append(saving)
        form.steps.ended("save")
        self._attempt.checkpoint()

    @contextmanager
    def _kept_apart(self, form: _Form) -> Iterator[None]:
        """Only the first order may fail all of them."""
        try:
            yield
        except JobCancelled:
            raise
        except Exception as error:
            if form is self.forms[0]:
                raise
            log.warning("convert.sibling_failed", extra={"precision": form.order.target.precision}, exc_info=True)
            form.error = error
            wait(form.saving)
            shutil.rmtree(form.order.folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class _Loading:
    """What decides in which number format upstream loads the weights."""

    is_half: bool
    """The source's weights take 16 bits: for FP16 and FP32 they are loaded as such, and not only saved so."""
    is_bfloat: bool

    @staticmethod
    def of(site: Site) -> "_Loading":
        config = read_config(site)
        if getattr(config, "quantization_config", None):
            raise Mismatch("the source is quantised already")
        if any(name in configuration._DEFAULT_IGNORED_SCOPE_CONFIGS for name in _known_names(site.model)):  # noqa: SLF001
            raise Mismatch("upstream has settings of its own for this very model")
        kind = kind_of(config)
        return _Loading(is_half=is_half(kind), is_bfloat=kind is torch.bfloat16)


def _known_names(model: Path) -> list[str]:
    return list(configuration._get_model_id_candidates(str(model)))  # noqa: SLF001


def _planned(site: Site, orders: Sequence[Order[OpenVINOOptions]]) -> list[_Form]:
    forms = [_Form(orders[0], strict.planned(site, orders[0]), Steps())]
    forms[0].settings  # noqa: B018 - raises where this is not for us
    for order in orders[1:]:
        try:
            form = _Form(order, strict.planned(site, order), Steps())
            form.settings  # noqa: B018
        except Exception as error:  # noqa: BLE001 - its own job will say so
            log.info("convert.sibling_refused", extra={"reason": str(error)})
        else:
            forms.append(form)
    return forms


def _traced_alike(first: _Form, other: _Form, loading: _Loading) -> bool:
    own = ("ov_config", "output")
    if any(first.planned[name] != other.planned[name] for name in first.planned if name not in own):
        return False
    precisions = {form.order.target.precision for form in (first, other)}
    return not loading.is_half or Precision.FP32 not in precisions or len(precisions) == 1


def as_read_again(model: ov.Model, path: Path, task: str) -> ov.Model:
    """The model as upstream's own class for it would hold it: most open up their inputs, which simplifies the graph."""
    kind = task.removesuffix("-with-past")
    if kind in _TEXT_ENCODERS:
        return OVBaseModel._reshape(None, model, -1, -1)  # noqa: SLF001
    if kind == "image-classification":
        return OVBaseModel._reshape(None, model, -1, -1, -1, -1)  # noqa: SLF001
    if kind == "automatic-speech-recognition":
        is_decoder = "decoder" in path.name
        return OVModelForSeq2SeqLM._reshape(None, model, -1, -1, is_decoder=is_decoder)  # noqa: SLF001
    return model


def _settings_for(path: Path, task: str, wanted: OVWeightQuantizationConfig) -> OVWeightQuantizationConfig:
    return wanted if task != _PICTURES_AND_TEXT or path.name in _LANGUAGE_MODELS else _OTHER_PARTS


def _tell_halved(folder: Path) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_bytes())
    file.write_text(json.dumps(_halved(config), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _halved(value: object) -> object:
    if not isinstance(value, dict):
        return value
    return {
        key: "float16" if key in {"dtype", "torch_dtype"} and item == "bfloat16" else _halved(item)
        for key, item in value.items()
    }


def write_settings(folder: Path, settings: OVWeightQuantizationConfig, task: str | None = None) -> None:
    """Tell how the weights were compressed, as upstream does."""
    named: dict[str, OVWeightQuantizationConfig] = {}
    others = settings
    if task == _PICTURES_AND_TEXT:
        named = {part: settings for file, part in _LANGUAGE_MODELS.items() if (folder / file).is_file()}
        others = _OTHER_PARTS
    pipeline = OVPipelineQuantizationConfig(named, default_config=others)
    OVConfig(quantization_config=pipeline).save_pretrained(folder)


def _copy_all_but(models: Sequence[Path], source: Path, to: Path) -> None:
    own = {file for model in models for file in (model, model.with_suffix(".bin"))}
    for file in sorted(source.rglob("*")):
        if file.is_file() and file not in own:
            copy = to / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)


@contextmanager
def _caught(batch: _Batch) -> Iterator[None]:
    """Stand where upstream saves, and where it asks whether to trace twice."""

    def save(model: ov.Model, path: Path, *more: Any) -> None:
        if "tokenizer" in Path(path).name:
            save_reproducibly(model, path, *more)
        else:
            batch.catch(model, Path(path))

    def marked(function: Callable[..., Any], step: str) -> Callable[..., Any]:
        def noted(*arguments: Any, **named: Any) -> Any:
            batch.ended(step)
            batch.hold(named.get("model"))
            return function(*arguments, **named)

        return noted

    instead = {
        "save_model": save,
        "allow_skip_tracing_check": lambda *_: True,
        "convert_model": marked(tracer.convert_model, "trace"),
        "export_from_model": marked(tracer.export_from_model, "load"),
    }
    before = {name: getattr(tracer, name) for name in instead}
    by_size = exporter._apply_model_size_based_quantization  # noqa: SLF001
    for name, function in instead.items():
        setattr(tracer, name, function)
    exporter._apply_model_size_based_quantization = lambda *_: None  # noqa: SLF001
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(tracer, name, function)
        exporter._apply_model_size_based_quantization = by_size  # noqa: SLF001


def _check_shape() -> None:
    """Raise Mismatch unless upstream looks as it did when this was written."""
    if tracer.save_model is not ov.save_model:
        raise Mismatch("upstream saves models in another way")
    expected = {
        tracer._save_model: ["model", "path", "ov_config", "library_name", "config", "source_model"],  # noqa: SLF001
        tracer.allow_skip_tracing_check: ["library_name", "model_type"],
        exporter._apply_model_size_based_quantization: ["submodel_paths", "ov_config", "output"],  # noqa: SLF001
        _weight_only_quantization: [
            "model",
            "quantization_config",
            "calibration_dataset",
            "verify_not_optimized",
            "kwargs",
        ],
    }
    for function, names in expected.items():
        if list(inspect.signature(function).parameters) != names:
            raise Mismatch(f"upstream's {function.__name__} takes other arguments")

"""Converts models of transformers to OpenVINO IR with optimum-intel, in this process and without a network."""

import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub.constants
import msgspec
import openvino as ov
import transformers.modeling_utils
from openvino_tokenizers import convert_tokenizer
from optimum.exporters.openvino.__main__ import _main_quantize, main_export
from optimum.intel import OVConfig, OVWeightQuantizationConfig
from transformers import AutoTokenizer
from transformers.utils.loading_report import LoadStateDictInfo

from common.catalog.openvino import MAX_DOC_LENGTH, TOOLS, OpenVINOOptions, ServingOptions
from common.errors import InvalidParameters, OutputIncomplete, UnsupportedModel, VerificationFailed
from common.plugins import Access, Attempt, Converter
from common.spec import Progress, Target
from common.vocabulary import ModelType, Phase, Precision
from worker.converters.openvino.check import TOKENIZER, check_files, check_run, precision_of
from worker.converters.openvino.compiling import steady_compiling
from worker.converters.openvino.faults import option_errors, tool_errors
from worker.converters.openvino.source import Judged, is_converted, judge
from worker.serving import GRAPH_NAME, INDEX_NAME, graph, register

OUTPUT = "output"
"""The directory in the workspace that holds the result; the core takes all of it."""
POOLING_FILE = "1_Pooling/config.json"

_SCRATCH = "scratch"
_EVERYONE = "*"

_KEPT_RESULTS = (
    "openvino_*.xml",
    "openvino_*.bin",
    "openvino_config.json",
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*.jinja",
    "preprocessor_config.json",
    "processor_config.json",
)
_KEPT_PAPERS = ("readme.md", "license*", "licence*", "notice*", "use_policy*", "copying*")


class OpenVINOConverter:
    """Converts one model at a time: it changes settings of the whole process, so give it a process of its own."""

    def __init__(self, access: Access) -> None:
        # The core knows whose code an operator trusts; it hands on `*` where that holds for this model.
        self._trusted = access.settings.get("MODELFERRY_TRUST_REMOTE_CODE", "").strip() == _EVERYONE

    def convert(self, model: Path, target: Target, options: OpenVINOOptions, attempt: Attempt) -> None:
        """Leave the converted model in `output` of the workspace. Safe to repeat.

        Raises StageError: UnsupportedModel, RemoteCodeRefused, InvalidParameters, MemoryLimitExceeded, OutOfMemory,
        DiskFull, ConversionFailed, OutputIncomplete, VerificationFailed; or JobCancelled.
        """
        made_elsewhere = is_converted(model)
        judged = None if made_elsewhere else judge(model, target.model_type, trusted=self._trusted)
        output = _empty(attempt.workspace / OUTPUT)
        recipe = options.resolved()
        with _alone(_empty(attempt.workspace / _SCRATCH)), steady_compiling():
            attempt.progress(Progress(phase=Phase.CONVERTING))
            attempt.checkpoint()
            with tool_errors(attempt.workspace):
                if judged is None:
                    _adopt(model, output, target.precision)
                else:
                    self.export(model, output, judged, target, recipe, trusted=self._trusted)
            _tidy(output, model)
            attempt.progress(Progress(phase=Phase.CHECKING))
            attempt.checkpoint()
            check_files(output, target.model_type)
            sym = None if made_elsewhere else bool(recipe.sym)
            with tool_errors(attempt.workspace, otherwise=VerificationFailed):
                check_run(output, target.model_type, target.precision, sym=sym)

    def serve(self, folder: Path, name: str, target: Target, serving: Mapping[str, object]) -> None:  # noqa: ARG002
        """Write graph.pbtxt into the model's folder. Safe to repeat."""
        options = msgspec.convert(dict(serving), ServingOptions, strict=False)
        if target.model_type is ModelType.EMBEDDINGS and options.pooling is None:
            options = msgspec.structs.replace(options, pooling=_own_pooling(folder))
        (folder / GRAPH_NAME).write_text(graph(target.model_type, target.device, options), encoding="utf-8")

    def register(self, folder: Path, name: str) -> None:
        """Enter the model into the folder's config_all.json. The caller holds the folder's lock. Safe to repeat."""
        register(folder / INDEX_NAME, name, base_path=name)

    def versions(self) -> dict[str, str]:
        """The tools whose versions decide the bytes of a result."""
        return {name: importlib.metadata.version(name) for name in TOOLS}

    def export(
        self, model: Path, output: Path, judged: Judged, target: Target, recipe: OpenVINOOptions, *, trusted: bool
    ) -> None:
        """Let the tools write IR and tokenizers into `output`."""
        writes_text = target.model_type is ModelType.LLM
        config = _ov_config(target.precision, recipe)
        with _complete_weights(judged):
            main_export(
                model_name_or_path=str(model),
                output=output,
                task=judged.task,
                library_name="transformers",
                local_files_only=True,
                trust_remote_code=trusted,
                ov_config=config,
                convert_tokenizer=writes_text,
            )
        if not writes_text:
            _write_tokenizer(model, output, target.model_type, recipe, trusted=trusted)
        if config.quantization_config is not None:
            with option_errors():
                _main_quantize(
                    model_name_or_path=str(model),
                    task=judged.task,
                    library_name="transformers",
                    quantization_config=config.quantization_config,
                    output=output,
                    cache_dir=huggingface_hub.constants.HF_HUB_CACHE,
                    trust_remote_code=trusted,
                )


def _adopt(model: Path, output: Path, precision: Precision) -> None:
    """Take over a model that is in OpenVINO's form already, if it is the one that was asked for."""
    found = precision_of(model)
    if found is not precision:
        raise InvalidParameters(
            f"The repository holds a model that is converted already, with {found or 'other'} weights, not {precision}",
            hint=f"Ask for the precision '{found}', or name the repository of the original model."
            if found
            else "Name the repository of the original model.",
        )
    for path in sorted(model.iterdir()):
        if path.is_file():
            # What is taken is kept under its sha256, so another name for the same file costs nothing.
            os.link(path, output / path.name)


def _ov_config(precision: Precision, recipe: OpenVINOOptions) -> OVConfig:
    if precision in {Precision.FP16, Precision.FP32}:
        return OVConfig(dtype=precision.value)
    four = precision is Precision.INT4
    with option_errors():
        weights = OVWeightQuantizationConfig(
            bits=4 if four else 8,
            dtype=precision.value,
            sym=bool(recipe.sym),
            ratio=1.0 if recipe.ratio is None else recipe.ratio,
            group_size=recipe.group_size if four else -1,
            group_size_fallback=(recipe.group_size_fallback or "adjust") if four else None,
            backup_precision=recipe.backup_precision,
            all_layers=recipe.all_layers or None,
            quant_method="awq" if recipe.awq else "default",
            scale_estimation=recipe.scale_estimation or None,
            gptq=recipe.gptq or None,
            lora_correction=recipe.lora_correction or None,
            sensitivity_metric=recipe.sensitivity_metric,
            dataset=recipe.dataset,
            num_samples=recipe.num_samples,
        )
    return OVConfig(quantization_config=weights)


@contextmanager
def _alone(scratch: Path) -> Iterator[None]:
    """Keep the tools off the network, and their temporary files on our volume."""
    constants = huggingface_hub.constants
    before = (constants.HF_HUB_OFFLINE, tempfile.tempdir)
    constants.HF_HUB_OFFLINE, tempfile.tempdir = True, str(scratch)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, tempfile.tempdir = before
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _complete_weights(judged: Judged) -> Iterator[None]:
    """Refuse a checkpoint that lacks weights: transformers fills them with random numbers and only logs it."""
    report = transformers.modeling_utils.log_state_dict_report

    def strict(*, model: object, loading_info: LoadStateDictInfo, **more: object) -> None:
        # No task that is offered here reads the pooler of an encoder, and many checkpoints lack it.
        unfit = sorted(key for key in loading_info.missing_and_mismatched() if "pooler." not in key)
        if unfit:
            raise UnsupportedModel(
                f"The checkpoint is no complete '{judged.architecture}' model for {judged.task}: {len(unfit)} weights "
                f"of {type(model).__name__} are missing or have another shape, such as {unfit[0]}"
            )
        report(model=model, loading_info=loading_info, **more)

    transformers.modeling_utils.log_state_dict_report = strict
    try:
        yield
    finally:
        transformers.modeling_utils.log_state_dict_report = report


def _write_tokenizer(
    model: Path, output: Path, model_type: ModelType, recipe: OpenVINOOptions, *, trusted: bool
) -> None:
    """Write the tokenizer in the form that the server's calculators for whole texts expect."""
    reranks = model_type is ModelType.RERANK
    with tool_errors(output, otherwise=OutputIncomplete):
        tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True, trust_remote_code=trusted)
        if reranks:
            # The server itself cuts documents and puts the special tokens between query and document.
            tokenizer.model_max_length = recipe.max_doc_length or MAX_DOC_LENGTH
        tokenizer.save_pretrained(output)
        converted = convert_tokenizer(tokenizer, add_special_tokens=not reranks)
        ov.save_model(converted, output / f"{TOKENIZER}.xml")


def _own_pooling(folder: Path) -> str | None:
    """What the model itself says about pooling, in the server's words."""
    try:
        said = json.loads((folder / POOLING_FILE).read_bytes())
    except (OSError, ValueError):
        return None
    modes = {"pooling_mode_cls_token": "CLS", "pooling_mode_lasttoken": "LAST", "pooling_mode_mean_tokens": "MEAN"}
    chosen = [word for key, word in modes.items() if isinstance(said, dict) and said.get(key) is True]
    return chosen[0] if len(chosen) == 1 else None


def _tidy(output: Path, model: Path) -> None:
    """Keep what a reader of the result needs, add the source's papers, and forget where the source lay."""
    for path in sorted(output.iterdir()):
        if path.is_dir():
            shutil.rmtree(path)
        elif not any(fnmatch(path.name, pattern) for pattern in _KEPT_RESULTS):
            path.unlink()
    for paper in sorted(model.iterdir()):
        if paper.is_file() and any(fnmatch(paper.name.lower(), pattern) for pattern in _KEPT_PAPERS):
            shutil.copyfile(paper, output / paper.name)
    if (model / POOLING_FILE).is_file():
        (output / POOLING_FILE).parent.mkdir()
        shutil.copyfile(model / POOLING_FILE, output / POOLING_FILE)
    _forget_path(output / "openvino_config.json", str(model))


def _forget_path(file: Path, path: str) -> None:
    """Equal conversions must give equal bytes, wherever they ran."""
    if file.exists():
        config = json.loads(file.read_bytes())
        file.write_text(json.dumps(_without(config, path), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _without(value: object, path: str) -> object:
    match value:
        case dict():
            return {key: _without(item, path) for key, item in value.items()}
        case list():
            return [_without(item, path) for item in value]
        case _:
            return None if value == path else value


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


_contract: type[Converter[OpenVINOOptions]] = OpenVINOConverter

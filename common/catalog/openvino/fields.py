"""The options of a conversion: all of `optimum-cli export openvino` under their own names, and ours beside them.

The texts below the fields are what `GET /plugins` and docs/options.md say about them.
"""

from typing import Annotated, Literal

import msgspec

from common.spec import Spec

MAX_DOC_LENGTH = 16000

CALIBRATES_ITSELF = "auto"
"""The `dataset` of texts that a language model writes itself."""

PATH_PREFIX = "path:"
"""What marks a `dataset` as a file or folder; no data set that the tools know by name begins like this."""

Switch = Annotated[bool, msgspec.Meta(extra_json_schema={"default": False})]
_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}"


class Verification(Spec, frozen=True):
    """How far the answers of a converted model may be from those of its source."""

    max_divergence: Annotated[float, msgspec.Meta(gt=0, le=2)]
    """The job fails beyond it. 0 would be equal answers, 1 unrelated ones."""
    samples: Annotated[int, msgspec.Meta(ge=1, le=64)] = 8
    """How many inputs are compared."""


class ModelKwargs(Spec, frozen=True, omit_defaults=True):
    """Arguments of the model itself."""

    vocoder: str | None = None
    """Another place for the option `vocoder`."""
    output_attentions: bool | None = None
    """Give the attention weights as outputs too."""
    output_hidden_states: bool | None = None
    """Give the hidden states as outputs too."""


class OpenVINOOptions(Spec, frozen=True, omit_defaults=True):
    """What decides the converted bytes. Where nothing is given, `normalise` fills in the precision's own default."""

    task: str | None = None
    """What the model is exported for, in optimum's words, such as `text-generation-with-past`. Told by the model itself
    where it is not given; it has to go with the type of the model."""
    framework: Literal["pt"] | None = None
    """PyTorch is the only one there is, so this has no effect."""
    library: Literal["transformers", "diffusers", "timm", "sentence_transformers", "open_clip", "kokoro"] | None = None
    """What loads the model. Told by the model itself where it is not given."""
    trust_remote_code: Switch | None = None
    """The repository's own Python code may run. A wish: the operator has to allow it for this repository and commit."""
    cache_dir: Annotated[str, msgspec.Meta(max_length=1024)] | None = None
    """Has no effect: a conversion downloads nothing, so there is nothing to cache."""
    pad_token_id: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """The id of the padding token, for a classifier whose tokenizer names none."""
    variant: Annotated[str, msgspec.Meta(pattern=rf"^{_NAME}$")] | None = None
    """Which of several sets of weights to read, such as `fp16` for `model.fp16.safetensors`."""
    disable_stateful: Switch | None = None
    """Show the KV cache as inputs and outputs. OpenVINO Model Server and OpenVINO GenAI need it hidden."""
    disable_convert_tokenizer: Switch | None = None
    """Write no tokenizer in OpenVINO's form."""
    model_kwargs: ModelKwargs | None = None
    """Arguments of the model itself, as an object or as JSON in a string."""

    weight_format: (
        Annotated[
            Literal["fp32", "fp16", "int8", "int4", "mxfp4", "nf4", "cb4"],
            msgspec.Meta(extra_json_schema={"default": "int8"}),
        ]
        | None
    ) = None
    """The number format of the weights. `precision` is another name for it."""
    quant_mode: Literal["int8", "f8e4m3", "f8e5m2", "cb4_f8e4m3", "int4_f8e4m3", "int4_f8e5m2"] | None = None
    """Quantise activations as well as weights. Of two words the first is for the weights. Needs a `dataset`."""

    sym: Switch | None = None
    """Integers without a zero point: of the weights, or with `quant_mode` `int8` of the activations."""
    ratio: Annotated[float, msgspec.Meta(gt=0, le=1, extra_json_schema={"default": 1.0})] | None = None
    """The share of the layers that get 4 bits; the others keep the backup precision."""
    group_size: Annotated[int, msgspec.Meta(ge=-1)] | None = None
    """How many weights share one scale; -1 is a whole channel. The default is 128, for `mxfp4` 32, for `cb4` and on
    NPU -1."""
    group_size_fallback: Literal["error", "ignore", "adjust"] | None = None
    """What to do with a layer whose width the group size does not divide: fail, leave it as it is, or take a smaller
    group. The default is `adjust`, for `mxfp4` `error`."""
    backup_precision: Literal["none", "int8_sym", "int8_asym"] | None = None
    """The form of embeddings, the last layer, and all that `ratio` leaves out. The default is `int8_asym`; `mxfp4` and
    the modes of two words have 8-bit floats instead."""
    all_layers: Switch | None = None
    """4 bits for the embeddings and the last layer too."""
    awq: Switch | None = None
    """Activation-aware weight quantisation; without a `dataset` by the weights alone."""
    scale_estimation: Switch | None = None
    """Choose scales by the error of the layers' outputs. Needs a `dataset`."""
    gptq: Switch | None = None
    """Quantise layer by layer, and make up for the error in the weights that are left. Needs a `dataset`."""
    lora_correction: Switch | None = None
    """Add small matrices that take back some of the error. Needs a `dataset`; excludes `gptq` and `all_layers`."""
    sensitivity_metric: (
        Literal[
            "weight_quantization_error",
            "hessian_input_activation",
            "mean_activation_variance",
            "max_activation_variance",
            "mean_activation_magnitude",
        ]
        | None
    ) = None
    """How to choose the layers that `ratio` leaves out. All but
    `weight_quantization_error` need a `dataset`."""
    smooth_quant_alpha: Annotated[float, msgspec.Meta(ge=-1, le=1)] | None = None
    """How much of the activations' range is moved into the weights: more than 0, at most 1, or -1 for none. Only with
    `quant_mode`."""

    dataset: (
        Annotated[
            str,
            msgspec.Meta(
                extra_json_schema={
                    "pattern": "^(auto|path:.+|[a-z][a-zA-Z0-9_./-]+)$",
                    "examples": ["path:texts/support.txt"],
                }
            ),
        ]
        | None
    ) = None
    """What to calibrate with: `path:` and a file or folder below MODELS_DIR, or, for the type `llm`, `auto` for texts
    that the model itself writes. What is read are texts (`.txt`, or `.jsonl` with a `text` in each line), pictures or
    sounds, as the type of the model needs. A conversion has no network, so a data set that optimum knows by name, such
    as `wikitext2`, is read from the folder of that name below `datasets` in MODELS_DIR, where an operator puts it."""
    num_samples: Annotated[int, msgspec.Meta(gt=0, extra_json_schema={"default": 128})] | None = None
    """How many samples of the `dataset` to use at most."""
    quantization_statistics_path: (
        Annotated[str, msgspec.Meta(extra_json_schema={"examples": ["statistics/my-model"]})] | None
    ) = None
    """A folder below MODELS_DIR where what was learnt from the `dataset` is kept and found again. Not with `quant_mode`
    `int8`, `f8e4m3` and `f8e5m2`."""

    extra_quantization_params: Annotated[str, msgspec.Meta(max_length=4096)] | None = None
    """Any of the options of optimum-cli as its flags, such as `--sym --ratio 1.0 --group-size -1`."""
    max_doc_length: Annotated[int, msgspec.Meta(gt=0, extra_json_schema={"default": MAX_DOC_LENGTH})] | None = None
    """The most tokens of one document that a reranker reads."""
    vocoder: Annotated[str, msgspec.Meta(pattern=rf"^{_NAME}(/{_NAME})*$", max_length=500)] | None = None
    """What turns the spectrogram of a SpeechT5 model into sound: a folder of its repository or below MODELS_DIR, or a
    model that hub `huggingface` has downloaded before, such as `microsoft/speecht5_hifigan`."""
    draft_source_model: Annotated[str, msgspec.Meta(pattern=rf"^{_NAME}(/{_NAME})?$(?!\n)", max_length=200)] | None = (
        None
    )
    """A smaller language model of the same hub, with the same tokenizer, that guesses ahead for this one (speculative
    decoding). It is converted to the same precision with that one's defaults, unless it is converted already, into a
    folder below the model, which the graph names. Only for type `llm`, on one device that is no NPU."""
    draft_model_name: Annotated[str, msgspec.Meta(pattern=rf"^{_NAME}(/{_NAME})?$(?!\n)", max_length=200)] | None = None
    """The name of that folder. The default is the draft's own name. `/` becomes `-`."""
    draft_eagle3_mode: Switch | None = None
    """The draft is one of EAGLE-3, which guesses by what goes on inside the model that it was trained for."""
    engine: Literal["fast", "strict"] | None = None
    """What does the work: `strict` is optimum's own export, `fast` makes the same weights with less effort where it
    can. The default is the best that suits the job."""
    profile: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,39}$")] | None = None
    """The Python environment that converts. The default is the first that knows the model."""
    verify: Verification | None = None
    """Compare the converted model with its source on a few inputs, and fail where they differ too much."""
    dataset_sha256: (
        Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$", extra_json_schema={"readOnly": True})] | None
    ) = None
    """The content that `path:` led to. Filled in by the service, so that other content is another conversion."""

    def __post_init__(self) -> None:
        if self.group_size == 0:
            msg = "'group_size' must be greater than 0, or -1"
            raise ValueError(msg)
        if self.smooth_quant_alpha is not None and self.smooth_quant_alpha <= 0 and self.smooth_quant_alpha != -1:
            # The tools take 0 for nothing said, and smooth by their own default.
            msg = "'smooth_quant_alpha' must be greater than 0, or -1"
            raise ValueError(msg)


def dataset_path(options: OpenVINOOptions) -> str | None:
    """The file or folder to calibrate with, relative to MODELS_DIR; None where it is none."""
    dataset = options.dataset or ""
    return dataset.removeprefix(PATH_PREFIX) if dataset.startswith(PATH_PREFIX) else None

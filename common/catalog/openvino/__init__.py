"""The OpenVINO converter, as far as it can be known without loading it."""

from collections.abc import Mapping

import msgspec

from common.catalog.openvino.detection import PAPERS
from common.catalog.openvino.drafts import with_those_of_drafts
from common.catalog.openvino.examine import examine
from common.catalog.openvino.fields import MAX_DOC_LENGTH, OpenVINOOptions, dataset_path
from common.catalog.openvino.options import normalise
from common.catalog.openvino.prediction import memory, predict
from common.catalog.openvino.ready_made import CONFIG, ready_made
from common.catalog.openvino.rules import base, goes_along
from common.catalog.openvino.serving import ServingOptions
from common.catalog.openvino.values import NAME
from common.plugins import ConverterPlugin
from common.vocabulary import Format, ModelType, Precision

__all__ = ["MAX_DOC_LENGTH", "OPENVINO", "TOOLS", "OpenVINOOptions", "ServingOptions", "normalise"]

TOOLS = (
    "nncf",
    "openvino",
    "openvino-tokenizers",
    "optimum",
    "optimum-intel",
    "torch",
    "transformers",
)
"""The distributions whose versions decide the bytes of a result."""

# The first keeps the tools from reporting home, so it must come before any of them. The others are what conversions of
# each type were seen to import after the converter itself was.
_PRELOAD = (
    "worker.converters",
    "worker.converters.openvino.converter",
    "nncf.openvino.optimized_functions",
    "nncf.openvino.quantization.quantize_model",
    "nncf.quantization.algorithms.weight_compression.openvino_backend",
    "nncf.torch",
    "openvino.frontend.pytorch.fx_decoder",
    "openvino.frontend.pytorch.module_extension",
    "openvino.tools.ovc.moc_frontend.offline_transformations",
    "openvino_tokenizers.hf_parser",
    "optimum.intel.openvino.modeling_funasr",
    "rich._emoji_codes",
    "sentencepiece.sentencepiece_model_pb2",
    "transformers.models.bert.modeling_bert",
    "transformers.models.bert.tokenization_bert",
    "transformers.models.llava.modeling_llava",
    "transformers.models.llava.processing_llava",
    "transformers.models.mistral.modeling_mistral",
    "transformers.models.qwen2.modeling_qwen2",
    "transformers.models.speecht5.processing_speecht5",
    "transformers.models.speecht5.tokenization_speecht5",
    "transformers.models.vit.modeling_vit",
    "transformers.models.whisper.processing_whisper",
    "transformers.models.xlm_roberta.modeling_xlm_roberta",
    "worker.converters.openvino.adopting",
    "worker.converters.openvino.check",
    "worker.converters.openvino.completeness",
    "worker.converters.openvino.fast",
    "worker.converters.openvino.gguf",
    "worker.converters.openvino.objects",
    "worker.converters.openvino.ordering",
    "worker.converters.openvino.strict",
    "worker.converters.openvino.tokenizers",
)


def data(options: Mapping[str, object]) -> str | None:
    """The path below MODELS_DIR of what these options calibrate with."""
    return dataset_path(msgspec.convert(dict(options), OpenVINOOptions))


OPENVINO = ConverterPlugin(
    name=NAME,
    description="Converts models of text, pictures and sound to OpenVINO IR and quantises them.",
    options=OpenVINOOptions,
    serving=ServingOptions,
    normalise=normalise,
    reads=frozenset({Format.TRANSFORMERS, Format.OPENVINO}),
    writes=Format.OPENVINO,
    model_types=frozenset(
        {
            ModelType.LLM,
            ModelType.VLM,
            ModelType.EMBEDDINGS,
            ModelType.RERANK,
            ModelType.IMAGE_GENERATION,
            ModelType.TEXT2SPEECH,
            ModelType.SPEECH2TEXT,
            ModelType.VISION,
        }
    ),
    precisions=frozenset(Precision),
    implementation="worker.converters.openvino.converter:OpenVINOConverter",
    extra="openvino",
    # A torchvision of another build than torch makes every import of transformers' models fail.
    fragile=("torchvision",),
    preload=_PRELOAD,
    settings=frozenset(
        {"MODELFERRY_TRUST_REMOTE_CODE", "MODELFERRY_ALLOW_PICKLE", "MODELFERRY_PROFILES", "MODELS_DIR"}
    ),
    memory=memory,
    papers=with_those_of_drafts(tuple(dict.fromkeys((*PAPERS, CONFIG)))),
    examine=examine,
    ready_made=ready_made,
    predict=predict,
    data=data,
    together=goes_along,
    base=base,
)

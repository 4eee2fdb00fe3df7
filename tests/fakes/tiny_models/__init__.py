"""Builds tiny but real models on the spot, each an ordinary repository directory, without any network.

Everything heavy is imported inside the functions: naming a model must not cost an import of torch.
"""

from tests.fakes.tiny_models.minilm import MINILM_NAME, MINILM_PACKAGE, PackageMissing, minilm_repo
from tests.fakes.tiny_models.parts import CHAT_TEMPLATE, SENTENCES
from tests.fakes.tiny_models.pictures import (
    tiny_detr,
    tiny_llava,
    tiny_qwen2_vl,
    tiny_resnet,
    tiny_stable_diffusion,
    tiny_vit,
    tiny_yolos,
)
from tests.fakes.tiny_models.sound import VOCODER, tiny_hifigan, tiny_speecht5, tiny_whisper
from tests.fakes.tiny_models.text import (
    tiny_bert,
    tiny_bert_pickled,
    tiny_eagle3,
    tiny_llama,
    tiny_llama_deep,
    tiny_llama_sharded,
    tiny_reranker,
)

__all__ = [
    "CHAT_TEMPLATE",
    "MINILM_NAME",
    "MINILM_PACKAGE",
    "SENTENCES",
    "VOCODER",
    "PackageMissing",
    "minilm_repo",
    "tiny_bert",
    "tiny_bert_pickled",
    "tiny_detr",
    "tiny_eagle3",
    "tiny_hifigan",
    "tiny_llama",
    "tiny_llama_deep",
    "tiny_llama_sharded",
    "tiny_llava",
    "tiny_qwen2_vl",
    "tiny_reranker",
    "tiny_resnet",
    "tiny_speecht5",
    "tiny_stable_diffusion",
    "tiny_vit",
    "tiny_whisper",
    "tiny_yolos",
]

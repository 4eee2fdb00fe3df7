"""Tiny models that read and write text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.fakes.tiny_models.parts import (
    CHAT_TEMPLATE,
    byte_level_tokenizer,
    save_generating_tokenizer,
    save_model,
    save_tokenizer,
    seeded,
    with_card,
    word_piece_tokenizer,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer  # type: ignore[import-untyped]  # a compiled library without stubs
    from transformers import LlamaConfig


def tiny_llama(path: Path, *, seed: int = 0) -> Path:
    """A text generator: Llama in bfloat16, with a byte-level tokenizer and a chat template."""
    return _llama(path, seed)


def tiny_llama_sharded(path: Path, *, seed: int = 0) -> Path:
    """The same text generator with its weights in several files, and an index of them."""
    return _llama(path, seed, max_shard_size="300KB")


def tiny_llama_deep(path: Path, *, seed: int = 0) -> Path:
    """A text generator with as many layers as OpenVINO GenAI wants of one that a draft of EAGLE-3 looks into."""
    return _llama(path, seed, layers=10)


def tiny_eagle3(path: Path, *, seed: int = 0) -> Path:
    """A draft of EAGLE-3 for the other text generators: one layer, half of their tokens, and no tokenizer."""
    import torch
    from optimum.exporters.openvino.model_patcher import LlamaEagle3ForCausalLM
    from safetensors.torch import save_file

    config = _llama_config(byte_level_tokenizer(), 1)
    config.draft_vocab_size = config.vocab_size // 2
    config.architectures = ["LlamaForCausalLMEagle3"]
    config.dtype = "bfloat16"
    # As at the hub: what a class is given when it is loaded is not in the file.
    config.save_pretrained(path)
    weights = seeded(seed, lambda: LlamaEagle3ForCausalLM(config), "bfloat16").model.state_dict()
    weights["t2d"] = torch.arange(config.vocab_size) < config.draft_vocab_size
    save_file(
        {name: weight.contiguous() for name, weight in weights.items()}, path / "model.safetensors", {"format": "pt"}
    )
    return with_card(path, "text-generation")


def tiny_bert(path: Path, *, seed: int = 0) -> Path:
    """An encoder for embeddings: BERT with a WordPiece tokenizer that gives token types."""
    from transformers import BertConfig, BertModel

    tokenizer = word_piece_tokenizer()
    config = BertConfig(**_bert_sizes(tokenizer))
    save_model(path, seed, lambda: BertModel(config))
    _save_bert_tokenizer(path, tokenizer)
    return with_card(path, "feature-extraction")


def tiny_bert_pickled(path: Path, *, seed: int = 0) -> Path:
    """The same encoder, with a pickle for its weights and nothing else."""
    import torch
    from transformers import BertConfig, BertModel

    tokenizer = word_piece_tokenizer()
    config = BertConfig(**_bert_sizes(tokenizer), architectures=["BertModel"], dtype="float32")
    config.save_pretrained(path)
    torch.save(seeded(seed, lambda: BertModel(config)).state_dict(), path / "pytorch_model.bin")
    _save_bert_tokenizer(path, tokenizer)
    return with_card(path, "feature-extraction")


def tiny_reranker(path: Path, *, seed: int = 0) -> Path:
    """A cross-encoder: BERT that gives one score for a pair of texts."""
    from transformers import BertConfig, BertForSequenceClassification

    tokenizer = word_piece_tokenizer()
    config = BertConfig(**_bert_sizes(tokenizer), num_labels=1)
    save_model(path, seed, lambda: BertForSequenceClassification(config))
    _save_bert_tokenizer(path, tokenizer)
    return with_card(path, "text-ranking")


def _llama(path: Path, seed: int, layers: int = 2, **how: object) -> Path:
    from transformers import LlamaForCausalLM

    tokenizer = byte_level_tokenizer()
    config = _llama_config(tokenizer, layers)
    save_model(path, seed, lambda: LlamaForCausalLM(config), "bfloat16", **how)
    save_generating_tokenizer(path, tokenizer, chat_template=CHAT_TEMPLATE)
    return with_card(path, "text-generation")


def _llama_config(tokenizer: Tokenizer, layers: int) -> LlamaConfig:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=tokenizer.token_to_id("<s>"),
        eos_token_id=tokenizer.token_to_id("</s>"),
        pad_token_id=tokenizer.token_to_id("<pad>"),
    )


def _bert_sizes(tokenizer: Tokenizer) -> dict[str, int]:
    return {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "pad_token_id": tokenizer.token_to_id("[PAD]"),
    }


def _save_bert_tokenizer(path: Path, tokenizer: Tokenizer) -> None:
    save_tokenizer(
        path,
        tokenizer,
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        pad_token="[PAD]",
        mask_token="[MASK]",
        model_max_length=128,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )

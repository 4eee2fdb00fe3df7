"""Embeds sentences with a model and with its conversion, and prints how alike the vectors are, as JSON.

Run it as `python -m scripts.compare_embeddings ORIGINAL CONVERTED`, with a HOME that OpenVINO may write to.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch
from transformers import AutoModel, AutoTokenizer

SENTENCES = (
    "A ferry carries people and goods over the water.",
    "The boat takes passengers across the lake.",
    "How do I convert a model to a smaller number format?",
    "Quantization stores weights in eight bits instead of thirty-two.",
    "The cat sleeps on the warm window sill.",
    "Stock prices fell sharply after the announcement.",
    "Bread is made of flour, water, salt and yeast.",
    "Install the package, then restart the service.",
)


def main(original: Path, converted: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(original, local_files_only=True)
    tokens = dict(tokenizer(list(SENTENCES), padding=True, return_tensors="np"))
    cosines = np.sum(
        embed(run_torch(original, tokens), tokens) * embed(run_openvino(converted, tokens), tokens), axis=1
    )
    print(json.dumps({"cosine": float(cosines.min()), "mean": float(cosines.mean()), "sentences": len(SENTENCES)}))


def run_torch(folder: Path, tokens: dict[str, Any]) -> Any:
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    with torch.inference_mode():
        answer = model(**{name: torch.from_numpy(values) for name, values in tokens.items()})
    return answer.last_hidden_state.numpy()


def run_openvino(folder: Path, tokens: dict[str, Any]) -> Any:
    model = openvino.Core().compile_model(folder / "openvino_model.xml", "CPU")
    wanted = {name for entry in model.inputs for name in entry.names}
    return model({name: values for name, values in tokens.items() if name in wanted})["last_hidden_state"]


def embed(hidden: Any, tokens: dict[str, Any]) -> Any:
    """One vector of length 1 for each sentence: the mean over its tokens."""
    mask = tokens["attention_mask"][:, :, None].astype(np.float32)
    means = (hidden * mask).sum(axis=1) / mask.sum(axis=1)
    return means / np.linalg.norm(means, axis=1, keepdims=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

"""The models that tests build are real ones: transformers loads and runs each of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from tests.fakes.tiny_models import minilm_repo, tiny_bert, tiny_llama, tiny_reranker

LIMIT_BYTES = 3_000_000


def test_tiny_llama_writes_text(tmp_path: Path) -> None:
    tiny_llama(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.dtype == torch.bfloat16
    assert tokenizer.decode(tokenizer("A ferry, naïvely: 船").input_ids) == "A ferry, naïvely: 船"
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], add_generation_prompt=True, return_tensors="pt"
    )
    written = model.generate(**prompt, max_new_tokens=4, do_sample=False)
    assert written.shape[1] > prompt["input_ids"].shape[1]


def test_tiny_bert_embeds(tmp_path: Path) -> None:
    tiny_bert(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    model = transformers.AutoModel.from_pretrained(tmp_path)
    inputs = tokenizer("the ferry", "unheard-of words", return_tensors="pt")
    assert set(inputs["token_type_ids"][0].tolist()) == {0, 1}
    assert tokenizer.unk_token_id not in tokenizer("the lazy dog").input_ids
    assert model(**inputs).last_hidden_state.shape[2] == 64


def test_tiny_reranker_scores_a_pair(tmp_path: Path) -> None:
    tiny_reranker(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert model(**tokenizer("the ferry", "the water", return_tensors="pt")).logits.shape == (1, 1)


@pytest.mark.parametrize("build", [tiny_llama, tiny_bert, tiny_reranker])
def test_a_seed_makes_the_same_small_repository_again(build: Callable[..., Path], tmp_path: Path) -> None:
    first, again, other = build(tmp_path / "a"), build(tmp_path / "b"), build(tmp_path / "c", seed=1)
    assert _digests(first) == _digests(again)
    assert _digests(first)["model.safetensors"] != _digests(other)["model.safetensors"]
    assert sum(path.stat().st_size for path in first.iterdir()) < LIMIT_BYTES
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"} <= set(
        _digests(first)
    )


def test_minilm_is_the_real_one(tmp_path: Path) -> None:
    repo = minilm_repo(tmp_path)
    assert repo == tmp_path / "sentence-transformers" / "all-MiniLM-L6-v2"
    modules = json.loads((repo / "modules.json").read_text())
    assert all((repo / module["path"]).is_dir() for module in modules)
    tokenizer = transformers.AutoTokenizer.from_pretrained(repo)
    model = transformers.AutoModel.from_pretrained(repo)
    texts = ["A cat sits on the mat.", "A kitten rests on a rug.", "Interest rates rose again."]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"].unsqueeze(-1)
    vectors = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1))
    alike = (vectors @ vectors.T).tolist()
    assert alike[0][1] > 0.5 > alike[0][2]


def _digests(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}

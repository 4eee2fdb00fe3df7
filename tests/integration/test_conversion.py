"""Tiny models really are converted, and what comes out is opened by the runtime that model servers use."""

from pathlib import Path

import pytest

from common.vocabulary import ModelType, Precision
from tests.conversions import Conversion, Wanted, convert, in_child
from tests.fakes import tiny_models

MAKERS = {
    ModelType.LLM: tiny_models.tiny_llama,
    ModelType.EMBEDDINGS: tiny_models.tiny_bert,
    ModelType.RERANK: tiny_models.tiny_reranker,
}
SENTENCES = [
    "A ferry carries people and goods over the water.",
    "Boats take passengers across the river.",
    "The stock market fell sharply on Monday.",
    "He cooked a pot of soup with carrots and leeks.",
    "Quantised weights need less memory, and answer almost as well.",
]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[ModelType, Path]:
    root = tmp_path_factory.mktemp("models")
    return {kind: Path(str(in_child(make, root / kind))) for kind, make in MAKERS.items()}


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("model_type", list(MAKERS))
def test_a_model_is_converted_and_opens(
    models: dict[ModelType, Path], tmp_path: Path, model_type: ModelType, precision: Precision
) -> None:
    wanted = Wanted(model=models[model_type], workspace=tmp_path, model_type=model_type, precision=precision)
    ended = in_child(_convert_and_open, wanted)

    assert isinstance(ended, Conversion)
    assert (ended.error, ended.text) == (None, "")
    expected = {
        "README.md",
        "config.json",
        "openvino_model.bin",
        "openvino_model.xml",
        "openvino_tokenizer.bin",
        "openvino_tokenizer.xml",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    if model_type is ModelType.LLM:
        expected |= {"chat_template.jinja", "generation_config.json"}
        expected |= {"openvino_detokenizer.bin", "openvino_detokenizer.xml"}
    if precision in {Precision.INT4, Precision.INT8}:
        expected |= {"openvino_config.json"}
    assert set(ended.files) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["output"]


def test_minilm_in_int8_says_what_the_original_says(tmp_path: Path) -> None:
    source = tiny_models.minilm_repo(tmp_path / "hub")

    wanted = Wanted(model=source, workspace=tmp_path / "work", model_type=ModelType.EMBEDDINGS)
    ended, closest = in_child(_convert_and_compare, wanted)

    assert ended.error is None, ended.text
    assert min(closest) >= 0.99


def _convert_and_open(wanted: Wanted) -> Conversion:
    ended = convert(wanted)
    if ended.error is None:
        _OPENERS[wanted.model_type](wanted.workspace / "output")
    return ended


def _write_text(folder: Path) -> None:
    import openvino_genai

    pipeline = openvino_genai.LLMPipeline(str(folder), "CPU")
    answer = pipeline.generate("A ferry carries", max_new_tokens=4)
    assert isinstance(str(answer), str)


def _embed(folder: Path) -> None:
    import numpy as np
    import openvino_genai

    pipeline = openvino_genai.TextEmbeddingPipeline(str(folder), "CPU")
    vectors = np.array(pipeline.embed_documents(SENTENCES))
    assert vectors.shape[0] == len(SENTENCES)
    assert np.isfinite(vectors).all()


def _score(folder: Path) -> None:
    """As the model server's own calculator does it: tokens without special ones, put together by hand."""
    import numpy as np
    import openvino as ov
    import openvino_tokenizers  # noqa: F401

    core = ov.Core()
    tokens = core.compile_model(folder / "openvino_tokenizer.xml", "CPU")(["a ferry", "over the water"])
    ids = np.concatenate([row[row > 0] for row in tokens["input_ids"]])[np.newaxis, :]
    plain = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    scores = core.compile_model(folder / "openvino_model.xml", "CPU")(plain)[0]
    assert scores.shape == (1, 1)
    assert np.isfinite(scores).all()


_OPENERS = {ModelType.LLM: _write_text, ModelType.EMBEDDINGS: _embed, ModelType.RERANK: _score}


def _convert_and_compare(wanted: Wanted) -> tuple[Conversion, list[float]]:
    import numpy as np
    import openvino_genai
    import torch
    from transformers import AutoModel, AutoTokenizer

    ended = convert(wanted)
    if ended.error is not None:
        return ended, []
    config = openvino_genai.TextEmbeddingPipeline.Config()
    config.pooling_type = openvino_genai.TextEmbeddingPipeline.PoolingType.MEAN
    config.normalize = True
    pipeline = openvino_genai.TextEmbeddingPipeline(str(wanted.workspace / "output"), "CPU", config)
    ours = np.array(pipeline.embed_documents(SENTENCES))

    tokens = AutoTokenizer.from_pretrained(wanted.model)(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = AutoModel.from_pretrained(wanted.model)(**tokens).last_hidden_state
    mask = tokens["attention_mask"].unsqueeze(-1)
    theirs = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1)).numpy()
    return ended, [float(value) for value in (ours * theirs).sum(axis=1)]

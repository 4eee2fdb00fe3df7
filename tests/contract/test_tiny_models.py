"""The models that tests build are real ones: transformers and diffusers load and run each of them."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from tests.conversions import in_child
from tests.fakes import tiny_models
from tests.fakes.tiny_models import (
    VOCODER,
    minilm_repo,
    tiny_bert,
    tiny_bert_pickled,
    tiny_detr,
    tiny_llama,
    tiny_llama_sharded,
    tiny_llava,
    tiny_qwen2_vl,
    tiny_reranker,
    tiny_resnet,
    tiny_speecht5,
    tiny_stable_diffusion,
    tiny_vit,
    tiny_whisper,
    tiny_yolos,
)

LIMIT_BYTES = 7_000_000
MAKERS = [make for name, make in vars(tiny_models).items() if name.startswith("tiny_")]


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


def test_a_sharded_llama_is_the_same_llama(tmp_path: Path) -> None:
    whole, parts = tiny_llama(tmp_path / "whole"), tiny_llama_sharded(tmp_path / "parts")
    index = json.loads((parts / "model.safetensors.index.json").read_text())
    shards = set(index["weight_map"].values())
    assert len(shards) > 1
    assert {path.name for path in parts.glob("*.safetensors")} == shards
    models = [transformers.AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (whole, parts)]
    assert models[0].keys() == models[1].keys()
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_tiny_bert_embeds(tmp_path: Path) -> None:
    tiny_bert(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    model = transformers.AutoModel.from_pretrained(tmp_path)
    inputs = tokenizer("the ferry", "unheard-of words", return_tensors="pt")
    assert set(inputs["token_type_ids"][0].tolist()) == {0, 1}
    assert tokenizer.unk_token_id not in tokenizer("the lazy dog").input_ids
    assert model(**inputs).last_hidden_state.shape[2] == 64


def test_a_pickled_bert_is_the_same_bert(tmp_path: Path) -> None:
    safe, pickled = tiny_bert(tmp_path / "safe"), tiny_bert_pickled(tmp_path / "pickled")
    assert not list(pickled.glob("*.safetensors"))
    models = [transformers.AutoModel.from_pretrained(path).state_dict() for path in (safe, pickled)]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_tiny_reranker_scores_a_pair(tmp_path: Path) -> None:
    tiny_reranker(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert model(**tokenizer("the ferry", "the water", return_tensors="pt")).logits.shape == (1, 1)


def test_tiny_llava_writes_about_a_picture(tmp_path: Path) -> None:
    assert in_child(_write_about_a_picture, tiny_llava(tmp_path)) == (1, 4)


@pytest.mark.parametrize("make", [tiny_vit, tiny_resnet])
def test_a_classifier_rates_ten_labels(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    assert in_child(_classify, make(tmp_path)) == (1, 10)


@pytest.mark.parametrize("make", [tiny_yolos, tiny_detr])
def test_a_detector_draws_ten_boxes(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    assert in_child(_detect, make(tmp_path)) == ((1, 10, 11), (1, 10, 4))


def test_tiny_stable_diffusion_paints(tmp_path: Path) -> None:
    assert in_child(_paint, tiny_stable_diffusion(tmp_path)) == (64, 64)


def test_tiny_whisper_listens(tmp_path: Path) -> None:
    text, heard = in_child(_listen, tiny_whisper(tmp_path))
    assert text[0] == "<|startoftranscript|>"
    assert text[-1] == "<|endoftext|>"
    assert len(heard) >= 4


def test_tiny_speecht5_speaks(tmp_path: Path) -> None:
    tiny_speecht5(tmp_path)
    assert (tmp_path / VOCODER / "config.json").is_file()
    length = in_child(_speak, tmp_path)
    assert length % 16 == 0
    assert length > 0


def test_tiny_qwen2_vl_knows_where_pictures_go(tmp_path: Path) -> None:
    tiny_qwen2_vl(tmp_path)
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert config.model_type == "qwen2_vl"
    assert tokenizer.convert_tokens_to_ids("<|image_pad|>") == config.image_token_id
    model = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path)
    pixels = torch.zeros(16, 3 * 2 * 14 * 14, dtype=torch.bfloat16)
    seen = model.model.visual(pixels, grid_thw=torch.tensor([[1, 4, 4]]))
    assert seen.pooler_output.shape == (4, config.text_config.hidden_size)


@pytest.mark.parametrize("build", MAKERS, ids=lambda build: build.__name__)
def test_a_seed_makes_the_same_small_repository_again(build: Callable[..., Path], tmp_path: Path) -> None:
    made = in_child(_make_thrice, build, tmp_path)
    first, again, other = (_digests(path) for path in made)
    assert first == again
    weights = {name for name in first if name.endswith((".safetensors", ".bin"))}
    assert weights
    assert all(first[name] != other[name] for name in weights)
    assert {name for name in first if first[name] != other[name]} == weights
    assert sum(path.stat().st_size for path in made[0].rglob("*") if path.is_file()) < LIMIT_BYTES


@pytest.mark.parametrize("build", MAKERS, ids=lambda build: build.__name__)
def test_a_repository_has_the_papers_of_a_real_one(build: Callable[..., Path], tmp_path: Path) -> None:
    made = _digests(in_child(build, tmp_path))
    papers = {"README.md"} | ({"model_index.json"} if build is tiny_stable_diffusion else {"config.json"})
    assert papers <= made.keys()
    if build in {tiny_llama, tiny_llama_sharded, tiny_llava, tiny_qwen2_vl, tiny_whisper, tiny_bert, tiny_reranker}:
        assert {"tokenizer.json", "tokenizer_config.json"} <= made.keys()
    if build in {tiny_llava, tiny_qwen2_vl, tiny_whisper, tiny_speecht5, tiny_vit, tiny_resnet, tiny_yolos, tiny_detr}:
        settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
        assert {"image_processor_type", "feature_extractor_type"} & settings.keys()
    card = (tmp_path / "README.md").read_text()
    assert "license: apache-2.0\n" in card
    assert "\npipeline_tag: " in card


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


# What runs in processes of its own: some of these libraries warn of themselves where they are imported.


def _make_thrice(build: Callable[..., Path], root: Path) -> tuple[Path, Path, Path]:
    return build(root / "a"), build(root / "b"), build(root / "c", seed=1)


def _picture() -> object:
    from PIL import Image

    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8))


def _write_about_a_picture(path: Path) -> tuple[int, ...]:
    processor = transformers.AutoProcessor.from_pretrained(path)
    model = transformers.AutoModelForImageTextToText.from_pretrained(path, dtype="float32")
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}
    prompt = processor.apply_chat_template([message], add_generation_prompt=True)
    inputs = processor(images=_picture(), text=prompt, return_tensors="pt")
    written = model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    return tuple(written[:, inputs["input_ids"].shape[1] :].shape)


def _processed(path: Path) -> dict[str, torch.Tensor]:
    # By its own class: without torchvision nothing else finds the one that needs only pillow.
    name = json.loads((path / "preprocessor_config.json").read_text())["image_processor_type"]
    processor = getattr(transformers, f"{name}Pil").from_pretrained(path)
    return processor(images=_picture(), return_tensors="pt")


def _classify(path: Path) -> tuple[int, ...]:
    model = transformers.AutoModelForImageClassification.from_pretrained(path)
    with torch.no_grad():
        return tuple(model(**_processed(path)).logits.shape)


def _detect(path: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    model = transformers.AutoModelForObjectDetection.from_pretrained(path)
    with torch.no_grad():
        found = model(pixel_values=_processed(path)["pixel_values"])
    return tuple(found.logits.shape), tuple(found.pred_boxes.shape)


def _paint(path: Path) -> tuple[int, int]:
    import diffusers

    pipeline = diffusers.DiffusionPipeline.from_pretrained(path)
    return pipeline("a ferry", num_inference_steps=2).images[0].size


def _listen(path: Path) -> tuple[list[str], list[str]]:
    processor = transformers.AutoProcessor.from_pretrained(path)
    model = transformers.AutoModelForSpeechSeq2Seq.from_pretrained(path)
    sound = np.sin(np.arange(16_000) / 20).astype(np.float32)
    inputs = processor(sound, sampling_rate=16_000, return_tensors="pt")
    heard = model.generate(**inputs, language="de", task="transcribe", max_new_tokens=4, min_new_tokens=4)
    spelled = processor.tokenizer.convert_ids_to_tokens
    return spelled(processor.tokenizer("A ferry").input_ids), spelled(heard[0])


def _speak(path: Path) -> int:
    processor = transformers.AutoProcessor.from_pretrained(path)
    model = transformers.SpeechT5ForTextToSpeech.from_pretrained(path)
    vocoder = transformers.SpeechT5HifiGan.from_pretrained(path / VOCODER)
    inputs = processor(text="A ferry.", return_tensors="pt")
    assert processor.tokenizer.unk_token_id not in inputs["input_ids"]
    return len(model.generate_speech(inputs["input_ids"], torch.zeros(1, 512), vocoder=vocoder))


def _digests(directory: Path) -> dict[str, str]:
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*")
        if path.is_file()
    }

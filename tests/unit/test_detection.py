"""What a model is, from its small files alone."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.catalog.openvino.detection import PAPERS, Nature, detect, weights_bytes
from common.errors import UnsupportedModel
from common.plugins import Dossier
from common.spec import Source
from common.vocabulary import ModelType

SAFE = {"model.safetensors": 1000}


def a_dossier(documents: dict[str, object] | None = None, files: dict[str, int | None] | None = None) -> Dossier:
    papers = documents or {}
    sizes = {**dict.fromkeys(papers, 100), **(SAFE if files is None else files)}
    return Dossier(
        source=Source(hub="huggingface", name="org/model"), revision="c0ffee", sizes=sizes, documents=dict(papers)
    )


def a_model(architecture: str, *classes: str, **more: object) -> dict[str, object]:
    return {"config.json": {"model_type": architecture, "architectures": list(classes), **more}}


def a_pipeline(name: object, **components: object) -> dict[str, object]:
    return {"model_index.json": {"_class_name": name, "_diffusers_version": "0.30.0", **components}}


PARTS = {
    "text_encoder": ["transformers", "CLIPTextModel"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "safety_checker": [None, None],
}
PART_FILES: dict[str, int | None] = {
    "text_encoder/model.safetensors": 10,
    "unet/diffusion_pytorch_model.safetensors": 20,
    "unet/diffusion_pytorch_model.fp16.safetensors": 10,
    "vae/diffusion_pytorch_model.safetensors": 5,
    "v1-5-pruned.safetensors": 9000,
}
SENTENCES = {"modules.json": [{"type": "sentence_transformers.models.Transformer"}], "1_Pooling/config.json": {}}


@pytest.mark.parametrize(
    ("documents", "model_type", "task"),
    [
        (a_model("llama", "LlamaForCausalLM"), "llm", "text-generation-with-past"),
        (a_model("gpt2", "GPT2LMHeadModel"), "llm", "text-generation-with-past"),
        (a_model("gemma3_text", "Gemma3ForCausalLM"), "llm", "text-generation-with-past"),
        (a_model("gemma3", "Gemma3ForConditionalGeneration", vision_config={}), "vlm", "image-text-to-text"),
        (a_model("qwen2_vl", "Qwen2VLForConditionalGeneration", vision_config={}), "vlm", "image-text-to-text"),
        (a_model("llava", "LlavaForConditionalGeneration", vision_config={}), "vlm", "image-text-to-text"),
        (a_model("mllama", "MllamaForConditionalGeneration", vision_config={}), "vlm", "image-text-to-text"),
        (a_model("phi3_v", "Phi3VForCausalLM", auto_map={}), "vlm", "image-text-to-text"),
        (
            a_model("whisper", "WhisperForConditionalGeneration"),
            "speech2text",
            "automatic-speech-recognition-with-past",
        ),
        (a_model("speecht5", "SpeechT5ForTextToSpeech"), "text2speech", "text-to-audio"),
        (a_model("vit", "ViTForImageClassification"), "vision", "image-classification"),
        (a_model("yolos", "YolosForObjectDetection"), "vision", "object-detection"),
        (a_model("bert", "BertForSequenceClassification", id2label={"0": "LABEL_0"}), "rerank", "text-classification"),
        (a_model("bert", "BertModel"), "embeddings", "feature-extraction"),
        ({**a_model("bert", "BertForMaskedLM"), **SENTENCES}, "embeddings", "feature-extraction"),
        ({**a_model("qwen3", "Qwen3ForCausalLM"), **SENTENCES}, "embeddings", "feature-extraction"),
        (
            a_model("chatglm", "ChatGLMModel", auto_map={"AutoModelForCausalLM": "m.C"}),
            "llm",
            "text-generation-with-past",
        ),
        (
            {
                **a_model("bert", "BertForSequenceClassification"),
                "config_sentence_transformers.json": {"model_type": "CrossEncoder"},
            },
            "rerank",
            "text-classification",
        ),
    ],
)
def test_the_type_is_read_from_the_models_own_papers(documents: dict[str, object], model_type: str, task: str) -> None:
    found = detect(a_dossier(documents), None)
    assert (found.model_type, found.task, found.library, found.form) == (
        model_type,
        task,
        "transformers",
        "transformers",
    )
    assert found == detect(a_dossier(documents), ModelType(model_type))


@pytest.mark.parametrize(
    ("documents", "wanted", "words"),
    [
        (a_model("bert", "BertForMaskedLM"), None, "does not tell what it is for"),
        (a_model("clip", "CLIPModel", vision_config={}), None, "does not tell what it is for"),
        (a_model("t5", "T5ForConditionalGeneration"), None, "does not tell what it is for"),
        (a_model("bert", "BertForSequenceClassification"), None, "sorts texts into 2 classes"),
        (a_model("bert", "BertForSequenceClassification"), "embeddings", "use type 'rerank'"),
        (
            a_model("bert", "BertForSequenceClassification", id2label=dict.fromkeys("abc", "")),
            "rerank",
            "into 3 classes",
        ),
        (a_model("bert", "BertForMaskedLM"), "llm", "does not generate text"),
        (a_model("llama", "LlamaForCausalLM"), "vlm", "use type 'llm'"),
        (a_model("llava", "LlavaForConditionalGeneration", vision_config={}), "llm", "use type 'vlm'"),
        (a_model("qwen3", "Qwen3ForCausalLM"), "rerank", "'-seq-cls'"),
        (a_model("llama", "LlamaForCausalLM"), "vision", "does not classify pictures"),
        (a_model("llama", "LlamaForCausalLM"), "image_generation", "no pipeline of diffusers"),
        (a_model("llama", "LlamaForCausalLM"), "speech2text", "does not write down speech"),
        (a_model("speecht5", "SpeechT5ForSpeechToText"), "text2speech", "does not speak"),
        (a_model("t5", "T5EncoderModel"), "embeddings", "makes no vectors of texts"),
        (a_model("llama", "LlamaForCausalLM"), "3d-pose", "cannot be converted here"),
        ({"config.json": {"hidden_size": 64}}, None, "names no model_type"),
        ({"config.json": {"model_type": "x" * 300}}, None, "impossible model_type"),
        ({"config.json": {"architecture": "resnet18", "pretrained_cfg": {}}}, None, "timm"),
        ({}, None, "no usable config.json"),
        ({"config.json": ["model_type"]}, "llm", "no usable config.json"),
        (
            {**a_model("bert", "BertModel"), "modules.json": [{"type": "sentence_transformers.models.Dense"}]},
            None,
            "Dense",
        ),
        (
            {
                **a_model("bert", "BertForMaskedLM"),
                "config_sentence_transformers.json": {"model_type": "SparseEncoder"},
            },
            None,
            "sparse",
        ),
    ],
)
def test_what_will_not_do_is_refused_with_the_reason(
    documents: dict[str, object], wanted: str | None, words: str
) -> None:
    with pytest.raises(UnsupportedModel) as refused:
        detect(a_dossier(documents), None if wanted is None else ModelType(wanted))
    assert words in str(refused.value)


def test_a_repository_without_metadata_asks_for_the_type() -> None:
    with pytest.raises(UnsupportedModel) as refused:
        detect(a_dossier({}, {"openvino_model.xml": 1, "openvino_model.bin": 7}), None)
    assert "'type'" in refused.value.advice


def test_a_language_model_may_be_wanted_for_its_vectors() -> None:
    assert detect(a_dossier(a_model("qwen3", "Qwen3ForCausalLM")), ModelType.EMBEDDINGS).task == "feature-extraction"


def test_a_classifier_of_two_classes_is_a_reranker_only_when_told_so() -> None:
    found = detect(a_dossier(a_model("bert", "BertForSequenceClassification")), ModelType.RERANK)
    assert found.task == "text-classification"


def test_a_pipeline_of_diffusers_draws() -> None:
    found = detect(a_dossier(a_pipeline("StableDiffusionPipeline", **PARTS), PART_FILES), None)
    assert found == Nature(
        model_type=ModelType.IMAGE_GENERATION,
        task="text-to-image",
        library="diffusers",
        architecture="StableDiffusionPipeline",
        classes=("StableDiffusionPipeline",),
        form="diffusers",
        brings_code=None,
        pickled=False,
        weights_bytes=35,
    )


def test_a_pipeline_for_inpainting_is_converted_for_that() -> None:
    found = detect(a_dossier(a_pipeline("StableDiffusionInpaintPipeline", **PARTS), PART_FILES), None)
    assert found.task == "inpainting"


def test_a_pipeline_that_makes_videos_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="text-to-video"):
        detect(a_dossier(a_pipeline("LTXPipeline", **PARTS), PART_FILES), None)


def test_a_pipeline_is_of_no_other_type() -> None:
    with pytest.raises(UnsupportedModel, match="draws pictures"):
        detect(a_dossier(a_pipeline("StableDiffusionPipeline", **PARTS), PART_FILES), ModelType.LLM)


@pytest.mark.parametrize(
    ("documents", "files"),
    [
        (a_pipeline(["pipeline", "MyPipeline"], **PARTS), {}),
        (a_pipeline("StableDiffusionPipeline", **{**PARTS, "unet": ["my_unet", "MyUnet"]}), {"unet/my_unet.py": 3}),
        (a_pipeline("MyPipeline", **PARTS), {"pipeline.py": 3}),
    ],
)
def test_a_pipeline_with_code_of_its_own_says_so(documents: dict[str, object], files: dict[str, int]) -> None:
    assert detect(a_dossier(documents, {**PART_FILES, **files}), None).brings_code is not None


@pytest.mark.parametrize(
    ("documents", "code"),
    [
        (a_model("mystery", "MysteryForCausalLM", auto_map={"AutoModel": "m.M"}), "auto_map of config.json"),
        (a_model("llama", "StrangeForCausalLM", auto_map={"AutoModel": "m.M"}), "auto_map of config.json"),
        # What transformers has taken over, in one environment or the other, needs no code any more.
        (a_model("phi3", "Phi3ForCausalLM", auto_map={"AutoModelForCausalLM": "m.M"}), None),
        (a_model("gemma2", "Gemma2ForCausalLM", auto_map={"AutoModelForCausalLM": "m.M"}), None),
        # Code beside a class that is known is never looked at.
        ({**a_model("llama", "LlamaForCausalLM"), "tokenizer_config.json": {"tokenizer_class": "X"}}, None),
        (
            {
                **a_model("llama", "LlamaForCausalLM"),
                "tokenizer_config.json": {
                    "tokenizer_class": "OwnTokenizer",
                    "auto_map": {"AutoTokenizer": ["t.T", None]},
                },
            },
            "auto_map of tokenizer_config.json",
        ),
        (
            {
                **a_model("llama", "LlamaForCausalLM"),
                "tokenizer_config.json": {
                    "tokenizer_class": "Qwen2Tokenizer",
                    "auto_map": {"AutoTokenizer": ["t.T", None]},
                },
            },
            None,
        ),
        (
            {
                **a_model("llava", "LlavaForConditionalGeneration", vision_config={}),
                "preprocessor_config.json": {"image_processor_type": "Own", "auto_map": {"AutoImageProcessor": "p.P"}},
            },
            "auto_map of preprocessor_config.json",
        ),
    ],
)
def test_code_of_the_repository_counts_only_where_it_is_needed(documents: dict[str, object], code: str | None) -> None:
    assert detect(a_dossier(documents), None).brings_code == code


@pytest.mark.parametrize(
    ("files", "pickled", "size"),
    [
        ({"model.safetensors": 8}, False, 8),
        ({"model.safetensors": 8, "pytorch_model.bin": 9, "training_args.bin": 1}, False, 8),
        ({"pytorch_model.bin": 9}, True, 9),
        ({"pytorch_model-00001-of-00002.bin": 4, "pytorch_model-00002-of-00002.bin": 5}, True, 9),
        ({"model-00001-of-00002.safetensors": 4, "model-00002-of-00002.safetensors": 5, "x.safetensors": 99}, False, 9),
        # These are not read, so the pickle is.
        ({"adapter_model.safetensors": 1, "pytorch_model.bin": 9}, True, 9),
        ({"consolidated.00.pth": 7}, True, 7),
        ({"model.safetensors": None}, False, 0),
    ],
)
def test_the_weights_are_those_that_will_be_read(files: dict[str, int | None], pickled: bool, size: int) -> None:
    dossier = a_dossier(a_model("llama", "LlamaForCausalLM"), files)
    found = detect(dossier, None)
    assert (found.pickled, found.weights_bytes, weights_bytes(dossier)) == (pickled, size, size)


def test_a_pipeline_with_one_pickle_is_pickled() -> None:
    files = {**PART_FILES, "safety_checker/pytorch_model.bin": 3}
    found = detect(a_dossier(a_pipeline("StableDiffusionPipeline", **PARTS), files), None)
    assert found.pickled


def test_an_index_cannot_smuggle_a_pickle_in() -> None:
    index = {"model.safetensors.index.json": {"weight_map": {"a": "model-1.safetensors", "b": "evil.bin"}}}
    files: dict[str, int | None] = {"model-1.safetensors": 4, "evil.bin": 5}
    assert detect(a_dossier({**a_model("llama", "LlamaForCausalLM"), **index}, files), None).pickled


def test_a_repository_that_lacks_a_shard_is_refused() -> None:
    index = {"model.safetensors.index.json": {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}}
    with pytest.raises(UnsupportedModel, match=r"incomplete.*two\.safetensors"):
        detect(a_dossier({**a_model("llama", "LlamaForCausalLM"), **index}, {"one.safetensors": 4}), None)


def test_a_repository_without_weights_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="no weights"):
        detect(a_dossier(a_model("llama", "LlamaForCausalLM"), {"README.md": 1}), None)


@pytest.mark.parametrize(
    ("documents", "files", "model_type"),
    [
        (a_model("llama", "LlamaForCausalLM"), {"openvino_model.xml": 1, "openvino_model.bin": 7}, "llm"),
        ({}, {"openvino_language_model.xml": 1, "openvino_language_model.bin": 7}, "vlm"),
        (
            a_model("whisper", "WhisperForConditionalGeneration"),
            {"openvino_encoder_model.xml": 1, "openvino_encoder_model.bin": 7},
            "speech2text",
        ),
        ({"model_index.json": {}}, {"unet/openvino_model.xml": 1, "unet/openvino_model.bin": 7}, "image_generation"),
    ],
)
def test_a_converted_model_is_recognised(
    documents: dict[str, object], files: dict[str, int | None], model_type: str
) -> None:
    found = detect(a_dossier(documents, files), None)
    assert (found.form, found.model_type, found.weights_bytes, found.pickled) == ("openvino", model_type, 7, False)


def test_a_converted_model_beside_its_original_is_the_original() -> None:
    found = detect(a_dossier(a_model("bert", "BertModel"), {**SAFE, "openvino_model.xml": 1}), None)
    assert found.form == "transformers"


def test_a_gguf_model_is_a_language_model() -> None:
    files: dict[str, int | None] = {
        "m-Q4_0.gguf": 4,
        "m-Q8_0-00001-of-00002.gguf": 5,
        "m-Q8_0-00002-of-00002.gguf": 6,
    }
    found = detect(a_dossier({}, files), None)
    assert (found.form, found.model_type, found.weights_bytes) == ("gguf", "llm", 11)
    with pytest.raises(UnsupportedModel, match="GGUF"):
        detect(a_dossier({}, files), ModelType.EMBEDDINGS)


def test_a_detector_with_a_backbone_of_timm_needs_it() -> None:
    timm = a_model("detr", "DetrForObjectDetection", use_timm_backbone=True, backbone="resnet50")
    own = a_model("detr", "DetrForObjectDetection", backbone_config={"model_type": "resnet"})
    assert detect(a_dossier(timm), None).needs == ("timm",)
    assert detect(a_dossier(own), None).needs == ()


def test_the_papers_are_what_is_read() -> None:
    read = ("config.json", "model_index.json", "modules.json", "tokenizer_config.json", "model.safetensors.index.json")
    assert all(any(fnmatchcase(path, pattern) for pattern in PAPERS) for path in read)
    heavy = ("model.safetensors", "tokenizer.json", "pytorch_model.bin", "onnx/model.onnx", "vocab.json")
    assert not any(fnmatchcase(path, pattern) for pattern in PAPERS for path in heavy)


_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.text(st.characters())
    | st.just("\ud800")
    | st.just("x" * 5_000)
    | st.sampled_from(["llama", "bert", "LlamaForCausalLM", "BertModel", "StableDiffusionPipeline", "CrossEncoder"])
)
_KEYS = st.text(max_size=5) | st.sampled_from(
    [
        *("model_type", "architectures", "auto_map", "vision_config", "id2label", "num_labels", "_class_name", "type"),
        *("weight_map", "backbone_config", "tokenizer_class", "pretrained_cfg", "AutoTokenizer", "unet"),
    ]
)
_JSON = st.recursive(_SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=6))
_NAMES = st.sampled_from(
    [
        *("config.json", "model_index.json", "modules.json", "config_sentence_transformers.json"),
        *("tokenizer_config.json", "preprocessor_config.json", "processor_config.json", "1_Pooling/config.json"),
        *(
            "model.safetensors.index.json",
            "unet/diffusion_pytorch_model.safetensors.index.json",
            "sentence_x_config.json",
        ),
        *("pytorch_model.bin.index.json",),
    ]
)
_FILES = st.text(max_size=8) | st.sampled_from(
    [
        *("model.safetensors", "pytorch_model.bin", "a.gguf", "openvino_model.xml", "unet/openvino_model.xml"),
        *("unet/diffusion_pytorch_model.safetensors", "model-00001-of-00002.safetensors", "adapter_config.json"),
    ]
)
_PLAUSIBLE = st.fixed_dictionaries(
    {
        "model_type": st.sampled_from(["llama", "bert", "qwen2_vl", "whisper", "detr", "unknown"]),
        "architectures": _JSON,
        "auto_map": _JSON,
        "id2label": _JSON,
        "vision_config": _JSON,
    }
)


@settings(deadline=None, max_examples=150)
@given(
    documents=st.dictionaries(_NAMES, _JSON | _PLAUSIBLE, max_size=5),
    files=st.dictionaries(_FILES, st.none() | st.integers(), max_size=6),
    wanted=st.none() | st.sampled_from(ModelType),
)
def test_no_document_does_more_than_be_refused(
    documents: dict[str, object], files: dict[str, int | None], wanted: ModelType | None
) -> None:
    dossier = a_dossier(documents, files)
    assert weights_bytes(dossier) >= 0
    found = _detected_or_refused(dossier, wanted)
    if isinstance(found, Nature):
        assert found.model_type is wanted or wanted is None
        assert len(found.architecture) <= 200
    else:
        assert len(found.encode()) < 2000


def _detected_or_refused(dossier: Dossier, wanted: ModelType | None) -> Nature | str:
    try:
        return detect(dossier, wanted)
    except UnsupportedModel as refused:
        return str(refused)


def test_a_deep_document_is_not_descended_into() -> None:
    deep: object = "bottom"
    for _ in range(50_000):
        deep = {"auto_map": deep} if _ % 2 else [deep]
    with pytest.raises(UnsupportedModel):
        detect(a_dossier({"config.json": deep, "modules.json": deep}), None)

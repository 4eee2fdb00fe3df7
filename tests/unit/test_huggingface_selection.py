"""Which files of a Hugging Face repository are fetched."""

import pytest

from common.catalog.huggingface import HUGGINGFACE, OPENVINO, HuggingFaceOptions
from common.errors import NotConverted, NothingToFetch
from common.vocabulary import Format
from worker.hubs.huggingface import select

SIDE = ["config.json", "tokenizer.json", "tokenizer.model", "chat_template.jinja", "README.md", "LICENSE", "vocab.txt"]
SAFE = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
PICKLES = ["pytorch_model.bin", "training_args.bin"]
OTHERS = [
    "tf_model.h5", "flax_model.msgpack", "rust_model.ot", "model.onnx", "onnx/model.onnx", "onnx/config.json",
    "model-q4.gguf", "original/consolidated.00.pth", "original/params.json", "consolidated.safetensors", "weights.pt",
    "weights.pth", "v1.ckpt", "model.onnx_data",
]  # fmt: skip
IR = ["openvino_model.xml", "openvino_model.bin", "openvino_tokenizer.xml", "openvino_tokenizer.bin"]
NESTED_IR = [f"openvino/{path}" for path in IR]


def chosen(paths: list[str], **options: object) -> tuple[set[str], Format]:
    files, kind = select(paths, HuggingFaceOptions(**options), "org/model")  # type: ignore[arg-type]
    return set(files), kind


@pytest.mark.parametrize("weights", [SAFE, ["model.safetensors"], ["sub/model.safetensors"]])
def test_safetensors_come_first(weights: list[str]) -> None:
    junk = [*OTHERS, *(["pytorch_model.bin"] if "/" not in weights[0] else ["sub/pytorch_model.bin"])]
    assert chosen([*SIDE, *weights, *junk]) == ({*SIDE, *weights}, Format.TRANSFORMERS)


def test_side_files_are_kept_whatever_they_are_called() -> None:
    side = ["tf_notes.txt", "flax.json", "consolidated.json", "merges.txt", "qwen.tiktoken", "1_Pooling/config.json"]
    assert chosen([*side, *SAFE]) == ({*side, *SAFE}, Format.TRANSFORMERS)


def test_a_component_that_is_a_pickle_only_is_kept() -> None:
    paths = ["model.safetensors", "2_Dense/pytorch_model.bin", "2_Dense/config.json"]
    assert chosen([*paths, "pytorch_model.bin"]) == (set(paths), Format.TRANSFORMERS)


def test_pickles_are_taken_where_nothing_better_is_there() -> None:
    assert chosen([*SIDE, *PICKLES, *OTHERS]) == ({*SIDE, *PICKLES}, Format.TRANSFORMERS)


def test_consolidated_weights_are_taken_where_they_are_all_there_is() -> None:
    paths = ["consolidated.safetensors", "params.json", "tokenizer.model"]
    assert chosen(paths) == (set(paths), Format.TRANSFORMERS)


def test_an_openvino_repository_keeps_its_pairs() -> None:
    assert chosen([*SIDE, *IR]) == ({*SIDE, *IR}, Format.OPENVINO)


@pytest.mark.parametrize("ir", [IR, NESTED_IR])
def test_safetensors_are_preferred_to_a_copy_in_openvinos_form(ir: list[str]) -> None:
    assert chosen([*SIDE, *SAFE, *ir]) == ({*SIDE, *SAFE}, Format.TRANSFORMERS)


@pytest.mark.parametrize("ir", [IR, NESTED_IR])
def test_the_copy_is_taken_where_it_is_required(ir: list[str]) -> None:
    paths = [*SIDE, *SAFE, *PICKLES, *OTHERS, *ir]
    side = {path for path in SAFE if path.endswith(".json")}
    assert chosen(paths, require_ir=True)[0] - side == {*SIDE, *ir}
    assert chosen(paths, require_ir=True)[1] is Format.OPENVINO


@pytest.mark.parametrize("paths", [[*SIDE, *SAFE], ["a.xml", "b.bin"], ["a/m.xml", "m.bin"], []])
def test_a_repository_without_pairs_is_not_converted(paths: list[str]) -> None:
    with pytest.raises(NotConverted, match="org/model"):
        chosen(paths, require_ir=True)


@pytest.mark.parametrize("paths", [["a.gguf", "b.gguf", "README.md"], ["tf_model.h5", "config.json"], ["m.onnx"]])
def test_whatever_there_is_is_taken_where_it_is_all_there_is(paths: list[str]) -> None:
    assert chosen(paths) == (set(paths), Format.TRANSFORMERS)


def test_patterns_replace_the_preset() -> None:
    paths = [*SIDE, *SAFE, *OTHERS, *PICKLES]
    assert chosen(paths, include=("*.gguf", "onnx/", "config.json"))[0] == {
        "model-q4.gguf", "onnx/model.onnx", "onnx/config.json", "config.json"
    }  # fmt: skip
    assert chosen(paths, include=("*.json",), exclude=("onnx/*", "original/*", "tok*"))[0] == {"config.json", SAFE[2]}


def test_what_is_excluded_does_not_count() -> None:
    paths = ["config.json", "model.safetensors", "pytorch_model.bin"]
    assert chosen(paths, exclude=("*.safetensors",))[0] == {"config.json", "pytorch_model.bin"}


def test_patterns_that_fit_nothing_are_an_error() -> None:
    with pytest.raises(NothingToFetch, match="org/model"):
        chosen(SIDE, include=("*.gguf",))
    with pytest.raises(NothingToFetch):
        chosen([])


def test_patterns_tell_cases_apart() -> None:
    assert chosen(["README.md", "readme.md"], include=("readme*",))[0] == {"readme.md"}


def test_only_the_door_for_openvino_models_insists_on_them() -> None:
    assert not HUGGINGFACE.bind({}).require_ir
    assert OPENVINO.bind(OPENVINO.preset).require_ir
    assert not OPENVINO.bind({}).require_ir, "a conversion through it takes what there is"
    assert HUGGINGFACE.bind({"quantize": "coco", "include": ["*.json"]}) == HuggingFaceOptions(
        include=("*.json",), extra={"quantize": "coco"}
    )


PIPELINE = [
    "model_index.json",
    "v1-5-pruned.safetensors",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "vae/diffusion_pytorch_model.fp16.safetensors",
    "text_encoder/model.safetensors",
    "text_encoder/model.fp16-00001-of-00002.safetensors",
]


def weights(paths: list[str], **options: object) -> set[str]:
    chosen, _ = select(paths, HuggingFaceOptions(**options))  # type: ignore[arg-type]
    return {path for path in chosen if path.endswith(".safetensors")}


def test_a_pipeline_is_fetched_once_and_not_in_every_variant() -> None:
    assert weights(PIPELINE) == {
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "text_encoder/model.safetensors",
    }


def test_a_variant_that_is_asked_for_is_taken_where_it_is() -> None:
    assert weights(PIPELINE, variant="fp16") == {
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "text_encoder/model.fp16-00001-of-00002.safetensors",
    }
    assert weights(["model.safetensors"], variant="fp16") == {"model.safetensors"}


def test_whoever_names_files_gets_them_all() -> None:
    assert weights(PIPELINE, include=("unet/*",)) == {path for path in PIPELINE if path.startswith("unet/diff")}

"""What the operator has to allow before a model is converted, also of what comes along with it."""

import msgspec
import pytest

from common.catalog.openvino import OPENVINO
from common.errors import InvalidParameters, PickleRefused, RemoteCodeRefused, UnsupportedModel
from common.plugins import Dossier, Finding, Policy
from common.spec import Source, Target
from common.vocabulary import Format, ModelType, Precision

SPEECH = {"model_type": "speecht5", "architectures": ["SpeechT5ForTextToSpeech"]}


def examined(policy: Policy, *files: str) -> Finding:
    dossier = Dossier(
        source=Source(hub="huggingface", name="org/speech"),
        revision="c" * 40,
        sizes=dict.fromkeys(("config.json", *files), 10),
        documents={"config.json": SPEECH},
    )
    target = Target(format=Format.OPENVINO, model_type=None, precision=Precision.INT8, device="CPU")
    assert OPENVINO.examine is not None
    return OPENVINO.examine(dossier, target, {"sym": False}, policy)


def test_a_vocoder_of_pickles_is_refused_as_any_model_of_pickles_is() -> None:
    files = ("model.safetensors", "vocoder/config.json", "vocoder/pytorch_model.bin")
    with pytest.raises(PickleRefused, match="the vocoder of 'org/speech'"):
        examined(Policy(), *files)
    assert examined(Policy(pickles=True), *files).companions == {}


def test_a_vocoder_of_plain_weights_needs_no_leave() -> None:
    files = ("model.safetensors", "vocoder/config.json", "vocoder/model.safetensors")
    assert examined(Policy(), *files).companions == {}


def test_a_vocoder_that_is_not_there_is_asked_for() -> None:
    assert examined(Policy(), "model.safetensors").companions == {"vocoder": "microsoft/speecht5_hifigan"}


LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 100, "hidden_size": 64}
EAGLE = {**LLAMA, "architectures": ["LlamaForCausalLMEagle3"], "draft_vocab_size": 50}
SAFE = ("config.json", "model.safetensors")
DRAFT = {"draft_source_model": "org/small"}


def examined_with_draft(
    draft: object, *files: str, policy: Policy | None = None, asked: bool = True, **more: object
) -> Finding:
    """A language model of 10 bytes a file, and files of its draft of 1000."""
    sizes = dict.fromkeys(SAFE, 10) | {f"draft_model/{file}": 1000 for file in files}
    dossier = Dossier(
        source=Source(hub="huggingface", name="org/big"),
        revision="c" * 40,
        sizes=sizes,
        documents={"config.json": LLAMA, "draft_model/config.json": draft},
    )
    target = Target(format=Format.OPENVINO, model_type=None, precision=Precision.INT8, device="CPU")
    assert OPENVINO.examine is not None
    return OPENVINO.examine(dossier, target, {**DRAFT, **more} if asked else {}, policy or Policy())


def test_a_draft_is_asked_for_and_judged_once_its_papers_are_there() -> None:
    assert examined_with_draft(LLAMA).companions == {"draft_model": "org/small"}
    found = examined_with_draft({**LLAMA, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}, *SAFE)
    assert (found.companions, found.facts["draft"]) == ({"draft_model": "org/small"}, "qwen2")
    assert found.facts["architecture"] == "llama"


def test_a_draft_of_openvinos_form_does_not_make_its_model_one() -> None:
    found = examined_with_draft(LLAMA, "config.json", "openvino_model.xml", "openvino_model.bin")
    assert (found.facts["form"], found.facts["draft"]) == ("transformers", "llama")


@pytest.mark.parametrize(
    ("draft", "files", "error", "words"),
    [
        ({"model_type": "bert", "architectures": ["BertModel"]}, SAFE, UnsupportedModel, "does not generate text"),
        ({"model_type": "unheard-of"}, SAFE, UnsupportedModel, "unheard-of"),
        (LLAMA, ("config.json",), UnsupportedModel, "no weights"),
        (LLAMA, ("config.json", "pytorch_model.bin"), PickleRefused, "pickles"),
        (
            {"model_type": "own", "architectures": ["Own"], "auto_map": {"AutoModelForCausalLM": "own.Own"}},
            SAFE,
            RemoteCodeRefused,
            "brings its own Python code",
        ),
    ],
)
def test_a_draft_that_will_not_do_is_refused_by_its_name(
    draft: object, files: tuple[str, ...], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=f"The draft model 'org/small': .*{words}"):
        examined_with_draft(draft, *files)


def test_a_draft_of_eagle_is_told_by_its_class() -> None:
    found = examined_with_draft(EAGLE, *SAFE, draft_eagle3_mode=True)
    assert (found.facts["draft"], found.companions) == ("eagle3", {"draft_model": "org/small"})
    wide = {**EAGLE, "hidden_size": 32, "target_hidden_size": 64}
    assert examined_with_draft(wide, *SAFE, draft_eagle3_mode=True).facts["draft"] == "eagle3"


@pytest.mark.parametrize(
    ("draft", "more", "error", "words"),
    [
        (EAGLE, {}, InvalidParameters, "is a draft of EAGLE-3"),
        (LLAMA, {"draft_eagle3_mode": True}, InvalidParameters, "is no draft of EAGLE-3"),
        ({**EAGLE, "vocab_size": 99}, {"draft_eagle3_mode": True}, UnsupportedModel, "vocab_size is 99, not 100"),
        ({**EAGLE, "hidden_size": 65}, {"draft_eagle3_mode": True}, UnsupportedModel, "hidden_size is 65, not 64"),
        ({**EAGLE, "modal_type": "VLM"}, {"draft_eagle3_mode": True}, UnsupportedModel, "another kind of model"),
        ({**EAGLE, "model_type": "qwen3"}, {"draft_eagle3_mode": True}, UnsupportedModel, "another kind of model"),
    ],
)
def test_a_draft_of_eagle_that_does_not_fit_is_refused(
    draft: object, more: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=f"The draft model 'org/small': .*{words}"):
        examined_with_draft(draft, *SAFE, **more)


def test_what_the_operator_allows_the_model_is_not_allowed_its_draft() -> None:
    own = {"model_type": "own", "architectures": ["Own"], "auto_map": {"AutoModelForCausalLM": "own.Own"}}
    with pytest.raises(RemoteCodeRefused):
        examined_with_draft(own, *SAFE, policy=Policy(code=True))
    assert examined_with_draft(LLAMA, "config.json", "pytorch_model.bin", policy=Policy(pickles=True)).companions


def test_a_folder_of_that_name_means_nothing_where_no_draft_is_asked_for() -> None:
    found = examined_with_draft({"model_type": "unheard-of"}, *SAFE, asked=False)
    assert (found.companions, "draft" in found.facts) == ({}, False)


def test_a_draft_counts_for_the_disk_and_the_larger_one_for_memory() -> None:
    assert OPENVINO.predict is not None
    target = Target(format=Format.OPENVINO, model_type=ModelType.LLM, precision=Precision.FP16, device="CPU")
    weights = {"model.safetensors": 4_000_000_000, "draft_model/model.safetensors": 1_000_000_000}
    dossier = Dossier(source=Source(hub="huggingface", name="org/big"), revision="c" * 40, sizes=dict(weights))
    alone = msgspec.structs.replace(dossier, sizes={"model.safetensors": 4_000_000_000})
    both, one = OPENVINO.predict(dossier, target, DRAFT), OPENVINO.predict(alone, target, {})
    assert both.peak_memory_bytes == one.peak_memory_bytes
    assert both.output_bytes - one.output_bytes >= 1_000_000_000

"""What the operator has to allow before a model is converted, also of what comes along with it."""

import pytest

from common.catalog.openvino import OPENVINO
from common.errors import PickleRefused
from common.plugins import Dossier, Finding, Policy
from common.spec import Source, Target
from common.vocabulary import Format, Precision

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

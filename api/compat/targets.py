"""Voice targets: models that the contract lets a client name by the application that will read them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from common.errors import InvalidSpec
from common.planning import Wish, flatten
from common.vocabulary import ModelType, Precision


class VoiceTarget(StrEnum):
    """Applications that look for their model in a folder of their own."""

    AUDIO_ANALYZER = "audio-analyzer"
    TEXT_TO_SPEECH = "text-to-speech"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """The one model that an application reads, the precisions it may have, and the folder it is looked for in."""

    name: str
    model_type: ModelType
    precisions: frozenset[Precision]
    folder: str
    hub: str = "openvino"


_RULES: Mapping[VoiceTarget, _Rule] = {
    VoiceTarget.AUDIO_ANALYZER: _Rule(
        name="openai/whisper-base",
        model_type=ModelType.SPEECH2TEXT,
        precisions=frozenset({Precision.INT8}),
        folder="audio-analyzer/openvino/whisper-base",
    ),
    VoiceTarget.TEXT_TO_SPEECH: _Rule(
        name="microsoft/speecht5_tts",
        model_type=ModelType.TEXT2SPEECH,
        precisions=frozenset({Precision.FP16, Precision.INT8}),
        folder="text-to-speech/openvino/microsoft_speecht5_tts__{precision}",
    ),
}
_DEVICE = "CPU"
_DEVICE_KEYS = ("device", "target_device")
_PRECISION_KEYS = ("precision", "weight_format", "quant_mode")


def aimed(wish: Wish, target: VoiceTarget) -> Wish:
    """The wish as a conversion into the application's own folder. Raises InvalidSpec for what the target is not for."""
    rule = _RULES[target]
    if (wish.name, wish.hub, wish.model_type) != (rule.name, rule.hub, rule.model_type):
        raise InvalidSpec(
            f"Target '{target}' supports only name='{rule.name}', hub='{rule.hub}', type='{rule.model_type}'."
        )
    config = flatten(wish.config)
    precisions = {word.lower() for word in _words(config, _PRECISION_KEYS)} or {Precision.INT8.value}
    if not precisions <= rule.precisions:
        raise InvalidSpec(f"Target '{target}' supports only precision: {', '.join(sorted(rule.precisions))}.")
    if any(word.upper() != _DEVICE for word in _words(config, _DEVICE_KEYS)):
        raise InvalidSpec(f"Target '{target}' supports only device='{_DEVICE}'.")
    if len(precisions) > 1:
        raise InvalidSpec(f"The precision is told in ways that contradict each other: {', '.join(sorted(precisions))}.")
    # Said aloud, so that whatever else the config may hold cannot come to another precision than the folder names.
    (precision,) = precisions
    return msgspec.structs.replace(
        wish,
        convert=True,
        config={**wish.config, "precision": precision},
        folder=rule.folder.format(precision=precision),
    )


def _words(config: Mapping[str, object], keys: tuple[str, ...]) -> Iterator[str]:
    """What the config says under any of these keys, however they are spelled."""
    for key, value in config.items():
        if key.removeprefix("--").replace("-", "_") in keys:
            yield str(value).strip()

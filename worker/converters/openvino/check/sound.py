"""Lets a converted model that hears or speaks answer once."""

from collections.abc import Mapping

import numpy as np

from worker.converters.openvino.check.files import DECODER, ENCODER, POSTNET, PREPROCESSOR, VOCODER, WITH_PAST
from worker.converters.openvino.check.running import Array, Folder, Part, first_of, integer, noise

_MELS = 80
_FRAMES = 3000
"""Half a minute, which a Whisper model always hears at once."""
_START = "decoder_start_token_id"


def listen(folder: Folder) -> tuple[str, ...]:
    """A listener rates which word might be next in half a minute of noise."""
    settings = folder.settings(PREPROCESSOR)
    encoder = folder.part(ENCODER)
    _, mels, frames = encoder.inputs["input_features"]
    heard = noise((1, mels or integer(settings, "feature_size", _MELS), frames or _FRAMES))
    states = first_of(encoder.ask({"input_features": heard}), "last_hidden_state")
    encoder.expect(states, (1, None, None), "half a minute of noise")
    words = folder.tokens()["input_ids"]
    config = folder.settings("config.json") | folder.settings("generation_config.json")
    ids = np.concatenate([np.full((1, 1), integer(config, _START, 0)), words], axis=1)
    decoder = folder.part(DECODER)
    given = {"input_ids": ids, "encoder_hidden_states": states}
    answers = decoder.ask(given, ids.shape[1])
    logits = first_of(answers, "logits")
    decoder.expect(logits, (1, ids.shape[1], None), f"{ids.shape[1]} tokens")
    if folder.has(WITH_PAST):
        _go_on(folder.part(WITH_PAST), answers, states)
    folder.check_detokenizer(words)
    return (f"noise of {heard.shape} and {ids.shape[1]} tokens give finite logits {logits.shape}",)


def speak(folder: Folder) -> tuple[str, ...]:
    """A speaker says the first sound of a sentence."""
    ids = folder.tokens()["input_ids"]
    encoder = folder.part(ENCODER)
    read = encoder.ask({"input_ids": ids}, ids.shape[1])
    states = first_of(read, "last_hidden_state")
    encoder.expect(states, (1, ids.shape[1], None), f"{ids.shape[1]} tokens")
    decoder = folder.part(DECODER)
    voice = decoder.inputs["speaker_embeddings"][1] or 512
    given = {
        "encoder_hidden_states": states,
        "encoder_attention_mask": np.ones(states.shape[:2], np.int64),
        "speaker_embeddings": noise((1, voice)) / np.sqrt(voice, dtype=np.float32),
    }
    spectrum = first_of(decoder.ask(given), "spectrum")
    decoder.expect(spectrum, (1, None, None), "the start of speech")
    postnet = folder.part(POSTNET)
    smooth = first_of(postnet.ask({"raw_spectrogram": spectrum[np.newaxis]}), "postnet_spectrogram")
    postnet.expect(smooth, spectrum.shape, f"a spectrum {spectrum.shape}")
    vocoder = folder.part(VOCODER)
    sound = first_of(vocoder.ask({"spectrogram": smooth}), "waveform")
    if sound.size < smooth.shape[1]:
        vocoder.expect(sound, (1, None), f"a spectrogram {smooth.shape}")
    return (f"{ids.shape[1]} tokens give {sound.size} finite samples of sound",)


def _go_on(decoder: Part, answers: Mapping[str, Array], states: Array) -> None:
    """Where the KV cache is no secret, another graph says the second word."""
    past = {name.replace("present", "past_key_values", 1): answer for name, answer in answers.items()}
    start = {"input_ids": np.zeros((1, 1), np.int64), "encoder_hidden_states": states}
    logits = first_of(decoder.ask(past | start), "logits")
    decoder.expect(logits, (1, 1, None), "one more token")

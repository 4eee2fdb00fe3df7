"""Asks models that hear or speak."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as opset
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForSpeechSeq2Seq,
    AutoModelForTextToSpectrogram,
    AutoTokenizer,
    SpeechT5HifiGan,
)

from common.errors import InvalidParameters
from worker.converters.openvino.similarity.comparing import Answer, Array
from worker.converters.openvino.similarity.probing import Original, Subject, array
from worker.converters.openvino.similarity.questions import sound, texts

_ENCODER = "openvino_encoder_model"
_DECODER = "openvino_decoder_model"
_POSTNET = "openvino_postnet"
_SOUND = "openvino_vocoder"
_VOCODER = "vocoder"
_MOST_TOKENS = 24
_FRAMES = 12


class Listener:
    """Asks a model that writes down speech, at every place of a given text, what it hears next."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        ear = AutoFeatureExtractor.from_pretrained(subject.model, **subject.local)
        config = AutoConfig.from_pretrained(subject.model, **subject.local)
        tokenizer = AutoTokenizer.from_pretrained(subject.model, **subject.local)
        start, rate = config.decoder_start_token_id, ear.sampling_rate
        made = [ear(sound(number, rate), sampling_rate=rate, return_tensors="pt") for number in range(subject.samples)]
        words = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts(subject.samples)]
        self._heard = [{name: array(values) for name, values in heard.items()} for heard in made]
        self._texts = [np.array([[start, *ids][:_MOST_TOKENS]], np.int64) for ids in words]

    def original(self) -> Iterator[Answer]:
        original = self._subject.load(AutoModelForSpeechSeq2Seq)
        for heard, ids in zip(self._heard, self._texts, strict=True):
            said = original.ask(**original.known(heard), decoder_input_ids=torch.from_numpy(ids), use_cache=False)
            yield Answer(choices={"logits": array(said.logits)})

    def converted(self) -> Iterator[Answer]:
        encoder, decoder = self._subject.graph(_ENCODER), self._subject.graph(_DECODER)
        for heard, ids in zip(self._heard, self._texts, strict=True):
            states = encoder.ask(heard)["last_hidden_state"]
            given = {"input_ids": ids, "decoder_input_ids": ids, "encoder_hidden_states": states}
            yield Answer(choices={"logits": decoder.ask(given, ids.shape[1])["logits"]})


class Speaker:
    """Asks the parts of a speaker in turn: what reads, what speaks, what smooths, and what makes sound of it.

    The one that speaks throws dice even when it is not learning, so both sides get dice that always fall the same.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        config = AutoConfig.from_pretrained(subject.model, **subject.local)
        if config.model_type != "speecht5":
            raise InvalidParameters(f"'verify' is not offered for '{config.model_type}' models of type 'text2speech'")
        tokenizer = AutoTokenizer.from_pretrained(subject.model, **subject.local)
        dice = np.random.default_rng(0)
        bands = config.num_mel_bins
        self._texts = [
            np.array([tokenizer(text)["input_ids"][:_MOST_TOKENS]], np.int64) for text in texts(subject.samples)
        ]
        self._voice = dice.normal(0, 1, (1, config.speaker_embedding_dim)).astype(np.float32)
        self._start = dice.normal(0, 1, (1, 1, bands)).astype(np.float32)
        self._spectra = [
            dice.normal(0, 1, (_FRAMES, 1, config.reduction_factor, bands)).astype(np.float32)
            for _ in range(subject.samples)
        ]
        own = subject.vocoder or subject.model / _VOCODER
        self._vocoder = own if (own / "config.json").is_file() else None

    def original(self) -> Iterator[Answer]:
        original = self._subject.load(AutoModelForTextToSpectrogram)
        voice, start = torch.from_numpy(self._voice), torch.from_numpy(self._start)
        for ids in self._texts:
            with _loaded_dice():
                states, spectrum = original.ask(
                    through=partial(_spoken, original.model), ids=torch.from_numpy(ids), voice=voice, start=start
                )
            yield Answer(vectors={"states": array(states), "spectrum": array(spectrum)})
        for spectra in self._spectra:
            rough = torch.from_numpy(spectra).transpose(0, 1).flatten(1, 2)
            smooth = original.ask(through=original.model.speech_decoder_postnet.postnet, hidden_states=rough)
            yield Answer(vectors={"spectrogram": array(smooth)})
        if self._vocoder is not None:
            original = Original(SpeechT5HifiGan.from_pretrained(self._vocoder, dtype="auto", local_files_only=True))
            for spectra in self._spectra:
                yield Answer(vectors={"sound": array(original.ask(spectrogram=torch.from_numpy(_flat(spectra))))})

    def converted(self) -> Iterator[Answer]:
        encoder, decoder = self._subject.graph(_ENCODER), self._subject.graph(_DECODER, _load_dice)
        for ids in self._texts:
            states = encoder.ask({"input_ids": ids})["last_hidden_state"]
            given = {"inputs_embeds": self._start, "speaker_embeddings": self._voice, "encoder_hidden_states": states}
            spectrum = decoder.ask(given, ids.shape[1])["spectrum"]
            yield Answer(vectors={"states": states, "spectrum": spectrum})
        postnet = self._subject.graph(_POSTNET)
        for spectra in self._spectra:
            yield Answer(vectors={"spectrogram": postnet.ask({"raw_spectrogram": spectra})["postnet_spectrogram"]})
        if self._vocoder is not None:
            vocoder = self._subject.graph(_SOUND)
            for spectra in self._spectra:
                yield Answer(vectors={"sound": vocoder.ask({"spectrogram": _flat(spectra)})["waveform"]})


def _spoken(model: Any, ids: torch.Tensor, voice: torch.Tensor, start: torch.Tensor) -> tuple[Any, Any]:
    """What the model makes of a text, and the first piece of spectrum that it says."""
    mask = torch.ones_like(ids)
    states = model.speecht5.encoder(input_values=ids, attention_mask=mask).last_hidden_state
    said = model.speecht5.decoder.wrapped_decoder(
        hidden_states=model.speecht5.decoder.prenet(start, voice),
        encoder_hidden_states=states,
        encoder_attention_mask=mask,
    )
    spectrum = model.speech_decoder_postnet.feat_out(said.last_hidden_state)
    return states, spectrum.view(1, model.config.reduction_factor, model.config.num_mel_bins)


@contextmanager
def _loaded_dice() -> Iterator[None]:
    """Let every throw of torch's dice be a hit meanwhile."""
    bernoulli = torch.bernoulli
    torch.bernoulli = lambda chances, **_: torch.ones_like(chances)
    try:
        yield
    finally:
        torch.bernoulli = bernoulli


def _load_dice(graph: ov.Model) -> None:
    """Let every throw of the graph's dice be a hit: a random number counts as one where it is below the chance."""
    for node in graph.get_ops():
        if node.get_type_name() == "RandomUniform":
            zeros = opset.broadcast(opset.constant(0, node.get_element_type()), node.input_value(0))
            node.output(0).replace(zeros.output(0))


def _flat(spectra: Array) -> Array:
    return spectra.reshape(1, -1, spectra.shape[-1])

"""Asks models that read text: what comes next, where a text lies, how well an answer fits."""

import json
from collections.abc import Iterator

import numpy as np
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from worker.converters.openvino.similarity.comparing import Answer, Array
from worker.converters.openvino.similarity.probing import Subject, array
from worker.converters.openvino.similarity.questions import pairs, prose, texts

_MODEL = "openvino_model"
_MOST_TOKENS = 32


class Writer:
    """Asks a text generator at every place of a text what comes next."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        tokenizer = AutoTokenizer.from_pretrained(subject.model, **subject.local)
        self._questions = [
            _ids(tokenizer(text, truncation=True, max_length=_MOST_TOKENS)["input_ids"])
            for text in texts(subject.samples)
        ]

    def original(self) -> Iterator[Answer]:
        original = self._subject.load(AutoModelForCausalLM)
        for ids in self._questions:
            given = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.ones(ids.shape, dtype=torch.int64)}
            yield Answer(choices={"logits": array(original.ask(**given, use_cache=False).logits)})

    def converted(self) -> Iterator[Answer]:
        graph = self._subject.graph(_MODEL)
        for ids in self._questions:
            yield Answer(choices={"logits": graph.ask({"input_ids": ids}, ids.shape[1])["logits"]})


class Embedder:
    """Asks an encoder where texts lie, in vectors pooled as the model itself says."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._questions = _tokens(subject, [(text,) for text in prose(subject.samples)])
        self._place = _place(subject)

    def original(self) -> Iterator[Answer]:
        original = self._subject.load(AutoModel)
        for given in self._questions:
            states = original.ask(**original.known(given)).last_hidden_state
            yield self._pooled(array(states))

    def converted(self) -> Iterator[Answer]:
        graph = self._subject.graph(_MODEL)
        for given in self._questions:
            answers = graph.answers(given, given["input_ids"].shape[1])
            yield self._pooled(next(states for states in answers if states.ndim == 3))

    def _pooled(self, states: Array) -> Answer:
        wide = states[0].astype(np.float32)
        return Answer(vectors={"vectors": wide.mean(axis=0) if self._place is None else wide[self._place]})


class Ranker:
    """Asks a cross-encoder how well answers fit questions."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._questions = _tokens(subject, pairs(subject.samples))

    def original(self) -> Iterator[Answer]:
        original = self._subject.load(AutoModelForSequenceClassification)
        for given in self._questions:
            yield _scores(array(original.ask(**original.known(given)).logits))

    def converted(self) -> Iterator[Answer]:
        graph = self._subject.graph(_MODEL)
        for given in self._questions:
            yield _scores(graph.ask(given, given["input_ids"].shape[1])["logits"])


def _scores(logits: Array) -> Answer:
    """One score is the choice between fitting and not."""
    both = np.concatenate([np.zeros_like(logits), logits], axis=-1) if logits.shape[-1] == 1 else logits
    return Answer(choices={"scores": both})


def _tokens(subject: Subject, questions: list[tuple[str, ...]]) -> list[dict[str, Array]]:
    tokenizer = AutoTokenizer.from_pretrained(subject.model, **subject.local)
    made = [tokenizer(*question, truncation=True, max_length=4 * _MOST_TOKENS) for question in questions]
    return [{name: _ids(values) for name, values in tokens.items()} for tokens in made]


def _ids(values: list[int]) -> Array:
    return np.array([values], np.int64)


def _place(subject: Subject) -> int | None:
    """Which token's vector stands for the text; None is the mean of all."""
    try:
        said = json.loads((subject.model / "1_Pooling" / "config.json").read_bytes())
    except (OSError, ValueError):
        return None
    places = {"pooling_mode_cls_token": 0, "pooling_mode_lasttoken": -1}
    return next((place for key, place in places.items() if isinstance(said, dict) and said.get(key) is True), None)

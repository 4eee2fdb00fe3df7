"""Compares answers: choices by the Kullback-Leibler divergence, vectors by their angle."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from common.errors import VerificationFailed
from common.spec import Similarity

Array = npt.NDArray[np.generic]
_Floats = npt.NDArray[np.float64]

_KL, _COSINE, _TOP1 = "kl", "cosine", "top1"

_LIKELIEST = 2048
"""Of more choices than these only the likeliest are told apart, and all others count as one. That keeps answers small,
and can only make the divergence smaller."""
_LEAST_TOLD = 1e-6
"""What a source tells by mere rounding, in nats."""
_RULED_OUT = -200.0
"""The logarithm of no chance at all, where a model gives minus infinity."""


@dataclass(frozen=True)
class Answer:
    """What a model says to one question, by the names of its parts."""

    choices: Mapping[str, Array] = field(default_factory=dict)
    """Logits; the last axis is what is chosen among."""
    vectors: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Kept:
    """What is remembered of the source's answer to one question."""

    choices: Mapping[str, "_Choices"]
    vectors: Mapping[str, Array]


def kept(answer: Answer) -> Kept:
    """The answer in as little memory as comparing takes. Raises VerificationFailed where it is not made of numbers."""
    for name, values in (*_possible(answer), *answer.vectors.items()):
        _refuse_nonsense(f"The source's own {name}", values)
    return Kept(
        {name: _Choices.of(_logs(logits)) for name, logits in answer.choices.items()},
        {name: np.array(vector, np.float32) for name, vector in answer.vectors.items()},
    )


def compare(expected: Sequence[Kept], found: Iterable[Answer], samples: int) -> Similarity:
    """How much the answers found are those expected, in the part where they are so the least.

    Choices are measured by their mean over all places of all questions, a vector by its worst question. Raises
    VerificationFailed where an answer has another shape, or holds what is no number.
    """
    losses: dict[str, list[tuple[_Floats, _Floats]]] = {}
    cosines: dict[str, list[float]] = {}
    for wanted, answer in zip(expected, found, strict=True):
        for name, values in (*_possible(answer), *answer.vectors.items()):
            _refuse_nonsense(f"The converted model's {name}", values)
        for name, choices in wanted.choices.items():
            losses.setdefault(name, []).append((_lost(name, choices, answer.choices[name]), choices.told))
        for name, vector in wanted.vectors.items():
            cosines.setdefault(name, []).append(_cosine(name, vector, answer.vectors[name]))
    return max(_measured(losses, cosines, samples), key=divergence)


def divergence(similarity: Similarity) -> float:
    """How far the answers are apart: the figure that `max_divergence` is held against. 0 is equal, 1 is unrelated.

    By `kl` it is the Kullback-Leibler divergence of the conversion's choices from the source's, in nats, as a mean over
    all that is chosen. Where the source's own choices tell less than one nat more than a throw of dice would, as those
    of models with few labels do, it is the share of what they tell. By `cosine` it is 1 minus the smallest cosine, by
    `top1` the share of the choices that are others.
    """
    if similarity.measure == _KL:
        return abs(math.log(similarity.value)) if similarity.value > 0 else math.inf
    if similarity.measure in {_COSINE, _TOP1}:
        return 1.0 - similarity.value
    raise ValueError(f"Nothing here measures by '{similarity.measure}'")


@dataclass(frozen=True)
class _Choices:
    """How likely the likeliest choices are at each place, and what the whole of them tells."""

    ids: npt.NDArray[np.int32]
    logs: _Floats
    """Not rounded: where two models agree, what is left of them is smaller than a float's last digit."""
    told: _Floats
    """How much more than even chances this tells, in nats."""
    among: int

    @classmethod
    def of(cls, logs: _Floats) -> "_Choices":
        among = logs.shape[-1]
        most = min(among, _LIKELIEST)
        ids = np.argpartition(logs, among - most, axis=-1)[:, among - most :]
        return cls(
            ids=ids.astype(np.int32),
            logs=np.take_along_axis(logs, ids, axis=-1),
            told=np.sum(np.exp(logs) * (logs + math.log(among)), axis=-1),
            among=among,
        )


def _logs(logits: Array) -> _Floats:
    """The logarithms of the chances at each place, as a matrix."""
    rows: _Floats = logits.reshape(-1, logits.shape[-1]).astype(np.float64)
    rows = np.maximum(rows - rows.max(axis=-1, keepdims=True), _RULED_OUT)
    logs: _Floats = rows - np.log(np.exp(rows).sum(axis=-1, keepdims=True))
    return logs


def _lost(name: str, expected: _Choices, logits: Array) -> _Floats:
    """The Kullback-Leibler divergence at each place, in nats."""
    _refuse_misfit(name, logits, (len(expected.ids), expected.among))
    logs = np.take_along_axis(_logs(logits), expected.ids.astype(np.int64), axis=-1)
    chances, found = np.exp(expected.logs), np.exp(logs)
    lost: _Floats = np.sum(chances * (expected.logs - logs), axis=-1)
    if expected.among > expected.ids.shape[1]:
        tiny = math.exp(_RULED_OUT)
        rest, other = (np.maximum(1.0 - part.sum(axis=-1), tiny) for part in (chances, found))
        lost = lost + rest * np.log(rest / other)
    return lost


def _cosine(name: str, expected: Array, found: Array) -> float:
    _refuse_misfit(name, found, expected.shape)
    one, other = (vector.astype(np.float64).ravel() for vector in (expected, found))
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / lengths if lengths > 0 else float(np.array_equal(one, other))


def _refuse_misfit(name: str, found: Array, shape: tuple[int, ...]) -> None:
    if found.size != math.prod(shape) or found.shape[-1] != shape[-1]:
        raise VerificationFailed(f"The converted model gives {name} of shape {found.shape}, the source of {shape}")


def _possible(answer: Answer) -> Iterator[tuple[str, Array]]:
    """The logits without those that rule out a choice, which is no mistake."""
    for name, logits in answer.choices.items():
        yield name, logits[logits != -np.inf]


def _refuse_nonsense(whose: str, values: Array) -> None:
    if not np.isfinite(values).all():
        raise VerificationFailed(f"{whose} are not all finite numbers")


def _measured(
    losses: Mapping[str, Sequence[tuple[_Floats, _Floats]]], cosines: Mapping[str, Sequence[float]], samples: int
) -> Iterator[Similarity]:
    for places in losses.values():
        lost, told = (float(np.mean(np.concatenate(column))) for column in zip(*places, strict=True))
        apart = max(0.0, lost) / min(1.0, max(told, _LEAST_TOLD))
        yield Similarity(measure=_KL, value=math.exp(-apart), samples=samples)
    for values in cosines.values():
        yield Similarity(measure=_COSINE, value=min(1.0, max(0.0, min(values))), samples=samples)

"""Runs the parts of a converted model on the CPU, with made-up inputs where nothing better is at hand."""

import json
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import openvino as ov
import openvino_tokenizers  # noqa: F401  registers the operations of tokenizers with OpenVINO

from common.artefacts.early import identity_of
from common.errors import VerificationFailed
from common.log import SharedThreads
from worker.converters.openvino.check.files import DETOKENIZER, TOKENIZER
from worker.converters.openvino.compiling import steady_properties

Array = npt.NDArray[np.generic]
Arrays = Mapping[str, Array]

MOST_TOKENS = 16

_TEXT = "The ferry carries a model over the water, and on the other side it answers a short question."
_ALL_SORTS = f"{_TEXT}\n\n\tdef f(x): return x ** 2  # 1,234.5 Größe, 水, ё, 🚢"


class Part:
    """One graph of a model, ready to run."""

    def __init__(self, name: str, compiled: ov.CompiledModel) -> None:
        self.name = name
        self._compiled = compiled

    @property
    def inputs(self) -> dict[str, tuple[int | None, ...]]:
        """The inputs by name, with their sizes; None is any size."""
        return {_name(port): _sizes(port) for port in self._compiled.inputs}

    def ask(self, given: Arrays, length: int = 1, first: int = 1) -> dict[str, Array]:
        """The outputs by name, all of them finite.

        An input that is not given is made up: `first` is its first size where that is open, and `length` any other.
        Raises VerificationFailed where there are no outputs, or one that is not finite.
        """
        # By position: what is fed by ports holds on to the whole model for as long as the process lives.
        result = self._compiled([_fed(port, given, length, first) for port in self._compiled.inputs])
        answers = {
            name: np.array(result[port])
            for number, port in enumerate(self._compiled.outputs)
            for name in sorted(port.get_names()) or [f"output {number}"]
        }
        if not answers:
            raise VerificationFailed(f"{self.name} gives no answer")
        for answer in answers.values():
            if np.issubdtype(answer.dtype, np.floating) and not np.isfinite(answer).all():
                raise VerificationFailed(f"{self.name} answers with numbers that are not finite")
        return answers

    def expect(self, answer: Array, shape: tuple[int | None, ...], question: str) -> None:
        """Raise VerificationFailed unless an answer has this shape. None is any size but 0."""
        fits = answer.ndim == len(shape) and all(
            size > 0 if wanted is None else size == wanted for size, wanted in zip(answer.shape, shape, strict=True)
        )
        if not fits:
            raise VerificationFailed(f"{self.name} answers {question} with a tensor of shape {answer.shape}")


class EarlyLoads:
    """Loads graphs in a thread as soon as they are written, while a conversion goes on. Used as a context."""

    def __init__(self) -> None:
        self._pool = SharedThreads(1, thread_name_prefix="load")
        self._begun: dict[Path, tuple[object, Future[ov.CompiledModel]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def begin(self, graph: Path) -> None:
        """Load a graph that is complete on the disk."""
        self._begun[graph] = _identity(graph), self._pool.submit(_load, graph)

    def take(self, graph: Path) -> ov.CompiledModel | None:
        """A loaded graph, once; None where it was not begun, or is not the same file any more."""
        identity, loading = self._begun.pop(graph, (None, None))
        if loading is None or identity != _identity(graph):
            return None
        return loading.result()


def _load(graph: Path) -> ov.CompiledModel:
    return ov.Core().compile_model(graph, "CPU", steady_properties())


def _identity(graph: Path) -> object:
    return identity_of(graph), identity_of(graph.with_suffix(".bin"))


class Folder:
    """The parts of a model as they lie in a folder. Each is loaded when it is asked for, if not before."""

    def __init__(self, path: Path, early: EarlyLoads | None = None) -> None:
        self._path = path
        self._early = early
        self._core = ov.Core()

    def has(self, graph: str) -> bool:
        return (self._path / f"{graph}.xml").is_file()

    def part(self, graph: str) -> Part:
        file = self._path / f"{graph}.xml"
        loaded = self._early.take(file) if self._early else None
        return Part(graph, loaded or self._core.compile_model(file, "CPU"))

    def settings(self, name: str) -> dict[str, object]:
        """What one of the model's JSON files says; nothing where it is absent or unreadable."""
        try:
            said = json.loads((self._path / name).read_bytes())
        except (OSError, ValueError):
            return {}
        return said if isinstance(said, dict) else {}

    def tokens(self, tokenizer: str = TOKENIZER) -> dict[str, Array]:
        """The first tokens of a sentence, by the model's own tokenizer if it is there."""
        if not self.has(tokenizer):
            return {"input_ids": np.arange(MOST_TOKENS, dtype=np.int64)[np.newaxis, :]}
        return {name: found[:, :MOST_TOKENS] for name, found in self.tokens_of(_TEXT, tokenizer).items()}

    def tokens_of(self, text: str, tokenizer: str = TOKENIZER) -> dict[str, Array]:
        """The tokens of a text, by a tokenizer of the model. Raises VerificationFailed where there are none."""
        compiled = self._core.compile_model(self._path / f"{tokenizer}.xml", "CPU")
        result = compiled([text])
        tokens = {port.get_any_name(): np.array(result[port]) for port in compiled.outputs}
        if "input_ids" not in tokens or tokens["input_ids"].size == 0:
            raise VerificationFailed("The converted tokenizer makes no tokens of an English sentence")
        return tokens

    def check_detokenizer(self, ids: Array) -> None:
        """Raise VerificationFailed where the tokens of a sentence become no text."""
        if not self.has(DETOKENIZER) or not self.has(TOKENIZER):
            return
        detokenizer = self._core.compile_model(self._path / f"{DETOKENIZER}.xml", "CPU")
        result = detokenizer([ids])
        if not str(result[detokenizer.output(0)][0]).strip():
            raise VerificationFailed("The converted detokenizer makes no text of tokens")


def same_tokens(one: Path, other: Path) -> bool:
    """Whether the tokenizers of two models make the same tokens of the same texts."""
    own, others = (Folder(folder).tokens_of(_ALL_SORTS)["input_ids"] for folder in (one, other))
    return np.array_equal(own, others)


def first_of(answers: Mapping[str, Array], *names: str) -> Array:
    """The answer with one of these names, else the first one."""
    return next((answers[name] for name in names if name in answers), next(iter(answers.values())))


def noise(shape: tuple[int, ...]) -> Array:
    """Numbers without a pattern, the same ones each time."""
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def integer(settings: Mapping[str, object], name: str, otherwise: int) -> int:
    value = settings.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else otherwise


def _name(port: ov.ConstOutput) -> str:
    """A port may go by several names, numbers among them; which one it tells first is a matter of luck."""
    return str(max(port.get_names()))


def _sizes(port: ov.ConstOutput) -> tuple[int | None, ...]:
    return tuple(None if size.is_dynamic else size.get_length() for size in port.get_partial_shape())


def _fed(port: ov.ConstOutput, given: Arrays, length: int, first: int) -> Array:
    kind = port.get_element_type().to_dtype()
    name = next((name for name in sorted(port.get_names()) if name in given), _name(port))
    if name in given:
        return given[name].astype(kind)
    sizes = _sizes(port)
    if name == "position_ids" and len(sizes) > 1:
        # Some models count positions in several directions; for plain text they are all the same.
        ahead = tuple(size or 1 for size in sizes[:-1])
        return np.broadcast_to(np.arange(length, dtype=kind), (*ahead, length))
    if name.startswith("past_key_values"):
        # The first turn of a conversation: nothing has been said yet.
        shape = tuple((0 if place else 1) if size is None else size for place, size in enumerate(sizes))
    else:
        shape = tuple((length if place else first) if size is None else size for place, size in enumerate(sizes))
    return np.ones(shape, kind) if name.endswith("mask") else np.zeros(shape, kind)

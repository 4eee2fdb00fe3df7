"""Calibration data of the operator's own: texts, pictures and sounds out of MODELS_DIR, without any network."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from common.catalog.openvino.fields import OpenVINOOptions, dataset_path
from common.errors import InvalidParameters
from worker.converters.openvino.paths import Site, below

T = TypeVar("T")
Build = Callable[[Any, Any], Any]

_TEXTS = frozenset({".txt", ".jsonl"})
_PICTURES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
_SOUNDS = frozenset({".wav", ".npy"})
_MOST_SAMPLES = 128
_LONGEST_TEXT = 128
_QUESTION = "Describe this picture."
_RATE = 16_000
"""Samples per second of a `.npy`, which does not tell."""


@dataclass(frozen=True, slots=True)
class Sound:
    """One channel of numbers between -1 and 1."""

    samples: npt.NDArray[np.float32]
    rate: int


@dataclass(frozen=True, slots=True)
class Samples:
    """The files of one path."""

    path: str
    files: tuple[Path, ...]
    model: Path
    """Whose tokenizer or preprocessor makes inputs of them."""

    @property
    def stand_in(self) -> list[str]:
        """What upstream is told instead of the name of a data set that it knows: something that needs no download."""
        return [self.path]

    def inputs(self, builder: Any, config: Any, upstream: Build) -> Any:
        """What upstream calibrates a model with, built from our samples. Raises InvalidParameters."""
        from optimum import intel  # noqa: PLC0415 - slow to import
        from optimum.intel.openvino.modeling_seq2seq import _OVModelForWhisper  # noqa: PLC0415

        model, most = builder.model, config.num_samples or _MOST_SAMPLES
        config = config.clone()
        match model:
            case intel.OVModelForCausalLM() | intel.OVDiffusionPipeline():
                config.dataset = self.texts(most)
                return upstream(builder, config)
            case intel.OVModelForVisualCausalLM():
                return _for_vlm(builder, config, self.pictures(most))
            case _OVModelForWhisper():
                return _for_whisper(builder, config, self.sounds(most))
            case intel.OVModelForImageClassification():
                return _dataset(_pixels(self.model, builder, self.pictures(most)))
            case intel.OVModelForFeatureExtraction() | intel.OVModelForSequenceClassification():
                return _dataset(_tokens(self.model, builder, self.texts(most)))
            case _:
                raise InvalidParameters(f"{type(model).__name__} cannot be calibrated with data of your own")

    def texts(self, most: int) -> list[str]:
        """One text for each line of the files. Raises InvalidParameters where there is none."""
        return self._some(self._of(_TEXTS, _read_texts), most, "texts: .txt, or .jsonl with a 'text' in each line")

    def pictures(self, most: int) -> list[Any]:
        """The pictures, in RGB. Raises InvalidParameters where there is none."""
        return self._some(self._of(_PICTURES, _read_picture), most, f"pictures: {', '.join(sorted(_PICTURES))}")

    def sounds(self, most: int) -> list[Sound]:
        """The sounds. Raises InvalidParameters where there is none."""
        return self._some(self._of(_SOUNDS, _read_sound), most, f"sounds: {', '.join(sorted(_SOUNDS))}")

    def _of(self, kinds: frozenset[str], read: Callable[[Path], Iterable[T]]) -> Iterator[T]:
        for file in self.files:
            if file.suffix.lower() in kinds:
                try:
                    yield from read(file)
                except (OSError, ValueError, EOFError) as error:
                    raise InvalidParameters(f"The file '{file.name}' of the dataset cannot be read: {error}") from error

    def _some(self, samples: Iterator[T], most: int, kind: str) -> list[T]:
        found = [sample for _, sample in zip(range(most), samples, strict=False)]
        if not found:
            raise InvalidParameters(f"The dataset '{self.path}' holds no {kind}")
        return found


def own_samples(options: OpenVINOOptions, site: Site) -> Samples | None:
    """The operator's own samples, if the options name any. Raises InvalidParameters where there are none."""
    path = dataset_path(options)
    if path is None:
        return None
    found = below(site.models_dir, path)
    if found.is_file():
        return Samples(path, (found,), site.model)
    if not found.is_dir():
        raise InvalidParameters(f"There is no file or folder '{path[:200]}' below MODELS_DIR")
    files = sorted(file for file in found.rglob("*") if file.is_file() and file.resolve().is_relative_to(found))
    return Samples(path, tuple(files), site.model)


def _read_texts(file: Path) -> Iterator[str]:
    for line in file.read_text(encoding="utf-8").splitlines():
        text = _text_of(json.loads(line)) if file.suffix.lower() == ".jsonl" and line.strip() else line
        if text.strip():
            yield text


def _text_of(value: object) -> str:
    text = value.get("text") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise ValueError("a line has no 'text'")  # noqa: TRY004 - told with the file's name, like any other fault
    return text


def _read_picture(file: Path) -> Iterator[Any]:
    from PIL import Image  # noqa: PLC0415 - only for some types

    with Image.open(file) as picture:
        yield picture.convert("RGB")


def _read_sound(file: Path) -> Iterator[Sound]:
    if file.suffix.lower() == ".npy":
        samples = np.load(file, allow_pickle=False)
        yield Sound(np.asarray(samples, np.float32).reshape(-1), _RATE)
        return
    yield _read_wave(file)


def _read_wave(file: Path) -> Sound:
    import wave  # noqa: PLC0415 - only for some types

    with wave.open(str(file)) as sound:
        if sound.getsampwidth() != 2:
            raise ValueError("only 16-bit PCM is read")
        frames = np.frombuffer(sound.readframes(sound.getnframes()), "<i2").reshape(-1, sound.getnchannels())
        return Sound((frames.mean(axis=1) / 32768).astype(np.float32), sound.getframerate())


def _dataset(inputs: list[dict[str, Any]]) -> Any:
    import nncf  # noqa: PLC0415 - slow to import
    from optimum.intel.openvino.quantization import OVCalibrationDataset  # noqa: PLC0415

    return OVCalibrationDataset({"model": nncf.Dataset(inputs)})


def _tokens(model: Path, builder: Any, texts: list[str]) -> list[dict[str, Any]]:
    from transformers import AutoTokenizer  # noqa: PLC0415 - slow to import

    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True, trust_remote_code=builder.trust_remote_code)
    longest = min(_LONGEST_TEXT, getattr(builder.model.config, "max_position_embeddings", None) or _LONGEST_TEXT)
    names = {name for port in builder.model.model.inputs for name in port.get_names()}
    encoded = (tokenizer(text, truncation=True, max_length=longest, return_tensors="np") for text in texts)
    return [_complete({name: one[name] for name in names & one.keys()}, names) for one in encoded]


def _complete(inputs: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """What a model reads beside what its tokenizer gives: token types that are all the same."""
    if "token_type_ids" in names:
        inputs.setdefault("token_type_ids", np.zeros_like(inputs["input_ids"]))
    return inputs


def _pixels(model: Path, builder: Any, pictures: list[Any]) -> list[dict[str, Any]]:
    from transformers import AutoProcessor  # noqa: PLC0415 - slow to import

    # Not AutoImageProcessor, which wants torchvision.
    processor = AutoProcessor.from_pretrained(model, local_files_only=True, trust_remote_code=builder.trust_remote_code)
    return [{"pixel_values": processor(picture, return_tensors="np")["pixel_values"]} for picture in pictures]


def _for_vlm(builder: Any, config: Any, pictures: list[Any]) -> Any:
    from optimum.intel.openvino.utils import PREDEFINED_VISUAL_LM_DATASETS  # noqa: PLC0415 - slow to import

    # Upstream reads pictures and questions by the column names of the data set that it knows.
    config.dataset = "textvqa"
    columns = PREDEFINED_VISUAL_LM_DATASETS[config.dataset]["inputs"]
    rows = [{columns["instruction"]: _QUESTION, columns["image"]: picture} for picture in pictures]
    return builder._prepare_visual_causal_lm_calibration_data(config, rows)  # noqa: SLF001


def _for_whisper(builder: Any, config: Any, sounds: list[Sound]) -> Any:
    rows = _Rows({"audio": {"array": sound.samples, "sampling_rate": sound.rate}} for sound in sounds)
    return builder._prepare_speech_to_text_calibration_data(config, rows)  # noqa: SLF001


class _Rows(list[Any]):
    """A list that can be asked for its first rows, as a data set can."""

    def take(self, most: int) -> "_Rows":
        return _Rows(self[:most])

"""A third-party converter plugin that misbehaves on demand: the name of the model says how."""

import errno
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.errors import ConversionFailed
from common.plugins import Access, Attempt, Converter, ConverterPlugin, Order
from common.spec import Evidence, MemoryRule, Progress, Spec, Target
from common.vocabulary import Format, ModelType, Phase, Precision


class NoisyOptions(Spec, frozen=True):
    """`mood`: quiet (write nothing), loud (5 MB on stderr, then fail), fatal (die), hungry (take much memory bit by bit),
    greedy (take too much at once), full (disk), slow, or good.
    """

    mood: str = "good"
    seconds: float = 0.0


class NoServing(Spec, frozen=True):
    """No options for a model server."""


class NoisyConverter:
    """Writes one file, or does what its mood says."""

    def __init__(self, access: Access) -> None:
        del access

    def convert(
        self, model: Path, orders: Sequence[Order[NoisyOptions]], attempt: Attempt
    ) -> tuple[Evidence | None, ...]:
        del model
        order, *siblings = orders
        order.folder.mkdir()
        self._write(order.folder, order.options, attempt)
        return (Evidence(engine="noisy", profile="default"), *(None for _ in siblings))

    def _write(self, output: Path, options: NoisyOptions, attempt: Attempt) -> None:
        attempt.progress(Progress(phase=Phase.CONVERTING))
        match options.mood:
            case "quiet":
                return
            case "loud":
                for line in range(50_000):
                    sys.stderr.write(f"line {line} {'x' * 90}\n")
                raise ConversionFailed("The tool failed:\nthe line before the last\nthe last line")
            case "fatal":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "hungry":
                hoard = []
                while True:
                    hoard.append(b"x" * 20_000_000)
                    time.sleep(0.02)
            case "greedy":
                bytearray(1 << 40)
            case "full":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            case _:
                time.sleep(options.seconds)
        (output / "openvino_model.xml").write_text("<net/>")

    def serve(self, folder: Path, name: str, target: Target, serving: Mapping[str, object]) -> None:
        (folder / "served.txt").write_text(f"{name} {target.device} {dict(serving)}")

    def register(self, folder: Path, name: str) -> None:
        (folder / "index.txt").write_text(name)

    def versions(self, options: NoisyOptions) -> dict[str, str]:
        del options
        return {"noisy": "1.0"}


def normalise(
    model_type: ModelType | None, device: str, config: Mapping[str, object]
) -> tuple[Precision, dict[str, object], dict[str, object]]:
    del model_type, device
    precision = Precision(str(config.get("precision", "int8")))
    return precision, {key: value for key, value in config.items() if key in {"mood", "seconds"}}, {}


NOISY = ConverterPlugin(
    name="noisy",
    description="Misbehaves on demand.",
    options=NoisyOptions,
    serving=NoServing,
    normalise=normalise,
    reads=frozenset({Format.TRANSFORMERS}),
    writes=Format.OPENVINO,
    model_types=frozenset({ModelType.LLM}),
    precisions=frozenset(Precision),
    implementation="noisy_converter:NoisyConverter",
    memory=lambda _target, _options: MemoryRule(base_bytes=200_000_000, per_byte=1.0),
)

_contract: type[Converter[NoisyOptions]] = NoisyConverter

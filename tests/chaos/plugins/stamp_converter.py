"""A third-party converter plugin for chaos: its output follows from its input, so that a wrong byte shows."""

import hashlib
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.plugins import Access, Attempt, Converter, ConverterPlugin, Order
from common.spec import Evidence, Progress, Spec, Target
from common.vocabulary import Format, ModelType, Phase, Precision
from worker.serving import INDEX_NAME, register

_STEPS = 10
_WEIGHTS_BYTES = 256 * 1024


class StampOptions(Spec, frozen=True):
    """`seconds` is how long it takes; `poison` kills the process that does it, half-way."""

    seconds: float = 0.0
    poison: bool = False


class StampServing(Spec, frozen=True):
    """No options for a model server."""


class StampConverter:
    """Writes slowly, so that it can be interrupted."""

    def __init__(self, access: Access) -> None:
        del access

    def convert(
        self, model: Path, orders: Sequence[Order[StampOptions]], attempt: Attempt
    ) -> tuple[Evidence | None, ...]:
        order, *siblings = orders
        order.folder.mkdir()
        self._write(model, order.folder, order.options, attempt)
        return (Evidence(engine="stamp", profile="default"), *(None for _ in siblings))

    def _write(self, model: Path, output: Path, options: StampOptions, attempt: Attempt) -> None:
        attempt.progress(Progress(phase=Phase.CONVERTING))
        content = {path.relative_to(model).as_posix(): path.read_bytes() for path in model.rglob("*") if path.is_file()}
        for name, data in stamped(content).items():
            with (output / name).open("wb", buffering=0) as file:
                for step in range(_STEPS):
                    attempt.checkpoint()
                    file.write(data[step * len(data) // _STEPS : (step + 1) * len(data) // _STEPS])
                    time.sleep(options.seconds / _STEPS / 2)
                    if options.poison and step == _STEPS // 2:
                        os.kill(os.getpid(), signal.SIGKILL)

    def serve(self, folder: Path, name: str, target: Target, serving: Mapping[str, object]) -> None:
        (folder / "graph.pbtxt").write_text(f"{name} {target.device} {dict(serving)}\n")

    def register(self, folder: Path, name: str) -> None:
        register(folder / INDEX_NAME, name, name)

    def versions(self, options: StampOptions) -> dict[str, str]:
        del options
        return {"stamp": "1.0"}


def stamped(content: Mapping[str, bytes]) -> dict[str, bytes]:
    """What the conversion of these files must leave: every byte depends on every byte."""
    text = "\n".join(f"{name} {hashlib.sha256(data).hexdigest()}" for name, data in sorted(content.items())).encode()
    return {"openvino_model.xml": text, "openvino_model.bin": hashlib.shake_256(text).digest(_WEIGHTS_BYTES)}


def normalise(
    model_type: ModelType | None, device: str, config: Mapping[str, object]
) -> tuple[Precision, dict[str, object], dict[str, object]]:
    del model_type, device
    precision = Precision(str(config.get("precision", "int8")))
    return precision, {key: value for key, value in config.items() if key in {"seconds", "poison"}}, {}


STAMP = ConverterPlugin(
    name="stamp",
    description="Digests its input.",
    options=StampOptions,
    serving=StampServing,
    normalise=normalise,
    reads=frozenset({Format.TRANSFORMERS}),
    writes=Format.OPENVINO,
    model_types=frozenset({ModelType.LLM}),
    precisions=frozenset(Precision),
    implementation="stamp_converter:StampConverter",
)

_contract: type[Converter[StampOptions]] = StampConverter

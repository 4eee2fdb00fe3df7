"""A child that converts a model, and tells how many threads that took."""

import os
from functools import wraps
from pathlib import Path

import openvino as ov
import torch

from common.vocabulary import ModelType, Precision
from tests.conversions import Wanted, convert
from worker.forkserver import Channel


def observe(channel: Channel) -> None:
    """Note the threads of every model that OpenVINO compiles, whoever asks for it. The request names the model."""
    seen: set[int] = set()
    compile_model = ov.Core.compile_model

    @wraps(compile_model)
    def noted(core: ov.Core, *model: object, **more: object) -> ov.CompiledModel:
        compiled = compile_model(core, *model, **more)
        seen.add(compiled.get_property(ov.properties.inference_num_threads))
        return compiled

    ov.Core.compile_model = noted
    wanted = Wanted(
        model=Path(channel.request.decode()),
        workspace=Path(os.environ["TMPDIR"]),
        model_type=ModelType.LLM,
        precision=Precision.INT4,
    )
    ended = convert(wanted)
    channel.send({"error": ended.error, "torch": torch.get_num_threads(), "openvino": sorted(seen)})

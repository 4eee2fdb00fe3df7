"""How OpenVINO compiles models during a conversion: for the threads that the pool gives us, and in 32 bits."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps

import openvino as ov
import torch


@contextmanager
def steady_compiling() -> Iterator[None]:
    """Let every model that is compiled meanwhile use as many threads as torch does, and the same arithmetic everywhere.

    The tools compile models in many places, and none of them lets its caller choose. 32 bits also keep clear of
    https://github.com/openvinotoolkit/openvino/issues/33300: with one thread, compiling a language model for bfloat16
    ends the process with SIGFPE.
    """
    compile_model = ov.Core.compile_model

    @wraps(compile_model)
    def steady(core: ov.Core, *model: object, **more: object) -> ov.CompiledModel:
        properties = {
            ov.properties.inference_num_threads: torch.get_num_threads(),
            ov.properties.hint.inference_precision: ov.Type.f32,
        }
        core.set_property("CPU", properties)
        return compile_model(core, *model, **more)

    ov.Core.compile_model = steady
    try:
        yield
    finally:
        ov.Core.compile_model = compile_model

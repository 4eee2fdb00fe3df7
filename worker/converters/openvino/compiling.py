"""How OpenVINO compiles models during a conversion: for the threads that the pool gives us, and in 32 bits."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps

import openvino as ov


@contextmanager
def steady_compiling() -> Iterator[None]:
    """Let every model that is compiled meanwhile use the threads that are ours, and the same arithmetic everywhere.

    The tools compile models in many places, and none of them lets its caller choose. 32 bits also keep clear of
    https://github.com/openvinotoolkit/openvino/issues/33300: with one thread, compiling a language model for bfloat16
    ends the process with SIGFPE.
    """
    compile_model = ov.Core.compile_model

    @wraps(compile_model)
    def steady(core: ov.Core, *model: object, **more: object) -> ov.CompiledModel:
        core.set_property("CPU", steady_properties())
        return compile_model(core, *model, **more)

    ov.Core.compile_model = steady
    try:
        yield
    finally:
        ov.Core.compile_model = compile_model


def steady_properties() -> dict[str, object]:
    """What `steady_compiling` sets, for those who compile without Python's Core."""
    return {"INFERENCE_NUM_THREADS": _threads(), "INFERENCE_PRECISION_HINT": "f32"}


def own_threads() -> int:
    """How many threads a conversion may keep busy."""
    return _threads() or 1


def _threads() -> int:
    """As many as torch takes, which reads the environment; 0, OpenVINO's own choice, where nobody has loaded torch."""
    torch = sys.modules.get("torch")
    return 0 if torch is None else torch.get_num_threads()

"""What a model is, as far as its small files tell."""

from typing import Literal

from common.spec import Spec
from common.vocabulary import ModelType


class Nature(Spec, frozen=True):
    """What a model is, and what that means for its conversion."""

    model_type: ModelType
    task: str
    """What the tools call the wanted kind of conversion."""
    library: str
    """What loads the original: `transformers` or `diffusers`."""
    architecture: str
    """The library's own name for this kind of model, such as `llama` or `StableDiffusionPipeline`."""
    classes: tuple[str, ...]
    """The Python classes that the checkpoint was saved from."""
    form: Literal["transformers", "diffusers", "openvino", "gguf"]
    brings_code: str | None
    """Which of the repository's own Python code is needed, because no known environment has it; None where none is."""
    pickled: bool
    """Some weights can only be read from pickles."""
    weights_bytes: int
    """Of the weights that will be read."""
    needs: tuple[str, ...] = ()
    """Python modules that this very model takes beside its library."""

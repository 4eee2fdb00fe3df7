"""Which files of a repository make the model."""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from common.catalog.huggingface import HuggingFaceOptions
from common.errors import NotConverted, NothingToFetch
from common.vocabulary import Format

# What is left out where a repository holds the same weights in a better form. Whole folders, then names.
_OTHER_FOLDERS = ("onnx", "original", "coreml")
_OTHER_NAMES = (
    "*.h5", "*.msgpack", "*.ot", "*.onnx", "*.onnx_data*", "*.onnx.data", "*.gguf", "*.pt", "*.pth", "*.ckpt",
    "consolidated*", "flax*", "tf_*",
)  # fmt: skip
_SIDE_FILES = (
    "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.vocab", "*.merges", "vocab*", "merges*", "*.md",
    "README*", "LICENSE*", "LICENCE*",
)  # fmt: skip
# As diffusers and transformers name them; a shard's number may stand before or after the variant.
_VARIANT = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:-\d{5}-of-\d{5})?\.(?P<variant>[A-Za-z][\w]{0,15})"
    r"(?:-\d{5}-of-\d{5})?\.(?:safetensors|bin)"
)
_PICKLED_WEIGHTS = ("pytorch_model*.bin", "diffusion_pytorch_model*.bin", "adapter_model*.bin", "model*.bin")


def select(paths: Sequence[str], options: HuggingFaceOptions, name: str = "") -> tuple[frozenset[str], Format]:
    """Which files are wanted, and what form of model they are.

    The best form of weights wins: safetensors, then PyTorch's pickles, then OpenVINO IR, then whatever there is;
    with `require_ir` it is the IR. Raises NotConverted and NothingToFetch.
    """
    held = _without_copies([path for path in paths if not _fits(path, options.exclude)], options)
    pairs = _ir_pairs(held)
    if options.require_ir and not pairs:
        raise NotConverted(f"'{name}' holds no OpenVINO model: no .xml file with its .bin beside it")
    chosen = (
        [path for path in held if _fits(path, options.include)] if options.include else _preset(held, pairs, options)
    )
    if not chosen:
        raise NothingToFetch(f"'{name}' holds no files that are wanted")
    has_ir = bool(_ir_pairs(chosen))
    other = any(_is_weights(path) for path in chosen if path not in pairs)
    return frozenset(chosen), Format.OPENVINO if has_ir and not other else Format.TRANSFORMERS


def _preset(held: list[str], pairs: frozenset[str], options: HuggingFaceOptions) -> list[str]:
    safe_folders = {_folder(path) for path in held if _is_safetensors(path)}
    has_pickles = any(_is_pickle(path) for path in held if path not in pairs)
    if options.require_ir:
        return [path for path in held if path in pairs or not (_is_weights(path) or _is_other(path))]
    if safe_folders:
        # A component that comes as a pickle only is needed beside others that come as safetensors.
        return [
            path
            for path in held
            if path not in pairs
            and not _is_other(path)
            and not (path.endswith(".bin") and _folder(path) in safe_folders)
        ]
    if has_pickles:
        return [path for path in held if path not in pairs and not _is_other(path)]
    if pairs:
        return [path for path in held if path in pairs or not _is_other(path)]
    return held


def _without_copies(paths: list[str], options: HuggingFaceOptions) -> list[str]:
    """Leave out weights that are there a second time: in another variant, or of a whole pipeline in one file."""
    if options.include:
        return paths
    plain = {_folder(path) for path in paths if _is_weights(path) and _variant(path) is None}
    asked = {_folder(path) for path in paths if _variant(path) == options.variant is not None}

    def is_copy(path: str) -> bool:
        if not _is_weights(path):
            return False
        if "model_index.json" in paths and not _folder(path):
            return True
        variant, folder = _variant(path), _folder(path)
        return variant != options.variant if folder in asked else variant is not None and folder in plain

    return [path for path in paths if not is_copy(path)]


def _variant(path: str) -> str | None:
    """The word that tells this form of the weights from others: `model.fp16.safetensors` -> `fp16`."""
    found = _VARIANT.fullmatch(path.rpartition("/")[2])
    return found["variant"] if found else None


def _ir_pairs(paths: Iterable[str]) -> frozenset[str]:
    """OpenVINO models: each .xml that has its .bin beside it, and that .bin."""
    known = set(paths)
    stems = [path.removesuffix(".xml") for path in known if path.endswith(".xml")]
    return frozenset(f"{stem}{suffix}" for stem in stems if f"{stem}.bin" in known for suffix in (".xml", ".bin"))


def _is_safetensors(path: str) -> bool:
    return path.endswith(".safetensors") and not _is_other(path)


def _is_pickle(path: str) -> bool:
    return any(fnmatchcase(PurePosixPath(path).name, pattern) for pattern in _PICKLED_WEIGHTS)


def _is_weights(path: str) -> bool:
    return path.endswith((".safetensors", ".bin"))


def _is_other(path: str) -> bool:
    """Whether this is the same model for another framework."""
    *folders, name = path.split("/")
    if folders and folders[0] in _OTHER_FOLDERS:
        return True
    side = any(fnmatchcase(name, pattern) for pattern in _SIDE_FILES)
    return not side and any(fnmatchcase(name, pattern) for pattern in _OTHER_NAMES)


def _fits(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(path, f"{pattern}*" if pattern.endswith("/") else pattern) for pattern in patterns)


def _folder(path: str) -> str:
    return path.rpartition("/")[0]

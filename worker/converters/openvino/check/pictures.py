"""Lets a converted model that sees or paints pictures answer once."""

from collections.abc import Mapping

import numpy as np

from common.errors import VerificationFailed
from worker.converters.openvino.check.files import (
    LANGUAGE,
    MODEL,
    PIPELINE,
    PREPROCESSOR,
    TEXT_EMBEDDINGS,
    TOKENIZER,
    VISION_EMBEDDINGS,
)
from worker.converters.openvino.check.running import MOST_TOKENS, Array, Folder, Part, first_of, integer, noise

_MERGER = "openvino_vision_embeddings_merger_model"
_PIXELS = "pixel_values"
_STATES = "last_hidden_state"
_USUAL_SIDE = 224
_LATENT_SIDE = 8
_PATCHES = 16
_MERGED = 4
"""How many patches become one, in models that merge them."""
# Inputs in which numbers without a meaning do no harm. Others may count on each other, and a kernel that is misled
# may take the process along, so a part that has them is loaded and not run.
_OF_MERGER = frozenset({"hidden_states", "attention_mask", "rotary_pos_emb", "window_attention_mask", "window_index"})
_OF_PAINTER = frozenset(
    {
        "encoder_attention_mask",
        "encoder_hidden_states",
        "guidance",
        "hidden_states",
        "img_ids",
        "pooled_projections",
        "sample",
        "text_embeds",
        "time_ids",
        "timestep",
        "timestep_cond",
        "txt_ids",
    }
)
_OF_LANGUAGE = frozenset({"inputs_embeds", "attention_mask", "position_ids", "token_type_ids", "beam_idx"})


def answer_picture(folder: Folder) -> tuple[str, ...]:
    """A classifier rates its labels, or a detector its boxes."""
    model = folder.part(MODEL)
    picture = _picture(model, folder)
    given = {_PIXELS: picture, "pixel_mask": np.ones((1, *picture.shape[-2:]), np.int64)}
    answers = model.ask(given)
    logits = first_of(answers, "logits")
    if "pred_boxes" not in answers:
        model.expect(logits, (1, _labels(folder)), "a picture")
        return (f"a picture {picture.shape} gives finite logits {logits.shape}",)
    boxes = answers["pred_boxes"]
    # One label more, for that there is nothing.
    model.expect(logits, (1, None, None), "a picture")
    model.expect(boxes, (1, logits.shape[1], 4), "a picture")
    return (f"a picture {picture.shape} gives finite logits {logits.shape} and boxes {boxes.shape}",)


def write_of_picture(folder: Folder) -> tuple[str, ...]:
    """A text generator that sees rates what might come next after a picture and a sentence."""
    seen, words = _see(folder)
    ids = folder.tokens()["input_ids"]
    reader = folder.part(TEXT_EMBEDDINGS)
    read = first_of(reader.ask(dict.fromkeys(reader.inputs, ids)), "inputs_embeds")
    reader.expect(read, (1, ids.shape[1], None), f"{ids.shape[1]} tokens")
    if seen is not None and seen.shape[-1] == read.shape[2]:
        read = np.concatenate([seen.reshape(1, -1, seen.shape[-1]), read], axis=1)
    folder.check_detokenizer(ids)
    length = read.shape[1]
    model = folder.part(LANGUAGE)
    if not _is_known(model, _OF_LANGUAGE):
        return (words, f"{model.name} loads")
    logits = first_of(model.ask({"inputs_embeds": read}, length), "logits")
    model.expect(logits, (1, length, None), f"{length} embeddings")
    return (words, f"{length} embeddings of picture and text give finite logits {logits.shape}")


def paint(folder: Folder) -> tuple[str, ...]:
    """A painter reads a sentence, takes one step, and shows what it has got."""
    latents, words = _step(folder)
    decoder = folder.part(f"vae_decoder/{MODEL}")
    (name, sizes), *_ = decoder.inputs.items()
    shape = _filled(sizes, _LATENT_SIDE)
    fitting = latents if latents is not None and latents.shape == shape else noise(shape)
    picture = first_of(decoder.ask({name: fitting}), "sample")
    decoder.expect(picture, (1, 3, *(None,) * (picture.ndim - 2)), f"latents {shape}")
    del decoder
    encoder = folder.part(f"vae_encoder/{MODEL}")
    encoder.ask(dict.fromkeys(encoder.inputs, picture))
    return (words, f"latents {shape} give a finite picture {picture.shape}")


def _labels(folder: Folder) -> int | None:
    labels = folder.settings("config.json").get("id2label")
    return len(labels) if isinstance(labels, dict) and labels else None


def _picture(part: Part, folder: Folder) -> Array:
    """Noise in the size that the model's preprocessor makes."""
    sizes = part.inputs.get(_PIXELS)
    if sizes is None or len(sizes) < 3:
        raise VerificationFailed(f"{part.name} takes no picture, but {', '.join(sorted(part.inputs))}")
    height, width = _side(folder.settings(PREPROCESSOR))
    usual = (*(1,) * (len(sizes) - 3), 3, height, width)
    return noise(tuple(default if size is None else size for size, default in zip(sizes, usual, strict=True)))


def _side(settings: Mapping[str, object]) -> tuple[int, int]:
    for name in ("crop_size", "size", "image_size"):
        match settings.get(name):
            case int(side):
                return side, side
            case {"height": int(height), "width": int(width)}:
                return height, width
            case {"shortest_edge": int(side)}:
                return side, side
            case _:
                continue
    return _USUAL_SIDE, _USUAL_SIDE


def _see(folder: Folder) -> tuple[Array | None, str]:
    """What a model makes of a picture for its language model, and what that proves."""
    tower = folder.part(VISION_EMBEDDINGS)
    if tower.inputs.keys() == {_PIXELS}:
        picture = _picture(tower, folder)
        seen = first_of(tower.ask({_PIXELS: picture}), _STATES)
        return seen, f"a picture {picture.shape} gives finite embeddings {seen.shape}"
    merger = folder.part(_MERGER) if folder.has(_MERGER) else None
    if tower.inputs.keys() == {"hidden_states"} and merger is not None and _is_known(merger, _OF_MERGER):
        patches = first_of(tower.ask({"hidden_states": _patches(folder)}), _STATES)
        seen = _merged(merger, patches)
        return seen, f"{_PATCHES} patches of a picture give finite embeddings {seen.shape}"
    return None, f"{tower.name} loads"


def _is_known(part: Part, names: frozenset[str]) -> bool:
    return all(name in names or name.startswith("past_key_values") for name in part.inputs)


def _patches(folder: Folder) -> Array:
    """Noise in the form in which some preprocessors cut a picture: one row for each square of pixels, twice over."""
    settings = folder.settings(PREPROCESSOR)
    side, depth = integer(settings, "patch_size", 14), integer(settings, "temporal_patch_size", 2)
    return noise((_PATCHES, 3 * depth * side * side))


def _merged(merger: Part, patches: Array) -> Array:
    masks = {name: np.zeros((1, _PATCHES, _PATCHES)) for name in merger.inputs if name.endswith("mask")}
    order = np.arange(_PATCHES // _MERGED)
    given = masks | {"hidden_states": patches, "window_index": order}
    return first_of(merger.ask(given, _PATCHES, first=_PATCHES), _STATES)


def _step(folder: Folder) -> tuple[Array | None, str]:
    """What a painter makes of noise and a sentence, and what that proves."""
    painter = folder.part(f"{next(one for one in ('unet', 'transformer') if folder.has(f'{one}/{MODEL}'))}/{MODEL}")
    if not _is_known(painter, _OF_PAINTER):
        return None, f"{painter.name} loads"
    canvas = _canvas(painter)
    latents = first_of(painter.ask(_prompt(folder, painter) | canvas, MOST_TOKENS), "out_sample")
    start = canvas.get("sample", canvas.get("hidden_states", latents))
    painter.expect(latents, (1, *(None,) * (start.ndim - 1)), f"latents {start.shape}")
    return latents, f"a sentence and one step from {start.shape} give finite latents {latents.shape}"


def _prompt(folder: Folder, painter: Part) -> dict[str, Array]:
    """The painter's inputs that a sentence decides."""
    sizes = painter.inputs.get("encoder_hidden_states", (None, None, None))
    length = sizes[1] or MOST_TOKENS
    read: list[dict[str, Array]] = []
    for name in sorted(folder.settings(PIPELINE)):
        if name.startswith("text_encoder") and folder.has(f"{name}/{MODEL}"):
            tokens = folder.tokens(f"{name.replace('text_encoder', 'tokenizer')}/{TOKENIZER}")
            encoder = folder.part(f"{name}/{MODEL}")
            read.append(encoder.ask({"input_ids": _padded(tokens["input_ids"], length)}, length))
    states = [answers[_STATES] for answers in read if _STATES in answers]
    choices = [*states, np.concatenate(states, axis=2)] if len(states) > 1 else states
    summaries = [answer for answers in read for answer in answers.values() if answer.ndim == 2]
    prompt = {"encoder_hidden_states": _fitting(choices, (1, length, sizes[2]))}
    for name in ("text_embeds", "pooled_projections"):
        if name in painter.inputs:
            prompt[name] = _fitting(summaries, (1, painter.inputs[name][1]))
    return {name: value for name, value in prompt.items() if name in painter.inputs}


def _canvas(painter: Part) -> dict[str, Array]:
    """The painter's other inputs: latents of a small picture, and where it stands."""
    canvas: dict[str, Array] = {}
    for name, sizes in painter.inputs.items():
        if name in {"sample", "hidden_states"}:
            canvas[name] = noise(_filled(sizes, _LATENT_SIDE if len(sizes) > 3 else MOST_TOKENS))
        elif name in {"img_ids", "txt_ids"}:
            canvas[name] = np.zeros((*(1,) * (len(sizes) - 2), MOST_TOKENS, sizes[-1] or 3), np.float32)
        elif name in {"timestep", "guidance"}:
            canvas[name] = np.ones(tuple(size or 1 for size in sizes), np.float32)
    return canvas


def _padded(ids: Array, length: int) -> Array:
    return np.pad(ids[:, :length], ((0, 0), (0, max(0, length - ids.shape[1]))), mode="edge")


def _fitting(choices: list[Array], sizes: tuple[int | None, ...]) -> Array:
    """The first choice that has these sizes, or else noise that has."""
    fitting = (
        one
        for one in choices
        if one.ndim == len(sizes) and all(size in {None, real} for size, real in zip(sizes, one.shape, strict=True))
    )
    return next(fitting, noise(tuple(size or 1 for size in sizes)))


def _filled(sizes: tuple[int | None, ...], otherwise: int) -> tuple[int, ...]:
    return tuple((otherwise if place else 1) if size is None else size for place, size in enumerate(sizes))

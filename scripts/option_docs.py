"""Writes docs/options.md: what a conversion's config may hold, from the same data as GET /plugins.

Run it as `python -m scripts.option_docs` after a change of the options.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from common.catalog.openvino import OPENVINO
from common.catalog.openvino.options import normalise
from common.catalog.openvino.rules import TAKES, TASKS, Form
from common.catalog.schema import CONVERSION, SERVING, config_schema

_HUGE = 2**31 - 1

PAGE = Path(__file__).resolve().parent.parent / "docs" / "options.md"

INTRODUCTION = """\
# Options of a conversion

This page is written by `python -m scripts.option_docs`, from the data that `GET /plugins` carries as a JSON schema.

The options stand in `config`, or in `config.openvino_config`; what is said in both counts as it stands in `config`. A
key may be written as optimum-cli writes it: `group_size`, `group-size` and `--group-size` are one option. Numbers and
booleans may be strings, and `false` means no. Two spellings of one option must not contradict each other. An unknown
key is refused with the nearest name that is known; keys for other hubs (`quantize`, `model_group_id`, `version`, ...)
are passed over, because clients send one config to all.

Every request is judged before its job exists. Two requests that want the same, however they say it, share one
conversion.
"""

CONVERSION_INTRODUCTION = """\
## What decides the converted model

Every option of `optimum-cli export openvino` is here under its own name, and may also be a flag in
`extra_quantization_params`. `--model` and the output folder are not: the request's `name` and destination are in their
place. `precision` takes `int4`, `int8`, `fp16` and `fp32`, as in Intel's service; the other number formats are asked
for with `weight_format` and `quant_mode`.
"""

PRECISION_INTRODUCTION = """\
## What goes with which number format

An option in a row where it is not named is refused, unless it changes nothing there. Calibration data is passed over
where a format has no use for it. With device `NPU` the format is `int4`, or `nf4` where that is asked for, with
`group_size` -1 and for `int4` `sym` true; only the types `llm` and `vlm` are converted for it.
"""

TYPES_INTRODUCTION = """\
## Tasks

The task is told by the model itself. Where `task` is given, it must be one of its type.
"""

SERVING_INTRODUCTION = """\
## What the model server is told

These become part of `graph.pbtxt` or `config.json` and change nothing in the converted model.
"""


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """The whole page."""
    properties = config_schema(OPENVINO)["properties"]
    parts = (
        INTRODUCTION,
        CONVERSION_INTRODUCTION,
        _options(properties, CONVERSION),
        PRECISION_INTRODUCTION,
        _table(("asked for", "options", "where nothing is said"), _formats()),
        TYPES_INTRODUCTION,
        _table(("type", "tasks"), ((_code(kind), _codes(tasks)) for kind, tasks in TASKS.items())),
        SERVING_INTRODUCTION,
        _options(properties, SERVING),
    )
    return "\n".join(parts)


def _options(properties: Mapping[str, Any], part: str) -> str:
    rows = (
        (_code(name), _values(schema), _default(schema), schema.get("description", ""))
        for name, schema in properties.items()
        if schema["x-part"] == part
    )
    return _table(("option", "values", "default", "meaning"), rows)


def _formats() -> Iterator[tuple[str, str, str]]:
    for form, names in TAKES.items():
        options = _codes(sorted(names))
        yield f"{_key(form)} {_code(form.precision)}", options or "none", _recipe(form)


def _key(form: Form) -> str:
    return _code("quant_mode" if form.activations else "weight_format")


def _recipe(form: Form) -> str:
    asked = (
        {"quant_mode": form.precision, "dataset": "path:x"} if form.activations else {"weight_format": form.precision}
    )
    recipe = normalise(None, "CPU", asked)[1]
    said = (f"{name} {_word(value)}" for name, value in recipe.items() if name not in asked)
    return _codes(said)


def _values(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return _codes(schema["enum"])
    if schema["type"] == "object":
        return "; ".join(f"{_code(name)}: {_values(inner)}" for name, inner in schema["properties"].items())
    kind = {"boolean": "`true`, `false`", "string": "text", "integer": "whole number", "number": "number"}[
        schema["type"]
    ]
    examples = f", such as {_codes(schema['examples'])}" if "examples" in schema else ""
    return f"{kind}{_bounds(schema)}{examples}"


def _bounds(schema: Mapping[str, Any]) -> str:
    words = {"minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most"}
    said = (f", {text} {_word(schema[name])}" for name, text in words.items() if schema.get(name, _HUGE) != _HUGE)
    return "".join(said)


def _default(schema: Mapping[str, Any]) -> str:
    return _code(_word(schema["default"])) if "default" in schema else ""


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _code(text: object) -> str:
    return f"`{text}`"


def _codes(texts: Any) -> str:
    return ", ".join(_code(text) for text in texts)


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    main()

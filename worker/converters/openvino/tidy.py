"""Makes a folder fit to be published: what a reader needs is kept, and where the source lay is forgotten."""

import json
import re
import shutil
from fnmatch import fnmatch
from pathlib import Path

from worker.converters.openvino.paths import Site
from worker.serving import POOLING_FILE

_KEPT = (
    "openvino_*.xml",
    "openvino_*.bin",
    "openvino_config.json",
    "config.json",
    "generation_config.json",
    "model_index.json",
    "scheduler_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "normalizer.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
)
_KEPT_AT = ("voices/*.bin", "data/*.json", "data/*.txt", POOLING_FILE)
_PAPERS = ("readme.md", "license*", "licence*", "notice*", "use_policy*", "copying*")
_PREPROCESSOR = "preprocessor_config.json"
_SETTINGS = "openvino_config.json"


def tidy(output: Path, site: Site) -> None:
    """Keep what a reader of the result needs, add the source's papers, and forget where everything lay."""
    model = site.model
    _drop_others(output)
    for paper in sorted(model.iterdir()):
        if paper.is_file() and any(fnmatch(paper.name.lower(), pattern) for pattern in _PAPERS):
            _copy(paper, output / paper.name)
    for name in (POOLING_FILE, _PREPROCESSOR):
        # Without torchvision, upstream reads the settings of a picture's preprocessor, but does not write them.
        if (model / name).is_file() and not (output / name).exists():
            _copy(model / name, output / name)
    places = [str(place) for place in (model, output, site.models_dir) if str(place)]
    for file in sorted(output.rglob("*.json")):
        _forget(file, places)
    for file in sorted(output.rglob("*.xml")):
        _forget_in_graph(file, places)


def _drop_others(output: Path) -> None:
    for path in sorted(output.rglob("*"), reverse=True):
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif not _is_kept(path.relative_to(output)):
            path.unlink()


def _is_kept(path: Path) -> bool:
    return any(fnmatch(path.name, pattern) for pattern in _KEPT) or any(
        fnmatch(path.as_posix(), pattern) for pattern in _KEPT_AT
    )


def _copy(file: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, to)


def _forget(file: Path, places: list[str]) -> None:
    """Equal conversions must give equal bytes, wherever they ran."""
    content = file.read_bytes()
    if file.name == _SETTINGS or any(place.encode() in content for place in places):
        known = _without(json.loads(content), places)
        _rewrite(file, json.dumps(known, indent=2, sort_keys=True) + "\n")


def _forget_in_graph(file: Path, places: list[str]) -> None:
    """A graph tells how its weights were compressed, and so by which statistics."""
    content = file.read_text(encoding="utf-8")
    for place in places:
        if place in content:
            content = re.sub(rf"'{re.escape(place)}[^']*'", "None", content)
            _rewrite(file, content)


def _rewrite(file: Path, text: str) -> None:
    # A new file: what was taken over as it is may be a name of content in the store.
    file.unlink()
    file.write_text(text, encoding="utf-8")


def _without(value: object, places: list[str]) -> object:
    match value:
        case dict():
            # Calibration texts are the operator's own, and upstream refuses a data set that it does not know.
            return {
                key: None if key == "dataset" and isinstance(item, list) else _without(item, places)
                for key, item in value.items()
            }
        case list():
            return [_without(item, places) for item in value]
        case str():
            return None if any(place in value for place in places) else value
        case _:
            return value

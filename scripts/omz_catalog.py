"""Writes the catalogue of hub `omz` from the descriptions of Open Model Zoo: names, sizes, digests and addresses.

    python -m scripts.omz_catalog RELEASE MODELS CLASSES

RELEASE is what the descriptions are called, such as 2024.6.0. MODELS is the folder that holds `intel` and `public`, and
CLASSES the list of ImageNet's classes: in a checkout of Open Model Zoo `models` and
`data/dataset_classes/imagenet_2012.txt`, in the wheel openvino-dev `omz_tools/models` and
`omz_tools/data/dataset_classes/imagenet_2012.txt`. Nothing is fetched, and nothing is made up: an entry without a size,
a SHA-384 or an address at the zoo's own storage stops the script.
"""

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

DATA = Path(__file__).resolve().parent.parent / "common" / "catalog" / "data"

CONVERTED_HERE = ("mobilenet-v2-pytorch",)
"""The public models whose network Modelferry builds itself."""

_STORAGE = "storage.openvinotoolkit.org"
_SHA384 = re.compile(r"[0-9a-f]{96}")
# What only the tool wants that once made the model.
_NOT_OF_THE_MODEL = (".py", ".pyc", ".onnx")
_LICENCES = {
    "https://raw.githubusercontent.com/openvinotoolkit/open_model_zoo/master/LICENSE": "Apache-2.0",
    "https://raw.githubusercontent.com/pytorch/vision/master/LICENSE": "BSD-3-Clause",
}
_CLASSES = 1000


def main() -> None:
    """Write omz.json and imagenet_2012.txt."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("release")
    parser.add_argument("models", type=Path)
    parser.add_argument("classes", type=Path)
    given = parser.parse_args()
    models = dict(_intel(given.models / "intel"))
    public = {path.parent.name: path for path in sorted((given.models / "public").rglob("model.yml"))}
    models |= {name: _model(public[name]) for name in CONVERTED_HERE}
    others = sorted(public.keys() - models.keys())
    (DATA / "omz.json").write_text(_document(given.release, models, others), encoding="utf-8")
    (DATA / "imagenet_2012.txt").write_text(_labels(given.classes), encoding="utf-8")
    print(f"{len(models)} models, {sum(len(model['files']) for model in models.values())} files")


def _intel(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every model, and every composite with its parts in folders of their own."""
    for path in sorted(folder.rglob("model.yml")):
        yield path.parent.name, _model(path)
    for composite in sorted(folder.rglob("composite-model.yml")):
        parts = {path.parent.name: _model(path) for path in sorted(composite.parent.rglob("model.yml"))}
        files = [[f"{name}/{path}", *rest] for name, part in parts.items() for path, *rest in part["files"]]
        licences = {part["licence"] for part in parts.values()}
        yield composite.parent.name, {"licence": " AND ".join(sorted(licences)), "files": files}


def _model(path: Path) -> dict[str, Any]:
    described = yaml.safe_load(path.read_text(encoding="utf-8"))
    licence = described["license"]
    files = [_file(file, path) for file in described["files"] if not file["name"].endswith(_NOT_OF_THE_MODEL)]
    return {"licence": _LICENCES.get(licence, licence), "files": files}


def _file(file: dict[str, Any], path: Path) -> list[object]:
    address = urlsplit(file["source"])
    if address.netloc != _STORAGE or address.query or not _SHA384.fullmatch(file["checksum"]) or file["size"] <= 0:
        raise SystemExit(f"{path}: {file['name']} cannot be described")
    return [file["name"], int(file["size"]), file["checksum"], address.path]


def _document(release: str, models: dict[str, dict[str, Any]], public: list[str]) -> str:
    """JSON with one line for each file, so that a change of one can be read."""
    lines = [f'{{"release": {json.dumps(release)},', '"models": {']
    for name, model in sorted(models.items()):
        files = ",\n  ".join(json.dumps(file) for file in model["files"])
        lines.append(f' {json.dumps(name)}: {{"licence": {json.dumps(model["licence"])}, "files": [\n  {files}]}},')
    lines[-1] = lines[-1].removesuffix(",")
    return "\n".join([*lines, "},", f'"public": {json.dumps(public)}}}', ""])


def _labels(path: Path) -> str:
    """The names of the classes in the order of a network's answers; each line begins with WordNet's number."""
    lines = [line.split(" ", 1)[1].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    if len(lines) != _CLASSES:
        raise SystemExit(f"{path} lists {len(lines)} classes, not {_CLASSES}")
    return "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    main()

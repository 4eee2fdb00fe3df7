"""Writes down which official models Ultralytics has weights for: common/catalog/data/ultralytics.json.

Run it after an upgrade of the profile: `python -m scripts.dump_ultralytics`. The library is asked in a process of its
own, with the profile's folder before everything else.
"""

import json
import os
import re
import subprocess
import sys
import tempfile

from scripts.setup import PRIVATE_HOME, PYTHON, ROOT, profile_folder

PROFILE = "ultralytics"
FILE = ROOT / "common" / "catalog" / "data" / "ultralytics.json"

_ASK = "import json; from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES as n; print(json.dumps(sorted(n)))"
# What is left out: models that need a text, a prompt or another picture beside theirs, those that were made to be
# trained on, and tasks that no application of OpenVINO reads by itself (depth, semantic segmentation).
_KNOWN = re.compile(
    r"(?P<family>yolo(?:v3|v5|v8|v9|v10|11|12|26))(?P<size>-spp|-tiny|[a-z]?6?)(?P<u>u?)(?P<kind>-oiv7|-cls|-seg|-pose(?:-p6)?|-obb)?"
)
_TASKS = {"cls": "classify", "seg": "segment", "pose": "pose", "obb": "obb"}


def main() -> None:
    if not profile_folder(PROFILE).is_dir():
        sys.exit(f"Profile {PROFILE} is not installed; run: python3 scripts/setup.py --profile {PROFILE}")
    FILE.write_text(as_text(models_in(ask())))
    print(f"ultralytics: {FILE.name} is written")


def ask() -> list[str]:
    """The names of all files that the library knows as its maker's."""
    with tempfile.TemporaryDirectory() as config:
        environment = {
            **os.environ,
            "HOME": str(PRIVATE_HOME),
            "PYTHONPATH": str(profile_folder(PROFILE)),
            "YOLO_AUTOINSTALL": "false",
            "YOLO_CONFIG_DIR": config,
            "YOLO_OFFLINE": "true",
        }
        done = subprocess.run(
            [str(PYTHON), "-c", _ASK], cwd=config, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
    return list(json.loads(done.stdout.splitlines()[-1]))


def models_in(files: list[str]) -> list[dict[str, str]]:
    """Those of the files that are weights of models that can be exported and used by themselves."""
    models = []
    for file in files:
        name = file.removesuffix(".pt")
        found = _KNOWN.fullmatch(name)
        if found is None or name == file:
            continue
        kind = (found["kind"] or "").strip("-").partition("-")[0]
        models.append({"name": name, "family": found["family"], "task": _TASKS.get(kind, "detect")})
    return sorted(models, key=lambda model: model["name"])


def as_text(models: list[dict[str, str]]) -> str:
    """JSON with one line for each model."""
    return "[\n" + ",\n".join(f"  {json.dumps(model)}" for model in models) + "\n]\n"


if __name__ == "__main__":
    main()

"""Writes down what each tool-chain profile can convert: common/catalog/openvino/capabilities/<profile>.json.

Run it after an upgrade of the tools: `make capabilities`. The environment of a profile is asked in a process of its
own, with the profile's folder before everything else.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Mapping

from scripts.setup import PRIVATE_HOME, PROFILES, PYTHON, ROOT, profile_folder

FOLDER = ROOT / "common" / "catalog" / "openvino" / "capabilities"

TOOLS = (
    "diffusers",
    "huggingface-hub",
    "nncf",
    "openvino",
    "openvino-tokenizers",
    "optimum",
    "optimum-intel",
    "tokenizers",
    "torch",
    "transformers",
)
EXTRAS = ("einops", "funasr", "kokoro", "open_clip", "sentence_transformers", "timm", "torchvision")
"""Modules that some models take and that are no part of the set-up."""

_DEEP = 3
_NAMED = re.compile(
    r"(?!TF|Flax)[A-Z].*(For[A-Z]\w+|Model|LMHead|Tokenizer|TokenizerFast|Processor\w*|FeatureExtractor)"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--print", metavar="PROFILE", help="print what this very environment can do, and write nothing")
    shown = parser.parse_args().print
    if shown:
        print(json.dumps(capabilities(shown)))
        return
    for profile in ("default", *PROFILES):
        if profile != "default" and not profile_folder(profile).is_dir():
            sys.exit(f"Profile {profile} is not installed; run: python3 scripts/setup.py --profile {profile}")
        (FOLDER / f"{profile}.json").write_text(as_text(ask(profile)) + "\n")
        print(f"capabilities: {profile}.json is written")


def ask(profile: str) -> dict[str, object]:
    """What the environment of a profile says about itself."""
    environment = {**os.environ, "HOME": str(PRIVATE_HOME), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    if profile != "default":
        environment["PYTHONPATH"] = str(profile_folder(profile))
    command = [str(PYTHON), "-m", "scripts.dump_capabilities", "--print", profile]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))


def as_text(value: object, depth: int = 0) -> str:
    """JSON whose lines are fit for a comparison: one for each architecture."""
    margin = " " * (depth + 1)
    if isinstance(value, Mapping) and depth < _DEEP:
        items = [f"{margin}{json.dumps(key)}: {as_text(item, depth + 1)}" for key, item in sorted(value.items())]
        return "{\n" + ",\n".join(items) + f"\n{' ' * depth}}}"
    if isinstance(value, list) and value:
        words = textwrap.wrap(", ".join(map(json.dumps, value)), 116, break_long_words=False, break_on_hyphens=False)
        return "[\n" + "\n".join(margin + line for line in words) + f"\n{' ' * depth}]"
    return json.dumps(value, sort_keys=True)


def capabilities(profile: str) -> dict[str, object]:
    """What the libraries that this process imports can do."""
    import transformers  # noqa: PLC0415 - seconds, and only where they are asked
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING  # noqa: PLC0415

    return {
        "profile": profile,
        "versions": {name: importlib.metadata.version(name).partition("+")[0] for name in TOOLS},
        "architectures": {"transformers": _architectures(), "diffusers": _pipelines()},
        "model_types": sorted(CONFIG_MAPPING.keys()),
        "classes": sorted(name for name in dir(transformers) if _NAMED.fullmatch(name)),
        "extras": sorted(name for name in EXTRAS if importlib.util.find_spec(name)),
        "synonyms": _synonyms(),
    }


def _architectures() -> dict[str, dict[str, dict[str, str]]]:
    from optimum.exporters.openvino import model_configs  # noqa: F401, PLC0415 - fills the registry
    from optimum.exporters.tasks import TasksManager  # noqa: PLC0415

    known = TasksManager._SUPPORTED_MODEL_TYPE  # noqa: SLF001 - there is no public way to list it
    return {
        architecture: {task: _bounds(exporter) for task, exporter in exporters["openvino"].items()}
        for architecture, exporters in known.items()
        if "openvino" in exporters
    }


def _bounds(exporter: object) -> dict[str, str]:
    """The releases of transformers that an exporter was written for."""
    made = getattr(exporter, "func", exporter)
    ends = {end: getattr(made, f"{end.upper()}_TRANSFORMERS_VERSION", None) for end in ("min", "max")}
    return {end: str(version) for end, version in ends.items() if version is not None}


def _pipelines() -> dict[str, dict[str, dict[str, str]]]:
    """The pipelines that can be written and, for quantisation, be read again."""
    import optimum.intel  # noqa: PLC0415
    from optimum.intel.openvino.modeling_diffusion import SUPPORTED_OV_PIPELINES  # noqa: PLC0415

    found: dict[str, dict[str, dict[str, str]]] = {}
    for pipeline in SUPPORTED_OV_PIPELINES:
        name = pipeline.auto_model_class.__name__
        if hasattr(optimum.intel, f"OV{name}"):
            found[name] = {str(pipeline.export_feature): {}}
    return found


def _synonyms() -> dict[str, str]:
    from optimum.exporters.tasks import TasksManager  # noqa: PLC0415

    return dict(TasksManager._SYNONYM_TASK_MAP)  # noqa: SLF001 - there is no public way to list it


if __name__ == "__main__":
    main()

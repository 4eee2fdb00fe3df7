"""Open Model Zoo's storage on loopback, with models that are small, and the catalogue that describes them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from tests.fakes.storage import FakeStorage

STORED_BELOW = "/repositories/open_model_zoo/2023.0/models_bin/1"


class FakeOmz(FakeStorage):
    """Answers as storage.openvinotoolkit.org does: files below one path for each model, and nothing to list."""

    def __init__(self, *, bytes_per_s: int | None = None) -> None:
        super().__init__(bytes_per_s=bytes_per_s)
        self.models: dict[str, Mapping[str, bytes]] = {}
        self.public: list[str] = []

    def add_model(self, name: str, files: Mapping[str, bytes]) -> None:
        self.models[name] = files
        for path, content in files.items():
            self.files[f"{STORED_BELOW}/{name}/{path}"] = content

    def write_catalogue(self, path: Path) -> Path:
        """Describe what was added, with the digests that the zoo publishes."""
        models = {
            name: {
                "licence": "Apache-2.0",
                "files": [
                    [at, len(content), hashlib.sha384(content).hexdigest(), f"{STORED_BELOW}/{name}/{at}"]
                    for at, content in files.items()
                ],
            }
            for name, files in self.models.items()
        }
        path.write_text(json.dumps({"release": "test", "models": models, "public": self.public}))
        return path


def intel_model(name: str, *, precisions: tuple[str, ...] = ("FP32", "FP16"), weights: int = 4000) -> dict[str, bytes]:
    """The files of a model as the zoo lays them out. No model that runs."""
    files: dict[str, bytes] = {}
    for precision in precisions:
        seed = hashlib.sha256(f"{name}/{precision}".encode()).digest()
        files[f"{precision}/{name}.xml"] = f'<?xml version="1.0"?>\n<net name="{name}" version="11"/>\n'.encode()
        files[f"{precision}/{name}.bin"] = (seed * (weights // len(seed) + 1))[:weights]
    return files

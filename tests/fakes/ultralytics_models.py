"""Makes checkpoints as Ultralytics saves them, of random weights; run with the profile's packages in front.

`python tests/fakes/ultralytics_models.py <folder> <name>...`
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

SIDE = 160
"""The pictures of these models are small, so that tests are quick."""


def main(folder: Path, names: list[str]) -> None:
    from worker.converters.ultralytics.export import _import_torchvision

    with tempfile.TemporaryDirectory() as config:
        os.environ.update({"YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true", "YOLO_CONFIG_DIR": config})
        _import_torchvision()
        import numpy as np
        import torch
        from ultralytics import YOLO
        from ultralytics.cfg import get_cfg
        from ultralytics.data.augment import classify_transforms

        for name in names:
            torch.manual_seed(0)
            model = YOLO(f"{name}.yaml").model
            if name.endswith("-cls"):
                # As the official ones have it: objects of another library, in the middle of the weights.
                model.transforms = classify_transforms(SIDE)
            else:
                # A trained model still holds what it was trained with.
                model.args = get_cfg(overrides={"imgsz": SIDE, "task": model.task})
                model.criterion = model.init_criterion()
            document = {
                "epoch": -1,
                "best_fitness": np.float64(0.5),
                "model": None,
                "ema": model.half(),
                "optimizer": None,
                "train_args": {"imgsz": SIDE, "task": model.task, "data": "coco.yaml"},
                "train_metrics": {"metrics/mAP50(B)": np.float64(0.5)},
                "date": "2026-01-14T10:00:00",
                "license": "AGPL-3.0 (https://ultralytics.com/license)",
            }
            torch.save(document, folder / f"{name}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

"""The three places that hub `hls` fetches from, on loopback, and models in the very forms that they hold."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tests.fakes.storage import FakeStorage

POSE = "/repositories/open_model_zoo/public/2022.1/human-pose-estimation-3d-0001/human-pose-estimation-3d.tar.gz"
ECG = "/Einse57/OpenVINO_sample/master/ai-ecg-master"
RPPG = "/xliucs/MTTS-CAN/raw/main/mtts_can.hdf5"
RPPG_RAW = "/xliucs/MTTS-CAN/main/mtts_can.hdf5"
ECG_NAMES = ("ecg_8960_ir10_fp16", "ecg_17920_ir10_fp16")

KERAS_CONFIG = Path(__file__).with_name("mtts_can_config.json")
"""What Keras 2.15 itself notes of the network's wiring when it saves it."""


class FakeHls(FakeStorage):
    """A storage, a code host that redirects to its raw files, and the settings that lead to them."""

    def settings(self) -> dict[str, str]:
        return {
            "HLS_3D_POSE_CHECKPOINT_URL": f"{self.endpoint}{POSE}",
            "HLS_ECG_BASE_URL": f"{self.endpoint}{ECG}",
            "HLS_RPPG_MODEL_URL": f"{self.endpoint}{RPPG}",
        }

    def add_pose(self, checkpoint: bytes, *, beside: Mapping[str, bytes] | None = None) -> None:
        self.files[POSE] = pose_archive(checkpoint, beside)

    def add_ecg(self, models: Mapping[str, tuple[bytes, bytes]]) -> None:
        """name -> xml and bin"""
        for name, (xml, weights) in models.items():
            self.files[f"{ECG}/{name}.xml"] = xml
            self.files[f"{ECG}/{name}.bin"] = weights

    def add_rppg(self, content: bytes) -> None:
        self.moved[RPPG] = RPPG_RAW
        self.files[RPPG_RAW] = content


def pose_archive(checkpoint: bytes | None, beside: Mapping[str, bytes] | None = None) -> bytes:
    """The archive as the zoo offers it: the checkpoint, and the program that made it."""
    files = {
        **({} if checkpoint is None else {"human-pose-estimation-3d-0001.pth": checkpoint}),
        "model/__init__.py": b"",
        "model/with_mobilenet.py": b"raise SystemExit('a program of a stranger was run')\n",
        **(beside or {}),
    }
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def ecg_model(values: int = 600) -> tuple[bytes, bytes]:
    """A network in version 10 of the IR with 16-bit weights: what is added to `values` numbers, then halved at 0."""
    weights = np.linspace(-1, 1, values).astype(np.float16).tobytes()
    dim = f"<dim>1</dim><dim>{values}</dim>"
    xml = f"""<?xml version="1.0" ?>
<net name="ecg" version="10">
  <layers>
    <layer id="0" name="ecg_input" type="Parameter" version="opset1">
      <data element_type="f16" shape="1,{values}"/>
      <output><port id="0" precision="FP16">{dim}</port></output>
    </layer>
    <layer id="1" name="offset" type="Const" version="opset1">
      <data element_type="f16" offset="0" shape="1,{values}" size="{len(weights)}"/>
      <output><port id="0" precision="FP16">{dim}</port></output>
    </layer>
    <layer id="2" name="added" type="Add" version="opset1">
      <data auto_broadcast="numpy"/>
      <input><port id="0">{dim}</port><port id="1">{dim}</port></input>
      <output><port id="2" precision="FP16">{dim}</port></output>
    </layer>
    <layer id="3" name="relu" type="ReLU" version="opset1">
      <input><port id="0">{dim}</port></input>
      <output><port id="1" precision="FP16">{dim}</port></output>
    </layer>
    <layer id="4" name="answer" type="Result" version="opset1"><input><port id="0">{dim}</port></input></layer>
  </layers>
  <edges>
    <edge from-layer="0" from-port="0" to-layer="2" to-port="0"/>
    <edge from-layer="1" from-port="0" to-layer="2" to-port="1"/>
    <edge from-layer="2" from-port="2" to-layer="3" to-port="0"/>
    <edge from-layer="3" from-port="1" to-layer="4" to-port="0"/>
  </edges>
</net>
"""
    return xml.encode(), weights


# The layers of MTTS-CAN with weights, as Keras numbers them, and the shapes that Keras gives these.
KERAS_SHAPES: Mapping[str, tuple[int, ...]] = {
    "conv2d": (3, 3, 3, 32),
    "conv2d_1": (3, 3, 32, 32),
    "conv2d_2": (3, 3, 3, 32),
    "conv2d_3": (3, 3, 32, 32),
    "conv2d_4": (1, 1, 32, 1),
    "conv2d_5": (3, 3, 32, 64),
    "conv2d_6": (3, 3, 64, 64),
    "conv2d_7": (3, 3, 32, 64),
    "conv2d_8": (3, 3, 64, 64),
    "conv2d_9": (1, 1, 64, 1),
    "dense": (3136, 128),
    "dense_1": (3136, 128),
    "output_1": (128, 1),
    "output_2": (128, 1),
}


def keras_weights(seed: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Kernel and bias of each layer, by chance."""
    chance = np.random.default_rng(seed)
    return {
        layer: (
            (chance.standard_normal(shape) / np.sqrt(np.prod(shape[:-1]))).astype(np.float32),
            (chance.standard_normal(shape[-1:]) * 0.1).astype(np.float32),
        )
        for layer, shape in KERAS_SHAPES.items()
    }


def write_keras(
    path: Path,
    weights: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    config: Mapping[str, Any] | None = None,
    weights_only: bool = False,
) -> Path:
    """Write the file that Keras writes: groups by layer, names in attributes, and the wiring as JSON."""
    wiring = json.loads(KERAS_CONFIG.read_text()) if config is None else config
    with h5py.File(path, "w") as file:
        if not weights_only:
            file.attrs["model_config"] = json.dumps(wiring)
        file.attrs["backend"] = b"tensorflow"
        file.attrs["keras_version"] = b"2.4.0"
        top = file if weights_only else file.create_group("model_weights")
        names = [layer["name"] for layer in wiring["config"]["layers"]]
        top.attrs["layer_names"] = [name.encode() for name in names]
        for name in names:
            group = top.create_group(name)
            group.attrs["weight_names"] = []
            if name in weights:
                kernel, bias = weights[name]
                group.attrs["weight_names"] = [f"{name}/kernel:0".encode(), f"{name}/bias:0".encode()]
                group[f"{name}/kernel:0"], group[f"{name}/bias:0"] = kernel, bias
    return path

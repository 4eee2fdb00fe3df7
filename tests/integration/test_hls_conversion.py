"""What hub `hls` fetches becomes IR in a confined child, and answers as the published networks do."""

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import openvino as ov
import pytest
import torch

from common.catalog.hls import NAMES as MODELS
from common.errors import ConversionFailed, SourceNotFound
from common.planning import Wish
from common.vocabulary import ModelType
from tests.contract.test_hub_contract import contents
from tests.fakes.hls import (
    ECG,
    ECG_NAMES,
    KERAS_CONFIG,
    KERAS_SHAPES,
    FakeHls,
    ecg_model,
    keras_weights,
    write_keras,
)
from tests.stage_chain import Done, Offer, Refused, run_job
from worker.converters.hls.keras import read_weights
from worker.converters.hls.pose import MAY_LACK, PoseNetwork
from worker.converters.hls.rppg import RppgNetwork

POSE_WEIGHTS = Path(__file__).parent.parent / "fakes" / "pose_weights.txt"
"""Names and shapes of the checkpoint's weights, from the authors' own program (models/with_mobilenet.py)."""

POSE = "human-pose-estimation-3d-0001"
Weights = dict[str, tuple[np.ndarray, np.ndarray]]


@pytest.fixture
def places() -> Iterator[FakeHls]:
    with FakeHls() as places:
        yield places


def run(places: FakeHls, tmp_path: Path, kind: ModelType, name: str | None = None) -> Done:
    offer = Offer("common.catalog.hls:HLS", "common.catalog.hls:HLS_CONVERTER", places.settings())
    wish = Wish(name=name or MODELS[kind][0], hub="hls", root="hls_assets", model_type=kind)
    return run_job(offer, tmp_path / "models", wish)


def answers(xml: Path, *inputs: np.ndarray) -> list[np.ndarray]:
    compiled = ov.Core().compile_model(xml, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled(list(inputs))
    return [found[port] for port in compiled.outputs]


# What is known of the checkpoint of 3d-pose: its names and shapes.


def pose_shapes() -> dict[str, tuple[int, ...]]:
    lines = (line.split() for line in POSE_WEIGHTS.read_text().splitlines())
    return {name: tuple(int(size) for size in shape.split("x") if size != "-") for name, shape in lines}


def pose_state(seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights by chance under exactly the names of the checkpoint, such that answers stay of a size."""
    chance = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in pose_shapes().items():
        if name in MAY_LACK:
            state[name] = torch.zeros(shape)
        elif name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(100)
        elif name.endswith("running_var"):
            state[name] = torch.rand(shape, generator=chance) + 1.0
        elif len(shape) == 4:
            state[name] = torch.randn(shape, generator=chance) / float(np.sqrt(np.prod(shape[1:])))
        else:
            state[name] = torch.randn(shape, generator=chance) * 0.1 + (0.8 if name.endswith("weight") else 0)
    return state


def saved(state: object, *, zipped: bool = False) -> bytes:
    """In the form of 2019, before the zip, unless asked otherwise."""
    packed = io.BytesIO()
    torch.save(state, packed, _use_new_zipfile_serialization=zipped)
    return packed.getvalue()


class TestPose:
    def test_the_network_has_exactly_the_weights_of_the_checkpoint(self) -> None:
        network = PoseNetwork()
        assert {name: tuple(values.shape) for name, values in network.state_dict().items()} == pose_shapes()
        without = sum(values.numel() for name, values in network.named_parameters() if name not in MAY_LACK)
        assert without == 5_085_983

    @pytest.mark.parametrize("zipped", [False, True])
    def test_it_becomes_ir_that_answers_as_the_network(self, places: FakeHls, tmp_path: Path, zipped: bool) -> None:
        state = pose_state()
        places.add_pose(saved(state, zipped=zipped))
        done = run(places, tmp_path, ModelType.POSE_3D)
        assert done.folder == tmp_path / "models/hls_assets/3d-pose"
        assert done.files - {".modelferry.json"} == {f"{POSE}.xml", f"{POSE}.bin"}
        network = PoseNetwork()
        network.load_state_dict(state)
        picture = torch.rand(1, 3, 256, 448) - 0.5
        with torch.no_grad():
            wanted = network.eval()(picture)
        found = answers(done.folder / f"{POSE}.xml", picture.numpy())
        assert [one.shape for one in found] == [(1, 57, 32, 56), (1, 19, 32, 56), (1, 38, 32, 56)]
        for one, other in zip(found, wanted, strict=True):
            assert float(other.abs().max()) > 0.1
            assert abs(one - other.numpy()).max() < 1e-3
        model = ov.Core().read_model(done.folder / f"{POSE}.xml")
        assert model.input().any_name == "data"
        assert [port.any_name for port in model.outputs] == ["features", "heatmaps", "pafs"]

    def test_a_copy_without_what_an_old_tool_needed_is_as_good(self, places: FakeHls, tmp_path: Path) -> None:
        state = {name: values for name, values in pose_state().items() if name not in MAY_LACK}
        places.add_pose(saved(state))
        assert run(places, tmp_path, ModelType.POSE_3D).files >= {f"{POSE}.xml"}

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (lambda state: state.pop("cpm.align.0.bias"), r"it lacks 1 weights, such as cpm\.align\.0\.bias"),
            (lambda state: state.update(extra=torch.zeros(1)), r"unknown 1 weights, such as extra"),
            (
                lambda state: state.update({"cpm.align.0.bias": torch.zeros(3)}),
                r"another shape 1 weights, such as cpm\.align\.0\.bias",
            ),
        ],
    )
    def test_weights_of_another_network_are_refused(
        self, places: FakeHls, tmp_path: Path, change: Any, told: str
    ) -> None:
        state = pose_state()
        change(state)
        places.add_pose(saved(state))
        with pytest.raises(Refused, match=told) as refused:
            run(places, tmp_path, ModelType.POSE_3D)
        assert refused.value.code == "conversion_failed"
        assert not (tmp_path / "models/hls_assets").exists()

    @pytest.mark.parametrize("zipped", [False, True])
    def test_a_program_in_the_checkpoint_is_not_run(self, places: FakeHls, tmp_path: Path, zipped: bool) -> None:
        mark = tmp_path / "ran"
        places.add_pose(saved({"model.0.0.weight": _Program(mark)}, zipped=zipped))
        with pytest.raises(Refused) as refused:
            run(places, tmp_path, ModelType.POSE_3D)
        assert refused.value.code in {"conversion_failed", "pickle_refused"}
        assert not mark.exists()

    def test_noise_is_no_checkpoint(self, places: FakeHls, tmp_path: Path) -> None:
        places.add_pose(hashlib.shake_128(b"noise").digest(10_000))
        with pytest.raises(Refused) as refused:
            run(places, tmp_path, ModelType.POSE_3D)
        assert refused.value.code == "conversion_failed"


class _Program:
    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self._mark,))


# MTTS-CAN once more, in numpy and with Keras' own order of everything: colours last, rows first.


def mtts_can(weights: Weights, changes: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    def layer(number: int, frames: np.ndarray, *, same: bool) -> np.ndarray:
        name = f"conv2d_{number}" if number else "conv2d"
        return np.tanh(convolved(frames, *weights[name], same=same))

    def looked(number: int, frames: np.ndarray) -> np.ndarray:
        weight = 1 / (1 + np.exp(-convolved(frames, *weights[f"conv2d_{number}"], same=True)))
        total = weight.sum(axis=1, keepdims=True).sum(axis=2, keepdims=True)
        return weight / total * weight.shape[1] * weight.shape[2] * 0.5

    motion = layer(1, shifted(layer(0, shifted(changes), same=True)), same=False)
    face = layer(3, layer(2, faces, same=True), same=False)
    motion, face = pooled(motion * looked(4, face)), pooled(face)
    motion = layer(6, shifted(layer(5, shifted(motion), same=True)), same=False)
    face = layer(8, layer(7, face, same=True), same=False)
    flat = pooled(motion * looked(9, face)).reshape(len(changes), -1)
    heads = []
    for inner, outer in (("dense", "output_1"), ("dense_1", "output_2")):
        inside = np.tanh(flat @ weights[inner][0] + weights[inner][1])
        heads.append(inside @ weights[outer][0] + weights[outer][1])
    return heads[0], heads[1]


def convolved(frames: np.ndarray, kernel: np.ndarray, bias: np.ndarray, *, same: bool) -> np.ndarray:
    rows, columns = kernel.shape[:2]
    edge = (rows // 2, columns // 2) if same else (0, 0)
    padded = np.pad(frames, ((0, 0), (edge[0],) * 2, (edge[1],) * 2, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (rows, columns), axis=(1, 2))
    return np.einsum("nhwcij,ijco->nhwo", windows, kernel, optimize=True) + bias


def shifted(frames: np.ndarray, together: int = 10) -> np.ndarray:
    tens = frames.reshape(-1, together, *frames.shape[1:])
    third = frames.shape[-1] // 3
    out = tens.copy()
    for ten in range(len(tens)):
        for frame in range(together):
            after, before = frame + 1, frame - 1
            out[ten, frame, ..., :third] = tens[ten, after, ..., :third] if after < together else 0
            out[ten, frame, ..., third : 2 * third] = tens[ten, before, ..., third : 2 * third] if before >= 0 else 0
    return out.reshape(frames.shape)


def pooled(frames: np.ndarray) -> np.ndarray:
    count, rows, columns, channels = frames.shape
    cut = frames[:, : rows // 2 * 2, : columns // 2 * 2]
    return cut.reshape(count, rows // 2, 2, columns // 2, 2, channels).mean(axis=(2, 4))


def some_frames(count: int = 20) -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.default_rng(3)
    changes, faces = (chance.standard_normal((count, 36, 36, 3)).astype(np.float32) for _ in range(2))
    return changes, faces


def keras_config() -> dict[str, Any]:
    config: dict[str, Any] = json.loads(KERAS_CONFIG.read_text())
    return config


def renamed(config: dict[str, Any], weights: Weights) -> tuple[dict[str, Any], Weights]:
    """As when the program had made other layers before, and in another order."""
    names = list(KERAS_SHAPES)[:12]
    others = [f"{name.partition('_')[0]}_{70 - number}" for number, name in enumerate(names)]
    text = json.dumps(config)
    for name, other in zip(names, others, strict=True):
        text = text.replace(f'"{name}"', f'"{other}!"')
    by_name = dict(zip(names, others, strict=True))
    return json.loads(text.replace('!"', '"')), {by_name.get(name, name): held for name, held in weights.items()}


class TestRppg:
    @pytest.mark.parametrize("weights_only", [False, True])
    def test_it_becomes_ir_that_answers_as_the_published_layers_do(
        self, places: FakeHls, tmp_path: Path, weights_only: bool
    ) -> None:
        weights = keras_weights()
        keras = write_keras(tmp_path / "k.hdf5", weights, weights_only=weights_only).read_bytes()
        places.add_rppg(keras)
        done = run(places, tmp_path, ModelType.RPPG)
        assert done.folder == tmp_path / "models/hls_assets/rppg"
        assert done.files - {".modelferry.json"} == {"mtts_can.xml", "mtts_can.bin", "mtts_can.hdf5"}
        assert (done.folder / "mtts_can.hdf5").read_bytes() == keras
        frames = some_frames()
        wanted = mtts_can(weights, *frames)
        found = answers(done.folder / "mtts_can.xml", *frames)
        for one, other in zip(found, wanted, strict=True):
            assert one.shape == (20, 1)
            assert np.ptp(other) > 0.05
            assert abs(one - other).max() < 1e-4

    def test_its_ports_are_those_of_keras(self, places: FakeHls, tmp_path: Path) -> None:
        places.add_rppg(write_keras(tmp_path / "k.hdf5", keras_weights()).read_bytes())
        model = ov.Core().read_model(run(places, tmp_path, ModelType.RPPG).folder / "mtts_can.xml")
        assert [(port.any_name, str(port.partial_shape)) for port in model.inputs] == [
            ("input_1", "[?,36,36,3]"),
            ("input_2", "[?,36,36,3]"),
        ]
        assert [port.any_name for port in model.outputs] == ["output_1", "output_2"]
        model.reshape({port: [10, 36, 36, 3] for port in model.inputs})
        assert [list(port.shape) for port in model.outputs] == [[10, 1], [10, 1]]

    def test_the_shift_matters(self) -> None:
        """A network whose layers of its own do nothing, as it was once converted, answers something else."""
        changes, faces = some_frames()
        weights = keras_weights()
        stilled = mtts_can(weights, np.repeat(changes[:1], 20, axis=0), faces)
        assert abs(stilled[0] - mtts_can(weights, changes, faces)[0]).max() > 1e-2

    def test_layers_are_known_by_their_wiring_whatever_their_names(self, tmp_path: Path) -> None:
        weights = keras_weights()
        config, held = renamed(keras_config(), weights)
        assert {layer["name"] for layer in config["config"]["layers"]} >= {"conv2d_70", "dense_59"}
        plain = read_weights(write_keras(tmp_path / "plain.hdf5", weights))
        other = read_weights(write_keras(tmp_path / "renamed.hdf5", held, config=config))
        assert plain.keys() == other.keys() == RppgNetwork().state_dict().keys()
        assert all(torch.equal(plain[name], other[name]) for name in plain)

    def test_older_versions_of_keras_do_not_note_the_frames(self, tmp_path: Path) -> None:
        config = json.loads(json.dumps(keras_config()).replace('{"n_frame": 10}', "{}"))
        assert read_weights(write_keras(tmp_path / "k.hdf5", keras_weights(), config=config))

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ('"n_frame": 10', '"n_frame": 20'),
            ('"activation": "sigmoid"', '"activation": "tanh"'),
            ('"padding": "same"', '"padding": "valid"'),
            ('"channels_last"', '"channels_first"'),
            ('"class_name": "TSM"', '"class_name": "Lambda"'),
            ('"pool_size": [2, 2]', '"pool_size": [3, 3]'),
            ('["conv2d_2", 0, 0, {}]', '["conv2d", 0, 0, {}]'),
            ('"config"', '"configuration"'),
        ],
    )
    def test_another_network_is_refused(self, tmp_path: Path, old: str, new: str) -> None:
        text = json.dumps(keras_config())
        assert old in text
        path = write_keras(tmp_path / "k.hdf5", keras_weights())
        with h5py.File(path, "r+") as file:
            file.attrs["model_config"] = text.replace(old, new)
        with pytest.raises(ConversionFailed):
            read_weights(path)

    def test_weights_of_another_shape_are_refused(self, tmp_path: Path) -> None:
        weights = keras_weights()
        weights["dense"] = (weights["dense"][0][:-1], weights["dense"][1])
        with pytest.raises(ConversionFailed, match="shape"):
            read_weights(write_keras(tmp_path / "k.hdf5", weights))

    def test_weights_in_another_file_are_refused(self, tmp_path: Path) -> None:
        secret = write_keras(tmp_path / "secret.hdf5", keras_weights())
        path = write_keras(tmp_path / "k.hdf5", keras_weights())
        with h5py.File(path, "r+") as file:
            del file["model_weights/conv2d"]
            file["model_weights/conv2d"] = h5py.ExternalLink(str(secret), "/model_weights/conv2d")
        with pytest.raises(ConversionFailed, match="elsewhere"):
            read_weights(path)

    def test_a_file_that_is_no_hdf5_inside_is_refused(self, places: FakeHls, tmp_path: Path) -> None:
        places.add_rppg(b"\x89HDF\r\n\x1a\n" + bytes(5000))
        with pytest.raises(Refused) as refused:
            run(places, tmp_path, ModelType.RPPG)
        assert refused.value.code == "conversion_failed"
        assert not (tmp_path / "models/hls_assets").exists()


class TestEcg:
    @pytest.mark.parametrize("name", ECG_NAMES)
    def test_all_four_files_are_published_as_they_came(self, places: FakeHls, tmp_path: Path, name: str) -> None:
        places.add_ecg({one: ecg_model() for one in ECG_NAMES})
        done = run(places, tmp_path, ModelType.AI_ECG, name)
        assert done.folder == tmp_path / "models/hls_assets/ai-ecg"
        held = contents(done.folder)
        held.pop(".modelferry.json")
        assert held == {path.removeprefix(f"{ECG}/"): content for path, content in places.files.items()}

    def test_a_network_that_does_not_open_is_not_published(self, places: FakeHls, tmp_path: Path) -> None:
        xml, weights = ecg_model()
        places.add_ecg(dict.fromkeys(ECG_NAMES, (xml.replace(b'type="ReLU"', b'type="Nothing"'), weights)))
        with pytest.raises(Refused, match="OpenVINO cannot open") as refused:
            run(places, tmp_path, ModelType.AI_ECG)
        assert refused.value.code == "verification_failed"
        assert not (tmp_path / "models/hls_assets").exists()


def test_the_types_lie_beside_each_other_and_nothing_else_is_touched(places: FakeHls, tmp_path: Path) -> None:
    places.add_rppg(write_keras(tmp_path / "k.hdf5", keras_weights()).read_bytes())
    places.add_ecg({one: ecg_model() for one in ECG_NAMES})
    foreign = tmp_path / "models/hls_assets/ai-ecg/patient.csv"
    beside = tmp_path / "models/hls_assets/videos/walk.mp4"
    for path in (foreign, beside):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"mine")
    run(places, tmp_path, ModelType.RPPG)
    first = run(places, tmp_path, ModelType.AI_ECG, ECG_NAMES[0])
    second = run(places, tmp_path, ModelType.AI_ECG, ECG_NAMES[1])
    root = tmp_path / "models/hls_assets"
    assert first.folder == second.folder
    assert {path.name for path in root.iterdir()} >= {"ai-ecg", "rppg", "videos"}
    assert beside.read_bytes() == b"mine"
    kept = [path for path in (tmp_path / "models").rglob("patient.csv") if path.read_bytes() == b"mine"]
    assert kept, "a foreign file is kept, if aside"
    places.files.clear()
    with pytest.raises(SourceNotFound):
        run(places, tmp_path, ModelType.RPPG)
    assert (root / "rppg/mtts_can.xml").is_file(), "a failing download leaves the earlier copy"

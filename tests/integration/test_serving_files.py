"""What a model server finds: after many publications at once, and in the cases of the wire contract."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from common.artefacts.manifest import ArtefactStore, check_published, read_published
from common.artefacts.publish import publish
from common.catalog.openvino import normalise
from common.errors import InvalidSpec
from common.planning import device_slug
from common.spec import Target
from common.vocabulary import Format, ModelType, Precision
from tests.integration.serving_publisher import FOLDER, TYPES, a_served_plan, content_of, name_of, type_of
from tests.protos.model_server import told
from tests.stored_models import a_store
from worker.serving import GRAPH_NAME, INDEX_NAME, register_model, write_serving

ROOT = Path(__file__).parents[2]
PROCESSES = 24

GRAPH_TYPES = [model_type for model_type in TYPES if model_type is not ModelType.VISION]
GENERATORS = [ModelType.LLM, ModelType.VLM]


def listed(folder: Path) -> dict[str, dict[str, object]]:
    """The entries of a folder's config_all.json by name, none of them twice."""
    entries = [entry["config"] for entry in json.loads((folder / INDEX_NAME).read_bytes())["model_config_list"]]
    assert len({entry["name"] for entry in entries}) == len(entries)
    return {str(entry["name"]): entry for entry in entries}


def check_served(folder: Path, name: str) -> dict[str, object]:
    """Follow a model's entry as the server does: to a graph, or to a version with a network. What it is told."""
    entry = listed(folder)[name]
    base = folder / str(entry["base_path"])
    if (base / GRAPH_NAME).exists():
        return told((base / GRAPH_NAME).read_text())
    versions = [path for path in base.iterdir() if path.is_dir()]
    assert [path.name for path in versions] == ["1"]
    assert sorted(path.name for path in versions[0].iterdir()) == ["model.bin", "model.xml"]
    return entry


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models directory into one folder of which many processes have published at once, three times each."""
    models_dir = tmp_path_factory.mktemp("many") / "models"
    command = [sys.executable, "-m", "tests.integration.serving_publisher", str(models_dir), str(PROCESSES), "3"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as publishers:
        try:
            looks = watch(publishers, models_dir / FOLDER)
            assert publishers.stderr is not None
            assert (publishers.wait(), publishers.stderr.read()) == (0, "")
        finally:
            publishers.kill()
    assert looks > 3
    return models_dir


def watch(publishers: "subprocess.Popen[str]", folder: Path) -> int:
    """At every moment the list can be read, and whatever it lists is there. Says how often it looked."""
    looks = 0
    while publishers.poll() is None:
        if (folder / INDEX_NAME).exists():
            for entry in listed(folder).values():
                assert (folder / str(entry["base_path"])).is_dir()
            looks += 1
    return looks


class TestManyPublicationsAtOnce:
    def test_every_model_has_its_valid_entry(self, crowded: Path) -> None:
        entries = listed(crowded / FOLDER)
        assert sorted(entries) == sorted(name_of(number) for number in range(PROCESSES))
        for number in range(PROCESSES):
            place = "/model" if type_of(number) is ModelType.VISION else ""
            assert entries[name_of(number)]["base_path"] == f"{name_of(number)}{place}"

    def test_every_model_can_be_served_as_it_was_told_last(self, crowded: Path) -> None:
        folder = crowded / FOLDER
        seen = set()
        for number in range(PROCESSES):
            said = check_served(folder, name_of(number))
            seen.add(type_of(number))
            if type_of(number) in GENERATORS:
                assert said["cache_size"] == 2
            elif type_of(number) is ModelType.VISION:
                assert (said["plugin_config"], said["target_device"]) == ({"NUM_STREAMS": "3"}, "CPU")
            else:
                assert said["plugin_config"] == {"NUM_STREAMS": "3"}
        assert seen == set(TYPES)

    def test_every_model_is_whole(self, crowded: Path) -> None:
        for number in range(PROCESSES):
            published = crowded / FOLDER / name_of(number)
            assert check_published(published, rehash=True) == []
            assert (published / "config.json").read_bytes() == content_of(number)["config.json"]

    def test_nothing_is_left_behind(self, crowded: Path) -> None:
        folder = crowded / FOLDER
        assert sorted(path.name for path in folder.iterdir()) == ["Org0", "Org1", "Org2", INDEX_NAME]
        assert list((crowded / ".modelferry" / "work").glob("publish.*")) == []


class TestPlainModels:
    @pytest.fixture
    def store(self, tmp_path: Path) -> ArtefactStore:
        return a_store(tmp_path / "models")

    def published(self, store: ArtefactStore, serving: dict[str, object] | None = None, device: str = "CPU") -> Path:
        plan = a_served_plan(store, TYPES.index(ModelType.VISION), serving or {}, device)
        return publish(store, plan, fence=lambda: None).path

    def test_the_version_costs_no_space_and_stays_read_only(self, store: ArtefactStore) -> None:
        folder = self.published(store)
        content = content_of(TYPES.index(ModelType.VISION))
        manifest = read_published(folder)
        assert manifest is not None
        by_path = {file.path: file for file in manifest.files}
        for suffix in (".bin", ".xml"):
            flat, version = folder / f"openvino_model{suffix}", folder / f"model/1/model{suffix}"
            blob = store.blobs.path(by_path[flat.name].sha256)
            assert version.read_bytes() == content[flat.name]
            assert version.samefile(flat)
            assert version.samefile(blob)
            assert blob.stat().st_mode & 0o777 == 0o444
            assert blob.stat().st_nlink == 3
            assert by_path[f"model/1/model{suffix}"].sha256 == by_path[flat.name].sha256
        assert (folder / "model").stat().st_mode & 0o777 == 0o775
        assert "model/config.json" in by_path
        assert check_published(folder, rehash=True) == []

    def test_the_same_again_touches_nothing(self, store: ArtefactStore) -> None:
        folder = self.published(store)
        before = folder.stat()
        plan = a_served_plan(store, TYPES.index(ModelType.VISION), {})
        assert publish(store, plan, fence=lambda: None).reused
        assert folder.stat() == before
        assert self.published(store, {"shape": "auto"}).stat().st_ino != before.st_ino
        assert listed(store.volume.root / FOLDER)[name_of(TYPES.index(ModelType.VISION))]["shape"] == "auto"

    def test_another_type_takes_the_place_with_all_that_goes_with_it(self, store: ArtefactStore) -> None:
        number = TYPES.index(ModelType.VISION)
        name, folder = name_of(number), store.volume.root / FOLDER
        self.published(store, {"shape": "auto"})
        plan = a_served_plan(store, number, {})
        target = Target(format=Format.OPENVINO, model_type=ModelType.LLM, precision=Precision.INT8, device="CPU")
        plan = replace(plan, dress=lambda place: write_serving(place, name, target, {}))
        done = publish(store, plan, fence=lambda: None)
        assert done.kept is None
        assert not (done.path / "model").exists()
        assert listed(folder) == {name: {"name": name, "base_path": name}}
        blobs = [store.blobs.path(file.sha256) for file in plan.artefact.files if not file.editable]
        assert [blob.stat().st_nlink for blob in blobs] == [2, 2]


class Served:
    """A conversion as far as it can be seen without converting: where it goes, and what the server is told."""

    def __init__(self, models: Path, model_type: ModelType, config: dict[str, object], name: str = "Org/Model") -> None:
        self.device = str(config.get("device", "CPU"))
        self.precision, _, self.serving = normalise(model_type, self.device, config)
        self.precision_folder = models / f"openvino_models/{device_slug(self.device)}/{self.precision}"
        self.model_folder = self.precision_folder / name
        self.model_folder.mkdir(parents=True, exist_ok=True)
        for file in ("openvino_model.xml", "openvino_model.bin"):
            (self.model_folder / file).touch()
        target = Target(format=Format.OPENVINO, model_type=model_type, precision=self.precision, device=self.device)
        write_serving(self.model_folder, name, target, self.serving)
        register_model(self.precision_folder, name)

    @property
    def graph(self) -> str:
        return (self.model_folder / GRAPH_NAME).read_text()

    @property
    def entry(self) -> dict[str, object]:
        (entry,) = listed(self.precision_folder).values()
        return entry


class TestContract:
    @pytest.mark.parametrize("model_type", GENERATORS)
    @pytest.mark.parametrize("size", [4, "10"])
    def test_case_55_four_bits_on_gpu_with_a_cache(self, tmp_path: Path, model_type: ModelType, size: object) -> None:
        served = Served(tmp_path, model_type, {"precision": "int4", "device": "GPU", "cache_size": size})
        assert served.model_folder == tmp_path / "openvino_models/gpu/int4/Org/Model"
        assert re.search(rf"^\s*cache_size: {size},$", served.graph, re.MULTILINE)
        assert (told(served.graph)["cache_size"], told(served.graph)["device"]) == (int(str(size)), "GPU")
        assert served.entry == {"name": "Org/Model", "base_path": "Org/Model"}

    @pytest.mark.parametrize("model_type", GENERATORS)
    def test_case_55_a_stream_editor_can_change_the_cache(self, tmp_path: Path, model_type: ModelType) -> None:
        served = Served(tmp_path, model_type, {"cache_size": 4})
        command = ["sed", "-i", "s/cache_size:[[:space:]]*[0-9]*/cache_size: 7/", str(served.model_folder / GRAPH_NAME)]
        subprocess.run(command, check=True)
        assert told(served.graph)["cache_size"] == 7

    @pytest.mark.parametrize("model_type", TYPES)
    def test_case_56_nothing_said_is_int8_on_cpu(self, tmp_path: Path, model_type: ModelType) -> None:
        served = Served(tmp_path, model_type, {})
        assert served.precision is Precision.INT8
        assert served.model_folder == tmp_path / "openvino_models/cpu/int8/Org/Model"
        assert "CPU" in check_served(served.precision_folder, "Org/Model").values()

    @pytest.mark.parametrize("model_type", GENERATORS)
    def test_case_57_npu_is_always_four_bits(self, tmp_path: Path, model_type: ModelType) -> None:
        served = Served(tmp_path, model_type, {"device": "NPU", "precision": "int8", "max_prompt_len": 2048})
        assert served.model_folder == tmp_path / "openvino_models/npu/int4/Org/Model"
        properties = told(served.graph)["plugin_config"]["DEVICE_PROPERTIES"]
        assert properties == {"NPU": {"MAX_PROMPT_LEN": 2048, "NPUW_LLM_ENABLE_PREFIX_CACHING": True}}

    @pytest.mark.parametrize("model_type", [one for one in TYPES if one not in GENERATORS])
    def test_case_57_npu_is_for_generators_only(self, model_type: ModelType) -> None:
        with pytest.raises(InvalidSpec, match="NPU target device is only supported for 'llm' and 'vlm' model types"):
            normalise(model_type, "NPU", {"precision": "int8"})

    @pytest.mark.parametrize("model_type", TYPES)
    def test_case_57_npu_among_several_devices_is_not_npu(self, tmp_path: Path, model_type: ModelType) -> None:
        config: dict[str, object] = {"device": "HETERO:NPU,CPU", "precision": "int8"}
        if model_type is ModelType.IMAGE_GENERATION:
            config["resolution"] = "512x512"
        served = Served(tmp_path, model_type, config)
        assert served.model_folder == tmp_path / "openvino_models/hetero_npu_cpu/int8/Org/Model"
        said = check_served(served.precision_folder, "Org/Model")
        assert "HETERO:NPU,CPU" in said.values()
        if model_type in GRAPH_TYPES:
            assert said["plugin_config"]["MODEL_DISTRIBUTION_POLICY"] == "PIPELINE_PARALLEL"
            assert "DEVICE_PROPERTIES" not in said["plugin_config"]

    @pytest.mark.parametrize(("asked", "got"), [(None, "VLM"), ("VLM_CB", "VLM_CB"), ("AUTO", "AUTO")])
    @pytest.mark.parametrize("nested", [False, True])
    def test_case_58_a_vlm_has_its_own_pipeline(
        self, tmp_path: Path, asked: str | None, got: str, nested: bool
    ) -> None:
        config: dict[str, object] = {} if asked is None else {"pipeline_type": asked}
        served = Served(tmp_path, ModelType.VLM, {"openvino_config": config} if nested else config)
        assert re.findall(r"pipeline_type: (\w+),", served.graph) == [got]

    @pytest.mark.parametrize("model_type", [one for one in TYPES if one not in GENERATORS])
    def test_case_59_a_cache_is_dropped(self, tmp_path: Path, model_type: ModelType) -> None:
        served = Served(tmp_path, model_type, {"cache_size": "10"})
        assert "cache_size" not in served.serving
        assert not any("cache_size" in file.read_text() for file in served.precision_folder.rglob("*.*t*"))

    @pytest.mark.parametrize(("asked", "got"), [(None, True), (True, True), (False, False), ("false", False)])
    def test_case_59_normalisation_is_what_it_says(self, tmp_path: Path, asked: object, got: bool) -> None:
        said = told(Served(tmp_path, ModelType.EMBEDDINGS, {"normalize": asked, "pooling": "MEAN"}).graph)
        assert (said["normalize_embeddings"], said["pooling"]) == (got, "MEAN")

    @pytest.mark.parametrize("model_type", GRAPH_TYPES)
    def test_case_62_a_model_that_was_pulled_is_served_like_any_other(
        self, tmp_path: Path, model_type: ModelType
    ) -> None:
        converted = Served(tmp_path / "converted", model_type, {"num_streams": 2})
        place = tmp_path / "pulled/openvino_models/cpu/int8/Org/Model"
        place.mkdir(parents=True)
        (place / GRAPH_NAME).write_text("what the repository brought")
        pulled = Served(tmp_path / "pulled", model_type, {"num_streams": 2})
        assert pulled.graph == converted.graph
        assert pulled.entry == converted.entry

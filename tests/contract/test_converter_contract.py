"""What every converter plugin promises that can be seen without its library; and what the catalog does with plugins."""

from pathlib import Path

import msgspec
import pytest

from common.catalog.registry import Catalog
from common.errors import InvalidSpec, PluginUnavailable
from common.plugins import Access, ConverterPlugin, Order
from common.spec import Target
from common.vocabulary import Format, ModelType, Precision
from tests.fakes.attempt import LocalAttempt

OF_WEIGHTS = {Precision.INT4, Precision.INT8, Precision.FP16, Precision.FP32}
PLUGINS = Path(__file__).parent.parent / "fakes" / "plugins"


@pytest.fixture(params=["openvino", "noisy"])
def plugin(request: pytest.FixtureRequest, third_party: Path) -> ConverterPlugin:
    del third_party
    return Catalog.installed("all").converters[request.param]


@pytest.fixture
def third_party(monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(PLUGINS))
    return PLUGINS


def test_the_descriptor_is_whole(plugin: ConverterPlugin) -> None:
    assert plugin.description
    assert plugin.reads
    assert plugin.model_types
    assert plugin.precisions


def test_options_are_closed_and_travel_as_json(plugin: ConverterPlugin) -> None:
    for model_type in plugin.model_types:
        for precision in plugin.precisions:
            if model_type is not ModelType.LLM and precision not in OF_WEIGHTS:
                continue  # which types take which of these is the converter's own affair
            used, recipe, serving = plugin.normalise(model_type, "CPU", asked_for(precision))
            target = Target(format=plugin.writes, model_type=model_type, precision=used, device="CPU")
            assert plugin.suits(plugin.reads, target)
            for bind, raw in ((plugin.bind, recipe), (plugin.bind_serving, serving)):
                once = msgspec.to_builtins(bind(raw))
                assert msgspec.to_builtins(bind(msgspec.json.decode(msgspec.json.encode(once)))) == once
    with pytest.raises(InvalidSpec):
        plugin.bind({"no such option": 1})
    with pytest.raises(InvalidSpec):
        plugin.bind_serving({"no such option": 1})


def asked_for(precision: Precision) -> dict[str, object]:
    """The least that a client says to get this number format."""
    match precision:
        case Precision.INT4 | Precision.INT8 | Precision.FP16 | Precision.FP32:
            return {"precision": precision.value}
        case Precision.MXFP4 | Precision.NF4 | Precision.CB4:
            return {"weight_format": precision.value}
        case _:
            return {"quant_mode": precision.value, "dataset": "path:texts.txt"}


def test_a_converter_writes_below_output_and_serving_can_be_repeated(third_party: Path, tmp_path: Path) -> None:
    del third_party
    plugin = Catalog.installed("noisy").converters["noisy"]
    converter = plugin.load(Access())
    model_type = next(iter(plugin.model_types))
    target = Target(format=Format.OPENVINO, model_type=model_type, precision=Precision.INT8, device="CPU")
    attempt = LocalAttempt(tmp_path / "attempt")
    output = attempt.workspace / "output"
    order = Order(target=target, options=plugin.bind({}), folder=output)
    assert [one is not None for one in converter.convert(tmp_path, [order], attempt)] == [True]
    assert [path.name for path in output.iterdir()] == ["openvino_model.xml"]
    for _ in range(2):
        converter.serve(output, "org/model", target, {})
        converter.register(tmp_path, "org/model")
    assert converter.versions(plugin.bind({}))


def test_a_plugin_that_cannot_be_imported_stops_only_those_who_asked_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[modelferry.hubs]\nbroken = no_such_module:PLUGIN\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "broken" not in Catalog.installed("huggingface").disabled_hubs
    with pytest.raises(PluginUnavailable, match="'broken' cannot be imported"):
        Catalog.installed("huggingface,broken")

"""Which folder, which export and which files a request to hub `geti` means, without a server."""

from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.catalog.geti import GETI, GetiOptions
from common.catalog.registry import Catalog
from common.errors import InvalidSpec, SourceNotFound
from common.planning import Wish, plan
from common.spec import Source, check_file_path
from worker.hubs.geti.exports import arrange
from worker.hubs.geti.search import find, fits
from worker.hubs.geti.values import Group, Model, Project, Trained, Variant, shown


def folder(name: str, **config: object) -> str:
    """Where a wish ends up, below the requested directory."""
    wish = Wish(name=name, hub="geti", root="", config=config)
    return plan(wish, Catalog.installed("geti")).destination.folder


class TestPlace:
    def test_case_53_a_name_has_a_folder_for_each_precision(self) -> None:
        assert folder("YOLOX-S") == "geti/yolox-s/fp16"
        assert folder("YOLOX-S", precision="INT8") == "geti/yolox-s/int8"
        assert folder("Boxes (new) v1.2") == "geti/boxes (new) v1.2/fp16"

    def test_case_53_filters_are_segments_in_the_order_of_their_keys(self) -> None:
        assert folder("m", zone="Line 4", area="North") == "geti/m/north/line_4/fp16"

    def test_what_chooses_the_export_by_itself_is_no_segment(self) -> None:
        config = {"export_type": "base", "model_format": "ONNX", "model_only": True, "model_group_id": "a"}
        assert folder("m", **config, optimized_model_id="b") == "geti/m/fp16"

    @pytest.mark.parametrize(
        ("value", "segment"),
        [
            ("A  b\t/\\ C", "a_b_c"),
            ("Ärger", "ärger"),
            (3, "key"),
            (True, "key"),
            (["x"], "key"),
            ({"a": 1}, "key"),
        ],
    )
    def test_a_value_becomes_a_segment(self, value: object, segment: str) -> None:
        assert folder("m", key=value) == f"geti/m/{segment}/fp16"

    def test_a_filter_of_null_is_none(self) -> None:
        assert folder("m", key=None) == "geti/m/fp16"

    @pytest.mark.parametrize("value", ["..", ".", "", "..x", "a..b", ".hidden", "a\0b", "x" * 300, "\ud800"])
    def test_a_value_that_is_no_folder_is_refused(self, value: str) -> None:
        with pytest.raises(InvalidSpec):
            folder("m", key=value)

    @pytest.mark.parametrize("key", ["..", "a/b", ".x", "", "a\\b", "a\nb"])
    def test_a_key_that_is_no_folder_is_refused(self, key: str) -> None:
        with pytest.raises(InvalidSpec):
            folder("m", **{key: 1})

    @pytest.mark.parametrize("precision", ["../x", "", "a/b", "."])
    def test_a_precision_that_is_no_folder_is_refused(self, precision: str) -> None:
        with pytest.raises(InvalidSpec):
            folder("m", precision=precision)

    @pytest.mark.parametrize(
        "name",
        ["../x", "a/b", "a\\b", "a..b", ".x", " x", "x ", "x.", "-x", "a\nb", "a\x7fb", "a\u202eb", "", "x" * 129],
    )
    def test_names_that_would_leave_their_folder_are_refused(self, name: str) -> None:
        with pytest.raises(InvalidSpec):
            folder(name)

    def test_case_21_nothing_is_left_to_convert(self) -> None:
        wish = Wish(name="m", hub="geti", root="", convert=True)
        with pytest.raises(InvalidSpec, match="cannot be converted"):
            plan(wish, Catalog.installed("geti,openvino"))

    def test_an_export_type_that_nobody_knows_is_refused(self) -> None:
        with pytest.raises(InvalidSpec):
            folder("m", export_type="deployment")

    @given(name=st.text(max_size=140), values=st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=3))
    def test_every_folder_is_safe_whatever_is_asked_for(self, name: str, values: dict[str, str]) -> None:
        try:
            found = folder(name, **{"extra": values} if values else {})
        except InvalidSpec:
            return
        check_file_path(found)
        parts = found.split("/")
        assert parts[0] == "geti"
        assert len(parts) <= 3 + len(values)
        assert not any(part.startswith(".") or ".." in part or "\\" in part for part in parts)


class Shelf:
    """A server of one project with one group, without a network."""

    def __init__(self, *variants: Variant, names: tuple[str, ...] = ("m",)) -> None:
        self._variants = variants
        self._names = names

    def projects(self) -> Iterator[Project]:
        yield Project("p", "Project")

    def groups(self, project: Project) -> Iterator[Group]:
        del project
        for name in self._names:
            yield Group(id="g", name=name, models=(Trained(id="t", name=name, version="1", created=None, document={}),))

    def model(self, project: Project, group: Group, trained: Trained) -> Model:
        return Model(
            project=project,
            group=group,
            id=trained.id,
            name=trained.name,
            version=trained.version,
            created=None,
            base_url=None,
            variants=self._variants,
        )

    def check(self) -> None:
        pass


def variant(name: str = "v", precision: str = "FP16", **fields: object) -> Variant:
    return Variant(id=name, model_format="OpenVINO", precisions=(precision,), url="https://x", fields=fields)


def chosen(*variants: Variant, config: Mapping[str, object]) -> tuple[str, tuple[str, ...]]:
    choice = find(Shelf(*variants), Source(hub="geti", name="M"), GETI.bind(config))
    assert choice.variant is not None
    return choice.variant.id, choice.ignored


class TestFilters:
    @pytest.mark.parametrize(
        ("value", "wanted", "fit"),
        [
            ("Edge", "eDGE", True),
            ("Edge", "ed", False),
            (["A", "b"], "B", True),
            (["A"], "c", False),
            ([1, 2], 2, True),
            (["a", "b"], ["a", "b"], True),
            (["a", "b"], ["b"], False),
            (3, 3, True),
            (3, "3", False),
            (True, True, True),
            (1, True, False),
            (True, 1, False),
            ({"a": 1}, {"a": 1}, True),
            (None, "x", False),
        ],
    )
    def test_a_value_fits_or_not(self, value: object, wanted: object, fit: bool) -> None:
        assert fits(value, wanted) is fit

    def test_the_first_that_fits_is_taken(self) -> None:
        held = (variant("a", colour="red"), variant("b", colour="Blue"), variant("c", colour="blue"))
        assert chosen(*held, config={"colour": "BLUE"}) == ("b", ())

    def test_a_key_that_some_candidate_has_is_never_ignored(self) -> None:
        held = (variant("a"), variant("b", colour="blue"))
        assert chosen(*held, config={"colour": "blue"}) == ("b", ())
        with pytest.raises(SourceNotFound, match="with the wanted colour"):
            chosen(*held, config={"colour": "red"})

    def test_a_key_of_other_precisions_only_is_ignored(self) -> None:
        held = (variant("a", "INT8", colour="blue"), variant("b"))
        assert chosen(*held, config={"colour": "red", "age": 3}) == ("b", ("age", "colour"))

    def test_a_null_is_no_value(self) -> None:
        assert chosen(variant("a", colour=None), config={"colour": "red"}) == ("a", ("colour",))

    def test_a_key_that_one_model_knew_holds_for_the_next(self) -> None:
        class Two(Shelf):
            def model(self, project: Project, group: Group, trained: Trained) -> Model:
                self._variants = (variant("a", colour="blue"),) if group.name == "m" else (variant("b"),)
                return super().model(project, group, trained)

        with pytest.raises(SourceNotFound):
            find(Two(names=("m", "M")), Source(hub="geti", name="m"), GetiOptions(extra={"colour": "red"}))


class TestArrange:
    def test_deployment_and_models_are_taken_away(self) -> None:
        held = ["deployment/models/model.xml", "deployment/models/model.bin", "deployment/a.json", "README.md"]
        assert list(arrange(held).values()) == ["model.xml", "model.bin", "a.json", "README.md"]

    def test_inner_folders_stay(self) -> None:
        held = ["deployment/Detection/models/model.xml", "model/models/x.bin", "python/demo.py"]
        assert list(arrange(held).values()) == ["Detection/model.xml", "model/x.bin", "python/demo.py"]

    def test_a_package_of_code_keeps_its_folders(self) -> None:
        held = ["python/models/yolo.py", "python/models/__init__.py", "models/model.xml"]
        assert list(arrange(held).values()) == ["python/models/yolo.py", "python/models/__init__.py", "model.xml"]

    @pytest.mark.parametrize(
        ("held", "placed"),
        [
            (["deployment/models/a.xml", "deployment/a.xml"], ["models/a.xml", "a.xml"]),
            (["deployment/a.xml", "a.xml"], ["deployment/a.xml", "a.xml"]),
            (["models/A.xml", "a.xml"], ["models/A.xml", "a.xml"]),
            (["models/a/b.xml", "a"], ["models/a/b.xml", "a"]),
        ],
    )
    def test_files_never_meet(self, held: list[str], placed: list[str]) -> None:
        assert list(arrange(held).values()) == placed

    def test_a_file_of_such_a_name_is_a_file(self) -> None:
        assert arrange(["models", "deployment.xml"]) == {"models": "models", "deployment.xml": "deployment.xml"}


def test_a_servers_word_is_shown_in_one_line() -> None:
    assert shown("a\nb\x1b[0m\u202ec \u00a0 d") == "a b [0m c d"
    assert len(shown("x" * 5000)) == 200

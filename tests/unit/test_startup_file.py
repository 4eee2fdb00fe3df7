"""The startup file: what is taken, and that anything else leaves the whole of it aside without telling its values."""

import json
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.compat.startup import MOST_BYTES, StartupFile, StartupFileUnusable, read_startup_file
from api.compat.yaml_text import UnusableYaml, read_yaml
from common.planning import Wish
from common.settings import Settings, read_settings

HUBS = ["huggingface", "openvino"]
A_MODEL: dict[str, Any] = {"name": "org/model", "hub": "huggingface"}
A_FILE: dict[str, Any] = {"download_path": "models", "models": [A_MODEL]}
EXAMPLE = Path(__file__).parents[2] / "docs" / "startup-models.example.yaml"
SECRET = "aGZfZXhhbXBsZQ=="


def read(folder: Path, content: str | bytes | dict[str, Any], name: str = "startup.yaml") -> StartupFile:
    file = folder / name
    if isinstance(content, dict):
        content = json.dumps(content)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_startup_file(str(file), HUBS)


def refused(folder: Path, content: str | bytes | dict[str, Any], name: str = "startup.yaml") -> str:
    with pytest.raises(StartupFileUnusable) as raised:
        read(folder, content, name)
    assert SECRET not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("name", ["startup.json", "startup.yaml", "startup.yml", "STARTUP.JSON", "a.b.YmL"])
def test_case_70_the_suffix_says_what_it_is(tmp_path: Path, name: str) -> None:
    file = read(tmp_path, A_FILE, name)
    assert (file.download_path, [model.name for model in file.models]) == ("models", ["org/model"])


@pytest.mark.parametrize("name", ["startup.txt", "startup", "startup.yaml.bak", ".yaml", "yaml"])
def test_case_70_no_other_suffix_is_read(tmp_path: Path, name: str) -> None:
    assert refused(tmp_path, A_FILE, name) == "The name must end in .json, .yaml, .yml"


def test_yaml_says_the_same_as_a_request(tmp_path: Path) -> None:
    file = read(
        tmp_path,
        """
        download_path: models
        parallel_downloads: true
        models:
          - name: Org/Model
            hub: OpenVINO
            type: reranker
            is_ovms: yes
            revision: 2024-01-01
            download_path: elsewhere
            priority: high
            config: {precision: int4, device: gpu, cache_size: "10", colour: blue}
            override_credentials: {HF_TOKEN: aGZfZXhhbXBsZQ==}
        """,
    )
    (model,) = file.models
    assert model.download_path == "elsewhere"
    assert model.wish() == Wish(
        name="Org/Model",
        hub="openvino",
        root="",
        model_type=model.type,
        convert=True,
        revision="2024-01-01",
        priority=model.priority,
        config={"precision": "int4", "device": "GPU", "cache_size": 10, "colour": "blue"},
        credentials={"HF_TOKEN": "hf_example"},
    )


def test_the_example_is_a_startup_file() -> None:
    file = read_startup_file(str(EXAMPLE), HUBS)
    assert len(file.models) > 1
    assert file.gates
    assert all(model.wish() for group in file.groups().values() for model in group.models)


def test_a_shared_config_may_be_written_once(tmp_path: Path) -> None:
    file = read(
        tmp_path,
        """
        download_path: .
        models:
          - {name: a/a, hub: openvino, config: &small {precision: int4}}
          - {name: b/b, hub: openvino, config: *small}
          - {name: c/c, hub: openvino, config: {<<: *small, device: GPU}}
        """,
    )
    assert [model.wish().config for model in file.models] == [
        {"precision": "int4"},
        {"precision": "int4"},
        {"precision": "int4", "device": "GPU"},
    ]


def test_a_hundred_models_and_a_mebibyte_are_taken(tmp_path: Path) -> None:
    file = read(tmp_path, {**A_FILE, "models": [A_MODEL] * 100}, "a.json")
    assert len(file.models) == 100
    text = json.dumps(A_FILE)
    assert read(tmp_path, text + " " * (MOST_BYTES - len(text)), "a.json").models
    assert read(tmp_path, b"\xef\xbb\xbf" + text.encode(), "b.json").models, "a mark that some editors write"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"models": [A_MODEL] * 101}, "models: List should have at most 100 items"),
        ({"models": []}, "models: List should have at least 1 item"),
        ({"models": None}, "models: "),
        ({"more": 1}, "more: Extra inputs are not permitted"),
        ({"models": [{**A_MODEL, "colour": "blue"}]}, "models.0.colour: Extra inputs are not permitted"),
        ({"models": [A_MODEL, {"hub": "huggingface"}]}, "models.1.name: Field required"),
        ({"models": [{**A_MODEL, "hub": "nope"}]}, "models.0.hub: Input should be 'huggingface'"),
        ({"models": [{**A_MODEL, "revision": 3}]}, "models.0.revision: Input should be a valid string"),
        ({"models": [{**A_MODEL, "config": {"cache_size": 0}}]}, "models.0.config.cache_size: "),
        ({"models": [{**A_MODEL, "target": "toaster"}]}, "models.0.target: "),
        ({"models": [{**A_MODEL, "download_path": " "}]}, "models.0.download_path: Value error, must not be blank"),
        (
            {"models": [{**A_MODEL, "override_credentials": {"HF_TOKEN": SECRET + "!"}}]},
            "override_credentials['HF_TOKEN'] must be a valid Base64-encoded UTF-8 string",
        ),
        ({"download_path": ""}, "download_path: String should have at least 1 character"),
        ({"download_path": " \t"}, "download_path: Value error, must not be blank"),
        ({"download_path": "a\0b"}, "download_path: Value error, must not hold a NUL"),
        ({"download_path": "a" * 4097}, "download_path: String should have at most 4096 characters"),
        ({"download_path": None}, "download_path: "),
        ({"parallel_downloads": "perhaps"}, "parallel_downloads: "),
        ({"gates": {}}, "gates: Dictionary should have at least 1 item"),
        ({"gates": {"Chat": {"models": [A_MODEL]}}}, "gates.Chat.[key]: Value error, must be 1 to 63 of a-z"),
        ({"gates": {"startup": {"models": [A_MODEL]}}}, "gates.startup.[key]: Value error, is the name of the gate of"),
        ({"gates": {"chat": {"models": []}}}, "gates.chat.models: List should have at least 1 item"),
        ({"gates": {"chat": {"models": [{**A_MODEL, "colour": "blue"}]}}}, "gates.chat.models.0.colour: Extra inputs"),
        ({"gates": {"chat": {"models": [A_MODEL], "more": 1}}}, "gates.chat.more: Extra inputs are not permitted"),
        ({"gates": {"chat": {"models": [A_MODEL], "download_path": ""}}}, "gates.chat.download_path: String should"),
    ],
)
def test_case_70_one_wrong_field_leaves_the_whole_file_aside(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    for name in ("startup.json", "startup.yaml"):
        assert said in refused(tmp_path, {**A_FILE, **change}, name)


def test_gates_of_the_file_go_where_the_file_says_unless_they_say_otherwise(tmp_path: Path) -> None:
    gates = {"chat": {"models": [A_MODEL]}, "see": {"models": [A_MODEL], "download_path": "eyes"}}
    groups = read(tmp_path, {**A_FILE, "gates": gates}).groups()
    assert {name: group.download_path for name, group in groups.items()} == {
        "startup": "models",
        "chat": "models",
        "see": "eyes",
    }
    alone = read(tmp_path, {"download_path": "models", "gates": gates})
    assert list(alone.groups()) == ["chat", "see"]
    assert "there must be 'models', or 'gates'" in refused(tmp_path, {"download_path": "models"})


def test_faults_are_told_together_but_not_without_end(tmp_path: Path) -> None:
    said = refused(tmp_path, {"download_path": "", "models": [{"name": ""}] * 20})
    assert said.startswith("download_path: ")
    assert said.count("; ") == 10
    assert said.endswith("; and 31 more")


def test_case_70_what_is_no_file_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "link.yaml").symlink_to(tmp_path / "pipe.yaml")
    (tmp_path / "null.yaml").symlink_to("/dev/null")
    for name in ("pipe.yaml", "folder.yaml", "link.yaml", "null.yaml"):
        with pytest.raises(StartupFileUnusable, match=r"^It is not a regular file$|Is a directory"):
            read_startup_file(str(tmp_path / name), HUBS)
    # The path of a socket must be short.
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.yaml")
        with pytest.raises(StartupFileUnusable, match="cannot be read"):
            read_startup_file(str(tmp_path / "socket.yaml"), HUBS)


@pytest.mark.parametrize("path", ["/no/such/file.yaml", "a\0b.yaml", "\ud800.yaml", "x" * 300 + ".yaml"])
def test_a_path_that_leads_nowhere(path: str) -> None:
    with pytest.raises(StartupFileUnusable, match="It cannot be read"):
        read_startup_file(path, HUBS)


def test_a_mounted_map_of_links_is_followed(tmp_path: Path) -> None:
    real = tmp_path / "..2026_01_01"
    real.mkdir()
    (real / "startup-models.yaml").write_text(json.dumps(A_FILE))
    (tmp_path / "..data").symlink_to(real.name)
    (tmp_path / "startup-models.yaml").symlink_to("..data/startup-models.yaml")
    assert read_startup_file(str(tmp_path / "startup-models.yaml"), HUBS).models


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b" " * (MOST_BYTES + 1), "It is larger than 1048576 bytes"),
        (b"download_path: \xff", "It is not UTF-8 at byte 15"),
        (b"", "the file: "),
        (b"just text", "the file: "),
        (b"download_path: [", "It is not YAML that is read here, at line 1, column 17"),
        (
            b"download_path: a\nmodels: !!python/object/apply:os.getcwd []",
            "It is not YAML that is read here, at line 2",
        ),
        (b"a: 1\n---\nb: 2\n", "It is not YAML that is read here"),
        (b"download_path: a\ndownload_path: b\n", "The key 'download_path' stands twice in one mapping, at line 2"),
        (b"? [a]\n: b\n", "A key is not text"),
        (b"a: *nowhere", "It is not YAML that is read here"),
        (b"a: &a [*a]", "It refers to itself"),
        (b"a: " + b"[" * 60 + b"]" * 60, "It is nested too deeply"),
        (b"[" * 100_000, "It is nested too deeply"),
        (b"a: .inf", "It holds a value that JSON cannot express"),
        (b"a: !!set {x, y}", "It holds a value that JSON cannot express"),
        (b"a: !!binary aGk=", "It holds a value that JSON cannot express"),
        (b"a: !!timestamp 2024-01-01", "It holds a value that JSON cannot express"),
        (b"a: !!timestamp x", "It holds a value that is not of the kind that its tag says"),
        (b"a: !!int x", "It holds a value that is not of the kind that its tag says"),
        (b"a: !!bool x", "It holds a value that is not of the kind that its tag says"),
        (b"a: " + b"9" * 5000, "It holds a value that is not of the kind that its tag says"),
        (b"a: 99999999999999999999", "a number is infinite or has more than 64 bits"),
        (b"a: \x07", "It holds characters that YAML does not allow"),
        (b'a: "\\ud800"', "It holds text that is not Unicode"),
    ],
)
def test_case_70_what_is_not_the_yaml_of_a_request(tmp_path: Path, content: bytes, said: str) -> None:
    assert said in refused(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "It is not JSON at line 1, column 1"),
        ('{"download_path": "a",}', "It is not JSON at line 1, column "),
        ('{"a": 1, "a": 2}', "The key 'a' stands twice in one object"),
        ("[" * 100_000, "It is nested too deeply"),
        ('{"a": NaN}', "It holds a value that JSON cannot express"),
        ('{"a": ' + "9" * 5000 + "}", "It holds a number that is too long"),
        ('{"a": "\\ud800"}', "It holds text that is not Unicode"),
        ("[]", "the file: "),
        ("null", "the file: "),
    ],
)
def test_case_70_what_is_not_the_json_of_a_request(tmp_path: Path, content: str, said: str) -> None:
    assert said in refused(tmp_path, content, "startup.json")


@pytest.mark.parametrize("form", ["[{}]", "{{<<: [{}]}}"])
def test_a_text_that_stands_for_millions_is_not_unfolded(form: str) -> None:
    lines = ["a0: &a0 {k: v}"]
    for number in range(1, 30):
        tenfold = ", ".join([f"*a{number - 1}"] * 10)
        lines.append(f"a{number}: &a{number} {form.format(tenfold)}")
    with pytest.raises(UnusableYaml, match="more than 100000 values"):
        read_yaml("\n".join(lines))


def test_a_refusal_repeats_nothing_of_the_file(tmp_path: Path) -> None:
    for line in (
        f"  HF_TOKEN: {SECRET}: [",
        f"  HF_TOKEN: '{SECRET}",
        f"  HF_TOKEN: !{SECRET} x",
        f"  - {SECRET}: \t*x",
    ):
        refused(tmp_path, f"override_credentials:\n{line}\n")
    refused(tmp_path, '{"HF_TOKEN": "' + SECRET + '"', "startup.json")
    refused(tmp_path, {**A_FILE, "models": [{**A_MODEL, "override_credentials": [SECRET], "type": SECRET}]})


@given(st.text(alphabet=st.sampled_from(list("ab1 :-[]{}&*!|>'\"\n<?,%@#~.")), max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(UnusableYaml):
        read_yaml(text)


def test_set_but_empty_is_not_unset() -> None:
    assert read_settings({}).startup_models_config is None
    assert read_settings({"STARTUP_MODELS_CONFIG": ""}).startup_models_config == ""
    assert read_settings({"STARTUP_MODELS_CONFIG": ""}) == Settings(startup_models_config="")
    with pytest.raises(StartupFileUnusable, match="The path is empty"):
        read_startup_file("", HUBS)

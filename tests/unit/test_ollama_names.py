"""What the names of Ollama's models mean, and which are refused at the door."""

import pytest

from common.catalog.ollama import OLLAMA, OllamaName
from common.catalog.registry import Catalog
from common.errors import InvalidSpec
from common.planning import Wish, plan
from worker.hubs.ollama.server import address_of

CATALOG = Catalog(hubs={"ollama": OLLAMA}, converters={}, disabled_hubs={}, disabled_converters={})


@pytest.mark.parametrize(
    ("name", "revision", "full"),
    [
        ("llama3.2", None, "registry.ollama.ai/library/llama3.2:latest"),
        ("llama3.2:3b", None, "registry.ollama.ai/library/llama3.2:3b"),
        ("llama3.2", "3b", "registry.ollama.ai/library/llama3.2:3b"),
        ("llama3.2:3b", "3b", "registry.ollama.ai/library/llama3.2:3b"),
        ("someone/model", None, "registry.ollama.ai/someone/model:latest"),
        ("someone/model:v1.0_a-b", None, "registry.ollama.ai/someone/model:v1.0_a-b"),
        ("hf.co/user/Repo-GGUF", None, "hf.co/user/Repo-GGUF:latest"),
        ("hf.co/user/Repo-GGUF:Q4_K_M", None, "hf.co/user/Repo-GGUF:Q4_K_M"),
        ("models.example:5000/team/x:1", None, "models.example:5000/team/x:1"),
        ("_under/_score:_tag", None, "registry.ollama.ai/_under/_score:_tag"),
        ("m" * 80, "t" * 80, f"registry.ollama.ai/library/{'m' * 80}:{'t' * 80}"),
    ],
)
def test_a_name_is_read_in_full(name: str, revision: str | None, full: str) -> None:
    read = OllamaName.of(name, revision)
    assert f"{read.host}/{read.namespace}/{read.model}:{read.tag}" == full
    assert read.is_same(OllamaName.of(full.upper()))


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("llama3.2", "llama3.2:latest"),
        ("registry.ollama.ai/library/llama3.2:3b", "llama3.2:3b"),
        ("someone/model", "someone/model:latest"),
        ("hf.co/user/repo:Q8_0", "hf.co/user/repo:Q8_0"),
        ("other.example/library/x", "other.example/library/x:latest"),
    ],
)
def test_it_is_shown_as_ollama_shows_it(name: str, short: str) -> None:
    assert OllamaName.of(name).short == short


@pytest.mark.parametrize(
    "name",
    [
        "", "/x", "x/", "a//b", "a/b/c/d", ".hidden", "-x", "a/.b", "x:", ":tag", "x:a:b", "x:-t", "../x", "x/..",
        "a..b", "x:a..b", "na.me/x", "host:99999999/a/b", "ho st/a/b", "x y", "x\n", "x\0", "http://h/a/b", "x@sha256:1",
        "a\\b", "x%2f", "m" * 81, f"x:{'t' * 81}", f"{'n' * 81}/x", "ünder", "h:80/x",
    ],
)  # fmt: skip
def test_what_is_no_name_is_refused_at_the_door(name: str) -> None:
    with pytest.raises(InvalidSpec):
        OllamaName.of(name)
    with pytest.raises(InvalidSpec):
        plan(Wish(name=name, hub="ollama", root=""), CATALOG)


@pytest.mark.parametrize("revision", ["a/b", "refs/pr/1", "x+y", "a@b", "..", "a..b", "t" * 81])
def test_a_revision_that_is_no_tag_is_refused_at_the_door(revision: str) -> None:
    with pytest.raises(InvalidSpec):
        plan(Wish(name="llama3.2", hub="ollama", root="", revision=revision), CATALOG)


def test_a_tag_and_another_revision_are_refused() -> None:
    with pytest.raises(InvalidSpec, match=r"the tag '1b', but the revision is '3b'"):
        plan(Wish(name="llama3.2:1b", hub="ollama", root="", revision="3b"), CATALOG)


@pytest.mark.parametrize(
    ("name", "revision", "folder"),
    [
        ("llama3.2", "3b", "ollama/llama3.2/3b"),
        ("llama3.2", None, "ollama/llama3.2"),
        ("llama3.2:3b", None, "ollama/llama3.2:3b"),
        ("hf.co/user/repo:Q4_0", None, "ollama/hf.co_user_repo:Q4_0"),
    ],
)
def test_case_47_each_has_its_folder(name: str, revision: str | None, folder: str) -> None:
    spec = plan(Wish(name=name, hub="ollama", root="x", revision=revision), CATALOG)
    assert spec.destination.folder == folder
    assert spec.shelf == "ollama"


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("1.2.3.4", "http://1.2.3.4:11434"),
        (":56789", "http://127.0.0.1:56789"),
        ("1.2.3.4:56789", "http://1.2.3.4:56789"),
        ("http://1.2.3.4", "http://1.2.3.4:80"),
        ("https://example.com", "https://example.com:443"),
        ("https://example.com:56789/path/", "https://example.com:56789/path"),
        ("example.com/", "http://example.com:11434"),
        ("example.com/path", "http://example.com:11434/path"),
        ("[0001:002:003:0004::1]", "http://[0001:002:003:0004::1]:11434"),
        ("http://[0001:002:003:0004::1]/path", "http://[0001:002:003:0004::1]:80/path"),
        ("http://user:secret@example.com", "http://example.com:80"),
    ],
)
def test_a_server_is_found_as_ollamas_own_tools_find_it(host: str, address: str) -> None:
    assert address_of(host) == address

"""The examples of docs/client.md, as they stand there, with a service that fetches."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.wire import WITHOUT_CONVERSIONS
from tests.e2e.service import Service
from tests.fakes.huggingface import FakeHuggingFace

PAGE = (Path(__file__).parents[2] / "docs" / "client.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SAYS = (
    "completed",
    "BAAI/bge-small-en completed 100.0",
    "completed",
    "in the end: completed",
    "422 body.models.0.name",
    "Qwen/Qwen3-0.6B",
)
"""What each example prints, beside other things."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with FakeHuggingFace() as hub:
        for name in ("Qwen/Qwen3-0.6B", "BAAI/bge-small-en"):
            hub.add_repo(name, {"config.json": b"{}", "model.safetensors": name.encode() * 1000})
        with Service(tmp_path_factory.mktemp("client"), run=WITHOUT_CONVERSIONS, HF_ENDPOINT=hub.endpoint) as service:
            yield service


@pytest.mark.parametrize("number", range(len(SAYS)))
def test_an_example_does_what_the_page_says(
    number: int, service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODELFERRY_URL", service.url())
    exec(compile(EXAMPLES[number], f"docs/client.md, example {number}", "exec"), {"__name__": "__main__"})
    assert SAYS[number] in capsys.readouterr().out


def test_every_example_is_tried() -> None:
    assert len(EXAMPLES) == len(SAYS)

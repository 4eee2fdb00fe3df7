"""Where models may be published."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance.cases import case
from tests.acceptance.wire import WITHOUT_CONVERSIONS, Wire, conversion
from tests.e2e.service import Service
from tests.fakes.huggingface import FakeHuggingFace

A_MODEL: dict[str, Any] = {"name": "org/model", "hub": "huggingface"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with FakeHuggingFace() as hub:
        hub.add_repo("org/model", {"config.json": b"{}", "model.safetensors": b"w" * 1000})
        with Service(
            tmp_path_factory.mktemp("destination"), run=WITHOUT_CONVERSIONS, HF_ENDPOINT=hub.endpoint
        ) as service:
            yield service


@case(23)
@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x"])
def test_a_path_that_leads_outside_is_refused(wire: Wire, path: str) -> None:
    before = sorted(wire.service.folder.iterdir())
    answer = wire.download(A_MODEL, download_path=path)
    assert (answer.status_code, answer.json()) == (
        400,
        {"detail": "Requested model destination must remain under MODELS_DIR."},
    )
    assert sorted(wire.service.folder.iterdir()) == before
    assert not wire.below("a").exists()


@case(23)
def test_a_link_that_leads_outside_is_no_way_either(wire: Wire) -> None:
    link = wire.below(f"way-out-{wire.form}")
    link.symlink_to(wire.service.folder)
    assert wire.download(A_MODEL, download_path=f"{link.name}/x").status_code == 400


@case(24)
def test_a_path_is_brought_into_its_shortest_form(wire: Wire) -> None:
    job = wire.completed(A_MODEL, f"nested/../short/{wire.form}")
    assert job["output_dir"] == str(wire.below(f"short/{wire.form}"))
    assert wire.below(f"short/{wire.form}/huggingface/org_model/model.safetensors").is_file()
    assert not wire.below("nested").exists()


@case(24)
def test_an_absolute_path_inside_is_taken(wire: Wire) -> None:
    place = wire.below(f"absolute/{wire.form}")
    assert wire.completed(A_MODEL, str(place))["output_dir"] == str(place)
    assert (place / "huggingface/org_model/model.safetensors").is_file()


@case(26)
@pytest.mark.parametrize("query", ["x%00", "a/%00/b"])
def test_a_nul_in_the_path_is_refused_and_no_failure_of_the_server(wire: Wire, query: str) -> None:
    answer = wire.ask("POST", f"/models/download?download_path={query}", json={"models": [A_MODEL]})
    assert (answer.status_code, answer.json()) == (
        400,
        {"detail": "Requested model destination is not a valid path under MODELS_DIR."},
    )


@case(27)
def test_a_conversion_keeps_the_case_of_its_path(wire: Wire) -> None:
    (job_id,) = wire.submit(conversion("Org/Model", "llm"), download_path="MixedCase")
    assert wire.job(job_id)["output_dir"] == str(wire.below("MixedCase/openvino_models/cpu/int8"))

"""The service as an agent sees it, through the official client of its protocol."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from mcp import Client as Agent
from mcp_types import TextContent, TextResourceContents

from tests.acceptance.cases import case
from tests.acceptance.wire import FORMS, WITHOUT_CONVERSIONS, Wire
from tests.e2e.service import ENDED, Service
from tests.fakes.huggingface import FakeHuggingFace

REPOSITORY = "tiny/for-agents"
FILES = {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"weights" * 1000}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with FakeHuggingFace() as hub:
        hub.add_repo(REPOSITORY, FILES)
        with Service(tmp_path_factory.mktemp("agents"), run=WITHOUT_CONVERSIONS, HF_ENDPOINT=hub.endpoint) as service:
            yield service


async def call(agent: Agent, tool: str, **arguments: Any) -> Any:
    (content,) = (await agent.call_tool(tool, arguments)).content
    assert isinstance(content, TextContent)
    return json.loads(content.text)


async def read(agent: Agent, uri: str) -> Any:
    (content,) = (await agent.read_resource(uri)).contents
    assert isinstance(content, TextResourceContents)
    return json.loads(content.text)


async def ended(agent: Agent, job_id: str) -> Any:
    async with asyncio.timeout(60):
        while True:
            job = await call(agent, "get_job_status", job_id=job_id)
            if job["status"] in ENDED:
                return job
            await asyncio.sleep(0.1)


@case(78)
def test_an_agent_fetches_a_model_with_nine_tools(wire: Wire) -> None:
    async def work() -> None:
        async with Agent(f"{wire.service.url()}{FORMS[wire.form]}/mcp") as agent:
            tools = {tool.name for tool in (await agent.list_tools()).tools}
            assert tools == {
                "health_check", "download_model", "get_job_status", "list_jobs", "cancel_job",
                "get_model_jobs", "get_model_results", "list_plugins", "list_hub_models",
            }  # fmt: skip
            assert await call(agent, "health_check") == {"status": "ok"}

            found = await call(agent, "list_hub_models", hub="huggingface", filters={"search": "for-agents"})
            assert [model["name"] for model in found["items"]] == [REPOSITORY]

            wish = {"name": REPOSITORY, "hub": "huggingface", "download_path": wire.form}
            started = await call(agent, "download_model", **wish)
            assert (started["message"], started["status"]) == (f"Started processing model '{REPOSITORY}'", "processing")
            (job_id,) = started["job_ids"]
            job = await ended(agent, job_id)
            assert (job["id"], job["status"]) == (job_id, "completed"), job
            assert "already in terminal state" in (await call(agent, "cancel_job", job_id=job_id))["error"]

            wire.service.pause("download")
            (canceled_id,) = (await call(agent, "download_model", name="tiny/unwanted", hub="huggingface"))["job_ids"]
            canceled = await call(agent, "cancel_job", job_id=canceled_id)
            wire.service.resume("download")
            assert (canceled["job_id"], canceled["status"]) == (canceled_id, "canceled")

            listed = (await call(agent, "list_jobs"))["jobs"]
            assert [one["id"] for one in listed][:2] == [canceled_id, job_id]
            assert [one["id"] for one in (await read(agent, "models://jobs"))["jobs"]] == [one["id"] for one in listed]
            assert (await read(agent, f"models://jobs/{job_id}"))["path"] == job["path"]
            of_model = (await call(agent, "get_model_jobs", model_name=REPOSITORY))["jobs"]
            assert of_model[-1]["id"] == job_id
            results = (await call(agent, "get_model_results"))["results"]
            assert [line["status"] for line in results if line["job_id"] == job_id] == ["success"]
            (short,) = [line for line in (await read(agent, "models://results"))["results"] if line["job_id"] == job_id]
            assert short.keys() == {"job_id", "model_name", "hub", "model_path", "completion_time"}
            plugins = await call(agent, "list_plugins")
            assert "activation_instructions" not in plugins
            assert "hub_config_keys" in plugins["available_plugins"]["downloader"][0]
            assert await read(agent, "models://plugins") == plugins

    asyncio.run(work())

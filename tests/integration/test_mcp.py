"""The MCP server through the official client: over HTTP in both of its protocols, and as a program."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from mcp import Client as Agent
from mcp import StdioServerParameters
from mcp.shared.exceptions import MCPError
from mcp_types import TextContent, TextResourceContents

from api.embedded.redis_server import free_port
from tests.integration.test_api_socket import process
from tests.web import web

T = TypeVar("T")

TOOLS = {
    "health_check",
    "download_model",
    "get_job_status",
    "list_jobs",
    "cancel_job",
    "get_model_jobs",
    "get_model_results",
    "list_plugins",
    "list_hub_models",
}
SECRET = "aGZfc2VjcmV0X29mX2FuX2FnZW50"  # base64 of hf_secret_of_an_agent


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with process(tmp_path_factory.mktemp("models")) as address:
        yield address


@pytest.fixture(params=["http", "http, prefixed", "http, older", "stdio"])
def agent(request: pytest.FixtureRequest, address: str) -> Callable[[], Agent]:
    """Makes official clients of one kind."""
    match request.param:
        case "http":
            return lambda: Agent(f"{address}/mcp")
        case "http, prefixed":
            return lambda: Agent(f"{address}/api/v1/mcp")
        case "http, older":
            return lambda: Agent(f"{address}/mcp", mode="legacy")
        case _:
            return lambda: Agent(program(address))


def program(address: str) -> StdioServerParameters:
    return StdioServerParameters(command=sys.executable, args=["-m", "api.mcp", "--address", address])


def told(agent: Callable[[], Agent], work: Callable[[Agent], Awaitable[T]]) -> T:
    async def run() -> T:
        async with agent() as client:
            return await work(client)

    return asyncio.run(run())


async def call(client: Agent, tool: str, **arguments: Any) -> Any:
    result = await client.call_tool(tool, arguments)
    (content,) = result.content
    assert isinstance(content, TextContent)
    assert not result.is_error, content.text
    assert result.structured_content == json.loads(content.text)
    return result.structured_content


async def read(client: Agent, uri: str) -> Any:
    (content,) = (await client.read_resource(uri)).contents
    assert isinstance(content, TextResourceContents)
    assert content.mime_type == "application/json"
    return json.loads(content.text)


def test_an_agent_goes_all_the_way(agent: Callable[[], Agent]) -> None:
    async def work(client: Agent) -> None:
        assert {tool.name for tool in (await client.list_tools()).tools} == TOOLS
        assert await call(client, "health_check") == {"status": "ok"}

        started = await call(client, "download_model", name="org/model", hub="HuggingFace", download_path="agents")
        (first,) = started["job_ids"]
        assert started == {
            "message": "Started processing model 'org/model'",
            "job_ids": [first],
            "status": "processing",
        }
        again = await call(
            client,
            "download_model",
            name="org/model",
            hub="openvino",
            type="reranker",
            is_ovms=True,
            revision="main",
            config={"precision": "int8", "cache_size": "2"},
        )
        (second,) = again["job_ids"]

        job = await call(client, "get_job_status", job_id=first)
        assert (job["id"], job["status"], job["hub"]) == (first, "queued", "huggingface")
        converted = await call(client, "get_job_status", job_id=second)
        assert (converted["model_type"], converted["revision"], converted["config"]["cache_size"]) == (
            "rerank",
            "main",
            2,
        )
        assert [job["id"] for job in (await call(client, "list_jobs"))["jobs"]][:2] == [second, first]
        assert [job["id"] for job in (await call(client, "get_model_jobs", model_name="org/model"))["jobs"]][-2:] == [
            first,
            second,
        ]
        assert await read(client, "models://jobs") == await call(client, "list_jobs")
        assert (await read(client, f"models://jobs/{first}"))["id"] == first

        canceled = await call(client, "cancel_job", job_id=first)
        assert (canceled["job_id"], canceled["status"], "message" in canceled) == (first, "canceled", True)
        assert "already in terminal state" in (await call(client, "cancel_job", job_id=first))["error"]

        assert await call(client, "get_model_results") == {"results": []}
        assert await read(client, "models://results") == {"results": []}

    told(agent, work)


def test_plugins_are_told_in_the_contracts_words(agent: Callable[[], Agent]) -> None:
    async def work(client: Agent) -> Any:
        plugins = await call(client, "list_plugins")
        assert plugins == await read(client, "models://plugins")
        return plugins

    plugins = told(agent, work)
    assert "activation_instructions" not in plugins
    hubs = {plugin["name"]: plugin for plugin in plugins["available_plugins"]["downloader"]}
    assert {key["name"] for key in hubs["huggingface"]["hub_config_keys"]} >= {"HF_TOKEN"}
    assert all("config_keys" not in plugin for plugin in hubs.values())


def test_what_fails_is_told_as_the_contract_says(agent: Callable[[], Agent]) -> None:
    async def work(client: Agent) -> None:
        refused = await call(client, "download_model", name="m", hub="nowhere")
        assert refused["status"] == "failed"
        assert "body.models.0.hub" in refused["error"]
        assert (
            "must remain under"
            in (await call(client, "download_model", name="m", hub="huggingface", download_path="../x"))["error"]
        )
        assert await call(client, "get_job_status", job_id="none") == {"error": "Job none not found"}
        assert await call(client, "cancel_job", job_id="none") == {"error": "Job none not found"}
        assert await call(client, "get_model_jobs", model_name="none") == {"error": "No jobs found for model none"}
        assert "nowhere" in (await call(client, "list_hub_models", hub="nowhere"))["error"]
        assert "body.limit" in (await call(client, "list_hub_models", hub="huggingface", limit=0))["error"]
        with pytest.raises(MCPError, match="Job none not found"):
            await client.read_resource("models://jobs/none")

    told(agent, work)


def test_prompts_and_what_is_told_of_them(agent: Callable[[], Agent]) -> None:
    async def work(client: Agent) -> None:
        assert {template.uri_template for template in (await client.list_resource_templates()).resource_templates} == {
            "models://jobs/{job_id}"
        }
        assert {str(resource.uri) for resource in (await client.list_resources()).resources} == {
            "models://jobs",
            "models://results",
            "models://plugins",
        }
        prompts = (await client.list_prompts()).prompts
        assert {prompt.name for prompt in prompts} == {
            "hub_guide",
            "fetch_model",
            "convert_model",
            "find_model",
            "review_jobs",
        }
        (guide,) = (await client.get_prompt("hub_guide")).messages
        assert isinstance(guide.content, TextContent)
        (plugins,) = (
            [plugin["name"] for plugin in (await call(client, "list_plugins"))["available_plugins"]["downloader"]],
        )
        assert [name for name in plugins if f"`{name}`" not in guide.content.text] == []
        (fetch,) = (await client.get_prompt("fetch_model", {"name": "org/model"})).messages
        assert isinstance(fetch.content, TextContent)
        assert "org/model from huggingface" in fetch.content.text
        assert client.instructions is not None

    told(agent, work)


def test_a_program_tells_when_nobody_answers() -> None:
    async def work(client: Agent) -> None:
        assert "No answer from" in (await call(client, "list_jobs"))["error"]
        refused = await call(client, "download_model", name="org/model", hub="huggingface")
        assert ("No answer from" in refused["error"], refused["status"]) == (True, "failed")

    told(lambda: Agent(program(f"http://user:{SECRET}@127.0.0.1:{free_port()}")), work)


def test_credentials_are_told_to_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not even where they are wrong."""
    caplog.set_level("DEBUG")
    with web(tmp_path, log_level="debug") as running:
        for credentials in (
            {"NO_SUCH_KEY": SECRET},
            {"HF_TOKEN": f"{SECRET}!"},
            SECRET,
            [SECRET],
            {"HF_TOKEN": [SECRET]},
        ):
            for tool in ("download_model", "list_hub_models"):
                arguments = {"name": "m", "hub": "huggingface", "override_credentials": credentials}
                answer = rpc(running.post, "tools/call", {"name": tool, "arguments": arguments})
                assert answer.status_code == 200, answer.text
                assert "error" in answer.json()["result"]["structuredContent"]
                assert SECRET not in answer.text
    assert SECRET not in caplog.text


def rpc(post: Callable[..., httpx.Response], method: str, params: Any, **headers: str) -> httpx.Response:
    return post(
        "/mcp",
        json={"jsonrpc": "2.0", "id": 1, "method": method, "params": params},
        headers={"Accept": "application/json, text/event-stream", **headers},
    )


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:6274", 200),
        ("http://127.0.0.1:3000", 200),
        ("https://tools.example", 200),
        ("https://evil.example", 403),
        ("http://localhost.evil.example", 403),
        ("null", 403),
        ("http://[", 403),
        ("", 403),
    ],
)
def test_pages_of_unknown_origins_stay_outside(tmp_path: Path, origin: str, status: int) -> None:
    with web(tmp_path, cors_allow_origins="*, https://tools.example") as running:
        answer = rpc(running.post, "tools/list", {}, Origin=origin)
        assert answer.status_code == status, answer.text
        if status == 403:
            assert answer.json()["detail"] == "Web pages of this origin may not use MCP here"


def test_other_requests_are_answered_in_order(tmp_path: Path) -> None:
    with web(tmp_path, cors_allow_origins="*") as running:
        for method in ("GET", "DELETE", "PUT"):
            answer = running.client.request(method, "/mcp", headers={"Accept": "text/event-stream"})
            assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        assert running.post("/mcp", content=b"{}").status_code == 400
        big = running.post("/mcp", content=b" " * 2_000_000, headers={"Content-Type": "application/json"})
        assert big.status_code == 413
        assert rpc(running.post, "tools/list", {}).status_code == 200
        preflight = running.client.options(
            "/mcp", headers={"Origin": "http://localhost:1", "Access-Control-Request-Method": "POST"}
        )
        assert preflight.headers["access-control-allow-origin"] == "http://localhost:1"


def test_the_tenant_is_who_asks_over_mcp(tmp_path: Path) -> None:
    arguments = {"name": "download_model", "arguments": {"name": "org/model", "hub": "huggingface"}}
    with web(tmp_path) as running:
        for headers in ({}, {"Modelferry-Tenant": "anna"}):
            assert rpc(running.post, "tools/call", arguments, **headers).status_code == 200
        assert [job["tenant"] for job in running.get("/jobs").json()["jobs"]] == ["testclient", "anna"]

"""The tools of the contract, each of them a call of the client."""

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import msgspec
from mcp.server.mcpserver import Context
from mcp_types import ToolAnnotations
from pydantic import Field, WithJsonSchema

from api.client import AsyncClient, Refused, Unreachable, WantedModel, calls
from api.client.call import Call
from api.mcp.asking import Result, failure, jobs_newest_first, plugins, tenant_of

V = TypeVar("V")

READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
ASKS_A_HUB = ToolAnnotations(read_only_hint=True, open_world_hint=True)
STARTS = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=True)
ENDS = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False)

# Not checked here: what is wrong with them would be told with their values. The service checks them and tells neither.
Credentials = Annotated[
    Any,
    WithJsonSchema({"anyOf": [{"type": "object", "additionalProperties": {"type": "string"}}, {"type": "null"}]}),
    Field(description="Credentials for this call alone: key -> value in base64. list_plugins tells a hub's keys."),
]
Hub = Annotated[str, Field(description="A hub by its name, such as huggingface, openvino, ollama or ultralytics.")]
JobId = Annotated[str, Field(description="One of the ids that download_model has given.")]


class Tools:
    """What an agent may do. What fails is told as `{"error": ...}`, so that the agent can read it."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def health_check(self) -> Result:
        """Tell whether Modelferry answers."""
        return await self._ask(calls.health())

    async def download_model(  # noqa: PLR0917 - arguments come by name, from JSON
        self,
        name: Annotated[str, Field(description="The model's name as the hub writes it, such as Qwen/Qwen3-0.6B.")],
        hub: Hub,
        ctx: Context[Any, Any],
        download_path: Annotated[str, Field(description="A folder below the models' directory; empty is itself.")] = "",
        type: Annotated[  # noqa: A002 - the contract's name
            str | None,
            Field(description="What the model is for: llm, vlm, embeddings, rerank, vision, speech2text and others."),
        ] = None,
        is_ovms: Annotated[bool, Field(description="Convert to OpenVINO, ready for OpenVINO Model Server.")] = False,
        config: Annotated[
            dict[str, Any] | None,
            Field(description="Options, such as precision (int4, int8, fp16), device (CPU, GPU, NPU), cache_size."),
        ] = None,
        revision: Annotated[str | None, Field(description="Branch, tag or commit; the hub's default if none.")] = None,
        override_credentials: Credentials = None,
        validate_credentials: Annotated[bool, Field(description="Ask the hub about the credentials first.")] = False,
    ) -> Result:
        """Start to fetch a model, and to convert it if is_ovms is set. It returns at once with the id of a job.

        Ask get_job_status for that id until its status is completed, failed or canceled. Large models take minutes to
        hours; wait longer between questions as time goes by.
        """
        wanted = WantedModel(
            name=name,
            hub=hub,
            type=type,
            is_ovms=is_ovms,
            config=config,
            revision=revision,
            override_credentials=override_credentials,
            validate_credentials=validate_credentials,
        )
        try:
            started = await self._client.submit([wanted], download_path, tenant=tenant_of(ctx))
        except (Refused, Unreachable) as error:
            return failure(error) | {"status": "failed"}
        message = f"Started processing model '{name}'"
        return {"message": message, "job_ids": started.job_ids, "status": started.status}

    async def get_job_status(self, job_id: JobId) -> Result:
        """Tell how a job is: its status and progress, where its model lies, or why it failed and what to do."""
        return await self._ask(calls.job(job_id))

    async def list_jobs(self) -> Result:
        """List jobs, newest first: at most two hundred."""
        return await self._ask(jobs_newest_first())

    async def cancel_job(self, job_id: JobId) -> Result:
        """End a job now. What it had fetched so far may be used by a later one."""
        return await self._ask(calls.cancel(job_id))

    async def get_model_jobs(
        self, model_name: Annotated[str, Field(description="Exactly as it was asked for.")]
    ) -> Result:
        """List the jobs for one model, oldest first."""
        return await self._ask(calls.jobs_of_model(model_name))

    async def get_model_results(self) -> Result:
        """List every completed job in short, with the directory of its model."""
        return await self._ask(calls.results())

    async def list_plugins(self) -> Result:
        """List the hubs and converters: whether they can be used here, and which credentials and filters they know."""
        return await self._ask(plugins())

    async def list_hub_models(  # noqa: PLR0917 - as above
        self,
        hub: Hub,
        ctx: Context[Any, Any],
        limit: Annotated[int, Field(description="At most so many models, from 1 to 200.")] = 50,
        offset: Annotated[int, Field(description="Pass over so many first: next_offset of the last answer.")] = 0,
        filters: Annotated[
            dict[str, Any] | None, Field(description='Such as {"search": "qwen"}. list_plugins tells which there are.')
        ] = None,
        override_credentials: Credentials = None,
    ) -> Result:
        """List models that a hub offers."""
        return await self._ask(
            calls.search(
                hub,
                filters=filters,
                limit=limit,
                offset=offset,
                override_credentials=override_credentials,
                tenant=tenant_of(ctx),
            )
        )

    def all(self) -> Sequence[tuple[Any, ToolAnnotations]]:
        """Every tool, and what a client may be told of its effects."""
        return (
            (self.health_check, READS),
            (self.download_model, STARTS),
            (self.get_job_status, READS),
            (self.list_jobs, READS),
            (self.cancel_job, ENDS),
            (self.get_model_jobs, READS),
            (self.get_model_results, READS),
            (self.list_plugins, READS),
            (self.list_hub_models, ASKS_A_HUB),
        )

    async def _ask(self, call: Call[V]) -> Result:
        try:
            answer: Result = msgspec.to_builtins(await self._client.run(call))
        except (Refused, Unreachable) as error:
            return failure(error)
        return answer

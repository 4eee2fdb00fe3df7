"""Prompts: what an agent should know before it fetches models, and requests to begin with."""

from typing import Any

from mcp.server.mcpserver import MCPServer

HUB_GUIDE = """\
Which hub a model comes from decides how it is named and what can be done with it. `list_plugins` tells which hubs \
this service can use now, and which credentials and filters each of them knows.

- `huggingface`: any repository of the Hugging Face Hub, named `organisation/name`. With is_ovms it is converted to \
OpenVINO. A gated repository needs HF_TOKEN, and its licence must have been accepted on the hub by the token's \
owner.
- `openvino`: the same hub. A repository that is in OpenVINO form is taken as it is; with is_ovms another one is \
converted.
- `ollama`: a name such as `llama3.2`; the revision is the tag, such as `3b`.
- `ultralytics`: a name such as `yolov8n`, or several with commas; config.quantize names a data set to calibrate \
INT8 with.
- `geti`: a model of an Intel Geti server; its address and token are settings or credentials.
- `pipeline-zoo-models` and `omz`: a name from these collections.
- `hls`: the models of the health and life sciences suite; each type has its own name.
- `remote-url`: an archive at an address that the operator has allowed, given as config.url.

With is_ovms, say what the model is for (type: llm, vlm, embeddings, rerank, speech2text and so on), and in config \
the precision (int4, int8, fp16, fp32), the device (CPU, GPU, NPU) and, for text generation, cache_size in GB. What \
is left out is found out from the model or has a default. On NPU, text generation is always int4.

download_model answers at once with job ids. A job is queued, then downloading, then converting if it is to be \
converted, and ends as completed, failed or canceled. A failed job has `error`, `error_code` and often `hint`: tell \
the user the hint before you try again, for the same request would mostly fail in the same way.
"""


def add_prompts(server: MCPServer[Any]) -> None:
    """The guide to the hubs, and some requests."""

    @server.prompt(title="Guide to the hubs")
    def hub_guide() -> str:
        """How models are named on each hub, and what to say about a conversion."""
        return HUB_GUIDE

    @server.prompt(title="Fetch a model")
    def fetch_model(name: str, hub: str = "huggingface") -> str:
        """Fetch a model as it is, and report where it lies."""
        return (
            f"Fetch the model {name} from {hub} with download_model. Then ask get_job_status for its job every few "
            "seconds, later every minute, until it has ended. Tell me the path of the model, its size and licence; or "
            "why it failed, and what I can do about it."
        )

    @server.prompt(title="Prepare a model for OpenVINO Model Server")
    def convert_model(name: str, type: str = "llm", precision: str = "int4", device: str = "CPU") -> str:  # noqa: A002 - as in the tool
        """Fetch a model, convert it, and report the folder to serve."""
        return (
            f"Prepare {name} for OpenVINO Model Server on {device}: call download_model with hub openvino, is_ovms "
            f'true, type {type} and config {{"precision": "{precision}", "device": "{device}"}}. Follow the job with '
            "get_job_status until it has ended. Then tell me the conversion_path of its result and how to point the "
            "model server at it. If it failed, explain error and hint in plain words."
        )

    @server.prompt(title="Find a model")
    def find_model(wish: str, hub: str = "huggingface") -> str:
        """Search a hub for models that fit a wish."""
        return (
            f"Find models on {hub} for this wish: {wish}. Read models://plugins for the filters that the hub knows, "
            "then call list_hub_models with fitting ones, and turn pages with next_offset where has_more is true. "
            "Compare the three that fit best: size or precision, licence, whether they are gated. Do not fetch any yet."
        )

    @server.prompt(title="What goes on")
    def review_jobs() -> str:
        """Sum up what runs, what has failed, and what to do next."""
        return (
            "Read models://jobs. Sum up in a few lines which jobs run and how far they are, which have failed since "
            "yesterday and why, and which of those are worth another try. Cancel nothing without asking me."
        )

"""What a person copies from a page to use what it shows elsewhere."""

import shlex

from msgspec import UNSET

from api.dashboard.snippets import Snippet
from api.wire.local import WholeLocalModelView
from common.vocabulary import Format, ModelType

_PIPELINES = {
    ModelType.LLM: "LLMPipeline",
    ModelType.VLM: "VLMPipeline",
    ModelType.SPEECH2TEXT: "WhisperPipeline",
    ModelType.TEXT2SPEECH: "Text2SpeechPipeline",
    ModelType.IMAGE_GENERATION: "Text2ImagePipeline",
    ModelType.EMBEDDINGS: "TextEmbeddingPipeline",
    ModelType.RERANK: "TextRerankPipeline",
}
"""What of openvino_genai runs a model of a type."""


def of_model(model: WholeLocalModelView) -> list[Snippet]:
    """How a model on the volume is found, served and loaded."""
    found = [_snippet("Path on the host", model.host_path)]
    if model.path != model.host_path:
        found.append(_snippet("Path inside the container", model.path))
    if model.format != Format.OPENVINO:
        return found
    served, loaded = _served(model), _loaded(model)
    found += [_snippet("OpenVINO Model Server", served)] if served else []
    found += [_snippet("Python", loaded)] if loaded else []
    return found


def of_gate(name: str, origin: str) -> list[Snippet]:
    """How others wait for a gate. `origin` is the address under which the service was asked."""
    probe = f"{origin}/api/v1/gates/{name}"
    return [
        _snippet("Shell", f"until curl -fsS {probe} > /dev/null; do sleep 2; done"),
        _snippet("CLI", f"modelferry gate wait {name} --timeout 3600"),
        _snippet("Python", _PYTHON_GATE.format(origin=origin, name=name)),
        _snippet("Compose", _COMPOSE_GATE.format(name=name)),
        _snippet("Kubernetes", _KUBERNETES_GATE.format(name=name)),
    ]


def _snippet(word: str, text: str) -> Snippet:
    return Snippet(key=word.lower().replace(" ", "-"), word=word, text=text)


def _served(model: WholeLocalModelView) -> str | None:
    """The server's own command, as docs/serving.md has it."""
    shelf = model.host_path.removesuffix(f"/{model.name}")
    if shelf == model.host_path:
        return None
    if model.model_type == ModelType.VISION:
        folder = shlex.quote(f"{model.host_path}/model")
        return f"ovms --model_name {shlex.quote(model.name)} --model_path {folder} --rest_port 8000"
    return f"ovms --config_path {shlex.quote(f'{shelf}/config_all.json')} --rest_port 8000"


def _loaded(model: WholeLocalModelView) -> str | None:
    device = model.device or "CPU"
    pipeline = _PIPELINES.get(ModelType(model.model_type)) if model.model_type in set(ModelType) else None
    if pipeline:
        return f"import openvino_genai\n\npipe = openvino_genai.{pipeline}({model.host_path!r}, {device!r})"
    files = [] if model.file_list is UNSET else model.file_list
    graph = next((file.path for file in files if file.path.endswith(".xml") and "tokenizer" not in file.path), None)
    if graph is None:
        return None
    path = f"{model.host_path}/{graph}"
    return f"import openvino\n\nmodel = openvino.Core().compile_model({path!r}, {device!r})"


_PYTHON_GATE = """\
import modelferry

modelferry.Client("{origin}").wait_gate("{name}", timeout_s=3600)"""

_COMPOSE_GATE = """\
services:
  models:
    image: modelferry
    command: ["modelferry", "gate", "wait", "{name}", "--timeout", "3600"]
    environment:
      MODELFERRY_URL: http://modelferry:8200
  application:
    depends_on:
      models:
        condition: service_completed_successfully"""

_KUBERNETES_GATE = """\
initContainers:
  - name: wait-for-models
    image: modelferry
    command: ["modelferry", "gate", "wait", "{name}", "--timeout", "3600"]
    env:
      - name: MODELFERRY_URL
        value: http://modelferry:8200"""

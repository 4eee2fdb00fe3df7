"""The options that say which models are wanted, and in which form: those of `pull`, `plan` and `gate put`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Annotated, Any

import msgspec
import typer

from api.client import WantedModel
from common.vocabulary import ModelType, Precision, Priority

DEFAULT_HUB = "huggingface"
_PREFIXES = {
    "hf": "huggingface",
    "huggingface": "huggingface",
    "openvino": "openvino",
    "ollama": "ollama",
    "ultralytics": "ultralytics",
    "geti": "geti",
    "omz": "omz",
    "hls": "hls",
    "pipeline-zoo-models": "pipeline-zoo-models",
    "remote-url": "remote-url",
}
"""What may stand before a name, with a colon. A name of Ollama has colons too, but none of these before them."""

Names = Annotated[
    list[str],
    typer.Argument(help="Names as the hub writes them; `ollama:llama3.2:3b` names the hub too.", metavar="NAME..."),
]
Hub = Annotated[
    str | None,
    typer.Option(help="Where the models are. Default: huggingface.", autocompletion=lambda: sorted(_PREFIXES)[1:]),
]
Type = Annotated[
    ModelType | None,
    typer.Option(help=f"What the models are for: {', '.join(ModelType)}.", metavar="TYPE", case_sensitive=False),
]
WantedPrecision = Annotated[
    Precision | None,
    typer.Option(help=f"Of the converted model: {', '.join(Precision)}.", metavar="PRECISION", case_sensitive=False),
]
Device = Annotated[str | None, typer.Option(help="What to convert for: CPU, GPU, NPU, HETERO:GPU,CPU.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit. Default: the hub's.")]
Ovms = Annotated[bool, typer.Option("--ovms", help="Convert to OpenVINO, ready for OpenVINO Model Server.")]
ConfigPairs = Annotated[
    list[str] | None,
    typer.Option(
        "--config", metavar="KEY=VALUE", help="An option of the hub or converter; JSON, or else text. May be repeated."
    ),
]
ConfigJson = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Such options as a JSON object; it wins over --config.")
]
Include = Annotated[
    list[str] | None, typer.Option(metavar="GLOB", help="Fetch files that fit this, and no others. May be repeated.")
]
Exclude = Annotated[list[str] | None, typer.Option(metavar="GLOB", help="Leave such files out. May be repeated.")]
WantedPriority = Annotated[Priority | None, typer.Option(help="Which jobs go first. Default: normal.")]
Folder = Annotated[
    str, typer.Option("--path", metavar="DIR", help="The folder, inside the models directory, to publish below.")
]


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """Models and their form, as the command line has named them."""

    names: Sequence[str]
    hub: str | None = None
    type: ModelType | None = None
    precision: Precision | None = None
    device: str | None = None
    revision: str | None = None
    ovms: bool = False
    config: Sequence[str] = ()
    config_json: str | None = None
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    priority: Priority | None = None

    def models(self) -> list[WantedModel]:
        """The same as a submission says it. Raises BadParameter."""
        config = self._config()
        return [self._model(name, config) for name in self.names]

    def _model(self, text: str, config: dict[str, object]) -> WantedModel:
        hub, name = hub_and_name(text, self.hub)
        return WantedModel(
            name=name,
            hub=hub,
            type=self.type,
            is_ovms=self.ovms,
            revision=self.revision,
            priority=self.priority,
            config=config or None,
        )

    def _config(self) -> dict[str, object]:
        config = dict(_pair(text) for text in self.config)
        if self.config_json is not None:
            config |= _json_object(self.config_json)
        named: dict[str, object] = {
            "precision": self.precision.value if self.precision else None,
            "device": self.device,
            "include": list(self.include) or None,
            "exclude": list(self.exclude) or None,
        }
        return config | {name: value for name, value in named.items() if value is not None}


def hub_and_name(text: str, hub: str | None) -> tuple[str, str]:
    """The hub and the name that are meant. Where --hub is given, a name is taken as it is."""
    prefix, colon, name = text.partition(":")
    if hub is None and colon and prefix.lower() in _PREFIXES:
        hub, text = _PREFIXES[prefix.lower()], name
    if not text:
        raise typer.BadParameter("A model needs a name.")
    return hub or DEFAULT_HUB, text


class WishFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file with models: the body of `PUT /gates/{name}`."""

    models: list[dict[str, Any]]
    download_path: str = ""


def models_in(file: FilePath) -> tuple[list[WantedModel], str]:
    """The models of a YAML or JSON file, and the folder that it names. Raises BadParameter."""
    # Here rather than above: one command needs it, and all others shall start at once.
    from api.compat.yaml_text import read_yaml  # noqa: PLC0415

    try:
        wanted = msgspec.convert(read_yaml(file.read_text(encoding="utf-8")), WishFile)
        unknown = sorted({key for model in wanted.models for key in model} - set(WantedModel.__struct_fields__))
        if unknown:
            raise typer.BadParameter(f"{file}: a model has no property {unknown[0]!r}")
        # What the values are worth the service says.
        return [_wanted(model) for model in wanted.models], wanted.download_path
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{file} cannot be used: {error}") from None


def _wanted(model: dict[str, Any]) -> WantedModel:
    missing = {"name", "hub"} - model.keys()
    if missing:
        raise ValueError(f"a model lacks {min(missing)!r}")
    return WantedModel(**model)


def _pair(text: str) -> tuple[str, object]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise typer.BadParameter(f"--config wants KEY=VALUE, and not {text!r}")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _json_object(text: str) -> dict[str, object]:
    try:
        return msgspec.json.decode(text.encode(), type=dict[str, object])
    except (msgspec.DecodeError, UnicodeEncodeError):
        raise typer.BadParameter("--config-json wants a JSON object") from None

"""Values with sensible defaults for tests."""

from common.spec import Destination, JobSpec, Source, Target
from common.vocabulary import Format, ModelType, Operation, Precision


def a_download(name: str = "org/model", *, root: str = "", revision: str | None = None) -> JobSpec:
    return JobSpec(
        hub="huggingface",
        operation=Operation.DOWNLOAD,
        source=Source(hub="huggingface", name=name, revision=revision),
        model_type=None,
        target=None,
        converter=None,
        destination=Destination(root=root, folder=f"huggingface/{name.replace('/', '_')}"),
        hub_options={},
        converter_options={},
        serving_options={},
    )


def a_conversion(
    name: str = "org/model",
    *,
    root: str = "",
    precision: Precision = Precision.INT8,
    device: str = "CPU",
    serving: dict[str, object] | None = None,
) -> JobSpec:
    return JobSpec(
        hub="openvino",
        operation=Operation.CONVERT,
        source=Source(hub="huggingface", name=name),
        model_type=ModelType.LLM,
        target=Target(format=Format.OPENVINO, model_type=ModelType.LLM, precision=precision, device=device),
        converter="openvino",
        destination=Destination(root=root, folder=f"openvino_models/{device.lower()}/{precision}/{name}"),
        hub_options={},
        converter_options={},
        serving_options=serving or {},
    )

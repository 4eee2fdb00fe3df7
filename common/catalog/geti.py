"""What may be asked of an Intel Geti server."""

from common.plugins import ConfigKey, HubPlugin
from common.spec import Spec
from common.vocabulary import Format


class GetiOptions(Spec, frozen=True):
    """Which export of a model to take."""

    export_type: str = "optimized"
    precision: str = "fp16"
    model_format: str = "OpenVINO"
    model_only: bool | None = None
    model_group_id: str | None = None
    optimized_model_id: str | None = None
    extra: dict[str, object] = {}
    """Further filters: a candidate must have these values."""


def _place(name: str, _revision: str | None, options: GetiOptions) -> str:
    return f"geti/{name.lower()}/{options.precision.lower()}"


GETI = HubPlugin(
    name="geti",
    description="Downloads trained models from an Intel Geti server.",
    options=GetiOptions,
    formats=frozenset({Format.OPENVINO}),
    implementation="worker.hubs.geti:GetiHub",
    name_pattern=r"[A-Za-z0-9_][\w .()+-]{0,127}",
    settings=frozenset(
        {
            "GETI_HOST",
            "GETI_WORKSPACE_ID",
            "GETI_SERVER_API_VERSION",
            "GETI_SERVER_SSL_VERIFY",
            "MODELFERRY_MAX_UNPACKED_MB",
        }
    ),
    secrets=frozenset({"GETI_TOKEN"}),
    config_keys=(
        ConfigKey(
            name="GETI_HOST", description="Address of the Geti server.", sensitive=False, required=True, group="geti"
        ),
        ConfigKey(
            name="GETI_TOKEN", description="Personal access token of the Geti server.", required=True, group="geti"
        ),
        ConfigKey(name="GETI_WORKSPACE_ID", description="Workspace on the Geti server.", sensitive=False),
    ),
    checks_credentials=True,
    listing_filters=frozenset(
        {
            "project_id",
            "project_name",
            "model_group_id",
            "model_group_name",
            "model_name",
            "export_type",
            "precision",
            "model_format",
        }
    ),
    place=_place,
)

"""What travels over HTTP: one struct per JSON object."""

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from common.vocabulary import JobState, LimitScope, ModelType, Operation, Phase, Precision, Priority, StageKind


class View(msgspec.Struct, frozen=True, kw_only=True):
    """The root of all views. A key whose value is not known yet is absent, never null, unless it says so."""


class Health(View, frozen=True):
    """The web process answers."""

    status: Literal["ok"] = "ok"


class Readiness(View, frozen=True):
    """Whether a job submitted now would run, and what each part says."""

    status: Literal["ready", "not ready"]
    parts: dict[str, str]
    """Part -> `ok`, or what is missing."""


class Started(View, frozen=True):
    """The answer to a submission. Keep it free of any key that holds the word for a failure: clients search for it."""

    message: str
    job_ids: list[str]
    status: Literal["processing"] = "processing"


class ProgressView(View, frozen=True):
    """How far a job is. Bytes and files are those of the transfer; null is what nobody knows."""

    phase: Phase
    percent: float | None
    """Of the whole job; 100 only when it is completed. Null while the hub has not told the sizes."""
    bytes_done: int
    bytes_total: int | None
    files_done: int
    files_total: int | None
    bytes_resumed: int
    """How many of `bytes_done` did not have to be fetched again."""
    speed_bps: float | None
    """Bytes per second, while a transfer runs."""
    eta_s: float | None
    """Seconds until the transfer ends, at this speed."""


class TargetView(View, frozen=True):
    """The form that a conversion brought the model into."""

    precision: Precision
    device: str
    cache: int | UnsetType = UNSET


class ResultView(View, frozen=True):
    """What a completed job left. The first keys are those of the hub or converter that did the work."""

    model_name: str
    source: str
    success: Literal[True] = True
    download_path: str | UnsetType = UNSET
    """Of a download: the hub's folder, as the host sees it."""
    type: ModelType | UnsetType = UNSET
    conversion_path: str | UnsetType = UNSET
    """Of a conversion: the folder of its precision, or of its target, as the host sees it."""
    is_ovms: bool | UnsetType = UNSET
    config: TargetView | UnsetType = UNSET
    message: str | UnsetType = UNSET
    mode: Literal["convert", "pull"] | UnsetType = UNSET
    pulled_from: str | UnsetType = UNSET
    """The repository that held the result ready-made."""
    evidence: dict[str, object] | UnsetType = UNSET
    """How the conversion went, and what was seen of its result."""
    revision: str | UnsetType = UNSET
    """The immutable revision that was fetched."""
    licence: str | UnsetType = UNSET
    artefact: str | UnsetType = UNSET
    reused: bool | UnsetType = UNSET
    """Whether an equal model had been made before, so that nothing had to be done again."""
    bytes: int | UnsetType = UNSET
    files: int | UnsetType = UNSET
    versions: dict[str, str] | UnsetType = UNSET
    """The tools that made the converted model."""
    models: list[str] | UnsetType = UNSET
    """The models that one wish has brought, where it named several."""
    int8_requested: bool | UnsetType = UNSET
    model_id: str | UnsetType = UNSET
    model_group_id: str | UnsetType = UNSET
    export_type: str | UnsetType = UNSET
    model_format: str | UnsetType = UNSET
    warnings: dict[str, object] | UnsetType = UNSET
    """What of the request was passed over."""


class JobView(View, frozen=True):
    """A job. Several keys come twice, under the names that clients of different ages read."""

    id: str
    job_id: str
    operation_type: Operation
    model_name: str
    hub: str
    download_path: str
    """Below which folder of the models directory, as it was asked for; empty is the models directory itself."""
    output_dir: str
    """Absolute, inside the container: the directory asked for, the folder of the precision, or that of the target."""
    status: JobState
    start_time: str
    creation_time: str
    plugin_name: str | None
    """Null for an upload, which no plugin has part in."""
    plugin: str | None
    model_type: ModelType | None
    revision: str | None
    """As it was asked for; null is the hub's default."""
    config: dict[str, object]
    attempt: int
    """How often the current stage has been begun."""
    priority: Priority
    tenant: str
    """Who asked: the name that the request gave, or the client's address."""
    progress: ProgressView
    completion_time: str | UnsetType = UNSET
    error: str | UnsetType = UNSET
    error_code: str | UnsetType = UNSET
    hint: str | UnsetType = UNSET
    """What to do about the error."""
    path: str | UnsetType = UNSET
    """Absolute, inside the container: the directory of the published model."""
    result: ResultView | UnsetType = UNSET
    retry_of: str | UnsetType = UNSET
    """The job that this one tries again."""
    retry_at: str | UnsetType = UNSET
    """When the next attempt may begin, after one that ended badly."""
    last_error_code: str | UnsetType = UNSET
    """Why the last attempt at the current stage ended badly; only while the job has not ended."""
    last_error: str | UnsetType = UNSET
    requested_by: str | UnsetType = UNSET
    """The name of the caller, where callers are known."""
    trace_id: str | UnsetType = UNSET
    """The trace in which the job was asked for, where there is one."""


class JobPage(View, frozen=True):
    """Jobs, oldest first unless asked for otherwise."""

    jobs: list[JobView]
    total: int | UnsetType = UNSET
    """How many there are; only where `limit`, `offset` or `status` was given, and no cursor."""
    next_cursor: str | UnsetType = UNSET
    """Where the next page begins; absent on the last one."""


class ResultLine(View, frozen=True):
    """One completed job, in short."""

    job_id: str
    model_name: str
    hub: str
    operation_type: Operation
    model_path: str
    completion_time: str | UnsetType = UNSET
    is_ovms: bool | UnsetType = UNSET
    """Absent for an upload."""
    status: Literal["success"] = "success"


class ResultPage(View, frozen=True):
    """Every completed job."""

    results: list[ResultLine]


class ForecastView(View, frozen=True):
    """What a job would do, or why it would fail. Sizes in bytes. What nobody knows is absent."""

    model_name: str
    hub: str
    status: Literal["planned", "refused", "unanswered"]
    """`unanswered`: no download worker has found out in time."""
    mode: Literal["download", "convert", "pull"] | UnsetType = UNSET
    """`pull`: the hub holds the wanted result already."""
    pulled_from: str | UnsetType = UNSET
    revision: str | UnsetType = UNSET
    licence: str | UnsetType = UNSET
    files: int | UnsetType = UNSET
    bytes_total: int | UnsetType = UNSET
    bytes_to_fetch: int | UnsetType = UNSET
    """The rest is here already."""
    companions: dict[str, str] | UnsetType = UNSET
    """Other models that the conversion reads, and that are fetched too: folder -> name."""
    type: ModelType | UnsetType = UNSET
    precision: Precision | UnsetType = UNSET
    device: str | UnsetType = UNSET
    facts: dict[str, str] | UnsetType = UNSET
    """What the model is, and what will convert it."""
    options: dict[str, object] | UnsetType = UNSET
    """The conversion's options in full, defaults included."""
    memory_peak_bytes: int | UnsetType = UNSET
    output_bytes: int | UnsetType = UNSET
    scratch_bytes: int | UnsetType = UNSET
    """What is written beside the output, and removed at the end."""
    path: str | UnsetType = UNSET
    """Absolute, inside the container: where the model would be published."""
    published: bool | UnsetType = UNSET
    """Whether a whole model is there now."""
    error: str | UnsetType = UNSET
    error_code: str | UnsetType = UNSET
    hint: str | UnsetType = UNSET


class ForecastPage(View, frozen=True):
    """What the models of a request would come to, in its order."""

    plans: list[ForecastView]


class ListedModel(View, frozen=True):
    """A model that a hub offers. What the hub does not tell is absent."""

    name: str
    """What a download is asked for by."""
    owner: str | UnsetType = UNSET
    precisions: list[str] | UnsetType = UNSET
    tags: list[str] | UnsetType = UNSET
    model_type: str | UnsetType = UNSET
    last_modified: str | UnsetType = UNSET
    metadata: dict[str, object] | UnsetType = UNSET
    license: str | UnsetType = UNSET
    gated: bool | str | UnsetType = UNSET
    requires_token: bool | UnsetType = UNSET


class ListedPage(View, frozen=True):
    """Some of a hub's models."""

    hub: str
    items: list[ListedModel]
    count: int
    """How many there are on this page."""
    limit: int
    offset: int
    has_more: bool
    total: int | UnsetType = UNSET
    """How many there are in all; absent where the hub does not tell."""
    next_offset: int | UnsetType = UNSET
    """Where the next page begins; absent on the last one."""


class CancelView(View, frozen=True):
    """The answer to a cancel that was heard."""

    message: str
    job_id: str
    status: JobState


class AttemptView(View, frozen=True):
    """One attempt at one of a job's stages. What only the end of the attempt tells is absent before."""

    stage: StageKind
    number: int
    worker: str
    began_at: str
    ended_at: str | UnsetType = UNSET
    outcome: str | UnsetType = UNSET
    """`succeeded`, `retried`, `failed`, `cancelled` or `released`."""
    error_code: str | UnsetType = UNSET
    error: str | UnsetType = UNSET


class AttemptPage(View, frozen=True):
    """Every attempt at a job's stages, oldest first."""

    attempts: list[AttemptView]


class LimitView(View, frozen=True):
    """A limit of the operator. Null is no limit."""

    scope: LimitScope
    name: str
    max_running: int | None
    """How many stages may run at once: of a hub its fetches, of a tenant or a pool everything."""
    bytes_per_s: int | None
    """How fast all transfers together may be: those of a hub, or of the whole service."""


class HubView(View, frozen=True):
    """How a hub fares with all workers together."""

    name: str
    running: int
    """Fetches that run now."""
    resumes_at: str | UnsetType = UNSET
    """Until then no worker asks the hub for anything; absent while it may be asked."""
    reason: str | UnsetType = UNSET


class LimitPage(View, frozen=True):
    """Every limit that is set, and the hubs as they are."""

    limits: list[LimitView]
    hubs: list[HubView]


class CapabilityView(View, frozen=True):
    """What a plugin can do beyond its first duty."""

    supports_parallel_downloads: bool = True
    supports_listing: bool = False
    listing_filter_fields: list[str] = []


class ConfigKeyView(View, frozen=True):
    """What a request may bring along for a hub, in `override_credentials`."""

    name: str
    description: str
    sensitive: bool
    required: bool
    group: str | None


class PluginView(View, frozen=True):
    """A hub or a converter, and whether it may be used here."""

    name: str
    type: Literal["downloader", "converter"]
    description: str
    capabilities: CapabilityView
    config_keys: list[ConfigKeyView]
    hub_config_keys: list[ConfigKeyView]
    """The same, under the name that newer clients read."""
    available: bool
    unavailable_reason: str | None
    options: dict[str, object] | UnsetType = UNSET
    """Of a converter: a JSON schema of what `config` may hold. `x-part` tells what decides the converted model
    (`conversion`) from what the model server is told (`serving`)."""


class PluginGroups(View, frozen=True):
    """Plugins by kind. A kind without plugins is absent."""

    downloader: list[PluginView] | UnsetType = UNSET
    converter: list[PluginView] | UnsetType = UNSET


class PluginPage(View, frozen=True):
    """Everything that is installed."""

    available_plugins: PluginGroups
    total_count: int
    available_count: int
    activation_instructions: str


class Problem(View, frozen=True):
    """Why a request was refused."""

    detail: str
    reason: str | UnsetType = UNSET
    """Of a hub that was asked in vain: what went wrong."""
    reason_code: str | UnsetType = UNSET
    hint: str | UnsetType = UNSET
    """What to do about it."""


class Fault(View, frozen=True):
    """One value of a request that cannot be used. It never repeats the value."""

    type: str
    loc: list[str | int]
    msg: str


class FaultyRequest(View, frozen=True):
    """Everything in a request that cannot be used."""

    detail: list[Fault]

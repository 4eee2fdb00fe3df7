"""From records to views: the one place that decides what of a record a client sees."""

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType, structs

from api.questions import ListingWish
from api.wire import (
    AttemptPage,
    AttemptView,
    CancelView,
    CapabilityView,
    ConfigKeyView,
    ForecastPage,
    ForecastView,
    HubView,
    JobView,
    LimitPage,
    LimitView,
    ListedModel,
    ListedPage,
    PluginGroups,
    PluginPage,
    PluginView,
    ProgressView,
    Readiness,
    ResultLine,
    ResultView,
    Started,
    TargetView,
)
from common.catalog.registry import PluginEntry
from common.catalog.schema import config_schema
from common.lifecycle import ENDED_JOBS
from common.plugins import ConverterPlugin, HubPlugin, ListPage
from common.records import AttemptRecord, HubRecord, JobRecord, LimitRecord
from common.spec import JobSpec, Progress, Target
from common.tracing import place_of
from common.vocabulary import JobState, ModelType, Operation, Phase, StageKind, StageState

_CONTAINER_ROOT = "/opt/models/"
_FETCHED_PERCENT = 50.0
"""Where the bar of a conversion stands when its model has been fetched."""
_BEFORE_THE_END = 99.0


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """The models volume as this process sees it, and as clients on the host do."""

    models_dir: Path
    model_path: str

    def inside(self, relative: str) -> str:
        """The absolute path, in this container, of something on the volume."""
        return str(self.models_dir / relative)

    def on_host(self, path: str) -> str:
        """The same path for a client on the host. Only the documented mount point is translated."""
        if not path.startswith(_CONTAINER_ROOT):
            return path
        return f"{self.model_path or 'models'}/{path.removeprefix(_CONTAINER_ROOT)}"


class _Published(msgspec.Struct, frozen=True, kw_only=True):
    """What the publish stage left in a job's result."""

    path: str | UnsetType = UNSET
    revision: str | UnsetType = UNSET
    licence: str | None = None
    artefact: str | UnsetType = UNSET
    reused: bool | UnsetType = UNSET
    bytes: int | UnsetType = UNSET
    files: int | UnsetType = UNSET
    versions: dict[str, str] | UnsetType = UNSET
    type: ModelType | None = None
    mode: Literal["convert", "pull"] = "convert"
    pulled_from: str | None = None
    evidence: dict[str, object] | None = None
    models: list[str] | UnsetType = UNSET
    told: dict[str, object] = {}


def started(ids: list[str]) -> Started:
    """The answer to a submission, ids in the order of its models."""
    return Started(message=f"Started processing {len(ids)} model(s)", job_ids=ids)


def job_view(record: JobRecord, places: Places) -> JobView:
    """A job as clients see it."""
    spec = record.spec
    failed = record.state is JobState.FAILED
    completed = record.state is JobState.COMPLETED
    active = record.state not in ENDED_JOBS
    begun = _time(record.created_at)
    return JobView(
        id=record.id,
        job_id=record.id,
        operation_type=spec.operation,
        model_name=spec.source.name,
        hub=spec.hub,
        download_path=spec.destination.root,
        output_dir=_output_dir(spec, places),
        status=record.state,
        start_time=begun,
        creation_time=begun,
        plugin_name=_plugin_name(spec),
        plugin=_plugin_name(spec),
        model_type=spec.model_type,
        revision=spec.source.revision,
        config=spec.config,
        attempt=record.attempt,
        priority=spec.priority,
        tenant=record.tenant,
        progress=progress_view(record),
        completion_time=_known_time(record.ended_at),
        error=_failure(record) if failed else UNSET,
        error_code=(record.error_code or "internal") if failed else UNSET,
        hint=(record.hint or UNSET) if failed else UNSET,
        path=_published(record).path if completed else UNSET,
        result=_result(record, places) if completed else UNSET,
        retry_of=record.retry_of or UNSET,
        retry_at=_known_time(record.retry_at) if active else UNSET,
        last_error_code=(record.last_error_code or UNSET) if active else UNSET,
        last_error=(record.last_error or UNSET) if active else UNSET,
        requested_by=record.origin.caller or UNSET,
        trace_id=_trace_id(record),
    )


def _trace_id(record: JobRecord) -> str | UnsetType:
    place = place_of(record.origin.trace)
    return UNSET if place is None else place.trace_id


def _plugin_name(spec: JobSpec) -> str | None:
    return None if spec.operation is Operation.UPLOAD else spec.converter or spec.hub


_CONVERTED = {Phase.CHECKING: 0.8, Phase.DONE: 1.0}
"""How much of a conversion is over in its later phases, for converters that cannot count."""


def progress_view(record: JobRecord) -> ProgressView:
    """How far a job is, over all of its stages. The bytes stay those of the fetch after it has ended."""
    fetching = record.stage in {None, StageKind.FETCH} or record.spec.operation is Operation.UPLOAD
    seen = record.fetched or (record.progress if fetching else None) or Progress(phase=Phase.WAITING)
    fetched = seen if fetching else _whole(seen)
    speed = fetched.speed_bps if fetching and record.stage_state is StageState.RUNNING else None
    return ProgressView(
        phase=_phase(record),
        percent=_percent(record, fetched),
        bytes_done=fetched.bytes_done,
        bytes_total=fetched.bytes_total,
        files_done=fetched.files_done,
        files_total=fetched.files_total,
        bytes_resumed=fetched.bytes_resumed,
        speed_bps=speed,
        eta_s=_eta(fetched, speed),
    )


def _whole(progress: Progress) -> Progress:
    """A fetch that has succeeded: the last heartbeat came before its last bytes."""
    return structs.replace(
        progress,
        bytes_done=progress.bytes_done if progress.bytes_total is None else progress.bytes_total,
        files_done=progress.files_done if progress.files_total is None else progress.files_total,
    )


def result_line(record: JobRecord, places: Places) -> ResultLine:
    """A completed job, in short."""
    return ResultLine(
        job_id=record.id,
        model_name=record.spec.source.name,
        hub=record.spec.hub,
        operation_type=record.spec.operation,
        model_path=_output_dir(record.spec, places),
        completion_time=_known_time(record.ended_at),
        is_ovms=UNSET if record.spec.operation is Operation.UPLOAD else record.spec.operation is Operation.CONVERT,
    )


def forecast_page(records: Iterable[JobRecord], places: Places) -> ForecastPage:
    """What plans have come to."""
    return ForecastPage(plans=[_forecast(record, places) for record in records])


def _forecast(record: JobRecord, places: Places) -> ForecastView:
    spec = record.spec
    status = {JobState.COMPLETED: "planned", JobState.FAILED: "refused"}.get(record.state, "unanswered")
    known = {name: value for name, value in record.result.items() if value is not None and name != "path"}
    return msgspec.convert(
        {
            "model_name": spec.source.name,
            "hub": spec.hub,
            "status": status,
            "path": places.inside(f"{spec.destination.root}/{spec.destination.folder}".removeprefix("/")),
            **known,
            **({} if record.error is None else {"error": record.error}),
            **({} if record.error_code is None else {"error_code": record.error_code}),
            **({} if record.hint is None else {"hint": record.hint}),
        },
        ForecastView,
    )


def listed_page(asked: ListingWish, page: ListPage) -> ListedPage:
    """Some of a hub's models as clients see them: what is not known is absent, at any depth."""
    return ListedPage(
        hub=asked.hub,
        items=[msgspec.convert(_without_nulls(msgspec.to_builtins(item)), ListedModel) for item in page.items],
        count=len(page.items),
        limit=asked.limit,
        offset=asked.offset,
        has_more=page.has_more,
        total=UNSET if page.total is None else page.total,
        next_offset=asked.offset + asked.limit if page.has_more else UNSET,
    )


def _without_nulls(value: object) -> object:
    match value:
        case dict():
            return {name: _without_nulls(one) for name, one in value.items() if one is not None}
        case list() | tuple():
            return [_without_nulls(one) for one in value if one is not None]
        case _:
            return value


def cancel_view(record: JobRecord) -> CancelView:
    """The answer to a cancel that was heard."""
    return CancelView(message=f"Job {record.id} has been cancelled", job_id=record.id, status=record.state)


def attempt_page(attempts: Iterable[AttemptRecord]) -> AttemptPage:
    """A job's history as clients see it."""
    return AttemptPage(
        attempts=[
            AttemptView(
                stage=attempt.stage,
                number=attempt.number,
                worker=attempt.worker,
                began_at=_time(attempt.began_at),
                ended_at=_known_time(attempt.ended_at),
                outcome=attempt.outcome or UNSET,
                error_code=attempt.error_code or UNSET,
                error=attempt.error or UNSET,
            )
            for attempt in attempts
        ]
    )


def limit_page(limits: Iterable[LimitRecord], hubs: Iterable[HubRecord]) -> LimitPage:
    """The operator's limits, and the hubs that they are about."""
    return LimitPage(
        limits=[limit_view(limit) for limit in limits],
        hubs=[
            HubView(
                name=hub.name,
                running=hub.running,
                resumes_at=_known_time(hub.resumes_at),
                reason=hub.reason or UNSET,
            )
            for hub in hubs
        ],
    )


def limit_view(limit: LimitRecord) -> LimitView:
    """One limit."""
    return LimitView(scope=limit.scope, name=limit.name, max_running=limit.max_running, bytes_per_s=limit.bytes_per_s)


def plugin_page(entries: Iterable[PluginEntry]) -> PluginPage:
    """Everything that is installed, and how to enable more of it."""
    views = [_plugin(entry) for entry in entries if not _only_finishes(entry)]
    return PluginPage(
        available_plugins=PluginGroups(
            downloader=[view for view in views if view.type == "downloader"] or UNSET,
            converter=[view for view in views if view.type == "converter"] or UNSET,
        ),
        total_count=len(views),
        available_count=sum(view.available for view in views),
        activation_instructions=(
            "Set ENABLED_PLUGINS to the names of the plugins to offer, with commas, or to 'all', "
            "for the API and the workers alike, and start them again."
        ),
    )


def readiness_view(missing: dict[str, str | None]) -> Readiness:
    """Part -> what it lacks, or None, as a view."""
    whole = not any(missing.values())
    return Readiness(
        status="ready" if whole else "not ready", parts={part: lack or "ok" for part, lack in missing.items()}
    )


def _time(moment: datetime) -> str:
    # Python before 3.11 cannot read a trailing Z, and clients of that age are in use.
    return moment.isoformat()


def _known_time(moment: datetime | None) -> str | UnsetType:
    return UNSET if moment is None else _time(moment)


def _failure(record: JobRecord) -> str:
    return record.error or record.error_code or "The job failed without saying why."


def _output_dir(spec: JobSpec, places: Places) -> str:
    own = spec.operation in {Operation.CONVERT, Operation.UPLOAD}
    return places.inside(_shelf(spec) if own else spec.destination.root)


def _shelf(spec: JobSpec) -> str:
    """The folder that holds this model's folder and those of its kind: of one hub, or of one precision."""
    folder = spec.destination.folder
    if spec.shelf:
        return f"{spec.destination.root}/{spec.shelf}".removeprefix("/")
    if spec.operation is Operation.UPLOAD:
        shelf = folder
    elif spec.operation is Operation.CONVERT:
        shelf = folder.removesuffix(f"/{spec.source.name}")
    else:
        shelf = str(PurePosixPath(folder).parent)
    return f"{spec.destination.root}/{shelf}".removeprefix("/")


def _result(record: JobRecord, places: Places) -> ResultView:
    spec = record.spec
    shelf = places.on_host(places.inside(_shelf(spec)))
    left = _published(record)
    common = ResultView(
        model_name=spec.source.name,
        source=spec.converter or spec.hub,
        revision=left.revision,
        licence=left.licence or UNSET,
        artefact=left.artefact,
        reused=left.reused,
        bytes=left.bytes,
        files=left.files,
        versions=left.versions,
        models=left.models,
    )
    if spec.target is None:
        return _with_facts(structs.replace(common, download_path=shelf), left.told)
    return structs.replace(
        common,
        type=left.type or spec.target.model_type or UNSET,
        conversion_path=shelf,
        is_ovms=True,
        config=_target(spec.target, spec),
        message=_made(spec, spec.target, left),
        mode=left.mode,
        pulled_from=left.pulled_from or UNSET,
        evidence=left.evidence or UNSET,
    )


def _with_facts(view: ResultView, told: dict[str, object]) -> ResultView:
    """The view with what the hub has to tell of this model."""
    known = {name: value for name, value in told.items() if name in view.__struct_fields__}
    return msgspec.convert(msgspec.to_builtins(view) | known, ResultView)


def _made(spec: JobSpec, target: Target, left: _Published) -> str:
    if left.pulled_from is not None:
        return f"Model '{spec.source.name}' is ready-made in OpenVINO {target.precision} as '{left.pulled_from}'."
    return f"Model '{spec.source.name}' was converted to OpenVINO {target.precision}."


def _published(record: JobRecord) -> _Published:
    return msgspec.convert(record.result, _Published)


def _target(target: Target, spec: JobSpec) -> TargetView:
    cache = spec.serving_options.get("cache_size")
    return TargetView(
        precision=target.precision, device=target.device, cache=cache if isinstance(cache, int) else UNSET
    )


def _phase(record: JobRecord) -> Phase:
    if record.state is JobState.COMPLETED:
        return Phase.DONE
    if record.stage_state in {None, StageState.QUEUED}:
        return Phase.WAITING
    if record.progress is not None:
        # A stage that is done leaves its job to wait for the next one.
        return Phase.WAITING if record.progress.phase is Phase.DONE else record.progress.phase
    match record.stage:
        case None | StageKind.FETCH | StageKind.PLAN | StageKind.ASK:
            return Phase.RESOLVING
        case StageKind.CONVERT:
            return Phase.CONVERTING
        case StageKind.PUBLISH:
            return Phase.PUBLISHING


def _percent(record: JobRecord, fetched: Progress) -> float | None:
    """One bar over all stages. It stands still rather than go back when one stage follows another."""
    converts = record.spec.operation is Operation.CONVERT
    fetch_share = _FETCHED_PERCENT if converts else _BEFORE_THE_END
    if record.state is JobState.COMPLETED:
        return 100.0
    match record.stage:
        case StageKind.CONVERT:
            converted = _ratio(record.progress) or _converted(record.progress)
            return round(_FETCHED_PERCENT + (_BEFORE_THE_END - _FETCHED_PERCENT) * converted, 1)
        case StageKind.PUBLISH:
            return _BEFORE_THE_END
        case _:
            done = _ratio(fetched)
            if done is None:
                return None if fetched.bytes_done else 0.0
            return round(fetch_share * done, 1)


def _converted(progress: Progress | None) -> float:
    return _CONVERTED.get(progress.phase, 0.0) if progress else 0.0


def _ratio(progress: Progress | None) -> float | None:
    if progress is None or progress.bytes_total is None:
        return None
    if progress.bytes_total == 0:
        return 1.0
    return min(1.0, progress.bytes_done / progress.bytes_total)


def _eta(progress: Progress, speed: float | None) -> float | None:
    if not speed or progress.bytes_total is None:
        return None
    return round(max(0, progress.bytes_total - progress.bytes_done) / speed, 1)


def _only_finishes(entry: PluginEntry) -> bool:
    """Whether nobody can ask for this plugin by itself: it is part of a hub."""
    return isinstance(entry.plugin, ConverterPlugin) and entry.plugin.finishes


def _capabilities(plugin: HubPlugin[Any] | ConverterPlugin[Any]) -> CapabilityView:
    filters = plugin.listing_filters if isinstance(plugin, HubPlugin) else None
    return CapabilityView(supports_listing=filters is not None, listing_filter_fields=sorted(filters or ()))


def _config_keys(plugin: HubPlugin[Any] | ConverterPlugin[Any]) -> list[ConfigKeyView]:
    return [
        ConfigKeyView(
            name=key.name,
            description=key.description,
            sensitive=key.sensitive,
            required=key.required,
            group=key.group,
        )
        for key in (plugin.config_keys if isinstance(plugin, HubPlugin) else ())
    ]


def _plugin(entry: PluginEntry) -> PluginView:
    keys = _config_keys(entry.plugin)
    return PluginView(
        name=entry.name,
        type=entry.kind,
        description=entry.plugin.description,
        capabilities=_capabilities(entry.plugin),
        config_keys=keys,
        hub_config_keys=keys,
        available=entry.available,
        unavailable_reason=entry.reason,
        options=config_schema(entry.plugin) if isinstance(entry.plugin, ConverterPlugin) else UNSET,
    )

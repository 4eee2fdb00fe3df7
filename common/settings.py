"""The environment, read once into one frozen struct. No other module looks at it."""

import base64
import json
import os
import re
from collections.abc import Collection, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Literal

import msgspec

from common.vocabulary import Role

_OWN_PREFIX = "MODELFERRY_"
_KEY_BYTES = 32
_SHORTEST_KEY = 32
_LEAST_AUDIT_DAYS = 30
_MAY_BE_EMPTY = frozenset({"startup_models_config"})
"""What is no longer unset when it is empty: its reader says that this is a mistake."""
_HIDDEN = frozenset({"hf_token", "geti_token", "secret_key", "admin_key", "other_secrets"})
_FROM_FILE = frozenset({"hf_token", "geti_token", "secret_key", "admin_key", "database_url", "redis_url"})
"""What may also be in a file, which a variable of the same name with `_FILE` at its end names."""


class SettingsError(Exception):
    """A variable is unknown or has an impossible value. The message names it."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything an operator can set. Each field is the lower-case name of its variable (`VARIABLES`)."""

    models_dir: Path = Path("/opt/models")
    """The shared folder; `modelferry up` uses ./models where it is not set."""
    model_path: str = "models"
    """The folder /opt/models as clients on the host see it; used in the paths of results."""
    enabled_plugins: str = "all"
    """The hubs and converters to offer, with commas; `all` leaves out what has to be named, as in `all,ultralytics`."""
    database_url: str = ""
    """SQLite or Postgres, as a SQLAlchemy URL; by default a SQLite file in MODELS_DIR/.modelferry/state."""
    redis_url: str = "redis://127.0.0.1:6379/0"
    """The queue; `modelferry up` starts a Redis of its own where this is not set."""
    host: str = "127.0.0.1"
    """The address that the API listens at."""
    port: int = 8200
    """The port that the API listens at."""

    hf_endpoint: str = "https://huggingface.co"
    """The Hugging Face hub, or a mirror of it."""
    hf_token: str | None = None
    """A token for private and gated models; HUGGINGFACEHUB_API_TOKEN is read where it is not set."""
    requests_ca_bundle: str = ""
    """A file with the certificates to trust, instead of the system's."""
    proxies: str = ""
    """Proxies of single hubs: `hub=http://host:port`, with commas."""
    ca_bundles: str = ""
    """Certificates to trust for single hubs: `hub=/file`, with commas."""
    private_hosts: str = ""
    """Hosts (`name` or `name:port`), with commas, that may be spoken to although they are in a private network."""
    secret_key: str | None = None
    """Seals the credentials that requests bring; 32 bytes in base64. Without it a key is made on the volume."""
    ollama_registry: str = "https://registry.ollama.ai"
    """The Ollama registry, or a mirror of it."""
    ollama_host: str = ""
    """A running Ollama server to pull through, instead of the registry itself."""
    geti_host: str = ""
    """The Intel Geti server."""
    geti_token: str | None = None
    """A personal access token of that server."""
    geti_workspace_id: str = ""
    """The workspace on it, where there are several."""
    geti_server_api_version: str = "v1"
    """The version of its interface."""
    geti_server_ssl_verify: str = "true"
    """`false` trusts any certificate of GETI_HOST."""
    pipeline_zoo_url: str = "https://github.com/dlstreamer/pipeline-zoo-models"
    """The Git repository of the Pipeline Zoo's models."""
    pipeline_zoo_api_url: str = ""
    """The interface of the forge that holds it, where that cannot be told from its address."""
    omz_url: str = "https://storage.openvinotoolkit.org"
    """Where Open Model Zoo keeps its files."""
    omz_catalogue: str = ""
    """Another catalogue of Open Model Zoo than the one in the package."""
    hls_3d_pose_checkpoint_url: str = (
        "https://storage.openvinotoolkit.org/repositories/open_model_zoo/public/2022.1/"
        "human-pose-estimation-3d-0001/human-pose-estimation-3d.tar.gz"
    )
    """The checkpoint of type `3d-pose`."""
    hls_ecg_base_url: str = "https://raw.githubusercontent.com/Einse57/OpenVINO_sample/master/ai-ecg-master"
    """Where the models of type `ai-ecg` are."""
    hls_rppg_model_url: str = "https://github.com/xliucs/MTTS-CAN/raw/main/mtts_can.hdf5"
    """The weights of type `rppg`."""
    ultralytics_assets_url: str = "https://github.com/ultralytics/assets/releases/download"
    """Where Ultralytics keeps its weights and calibration images."""
    ultralytics_releases_url: str = ""
    """What describes the releases, as GitHub's API does; where the files are at GitHub, it is known."""
    ultralytics_coco_url: str = "http://images.cocodataset.org/zips/val2017.zip"
    """The pictures of data set coco."""
    external_sources_url_allowlist: str = "github.com/open-edge-platform/edge-ai-resources/"
    """What hub `remote-url` may fetch: `host/path/` prefixes, with commas."""
    startup_models_config: str | None = None
    """A file with the models to ask for when the service starts."""
    max_upload_size_mb: int = 500
    """The largest upload."""
    upload_chunk_size_kb: int = 1024
    """How much of an upload is read at a time."""
    max_unpacked_mb: int = 51200
    """The most that an archive may hold, unpacked."""

    access: Literal["auto", "off", "required"] = "auto"
    """Whether callers must say who they are; `auto` asks them unless HOST is this machine alone."""
    admin_key: str | None = None
    """A key that is always let in as an admin, such as to make the first keys: at least 32 characters."""
    open_networks: str = ""
    """Networks, as `10.0.0.0/8`, with commas, whose clients may use the routes of Intel's service without a key."""
    trusted_proxies: str = ""
    """Addresses or networks, with commas, of proxies that say truly for whom they ask (`X-Forwarded-For`)."""
    allowed_hosts: str = ""
    """The names, with commas, by which clients may call this service; empty is any, or on this machine its own."""
    oidc_issuer: str = ""
    """Whose bearer tokens are taken, as an OpenID Connect issuer's address."""
    oidc_audience: str = ""
    """For whom those tokens must be."""
    oidc_roles: str = ""
    """What their holders may do: `value=role`, with commas, by values of the roles' claim; `*=viewer` is anybody."""
    oidc_roles_claim: str = "roles"
    """The claim that holds them; with dots where it is inside another, as in `realm_access.roles`."""
    oidc_name_claim: str = "sub"
    """The claim by which the audit trail names them."""
    rate_limit: str = ""
    """How often one caller may ask, as `600/minute`; empty is without limit. Probes are not counted."""
    keep_audit_days: float = 365.0
    """Days that the audit trail is kept, at least 30; 0 is for ever."""

    cors_allow_origins: str = ""
    """The origins of web pages that may call the API, with commas; empty is none, `*` is all."""
    cors_allow_methods: str = "*"
    """The methods that they may use."""
    cors_allow_headers: str = "*"
    """The headers that they may send."""

    download_slots: int = 4
    """Fetches that one download worker runs at a time; plans, listings and publications have a place beside them."""
    convert_slots: int = 1
    """How many conversions one convert worker runs at a time."""
    connections: int = 16
    """The most connections one fetch opens."""
    block_mb: int = 8
    """The size of the blocks of a transfer: what a kill loses at most, for each connection."""
    stall_s: float = 60.0
    """Seconds without a byte after which a transfer counts as stalled."""
    spare_mb: int = 512
    """What stays free on the volume."""
    convert_memory_mb: int = 0
    """The most memory one conversion may use, beyond the libraries that all share; 0 is no limit."""
    memory_budget_mb: int = 0
    """What the conversions of one machine may use together; 0 is what is free when its worker starts."""
    trust_remote_code: str = ""
    """Repositories whose own Python code may run, as `org/name@<40 hex digits>`, with commas; `*` is all of them."""
    allow_pickle: str = ""
    """Repositories whose weights may be read from pickles, as `org/name[@commit]`, with commas; `*` is all of them."""
    pull: Literal["on", "off"] = "on"
    """`off`: always convert, also where the organisation `OpenVINO` at the hub holds the wanted result."""
    keep_fp16: Literal["on", "off"] = "off"
    """`on`: conversions to INT8 and INT4 keep the model in FP16 too, and later precisions are made of it."""
    profiles: str = ""
    """Environments for conversions beside the worker's own: `name=folder`, with commas."""

    lease_s: float = 60.0
    """Seconds without a heartbeat after which a stage is taken from its worker."""
    heartbeat_s: float = 0.5
    """Seconds between two heartbeats, and so between two updates of the progress."""
    reconcile_s: float = 5.0
    """Seconds between two rounds of the reconciler."""
    max_attempts: int = 5
    """Attempts at a stage that fails for a reason that may pass."""
    max_crashes: int = 3
    """How often a stage may take its process or worker down."""
    retry_base_s: float = 5.0
    """The first wait before another attempt; it doubles each time."""
    retry_cap_s: float = 900.0
    """The longest wait before another attempt."""
    keep_jobs_days: float = 90.0
    """Days that a job is remembered after its end; 0 is for ever. Models are not touched."""
    keep_jobs: int = 100_000
    """How many ended jobs are remembered; 0 is all of them."""

    drain_s: float = 0.0
    """Seconds that a worker which is asked to end lets its stages run on before it hands them back."""

    metrics_port: int = 0
    """The port at which each process tells of its health and its metrics, without a key; 0 is none."""
    metrics_host: str = "127.0.0.1"
    """The address that it listens at for that."""
    prometheus_multiproc_dir: str = ""
    """A folder, empty at each start, in which several processes behind one port keep their counts together."""
    flower_url: str = ""
    """Where people reach Flower, for a link on the page of the workers."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least weight of what is logged."""
    log_format: Literal["text", "json"] = "text"
    """`text` for people, `json` for machines: one object a line."""

    def __repr__(self) -> str:
        shown = {name: getattr(self, name) for name in self.__struct_fields__}
        for name in ("database_url", "redis_url"):
            shown[name] = re.sub(r"://[^/]*@", "://***@", shown[name])
        for name in _HIDDEN & {name for name, value in shown.items() if value}:
            shown[name] = "***"
        return f"Settings({shown})"

    @property
    def store_url(self) -> str:
        """The job table's URL, with the default filled in."""
        return self.database_url or f"sqlite:///{self.state_dir / 'modelferry.db'}"

    @property
    def asks_callers(self) -> bool:
        """Whether callers must say who they are."""
        return self.access == "required" or (self.access == "auto" and not is_loopback(self.host))

    @property
    def state_dir(self) -> Path:
        """Where the embedded service keeps its database and queue."""
        return self.models_dir.absolute() / ".modelferry" / "state"

    @property
    def profile_folders(self) -> dict[str, str]:
        """Profile -> the folder of its packages."""
        return pairs_in(self.profiles)

    @property
    def plugin_settings(self) -> dict[str, str]:
        """What plugins may ask for by name; see `plugins.Access`."""
        return {
            "HF_ENDPOINT": self.hf_endpoint,
            "REQUESTS_CA_BUNDLE": self.requests_ca_bundle,
            "MODELFERRY_TRUST_REMOTE_CODE": self.trust_remote_code,
            "MODELFERRY_ALLOW_PICKLE": self.allow_pickle,
            "MODELFERRY_PULL": self.pull,
            "MODELFERRY_KEEP_FP16": self.keep_fp16,
            "MODELFERRY_PROFILES": json.dumps(dict(self.profile_folders)),
            "MODELFERRY_PRIVATE_HOSTS": self.private_hosts,
            "MODELFERRY_PROXIES": json.dumps(pairs_in(self.proxies)),
            "MODELFERRY_CA_BUNDLES": json.dumps(pairs_in(self.ca_bundles)),
            "MODELFERRY_MAX_UNPACKED_MB": str(self.max_unpacked_mb),
            "MODELS_DIR": str(self.models_dir),
            **{name.upper(): getattr(self, name) for name in _HUB_SETTINGS},
        }

    @property
    def plugin_secrets(self) -> dict[str, str]:
        """Credentials that plugins may ask for by name."""
        known = {"HF_TOKEN": self.hf_token, "GETI_TOKEN": self.geti_token}
        return {name: value for name, value in known.items() if value}


class WorkerSettings(Settings, frozen=True, kw_only=True):
    """The same, and what the environment says of variables that only plugins know: name -> value."""

    other_settings: dict[str, str] = {}
    other_secrets: dict[str, str] = {}

    @property
    def plugin_settings(self) -> dict[str, str]:
        """What plugins may ask for by name; see `plugins.Access`."""
        return self.other_settings | super().plugin_settings

    @property
    def plugin_secrets(self) -> dict[str, str]:
        """Credentials that plugins may ask for by name."""
        return self.other_secrets | super().plugin_secrets


def listed(text: str) -> list[str]:
    """Entries, with commas."""
    return [entry.strip() for entry in text.split(",") if entry.strip()]


def is_loopback(host: str) -> bool:
    """Whether what listens there can be reached from this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def networks_in(text: str) -> list[IPv4Network | IPv6Network]:
    """Networks, or single addresses, with commas. Raises ValueError for what is none."""
    return [ip_network(entry) for entry in listed(text)]


def pairs_in(text: str) -> dict[str, str]:
    """`name=value` pairs, with commas."""
    pairs = (entry.partition("=") for entry in text.split(",") if entry.strip())
    return {name.strip(): value.strip() for name, _, value in pairs}


_HUB_SETTINGS = (
    "ollama_registry",
    "ollama_host",
    "geti_host",
    "geti_workspace_id",
    "geti_server_api_version",
    "geti_server_ssl_verify",
    "pipeline_zoo_url",
    "pipeline_zoo_api_url",
    "omz_url",
    "omz_catalogue",
    "hls_3d_pose_checkpoint_url",
    "hls_ecg_base_url",
    "hls_rppg_model_url",
    "ultralytics_assets_url",
    "ultralytics_releases_url",
    "ultralytics_coco_url",
    "external_sources_url_allowlist",
)

_PUBLIC_NAMES = {
    *_HUB_SETTINGS,
    "geti_token",
    "startup_models_config",
    "max_upload_size_mb",
    "upload_chunk_size_kb",
    "models_dir",
    "model_path",
    "enabled_plugins",
    "database_url",
    "redis_url",
    "host",
    "port",
    "hf_endpoint",
    "hf_token",
    "requests_ca_bundle",
    "cors_allow_origins",
    "cors_allow_methods",
    "cors_allow_headers",
    "prometheus_multiproc_dir",
}

_CLIENTS_OWN = frozenset({"MODELFERRY_URL", "MODELFERRY_API_KEY", "MODELFERRY_API_KEY_FILE"})
"""What tells clients something, and a service nothing."""

VARIABLES: Mapping[str, str] = {
    (name if name in _PUBLIC_NAMES else f"{_OWN_PREFIX}{name}").upper(): name for name in Settings.__struct_fields__
}
"""Environment variable -> field."""


FILE_VARIABLES: Mapping[str, str] = {
    f"{variable}_FILE": variable for variable, field in VARIABLES.items() if field in _FROM_FILE
}
"""Variable that names a file -> the variable whose value is in it."""


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings. Raises SettingsError that names the first unknown or wrong variable."""
    env = _with_files(os.environ if environ is None else environ)
    known = {*VARIABLES, *FILE_VARIABLES, *_CLIENTS_OWN}
    unknown = sorted(name for name in env if name.startswith(_OWN_PREFIX) and name not in known)
    if unknown:
        msg = f"{unknown[0]} is not a setting of Modelferry"
        raise SettingsError(msg)
    raw = {
        field: env[name]
        for name, field in VARIABLES.items()
        if env.get(name, "") != "" or (name in env and field in _MAY_BE_EMPTY)
    }
    if "hf_token" not in raw and env.get("HUGGINGFACEHUB_API_TOKEN"):
        raw["hf_token"] = env["HUGGINGFACEHUB_API_TOKEN"]
    settings = _convert(raw)
    _check(settings)
    return settings


def _with_files(env: Mapping[str, str]) -> Mapping[str, str]:
    """The environment with what its files hold. Raises SettingsError, which names no content."""
    read = dict(env)
    for variable, name in FILE_VARIABLES.items():
        if not env.get(variable):
            continue
        if env.get(name):
            msg = f"{name} and {variable} are both set: one of them is enough"
            raise SettingsError(msg)
        try:
            read[name] = Path(env[variable]).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            msg = f"{variable}={env[variable]!r} cannot be read: {reason}"
            raise SettingsError(msg) from error
    return read


def service_address(environ: Mapping[str, str] | None = None) -> str:
    """Where a client finds the service when nobody tells it: MODELFERRY_URL, or this machine."""
    env = os.environ if environ is None else environ
    return env.get("MODELFERRY_URL", "") or "http://127.0.0.1:8200"


def client_key(environ: Mapping[str, str] | None = None) -> str:
    """The API key that a client sends when nobody tells it: MODELFERRY_API_KEY, or what MODELFERRY_API_KEY_FILE holds.

    Empty where there is none. Raises SettingsError.
    """
    env = os.environ if environ is None else environ
    if env.get("MODELFERRY_API_KEY_FILE"):
        if env.get("MODELFERRY_API_KEY"):
            msg = "MODELFERRY_API_KEY and MODELFERRY_API_KEY_FILE are both set: one of them is enough"
            raise SettingsError(msg)
        return key_in_file(Path(env["MODELFERRY_API_KEY_FILE"]), "MODELFERRY_API_KEY_FILE")
    return env.get("MODELFERRY_API_KEY", "").strip()


def key_in_file(file: Path, named_by: str) -> str:
    """The API key that a file holds. Raises SettingsError, which names no content."""
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        msg = f"{named_by}={str(file)!r} cannot be read: {reason}"
        raise SettingsError(msg) from error


def telemetry_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables of OpenTelemetry, which it reads by itself too. One of them may hold a key: not to be shown."""
    env = os.environ if environ is None else environ
    return {name: value for name, value in env.items() if name.startswith("OTEL_")}


def with_variables(
    settings: Settings, names: Collection[str], secrets: Collection[str], environ: Mapping[str, str] | None = None
) -> WorkerSettings:
    """The settings with the variables that plugins name, as settings or as secrets, and that are none of ours."""
    env = os.environ if environ is None else environ
    theirs = {
        name: env[name]
        for name in sorted({*names, *secrets})
        if name not in VARIABLES and not name.startswith(_OWN_PREFIX) and env.get(name, "") != ""
    }
    return WorkerSettings(
        **msgspec.structs.asdict(settings),
        other_settings={name: value for name, value in theirs.items() if name not in secrets},
        other_secrets={name: value for name, value in theirs.items() if name in secrets},
    )


def _convert(raw: dict[str, str]) -> Settings:
    for field, value in raw.items():
        try:
            msgspec.convert({field: value}, Settings, strict=False, dec_hook=_decode)
        except msgspec.ValidationError as error:
            shown = "***" if field in _HIDDEN else repr(value)
            msg = f"{_variable(field)}={shown} is not usable: {error}"
            raise SettingsError(msg) from error
    return msgspec.convert(raw, Settings, strict=False, dec_hook=_decode)


def _decode(kind: type, value: object) -> Path:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError


def _check(settings: Settings) -> None:
    """Refuse values of the right type that cannot work."""
    positive = (
        "port", "download_slots", "convert_slots", "connections", "block_mb", "stall_s",
        "lease_s", "heartbeat_s", "reconcile_s", "max_attempts", "max_crashes", "retry_base_s", "retry_cap_s",
    )  # fmt: skip
    for field in positive:
        if getattr(settings, field) <= 0:
            msg = f"{_variable(field)} must be greater than 0"
            raise SettingsError(msg)
    if settings.lease_s <= 2 * settings.heartbeat_s:
        msg = f"{_variable('lease_s')} must be more than twice {_variable('heartbeat_s')}"
        raise SettingsError(msg)
    if settings.lease_s <= 4 * settings.reconcile_s + settings.heartbeat_s:
        # The reconciler must notice an outage before it lasts as long as a lease.
        msg = f"{_variable('lease_s')} must be more than four times {_variable('reconcile_s')}"
        raise SettingsError(msg)
    for field in (
        "spare_mb", "convert_memory_mb", "memory_budget_mb", "keep_jobs_days", "keep_jobs", "keep_audit_days",
        "drain_s", "metrics_port",
    ):  # fmt: skip
        if getattr(settings, field) < 0:
            msg = f"{_variable(field)} must not be negative"
            raise SettingsError(msg)
    if settings.secret_key and not _is_key(settings.secret_key):
        msg = f"{_variable('secret_key')} must be 32 bytes in base64"
        raise SettingsError(msg)
    if settings.flower_url and not re.fullmatch(r"https?://[^\s/?#@]+([/?#]\S*)?", settings.flower_url):
        msg = f"{_variable('flower_url')} must be an address that begins with http:// or https://"
        raise SettingsError(msg)
    _check_access(settings)
    _check_lists(settings)


def _check_access(settings: Settings) -> None:
    if settings.admin_key is not None and len(settings.admin_key) < _SHORTEST_KEY:
        msg = f"{_variable('admin_key')} must have at least {_SHORTEST_KEY} characters"
        raise SettingsError(msg)
    for field in ("open_networks", "trusted_proxies"):
        try:
            networks_in(getattr(settings, field))
        except ValueError as error:
            msg = f"{_variable(field)} must be networks, as 10.0.0.0/8, with commas: {error}"
            raise SettingsError(msg) from error
    roles = pairs_in(settings.oidc_roles)
    if not set(roles.values()) <= set(Role):
        msg = f"{_variable('oidc_roles')} must be pairs of a value and one of {', '.join(Role)}"
        raise SettingsError(msg)
    if settings.oidc_issuer and not (settings.oidc_audience and roles):
        missing = "oidc_roles" if settings.oidc_audience else "oidc_audience"
        msg = f"{_variable('oidc_issuer')} needs {_variable(missing)}: without it nobody could be let in"
        raise SettingsError(msg)
    if settings.oidc_issuer and not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", settings.oidc_issuer):
        msg = f"{_variable('oidc_issuer')} must be an address that begins with https:// or http://"
        raise SettingsError(msg)
    if settings.rate_limit and not re.fullmatch(r"[1-9]\d{0,8}/(second|minute|hour|day)", settings.rate_limit):
        msg = f"{_variable('rate_limit')} must be a number per second, minute, hour or day, as 600/minute"
        raise SettingsError(msg)
    if 0 < settings.keep_audit_days < _LEAST_AUDIT_DAYS:
        msg = f"{_variable('keep_audit_days')} must be 0 or at least {_LEAST_AUDIT_DAYS}"
        raise SettingsError(msg)


def _is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == _KEY_BYTES
    except ValueError:
        return False


def _check_lists(settings: Settings) -> None:
    for repository in filter(None, (entry.strip() for entry in settings.trust_remote_code.split(","))):
        if repository != "*" and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?@[0-9a-f]{40}", repository, re.ASCII):
            msg = f"{_variable('trust_remote_code')} must name repositories with commits, as org/name@<40 hex digits>"
            raise SettingsError(msg)
    for name, folder in settings.profile_folders.items():
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,39}", name) or not folder.startswith("/"):
            msg = f"{_variable('profiles')} must be pairs of a name and an absolute folder, as name=/folder"
            raise SettingsError(msg)


def _variable(field: str) -> str:
    return next(name for name, known in VARIABLES.items() if known == field)


_INHERITED = (
    "PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
)  # fmt: skip


def inherited_environment() -> dict[str, str]:
    """What a child process may inherit: how to find programs, proxies and certificates, and no credential."""
    return {name: os.environ[name] for name in _INHERITED if name in os.environ}

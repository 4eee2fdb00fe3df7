"""The hubs that are enabled, and what they need."""

import httpx

from api.cli.doctor.findings import Finding, Findings, fail, ok, warn
from api.cli.doctor.network import check_certificates
from common.catalog.registry import Catalog
from common.errors import PluginUnavailable
from common.settings import Settings, pairs_in

_ADDRESSES = {
    "huggingface": ("HF_ENDPOINT", "hf_endpoint"),
    "openvino": ("HF_ENDPOINT", "hf_endpoint"),
    "ollama": ("OLLAMA_REGISTRY", "ollama_registry"),
    "geti": ("GETI_HOST", "geti_host"),
    "pipeline-zoo-models": ("PIPELINE_ZOO_URL", "pipeline_zoo_url"),
    "omz": ("OMZ_URL", "omz_url"),
    "ultralytics": ("ULTRALYTICS_ASSETS_URL", "ultralytics_assets_url"),
}
_TIMEOUT_S = 10.0


def look(settings: Settings, *, online: bool) -> Findings:
    """What is offered, and whether its settings are complete. `online` asks the hubs, too."""
    try:
        catalog = Catalog.installed(settings.enabled_plugins)
    except PluginUnavailable as error:
        yield fail("plugins", str(error), "Correct ENABLED_PLUGINS.")
        return
    yield ok(
        "plugins", f"hubs {', '.join(catalog.hubs) or 'none'}; converters {', '.join(catalog.converters) or 'none'}"
    )
    if {"huggingface", "openvino"} & catalog.hubs.keys():
        yield _token(settings)
    if "geti" in catalog.hubs:
        yield _geti(settings)
    for hub, file in pairs_in(settings.ca_bundles).items():
        yield from check_certificates(f"MODELFERRY_CA_BUNDLES, {hub}", file)
    if online:
        yield from _ask(settings, catalog)


def _token(settings: Settings) -> Finding:
    if settings.hf_token:
        return ok("huggingface", "HF_TOKEN is set")
    return ok("huggingface", "HF_TOKEN is not set: gated and private models cannot be fetched, and limits are lower")


def _geti(settings: Settings) -> Finding:
    if settings.geti_host and settings.geti_token:
        return ok("geti", "GETI_HOST and GETI_TOKEN are set")
    return ok("geti", "GETI_HOST or GETI_TOKEN is not set: requests have to bring them")


def _ask(settings: Settings, catalog: Catalog) -> Findings:
    asked = {_ADDRESSES[hub] for hub in catalog.hubs if hub in _ADDRESSES}
    for name, field in sorted(asked):
        address = getattr(settings, field)
        if not address:
            continue
        try:
            verify = settings.requests_ca_bundle or True
            answer = httpx.get(address, timeout=_TIMEOUT_S, verify=verify, headers={"Range": "bytes=0-0"})
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            yield fail(
                "online", f"{name} ({address}) does not answer: {type(error).__name__}",
                "Check the address, HTTPS_PROXY, and the certificates.",
            )  # fmt: skip
            continue
        if answer.status_code >= 500:
            yield warn("online", f"{name} ({address}) answers {answer.status_code}", "The hub is in trouble; wait.")
        else:
            yield ok("online", f"{name} ({address}) answers")
    if settings.hf_token and {"huggingface", "openvino"} & catalog.hubs.keys():
        yield _is_token_known(settings)


def _is_token_known(settings: Settings) -> Finding:
    try:
        answer = httpx.get(
            f"{settings.hf_endpoint.rstrip('/')}/api/whoami-v2",
            headers={"Authorization": f"Bearer {settings.hf_token}"},
            timeout=_TIMEOUT_S,
            verify=settings.requests_ca_bundle or True,
        )
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        return warn("online", f"HF_TOKEN could not be tried: {type(error).__name__}", "Check the way to the hub.")
    if answer.status_code in {401, 403}:
        return fail(
            "online", "The hub does not know HF_TOKEN.", "Create a new token at the hub and set HF_TOKEN to it."
        )
    return ok("online", "the hub knows HF_TOKEN")

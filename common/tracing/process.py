"""The tracer of a process: made by its entry where the operator wants traces, and closed at its end."""

import atexit
import logging
from collections.abc import Mapping

from common.settings import telemetry_environment
from common.tracing.spans import Tracer, use

log = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_CONSOLE = "console"


def configure(service: str, names: Mapping[str, str] | None = None) -> None:
    """Make the tracer of this process, where OTEL_* variables ask for one. `names` say more about the process.

    Without the extra `tracing` there is none, and a line of the log says so.
    """
    finish()
    asked = telemetry_environment()
    if not _is_wanted(asked):
        return
    protocol = next((asked[name] for name in _PROTOCOLS if asked.get(name)), "http/protobuf")
    if protocol != "http/protobuf":
        log.error("tracing.unavailable", extra={"reason": f"Traces are sent as http/protobuf, not as {protocol[:40]}."})
        return
    tracer = _made(service, names or {}, console=_is_for_console(asked))
    if tracer is not None:
        use(tracer)
        atexit.register(finish)
        log.info("tracing.on", extra={"exporter": _CONSOLE if _is_for_console(asked) else "otlp"})


def finish() -> None:
    """Close the tracer of this process, if there is one. Safe to repeat."""
    former = use(None)
    if former is not None:
        atexit.unregister(finish)
        former.close()


def _is_wanted(asked: Mapping[str, str]) -> bool:
    if asked.get("OTEL_SDK_DISABLED", "").lower() == "true" or asked.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return _is_for_console(asked) or any(asked.get(name) for name in _ENDPOINTS)


def _is_for_console(asked: Mapping[str, str]) -> bool:
    return asked.get("OTEL_TRACES_EXPORTER") == _CONSOLE


def _made(service: str, names: Mapping[str, str], *, console: bool) -> Tracer | None:
    # The libraries belong to an extra, and who wants no traces is not to wait for their import.
    try:
        from common.tracing.sending import make_tracer  # noqa: PLC0415
    except ImportError as error:
        reason = f"The module {error.name} is not installed: install modelferry[tracing]."
        log.error("tracing.unavailable", extra={"reason": reason})  # noqa: TRY400 - the reason says all
        return None
    try:
        return make_tracer(service, names, console=console)
    except Exception as error:  # noqa: BLE001 - the library reads variables of its own: none of them may stop a service
        # Its words may repeat a variable, and the headers among those are secret.
        reason = f"An OTEL_ variable is not usable ({type(error).__name__})."
        log.error("tracing.unavailable", extra={"reason": reason})  # noqa: TRY400 - see above
        return None

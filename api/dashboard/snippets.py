"""The same wish in other words: for curl, for the command line, for Python."""

import json
import shlex
from urllib.parse import urlencode

import msgspec
from msgspec import structs

from api.wire import JobView
from common.vocabulary import Operation, Precision, Priority

_USUAL_ADDRESS = "http://127.0.0.1:8200"


class Snippet(msgspec.Struct, frozen=True, kw_only=True):
    """Text to copy."""

    key: str
    word: str
    text: str


class _Wish(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One model of a submission, without what says nothing."""

    name: str
    hub: str
    type: str | None = None
    is_ovms: bool = False
    revision: str | None = None
    priority: str | None = None
    config: dict[str, object] | None = None


def snippets(job: JobView, address: str) -> list[Snippet]:
    """How to ask this service for the same again. There is no such way for an upload."""
    if job.operation_type is Operation.UPLOAD:
        return []
    wish = _Wish(
        name=job.model_name,
        hub=job.hub,
        type=job.model_type.value if job.model_type else None,
        is_ovms=job.operation_type is Operation.CONVERT,
        revision=job.revision,
        priority=None if job.priority is Priority.NORMAL else job.priority.value,
        config=job.config or None,
    )
    return [
        Snippet(key="cli", word="Command line", text=_command(wish, job.download_path, address)),
        Snippet(key="curl", word="curl", text=_curl(wish, job.download_path, address)),
        Snippet(key="python", word="Python", text=_python(wish, job.download_path, address)),
    ]


def _curl(wish: _Wish, download_path: str, address: str) -> str:
    url = f"{address}/models/download?{urlencode({'download_path': download_path})}"
    body = json.dumps({"models": [msgspec.to_builtins(wish)]}, indent=2, ensure_ascii=False)
    return (
        f"curl --fail-with-body -X POST {shlex.quote(url)} \\\n"
        f"  -H 'Content-Type: application/json' \\\n"
        f"  -d {shlex.quote(body)}"
    )


def _command(wish: _Wish, download_path: str, address: str) -> str:
    config = dict(wish.config or {})
    options: list[tuple[str, str | None]] = [("--hub", wish.hub)]
    if wish.is_ovms:
        options.append(("--ovms", None))
    options += [("--type", wish.type)] if wish.type else []
    for name, known in (("precision", [*Precision]), ("device", None)):
        value = config.get(name)
        if isinstance(value, str) and (known is None or value in known):
            options.append((f"--{name}", value))
            del config[name]
    options += [("--revision", wish.revision)] if wish.revision else []
    options += [("--priority", wish.priority)] if wish.priority else []
    options += [("--path", download_path)] if download_path else []
    options += [("--config-json", json.dumps(config, ensure_ascii=False))] if config else []
    options += [("--url", address)] if address != _USUAL_ADDRESS else []
    # A value of its own could be taken for an option; one behind the equals sign cannot.
    words = [name if value is None else _option(name, value) for name, value in options]
    name = shlex.quote(wish.name)
    named = f"-- {name}" if wish.name.startswith("-") else name
    return " \\\n  ".join(["modelferry pull", *words, named])


def _option(name: str, value: str) -> str:
    return f"{name}={shlex.quote(value)}" if value.startswith("-") else f"{name} {shlex.quote(value)}"


def _python(wish: _Wish, download_path: str, address: str) -> str:
    words = {name: repr(value) for name, value in structs.asdict(wish).items() if value not in (None, False)}
    words |= {"type": f"modelferry.ModelType({wish.type!r})"} if wish.type else {}
    words |= {"priority": f"modelferry.Priority({wish.priority!r})"} if wish.priority else {}
    fields = "".join(f"        {name}={text},\n" for name, text in words.items())
    return (
        f"import modelferry\n\n"
        f"with modelferry.Client({address!r}) as client:\n"
        f"    wanted = modelferry.WantedModel(\n{fields}    )\n"
        f"    started = client.submit([wanted], {download_path!r})\n"
        f"    job = client.wait(started.job_ids[0])\n"
        f"    print(job.status, job.path)"
    )

"""The pages of the gates: which are open, what a closed one waits for, make one, forget one."""

import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParams, RawBody
from litestar.response import Redirect
from litestar.status_codes import HTTP_200_OK, HTTP_422_UNPROCESSABLE_ENTITY

from api.compat.decoding import Unprocessable
from api.compat.gates import read_gate
from api.dashboard import usage
from api.dashboard.pages import Pages, read_form, see, wants_fragment
from api.gate_views import gate_page, gate_view
from api.gates import Gates
from api.gates.answers import GateAnswers
from api.problems import AnyRequest
from api.routes.asking import read_asker
from api.views import Places
from common.errors import RequestError

_EXAMPLE = """\
[
  {"name": "BAAI/bge-small-en-v1.5", "hub": "openvino", "type": "embeddings", "is_ovms": true,
   "config": {"precision": "int8"}}
]"""
_NOTES = {"removed": "The gate is gone. Its jobs and models stay."}


class GateForm(msgspec.Struct, frozen=True, kw_only=True):
    """What the form holds, as it was typed."""

    name: str = ""
    models: str = _EXAMPLE
    download_path: str = ""


@get("/ui/gates", sync_to_thread=True)
def gates_page(
    request: AnyRequest,
    query: QueryParams,
    pages: NamedDependency[Pages],
    gates: NamedDependency[Gates],
    places: NamedDependency[Places],
) -> Response[str]:
    """Every gate, and a form for a new one."""
    if wants_fragment(request):
        return pages.page("fragments/gates.html", gates=gate_page(gates.gates(), places).gates)
    return _page(pages, gates, places, GateForm(), note=_NOTES.get(query.get("done", "")))


@get("/ui/gates/{name:str}", sync_to_thread=True)
def gate_detail_page(
    request: AnyRequest,
    name: FromPath[str],
    pages: NamedDependency[Pages],
    gates: NamedDependency[Gates],
    places: NamedDependency[Places],
) -> Response[str]:
    """One gate with each of its models. While it is open in a browser, it keeps itself up to date."""
    gate = gate_view(gates.gate(name), places)
    if wants_fragment(request):
        return pages.page("fragments/gate.html", gate=gate)
    origin = str(request.base_url).rstrip("/")
    return pages.page("gate.html", active="gates", gate=gate, uses=usage.of_gate(gate.name, origin))


@post("/ui/gates", status_code=HTTP_200_OK, sync_to_thread=True)
def put_gate_from_page(
    request: AnyRequest,
    *,
    body: RawBody,
    pages: NamedDependency[Pages],
    gates: NamedDependency[Gates],
    gate_answers: NamedDependency[GateAnswers],
    places: NamedDependency[Places],
) -> Response[str] | Redirect:
    """Make it, or say what is wrong with it beside the form."""
    fields = read_form(body)
    form = GateForm(**{name: fields[name].strip() for name in GateForm.__struct_fields__ if name in fields})
    try:
        wanted = read_gate(_body(form), "application/json", gates.jobs.catalog.hubs)
        gates.put(form.name, wanted.wishes, wanted.download_path, read_asker(request, "gate", form.name))
    except Unprocessable as error:
        faults = [f"{'.'.join(map(str, fault.loc[1:]))}: {fault.msg}" for fault in error.faults]
        return _page(pages, gates, places, form, faults=faults)
    except RequestError as error:
        return _page(pages, gates, places, form, faults=[str(error)])
    finally:
        gate_answers.forget(form.name)
    return see(f"/ui/gates/{form.name}")


@post("/ui/gates/{name:str}/delete", status_code=HTTP_200_OK, sync_to_thread=True)
def remove_gate_from_page(
    name: FromPath[str], gates: NamedDependency[Gates], gate_answers: NamedDependency[GateAnswers]
) -> Redirect:
    """Forget it."""
    try:
        gates.remove(name)
    finally:
        gate_answers.forget(name)
    return see("/ui/gates?done=removed")


def _page(
    pages: Pages,
    gates: Gates,
    places: Places,
    form: GateForm,
    *,
    faults: list[str] | None = None,
    note: str | None = None,
) -> Response[str]:
    return pages.page(
        "gates.html",
        active="gates",
        status=HTTP_422_UNPROCESSABLE_ENTITY if faults else HTTP_200_OK,
        gates=gate_page(gates.gates(), places).gates,
        form=form,
        faults=faults or [],
        note=note,
    )


def _body(form: GateForm) -> bytes:
    """The body that the route would be given, of a list of models or of a whole request. What is no JSON stays so."""
    text = form.models.encode()
    try:
        said = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return text
    if isinstance(said, list):
        said = {"models": said}
    if isinstance(said, dict) and form.download_path:
        said = {"download_path": form.download_path, **said}
    return msgspec.json.encode(said)

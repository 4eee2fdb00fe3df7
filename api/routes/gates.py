"""Gates: named sets of models that applications wait for."""

from typing import Any, cast

from litestar import MediaType, Response, delete, get, put
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, RawBody
from litestar.status_codes import HTTP_200_OK, HTTP_201_CREATED, HTTP_503_SERVICE_UNAVAILABLE

from api.compat.gates import GateRequest, read_gate
from api.gate_views import gate_page, gate_view
from api.gates import Gates
from api.gates.answers import GateAnswers
from api.problems import AnyRequest, documented
from api.routes.asking import HEADERS, read_asker
from api.routes.documented import reads
from api.views import Places
from api.wire import Problem
from api.wire.gates import GatePage, GateView

_TENANT = [header for header in HEADERS if header.name == "Modelferry-Tenant"]
"""A PUT needs no Idempotency-Key: the same one again does nothing twice."""

_ClosedOrUnknown = cast("type[Any]", GateView | Problem)


@put(
    "/gates/{name:str}",
    status_code=HTTP_200_OK,
    sync_to_thread=True,
    tags=["gates"],
    summary="Have a gate wait for models",
    operation_class=reads(body=GateRequest, headers=_TENANT),
    responses={
        HTTP_201_CREATED: ResponseSpec(data_container=GateView, description="A new gate.", generate_examples=False),
        **documented(400, 409, 413, 422, 503),
    },
)
def put_gate(
    request: AnyRequest,
    name: FromPath[str],
    body: RawBody,
    gates: NamedDependency[Gates],
    places: NamedDependency[Places],
) -> Response[GateView]:
    """Models that are neither there nor on their way are asked for. The same request again changes nothing else."""
    wanted = read_gate(body, request.headers.get("content-type"), gates.jobs.catalog.hubs)
    asker = read_asker(request, "gate", name, body)
    standing, kept = gates.put(name, wanted.wishes, wanted.download_path, asker)
    return Response(gate_view(standing, places), status_code=HTTP_201_CREATED if kept.created else HTTP_200_OK)


@get(
    "/gates/{name:str}",
    tags=["gates"],
    summary="Whether every model of a gate is there",
    responses={
        **documented(404),
        HTTP_503_SERVICE_UNAVAILABLE: ResponseSpec(
            data_container=_ClosedOrUnknown,
            description="The gate is not open: what is missing; or nobody knows, because the job table is away.",
            generate_examples=False,
        ),
    },
)
async def get_gate(name: FromPath[str], gate_answers: NamedDependency[GateAnswers]) -> Response[GateView]:
    """As of a second ago at most, or three where the disk or the job table is slow. Made to be asked often."""
    answer = await gate_answers.answer(name)
    # It has been encoded already, once for all who ask.
    body = cast("GateView", answer.body)
    return Response(body, status_code=answer.status, headers=answer.headers, media_type=MediaType.JSON)


@get("/gates", sync_to_thread=True, tags=["gates"], summary="List gates", responses=documented(503))
def list_gates(gates: NamedDependency[Gates], places: NamedDependency[Places]) -> GatePage:
    return gate_page(gates.gates(), places)


@delete(
    "/gates/{name:str}",
    sync_to_thread=True,
    tags=["gates"],
    summary="Forget a gate",
    responses=documented(404, 503),
)
def remove_gate(name: FromPath[str], gates: NamedDependency[Gates]) -> None:
    """Its jobs and models stay."""
    gates.remove(name)

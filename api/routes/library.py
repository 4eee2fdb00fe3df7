"""The models on the volume: list, look at one, verify, remove."""

from concurrent.futures import Executor
from functools import partial

from litestar import delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParams
from litestar.status_codes import HTTP_200_OK

from api.compat.leaving import attended
from api.compat.local_models import LocalModelsQuery, read_local_models_query
from api.library import Models
from api.library_views import local_model, local_page, removal_view, verification_view
from api.problems import AnyRequest, documented
from api.routes.documented import reads
from api.views import Places
from api.wire.local import LocalModelPage, RemovalView, VerificationView, WholeLocalModelView


@get(
    "/models",
    sync_to_thread=True,
    tags=["models"],
    summary="List the models on the volume",
    operation_class=reads(query=LocalModelsQuery),
    responses=documented(422),
)
def list_models(
    query: QueryParams, library: NamedDependency[Models], places: NamedDependency[Places]
) -> LocalModelPage:
    """What is on the disk now, also what others have put there. Folders that begin with a dot do not count."""
    asked = read_local_models_query(query.multi_items())
    page = library.page(
        hub=asked.hub, name=asked.name, precision=asked.precision, limit=asked.limit, offset=asked.offset
    )
    return local_page(page, places, limit=asked.limit, offset=asked.offset)


@get(
    "/models/{model_id:str}",
    sync_to_thread=True,
    tags=["models"],
    summary="Look at a model on the volume",
    responses=documented(400, 404),
)
def get_model(
    model_id: FromPath[str], library: NamedDependency[Models], places: NamedDependency[Places]
) -> WholeLocalModelView:
    return local_model(library.model(model_id), places)


@delete(
    "/models/{model_id:str}",
    status_code=HTTP_200_OK,
    sync_to_thread=True,
    tags=["models"],
    summary="Remove a model from the volume",
    responses=documented(400, 404, 409, 503),
)
def remove_model(
    model_id: FromPath[str], library: NamedDependency[Models], places: NamedDependency[Places]
) -> RemovalView:
    """Only what Modelferry has published. Files that were changed or added since are kept aside."""
    return removal_view(library.remove(model_id), places)


@post(
    "/models/{model_id:str}/verify",
    status_code=HTTP_200_OK,
    tags=["models"],
    summary="Read a model again and compare its digests",
    responses=documented(400, 404, 409, 503),
)
async def verify_model(
    request: AnyRequest, model_id: FromPath[str], library: NamedDependency[Models], long_work: NamedDependency[Executor]
) -> VerificationView:
    """Ends early if the client leaves. Spoilt content is taken out of the content store as well."""
    verification = await attended(request.receive, long_work, partial(library.verify, model_id))
    return verification_view(model_id, verification)

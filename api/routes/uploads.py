"""Uploads: a model that a client sends."""

import asyncio
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

import msgspec
from litestar import post
from litestar.di import NamedDependency
from litestar.openapi.spec import OpenAPIMediaType, Operation, RequestBody, Schema
from litestar.openapi.spec.enums import OpenAPIFormat, OpenAPIType
from litestar.status_codes import HTTP_200_OK

from api.compat.leaving import attended
from api.compat.upload import UploadLimits, read_upload
from api.library_views import uploaded_view
from api.problems import AnyRequest, documented
from api.routes.asking import HEADERS, read_asker
from api.uploads import Upload, Uploads
from api.views import Places
from api.wire.local import UploadedView


def _text(description: str, default: str | None = None) -> Schema:
    return Schema(type=OpenAPIType.STRING, description=description, default=default)


_FORM = Schema(
    type=OpenAPIType.OBJECT,
    required=["file", "model_name"],
    properties={
        "file": Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY, description="A zip of the model's files."),
        "model_name": _text("Letters, digits, spaces, dots, underscores and hyphens; spaces become underscores."),
        "provider": _text("Who made the model.", "geti"),
        "framework": _text("Whose form the model has.", "openvino"),
        "precision": _text("The number format of its weights.", "FP16"),
    },
)


@dataclass
class _Uploading(Operation):
    """The operation of a route that reads the form by itself."""

    def __post_init__(self) -> None:
        # No Idempotency-Key: the model's own name keeps it from being published twice.
        self.parameters = [*(self.parameters or []), *HEADERS[1:]]
        self.request_body = RequestBody(content={"multipart/form-data": OpenAPIMediaType(schema=_FORM)}, required=True)


@post(
    "/models/upload",
    status_code=HTTP_200_OK,
    request_max_body_size=None,
    tags=["models"],
    summary="Upload a model",
    operation_class=_Uploading,
    responses=documented(400, 409, 413, 422, 503, 507),
)
async def upload_model(
    request: AnyRequest,
    uploads: NamedDependency[Uploads],
    upload_limits: NamedDependency[UploadLimits],
    places: NamedDependency[Places],
    long_work: NamedDependency[Executor],
) -> UploadedView:
    """A zip that holds at least one .xml and one .bin file. It is published as it is, and never replaces a model."""
    asker = read_asker(request, "upload", "")
    size = min(request.content_length or 0, upload_limits.most_bytes)
    with uploads.place() as file:
        await asyncio.get_running_loop().run_in_executor(long_work, uploads.prepare, size)
        form = await read_upload(request.receive, request.headers, file, upload_limits, long_work)
        upload = Upload(**msgspec.structs.asdict(form))
        publish = partial(uploads.publish, upload, asker.tenant, origin=asker.origin)
        uploaded = await attended(request.receive, long_work, publish)
    return uploaded_view(uploaded, places)

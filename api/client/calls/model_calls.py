"""What is asked of models: those of hubs, and those on the volume."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from api.client.call import ASKING_S, LONG_S, Call, Form, as_view, asking, given, json_body, path_of
from api.wire import ListedPage
from api.wire.local import LocalModelPage, RemovalView, UploadedView, VerificationView, WholeLocalModelView


def search(
    hub: str,
    *,
    filters: Mapping[str, object] | None = None,
    limit: int = 50,
    offset: int = 0,
    override_credentials: Mapping[str, str] | None = None,
    tenant: str | None = None,
) -> Call[ListedPage]:
    """Models that a hub offers. `plugins` tells which filters it knows."""
    asked: dict[str, object] = {"hub": hub, "filters": filters or {}, "limit": limit, "offset": offset}
    if override_credentials is not None:
        asked["override_credentials"] = override_credentials
    body = json_body(asked)
    return Call(
        method="POST",
        path="models/list",
        body=body,
        headers=asking(None, tenant),
        read=as_view(ListedPage),
        least_timeout_s=ASKING_S,
    )


def models(
    *,
    hub: str | None = None,
    name: str | None = None,
    precision: str | None = None,
    limit: int | None = None,
    offset: int | None = None,
) -> Call[LocalModelPage]:
    """Models on the volume, also those that others have put there. `name` is a part of it, in any case."""
    query = given(hub=hub, name=name, precision=precision, limit=limit, offset=offset)
    return Call(method="GET", path="models", query=query, read=as_view(LocalModelPage))


def model(model_id: str) -> Call[WholeLocalModelView]:
    """One model on the volume, with its files and how it was made."""
    return Call(method="GET", path=path_of("models", model_id), read=as_view(WholeLocalModelView))


def remove_model(model_id: str) -> Call[RemovalView]:
    """Remove a model that Modelferry has published."""
    return Call(method="DELETE", path=path_of("models", model_id), read=as_view(RemovalView), least_timeout_s=LONG_S)


def verify_model(model_id: str) -> Call[VerificationView]:
    """Read every file of a model again and compare its digest."""
    path = path_of("models", model_id, "verify")
    return Call(method="POST", path=path, read=as_view(VerificationView), least_timeout_s=LONG_S)


def upload(
    path: str | PathLike[str],
    model_name: str,
    *,
    provider: str | None = None,
    framework: str | None = None,
    precision: str | None = None,
    tenant: str | None = None,
) -> Call[UploadedView]:
    """Publish the model in a zip file. The file is read while it is sent. OSError if it cannot be read."""
    fields = given(model_name=model_name, provider=provider, framework=framework, precision=precision)
    return Call(
        method="POST",
        path="models/upload",
        form=Form(Path(path), dict(fields)),
        headers=asking(None, tenant),
        read=as_view(UploadedView),
        least_timeout_s=LONG_S,
    )

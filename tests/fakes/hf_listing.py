"""Searches, sorts and pages the listings of the Hugging Face hub as its query parameters say."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from urllib.parse import urlencode

from tests.fakes.exchange import Request
from tests.fakes.hf_documents import Document


def wanted(request: Request, documents: Iterable[Document]) -> list[Document]:
    """The models that fit the query, the greatest first where it names a field to sort by."""
    found = [document for document in documents if _fits(request, document)]
    sort = request.asks("sort")
    if sort:
        found.sort(key=lambda document: _sort_key(document.get(sort)), reverse=True)
    return found


def page(request: Request, items: list[Document], page_size: int) -> tuple[list[Document], dict[str, str]]:
    """One page, and the header that leads to the next one."""
    start = int(base64.urlsafe_b64decode(request.asks("cursor") or "") or b"0")
    stop = start + min(int(request.asks("limit") or page_size), page_size)
    if stop >= len(items):
        return items[start:], {}
    cursor = base64.urlsafe_b64encode(str(stop).encode()).decode()
    query = urlencode({**request.query, "cursor": [cursor]}, doseq=True)
    link = f'<http://{request.address}{request.raw_path}?{query}>; rel="next"'
    return items[start:stop], {"Link": link}


def expanded(request: Request, document: Document) -> Document:
    """Only the fields that `expand` names, where it names any."""
    names = request.query.get("expand")
    if names is None:
        return document
    return {name: value for name, value in document.items() if name in {"_id", "id", *names}}


def is_set(value: str | None) -> bool:
    return (value or "").lower() in {"1", "true"}


def _fits(request: Request, document: Document) -> bool:
    query, tags = request.query, document["tags"]
    name, author = str(document["id"]).lower(), str(document["author"]).lower()
    return (
        all(text.lower() in name for text in query.get("search", []))
        and all(wanted_author.lower() == author for wanted_author in query.get("author", []))
        and all(isinstance(tags, list) and tag in tags for tag in query.get("filter", []))
        and all(document.get("pipeline_tag") == tag for tag in query.get("pipeline_tag", []))
        and all(bool(document["gated"]) == is_set(value) for value in query.get("gated", []))
    )


def _sort_key(value: object) -> tuple[float, str]:
    return (value, "") if isinstance(value, int | float) else (0, str(value or ""))

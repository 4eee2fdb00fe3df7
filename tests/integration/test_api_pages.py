"""Pages of jobs by cursor: every job once, in either order, whatever comes and goes meanwhile."""

import base64
import json
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from tests.web import Web

A_MODEL: dict[str, Any] = {"name": "org/model", "hub": "huggingface"}


@pytest.fixture
def ids(service: Web) -> list[str]:
    return service.submitted(*({**A_MODEL, "name": f"a/m{number}"} for number in range(7)))


def flat(pages: Iterable[list[str]]) -> list[str]:
    return [job_id for page in pages for job_id in page]


def walk(service: Web, path: str) -> Iterator[list[str]]:
    """The ids of page after page, along the links."""
    while path:
        answer = service.get(path)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert "total" not in page
        link = answer.headers.get("link")
        assert (link is None) is ("next_cursor" not in page)
        yield [job["id"] for job in page["jobs"]]
        if link is None:
            return
        path, _, relation = link.partition(";")
        assert relation.strip() == 'rel="next"'
        path = path.strip("<>")
        assert page["next_cursor"] in path


@pytest.mark.parametrize("prefix", ["", "/api/v1"])
@pytest.mark.parametrize("limit", [1, 3, 7, 1000])
def test_links_lead_through_all_jobs(service: Web, ids: list[str], prefix: str, limit: int) -> None:
    pages = list(walk(service, f"{prefix}/jobs?cursor=&limit={limit}"))
    assert flat(pages) == ids
    assert all(0 < len(page) <= limit for page in pages)
    assert len(pages) == -(-len(ids) // limit)


def test_links_keep_the_prefix_and_the_filters(quick: Web) -> None:
    quick.submitted(*[A_MODEL] * 3)
    link = quick.get("/api/v1/jobs?cursor=&limit=2&status=queued&sort=-created_at&colour=blue").headers["link"]
    assert link.startswith("</api/v1/jobs?")
    for part in ("limit=2", "status=queued", "sort=-created_at"):
        assert part in link


def test_the_newest_come_first_where_asked_for(service: Web, ids: list[str]) -> None:
    assert flat(walk(service, "/jobs?cursor=&limit=3&sort=-created_at")) == ids[::-1]
    assert flat(walk(service, "/jobs?cursor=&limit=3&sort=created_at")) == ids
    assert flat(walk(service, "/jobs?limit=3&sort=-created_at")) == ids[::-1]


def test_a_cursor_alone_keeps_its_order(service: Web, ids: list[str]) -> None:
    cursor = service.get("/jobs?cursor=&limit=3&sort=-created_at").json()["next_cursor"]
    rest = service.get("/jobs", params={"cursor": cursor}).json()
    assert [job["id"] for job in rest["jobs"]] == ids[3::-1]


def test_only_the_jobs_of_a_status(service: Web, ids: list[str]) -> None:
    for number in (1, 2, 5):
        service.post(f"/jobs/{ids[number]}/cancel")
    assert flat(walk(service, "/jobs?cursor=&limit=2&status=canceled")) == [ids[1], ids[2], ids[5]]
    assert list(walk(service, "/jobs?cursor=&status=failed")) == [[]]


def test_pages_have_a_hundred_jobs_unless_asked_for(quick: Web) -> None:
    quick.submitted(*[A_MODEL] * 101)
    assert [len(page) for page in walk(quick, "/jobs?cursor=")] == [100, 1]


def test_what_comes_and_goes_meanwhile_moves_nobody(service: Web, ids: list[str]) -> None:
    pages = walk(service, "/jobs?cursor=&limit=3")
    seen = next(pages)
    service.post(f"/jobs/{ids[2]}/cancel")
    assert service.delete(f"/jobs/{ids[2]}").status_code == 204
    (new,) = service.submitted({**A_MODEL, "name": "a/new"})
    for page in pages:
        seen += page
    assert seen == [*ids, new]


def a_cursor(*parts: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(list(parts)).encode()).rstrip(b"=").decode()


GARBAGE = [
    "x",
    "%00",
    "5",
    "ä",
    "MQ==",
    a_cursor(2, "created_at", 1),
    a_cursor(1, "model_name", 1),
    a_cursor(1, "created_at", -1),
    a_cursor(1, "created_at", 2**63),
    a_cursor(1, "created_at", "1"),
    a_cursor(1, "created_at", 1, 1),
    "A" * 5000,
]


@pytest.mark.parametrize("cursor", GARBAGE)
def test_a_cursor_that_is_none_is_refused(quick: Web, cursor: str) -> None:
    answer = quick.get("/jobs", params={"cursor": cursor})
    assert answer.status_code == 422
    (fault,) = answer.json()["detail"]
    assert (fault["type"], fault["loc"], set(fault)) == ("value_error", ["query", "cursor"], {"type", "loc", "msg"})


@pytest.mark.parametrize(
    ("query", "kind", "name"),
    [
        ("cursor=&offset=0", "value_error", "offset"),
        ("sort=created_at&offset=1", "value_error", "offset"),
        ("cursor=&sort=name", "enum", "sort"),
        ("sort=", "enum", "sort"),
        ("cursor=&limit=0", "greater_than_equal", "limit"),
        ("cursor=&limit=1001", "less_than_equal", "limit"),
        (f"cursor={a_cursor(1, 'created_at', 1)}&sort=-created_at", "value_error", "sort"),
    ],
)
def test_pages_that_cannot_be(quick: Web, query: str, kind: str, name: str) -> None:
    answer = quick.get(f"/jobs?{query}")
    assert answer.status_code == 422
    (fault,) = answer.json()["detail"]
    assert (fault["type"], fault["loc"]) == (kind, ["query", name])

"""The dashboard's pages as HTML: what they show, what their forms do, and what they never let through."""

import ast
import json
import re
import shlex
import time
import uuid
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from common.outcome import Cancelled, Failed, Released, Retry, Succeeded
from common.spec import Progress
from common.vocabulary import Phase
from tests.web import Web, web

A_MODEL: dict[str, Any] = {"name": "org/model", "hub": "huggingface"}
GATED = Failed(code="source_gated", detail="Its terms have not been accepted.", hint="Accept them on its page.")
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }}{% for x in y %}",
    "' onfocus='alert(1)' autofocus='",
    "</textarea></title><svg onload=alert(1)>",
    "javascript:alert(1)",
]
PAGES = ["/", "/ui/new", "/ui/jobs", "/ui/codes", "/ui/strip", "/ui/glance", "/ui/jobs/list"]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Web]:
    with web(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """For tests that do not mind what others have left."""
    with web(tmp_path_factory.mktemp("shared")) as running:
        yield running


class _Page(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        return [
            found
            for name, found in self.elements
            if name == tag and all(found.get(key.rstrip("_")) == value for key, value in attributes.items())
        ]


def page(answer: httpx.Response, status: int = 200) -> _Page:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return _Page(answer.text)


def failed(site: Web, name: str = "org/model") -> str:
    (job_id,) = site.submitted({**A_MODEL, "name": name})
    while job_id not in (claim := site.claim()).job_ids:
        site.stages.settle(claim, Cancelled())
    site.stages.settle(claim, GATED)
    return job_id


# What every page is like


@pytest.mark.parametrize("path", PAGES)
def test_every_page_forbids_everything_that_is_not_from_here(path: str, shared: Web) -> None:
    failed(shared)
    answer = shared.get(path)
    policy = dict(part.strip().partition(" ")[::2] for part in answer.headers["content-security-policy"].split(";"))
    assert policy == {
        "default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "img-src": "'self' data:",
        "connect-src": "'self'", "form-action": "'self'", "frame-ancestors": "'none'", "base-uri": "'none'",
    }  # fmt: skip
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert "set-cookie" not in answer.headers
    for tag, attributes in page(answer).elements:
        assert not [name for name in attributes if name == "style" or name.startswith("on")], (tag, attributes)
        for name in ("src", "href", "action", "formaction"):
            assert not urlsplit(attributes.get(name) or "").netloc, (tag, attributes)
        assert tag != "script" or attributes["src"], "no script within a page"


def test_the_files_of_the_pages_are_served_and_named_by_their_content(shared: Web) -> None:
    seen = page(shared.get("/"))
    files = [element["href"] for element in seen.all("link")] + [element["src"] for element in seen.all("script")]
    assert len(files) == 4
    for file in files:
        assert re.fullmatch(r"/static/dashboard/[a-z.]+\?v=[0-9a-f]{12}", file or "")
        assert shared.get(str(file)).status_code == 200


def test_pages_are_no_part_of_the_api(shared: Web) -> None:
    paths = shared.get("/openapi.json").json()["paths"]
    assert [path for path in paths if path == "/" or path.startswith("/ui")] == []
    assert {"/overview", "/workers"} <= set(paths)
    assert shared.get("/api/v1/ui/jobs").status_code == 404


@pytest.mark.parametrize(("path", "word"), [("/", "Overview"), ("/ui/new", "New job"), ("/ui/jobs", "Jobs")])
def test_the_navigation_tells_where_one_is(path: str, word: str, shared: Web) -> None:
    seen = page(shared.get(path))
    assert [link["href"] for link in seen.all("a", aria_current="page")] == []
    assert [link["href"] for link in seen.all("a", **{"aria-current": "page"})] == [path]
    assert seen.all("nav", **{"aria-label": "Main"})
    assert seen.all("main", id="main")
    assert seen.all("a", class_="skip", href="#main")
    assert word in seen.text


# Forms of others


@pytest.mark.parametrize("verb", ["cancel", "retry", "forget"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site", "Origin": "https://elsewhere.example"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://other.127.0.0.1"},
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1.elsewhere.example"},
    ],
)
def test_a_form_of_another_site_does_nothing(verb: str, headers: dict[str, str], shared: Web) -> None:
    job_id = failed(shared, f"org/{uuid.uuid4()}") if verb != "cancel" else shared.submitted(A_MODEL)[0]
    before = len(shared.get("/jobs").json()["jobs"])
    seen = page(shared.post(f"/ui/jobs/{job_id}/{verb}", headers=headers), 403)
    assert "sent by another site" in seen.text
    assert len(shared.get("/jobs").json()["jobs"]) == before
    refused = shared.post("/ui/new", data={"name": "org/evil", "hub": "huggingface"}, headers=headers)
    assert refused.status_code == 403
    assert len(shared.get("/jobs").json()["jobs"]) == before


@pytest.mark.parametrize(
    "headers",
    [{}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}, {"Origin": "http://127.0.0.1"}],
)
def test_an_own_form_does_its_work(headers: dict[str, str], shared: Web) -> None:
    (job_id,) = shared.submitted(A_MODEL)
    answer = shared.post(f"/ui/jobs/{job_id}/cancel", headers=headers)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/ui/jobs/{job_id}")
    assert shared.job(job_id)["status"] == "canceled"


# Overview


def test_the_empty_overview_tells_how_to_begin(site: Web) -> None:
    seen = page(site.get("/"))
    assert "No jobs yet" in seen.text
    assert [link for link in seen.all("a") if (link["href"] or "").startswith("/ui/new?name=")]
    assert "No worker is running" in seen.text


def test_a_failure_comes_first_with_its_hint_and_a_way_to_retry(site: Web) -> None:
    job_id = failed(site)
    site.submitted({**A_MODEL, "name": "org/other"})
    site.beat(site.claim(), Progress(phase=Phase.DOWNLOADING, bytes_done=250, bytes_total=1000, speed_bps=50.0))
    text = page(site.get("/")).text
    order = [
        text.index(word) for word in ("org/model failed", "Needs attention", GATED.detail, "What to do:", "Running")
    ]
    assert order == sorted(order)
    assert str(GATED.hint) in text
    assert "250 B of 1.0 KB" in text
    retried = site.post(f"/ui/jobs/{job_id}/retry")
    assert retried.status_code == 303
    new_id = retried.headers["location"].rsplit("/", 1)[1]
    assert site.job(new_id)["retry_of"] == job_id
    assert "Needs attention" not in page(_later(site, "/")).text


def _later(site: Web, path: str) -> httpx.Response:
    """The overview is remembered for a second."""
    time.sleep(1.1)
    return site.get(path)


def test_the_strip_tells_of_failures_before_progress_and_of_that_which_is_least_far(site: Web) -> None:
    site.submitted({**A_MODEL, "name": "org/far"})
    site.beat(site.claim(), Progress(phase=Phase.DOWNLOADING, bytes_done=900, bytes_total=1000))
    site.submitted({**A_MODEL, "name": "org/near"})
    site.beat(site.claim(), Progress(phase=Phase.DOWNLOADING, bytes_done=100, bytes_total=1000))
    text = page(site.get("/ui/strip")).text
    assert text.startswith("org/near downloading · 1 more at work")
    failed(site, "org/bad")
    assert page(_later(site, "/ui/strip")).text.startswith("org/bad failed")


def test_the_day_is_drawn_and_written(site: Web) -> None:
    site.submitted(A_MODEL)
    claim = site.claim()
    site.beat(claim, Progress(phase=Phase.DOWNLOADING, bytes_done=5000, bytes_total=5000))
    site.stages.settle(claim, Succeeded(artefact="a1"))
    site.settle(Succeeded(artefact="a1"))
    seen = page(site.get("/"))
    (chart,) = seen.all("svg", class_="chart")
    assert chart["aria-label"] == (
        "Fetched in the last 24 hours: 5.0 KB, at most 5.0 KB in one hour. 1 jobs were completed, 0 failed."
    )
    assert len(seen.all("rect", class_="column")) == 1
    assert seen.all("svg", class_="gauge", role="img")


# Jobs


def test_jobs_come_newest_first_and_in_pages(site: Web) -> None:
    for number in range(30):
        site.submitted({**A_MODEL, "name": f"org/model-{number}"})
    first = page(site.get("/ui/jobs"))
    names = re.findall(r"org/model-\d+", first.text)
    assert names == [f"org/model-{number}" for number in range(29, 4, -1)]
    (older,) = first.all("a", rel="next")
    second = page(site.get(str(older["href"])))
    assert re.findall(r"org/model-\d+", second.text) == [f"org/model-{number}" for number in range(4, -1, -1)]
    assert second.all("a", rel="next") == []


def test_jobs_are_filtered_by_state_and_by_name(site: Web) -> None:
    failed(site, "org/bad")
    site.submitted({**A_MODEL, "name": "org/good"})
    assert "org/good" not in page(site.get("/ui/jobs?status=failed")).text
    assert "org/bad" in page(site.get("/ui/jobs?status=failed")).text
    named = page(site.get("/ui/jobs", params={"name": "org/good"})).text
    assert ("org/good" in named, "org/bad" in named) == (True, False)
    assert "No such jobs" in page(site.get("/ui/jobs?name=org/nobody")).text
    assert "No such jobs" in page(site.get("/ui/jobs?name=org/good&status=failed")).text
    page(site.get("/ui/jobs?status=odd"), 422)
    page(site.get("/ui/jobs?cursor=odd"), 422)


def test_a_running_job_shows_its_bar_its_steps_and_its_log(site: Web) -> None:
    (job_id,) = site.submitted(A_MODEL)
    claim = site.claim()
    progress = Progress(
        phase=Phase.DOWNLOADING,
        bytes_done=2_500_000,
        bytes_total=10_000_000,
        files_done=1,
        files_total=3,
        speed_bps=1e6,
    )
    site.beat(claim, progress)
    seen = page(site.get(f"/ui/jobs/{job_id}"))
    (bar,) = seen.all("progress", id="bar")
    assert bar["value"] == str(site.job(job_id)["progress"]["percent"])
    for words in ("2.5 MB of 10.0 MB", "1 of 3", "1.0 MB/s", "8 s", "fetch running · downloading", "publish waiting"):
        assert words in seen.text
    (body,) = seen.all("body")
    assert (body["data-live"] or "").startswith(f"/jobs/{job_id}/events")
    assert "Attempt 1 at the fetch begins" in seen.text
    assert [form["action"] for form in seen.all("form", method="post")] == [f"/ui/jobs/{job_id}/cancel"]


def test_a_failed_job_shows_code_hint_and_what_the_code_means(shared: Web) -> None:
    job_id = failed(shared)
    seen = page(shared.get(f"/ui/jobs/{job_id}"))
    assert GATED.detail in seen.text
    assert f"What to do: {GATED.hint}" in seen.text
    assert "fetch failed" in seen.text
    assert "publish not begun" in seen.text
    (link,) = [link for link in seen.all("a") if "/ui/codes" in (link["href"] or "")]
    assert link["href"] == "/ui/codes#source_gated"
    assert page(shared.get("/ui/codes")).all("li", id="source_gated")
    actions = {form["action"] for form in seen.all("form", method="post")}
    assert actions == {f"/ui/jobs/{job_id}/retry", f"/ui/jobs/{job_id}/forget"}
    assert seen.all("body")[0].get("data-live") is None


def test_attempts_that_end_badly_are_seen_with_the_reason(tmp_path: Path) -> None:
    with web(tmp_path) as site:
        (job_id,) = site.submitted(A_MODEL)
        site.settle(Released())
        site.stages._retry = site.stages._retry.__class__(max_attempts=3, base_s=60.0, jitter=lambda: 1.0)
        site.settle(Retry(code="hub_unavailable", detail="It answered 503.", hint="Wait."))
        seen = page(site.get(f"/ui/jobs/{job_id}")).text
    assert "The last attempt ended badly" in seen
    assert "fetch will be tried again" in seen
    assert "Attempt 1: released" in seen
    assert re.search(r"Attempt 2: retried after \d s · hub_unavailable · It answered 503\.", seen)


def test_a_completed_job_shows_its_result_and_offers_its_provenance(site: Web) -> None:
    (job_id,) = site.submitted(A_MODEL)
    site.complete(path="x/huggingface/org_model", revision="f" * 40, licence="mit", bytes=1500, files=2, artefact="a1")
    seen = page(site.get(f"/ui/jobs/{job_id}"))
    assert site.job(job_id)["path"] in seen.text
    for words in ("f" * 40, "mit", "1.5 KB in 2 files", "fetch done", "publish done"):
        assert words in seen.text
    assert [link for link in seen.all("a", href=f"/jobs/{job_id}/provenance") if "download" in link]
    forgotten = site.post(f"/ui/jobs/{job_id}/forget")
    assert (forgotten.status_code, forgotten.headers["location"]) == (303, "/ui/jobs")
    page(site.get(f"/ui/jobs/{job_id}"), 404)


def test_what_cannot_be_done_is_said_on_a_page(shared: Web) -> None:
    job_id = failed(shared)
    assert "already" in page(shared.post(f"/ui/jobs/{job_id}/cancel"), 409).text
    page(shared.post("/ui/jobs/nobody/cancel"), 404)
    part = page(shared.get("/ui/jobs/nobody/state", headers={"HX-Request": "true"}))
    assert part.all("html") == []
    assert "nobody not found" in part.text


# The same from elsewhere


AWKWARD = 'it\'s "odd" $(id) `id` \\ & name'


def _snippets(site: Web, job_id: str) -> dict[str, str]:
    html = site.get(f"/ui/jobs/{job_id}").text
    found = re.findall(r'<code id="snippet-(\w+)">(.*?)</code>', html, re.DOTALL)
    return {
        key: _Page(f"<pre>{text}</pre>").words and "".join(_Page(f"<pre>{text}</pre>").words) for key, text in found
    }


PLAIN = {**A_MODEL, "revision": "v1.0", "priority": "low", "config": {"note": AWKWARD}}
CONVERTED = {
    **A_MODEL, "is_ovms": True, "type": "embeddings", "revision": "v1", "config": {"precision": "int8", "cache_size": 2},
}  # fmt: skip


@pytest.mark.parametrize("wish", [PLAIN, CONVERTED], ids=["plain", "converted"])
def test_the_curl_of_a_job_submits_the_same_again(wish: dict[str, Any], shared: Web) -> None:
    (job_id,) = shared.submitted(wish, download_path="some folder/x")
    words = shlex.split(_snippets(shared, job_id)["curl"])
    assert words[:4] == ["curl", "--fail-with-body", "-X", "POST"]
    address = urlsplit(words[4])
    body = words[words.index("-d") + 1]
    answer = shared.post(
        address.path, params=parse_qs(address.query), content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 200, answer.text
    again = shared.job(answer.json()["job_ids"][0])
    same = ("model_name", "hub", "operation_type", "model_type", "revision", "priority", "config", "output_dir")
    assert {key: again[key] for key in same} == {key: shared.job(job_id)[key] for key in same}


def test_the_command_of_a_job_says_what_it_was(shared: Web) -> None:
    (plain,) = shared.submitted(PLAIN)
    (converted,) = shared.submitted(CONVERTED, download_path="-x y")
    texts = [_snippets(shared, job_id)["cli"] for job_id in (plain, converted)]
    commands = [shlex.split(text.replace("\\\n", "")) for text in texts]
    assert commands == [
        [
            "modelferry", "pull", "--hub", "huggingface", "--revision", "v1.0", "--priority", "low", "--path", "x",
            "--config-json", json.dumps({"note": AWKWARD}), "--url", "http://127.0.0.1", "org/model",
        ],
        [
            "modelferry", "pull", "--hub", "huggingface", "--ovms", "--type", "embeddings", "--precision", "int8",
            "--revision", "v1", "--path=-x y", "--config-json", '{"cache_size": 2}',
            "--url", "http://127.0.0.1", "org/model",
        ],
    ]  # fmt: skip


def test_the_python_of_a_job_says_what_it_was(shared: Web) -> None:
    for wish in (PLAIN, CONVERTED):
        (job_id,) = shared.submitted(wish)
        tree = ast.parse(_snippets(shared, job_id)["python"])
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        (wanted,) = [call for call in calls if ast.unparse(call.func) == "modelferry.WantedModel"]
        words = {str(word.arg): ast.unparse(word.value) for word in wanted.keywords}
        typed = {key: words.pop(key) for key in ("type", "priority") if key in words}
        said = {key: ast.literal_eval(text) for key, text in words.items()}
        said |= {key: re.fullmatch(r"modelferry\.\w+\('(\w+)'\)", text)[1] for key, text in typed.items()}
        assert said == wish


# New job


FORM = {"name": "org/model", "hub": "huggingface", "priority": "normal", "path": "chat"}


def test_the_form_starts_a_job_and_shows_it(shared: Web) -> None:
    form = {
        **FORM, "is_ovms": "true", "type": "embeddings", "precision": "int8", "device": "cpu", "revision": " main ",
        "priority": "high", "config": '{"cache_size": 3}',
    }  # fmt: skip
    answer = shared.post("/ui/new", data=form)
    assert answer.status_code == 303, answer.text
    job = shared.job(answer.headers["location"].removeprefix("/ui/jobs/"))
    assert (job["model_name"], job["operation_type"], job["model_type"]) == ("org/model", "convert", "embeddings")
    assert (job["revision"], job["priority"]) == ("main", "high")
    assert job["config"] == {"precision": "int8", "device": "CPU", "cache_size": 3}
    assert "/chat" in job["output_dir"]


def test_a_name_may_name_its_hub(shared: Web) -> None:
    answer = shared.post("/ui/new", data={**FORM, "name": "ollama:llama3.2:3b"})
    job = shared.job(answer.headers["location"].removeprefix("/ui/jobs/"))
    assert (job["hub"], job["model_name"]) == ("ollama", "llama3.2:3b")


@pytest.mark.parametrize(
    ("given", "field", "words", "status"),
    [
        ({"name": " "}, "name", "needed", 422),
        ({"hub": "nowhere"}, "hub", "Input should be", 422),
        ({"device": "TPU"}, "device", "Invalid device", 422),
        ({"type": "odd"}, "type", "Input should be", 422),
        ({"path": "../.."}, "path", "", 400),
        ({"config": "{"}, "config", "not JSON", 422),
        ({"config": "[]"}, "config", "JSON object", 422),
        ({"config": '{"cache_size": "x"}'}, "config", "cache_size", 422),
    ],
    ids=["name", "hub", "device", "type", "path", "no JSON", "no object", "option"],
)
@pytest.mark.parametrize("verb", ["", "/plan"])
def test_what_is_wrong_stands_at_its_field(
    given: dict[str, str], field: str, words: str, status: int, verb: str, shared: Web
) -> None:
    before = shared.get("/jobs").json()["jobs"]
    answer = shared.post(f"/ui/new{verb}", data={**FORM, **given})
    seen = page(answer, status)
    assert seen.all("p", class_="fault", id=f"fault-{field}")
    assert words in seen.text
    (marked,) = [element for _, element in seen.elements if element.get("aria-invalid") == "true"]
    assert (marked["id"], (marked["aria-describedby"] or "").split()[0]) == (field, f"fault-{field}")
    assert shared.get("/jobs").json()["jobs"] == before


def test_a_refusal_that_is_about_no_field_stands_above_the_form(shared: Web) -> None:
    seen = page(shared.post("/ui/new", data={**FORM, "name": "a/b/c/d"}), 400)
    assert seen.all("div", role="alert")
    assert seen.all("input", id="name")[0]["value"] == "a/b/c/d"


def test_the_form_may_come_filled_in(shared: Web) -> None:
    seen = page(shared.get("/ui/new", params={"name": "org/x", "hub": "ollama", "is_ovms": "true", "other": "ignored"}))
    assert seen.all("input", id="name")[0]["value"] == "org/x"
    assert [option for option in seen.all("option") if "selected" in option]
    assert "checked" in seen.all("input", id="is_ovms")[0]


# Hostile names


@pytest.mark.parametrize("text", HOSTILE)
def test_what_comes_from_outside_stays_text(text: str, shared: Web) -> None:
    answers = [
        shared.get("/ui/jobs", params={"name": text}),
        shared.get("/ui/new", params=dict.fromkeys(("name", "revision", "device", "path", "config", "hub"), text)),
        shared.post("/ui/new", data={**FORM, "name": text}),
        shared.post("/ui/new", data={**FORM, "config": json.dumps({text: text})}),
        shared.get(f"/ui/jobs/{'x' + text.replace('/', '')}"),
    ]
    made = shared.submitted({**A_MODEL, "revision": None, "config": {"note": text, text: {"deep": text}}})
    while made[0] not in (claim := shared.claim()).job_ids:
        shared.stages.settle(claim, Cancelled())
    shared.stages.settle(claim, Failed(code="source_gated", detail=text, hint=text))
    answers += [shared.get(path) for path in ("/", "/ui/jobs", f"/ui/jobs/{made[0]}", "/ui/strip")]
    for answer in answers:
        seen = _Page(answer.text)
        assert not [tag for tag, _ in seen.elements if tag in {"img", "iframe", "object"}]
        for tag, attributes in seen.elements:
            assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
            assert not (attributes.get("href") or "").startswith("javascript:")
            assert tag != "script" or (attributes.get("src") or "").startswith("/static/dashboard/")
    shown = _Page(shared.get(f"/ui/jobs/{made[0]}").text)
    assert " ".join(text.split()) in shown.text


ODD_FORMS = {
    "nul": b"name=%00&hub=huggingface",
    "no UTF-8": b"name=%ff%fe&hub=huggingface&path=%00",
    "noise": b"\xff\xfe=\x00",
    "fields": b"&".join(b"field%d=x" % number for number in range(300)),
    "deep list": b"name=org/m&hub=huggingface&config=" + b"[" * 200_000,
    "deep object": b"name=org/m&hub=huggingface&config=" + b"%7B%22a%22%3A" * 5000,
    "infinite": b"name=org/m&hub=huggingface&config=%7B%22cache_size%22%3A1e999%7D",
    "long number": b"name=org/m&hub=huggingface&config=%7B%22cache_size%22%3A" + b"9" * 400 + b"%7D",
    "long name": b"name=" + b"a" * 100_000 + b"&hub=huggingface",
    "large": b"name=x" + b"a" * 1_500_000,
    "multipart": b"--b\r\nContent-Disposition: form-data; name=name\r\n\r\nx\r\n--b--",
    "empty": b"",
}


@pytest.mark.parametrize("kind", ODD_FORMS)
@pytest.mark.parametrize("path", ["/ui/new", "/ui/new/plan"])
def test_an_odd_form_is_refused_on_a_page(path: str, kind: str, shared: Web) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = shared.post(path, content=ODD_FORMS[kind], headers=headers)
    assert answer.status_code in {400, 413, 422}, answer.text[:1000]
    page(answer, answer.status_code)


@pytest.mark.parametrize("job_id", ["%00", "%ff", "..%2f..%2fetc", "a" * 5000, "%F0%9F%9A%A2"], ids=range(5))
def test_an_odd_id_is_nobodys(job_id: str, shared: Web) -> None:
    for answer in (shared.get(f"/ui/jobs/{job_id}"), shared.post(f"/ui/jobs/{job_id}/cancel")):
        assert answer.status_code in {400, 404, 405}, answer.text[:1000]

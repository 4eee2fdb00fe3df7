"""The clients of a run: they submit, cancel and look at jobs through whatever goes wrong, and keep the books."""

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from common.artefacts.manifest import check_published
from tests.chaos.plan import Post, Wish, WishKind
from tests.e2e.service import ENDED

PREFIX = "/api/v1"

_THREADS = 8
_AGAIN_S = 0.3
_PATIENCE_S = 180.0
"""How long a submission is repeated before the service is said not to answer any more."""
_LOOK_EVERY_S = 0.1
_TIMEOUT_S = 10.0
_PAGE = 200
_HUB = "huggingface"


@dataclass
class Account:
    """What the clients know of one accepted job."""

    wish: Wish
    download_path: str
    cancel_asked: bool = False
    cancelled: bool = False
    """The service has said that it is cancelled."""
    seen: str | None = None
    """The state in which it was seen to have ended."""


@dataclass
class Clients:
    """All that clients do in a run. `addresses` are the APIs, each of which may be away at any time."""

    addresses: list[str]
    accounts: dict[str, Account] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    """Answers that no client should ever get."""
    half_published: list[str] = field(default_factory=list)
    """Models that were said to be there and were not."""
    _ended: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _timers: list[threading.Timer] = field(default_factory=list)

    def __post_init__(self) -> None:
        limits = httpx.Limits(max_connections=32)
        self._http = httpx.Client(trust_env=False, timeout=_TIMEOUT_S, limits=limits)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="client")
        self._threads: list[threading.Thread] = []

    def begin(self, posts: tuple[Post, ...]) -> None:
        """Submit everything, each at its time from now on, while jobs are looked at all the time."""
        for work in (lambda: self._feed(posts), self._look):
            thread = threading.Thread(target=work, name="client", daemon=True)
            self._threads.append(thread)
            thread.start()

    @property
    def feeding(self) -> bool:
        """Whether something is still to be submitted or cancelled."""
        return self._threads[0].is_alive() or any(timer.is_alive() for timer in list(self._timers))

    def close(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(2 * _TIMEOUT_S)
        self._pool.shutdown()
        self._http.close()

    def submit(self, post: Post) -> list[str]:
        """POST until it is answered. Its answer counts, however many were lost on the way."""
        url = f"{PREFIX}/models/download"
        body = {"models": [_model(wish) for wish in post.wishes]}
        answer = self.insist(
            "POST", url, post.api, json=body, params={"download_path": post.download_path},
            headers={"Idempotency-Key": post.key},
        )  # fmt: skip
        if answer is None or not answer.is_success:
            told = "no answer" if answer is None else f"{answer.status_code} {answer.text}"
            self._complain(f"post {post.number}: {told}")
            return []
        ids: list[str] = answer.json()["job_ids"]
        if len(ids) != len(post.wishes):
            self._complain(f"post {post.number}: {len(ids)} ids for {len(post.wishes)} models")
        with self._lock:
            for job_id, wish in zip(ids, post.wishes, strict=False):
                self.accounts.setdefault(job_id, Account(wish, post.download_path))
        for job_id, wish in zip(ids, post.wishes, strict=False):
            if wish.cancel_after_s is not None:
                self._cancel_later(job_id, wish.cancel_after_s, post.api + 1)
        return ids

    def insist(self, method: str, path: str, api: int, **options: Any) -> httpx.Response | None:
        """Ask until somebody answers who is not out of order; the APIs take turns. None: nobody ever did."""
        until = time.monotonic() + _PATIENCE_S
        while time.monotonic() < until and not self._ended.is_set():
            with suppress(httpx.TransportError):
                answer = self._http.request(method, self.addresses[api % len(self.addresses)] + path, **options)
                if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE and not _in_flight(answer):
                    return answer
            api += 1
            self._ended.wait(_AGAIN_S)
        return None

    def job(self, job_id: str) -> dict[str, Any] | None:
        """A job as some API shows it, or None while none does."""
        answer = self.insist("GET", f"{PREFIX}/jobs/{job_id}", 0)
        return answer.json() if answer is not None and answer.is_success else None

    def listed(self) -> dict[str, dict[str, Any]]:
        """Every job that the service tells of, page by page."""
        found: dict[str, dict[str, Any]] = {}
        asked: dict[str, str] = {"sort": "created_at", "limit": str(_PAGE)}
        while True:
            answer = self.insist("GET", f"{PREFIX}/jobs", 0, params=asked)
            if answer is None or not answer.is_success:
                self._complain("the jobs cannot be listed")
                return found
            page = answer.json()
            found |= {job["id"]: job for job in page["jobs"]}
            if "next_cursor" not in page:
                return found
            asked = {"cursor": page["next_cursor"], "limit": str(_PAGE)}

    def attempts(self, job_id: str) -> list[dict[str, Any]]:
        """The history of a job's attempts, as a client reads it."""
        answer = self.insist("GET", f"{PREFIX}/jobs/{job_id}/attempts", 0)
        attempts: list[dict[str, Any]] = answer.json()["attempts"] if answer is not None and answer.is_success else []
        return attempts

    def _feed(self, posts: tuple[Post, ...]) -> None:
        began = time.monotonic()
        waiting = []
        for post in posts:
            if self._ended.wait(max(0.0, began + post.at_s - time.monotonic())):
                return
            waiting.append(self._pool.submit(self._guarded, lambda post=post: self.submit(post)))
        for one in waiting:
            one.result()

    def _cancel_later(self, job_id: str, after_s: float, api: int) -> None:
        timer = threading.Timer(after_s, self._guarded, [lambda: self._cancel(job_id, api)])
        timer.daemon = True
        with self._lock:
            self._timers.append(timer)
        timer.start()

    def _cancel(self, job_id: str, api: int) -> None:
        account = self.accounts[job_id]
        account.cancel_asked = True
        answer = self.insist("POST", f"{PREFIX}/jobs/{job_id}/cancel", api)
        if answer is None or answer.status_code not in {httpx.codes.OK, httpx.codes.CONFLICT}:
            told = "no answer" if answer is None else f"{answer.status_code} {answer.text}"
            self._complain(f"cancel of {job_id}: {told}")
        elif answer.is_success:
            account.cancelled = True

    def _look(self) -> None:
        """Poll jobs as clients do: what is said to be completed is there, and an end is an end."""
        chance = random.Random()
        turn = 0
        while not self._ended.wait(_LOOK_EVERY_S):
            with self._lock:
                known = list(self.accounts)
            if known:
                turn += 1
                job_id = chance.choice(known[-50:] if turn % 2 else known)
                self._guarded(lambda job_id=job_id, turn=turn: self._look_at(job_id, turn))

    def _look_at(self, job_id: str, api: int) -> None:
        answer = self.insist("GET", f"{PREFIX}/jobs/{job_id}", api)
        if answer is None:
            return
        if not answer.is_success:
            self._complain(f"GET of {job_id}: {answer.status_code} {answer.text}")
            return
        job, account = answer.json(), self.accounts[job_id]
        state = job["status"]
        if account.seen not in {None, state}:
            self._complain(f"job {job_id} was {account.seen} and then {state}")
        if state in ENDED and account.seen is None:
            account.seen = state
            if state == "completed":
                problems = check_published(Path(job["path"]))
                self.half_published += [f"{job['path']}, said to be completed: {problem}" for problem in problems]

    def _guarded(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:
            self._complain(f"client: {type(error).__name__}: {error}")

    def _complain(self, words: str) -> None:
        if not self._ended.is_set():
            self.complaints.append(words)


def _model(wish: Wish) -> dict[str, Any]:
    model: dict[str, Any] = {"name": wish.model, "hub": _HUB}
    if wish.kind in {WishKind.CONVERT, WishKind.POISON}:
        config = {"seconds": wish.seconds, **({"poison": True} if wish.kind is WishKind.POISON else {})}
        model |= {"type": "llm", "is_ovms": True, "config": config}
    return model


def _in_flight(answer: httpx.Response) -> bool:
    """Whether this says that the request's first try, whose answer was lost, is still being worked on."""
    keyed = "Idempotency-Key" in answer.request.headers
    return keyed and answer.status_code == httpx.codes.CONFLICT

"""The errors of the Hugging Face hub, in the status codes and headers that its client reads."""

from __future__ import annotations

from urllib.parse import quote

from tests.fakes.exchange import Headers, Reply, reply_with_json


class Refusal(Exception):
    """A request that the hub answers with an error."""

    def __init__(self, status: int, message: str, *, code: str | None = None, headers: Headers | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = {**(headers or {}), **({"X-Error-Code": code} if code else {})}

    def reply(self) -> Reply:
        headers = {"X-Error-Message": self.message, **self.headers}
        return reply_with_json({"error": self.message}, headers, self.status)


def page_missing() -> Refusal:
    return Refusal(404, "Sorry, we can't find the page you are looking for.")


def collection_missing() -> Refusal:
    return Refusal(404, "Collection not found")


def repo_missing(*, anonymous: bool) -> Refusal:
    """Missing, or private: nobody is to see the difference."""
    if anonymous:
        return Refusal(401, "Invalid username or password.", code="RepoNotFound")
    return Refusal(404, "Repository not found", code="RepoNotFound")


def repo_moved(target: str, old: str, new: str) -> Refusal:
    location = target.replace(quote(old), quote(new), 1)
    return Refusal(307, "Temporary Redirect", headers={"Location": location})


def repo_disabled() -> Refusal:
    return Refusal(403, "Access to this resource is disabled.")


def repo_gated(name: str, *, anonymous: bool) -> Refusal:
    message = f"Access to model {name} is restricted"
    if anonymous:
        message = f"{message}. You must have access to it and be authenticated to access it. Please log in."
        return Refusal(401, message, code="GatedRepo")
    return Refusal(403, f"{message} and you are not in the authorized list.", code="GatedRepo")


def revision_missing(revision: str) -> Refusal:
    return Refusal(404, f"Invalid rev id: {_printable(revision)}", code="RevisionNotFound")


def entry_missing(path: str, sha: str) -> Refusal:
    message = f"Entry not found: {_printable(path)}"
    return Refusal(404, message, code="EntryNotFound", headers={"X-Repo-Commit": sha})


def not_logged_in() -> Refusal:
    return Refusal(401, "Invalid username or password.")


def token_unknown() -> Refusal:
    return Refusal(401, "Invalid credentials in Authorization header")


def _printable(text: str) -> str:
    """What a client sent, in a form that a header can carry."""
    return text.encode("unicode_escape").decode()

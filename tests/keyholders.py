"""Callers of a service that asks who they are: the admin of the settings, and keys of every role."""

from typing import Any

from tests.web import Web

ADMIN_KEY = "the-admin-key-of-these-tests-0123456789"
ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
ASKING: dict[str, Any] = {"access": "required", "admin_key": ADMIN_KEY}
"""The settings of such a service."""


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def made(service: Web, role: str = "viewer", name: str = "somebody", **more: object) -> dict[str, Any]:
    """A new key, as the answer that shows it."""
    answer = service.post("/keys", headers=ADMIN, json={"name": name, "role": role, **more})
    assert answer.status_code == 201, answer.text
    view: dict[str, Any] = answer.json()
    return view


def key_of(service: Web, role: str = "viewer", name: str = "somebody", **more: object) -> str:
    return str(made(service, role, name, **more)["key"])


def logged_in(service: Web, key: str) -> str:
    """Logs the browser of the test client in. The value of its cookie."""
    answer = service.post("/ui/login", data={"key": key})
    assert answer.status_code == 303, answer.text
    return str(service.client.cookies["modelferry_session"])

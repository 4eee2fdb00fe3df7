"""Which role each operation needs: one table, and a rule for what is not in it."""

from collections.abc import Mapping

from common.vocabulary import Role

_STATIC_FILES = frozenset({"get_handler", "head_handler"})
"""What Litestar calls the handlers of files."""

PUBLIC = _STATIC_FILES | {"health", "ready", "openapi_document", "docs_page", "login_page", "log_in", "log_out"}
"""Answered whoever asks: probes cannot say who they are, and the description of the API is no secret."""

COMPATIBLE = frozenset(
    {
        "download_models", "list_hub_models", "list_model_jobs", "list_results", "upload_model", "list_plugins",
        "list_jobs", "get_job", "cancel_job", "delete_job", "mcp",
    }
)  # fmt: skip
"""The routes of Intel's service, whose clients know no keys: open to the networks that the operator names."""

_ADMIN = frozenset(
    {
        "list_audit", "audit_trail_page",
        "list_keys", "add_key", "get_key", "rotate_key", "revoke_key",
        "put_limit", "remove_limit",
        "list_webhooks", "add_webhook", "get_webhook", "change_webhook", "remove_webhook", "rotate_webhook",
        "test_webhook", "list_deliveries", "redeliver",
        "webhooks_page", "add_webhook_from_page", "webhook_page_of_one", "test_webhook_from_page",
        "switch_webhook_from_page", "rotate_webhook_from_page", "remove_webhook_from_page", "redeliver_from_page",
        "put_limit_from_page", "remove_limit_from_page",
    }
)  # fmt: skip
_ASKING = frozenset({"list_hub_models", "mcp"})
"""What is POSTed and changes nothing, or leads to operations that ask for a role of their own."""

_FORMS = frozenset({"new_page", "confirm_removal_page"})
"""Pages that are of use only to those who may send them."""

_NEEDS: Mapping[str, Role] = {
    **dict.fromkeys(_ADMIN, Role.ADMIN),
    **dict.fromkeys(_FORMS, Role.OPERATOR),
    **dict.fromkeys(_ASKING, Role.VIEWER),
}
_READS = frozenset({"GET", "HEAD"})


def needed(operation: str, method: str) -> Role | None:
    """The role without which an operation is refused; None where anybody may. What reads needs a viewer."""
    if operation in PUBLIC or method == "OPTIONS":
        return None
    return _NEEDS.get(operation) or (Role.VIEWER if method in _READS else Role.OPERATOR)

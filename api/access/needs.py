"""Which role each operation needs: one table, and a rule for what is not in it."""

from collections.abc import Mapping

from common.vocabulary import Role

PUBLIC = frozenset({"health", "ready", "openapi_document", "docs_page", "static_files"})
"""Answered whoever asks: probes cannot say who they are, and the description of the API is no secret."""

COMPATIBLE = frozenset(
    {
        "download_models", "list_hub_models", "list_model_jobs", "list_results", "upload_model", "list_plugins",
        "list_jobs", "get_job", "cancel_job", "delete_job",
    }
)  # fmt: skip
"""The routes of Intel's service, whose clients know no keys: open to the networks that the operator names."""

_ADMIN = frozenset(
    {
        "put_limit", "remove_limit",
        "list_webhooks", "add_webhook", "get_webhook", "change_webhook", "remove_webhook", "rotate_webhook",
        "test_webhook", "list_deliveries", "redeliver",
        "webhooks_page", "add_webhook_from_page", "webhook_page_of_one", "test_webhook_from_page",
        "switch_webhook_from_page", "rotate_webhook_from_page", "remove_webhook_from_page", "redeliver_from_page",
        "put_limit_from_page", "remove_limit_from_page",
    }
)  # fmt: skip
_NEEDS: Mapping[str, Role] = dict.fromkeys(_ADMIN, Role.ADMIN)
_READS = frozenset({"GET", "HEAD"})


def needed(operation: str, method: str) -> Role | None:
    """The role without which an operation is refused; None where anybody may. What reads needs a viewer."""
    if operation in PUBLIC or method == "OPTIONS":
        return None
    return _NEEDS.get(operation) or (Role.VIEWER if method in _READS else Role.OPERATOR)

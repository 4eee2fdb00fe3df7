"""Which names an upload may give its model, and the folder that they make."""

import re

import msgspec

from common.errors import UploadRefused

_ROOT = "custom_uploaded_models"
_NAME = re.compile(r"[A-Za-z0-9._ -]+")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class UploadNames(msgspec.Struct, frozen=True, kw_only=True):
    """The names of an upload, fit for paths."""

    model_name: str
    provider: str
    framework: str
    precision: str

    @property
    def folder(self) -> str:
        """Where the model belongs, relative to MODELS_DIR."""
        return f"{_ROOT}/{self.provider}/{self.framework}/{self.model_name}/{self.precision}"


def checked_names(model_name: str, provider: str, framework: str, precision: str) -> UploadNames:
    """The names, with spaces as underscores. Raises UploadRefused."""
    words = {"provider": provider, "framework": framework, "precision": precision}
    return UploadNames(
        model_name=_checked_name(model_name), **{field: _checked_word(field, word) for field, word in words.items()}
    )


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UploadRefused(
            "model_name contains invalid characters. Only alphanumeric, spaces, dots, underscores, and hyphens allowed."
        )
    if name.startswith(".") or name.endswith(".") or ".." in name:
        raise UploadRefused("model_name must not begin or end with a dot, or contain two dots in a row.")
    return name.replace(" ", "_")


def _checked_word(field: str, word: str) -> str:
    if not _WORD.fullmatch(word):
        raise UploadRefused(
            f"{field} contains invalid characters. It must begin with a letter or a digit; "
            "only alphanumeric, underscores, and hyphens allowed."
        )
    return word

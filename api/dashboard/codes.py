"""What the error codes of jobs mean, for the pages that show one."""

from collections.abc import Iterator

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency

from api.dashboard.pages import Pages
from common.errors import StageError, TransientError


class Code(msgspec.Struct, frozen=True, kw_only=True):
    """One error code."""

    code: str
    meaning: str
    hint: str | None
    passes: bool
    """Whether another attempt may end well."""


@get("/ui/codes", sync_to_thread=False)
def codes_page(pages: NamedDependency[Pages]) -> Response[str]:
    known = {code.code: code for code in _codes(StageError)}
    return pages.page("codes.html", active="jobs", codes=sorted(known.values(), key=lambda code: code.code))


def _codes(kind: type[StageError]) -> Iterator[Code]:
    for below in kind.__subclasses__():
        if "code" in vars(below):
            meaning = " ".join((below.__doc__ or "").split())
            hint = below.hint
            yield Code(code=below.code, meaning=meaning, hint=hint, passes=issubclass(below, TransientError))
        yield from _codes(below)

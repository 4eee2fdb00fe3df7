"""How a page is answered: templates in, HTML with its headers out."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from jinja2 import Environment
from litestar import MediaType, Response
from litestar.response import Redirect
from litestar.status_codes import HTTP_200_OK, HTTP_303_SEE_OTHER

from api.problems import AnyRequest
from common.access import Caller, Way
from common.errors import InvalidSpec
from common.vocabulary import Role

_MOST_FIELDS = 200

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Not `no-referrer`: with it browsers hide the origin of our own forms, by which we know them.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
    "Vary": "HX-Request, Cookie",
}


ANYBODY = Caller(name="", way=Way.NOBODY, role=None)


@dataclass(frozen=True, slots=True)
class Pages:
    """Makes answers of templates, for one who asks."""

    environment: Environment
    caller: Caller = ANYBODY

    def to(self, request: AnyRequest) -> "Pages":
        """The pages for whoever sends this request."""
        return Pages(self.environment, request.scope["state"].get("caller", ANYBODY))

    def page(self, template: str, *, active: str = "", status: int = HTTP_200_OK, **context: object) -> Response[str]:
        """A whole page, or a part of one. `active` is the key of the place in the navigation that it belongs to."""
        html = self.environment.get_template(template).render(active=active, visitor=self._visitor(), **context)
        return Response(html, status_code=status, media_type=MediaType.HTML, headers=dict(HEADERS))

    def _visitor(self) -> Mapping[str, object]:
        """What templates know of who asks: for whom which buttons are shown, and whose name."""
        role = self.caller.role
        return {
            "name": self.caller.name,
            "role": role,
            "is_asked": self.caller.way not in {Way.OPEN, Way.NOBODY},
            "has_session": self.caller.way is Way.SESSION,
            "starts": role is not None and role.covers(Role.OPERATOR),
            "rules": role is not None and role.covers(Role.ADMIN),
        }


def wants_fragment(request: AnyRequest) -> bool:
    """Whether a script asks for a part of a page, and not the browser for a page."""
    return request.headers.get("hx-request") == "true"


def read_form(body: bytes) -> dict[str, str]:
    """The fields of a form that a page has sent. Of a name that comes twice, the last value counts.

    Raises InvalidSpec for more fields than any page has.
    """
    return dict(read_fields(body))


def read_fields(body: bytes) -> list[tuple[str, str]]:
    """The same with every value of each name. Raises InvalidSpec."""
    try:
        return parse_qsl(body.decode("utf-8", errors="replace"), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError as error:
        raise InvalidSpec(f"A form has no more than {_MOST_FIELDS} fields.") from error


def see(path: str) -> Redirect:
    """Where to look after a form has done its work; to load that page again repeats nothing."""
    return Redirect(path, status_code=HTTP_303_SEE_OTHER, headers=dict(HEADERS))

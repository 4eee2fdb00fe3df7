"""What the form for a new job says: the same as the body of a submission, and read by the same reader."""

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import msgspec
from litestar.status_codes import HTTP_400_BAD_REQUEST, HTTP_422_UNPROCESSABLE_ENTITY

from api.compat.decoding import Unprocessable
from api.compat.submission import WeightFormat, WirePrecision, read_submission
from api.problems import STATUS
from api.wire import Fault
from common.errors import DestinationInvalid, DestinationOutside, ModelferryError, PluginUnavailable, RequestError
from common.planning import Wish
from common.vocabulary import Priority

PRECISIONS = list(dict.fromkeys([word.value for word in (*WirePrecision, *WeightFormat)]))
"""Those that a submission may name in so many words."""

_USUAL = {
    "name": "", "hub": "huggingface", "type": "", "is_ovms": "", "precision": "", "device": "", "revision": "",
    "priority": Priority.NORMAL.value, "path": "", "config": "",
}  # fmt: skip
_SHORT = {"hf": "huggingface"}
_WHERE: Mapping[type[RequestError], str] = {
    PluginUnavailable: "hub",
    DestinationOutside: "path",
    DestinationInvalid: "path",
}
_NAMES = {"download_path": "path", "weight-format": "precision"}
_NEEDED = "This is needed."


class Refused(Exception):
    """Field -> what is wrong with it; that of '' is the wish as a whole."""

    def __init__(self, faults: Mapping[str, str], status: int) -> None:
        self.faults = dict(faults)
        self.status = status
        super().__init__("; ".join(faults.values()))


class Wished(msgspec.Struct, frozen=True, kw_only=True):
    """A form that has been read."""

    wishes: tuple[Wish, ...]
    path: str
    body: bytes
    """The submission that says the same."""


def fields_of(given: Mapping[str, str]) -> dict[str, str]:
    """Every field of the form, as it was given or as it is at first."""
    return {name: given.get(name, usual) for name, usual in _USUAL.items()}


def read_wish(given: Mapping[str, str], hubs: Collection[str]) -> Wished:
    """The wish of a form. A name may have its hub before it, with a colon. Raises Refused or what a submission does."""
    form = {name: text.strip() for name, text in fields_of(given).items()}
    hub, name = _hub_and_name(form, hubs)
    if not name:
        raise Refused({"name": _NEEDED}, HTTP_422_UNPROCESSABLE_ENTITY)
    model: dict[str, object] = {"name": name, "hub": hub, "is_ovms": bool(form["is_ovms"])}
    model |= {key: form[key] for key in ("type", "revision", "priority") if form[key]}
    config = _config(form)
    body = json.dumps({"models": [model | ({"config": config} if config else {})]}).encode()
    submission = read_submission([("download_path", form["path"])], body, "application/json", hubs)
    return Wished(wishes=submission.wishes, path=submission.download_path, body=body)


@contextmanager
def explained() -> Iterator[None]:
    """Turns what a submission is refused for into faults at the fields of the form: Refused."""
    try:
        yield
    except Unprocessable as error:
        raise Refused(_at_fields(error.faults), HTTP_422_UNPROCESSABLE_ENTITY) from error
    except ModelferryError as error:
        kinds = type(error).__mro__
        place = next((_WHERE[kind] for kind in kinds if kind in _WHERE), "")
        status = next((STATUS[kind] for kind in kinds if kind in STATUS), HTTP_400_BAD_REQUEST)
        raise Refused({place: str(error)}, status) from error


def _hub_and_name(form: Mapping[str, str], hubs: Collection[str]) -> tuple[str, str]:
    prefix, colon, rest = form["name"].partition(":")
    named = _SHORT.get(prefix.lower(), prefix.lower())
    # Names of some hubs have colons of their own, but no hub's name before them.
    return (named, rest) if colon and named in hubs else (form["hub"], form["name"])


def _config(form: Mapping[str, str]) -> dict[str, object]:
    """The options of the form, beneath those that are written out. Raises Refused."""
    options: dict[str, object] = {}
    if form["precision"]:
        options["precision" if form["precision"] in set(WirePrecision) else "weight-format"] = form["precision"]
    if form["device"]:
        options["device"] = form["device"]
    return options | _written_out(form["config"])


def _written_out(text: str) -> dict[str, object]:
    if not text:
        return {}
    try:
        return msgspec.json.decode(text.encode(), type=dict[str, object])
    except msgspec.ValidationError:
        message = 'This has to be a JSON object, such as {"cache_size": 2}.'
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        message = f"This is not JSON: {error}"
    except RecursionError:
        message = "This goes too deep."
    raise Refused({"config": message}, HTTP_422_UNPROCESSABLE_ENTITY)


def _at_fields(faults: Collection[Fault]) -> dict[str, str]:
    found: dict[str, str] = {}
    for fault in faults:
        names = [_NAMES.get(str(part), str(part)) for part in reversed(fault.loc)]
        known = next((name for name in names if name in _USUAL), "")
        shown = fault.msg.removeprefix("Value error, ")
        if known == "config" and names[0] != "config":
            shown = f"{names[0]}: {shown}"
        found[known] = f"{found[known]} {shown}" if known in found else shown
    return found

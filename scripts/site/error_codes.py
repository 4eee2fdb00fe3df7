"""Every public code of an error: as a table for people, and as the set that a test compares with the page."""

import ast
from collections.abc import Iterator
from pathlib import Path

from api.problems import STATUS
from common.errors import ModelferryError, RequestError, ServiceUnavailable, StageError, TransientError
from scripts.site.tables import code, table

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("api", "common", "worker")


def codes_in_source() -> set[str]:
    """The code of each class of ours that has one, whether it is imported or not."""
    files = (file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
    return {found for file in files for found in _codes(ast.parse(file.read_text(encoding="utf-8")))}


def codes_table() -> str:
    """Code, what ends with it, and whether it is tried again."""
    rows = []
    for error in sorted(_known(ModelferryError), key=lambda one: str(vars(one)["code"])):
        name = str(vars(error)["code"])
        rows.append((f"[{code(name)}](#{name})", _ends(error), _again(error)))
    return table(("code", "ends", "tried again"), rows)


def _known(root: type[ModelferryError]) -> Iterator[type[ModelferryError]]:
    for error in (root, *root.__subclasses__()):
        if error is root:
            if vars(error).get("code") and error.__module__.partition(".")[0] in PACKAGES:
                yield error
        else:
            yield from _known(error)


def _ends(error: type[ModelferryError]) -> str:
    status = next((STATUS[kind] for kind in error.__mro__ if kind in STATUS), None)
    said = ["a job"] if issubclass(error, StageError) else []
    if status is not None or issubclass(error, RequestError | ServiceUnavailable):
        said.append(f"a request, with {status}" if status else "a request")
    return "; ".join(said)


def _again(error: type[ModelferryError]) -> str:
    if error.__name__ == "WorkerLost":
        return "after a crash"
    return "yes" if issubclass(error, TransientError) else "no"


def _codes(tree: ast.Module) -> set[str]:
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    return {found for one in classes for line in one.body for found in (_code(line),) if found}


def _code(line: ast.stmt) -> str:
    """The code that this line of a class gives to it; nothing for any other line."""
    match line:
        case (
            ast.Assign(targets=[ast.Name(id="code")], value=ast.Constant(value=str(said)))
            | ast.AnnAssign(target=ast.Name(id="code"), value=ast.Constant(value=str(said)))
        ):
            return said
        case _:
            return ""

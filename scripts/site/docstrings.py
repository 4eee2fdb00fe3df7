"""The texts that stand below fields in the source, which Python itself does not keep."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path


@cache
def texts_below_fields(file: Path) -> dict[str, dict[str, str]]:
    """Class -> field -> the text below the field, of one module."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name: dict(_texts(node)) for node in tree.body if isinstance(node, ast.ClassDef)}


def _texts(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for field, text in zip(node.body, node.body[1:], strict=False):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(meaning))):
                yield name, " ".join(meaning.split())
            case _:
                pass

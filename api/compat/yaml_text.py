"""YAML of a file that an operator wrote: only what JSON can say too, and of bounded size whatever it refers to."""

from typing import Any, ClassVar

import yaml  # type: ignore[import-untyped]  # comes without types

_MOST_NODES = 100_000
"""With everything counted as often as it is referred to: a file of ten lines can stand for millions."""
_MOST_LEVELS = 50
_SHOWN = 80
_NOT_ITS_TAG = (ValueError, LookupError, AttributeError, TypeError, ArithmeticError)
"""What the library raises for such as `!!int x`, `!!bool x` and `!!timestamp x`."""


class UnusableYaml(ValueError):
    """The text is not YAML that is read here. The message repeats no value of it."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # the same
    """Makes plain values only. A date stays the text that it is: JSON has none."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, Any]]]] = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def read_yaml(text: str) -> object:
    """The value of the one document in a text; None where it is empty. Raises UnusableYaml."""
    try:
        return _value(text)
    except yaml.MarkedYAMLError as error:
        # Its own text may quote the file, and with it a credential.
        raise UnusableYaml(f"It is not YAML that is read here{_place(error.problem_mark)}") from None
    except yaml.YAMLError:
        raise UnusableYaml("It holds characters that YAML does not allow") from None
    except RecursionError:
        raise UnusableYaml("It is nested too deeply") from None
    except UnusableYaml:
        raise
    except _NOT_ITS_TAG:
        raise UnusableYaml("It holds a value that is not of the kind that its tag says") from None


def _value(text: str) -> object:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _measure(node, {}, set(), 0)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _measure(node: yaml.Node, known: dict[yaml.Node, int], above: set[yaml.Node], level: int) -> int:
    """How many values a node stands for. Raises UnusableYaml for too many, and for a mapping with one key twice."""
    if node in known:
        return known[node]
    if node in above:
        raise UnusableYaml(f"It refers to itself{_place(node.start_mark)}")
    if level > _MOST_LEVELS:
        raise UnusableYaml(f"It is nested too deeply{_place(node.start_mark)}")
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
    size = 1
    for part in _parts(node):
        size += _measure(part, known, above | {node}, level + 1)
        if size > _MOST_NODES:
            raise UnusableYaml(f"It stands for more than {_MOST_NODES} values")
    known[node] = size
    return size


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _check_keys(node: yaml.MappingNode) -> None:
    seen = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise UnusableYaml(f"A key is not text{_place(key.start_mark)}")
        if key.value in seen:
            raise UnusableYaml(f"The key {key.value[:_SHOWN]!r} stands twice in one mapping{_place(key.start_mark)}")
        seen.add(key.value)


def _place(mark: yaml.Mark | None) -> str:
    return "" if mark is None else f", at line {mark.line + 1}, column {mark.column + 1}"

"""Lets nncf look for the patterns of nodes that it leaves alone only where they can be, and once in equal graphs.

nncf looks for a pattern by trying it on all nodes of a graph. A match is connected, so all of it lies near nodes of
each kind that the pattern asks for: it is enough to look near the rarest of these, and nowhere where one is missing.
"""

import copy
import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from nncf.common.graph.graph_matching import _are_nodes_matched
from nncf.common.graph.patterns import GraphPattern
from nncf.quantization.algorithms.weight_compression import algorithm

_WRITTEN_FOR = "3.4.0"
_OF_A_NODE = ("type", "metatype")
_OF_A_PATTERN = (*_OF_A_NODE, GraphPattern.LABEL_ATTR, GraphPattern.PATTERN_NODE_TO_EXCLUDE)
"""The attributes by which nodes are compared."""


@contextmanager
def patterns_found_once() -> Iterator[None]:
    """Help nncf meanwhile, if it is the nncf that this was written for."""
    if importlib.metadata.version("nncf") != _WRITTEN_FOR:
        yield
        return
    before = algorithm.get_node_names_matching_graph_pattern
    algorithm.get_node_names_matching_graph_pattern = _FoundOnce(before)
    try:
        yield
    finally:
        algorithm.get_node_names_matching_graph_pattern = before


class _FoundOnce:
    """Remembers which nodes of a graph fit a pattern."""

    def __init__(self, find: Any) -> None:
        self._find = find
        self._found: dict[object, frozenset[str]] = {}

    def __call__(self, graph: Any, pattern: Any) -> set[str]:
        key = _shape(graph._nx_graph, _OF_A_NODE), _shape(pattern.graph, _OF_A_PATTERN)  # noqa: SLF001
        if key not in self._found:
            self._found[key] = frozenset(self._find(_near(graph, pattern), pattern))
        return set(self._found[key])


def _shape(graph: Any, attributes: Sequence[str]) -> object:
    """All that decides whether a pattern fits: the nodes, what they are, and what is tied to what."""
    nodes = ((node, *(str(told.get(name)) for name in attributes)) for node, told in graph.nodes(data=True))
    return tuple(nodes), tuple(sorted(graph.edges()))


def _near(graph: Any, pattern: Any) -> Any:
    """The part of a graph that holds all matches of a pattern. Each alternative of a pattern is connected."""
    if any(told.keys() - set(_OF_A_PATTERN) for _, told in pattern.graph.nodes(data=True)):
        return graph
    whole = graph._nx_graph  # noqa: SLF001
    kinds = _kinds(whole)
    kept = set().union(*(_near_one(whole, kinds, one) for one in pattern.get_weakly_connected_subgraphs()))
    part = copy.copy(graph)
    part._nx_graph = whole.subgraph(kept)  # noqa: SLF001
    return part


def _kinds(graph: Any) -> Mapping[object, list[str]]:
    """The nodes of a graph by what they are."""
    found: dict[object, list[str]] = {}
    for node, told in graph.nodes(data=True):
        found.setdefault(tuple(told.get(name) for name in _OF_A_NODE), []).append(node)
    return found


def _near_one(graph: Any, kinds: Mapping[object, list[str]], pattern: Any) -> set[str]:
    """The nodes that are not too far from the rarest node that the pattern asks for."""
    fitting = [_fitting(graph, kinds, told) for _, told in pattern.nodes(data=True)]
    rarest: list[str] = min(fitting, key=len)
    near = set(rarest)
    edge = near
    for _ in range(len(fitting) - 1):
        edge = {other for node in edge for side in (graph.pred, graph.succ) for other in side[node]} - near
        near = near | edge
    return near


def _fitting(graph: Any, kinds: Mapping[object, list[str]], wanted: Mapping[str, Any]) -> list[str]:
    """The nodes that are what one node of a pattern asks for."""
    return [node for nodes in kinds.values() if _are_nodes_matched(graph.nodes[nodes[0]], wanted) for node in nodes]

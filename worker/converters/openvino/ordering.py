"""Makes upstream do in a fixed order what it does in the order of addresses in memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openvino as ov
from optimum.exporters.openvino import stateful


@contextmanager
def steady_states() -> Iterator[None]:
    """Let states come into a model in the order of its nodes: equal conversions are to give equal bytes."""
    find = stateful.find_output_nodes_of_dependent_subgraph

    def found(model: ov.Model, sources: list[Any]) -> list[Any]:
        places = {node: place for place, node in enumerate(model.get_ordered_ops())}
        return sorted(find(model, sources), key=lambda node: places[node])

    stateful.find_output_nodes_of_dependent_subgraph = found
    try:
        yield
    finally:
        stateful.find_output_nodes_of_dependent_subgraph = find

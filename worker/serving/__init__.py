"""The files of OpenVINO Model Server: what it wants beside a model, and the list of the models."""

from common.artefacts.served import INDEX_NAME, REPOSITORY, unregister, unregister_model
from worker.serving.files import POOLING_FILE, is_served, write_serving
from worker.serving.graphs import GRAPH_NAME, graph
from worker.serving.index import register, register_model

__all__ = [
    "GRAPH_NAME",
    "INDEX_NAME",
    "POOLING_FILE",
    "REPOSITORY",
    "graph",
    "is_served",
    "register",
    "register_model",
    "unregister",
    "unregister_model",
    "write_serving",
]

"""Writes tokenizers in the form that the model server's calculators for whole texts expect."""

import openvino as ov
from openvino_tokenizers import convert_tokenizer
from transformers import AutoTokenizer

from common.catalog.openvino import MAX_DOC_LENGTH, OpenVINOOptions
from common.errors import OutputIncomplete
from common.plugins import Order
from common.vocabulary import ModelType
from worker.converters.openvino.faults import tool_errors
from worker.converters.openvino.naming import save_reproducibly
from worker.converters.openvino.paths import Site

TOKENIZER = "openvino_tokenizer.xml"

OWN_TOKENIZERS = frozenset({ModelType.EMBEDDINGS, ModelType.RERANK})
"""Types whose tokenizers a model server wants in another form than upstream's."""


def write_own_tokenizer(site: Site, order: Order[OpenVINOOptions]) -> None:
    """Write the tokenizer of a type for which upstream's does not do. Raises OutputIncomplete."""
    kind, options = order.target.model_type, order.options
    if kind not in OWN_TOKENIZERS or options.disable_convert_tokenizer:
        return
    reranks = kind is ModelType.RERANK
    with tool_errors(order.folder, otherwise=OutputIncomplete):
        tokenizer = AutoTokenizer.from_pretrained(site.model, local_files_only=True, trust_remote_code=site.trusted)
        if reranks:
            # The server itself cuts documents and puts the special tokens between query and document.
            tokenizer.model_max_length = options.max_doc_length or MAX_DOC_LENGTH
        tokenizer.save_pretrained(order.folder)
        converted: ov.Model = convert_tokenizer(tokenizer, add_special_tokens=not reranks)
        save_reproducibly(converted, order.folder / TOKENIZER)

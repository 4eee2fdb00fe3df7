"""Predicts what a conversion will need, from the sizes of the weights and the precision."""

from collections.abc import Mapping

from common.catalog.openvino.drafts import part_draft
from common.catalog.openvino.weights import weights_bytes
from common.plugins import Dossier, Prediction
from common.spec import MemoryRule, Target
from common.vocabulary import Precision

_BASE_BYTES = 500_000_000
_SIDE_FILES_BYTES = 16_000_000

_PEAK: Mapping[Precision, float] = {Precision.FP32: 2.6}
_PEAK_OTHERS = 2.2
"""Bytes of memory for each byte of weights in 16 bits; our own measurement, see bench/convert.py."""

_BITS: Mapping[Precision, float] = {Precision.FP32: 32, Precision.FP16: 16, Precision.INT8: 8.2}
_BITS_OTHERS = 5.0
"""Of a weight in the output, scales included: in 4 bits, with the embeddings and the last layer in 8."""
_SOURCE_BITS = 16


def memory(target: Target, options: Mapping[str, object]) -> MemoryRule:
    """What must be free before a conversion starts, as a rule of the size of its source."""
    del options
    return MemoryRule(base_bytes=_BASE_BYTES, per_byte=_PEAK.get(target.precision, _PEAK_OTHERS))


def predict(dossier: Dossier, target: Target, options: Mapping[str, object]) -> Prediction:
    """What a conversion will need at its peak, and what it will leave."""
    own, draft = part_draft(dossier, options)
    # One is converted after the other.
    sources = [weights_bytes(one) for one in (own, draft) if one is not None]
    share = _BITS.get(target.precision, _BITS_OTHERS) / _SOURCE_BITS
    return Prediction(
        peak_memory_bytes=memory(target, options).peak_bytes(max(sources)),
        output_bytes=sum(int(share * source) + _SIDE_FILES_BYTES for source in sources),
        # The strict engine writes the model in full before it compresses it.
        scratch_bytes=max(sources) if share < 1 else 0,
    )

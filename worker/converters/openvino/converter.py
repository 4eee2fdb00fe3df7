"""Converts models to OpenVINO IR, in this process and without a network: chooses an engine, and proves its result."""

import importlib
import importlib.metadata
import logging
import resource
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from common.catalog.openvino import TOOLS, OpenVINOOptions
from common.catalog.openvino.weights import gguf_bytes, has_ir, has_originals
from common.errors import ConversionFailed, InvalidParameters, VerificationFailed
from common.log import SharedThreads
from common.plugins import Access, Attempt, Converter, Dossier, Order
from common.spec import Evidence, Progress, Similarity, Source, Target
from common.vocabulary import ModelType, Phase
from worker.converters.openvino.check import MODEL, EarlyLoads, check_files, check_run
from worker.converters.openvino.compiling import steady_compiling
from worker.converters.openvino.drafts import draft_order, eagle_known, set_aside, with_draft
from worker.converters.openvino.faults import tool_errors
from worker.converters.openvino.paths import Site, find_vocoder
from worker.converters.openvino.saving import Saver
from worker.converters.openvino.scratch import alone, empty
from worker.converters.openvino.steps import Steps
from worker.converters.openvino.tidy import tidy
from worker.serving import register_model, write_serving

log = logging.getLogger(__name__)

OWN_PROFILE = "default"
"""The environment that this process runs in."""

_SCRATCH = "scratch"
_EVERYONE = "*"
_LOOK_S = 0.2
"""How often is asked, while proofs run, whether the user still wants them."""
_DETECTION = "object-detection"

Orders = Sequence[Order[OpenVINOOptions]]


@dataclass(frozen=True, slots=True)
class Made:
    """What an engine has written for one order, not yet proven."""

    order: Order[OpenVINOOptions]
    engine: str
    steps: Steps = field(default_factory=Steps)
    saving: Sequence[Future[None]] = ()
    """What still goes on to write its weights."""


class OpenVINOConverter:
    """Converts one model at a time: it changes settings of the whole process, so give it a process of its own."""

    def __init__(self, access: Access) -> None:
        self._access = access
        # The core knows whose code an operator trusts; it hands on `*` where that holds for this model.
        self._trusted = access.settings.get("MODELFERRY_TRUST_REMOTE_CODE", "").strip() == _EVERYONE

    def convert(self, model: Path, orders: Orders, attempt: Attempt) -> tuple[Evidence | None, ...]:
        """Leave the converted models in the folders of the orders. Safe to repeat.

        Raises StageError: UnsupportedModel, RemoteCodeRefused, InvalidParameters, MemoryLimitExceeded, OutOfMemory,
        DiskFull, ConversionFailed, OutputIncomplete, VerificationFailed; or JobCancelled.
        """
        first, *others = orders
        if first.options.profile not in {None, OWN_PROFILE}:
            return self._convert_elsewhere(model, first, attempt), *(None for _ in others)
        draft = set_aside(model, first, attempt.workspace)
        site = Site(model, trusted=self._trusted, models_dir=self._access.settings.get("MODELS_DIR", ""))
        own, along = self._convert_here(site, orders, attempt)
        if draft is not None:
            order = draft_order(draft, first)
            # Whose code may run is said of the model, and not of its draft.
            with eagle_known(first):
                beside, _ = self._convert_here(Site(draft, models_dir=site.models_dir), [order], attempt)
            own = with_draft(first, order, own, beside)
        return own, *along

    def _convert_here(self, site: Site, orders: Orders, attempt: Attempt) -> tuple[Evidence, list[Evidence | None]]:
        """What was seen of the first order, and of those of the others that came along."""
        first, *others = orders
        at_home = [first, *(order for order in others if order.options.profile in {None, OWN_PROFILE})]
        for order in orders:
            empty(order.folder)
        with (
            alone(empty(attempt.workspace / _SCRATCH)),
            EarlyLoads() as early,
            Saver(partial(_saved, attempt, early)) as saver,
        ):
            attempt.progress(Progress(phase=Phase.CONVERTING))
            attempt.checkpoint()
            with steady_compiling(), tool_errors(attempt.workspace):
                made = self.make(site, at_home, attempt, saver)
            attempt.progress(Progress(phase=Phase.CHECKING))
            own, along = _proofs(made, site, attempt, early)
        return own, [along.get(id(order)) for order in others]

    def serve(self, folder: Path, name: str, target: Target, serving: Mapping[str, object]) -> None:
        """Write into the model's folder what a model server wants there. Safe to repeat."""
        write_serving(folder, name, target, serving)

    def register(self, folder: Path, name: str) -> None:
        """Enter the model into the folder's config_all.json. The caller holds the folder's lock. Safe to repeat."""
        register_model(folder, name)

    def versions(self, options: OpenVINOOptions) -> dict[str, str]:
        """The tools whose versions decide the bytes of a result."""
        if options.profile not in {None, OWN_PROFILE}:
            return dict(_profiles().versions_of(options.profile))
        return {name: importlib.metadata.version(name) for name in TOOLS}

    def make(self, site: Site, orders: Orders, attempt: Attempt, saver: Saver) -> list[Made]:
        """Let an engine write the models, the first of them in any case."""
        first = orders[0]
        if first.from_base:
            return [_by_deriving(site, first)]
        form = _form(site.model)
        if form == "openvino":
            return [_adopted(site, first)]
        if form == "gguf":
            return [_by_gguf(site, first)]
        if first.options.task == _DETECTION:
            return [_by_objects(site, first)]
        if first.options.engine == "strict":
            return [_by_strict(site, first)]
        return _by_fast(site, orders, attempt, saver) or [_by_strict(site, first)]

    def _convert_elsewhere(self, model: Path, order: Order[OpenVINOOptions], attempt: Attempt) -> Evidence:
        evidence: Evidence = _profiles().convert_elsewhere(model, order, attempt, self._access)
        return evidence


def _profiles() -> Any:
    """What runs conversions in other environments; only some installations have any."""
    return importlib.import_module("worker.converters.openvino.profiles")


def _form(model: Path) -> str:
    """In which form the weights are: openvino, gguf, or those that the tools read."""
    sizes = {file.relative_to(model).as_posix(): file.stat().st_size for file in model.rglob("*") if file.is_file()}
    found = Dossier(source=Source(hub="", name=""), revision="", sizes=dict(sizes))
    if has_ir(found):
        return "openvino"
    return "gguf" if gguf_bytes(found) and not has_originals(found) else "original"


# The engines are imported where they are used: a model that is IR already needs no torch.


def _adopted(site: Site, order: Order[OpenVINOOptions]) -> Made:
    from worker.converters.openvino.adopting import adopt  # noqa: PLC0415

    made = Made(order, "adopted")
    with made.steps.step("adopt"):
        adopt(site, order)
    return made


def _by_deriving(site: Site, order: Order[OpenVINOOptions]) -> Made:
    from worker.converters.openvino import deriving  # noqa: PLC0415

    made = Made(order, "derived")
    deriving.export(site, order, made.steps)
    return made


def _by_gguf(site: Site, order: Order[OpenVINOOptions]) -> Made:
    from worker.converters.openvino import gguf  # noqa: PLC0415

    made = Made(order, "gguf")
    gguf.export(site, order, made.steps)
    return made


def _by_objects(site: Site, order: Order[OpenVINOOptions]) -> Made:
    from worker.converters.openvino import objects  # noqa: PLC0415

    made = Made(order, "objects")
    objects.export(site, order, made.steps)
    return made


def _by_strict(site: Site, order: Order[OpenVINOOptions]) -> Made:
    from worker.converters.openvino import strict  # noqa: PLC0415
    from worker.converters.openvino.completeness import complete_weights  # noqa: PLC0415
    from worker.converters.openvino.ordering import steady_states  # noqa: PLC0415
    from worker.converters.openvino.tokenizers import write_own_tokenizer  # noqa: PLC0415

    made = Made(order, "strict")
    with complete_weights(order.options.task), steady_states():
        strict.export(site, order, made.steps)
    write_own_tokenizer(site, order)
    return made


def _by_fast(site: Site, orders: Orders, attempt: Attempt, saver: Saver) -> list[Made]:
    """What the fast engine has made; nothing where the strict one has to do it."""
    from worker.converters.openvino import fast  # noqa: PLC0415
    from worker.converters.openvino.completeness import complete_weights  # noqa: PLC0415
    from worker.converters.openvino.ordering import steady_states  # noqa: PLC0415
    from worker.converters.openvino.tokenizers import write_own_tokenizer  # noqa: PLC0415

    first = orders[0]
    together = [order for order in orders if fast.suits(order)]
    try:
        with tool_errors(attempt.workspace), complete_weights(first.options.task), steady_states():
            wrote = fast.export(site, together, attempt, Steps(), saver) if first in together else ()
    except ConversionFailed as reason:
        if isinstance(reason.__cause__, fast.Mismatch):
            log.info("convert.not_for_fast_engine", extra={"reason": str(reason.__cause__)})
        else:
            log.warning("convert.fast_engine_failed", extra={"reason": str(reason)[:1000]})
        wrote = ()
    if not wrote:
        if first.options.engine == "fast":
            raise InvalidParameters(
                "The fast engine cannot convert this model with these options",
                hint="Leave 'engine' out, or set it to 'strict'.",
            )
        saver.settle()
        for order in orders:
            empty(order.folder)
        return []
    made = [
        Made(order, "fast", written.steps, written.saving)
        for order, written in zip(together, wrote, strict=True)
        if written is not None
    ]
    for one in made:
        write_own_tokenizer(site, one.order)
    return made


def _saved(attempt: Attempt, early: EarlyLoads, graph: Path, sha256: str | None) -> None:
    """A graph is complete on the disk, and so are its weights, with this sha256 if it is known."""
    attempt.finished(graph.with_suffix(".bin"), sha256)
    # Of a model in several parts one is loaded at a time.
    if graph.stem == MODEL:
        early.begin(graph)


def _proofs(
    made: Sequence[Made], site: Site, attempt: Attempt, early: EarlyLoads
) -> tuple[Evidence, dict[int, Evidence | None]]:
    """What is seen of the first finished model, and of the others, these by the identities of their orders.

    One after the other, as each keeps all threads busy and takes memory of the size of its model, in the order in which
    they are written. Only the first raises when it is not as it has to be.
    """
    attempt.checkpoint()
    first, *others = made
    with steady_compiling(), SharedThreads(1, thread_name_prefix="proof") as pool:
        own = pool.submit(_proven, first, site, attempt, early)
        along = {id(one.order): pool.submit(_proven_along, one, site, attempt, early) for one in others}
        try:
            begun: list[Future[Any]] = [own, *along.values()]
            while wait(begun, timeout=_LOOK_S).not_done:
                attempt.checkpoint()
        finally:
            pool.shutdown(cancel_futures=True)
        return own.result(), {order: proof.result() for order, proof in along.items()}


def _proven_along(made: Made, site: Site, attempt: Attempt, early: EarlyLoads) -> Evidence | None:
    try:
        return _proven(made, site, attempt, early)
    except Exception:
        log.warning("convert.sibling_unproven", extra={"precision": made.order.target.precision}, exc_info=True)
        shutil.rmtree(made.order.folder, ignore_errors=True)
        return None


def _proven(made: Made, site: Site, attempt: Attempt, early: EarlyLoads) -> Evidence:
    order = made.order
    if made.saving:
        with made.steps.step("save"), tool_errors(attempt.workspace):
            for saving in made.saving:
                saving.result()
    tidy(order.folder, site)
    with made.steps.step("check"):
        check_files(order.folder, order.target, order.options)
        with tool_errors(attempt.workspace, otherwise=VerificationFailed):
            checks = check_run(order.folder, order.target, _known(made), early)
    similarity = _similarity(made, site, attempt)
    return Evidence(
        engine=made.engine,
        profile=OWN_PROFILE,
        seconds=made.steps.rounded(),
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        checks=checks,
        similarity=similarity,
    )


def _similarity(made: Made, site: Site, attempt: Attempt) -> Similarity | None:
    """How much the result answers like its source, if that was asked for. Raises VerificationFailed."""
    order, verify = made.order, made.order.options.verify
    if verify is None:
        return None
    from worker.converters.openvino.similarity import check_similarity, measure  # noqa: PLC0415

    speaks = order.target.model_type is ModelType.TEXT2SPEECH
    with made.steps.step("verify"), tool_errors(attempt.workspace, otherwise=VerificationFailed):
        similarity = measure(
            site.model,
            order.folder,
            order.target,
            order.options,
            samples=verify.samples,
            trusted=site.trusted,
            vocoder=find_vocoder(site, order.options.vocoder) if speaks else None,
        )
    check_similarity(similarity, verify.max_divergence)
    return similarity


def _known(made: Made) -> OpenVINOOptions:
    """The options that the result can be held against: of a model that was made elsewhere nobody knows them."""
    return OpenVINOOptions() if made.engine in {"adopted", "gguf"} else made.order.options


_contract: type[Converter[OpenVINOOptions]] = OpenVINOConverter

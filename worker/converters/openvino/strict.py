"""The strict engine: upstream's own export, for anything that its command line accepts."""

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

import msgspec
import optimum.exporters.openvino.__main__ as exporter
from optimum.commands.export.openvino import OVExportCommand, parse_args_openvino

from common.catalog.openvino.fields import OpenVINOOptions, dataset_path
from common.catalog.openvino.flags import to_argv
from common.errors import InvalidParameters
from common.plugins import Order
from common.vocabulary import ModelType
from worker.converters.openvino.calibration import Samples, own_samples
from worker.converters.openvino.faults import option_errors
from worker.converters.openvino.loading import told_to_load
from worker.converters.openvino.paths import Site, below, find_vocoder
from worker.converters.openvino.steps import Steps
from worker.converters.openvino.tokenizers import OWN_TOKENIZERS


def export(site: Site, order: Order[OpenVINOOptions], steps: Steps) -> None:
    """Let upstream's command write IR and tokenizers into the order's folder.

    Raises InvalidParameters where it refuses the options, and whatever else it raises.
    """
    arguments = parse(site, order)
    samples = own_samples(order.options, site)
    if samples is not None:
        arguments.dataset = samples.stand_in
    with _measured(steps), _loaded_as(told_to_load(site, order)), _options_judged_apart(), calibrated(samples):
        _run(arguments)


def planned(site: Site, order: Order[OpenVINOOptions]) -> Mapping[str, Any]:
    """What upstream's command would call its exporter with. Raises InvalidParameters where it refuses the options."""
    arguments = parse(site, order)
    before = exporter.main_export
    exporter.main_export = _Recorder()
    try:
        with option_errors():
            _run(arguments)
    except _Recorded as recorded:
        return recorded.arguments
    finally:
        exporter.main_export = before
    raise RuntimeError("The command of optimum-cli has ended without an export")


def parse(site: Site, order: Order[OpenVINOOptions]) -> argparse.Namespace:
    """The order as upstream's own parser reads it. Raises InvalidParameters."""
    parser = _Parser(prog="optimum-cli export openvino", add_help=False, allow_abbrev=False)
    parse_args_openvino(parser)
    return parser.parse_args(flags(site, order))


def flags(site: Site, order: Order[OpenVINOOptions]) -> list[str]:
    """The order in the flags of optimum-cli."""
    options, target = order.options, order.target
    statistics = options.quantization_statistics_path
    placed = msgspec.structs.replace(
        options,
        # Whose code may run is for the operator to say, and nothing is downloaded that could be cached.
        trust_remote_code=site.trusted,
        cache_dir=None,
        dataset=None if dataset_path(options) else options.dataset,
        quantization_statistics_path=statistics and str(below(site.models_dir, statistics)),
        disable_convert_tokenizer=options.disable_convert_tokenizer or target.model_type in OWN_TOKENIZERS,
        vocoder=_vocoder(site, order),
    )
    return [f"--model={site.model}", *to_argv(placed, target.precision), str(order.folder)]


@contextmanager
def calibrated(samples: Samples | None) -> Iterator[None]:
    """Let upstream calibrate with our samples meanwhile, if there are any."""
    if samples is None:
        yield
        return
    from optimum.intel.openvino.quantization import OVCalibrationDatasetBuilder  # noqa: PLC0415 - slow to import

    before = OVCalibrationDatasetBuilder.build_from_quantization_config
    OVCalibrationDatasetBuilder.build_from_quantization_config = lambda builder, config: samples.inputs(
        builder, config, before
    )
    try:
        yield
    finally:
        OVCalibrationDatasetBuilder.build_from_quantization_config = before


def _vocoder(site: Site, order: Order[OpenVINOOptions]) -> str | None:
    if order.target.model_type is not ModelType.TEXT2SPEECH:
        return None
    found = find_vocoder(site, order.options.vocoder)
    return None if found is None else str(found)


def _run(arguments: argparse.Namespace) -> None:
    OVExportCommand(None, arguments, from_defaults_factory=True, parser=argparse.ArgumentParser()).run()


@contextmanager
def _measured(steps: Steps) -> Iterator[None]:
    """Count what upstream does as two steps."""
    before = (exporter.main_export, exporter._main_quantize)  # noqa: SLF001

    def export_model(*arguments: Any, **named: Any) -> None:
        with steps.step("export"):
            before[0](*arguments, **named)

    def quantise(*arguments: Any, **named: Any) -> None:
        with steps.step("compress"):
            before[1](*arguments, **named)

    exporter.main_export, exporter._main_quantize = export_model, quantise  # noqa: SLF001
    try:
        yield
    finally:
        exporter.main_export, exporter._main_quantize = before  # noqa: SLF001


@contextmanager
def _loaded_as(told: Mapping[str, Any]) -> Iterator[None]:
    """Hand on to the loader what the command line has no flag for."""
    before = exporter.main_export

    def export_model(*arguments: Any, **named: Any) -> None:
        before(*arguments, **named, model_loading_kwargs=dict(told))

    exporter.main_export = export_model
    try:
        yield
    finally:
        exporter.main_export = before


@contextmanager
def _options_judged_apart() -> Iterator[None]:
    """A ValueError of the export is about the model, one of all the rest about the options."""
    before = exporter.main_export

    def export_model(*arguments: Any, **named: Any) -> None:
        try:
            before(*arguments, **named)
        except Exception as error:
            raise _ExportFailed(error) from error

    exporter.main_export = export_model
    try:
        with option_errors():
            yield
    except _ExportFailed as failed:
        raise failed.reason  # noqa: B904 - it is its own reason
    finally:
        exporter.main_export = before


class _ExportFailed(Exception):
    """Carries an error past those who judge options."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason


class _Recorded(Exception):
    """Ends upstream's command where its work would begin."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        super().__init__()
        self.arguments = arguments


class _Recorder:
    """Stands in for upstream's exporter."""

    def __call__(self, **arguments: Any) -> NoReturn:
        raise _Recorded(arguments)


class _Parser(argparse.ArgumentParser):
    """Raises instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise InvalidParameters(f"optimum-cli does not take these options: {message[:300]}")

"""Many processes that publish models of all types into one folder at the same moment, for tests that look at the result."""

import os
import sys
from dataclasses import replace
from pathlib import Path

from common.artefacts.manifest import ArtefactStore
from common.artefacts.publish import Description, Index, PublicationPlan, publish
from common.spec import Destination, Target
from common.vocabulary import Format, ModelType, Precision
from tests.stored_models import a_plan, a_store, a_stored_artefact
from worker.serving import is_served, register_model, write_serving

FOLDER = "openvino_models/cpu/int8"
TYPES = [model_type for model_type in ModelType if is_served(model_type)]


def type_of(number: int) -> ModelType:
    return TYPES[number % len(TYPES)]


def name_of(number: int) -> str:
    return f"Org{number % 3}/Model-{number}"


def content_of(number: int) -> dict[str, bytes]:
    """No two models have a file in common."""
    return {
        "config.json": b'{"number": %d}' % number,
        "openvino_model.bin": b"%d " % number * 5_000,
        "openvino_model.xml": b"<net name='%d'/>" % number,
    }


def a_served_plan(
    store: ArtefactStore, number: int, serving: dict[str, object], device: str = "CPU"
) -> PublicationPlan:
    """A publication as the service plans one, with the converter's own functions for the model server."""
    name, model_type = name_of(number), type_of(number)
    target = Target(format=Format.OPENVINO, model_type=model_type, precision=Precision.INT8, device=device)
    plan = a_plan(a_stored_artefact(store, content_of(number), revision=f"c{number}"), f"{FOLDER}/{name}")
    return replace(
        plan,
        destination=Destination(root="", folder=f"{FOLDER}/{name}"),
        description=Description(name=name, hub="openvino", model_type=model_type, target=target, serving=serving),
        dress=lambda folder: write_serving(folder, name, target, serving),
        index=Index(folder=FOLDER, update=lambda folder: register_model(folder, name)),
    )


def main(models_dir: str, processes: int, rounds: int) -> int:
    store = a_store(Path(models_dir))
    rounds_of = [
        [a_served_plan(store, number, {"cache_size": turn, "num_streams": turn + 1}) for turn in range(rounds)]
        for number in range(processes)
    ]
    gate, opener = os.pipe()
    children = []
    for plans in rounds_of:
        child = os.fork()
        if child == 0:
            os.close(opener)
            # It opens for all of them at once.
            os.read(gate, 1)
            try:
                for plan in plans:
                    publish(store, plan, fence=lambda: None)
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        children.append(child)
    os.close(gate)
    os.close(opener)
    return sum(os.waitpid(child, 0)[1] != 0 for child in children)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))

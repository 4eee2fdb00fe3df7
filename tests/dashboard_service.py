"""A service with something to see in every page of its dashboard, and the hub that it fetches from.

Its jobs are of every kind: completed, one that fails with a hint, one that runs for as long as it is wanted, and one
that waits. There is no convert worker: what has been converted is published as such a worker would publish it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from msgspec import structs

from common.artefacts.publish import Description, PublicationPlan, publish
from common.spec import Destination, Evidence, Similarity, Target
from common.vocabulary import Format, ModelType, Precision
from tests.e2e.service import Service
from tests.fakes.faults import Fault, Throttle
from tests.fakes.huggingface import FakeHuggingFace
from tests.fakes.traffic import Match
from tests.stored_models import a_store, a_stored_artefact

MIB = 1024 * 1024
SMALL = "demo/minilm-l6"
MEDIUM = "demo/whisper-tiny"
BRIEF = "demo/qwen-mini"
"""Comes as slowly as the next one, but is small: it is there after some seconds."""
LARGE = "demo/qwen-1.5b"
"""Comes slowly: some seconds go by between any two percent of it."""
GATED = "demo/llama-gated"
MISSING = "demo/no-such-model"
CONVERTED = "demo/phi-mini"
RUN = ("redis", "api", "download", "reconcile")
_SLOW_BYTES_PER_S = 350_000
_CONNECTIONS = 2


@dataclass(frozen=True)
class DashboardService:
    """A running service, and its hub."""

    service: Service
    hub: FakeHuggingFace

    @property
    def origin(self) -> str:
        return self.service.url()

    def fetched(self, name: str, download_path: str = ".") -> str:
        """The id of a job that has brought this model."""
        (job_id,) = self.service.submit(wish(name), download_path=download_path)
        job = self.service.wait(job_id)
        assert job["status"] == "completed", job
        return job_id

    def refused(self, name: str = GATED) -> str:
        """The id of a job that has failed, and says what to do about it."""
        (job_id,) = self.service.submit(wish(name))
        job = self.service.wait(job_id)
        assert (job["status"], bool(job.get("hint"))) == ("failed", True), job
        return job_id

    def running(self, name: str = LARGE, download_path: str = "slow") -> str:
        """The id of a job whose bar moves, for a minute or so."""
        (job_id,) = self.service.submit(wish(name), download_path=download_path)
        self.service.wait_for(job_id, lambda job: job["progress"]["bytes_done"] > 0)
        return job_id

    def queued(self) -> str:
        """The id of a job that waits, for as long as the service has no convert worker."""
        converted = {"is_ovms": True, "type": "embeddings", "config": {"precision": "int8"}}
        (job_id,) = self.service.submit({"name": SMALL, "hub": "openvino", **converted})
        return job_id

    def slow_model(self, name: str, mib: int = 24) -> str:
        """The name of a model that comes slowly, with content of its own: no other test has fetched any of it."""
        self.hub.add_repo(f"demo/qwen-{name}", _model(mib * MIB // len(name), name.encode()))
        return f"demo/qwen-{name}"

    def cancel_all(self) -> None:
        """Leave nothing running behind."""
        for job in self.service.get("/api/v1/jobs").json()["jobs"]:
            if job["status"] not in {"completed", "failed", "canceled"}:
                self.service.cancel(job["id"])

    def model_id(self, name: str) -> str:
        """The id of the only model of this name on the volume."""
        (model,) = self.service.get("/api/v1/models", name=name).json()["models"]
        return str(model["id"])


def wish(name: str) -> dict[str, object]:
    """A model of the hub, as it is."""
    return {"name": name, "hub": "huggingface"}


@contextmanager
def dashboard_service(folder: Path, **variables: str) -> Iterator[DashboardService]:
    """Started, with an empty job table; the hub has a handful of models, of which one comes slowly."""
    with FakeHuggingFace() as hub:
        _fill(hub)
        with Service(
            folder,
            run=RUN,
            HF_ENDPOINT=hub.endpoint,
            MODELFERRY_CONNECTIONS=str(_CONNECTIONS),
            MODELFERRY_DOWNLOAD_SLOTS="3",
            # Where webhooks of tests are sent.
            MODELFERRY_PRIVATE_HOSTS="127.0.0.1",
            **variables,
        ) as service:
            service.wait_until(lambda: any("worker.ready" in line for line in service.lines()), 60, "a ready worker")
            publish_converted(service.models_dir)
            yield DashboardService(service, hub)


def publish_converted(models_dir: Path, name: str = CONVERTED) -> Path:
    """A converted model, with all that is to be known of one."""
    store = a_store(models_dir)
    target = Target(format=Format.OPENVINO, model_type=ModelType.LLM, precision=Precision.INT4, device="GPU")
    source = a_stored_artefact(store, _IR, revision="3f9a61c0d2b84e7fb1a5c06d9e2478f0a1b2c3d4")
    made = structs.replace(
        source,
        id=f"converted-{source.id.partition('-')[2]}",
        kind="converted",
        format=Format.OPENVINO,
        target=target,
        recipe={"precision": "int4", "group_size": 128, "ratio": 0.8, "sym": True},
        versions={"openvino": "2026.4.1", "nncf": "3.4.0", "optimum-intel": "2.2.0", "transformers": "5.5.4"},
        evidence=Evidence(
            engine="fast",
            profile="default",
            seconds={"load": 2.4, "trace": 6.1, "compress": 11.8, "save": 3.2},
            peak_memory_bytes=3_400 * MIB,
            checks=("the model compiles for CPU", "one inference ran", "the tokenizer gives back what it was given"),
            similarity=Similarity(measure="top1", value=0.9931, samples=32),
        ),
    )
    store.save(made)
    plan = PublicationPlan(
        artefact=made,
        destination=Destination(root="", folder=f"openvino_models/gpu/int4/{name}"),
        description=Description(
            name=name,
            hub="openvino",
            requested_revision="main",
            model_type=ModelType.LLM,
            target=target,
            serving={"cache_size": 4},
        ),
    )
    return publish(store, plan, fence=lambda: None).path


def _fill(hub: FakeHuggingFace) -> None:
    hub.add_repo(SMALL, _model(2 * MIB, b"s"))
    hub.add_repo(MEDIUM, _model(9 * MIB, b"m"))
    hub.add_repo(BRIEF, _model(3 * MIB, b"b"))
    hub.add_repo(LARGE, _model(48 * MIB, b"l"))
    hub.add_repo(GATED, _model(MIB, b"g"), gated="manual")
    hub.add_fault(Fault(kind=Throttle(_SLOW_BYTES_PER_S), match=Match("/repos/demo/qwen*", origin="cdn")))


def _model(weights: int, letter: bytes) -> Mapping[str, bytes]:
    return {
        "README.md": b"---\nlicense: apache-2.0\n---\n# A model\n",
        "config.json": b'{"model_type": "bert"}',
        "tokenizer.json": b"{}" * 40_000,
        "model.safetensors": letter * weights,
    }


_IR = {
    "config.json": b'{"model_type": "phi3"}',
    "generation_config.json": b"{}",
    "graph.pbtxt": b"# served by the model server\n",
    "openvino_detokenizer.xml": b"<net name='detokenizer'/>",
    "openvino_model.bin": b"\x07" * (5 * MIB),
    "openvino_model.xml": b"<net name='phi'/>" * 4000,
    "openvino_tokenizer.xml": b"<net name='tokenizer'/>",
}

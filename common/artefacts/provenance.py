"""How a model came to be, as an in-toto statement with a SLSA provenance predicate.

The forms are those of https://github.com/in-toto/attestation (Statement v1) and https://slsa.dev/spec/v1.0/provenance.
Nothing is signed here: whoever exports the statement signs it with keys of their own.
"""

from importlib.metadata import version

import msgspec

from common.artefacts.manifest import Artefact, ArtefactStore

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"

_BUILD_TYPE = "urn:modelferry:{kind}:v1"
_BUILDER = "urn:modelferry:worker"


def statement(store: ArtefactStore, artefact: Artefact) -> dict[str, object]:
    """What the artefact's files are, what they were made of, by which recipe and tools, and what was seen of them."""
    source = store.load(artefact.input, complete=False) if artefact.input else None
    return {
        "_type": STATEMENT,
        "subject": [{"name": file.path, "digest": {"sha256": file.sha256}} for file in artefact.files],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": _BUILD_TYPE.format(kind="conversion" if artefact.kind == "converted" else "download"),
                "externalParameters": _asked(artefact),
                "internalParameters": {"versions": artefact.versions},
                "resolvedDependencies": _dependencies(artefact, source),
            },
            "runDetails": {
                "builder": {"id": _BUILDER, "version": {"modelferry": version("modelferry")}},
                "metadata": {"invocationId": artefact.id, "finishedOn": artefact.created_at},
                "byproducts": _seen(artefact),
            },
        },
    }


def _asked(artefact: Artefact) -> dict[str, object]:
    asked: dict[str, object] = {"hub": artefact.source.hub, "name": artefact.source.name}
    if artefact.source.revision is not None:
        asked["revision"] = artefact.source.revision
    if artefact.target is not None:
        asked |= {"target": msgspec.to_builtins(artefact.target), "recipe": artefact.recipe}
    return asked


def _dependencies(artefact: Artefact, source: Artefact | None) -> list[dict[str, object]]:
    models = [f"{artefact.source.name}@{artefact.revision}", *artefact.companions.values()]
    whole = [_model(artefact.source.hub, *named.rsplit("@", 1)) for named in models]
    each: list[dict[str, object]] = [
        {"name": file.path, "digest": {"sha256": file.sha256}} for file in (source.files if source else ())
    ]
    return [*whole, *each]


def _model(hub: str, name: str, revision: str) -> dict[str, object]:
    return {"uri": f"pkg:{hub}/{name}@{revision}", "digest": {_digest(revision): revision}}


def _digest(revision: str) -> str:
    return "gitCommit" if len(revision) == 40 else "revision"


def _seen(artefact: Artefact) -> list[dict[str, object]]:
    if artefact.evidence is None:
        return []
    return [{"name": "evidence", "annotations": msgspec.to_builtins(artefact.evidence)}]

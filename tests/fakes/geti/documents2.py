"""The JSON of a Geti 2 server, with all that its own client insists on."""

from __future__ import annotations

from tests.fakes.geti.shelves import Architecture, Export, Shelf, Training, new_id

Document = dict[str, object]

_MANIFEST = "detection-atss"
_CREATED = "2024-11-05T08:00:00.000000+00:00"


def project(shelf: Shelf) -> Document:
    dataset, detection = f"{shelf.id}d", f"{shelf.id}t"
    label: Document = {
        "id": new_id(), "name": "thing", "color": "#ff0000ff", "group": "Detection labels", "is_empty": False,
        "hotkey": "", "parent_id": None,
    }  # fmt: skip
    return {
        "id": shelf.id,
        "name": shelf.name,
        "creation_time": _CREATED,
        "creator_id": "someone",
        "datasets": [{"id": dataset, "name": "Dataset", "use_for_training": True, "creation_time": _CREATED}],
        "pipeline": {
            "tasks": [
                {"id": dataset, "title": "Dataset", "task_type": "dataset"},
                {"id": detection, "title": "Detection", "task_type": "detection", "labels": [label]},
            ],
            "connections": [{"from": dataset, "to": detection}],
        },
        "performance": {"score": None, "task_performances": []},
        "thumbnail": f"/api/v1/projects/{shelf.id}/thumbnail",
    }


def group(shelf: Shelf, architecture: Architecture) -> Document:
    return {
        "id": architecture.id,
        "name": architecture.name,
        "task_id": f"{shelf.id}t",
        "model_template_id": _MANIFEST,
        "learning_approach": "fully_supervised",
        "lifecycle_stage": "active",
        "models": [_summary(training) for training in architecture.trainings],
    }


def model(training: Training) -> Document:
    """A model's own page. Of how its training went, only some releases tell."""
    status = {} if training.status is None else {"model_status": training.status}
    return {
        **_summary(training),
        **status,
        "architecture": "MobileNetV2-ATSS",
        "precision": ["FP32"],
        "labels": [],
        "training_framework": {"type": "OTX", "version": "2.4.0"},
        "training_dataset_info": {},
        "total_disk_size": 4_000_000,
        "learning_approach": "fully_supervised",
        "previous_revision_id": "",
        "previous_trained_revision_id": "",
        "optimized_models": [_optimized(export, training) for export in training.exports],
    }


def supported_algorithms() -> Document:
    ratings = {"accuracy": 2, "training_time": 2, "inference_speed": 2}
    return {
        "supported_algorithms": [
            {
                "model_manifest_id": _MANIFEST,
                "task": "detection",
                "name": "MobileNetV2-ATSS",
                "description": "A detector.",
                "stats": {"gigaflops": 20.6, "trainable_parameters": 9.1, "performance_ratings": ratings},
                "support_status": "active",
                "supported_gpus": {"nvidia": True, "intel": True},
                "capabilities": {"xai": True, "tiling": True},
                "is_default_model": True,
                "performance_category": "balance",
            }
        ]
    }


def _summary(training: Training) -> Document:
    return {
        "id": training.id,
        "name": training.name,
        "version": training.version,
        "creation_date": training.creation_date,
        "size": 4_000_000,
        "active_model": False,
        "label_schema_in_sync": True,
        "lifecycle_stage": "active",
        "performance": {"score": 0.9},
        "purge_info": _purge_info(training.purged),
    }


def _optimized(export: Export, training: Training) -> Document:
    return {
        "id": export.id,
        "name": f"{training.name} {export.model_format} {export.precision}",
        "version": training.version,
        "creation_date": training.creation_date,
        "precision": [export.precision],
        "model_format": export.model_format,
        "optimization_type": export.optimization_type,
        "optimization_methods": [],
        "optimization_objectives": {},
        "configurations": [],
        "model_status": export.status,
        "has_xai_head": export.has_xai_head,
        "size": 2_000_000,
        "performance": {"score": 0.9},
        "previous_revision_id": training.id,
        "previous_trained_revision_id": training.id,
        "purge_info": _purge_info(export.purged),
        **export.fields,
    }


def _purge_info(purged: bool) -> Document:
    return {"is_purged": purged, "user_uid": None, "purge_time": None}

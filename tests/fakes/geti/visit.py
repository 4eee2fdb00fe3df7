"""A visit to a Geti server by Geti's own client. Runs where geti-sdk is installed, with the standard library beside it.

Reads host and token from the arguments' file, and prints what the client understood.
"""

import json
import sys
from pathlib import Path

from geti_sdk import Geti  # type: ignore[import-not-found]
from geti_sdk.rest_clients import ModelClient  # type: ignore[import-not-found]

asked = json.loads(Path(sys.argv[1]).read_text())
geti = Geti(host=asked["host"], token=asked["token"])
seen = {"version": str(geti.session.version.version), "organization": geti.session.organization_id}
seen["workspace"] = geti.workspace_id
seen["balance"] = geti.credit_balance
seen["projects"] = []
for project in geti.projects:
    client = ModelClient(workspace_id=geti.workspace_id, project=project, session=geti.session)
    models = []
    for group in client.get_all_model_groups():
        latest = group.get_latest_model()
        model = client._get_model_detail(group.id, latest.id)
        forms = [
            {"id": form.id, "format": form.model_format, "precision": form.precision, "status": str(form.model_status)}
            for form in model.optimized_models
        ]
        models.append({"id": model.id, "name": model.name, "version": model.version, "forms": forms})
        if project.name == asked["download_from"]:
            client._download_model(model, path_to_folder=asked["folder"])
            client._download_model(model.optimized_models[0], path_to_folder=asked["folder"])
    seen["projects"].append({"id": project.id, "name": project.name, "models": models})
Path(asked["answer"]).write_text(json.dumps(seen))

"""The real application on a real, migrated SQLite file, behind a test client. Redis is away unless it is given."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from litestar.testing import TestClient

from api.app import create_app
from common.outcome import Outcome, Succeeded
from common.records import Claim
from common.settings import Settings
from common.spec import Progress
from common.store.database import Database
from common.store.stages import RetryPolicy, StageStore
from common.vocabulary import Pool
from migrations.command import upgrade

NOBODY = "redis://127.0.0.1:1/0"
OWNER = "a-worker"
BASE_URL = "http://127.0.0.1"
"""The name by which the application is called: one that a service on loopback goes by."""


@dataclass
class Web:
    """One running application, the folder it publishes to, and the store that its workers would use."""

    client: TestClient[Any]
    models_dir: Path
    stages: StageStore

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.client.get(path, follow_redirects=False, **more)

    def post(self, path: str, **more: Any) -> httpx.Response:
        return self.client.post(path, follow_redirects=False, **more)

    def put(self, path: str, **more: Any) -> httpx.Response:
        return self.client.put(path, follow_redirects=False, **more)

    def delete(self, path: str, **more: Any) -> httpx.Response:
        return self.client.delete(path, follow_redirects=False, **more)

    def submit(self, *models: dict[str, Any], download_path: str = "x") -> httpx.Response:
        return self.post("/models/download", params={"download_path": download_path}, json={"models": list(models)})

    def submitted(self, *models: dict[str, Any], download_path: str = "x") -> list[str]:
        response = self.submit(*models, download_path=download_path)
        assert response.status_code == 200, response.text
        ids: list[str] = response.json()["job_ids"]
        return ids

    def job(self, job_id: str) -> dict[str, Any]:
        response = self.get(f"/jobs/{job_id}")
        assert response.status_code == 200, response.text
        job: dict[str, Any] = response.json()
        return job

    def claim(self, pool: Pool = Pool.DOWNLOAD) -> Claim:
        claim = self.stages.claim(pool, OWNER)
        assert claim is not None
        return claim

    def beat(self, claim: Claim, progress: Progress) -> None:
        assert self.stages.heartbeat(claim, progress).held

    def settle(self, outcome: Outcome, pool: Pool = Pool.DOWNLOAD) -> None:
        assert self.stages.settle(self.claim(pool), outcome) is not None

    def complete(self, **result: object) -> None:
        """Do the two stages of the oldest download."""
        self.settle(Succeeded(artefact="a1"))
        self.settle(Succeeded(artefact="a1", result=result))


@contextmanager
def web(folder: Path, **settings: Any) -> Iterator[Web]:
    wanted = Settings(models_dir=folder / "models", redis_url=settings.pop("redis_url", NOBODY), **settings)
    wanted.models_dir.mkdir(exist_ok=True)
    if not wanted.database_url:
        upgrade(wanted.store_url)
    database = Database(wanted.store_url)
    with TestClient(create_app(wanted), base_url=BASE_URL) as client:
        yield Web(client, wanted.models_dir, StageStore(database, lease_s=60.0, retry=RetryPolicy(max_attempts=1)))
    database.dispose()

"""What went wrong can be written down, whatever words a hub has for it: on SQLite and on Postgres alike."""

import msgspec
import pytest

from common.outcome import Failed, Outcome, Retry, Succeeded
from common.store.database import Database
from common.store.jobs import JobStore
from common.store.stages import RetryPolicy, StageStore
from common.vocabulary import JobState, Pool
from tests.builders import a_download

HOSTILE = "before\x00between\ud800after"
WRITTEN = "before\\x00between\\ud800after"


def failed() -> Outcome:
    return Failed(code="internal", detail=HOSTILE, hint=HOSTILE)


def repeated() -> Outcome:
    return Retry(code="hub_unavailable", detail=HOSTILE, hint=HOSTILE)


@pytest.mark.parametrize("outcome", [failed, repeated])
def test_words_that_no_database_takes_are_written_out(database: Database, outcome) -> None:
    jobs = JobStore(database)
    stages = StageStore(database, lease_s=60, retry=RetryPolicy(max_attempts=1))
    (job_id,) = jobs.add([a_download("org/model")])
    claim = stages.claim(Pool.DOWNLOAD, "worker")
    assert claim is not None
    # As it comes from the process that did the work.
    told = msgspec.json.decode(msgspec.json.encode(outcome()), type=Outcome)
    assert stages.settle(claim, told) is not None
    job = jobs.job(job_id)
    assert (job.state, job.hint) == (JobState.FAILED, WRITTEN)
    assert WRITTEN in (job.error or "")


def test_a_result_with_such_words_is_kept(database: Database) -> None:
    jobs = JobStore(database)
    stages = StageStore(database, lease_s=60, retry=RetryPolicy())
    jobs.add([a_download("org/model")])
    claim = stages.claim(Pool.DOWNLOAD, "worker")
    assert claim is not None
    told = {"told": {"warnings": {"message": "before\x00after"}}}
    assert stages.settle(claim, Succeeded(artefact="source-1", result=told)) is not None

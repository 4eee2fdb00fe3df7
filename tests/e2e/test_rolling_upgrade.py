"""Everything is exchanged under load, one process after the other: by itself, and by the next version of the code."""

import os
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import pytest
from sqlalchemy import text

from bench.rolling import is_clean, roll
from common.store.database import Database
from tests.databases import postgres_url
from tests.rolling import (
    APIS,
    CONVERTS,
    DOWNLOADS,
    FLEET,
    PLUGINS,
    ROOT,
    Fleet,
    Load,
    findings,
    service_of,
    slow_hub,
    stock,
)

pytestmark = pytest.mark.timeout(420)

FORMER = "78f6282bbb46e83c5f47dd0e1145843209f76c6c"
"""The commit that is the version before this one."""
WITHOUT_HISTORY = "MODELFERRY_TESTS_WITHOUT_HISTORY"
JOBS = 60


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The former version, unpacked."""
    archive = subprocess.run(["git", "archive", FORMER], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode != 0:
        said = archive.stderr.decode().strip()
        if os.environ.get(WITHOUT_HISTORY):
            pytest.skip(f"the former version is not tested against, as {WITHOUT_HISTORY} says: {said}")
        pytest.fail(
            f"Commit {FORMER} cannot be had: {said}. The upgrade from it is not tested without it. Fetch the whole "
            f"history (git fetch --unshallow), or set {WITHOUT_HISTORY}=1 to do without this test."
        )
    folder = tmp_path_factory.mktemp("former")
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as content:
        content.extractall(folder, filter="data")
    return folder


def path_of(root: Path) -> str:
    return os.pathsep.join([str(PLUGINS), str(root)])


def test_the_former_version_is_what_runs(former: Path) -> None:
    for module in ("api", "worker", "common", "migrations"):
        told = subprocess.run(
            [sys.executable, "-P", "-c", f"import {module}; print({module}.__file__)"],
            env={**os.environ, "PYTHONPATH": path_of(former)}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert Path(told.stdout.strip()).is_relative_to(former)


def test_the_next_version_takes_over_under_load_and_nothing_is_lost(
    former: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The former version's fork servers prefer what is in the current folder.
    monkeypatch.chdir(tmp_path)
    old = {"PYTHONPATH": path_of(former)}
    new = {"PYTHONPATH": path_of(ROOT), "MODELFERRY_DRAIN_S": "4"}
    with slow_hub() as hub, postgres_url(migrated=False) as url:
        wishes = stock(hub, JOBS)
        service = service_of(tmp_path, url, hub, FLEET, **old)
        # The former version does not know this setting, and refuses what it does not know.
        service._environment.pop("MODELFERRY_DRAIN_S")
        with service:
            assert revision(url) == "0005"
            for name in (*DOWNLOADS, *CONVERTS):
                service.wait_until(
                    lambda name=name: any("worker.ready" in one for one in service.lines(name)), 60, name
                )
            fleet = Fleet(service)
            with fleet.balanced() as address:
                load = Load(address, wishes, 45.0)
                service.wait_until(lambda: len(load.books.accepted) > 4, 30, "under load")
                # Expand: the old code runs on the new tables.
                service._environment.update(new)
                service.migrate()
                assert revision(url) != "0005"
                service.wait_until(lambda: len(load.books.accepted) > 10, 30, "under load on the new tables")
                # Those that write first: what they write is read by old workers.
                for name in (*APIS, "reconcile", *DOWNLOADS, *CONVERTS):
                    fleet.restart(name, **new)
                assert len(load.books.accepted) > JOBS / 3
                ended = load.finish(120)
            report = findings(load.books, ended, url)
            assert is_clean(report, JOBS), (report, service.tail(200))
            assert "raised unexpected" not in service.log.read_text()


def test_everything_is_restarted_under_load_and_nothing_is_lost(tmp_path: Path) -> None:
    report = roll(tmp_path, JOBS, 60.0, print)
    assert is_clean(report, JOBS), report
    assert report["restarts"] == len(FLEET)
    # A worker that hands back keeps what it has: of each fetch only blocks on their way come again.
    assert report["refetched_bytes"] <= (report["handed_back"] + 1) * 3 * 1024 * 1024


def revision(url: str) -> str | None:
    database = Database(url)
    with database.read() as connection:
        found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    database.dispose()
    return found

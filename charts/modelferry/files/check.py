"""What `helm test` runs: whether a job would run, and whether a gate can be put and read."""

import sys
import time

from modelferry import Client, Refused, TimedOut, Unreachable, WantedModel

GATE = "helm-test"
PATIENCE_S = 120


def ready(client: Client) -> None:
    """Wait until the database and the queue answer and each pool has a worker."""
    until = time.monotonic() + PATIENCE_S
    while True:
        lacks = missing(client)
        if not lacks:
            return
        if time.monotonic() > until:
            raise TimedOut(f"Not ready after {PATIENCE_S} s: {lacks}")
        time.sleep(2)


def missing(client: Client) -> str:
    """What lacks, in words. Startup models that are still to come are no fault of the installation."""
    try:
        parts = client.ready().parts
    except (Refused, Unreachable) as error:
        return str(error)
    return ", ".join(f"{name}: {state}" for name, state in parts.items() if state != "ok" and name != "startup_models")


def gate(client: Client, model: str, hub: str) -> None:
    """Put a gate, read it, and leave nothing of it behind but a model that was there before."""
    had = jobs_of(client, model)
    try:
        put = client.put_gate(GATE, [WantedModel(name=model, hub=hub)])
        read = client.gate(GATE)
        if [one.name for one in read.models] != [model] or read.name != put.name:
            raise TimedOut(f"Another gate was read than was put: {read.models}")
        print(f"gate {read.name}: {read.message}")
    finally:
        client.remove_gate(GATE)
        for job_id in jobs_of(client, model) - had:
            cancel(client, job_id)


def jobs_of(client: Client, model: str) -> set[str]:
    """The ids of the jobs for a model."""
    try:
        return {job.id for job in client.jobs_of_model(model).jobs}
    except Refused as error:
        if error.status != 404:
            raise
        return set()


def cancel(client: Client, job_id: str) -> None:
    """End a job, unless it has ended meanwhile."""
    try:
        client.cancel(job_id)
    except Refused as error:
        if error.status != 409:
            raise


def main(arguments: list[str]) -> int:
    """Run one of the checks. Returns the exit code."""
    try:
        with Client() as client:
            if arguments == ["ready"]:
                ready(client)
            else:
                gate(client, *arguments[1:])
    except (Refused, Unreachable, TimedOut) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{arguments[0]}: ok")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

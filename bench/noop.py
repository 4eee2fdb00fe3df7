"""Stages that do nothing, as the fork server's children: what is left is the cost of running one."""

import time

from common.outcome import Succeeded
from common.spec import Progress
from common.vocabulary import Phase
from worker.forkserver import Channel
from worker.messages import Advanced, Ended

ARTEFACT = "sha256-" + "0" * 64
DONE = Succeeded(artefact=ARTEFACT, result={"path": "/bench"})
_STEPS, _STEP_S = 4, 0.1


def run(channel: Channel) -> int:
    """Succeed at once."""
    channel.send(Ended(outcome=DONE))
    return 0


def linger(channel: Channel) -> int:
    """Succeed after a while, with some progress before: a worker's everyday load on the database."""
    for step in range(_STEPS):
        channel.send(Advanced(progress=Progress(phase=Phase.DOWNLOADING, bytes_done=step, bytes_total=_STEPS)))
        time.sleep(_STEP_S)
    channel.send(Ended(outcome=DONE))
    return 0

"""The one byte mover: brings the files of a manifest into a workspace, resumed, verified, and each content once."""

from worker.net.origin import Credential
from worker.transfer.line import Classify
from worker.transfer.mover import bring
from worker.transfer.pace import Patience

__all__ = ["Classify", "Credential", "Patience", "bring"]

"""What can come between a client and what it wants."""

from common.errors import ModelferryError


class Refused(ModelferryError):
    """The service answered, and said no."""

    def __init__(self, status: int, detail: str, code: str | None = None, hint: str | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.code = code
        """What went wrong in one word, where the answer has one: see the list of codes in the documentation."""
        self.hint = hint
        """What to do about it."""


class Unreachable(ModelferryError):
    """Nobody answers at this address, or somebody who is no Modelferry."""


class NotUnderstood(Unreachable):
    """An answer that no Modelferry of this version gives."""


class TimedOut(ModelferryError):
    """What was waited for has not come in time. It may still come: nothing was cancelled."""

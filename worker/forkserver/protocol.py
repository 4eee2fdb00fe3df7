"""What a supervising process and its fork server tell each other."""

import msgspec


class Spawn(msgspec.Struct, frozen=True, kw_only=True, tag="spawn"):
    """Fork a child. Two open files come with it: the child's end of its channel, and its log."""

    token: int
    target: str
    memory_bytes: int | None
    """How much more it may map than the preloaded libraries already take; None is no limit."""
    nice: int
    environment: dict[str, str]


class Signal(msgspec.Struct, frozen=True, kw_only=True, tag="signal"):
    """Send a signal to a child's process group."""

    token: int
    number: int


class Preloaded(msgspec.Struct, frozen=True, kw_only=True, tag="preloaded"):
    """All modules are imported. With more threads than one, or a failure, no child may be forked."""

    import_s: float
    threads: int
    failure: str | None = None


class Started(msgspec.Struct, frozen=True, kw_only=True, tag="started"):
    """The child is there."""

    token: int
    pid: int


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """There is no child."""

    token: int
    reason: str


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """How a child ended: by its exit code, or by a signal."""

    code: int | None
    signal: int | None
    max_rss_bytes: int
    """The most memory it had, that of the preloaded libraries included."""
    cpu_s: float
    lost: bool = False
    """Nobody saw the end: the fork server is dead."""

    @property
    def ok(self) -> bool:
        """Whether it ended well."""
        return self.code == 0


class Exited(msgspec.Struct, frozen=True, kw_only=True, tag="exited"):
    """The child, and its whole process group, are gone."""

    token: int
    exit: Exit


ToServer = Spawn | Signal
FromServer = Preloaded | Started | Refused | Exited

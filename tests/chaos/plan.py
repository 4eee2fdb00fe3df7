"""What a run of chaos will do, decided by its seed alone: which models are wanted when, and what breaks when."""

import hashlib
import random
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Literal

import msgspec

Database = Literal["sqlite", "postgres"]

GAP_S = 1.5
"""How far apart two faults are, on the average."""
LEASE_S = 5.0
SLOW_S = 2.0
"""How long the conversions of the overture take."""
ORGANISATIONS = ("acme", "globex", "initech")
PATHS = (".", "team-a", "team-b/nested")
"""What clients give as download_path."""

_SHORTEST_S = 6.0
_BUSY_SHARE = 0.9
"""The last wish comes when this share of the faults is over."""
_SMALLEST, _LARGEST = 1_000, 3_000_000
_SPECIALS = 3
_SHARED_CONFIGS = (b"{}", b'{"architectures": ["Bert"]}', b'{"architectures": ["Llama"]}')


class WishKind(StrEnum):
    """What becomes of a wish, if the service keeps its promises."""

    DOWNLOAD = "download"
    CONVERT = "convert"
    MISSING = "missing"
    """The hub has no such model: must fail."""
    POISON = "poison"
    """The converter kills its own process each time: must fail, after as many crashes as are allowed."""


class FaultKind(StrEnum):
    """What breaks."""

    KILL_WORKER = "kill worker"
    KILL_CHILD = "kill child"
    KILL_FORKSERVER = "kill fork server"
    TERM_WORKER = "terminate worker"
    FREEZE_MAIN = "freeze worker, not its children"
    FREEZE_TREE = "freeze worker and its children"
    KILL_API = "kill api"
    PAUSE_API = "pause api"
    KILL_REDIS = "kill redis"
    WIPE_REDIS = "kill and wipe redis"
    PAUSE_REDIS = "pause redis"
    KILL_RECONCILER = "kill reconciler"
    DATABASE = "cut database"
    HUB = "hub"


class HubTrouble(StrEnum):
    """In which way the hub misbehaves."""

    TOO_MANY_REQUESTS = "429"
    UNAVAILABLE = "503"
    DROPPED = "connection reset"
    TRUNCATED = "body cut short"
    WRONG_BYTES = "one wrong bit"
    SLOW = "slow"


@dataclass(frozen=True, kw_only=True)
class Model:
    """A repository of the hub. Its bytes follow from its name and the seed."""

    name: str
    weights_bytes: int
    config: int | None
    tokenizer_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Wish:
    """One model that a client wants."""

    number: int
    kind: WishKind
    model: str
    seconds: float
    """How long its conversion takes."""
    cancel_after_s: float | None


@dataclass(frozen=True, kw_only=True)
class Post:
    """One request for one model or more. `key` is its Idempotency-Key."""

    number: int
    at_s: float
    api: int
    """Which of the APIs is asked first."""
    key: str
    download_path: str
    wishes: tuple[Wish, ...]


@dataclass(frozen=True, kw_only=True)
class FaultOrder:
    """One thing that breaks, for `seconds`, and is started again `restart_s` later where it has to be."""

    number: int
    at_s: float
    kind: FaultKind
    target: str
    seconds: float
    restart_s: float
    trouble: HubTrouble | None = None
    pick: float = 0.0
    """Chooses one of several equal victims or places."""

    def __str__(self) -> str:
        words = str(self.kind) if self.trouble is None else f"{self.kind}: {self.trouble}"
        if self.target != self.kind:
            words += f" -> {self.target}"
        if self.seconds:
            words += f", for {self.seconds:.1f} s"
        return words + (f", back after {self.restart_s:.1f} s" if self.kind in _RESTARTED else "")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All of a run. Equal seeds and sizes make equal plans."""

    seed: int
    database: Database
    models: tuple[Model, ...]
    overture: tuple[Post, Post]
    """Two slow conversions, for the two cases that a run begins with."""
    posts: tuple[Post, ...]
    faults: tuple[FaultOrder, ...]

    @property
    def wishes(self) -> int:
        """How many jobs there will be after the overture."""
        return sum(len(post.wishes) for post in self.posts)

    @property
    def digest(self) -> str:
        """Tells whether two runs had the same plan."""
        return hashlib.sha256(msgspec.json.encode(asdict(self), order="deterministic")).hexdigest()[:12]


def make_plan(seed: int, jobs: int, faults: int, database: Database) -> Plan:
    """Decide everything that a run will do. Two of the jobs and of the faults are those of the overture."""
    faults, jobs = max(0, faults - 2), max(0, jobs - 2)
    duration = max(_SHORTEST_S, faults * GAP_S)
    models, posts = _Wishes(random.Random(f"{seed} wishes"), seed, jobs).made(duration * _BUSY_SHARE)
    slow, overture = _overture(seed)
    orders = tuple(_faults(random.Random(f"{seed} faults"), faults, database))
    return Plan(seed=seed, database=database, models=(*slow, *models), overture=overture, posts=posts, faults=orders)


def processes(database: Database) -> tuple[str, ...]:
    """The set: on Postgres everything twice but Redis, on SQLite one API and one reconciler."""
    workers = ("download", "download-2", "convert", "convert-2")
    if database == "postgres":
        return ("redis", "api", "api-2", *workers, "reconcile", "reconcile-2")
    return ("redis", "api", *workers, "reconcile")


def files_of(model: Model, seed: int) -> dict[str, bytes]:
    """The content of a model at the hub."""
    noise = random.Random(f"{seed} {model.name}")
    files = {"model.safetensors": noise.randbytes(model.weights_bytes)}
    if model.config is not None:
        # Many models share these bytes: their fetches meet at one blob.
        files["config.json"] = _SHARED_CONFIGS[model.config]
    if model.tokenizer_bytes is not None:
        files["tokenizer.json"] = noise.randbytes(model.tokenizer_bytes // 2).hex().encode()
    return files


def _overture(seed: int) -> tuple[tuple[Model, Model], tuple[Post, Post]]:
    first, second = (
        Model(name=f"{ORGANISATIONS[0]}/slow{number}", weights_bytes=_SMALLEST, config=None, tokenizer_bytes=None)
        for number in range(2)
    )
    posts = [
        Post(
            number=-number,
            at_s=0.0,
            api=0,
            key=f"chaos-{seed}-overture-{number}",
            download_path=PATHS[0],
            wishes=(Wish(number=-number, kind=WishKind.CONVERT, model=name, seconds=SLOW_S, cancel_after_s=None),),
        )
        for number, name in enumerate((first.name, second.name), 1)
    ]
    return (first, second), (posts[0], posts[1])


class _Wishes:
    """Makes wishes and the models that they are about."""

    def __init__(self, rng: random.Random, seed: int, count: int) -> None:
        self._rng = rng
        self._seed = seed
        self._count = count
        self._models: list[Model] = []
        self._repeatable: list[tuple[str, Wish]] = []

    def made(self, duration_s: float) -> tuple[tuple[Model, ...], tuple[Post, ...]]:
        posts: list[Post] = []
        number = 0
        while number < self._count:
            path = self._rng.choice(PATHS)
            size = min(1 if self._rng.random() < 0.9 else self._rng.randint(2, 4), self._count - number)
            placed = [self._wish(number + offset, path) for offset in range(size)]
            # A repetition brings its own place along.
            path, wishes = (placed[0][0], [placed[0][1]]) if size == 1 else (path, [wish for _, wish in placed])
            number += size
            at_s = self._rng.uniform(0, duration_s)
            # Poison takes its time to be known as such: in the shortest run it comes first.
            posts.append(self._post(len(posts), path, tuple(wishes), 0.0 if number <= _SPECIALS else at_s))
        return tuple(self._models), tuple(sorted(posts, key=lambda post: post.at_s))

    def _post(self, number: int, path: str, wishes: tuple[Wish, ...], at_s: float) -> Post:
        return Post(
            number=number,
            at_s=round(at_s, 3),
            api=self._rng.randint(0, 1),
            key=f"chaos-{self._seed}-{number}",
            download_path=path,
            wishes=wishes,
        )

    def _wish(self, number: int, path: str) -> tuple[str, Wish]:
        chance = self._rng.random()
        # Even the shortest run has one of each.
        planned = dict(enumerate((WishKind.POISON, WishKind.MISSING, WishKind.CONVERT))).get(number)
        if planned is None and chance < 0.10 and self._repeatable:
            same_path, earlier = self._rng.choice(self._repeatable)
            if self._rng.random() < 0.5:
                path = same_path
            return path, self._named(number, earlier.kind, earlier.model, earlier.seconds)
        kind = planned or self._kind(chance)
        name = f"{self._rng.choice(ORGANISATIONS)}/m{number}"
        if kind is not WishKind.MISSING:
            self._models.append(self._model(name))
        wish = self._named(number, kind, name, round(self._rng.uniform(0.05, 1.0), 3))
        if kind in {WishKind.DOWNLOAD, WishKind.CONVERT}:
            self._repeatable.append((path, wish))
        return path, wish

    def _kind(self, chance: float) -> WishKind:
        if chance > 0.99:
            return WishKind.POISON
        if chance > 0.96:
            return WishKind.MISSING
        return WishKind.CONVERT if chance > 0.81 else WishKind.DOWNLOAD

    def _named(self, number: int, kind: WishKind, model: str, seconds: float) -> Wish:
        fragile = kind not in {WishKind.POISON, WishKind.MISSING} and self._rng.random() < 0.04
        after = round(self._rng.uniform(0, 3), 3) if fragile else None
        return Wish(number=number, kind=kind, model=model, seconds=seconds, cancel_after_s=after)

    def _model(self, name: str) -> Model:
        size = int(_SMALLEST * (_LARGEST / _SMALLEST) ** self._rng.random())
        return Model(
            name=name,
            weights_bytes=size,
            config=self._rng.randrange(len(_SHARED_CONFIGS)) if self._rng.random() < 0.6 else None,
            tokenizer_bytes=self._rng.randint(1_000, 50_000) if self._rng.random() < 0.4 else None,
        )


_WEIGHTS: dict[FaultKind, int] = {
    FaultKind.KILL_WORKER: 22,
    FaultKind.KILL_CHILD: 12,
    FaultKind.KILL_FORKSERVER: 4,
    FaultKind.TERM_WORKER: 12,
    FaultKind.FREEZE_MAIN: 5,
    FaultKind.FREEZE_TREE: 5,
    FaultKind.KILL_API: 8,
    FaultKind.PAUSE_API: 4,
    FaultKind.KILL_REDIS: 3,
    FaultKind.WIPE_REDIS: 6,
    FaultKind.PAUSE_REDIS: 4,
    FaultKind.KILL_RECONCILER: 6,
    FaultKind.DATABASE: 9,
    FaultKind.HUB: 18,
}
_RESTARTED = {
    FaultKind.KILL_WORKER, FaultKind.TERM_WORKER, FaultKind.KILL_API, FaultKind.KILL_REDIS, FaultKind.WIPE_REDIS,
    FaultKind.KILL_RECONCILER,
}  # fmt: skip
_UP_S = 2.0
"""A process that was started again is left alone for so long."""


def _faults(rng: random.Random, count: int, database: Database) -> list[FaultOrder]:
    orders: list[FaultOrder] = []
    free_at = dict.fromkeys((*processes(database), "database", "hub"), 0.0)
    # Every kind once, before chance has its way: a short run shall not leave one out.
    deck = rng.sample(list(FaultKind), len(FaultKind))
    at_s = 0.0
    while len(orders) < count:
        if not deck:
            deck = [kind for kind, weight in _WEIGHTS.items() for _ in range(weight)]
            rng.shuffle(deck)
        at_s += rng.uniform(0.5, 1.5) * GAP_S
        free = [
            (index, kind)
            for index, kind in enumerate(deck)
            if any(free_at[target] <= at_s for target in _targets(kind, database))
        ]
        if not free:
            continue
        index, kind = free[0]
        del deck[index]
        target = rng.choice([target for target in _targets(kind, database) if free_at[target] <= at_s])
        order = FaultOrder(
            number=len(orders),
            at_s=round(at_s, 3),
            kind=kind,
            target=target,
            seconds=round(_seconds(rng, kind, database), 3),
            restart_s=round(rng.uniform(0, 2), 3) if kind in _RESTARTED else 0.0,
            trouble=rng.choice(list(HubTrouble)) if kind is FaultKind.HUB else None,
            pick=round(rng.random(), 6),
        )
        orders.append(order)
        if target != "hub":
            free_at[target] = at_s + order.seconds + order.restart_s + _UP_S
    return orders


def _targets(kind: FaultKind, database: Database) -> list[str]:
    parts = {
        FaultKind.KILL_API: ("api",),
        FaultKind.PAUSE_API: ("api",),
        FaultKind.KILL_REDIS: ("redis",),
        FaultKind.WIPE_REDIS: ("redis",),
        FaultKind.PAUSE_REDIS: ("redis",),
        FaultKind.KILL_RECONCILER: ("reconcile",),
        FaultKind.DATABASE: ("database",),
        FaultKind.HUB: ("hub",),
    }.get(kind, ("download", "convert"))
    return [name for name in (*processes(database), "database", "hub") if name.partition("-")[0] in parts]


def _seconds(rng: random.Random, kind: FaultKind, database: Database) -> float:
    match kind:
        case FaultKind.FREEZE_MAIN | FaultKind.FREEZE_TREE:
            return rng.uniform(LEASE_S + 1, LEASE_S + 4)
        case FaultKind.PAUSE_API | FaultKind.PAUSE_REDIS:
            return rng.uniform(1, 3)
        case FaultKind.DATABASE:
            return rng.uniform(0.5, 5 if database == "postgres" else 8)
        case FaultKind.HUB:
            return rng.uniform(2, 5)
        case _:
            return 0.0

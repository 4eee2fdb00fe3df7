"""The states of stages as a picture, and those of jobs as a table, both from common.lifecycle."""

from collections.abc import Iterator, Mapping

from common.lifecycle import NEXT, job_state
from common.vocabulary import JobState, Operation, StageKind, StageState
from scripts.site.tables import code, table

_WIDTH, _HEIGHT = 120, 40
_COLUMN, _ROW = 240, 70
_MARGIN = 30

Place = tuple[int, int]


def stage_diagram() -> str:
    """An inline picture: a box for each state, an arrow for each way from one to another."""
    places = _places()
    width = max(x for x, _ in places.values()) + _WIDTH + _MARGIN
    height = max(y for _, y in places.values()) + _HEIGHT + _MARGIN
    arrows = "".join(_arrow(places[before], places[after]) for before in NEXT for after in _following(before))
    boxes = "".join(_box(state, place) for state, place in places.items())
    told = "; ".join(f"{state}: {', '.join(_following(state)) or 'the end'}" for state in NEXT)
    return (
        f'<figure markdown="0">\n<svg viewBox="0 0 {width} {height}" role="img" class="states">'
        f"<title>Which state of a stage may follow which</title><desc>{told}</desc>"
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" '
        f'orient="auto-start-reverse"><path d="M0 0 8 4 0 8z"/></marker></defs>{arrows}{boxes}</svg>\n</figure>\n'
    )


def job_states() -> str:
    """When a job is in which state."""
    moments: dict[JobState, dict[str, list[str]]] = {state: {} for state in JobState}
    for state, moment, stage in _every_moment():
        stages = moments[state].setdefault(moment, [])
        if stage and stage not in stages:
            stages.append(stage)
    rows = ((code(state), "; ".join(map(_in_words, said.items()))) for state, said in moments.items())
    return table(("state of the job", "when"), rows)


def _in_words(moment: tuple[str, list[str]]) -> str:
    when, stages = moment
    return f"{when} {' or '.join(map(code, stages))}".strip()


def _places() -> Mapping[StageState, Place]:
    """States in columns, by how many steps they are away from the beginning at most."""
    columns: dict[StageState, int] = {}
    _go(StageState.QUEUED, 0, columns, ())
    rows: dict[int, int] = {}
    places: dict[StageState, Place] = {}
    for state, column in columns.items():
        row = rows.setdefault(column, 0)
        rows[column] += 1
        places[state] = _MARGIN + column * _COLUMN, _MARGIN + row * _ROW
    return places


def _go(state: StageState, column: int, columns: dict[StageState, int], way: tuple[StageState, ...]) -> None:
    columns[state] = max(column, columns.get(state, 0))
    for following in _following(state):
        if following not in (*way, state):
            _go(following, column + 1, columns, (*way, state))


def _following(state: StageState) -> list[StageState]:
    """What may follow, in the order in which the states are written down."""
    return [one for one in StageState if one in NEXT[state]]


def _box(state: StageState, place: Place) -> str:
    x, y = place
    middle = f'x="{x + _WIDTH // 2}" y="{y + _HEIGHT // 2 + 5}"'
    end = "" if NEXT[state] else ' class="end"'
    return (
        f'<g{end}><rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="6"/><text {middle}>{state}</text></g>'
    )


def _arrow(start: Place, end: Place) -> str:
    """To the right in a curve; to the left above the boxes; over other boxes below them."""
    (x1, y1), (x2, y2) = start, end
    if x2 < x1:
        top = y1 - _MARGIN + 4
        line = f"M{x1 + _WIDTH // 2} {y1}C{x1} {top} {x2 + _WIDTH} {top} {x2 + _WIDTH // 2} {y2}"
    elif x2 - x1 > _COLUMN:
        line = f"M{x1 + _WIDTH // 2} {y1 + _HEIGHT}Q{x1 + _WIDTH // 2} {y2 + _HEIGHT - 8} {x2} {y2 + _HEIGHT - 8}"
    else:
        y, goal, half = y1 + _HEIGHT // 2, y2 + _HEIGHT // 2, (x1 + _WIDTH + x2) // 2
        line = f"M{x1 + _WIDTH} {y}C{half} {y} {half} {goal} {x2} {goal}"
    return f'<path d="{line}" marker-end="url(#tip)"/>'


_CHAINS = {
    Operation.DOWNLOAD: (StageKind.FETCH, StageKind.PUBLISH),
    Operation.CONVERT: (StageKind.PLAN, StageKind.FETCH, StageKind.CONVERT, StageKind.PUBLISH),
}
_NAMES = {Operation.DOWNLOAD: "a download", Operation.CONVERT: "a conversion"}
_ENDS = {
    StageState.SUCCEEDED: "the last stage has succeeded",
    StageState.FAILED: "a stage has failed",
    StageState.CANCELED: "somebody has cancelled it",
}


def _every_moment() -> Iterator[tuple[JobState, str, str]]:
    """What a job shows, when that is, and at which stage where that counts."""
    for operation, kinds in _CHAINS.items():
        first, last = kinds[0], kinds[-1]
        yield job_state(operation, first, StageState.QUEUED, last=False, begun=False), "no stage has begun", ""
        for kind in kinds:
            shown = job_state(operation, kind, StageState.RUNNING, last=kind is last, begun=True)
            yield shown, f"{_NAMES[operation]} waits for, or runs,", kind
        for state, when in _ENDS.items():
            yield job_state(operation, last, state, last=True, begun=True), when, ""

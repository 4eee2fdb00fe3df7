"""A bar never goes back: not while a new attempt looks at the hub, and not where it begins."""

from common.spec import Progress
from common.vocabulary import Phase
from worker.runner import onward


def test_the_first_progress_is_taken_as_it_is() -> None:
    now = Progress(phase=Phase.RESOLVING)
    assert onward(None, now) == now


def test_a_new_attempt_keeps_what_was_shown() -> None:
    before = Progress(phase=Phase.DOWNLOADING, bytes_done=60, bytes_total=100, files_done=1, files_total=3)
    looking = onward(before, Progress(phase=Phase.RESOLVING))
    assert (looking.phase, looking.bytes_done, looking.bytes_total, looking.files_total) == ("resolving", 60, 100, 3)
    going = onward(looking, Progress(phase=Phase.DOWNLOADING, bytes_done=52, bytes_total=100, bytes_resumed=50))
    assert (going.bytes_done, going.bytes_resumed) == (60, 50)
    assert onward(going, Progress(phase=Phase.DOWNLOADING, bytes_done=70, bytes_total=100)).bytes_done == 70


def test_another_revision_of_the_source_begins_anew() -> None:
    before = Progress(phase=Phase.DOWNLOADING, bytes_done=60, bytes_total=100)
    other = Progress(phase=Phase.DOWNLOADING, bytes_done=1, bytes_total=40)
    assert onward(before, other) == other

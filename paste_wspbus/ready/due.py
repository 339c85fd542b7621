"""Which runs of a job are due, and which of them begin: a decision without a clock."""

from __future__ import annotations

from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

#: A clock that goes back by more than this was wrong before (cron(8) of Debian: "changes of
#: more than 3 hours are considered to be corrections to the clock").
CORRECTION = 3 * 3600.0

#: The reasons why a run does not begin.
MISSED, OVERLAPPED = 'missed', 'overlapped'


class Rules(NamedTuple):
    """The settings of a job that decide about runs.

    :param grace: seconds. A run that begins so late, or less, is on time.
    :param misfire: what happens to later ones: ``once``: one run for all of them;
        ``all``: each of them, one after the other; ``skip``: none.
    :param overlap: what happens to those whose time comes while the job runs: ``skip``:
        nothing; ``wait``: one run for all of them, when the job has ended; ``allow``: each
        begins all the same.
    """

    grace: float = 60.0
    misfire: str = 'once'
    overlap: str = 'skip'


class Busy(NamedTuple):
    """The time that the last run would have taken if it had begun on time.

    So a run that came late, after a restart, overlaps what it would have overlapped without
    the restart, and nothing else.
    """

    begin: float
    end: float


class Verdict(NamedTuple):
    """The run that begins now (its time), or None; and why other runs do not begin."""

    run: int | None
    dropped: list[tuple[int, str]]


def judge(
    due: Sequence[tuple[int, float]], now: float, busy: Busy | None, rules: Rules
) -> Verdict:
    """Decide about runs whose time has come.

    Call it again after the run: those behind it in ``due`` were not decided about.

    :param due: the time of each run, and the time at which it should begin (that is later
        if there is a jitter), in order. No run of them has begun.
    :param busy: the last run; None if this process had none.
    """
    kept, dropped = [], []
    late = overlapped = None
    for time, begin in due:
        if rules.overlap != 'allow' and busy and busy.begin < begin <= busy.end:
            if rules.overlap == 'skip':
                dropped.append((time, OVERLAPPED))
                continue
            if overlapped is not None:
                dropped.append((overlapped, OVERLAPPED))
                kept.remove(overlapped)
            overlapped = time
        elif now - begin > rules.grace and rules.misfire != 'all':
            if rules.misfire == 'skip':
                dropped.append((time, MISSED))
                continue
            if late is not None:
                dropped.append((late, MISSED))
                kept.remove(late)
            late = time
        kept.append(time)
    run = kept[0] if kept else None
    return Verdict(run, sorted(one for one in dropped if run is None or one[0] < run))

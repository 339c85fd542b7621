"""The runs of one job: which one is next, which were missed, how each has ended."""

from __future__ import annotations

import itertools

from paste_wspbus.ready.due import CORRECTION, MISSED, Busy, Rules, judge
from paste_wspbus.ready.state import BadState, StateFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from paste_wspbus.plugins.schedule import Schedule

#: All times are smaller than this.
MAX_TIME = 1e11

#: The number of runs that are due at the same time and counted one by one.
COUNTED = 10_000


class Diary:
    """The runs of one job. One thread at a time may call `open` and `next_run`.

    Each run is noted before it begins: so it begins once at most, also if the process is
    killed meanwhile. All times are seconds since the epoch, by the clock that people set.

    :param delay: returns by how many seconds a run begins later than its time.
    :param file: keeps what must outlast this process; None if nothing does.
    :param say: logs a text, with a level of `logging`.
    :param fence: that of the lease under which this process runs, if only this machine
        has the file: under another lease, another machine may have run the job.
    """

    def __init__(
        self,
        schedule: Schedule,
        rules: Rules,
        delay: Callable[[int], float],
        file: StateFile | None,
        say: Callable[[str, int], object],
        fence: int | None = None,
    ) -> None:
        self.schedule, self.rules, self.file = schedule, rules, file
        self._fence = fence
        self._delay, self._say = delay, say
        #: The time up to which everything is decided.
        self.last = 0.0
        self.counts = {'runs': 0, 'failed': 0, 'missed': 0, 'overlapped': 0}
        #: The last run, as `job.Run.describe` has it; None if none is known.
        self.last_run: dict[str, Any] | None = None
        #: Why the state cannot be written; '' if it can.
        self.problem = ''
        self._busy: Busy | None = None

    def open(self, now: float) -> None:
        """Read what was decided before; without that, everything before ``now`` is past."""
        state: dict[str, Any] = {}
        try:
            state = self.file.read() if self.file is not None else {}
        except BadState as error:
            self._say(f'State {error}: the job begins anew', 40)
        except OSError as error:
            self._say(f'State {error.filename}: {error.strerror}: it begins anew', 40)
        self.last = float(state.get('last', now))
        self.last_run = _run_of(state)
        if self.last_run is not None and self.last_run['ended'] is None:
            self.last_run['outcome'] = 'interrupted'
            self._say('The last run did not end: its process ended meanwhile', 30)
        self._look_at_the_clock(now)
        if self._fence is not None and state.get('fence') != self._fence:
            self.last = now
        if self.last == now:
            self._write()  # the runs from now on are not lost

    def _look_at_the_clock(self, now: float) -> None:
        if self.last - now > CORRECTION:
            last = self.schedule.text(self.last)
            self._say(
                f'Everything up to {last} is noted as done, but the clock says '
                f'{self.schedule.text(now)}: the clock counts',
                30,
            )
            self.last = now

    def next_run(self, now: float) -> int | None:
        """Return the run that begins now, by its time, and note it; None if none does."""
        self._look_at_the_clock(now)
        due = self._due(now)
        if not due:
            return None
        run, dropped = judge(due, now, self._busy, self.rules)
        self._drop(dropped, now)
        if run is None:
            self.last = due[-1][0]
            self._write()
            return None
        self.last = run
        self.counts['runs'] += 1
        self.last_run = {
            'for': run,
            'began': round(now, 3),
            'ended': None,
            'outcome': 'runs',
            'error': '',
        }
        self._write()
        return run

    def _due(self, now: float) -> list[tuple[int, float]]:
        """Return the runs whose time has come, with the times at which they should begin."""
        due = [*itertools.islice(self._until(now), COUNTED + 1)]
        if len(due) > COUNTED:  # such as after years without the site
            self._say(f'More than {COUNTED} runs are missed: the site did not run', 30)
            self.counts['missed'] += COUNTED
            self.last = self.schedule.before(now - self.rules.grace) - 1.0
            due = [*itertools.islice(self._until(now), COUNTED)]
        return due

    def _until(self, now: float) -> Iterator[tuple[int, float]]:
        for time in self.schedule.after(self.last):
            if (begin := time + self._delay(time)) > now:
                return
            yield time, begin

    def _drop(self, dropped: list[tuple[int, str]], now: float) -> None:
        for reason in sorted({why for _, why in dropped}):
            times = [time for time, why in dropped if why == reason]
            self.counts[reason] += len(times)
            which = self.schedule.text(times[0])
            what = f'The run of {which} does'
            if len(times) > 1:
                which += f' to {self.schedule.text(times[-1])}'
                what = f'{len(times)} runs, of {which}, do'
            why = 'its time had passed before it could begin'
            if reason != MISSED:
                why = 'the run before was still in progress'
            elif self.rules.misfire == 'once':
                why = 'one run stands for all that were missed'
            self._say(f'{what} not begin: {why} ({reason})', 30)

    def ended(self, run: dict[str, Any]) -> None:
        """Note the end of a run that `next_run` has returned.

        :param run: as `job.Run.describe` has it. If runs overlap, a later one may be in
            progress.
        """
        planned = run['for'] + self._delay(run['for'])
        self._busy = Busy(planned, planned + max(run['ended'] - run['began'], 0.0))
        if self.last_run is None or run['for'] >= self.last_run['for']:
            self.last_run = run
        self.counts['failed'] += run['outcome'] != 'ok'
        self._write()

    def seconds_to_next(self, now: float) -> float | None:
        """Return the seconds until the next run should begin; None if there is none."""
        time = self.next_time()
        return None if time is None else max(time - now, 0.0)

    def next_time(self) -> float | None:
        """Return when the next run should begin, in seconds since the epoch."""
        time = self.schedule.next(self.last)
        return None if time is None else time + self._delay(time)

    def _write(self) -> None:
        if self.file is None:
            return
        problem = ''
        try:
            state = {'version': 1, 'last': self.last, 'run': self.last_run}
            self.file.write(state | {'fence': self._fence})
        except OSError as error:
            problem = f'{self.file.path}: {(error.strerror or str(error)).lower()}'
        if problem and problem != self.problem:
            self._say(
                f'The state cannot be written: {problem}. Runs that have begun may run '
                'again after a restart',
                40,
            )
        self.problem = problem


#: The types of what a state has of a run.
_RUN: dict[str, type | tuple[type, ...]] = {
    'for': (int, float),
    'began': (int, float),
    'ended': (int, float, type(None)),
    'outcome': str,
    'error': str,
}


def _run_of(state: dict[str, Any]) -> dict[str, Any] | None:
    """Return the last run of a state; None if it has none, or nonsense."""
    run = state.get('run')
    if not isinstance(run, dict) or run.keys() != _RUN.keys():
        return None
    for key, types in _RUN.items():
        value = run[key]
        is_time = isinstance(value, (int, float)) and 0 <= value < MAX_TIME
        if not isinstance(value, types) or not (is_time or not value or types is str):
            return None
    return run

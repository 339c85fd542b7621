"""`egg:paste_wspbus#cron`: a function of the site that runs at the times of a cron line."""

from __future__ import annotations

import os
import platform
import random
import threading
import time

from paste_wspbus.bus.deadlines import stack_of
from paste_wspbus.plugins.schedule import Schedule, local_zone
from paste_wspbus.ready.diary import Diary
from paste_wspbus.ready.due import Rules
from paste_wspbus.ready.job import Run
from paste_wspbus.ready.part import Unhealthy
from paste_wspbus.ready.state import StateFile
from paste_wspbus.ready.threaded import Threaded
from paste_wspbus.ready.waiting import join_within_stop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any, Literal

    from paste_wspbus.bus import Bus
    from paste_wspbus.plugins.kinds import CronLine, Function, Seconds, Zone

#: Seconds that the thread sleeps at most: after that it looks whether the clock was set, or
#: the machine slept. Python waits by a clock that knows of neither.
LOOK = 60.0

#: The number of runs that overlap at most, with ``overlap = allow``. The next one begins when
#: one of them has ended: a job that hangs must not use up all threads.
MOST = 10


class Cron(Threaded):
    """Runs a function of the site at the times of a cron line.

    It runs once for the site, however many processes have the plugin: the process that
    holds the lock of its state file runs it. List it in site_plugins, so that a long job
    takes no time from requests.
    """

    def __init__(
        self,
        bus: Bus,
        global_conf: dict[str, str],
        when: CronLine,
        run: Function,
        timezone: Zone | None = None,
        misfire: Literal['once', 'all', 'skip'] = 'once',
        grace: Seconds = 60,  # type: ignore[assignment]
        overlap: Literal['skip', 'wait', 'allow'] = 'skip',
        timeout: Seconds | None = None,
        jitter: Seconds = 0,  # type: ignore[assignment]
        once_per: Literal['site', 'process'] = 'site',
        state: Path | None = None,
    ) -> None:
        super().__init__(bus, run)
        self.schedule = Schedule(when, timezone or local_zone())
        self.function = self.function_of('run', run)
        self.rules = Rules(grace, misfire, overlap)
        self.timeout, self.jitter = timeout, jitter
        self.is_shared = once_per == 'site'
        self.path = None if state is None else os.fspath(state)
        if self.path and not os.path.isdir(os.path.dirname(self.path)):
            raise self.wrong(
                'state', f'there is no folder {os.path.dirname(self.path)}'
            )
        if self.path and os.path.isdir(self.path):
            raise self.wrong('state', f'{self.path} is a folder: name a file in it')
        self._check_alone()

    def _check_alone(self) -> None:
        """Check that no other job of this process has the same state file.

        :raises ConfigError: if one has: one of them would wait for the other for ever.
        """
        for name, other in self.bus.plugins.items():
            if self.path and isinstance(other, Cron) and other.path == self.path:
                raise self.wrong('state', f'[plugin:{name}] has the same file')

    def keeper(self, file: StateFile | None) -> Keeper:
        """Return what keeps one start."""
        return Keeper(self, file)


class Keeper:
    """One start of a `Cron`: the thread that waits, and the run in progress.

    It is the resource of the section: `health` and `wspbus_status` describe the job.
    """

    def __init__(self, cron: Cron, file: StateFile | None) -> None:
        self.cron, self.file = cron, file
        lease = cron.bus.lease
        fence = None if lease is None or cron.path is not None else lease.fence
        self.diary = Diary(
            cron.schedule, cron.rules, self._delay, file, cron.say, fence
        )
        #: The run that began last, and all whose end is not noted.
        self.run: Run | None = None
        self._runs: list[Run] = []
        #: The run that ended last, if runs may overlap: one may always be in progress.
        self._ended: Run | None = None
        self.is_keeper = False
        # They are made at the start: the site may have patched `threading` before.
        self._stops, self._wakes = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self.thread = threading.Thread(
            target=self._keep, name=f'cron {cron.name}', daemon=True
        )

    def _delay(self, run: int) -> float:
        """Return the jitter of a run: the same one after a restart, another one elsewhere."""
        if not self.cron.jitter:
            return 0.0
        own = f'{platform.node()} {self.cron.file} {self.cron.name} {run}'
        return random.Random(own).uniform(0, self.cron.jitter)

    # -- the thread ---------------------------------------------------------------

    def _keep(self) -> None:
        try:
            if self.file is None or self.file.wait(self._stops):
                self.diary.open(time.time())
                self.is_keeper = True
                self._look()
                while not self._stops.is_set():
                    self._sleep()
                    self._look()
        except Exception:
            self.cron.say('The thread of this job has failed:', 40, traceback=True)
        finally:
            for run in self._runs:
                run.wait()
            self._note_ends()
            self._leave()

    def _sleep(self) -> None:
        seconds = self.diary.seconds_to_next(time.time())
        if seconds is None or len(self._runs) >= MOST:
            seconds = LOOK
        self._wakes.wait(min(seconds, LOOK))
        self._wakes.clear()  # a stop is in _stops, too

    def _look(self) -> None:
        """Begin the runs whose time has come; if they must not overlap, one after the other."""
        self._note_ends()
        while (run := self._begin()) is not None:
            if self.cron.rules.overlap != 'allow':
                run.wait()
            self._note_ends()

    def _note_ends(self) -> None:
        for run in [one for one in self._runs if one.ended]:
            self._runs.remove(run)
            if self.cron.rules.overlap == 'allow':
                self._ended = run
            self.diary.ended(run.describe())
            if run.outcome == 'ok':  # another outcome has its line already
                when = self.cron.schedule.text(run.time)
                self.cron.say(f'The run of {when} took {run.ended - run.began:.1f} s')

    def _begin(self) -> Run | None:
        with self._lock:  # a stop comes before a run is noted, or when it has begun
            if self._stops.is_set() or len(self._runs) >= MOST:
                return None
            planned = self.diary.next_run(time.time())
            if planned is None:
                return None
            self.run = run = Run(
                self.cron,
                self.cron.function,
                planned,
                self.cron.timeout,
                self._wakes.set,
            )
            self._runs.append(run)
            run.begin()
            return run

    # -- the stop -----------------------------------------------------------------

    def stop(self) -> None:
        """Begin no more runs."""
        with self._lock:
            self._stops.set()
        self._wakes.set()

    def finish(self) -> None:
        """Wait for the run in progress, within the stop of the site."""
        if not self.is_keeper:
            return  # it has no run, and perhaps waits for another process
        if not join_within_stop(self.cron.bus, self.thread):
            self.cron.say(
                'The run does not end within the stop: it ends with its process. It is '
                f'here:\n{"" if self.run is None else stack_of(self.run.thread)}',
                40,
            )

    def _leave(self) -> None:
        self.is_keeper = False
        if self.file is not None:
            self.file.close()

    # -- what is said of it -------------------------------------------------------

    def wspbus_status(self) -> dict[str, Any]:
        """Return what `status` shows: all times in seconds since the epoch."""
        diary, run = self.diary, self.run
        if not self.is_keeper:
            ends = not self.thread.is_alive()
            text = 'it has stopped' if ends else 'another process of the site runs it'
            return {'text': text, 'ok': not ends, 'runs_here': False}
        last = run.describe() if run is not None else diary.last_run
        following = diary.next_time()
        is_late = any(one.is_running and one.is_late for one in list(self._runs))
        ended = self._ended.describe() if self._ended is not None else None
        failed = any(
            one and one['outcome'] not in ('ok', 'runs') for one in (last, ended)
        )
        return {
            'text': self._text(last, ended, following),
            'ok': not (failed or is_late or diary.problem),
            'runs_here': True,
            'last_run': last,
            'next_run': following,
            **diary.counts,
        }

    def _text(
        self,
        last: dict[str, Any] | None,
        ended: dict[str, Any] | None,
        following: float | None,
    ) -> str:
        text, run = self.cron.schedule.text, self.run
        parts = ['it did not run yet']
        if last is not None and last['outcome'] == 'runs':
            age = 0.0 if run is None else run.age
            parts = [f'it has run for {age:.0f} s now']
            if (count := len(self._runs)) > 1:
                parts[0] += f'; {count} runs are in progress'
            if ended is not None:
                parts.append(f'the run that ended last: {ended["outcome"]}')
                parts += filter(None, [ended['error']])
        elif last is not None:
            parts = [f'last run {text(last["began"])}: {last["outcome"]}']
            if last['ended'] is not None:
                parts[0] += f', {last["ended"] - last["began"]:.1f} s'
            if last['error']:
                parts.append(last['error'])
        if following is not None:
            parts.append(f'next run {text(following)}')
        counts = (
            f'{self.diary.counts[what]} {what}'
            for what in ('failed', 'missed', 'overlapped')
            if self.diary.counts[what]
        )
        return '; '.join([*parts, *counts, *filter(None, [self.diary.problem])])

    def health(self) -> str:
        """Return the state of the job as a line, for health checks.

        :raises Unhealthy: if its last run failed, or is over its time, or if its state
            cannot be written.
        """
        said = self.wspbus_status()
        text = str(said['text'])
        if not said['ok']:
            raise Unhealthy(text)
        return text

"""`egg:paste_wspbus#service`: a function of the site that runs for ever."""

from __future__ import annotations

import threading
import time

from paste_wspbus.bus.deadlines import stack_of
from paste_wspbus.bus.host import note_reason
from paste_wspbus.exits import FAILED
from paste_wspbus.ini.factories import one_line
from paste_wspbus.ready.part import Unhealthy, bound
from paste_wspbus.ready.threaded import Threaded
from paste_wspbus.ready.waiting import join_within_stop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

    from paste_wspbus.bus import Bus
    from paste_wspbus.plugins.kinds import Function, Seconds
    from paste_wspbus.ready.alone import Alone
    from paste_wspbus.ready.state import StateFile

#: Seconds between a failure and the next try at most, and of a run after which a failure
#: counts as the first one again.
LONGEST, HEALTHY = 60.0, 60.0

#: The number of characters that are shown of an error, or none of them.
MOST_SHOWN = 1000


class Service(Threaded):
    """Runs a function of the site for ever, in a thread or a process of its own.

    The function gets an event, which is set when the site stops. It runs once for the
    site, however many processes have the plugin. List it in site_plugins.
    """

    def __init__(
        self,
        bus: Bus,
        global_conf: dict[str, str],
        run: Function,
        runs_in: Literal['thread', 'process'] = 'thread',
        on_failure: Literal['restart', 'stop', 'ignore'] = 'restart',
        backoff: Seconds = 1,  # type: ignore[assignment]
        once_per: Literal['site', 'process'] = 'site',
    ) -> None:
        super().__init__(bus, run)
        self.title, self.on_failure, self.backoff = run, on_failure, backoff
        self.is_shared = once_per == 'site'
        self.is_alone = runs_in == 'process'
        self.vars = {
            key: str(value) for key, value in global_conf.items() if key != 'wspbus'
        }
        if not self.is_alone:
            self.function = self.imported('run', run)
            try:
                bound(self.function, None, None)
            except TypeError as error:
                problem = f'{run} takes {error}: it may take the event, and the bus'
                raise self.wrong('run', problem) from None

    def keeper(self, file: StateFile | None) -> Keeper:
        """Return what keeps one start."""
        return Keeper(self, file)


class Keeper:
    """One start of a `Service`: the thread in which the function runs, again and again.

    It is the resource of the section: `health` and `wspbus_status` describe the service.
    """

    def __init__(self, service: Service, file: StateFile | None) -> None:
        self.service, self.file = service, file
        self.is_keeper = False
        #: The time.time() and the time.monotonic() since which the function runs; None if
        #: it does not.
        self.since: tuple[float, float] | None = None
        #: The failures so far, those since it was healthy, and what the last one was.
        self.failures = self._in_a_row = 0
        self.last_failure = ''
        self._failed_at = 0.0
        self._process: Alone | None = None
        self._lock, self._stops = threading.Lock(), threading.Event()
        self.thread = threading.Thread(
            target=self._keep, name=f'service {service.name}', daemon=True
        )

    # -- the thread ---------------------------------------------------------------

    def _keep(self) -> None:
        try:
            if self.file is None or self.file.wait(self._stops):
                self.is_keeper = True
                while not self._stops.is_set():
                    self._run()
                    if self._stops.is_set() or not self._goes_on():
                        return
        except Exception:
            self.service.say('The thread of this service failed:', 40, traceback=True)
        finally:
            self.is_keeper = False
            if self.file is not None:
                self.file.close()

    def _run(self) -> None:
        """Run the function once, and note how it ended."""
        began = time.monotonic()
        self.since = time.time(), began
        try:
            why = self._run_alone() if self.service.is_alone else self._run_here()
        finally:
            self.since = None
        if self._stops.is_set():
            return
        self.failures += 1
        is_first = time.monotonic() - began >= HEALTHY
        self._in_a_row = 1 if is_first else self._in_a_row + 1
        self.last_failure, self._failed_at = why, time.monotonic()

    def _run_here(self) -> str:
        """Run the function in this thread; return why it ended."""
        service = self.service
        try:
            bound(service.function, self._stops, service.bus)()
        except SystemExit as error:
            code = '' if error.code is None else repr(error.code)
            return f'it called sys.exit({code})'
        except BaseException as error:
            service.say(f'{service.title} failed:', 40, traceback=True)
            # A text that is cut may keep a part of a secret, which no mask finds.
            words = one_line(error)
            is_long = len(words) > MOST_SHOWN
            return f'{type(error).__name__}, with a long text' if is_long else words
        return 'it returned'

    def _run_alone(self) -> str:
        """Run the function in a process of its own; return why it ended."""
        from paste_wspbus.ready.alone import Alone

        service = self.service
        process = Alone(service.title, service.file, service.vars)
        with self._lock:  # a stop comes before the process begins, or when it is known
            if self._stops.is_set():
                return ''
            try:
                process.start()
            except OSError as error:
                return f'its process cannot start: {one_line(error)}'
            self._process = process
        try:
            return process.wait()
        finally:
            self._process = None

    def _goes_on(self) -> bool:
        """Do what ``on_failure`` says; return whether the function runs again."""
        service, why = self.service, self.last_failure
        if service.on_failure == 'stop':
            service.say(f'{service.title} ended: {why}. The site stops', 40)
            service.bus.exit_code = service.bus.exit_code or FAILED
            note_reason(service.bus, f'[{service.name}] ended: {why}')
            service.bus.exit()
            return False
        if service.on_failure == 'ignore':
            service.say(f'{service.title} ended: {why}. It is not started again', 40)
            return False
        seconds = wait_after(self._in_a_row, service.backoff)
        service.say(f'{service.title} ended: {why}. It runs again in {seconds:g} s', 40)
        return not self._stops.wait(seconds)

    # -- the stop -----------------------------------------------------------------

    def stop(self) -> None:
        """Set the event of the function."""
        with self._lock:
            self._stops.set()
            if self._process is not None:
                self._process.ask_to_end()

    def finish(self) -> None:
        """Wait for the function, within the stop of the site; then end its process."""
        if not self.is_keeper:
            return  # the function does not run, and perhaps waits for another process
        if join_within_stop(self.service.bus, self.thread):
            return
        process = self._process
        if process is not None:
            self.service.say('Its process does not end within the stop: killed', 40)
            process.kill()
            self.thread.join(1)
            return
        self.service.say(
            'It does not end within the stop: it ends with its process. It is here:\n'
            f'{stack_of(self.thread)}',
            40,
        )

    # -- what is said of it -------------------------------------------------------

    def wspbus_status(self) -> dict[str, Any]:
        """Return what `status` shows."""
        since, now = self.since, time.monotonic()
        runs_here = self.is_keeper or not self.thread.is_alive()
        if not runs_here:
            text = 'another process of the site runs it'
            return {'text': text, 'ok': True, 'runs_here': False}
        text = 'it has ended' if not self.is_keeper else 'it waits to run again'
        process = self._process
        if since is not None:
            text = f'it has run for {now - since[1]:.0f} s'
            text += '' if process is None else f' in process {process.pid}'
        if self.failures:
            times = 'once' if self.failures == 1 else f'{self.failures} times'
            ago = f'{now - self._failed_at:.0f} s ago: {self.last_failure}'
            text += f'; it has failed {times}, the last time {ago}'
        return {
            'text': text,
            'ok': since is not None,
            'runs_here': True,
            'since': since and since[0],
            'pid': None if process is None else process.pid,
            'failures': self.failures,
            'last_failure': self.last_failure or None,
        }

    def health(self) -> str:
        """Return the state of the service as a line, for health checks.

        :raises Unhealthy: if its function does not run at this moment.
        """
        said = self.wspbus_status()
        text = str(said['text'])
        if not said['ok']:
            raise Unhealthy(text)
        return text


def wait_after(failures: int, first: float) -> float:
    """Return the seconds until the next try: twice as long after each failure in a row.

    :param failures: how many there were in a row, from 1.
    :param first: the seconds after the first one. If it is 0, the second one has 1.
    """
    if first == 0:
        return 0.0 if failures == 1 else wait_after(failures - 1, 1.0)
    return min(first * 2.0 ** min(failures - 1, 20), max(LONGEST, first))

"""One run of a job: its thread, its time limit, and how it ended."""

from __future__ import annotations

import threading
import time

from paste_wspbus.bus.deadlines import call_after, stack_of
from paste_wspbus.bus.places import place_of_error
from paste_wspbus.ini.factories import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.ready.part import Part


class JobTimedOut(BaseException):
    """It is raised inside a job that takes longer than its ``timeout``.

    It is a BaseException, so that an ``except Exception`` in the job does not catch it.
    """


class Run:
    """A run of a job. Its thread does not keep the process alive.

    :param time: the time for which it was planned, in seconds since the epoch.
    :param timeout: seconds, after which `JobTimedOut` is raised in it; None for no limit.
    :param then: is called in its thread when it has ended.
    """

    def __init__(
        self,
        part: Part,
        function: Callable[[], object],
        time: int,
        timeout: float | None,
        then: Callable[[], object] = lambda: None,
    ) -> None:
        self.part, self.time = part, time
        self._function, self._timeout, self._then = function, timeout, then
        self.began = self.ended = self._began_monotonic = 0.0
        self.outcome, self.error = 'runs', ''
        self.is_late = False
        self._lock = threading.Lock()
        self.thread = threading.Thread(
            target=self._run, name=f'job {part.name}', daemon=True
        )

    def begin(self) -> None:
        """Start the thread. If the system starts no more threads, the run has failed."""
        self.began, self._began_monotonic = time.time(), time.monotonic()
        try:
            self.thread.start()
        except RuntimeError as error:
            self._fail(error)

    @property
    def is_running(self) -> bool:
        """Whether its thread runs."""
        return self.thread.is_alive()

    @property
    def age(self) -> float:
        """The seconds since its beginning, even if the clock was set meanwhile."""
        return time.monotonic() - self._began_monotonic

    def wait(self) -> None:
        """Wait for its end, without a time limit."""
        if self.thread.ident is not None:
            self.thread.join()

    def describe(self) -> dict[str, Any]:
        """Return the run as the state file and `status` have it; times since the epoch."""
        return {
            'for': self.time,
            'began': round(self.began, 3),
            'ended': round(self.ended, 3) if self.ended else None,
            'outcome': self.outcome,
            'error': self.error,
        }

    def _run(self) -> None:
        cancel = None
        if self._timeout:
            cancel = call_after(self._timeout, self._cut)
        try:
            try:
                self._function()
                self._note('ok')
            except BaseException as error:
                self._fail(error)
        except JobTimedOut as error:  # it came when the function had just ended
            self._fail(error)
        finally:
            if cancel is not None:
                cancel()
            self._then()

    def _note(self, outcome: str, error: str = '') -> None:
        with self._lock:
            if not self.ended:
                self.outcome, self.error = outcome, error
                self.ended = self.began + self.age

    def _fail(self, error: BaseException) -> None:
        if self.ended:
            return
        if isinstance(error, JobTimedOut):
            text = f'it took longer than {self._timeout:g} s'
            self._note('timed out', text)
            self.part.say(f'The run was ended: {text}', 40)
            return
        if isinstance(error, SystemExit):
            text = (
                f'it called sys.exit({"" if error.code is None else repr(error.code)})'
            )
            place = place_of_error(error)
            text += f', at {place}' if place else ''
            self._note('failed', text)
            self.part.say(f'The run failed: {text}', 40)
            return
        self._note('failed', one_line(error)[:500])
        self.part.say('The run failed:', 40, traceback=True)

    def _cut(self) -> None:
        with self._lock:
            if self.ended:
                return
            self.is_late = True
            stack = stack_of(self.thread)
            raise_in(self.thread, JobTimedOut)
        self.part.say(
            f'The run takes longer than {self._timeout:g} s (timeout): JobTimedOut is '
            f'raised in it, here:\n{stack}',
            40,
        )


def raise_in(thread: threading.Thread, error: type[BaseException]) -> None:
    """Raise an exception in another thread, as soon as that runs code of Python again.

    What waits in C (a socket, a lock, a sleep) gets it when that returns
    (PyThreadState_SetAsyncExc).
    """
    import ctypes

    ident = ctypes.c_ulong(thread.ident or 0)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(error))

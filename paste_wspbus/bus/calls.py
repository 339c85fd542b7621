"""The calls of listeners on state channels, with their times, time limits and failures."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque

from paste_wspbus.bus.channels import (
    STATE_CHANNELS,
    ChannelFailures,
    call_next,
    name_of,
)
from paste_wspbus.bus.deadlines import Cut, TimeLimit
from paste_wspbus.bus.interrupts import inside
from paste_wspbus.bus.places import place_of_error
from paste_wspbus.bus.turn import LEAVING
from paste_wspbus.errors import TimedOut

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from paste_wspbus.bus.channels import Listener

#: The number of calls that `Bus.timeline` keeps.
TIMELINE_LENGTH = 1000


class Call:
    """One call of a listener, as `Bus.timeline` keeps it.

    ``channel`` and ``name`` are those of the listener. ``start`` is in seconds since the
    epoch, ``since`` the same by time.monotonic(), ``duration`` in seconds. ``outcome`` is
    'ok', 'failed' or 'timed out'. ``thread`` is the name of the thread that called it.
    """

    __slots__ = ('channel', 'duration', 'name', 'outcome', 'since', 'start', 'thread')

    def __init__(
        self,
        channel: str,
        name: str,
        since: float,
        duration: float,
        outcome: str = 'ok',
        start: float | None = None,
    ) -> None:
        self.channel, self.name, self.outcome = channel, name, outcome
        self.since, self.duration = since, duration
        self.start = time.time() - time.monotonic() + since if start is None else start
        self.thread = threading.current_thread().name

    def __repr__(self) -> str:
        return (
            f'<{self.channel} {self.name}: {self.outcome}'
            f' in {self.duration * 1000:.1f} ms>'
        )


class Calls:
    """Calls the listeners of state channels, and records each call.

    :param log: is called as `Bus.log`.
    :param may_cut: returns whether SIGALRM may cut a listener that is late.
    """

    def __init__(self, log: Callable[..., object], may_cut: Callable[[], bool]) -> None:
        self._log, self._may_cut = log, may_cut
        #: The listener that runs now: (channel, name, time.monotonic() of its start).
        self.calling: tuple[str, str, float] | None = None
        self.timeline: deque[Call] = deque(maxlen=TIMELINE_LENGTH)
        self.count = 0  # of all calls that were ever in it
        #: The steps of the load, which stand before it: no number of calls drops them.
        self.load: deque[Call] = deque(maxlen=TIMELINE_LENGTH)
        #: The time.monotonic() at which `Bus.start_timeout` is over; None if there is none.
        self.start_until: float | None = None
        #: Whether a listener of a state channel has failed during the present command.
        self.failed = False

    def call_all(
        self,
        channel: str,
        listeners: deque[Listener],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> list[Any]:
        """Call all listeners of a state channel in order, even if some fail.

        :param listeners: `call_next` takes each out. So if an interrupt comes, the deque
            has those that were not called. Those that could not be called are in it, too.
        :returns: the result of each listener that did not fail.
        :raises ChannelFailures: at the end, if some failed.
        :raises SystemExit, KeyboardInterrupt: if a listener raises it: at once, but on
            'stop' and 'exit' after the calls of the others.
        """
        output: list[Any] = []
        failures, pid = ChannelFailures(), os.getpid()
        interrupt: KeyboardInterrupt | SystemExit | None = None
        uncalled: list[Listener] = []
        while listeners:
            listener = listeners[0]
            try:
                try:
                    self.call(channel, listeners, output, args, kwargs)
                except (KeyboardInterrupt, SystemExit):
                    raise
                except BaseException:
                    self.note_failure(channel, listener.name, failures)
                    if listeners and listeners[0] is listener:  # no memory to call it
                        uncalled.append(listeners.popleft())
                if os.getpid() != pid and channel in LEAVING:
                    # The listener has forked, and this is the child: only its parent
                    # closes the site.
                    raise SystemExit(1 if failures else 0)
            except (KeyboardInterrupt, SystemExit) as error:
                if os.getpid() != pid:
                    raise
                self._note_exit(channel, listener.name, error)
                if channel not in LEAVING:
                    raise
                interrupt = interrupt or error
        listeners.extend(uncalled)
        if interrupt is not None:
            raise not_zero(interrupt) if failures else interrupt
        if failures:
            raise failures
        return output

    def _note_exit(self, channel: str, name: str, error: BaseException) -> None:
        """Log the text with which a listener has called sys.exit: nobody else prints it."""
        if isinstance(error, SystemExit) and not isinstance(error.code, int | None):
            said = f'called sys.exit({error.code!r}){_at(error)}'
            self._log(f'{channel!r} listener {name} {said}', level=40)

    def call_rest(
        self,
        channel: str,
        calls: tuple[Callable[..., Any], ...],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> NoReturn:
        """Note that the first of ``calls`` has failed, and call the others.

        Its exception is the one that is being handled.

        :raises ChannelFailures: at the end.
        :raises SystemExit, KeyboardInterrupt: at once, if one of the others raises it.
        """
        if not calls:
            raise  # not a listener has failed: there was no memory
        failures = ChannelFailures()
        self.note_failure(channel, name_of(calls[0]), failures)
        for call in calls[1:]:
            try:
                call(*args, **kwargs)
            except SystemExit as error:
                raise not_zero(error) from None
            except Exception:
                self.note_failure(channel, name_of(call), failures)
        raise failures

    def note_failure(self, channel: str, name: str, failures: ChannelFailures) -> None:
        """Keep the exception that is being handled, and log it with the listener's name."""
        failures.handle_exception()
        self.failed = self.failed or channel in STATE_CHANNELS
        if channel != 'log':  # a 'log' listener that failed cannot log its failure
            line = f'Error in {channel!r} listener {name}{_at(sys.exc_info()[1])}'
            self._log(line, level=40, traceback=True)

    def call(
        self,
        channel: str,
        listeners: deque[Listener],
        results: list[Any],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Call the first of the listeners, as `call_next` does, and record the call.

        :param results: gets what the listener returns, unless it took too long.
        :raises TimedOut: if it took longer than its timeout.
        :raises BaseException: whatever the listener raises.
        """
        start, clock, outcome = time.time(), time.perf_counter(), 'failed'
        since, listener = time.monotonic(), listeners[0]
        outer, self.calling = self.calling, (channel, listener.name, since)
        try:
            seconds = self._time_for(channel, listener)
            if seconds is None:
                call_next(listeners, 'call', results, *args, **kwargs or {})
            else:
                late = _Late(channel, listener.name, seconds)
                self._call_within(late, listeners, results, args, kwargs or {})
            outcome = 'ok'
        except TimedOut:
            outcome = 'timed out'
            raise
        finally:
            self.calling = outer
            duration = time.perf_counter() - clock
            self.record(channel, listener.name, since, duration, outcome, start)

    def record(self, *call: Any) -> None:
        """Add a `Call` to the timeline; for what is no call, too.

        These are the imports and factories of sections ('import', 'factory'), and the first
        request ('request').
        """
        kept = self.load if call[0] in ('import', 'factory') else self.timeline
        kept.append(Call(*call))
        self.count += 1

    def _time_for(self, channel: str, listener: Listener) -> float | None:
        if channel != 'start' or self.start_until is None:
            return listener.timeout
        remaining = self.start_until - time.monotonic()
        return (
            remaining if listener.timeout is None else min(remaining, listener.timeout)
        )

    def _call_within(
        self,
        late: _Late,
        listeners: deque[Listener],
        results: list[Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        def cannot_cut(stack: str) -> None:
            self._log(
                f'{late} and cannot be cut here (not the main thread of a POSIX '
                f'process, or the site uses SIGALRM itself):\n{stack}',
                level=40,
            )

        known = len(results)
        error: BaseException | None = None
        limit = TimeLimit(late.seconds, cannot_cut, may_cut=self._may_cut())
        try:
            inside(
                limit, lambda: call_next(listeners, 'call', results, *args, **kwargs)
            )
        except Cut as cut:
            error = cut
        except Exception as raised:
            error = raised
        if limit.expired:
            del results[known:]
            if limit.stack:
                self._log(f'{late}; cut here:\n{limit.stack}', level=40)
            raise TimedOut(late.channel, late.name, late.seconds) from error
        if error is not None:
            raise error


class _Late:
    """The text by which the log names a listener that takes too long."""

    def __init__(self, channel: str, name: str, seconds: float) -> None:
        self.channel, self.name, self.seconds = channel, name, seconds

    def __str__(self) -> str:
        return (
            f'{self.channel!r} listener {self.name} takes longer than '
            f'{self.seconds:.3g} s'
        )


class Deferred:
    """The errors of several steps: it keeps them until all steps have run, then raises them."""

    def __init__(self) -> None:
        self._failures = ChannelFailures()
        self._interrupt: BaseException | None = None
        self._pid = os.getpid()

    def run(self, step: Callable[..., object], *args: object) -> None:
        """Call ``step``, and keep its error."""
        try:
            step(*args)
        except ChannelFailures as failures:
            self._failures.add(failures)
        except (KeyboardInterrupt, SystemExit) as error:
            if os.getpid() != self._pid:
                raise  # a listener has forked, and this is the child, which ends
            self._interrupt = self._interrupt or error

    @property
    def interrupted(self) -> bool:
        """Whether a step has raised KeyboardInterrupt or SystemExit."""
        return self._interrupt is not None

    def raise_interrupt(self) -> None:
        """Raise the first KeyboardInterrupt or SystemExit, if a step raised one."""
        if self._interrupt is not None:
            raise not_zero(self._interrupt) if self._failures else self._interrupt

    def raise_it(self) -> None:
        """Raise the first interrupt, or else the failures, if there are any.

        :raises KeyboardInterrupt, SystemExit: the first one that a step raised.
        :raises ChannelFailures: if listeners failed.
        """
        self.raise_interrupt()
        if self._failures:
            raise self._failures


def _at(error: BaseException | None) -> str:
    """Return where the code of the site has failed, as the end of a line, or ''."""
    place = '' if error is None else place_of_error(error)
    return f', at {place}' if place else ''


def not_zero(error: BaseException) -> BaseException:
    """Return ``error``; a SystemExit of code 0 gets code 1, because listeners have failed."""
    if isinstance(error, SystemExit) and not error.code:
        error.code = 1
    return error

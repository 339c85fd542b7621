"""Graceful restarts: this runs them, and answers the control requests for them."""

from __future__ import annotations

import gc
from collections import deque

from paste_wspbus.bus import State
from paste_wspbus.control.status import followed
from paste_wspbus.errors import WSPBusError
from paste_wspbus.plugins.log_files import path_of_log
from paste_wspbus.process.renewal import Renewal
from paste_wspbus.workers.waiting import StopRequested

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.control.server import Connection
    from paste_wspbus.workers.supervisor import Supervisor

#: The number of renewals that `status` has.
PAST = 5


class Renewals:
    """Lets the strategy renew the site, and answers the control requests for that."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        #: The reason why the last renewal failed.
        self.failure: str | None = None
        #: The last renewal; it may be in progress.
        self.last: Renewal | None = None
        #: The last renewals, the newest first.
        self.past: deque[Renewal] = deque(maxlen=PAST)
        #: The notes on the configuration that was read anew, for the answer.
        self.notes: list[str] = []
        #: The number of streams and of other requests that the old processes have cut.
        self._cut = (0, 0)
        #: The connections that wait for the next renewal.
        self._asking: list[Connection] = []
        #: The function that the present renewal calls before the first old process
        #: stops; or None.
        self._enter: Callable[[Callable[[], object]], object] | None = None
        #: Whether somebody wants the next renewal without a soak; and the present one.
        self._hurries, self.soaks = False, True

    def ask(self, connection: Connection) -> dict[str, Any] | None:
        """Queue a renewal for the control socket; the answer comes when it is over."""
        wait = connection.request.get('wait', True)
        if wait:
            self._asking.append(connection)
        self._hurries |= not connection.request.get('soak', True)
        self.supervisor.bus.graceful()
        return None if wait else {'accepted': True}

    @property
    def is_asked_for(self) -> bool:
        """Whether another renewal is queued: the code may have changed again."""
        requests = self.supervisor.bus.events.requests
        return any(request.name == 'graceful' for request in requests)

    @property
    def must_enter(self) -> bool:
        """Whether `enter` must be called before the first old process stops."""
        return self._enter is not None

    def enter(self, check: Callable[[], object] = lambda: None) -> None:
        """Make sure that the roll that has asked for this renewal still goes on.

        Nothing was replaced yet; after this, it is. Later calls do nothing.

        :param check: is called again and again meanwhile; it may raise an error.
        :raises WorkerFailed: if the roll does not go on.
        :raises StopRequested: if a stop of the site was requested.
        """
        enter, self._enter = self._enter, None
        if enter is not None:
            enter(check)

    def add_cut(self, streams: int, others: int) -> None:
        """Note how many requests an old process has cut: this is not a failure."""
        self._cut = (self._cut[0] + streams, self._cut[1] + others)

    def renew(self) -> None:
        """Replace the old generation with a new one; if that fails, answer why."""
        if self.supervisor.bus.state is not State.STARTED:
            return
        waiting, self._asking = self._asking, []
        # Only a roll must confirm it: an operator of this machine needs no permission.
        enters = [getattr(one, 'enter', None) for one in waiting]
        self._enter = enters[-1] if enters and all(enters) else None
        self.soaks, self._hurries = not self._hurries, False
        self.failure, self._cut = None, (0, 0)
        bus = self.supervisor.bus
        self.last, bus.asked_by = Renewal(bus.asked_by), None
        self.past.appendleft(self.last)
        logged = self.supervisor.failures.logged
        try:
            self.supervisor.strategy.renew()
            answer = self._it_serves()
        except StopRequested:
            answer = {
                'failed': 1,
                'line': 'The site was asked to stop before that was done',
            }
        except Exception as failed:
            answer = self._it_failed(failed)
        self.last.ends(self.supervisor.generation, answer.get('line'))
        if 'failed' in answer and self.supervisor.failures.logged > logged:
            answer['log'] = path_of_log(bus)
        for connection in waiting:
            connection.answer(answer)
        # The parsers of the .ini are in circles. Without this, those of a hundred
        # renewals are there before Python looks at objects of their age.
        gc.collect()

    def _it_serves(self) -> dict[str, Any]:
        supervisor, notes = self.supervisor, [*self.notes]
        supervisor.replacing.forget()
        supervisor.successors.counts['graceful'] += supervisor.count
        if any(self._cut):
            notes.append(f'{_in_words(*self._cut)} cut: see {supervisor.log_name}')
        answer = {'generation': supervisor.generation, 'notes': notes}
        if self.failure is not None:  # under --reload, a worker shows it now
            answer |= {'failed': 1, 'line': self.failure, 'is_new': True}
            supervisor.bus.publish('reload_failed', self.failure)
        supervisor.bus.publish(
            'generation_serves', supervisor.generation, supervisor.pids
        )
        return answer

    def _it_failed(self, failed: Exception) -> dict[str, Any]:
        supervisor = self.supervisor
        self.failure = str(failed)
        supervisor.bus.publish('reload_failed', self.failure)
        who_serves, is_mixed = self._who_serves()
        unexpected = not isinstance(failed, WSPBusError)
        line = followed(f'Generation {supervisor.latest} failed: {failed}', who_serves)
        supervisor.bus.log(line, 40, traceback=unexpected)
        supervisor.failures.logged += unexpected
        # Any other code is that of a process: with 139, the command itself would seem
        # to have crashed.
        is_wrong = getattr(failed, 'exit_code', 1) == 2
        return {
            'failed': 2 if is_wrong else 1,
            'line': str(failed),
            'generation': supervisor.generation if supervisor.serving() else None,
            'notes': self.notes,
            'is_new': supervisor.generation == supervisor.latest,
            'mixed': who_serves if is_mixed else None,
        }

    def _who_serves(self) -> tuple[str, bool]:
        """Return which generation serves after a failure, and whether two generations serve."""
        supervisor = self.supervisor
        new = len(supervisor.serving(supervisor.latest))
        if not supervisor.serving():
            return 'no worker serves', False
        if supervisor.generation == supervisor.latest:
            return 'its workers keep serving', False
        if not new:
            return f'generation {supervisor.generation} keeps serving', False
        return (
            f'{new} of {supervisor.count} workers serve generation '
            f'{supervisor.latest}, the others generation {supervisor.generation}'
        ), True


def _in_words(streams: int, others: int) -> str:
    counts = (streams, 'stream'), (others, 'request')
    return ' and '.join(
        f'{count} {noun}{"s" if count > 1 else ""}' for count, noun in counts if count
    )

"""The answers of a site on its control socket: status, graceful, drain, stop, replace."""

from __future__ import annotations

import os
import threading
import time

from paste_wspbus.bus import State
from paste_wspbus.bus.host import note_reason
from paste_wspbus.control.stacks import limited
from paste_wspbus.errors import WSPBusError
from paste_wspbus.process.load import describe_stacks, load_of, log_stacks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.bus import Bus
    from paste_wspbus.control.server import Connection, Handler
    from paste_wspbus.process.process import Process
    from paste_wspbus.servers.server import Server

#: The number of calls in a timeline at most; and in the last one before the end: nobody
#: waits then until a client has read it, so the socket must have room for all of it.
MAX_CALLS, LAST_CALLS = 10_000, 800


#: Seconds that a status waits for the engine of a cluster, and for the reports of all
#: machines.
CLUSTER_PATIENCE, MACHINES_PATIENCE = 0.3, 5.0


class Answers:
    """Answers for the site of ``bus``, or for the supervisor if it is the supervisor's bus.

    ``successor`` is the connection to the process that will get what this process holds.
    """

    bus: Bus

    def __init__(self, process: Process) -> None:
        self.process = process
        self.successor: Connection | None = None
        #: The line that says why the start of this program has failed; '' if it has not.
        self.failure = ''
        self._asked_to_stop: list[Connection] = []
        self._asked_for_failure: list[Connection] = []
        #: From each request to the method that answers it; see `Control`.
        self.commands: dict[str, Handler] = {
            'status': self._status,
            'stop': self._stop,
            'failure': self._failure,
            'replace': self._replace,
            'graceful': self._graceful,
            'drain': lambda _: self._drain(True),
            'undrain': lambda _: self._drain(False),
            'stacks': self._stacks,
            'timeline': self._timeline,
            'add_worker': lambda _: self._change_workers('add_worker', 1),
            'remove_worker': lambda _: self._change_workers('remove_worker', -1),
        }

    @property
    def asks_to_stop(self) -> bool:
        """Whether a client has asked for the stop of this process."""
        return bool(self._asked_to_stop) or self.successor is not None

    def stopped(self, code: int) -> None:
        """Send the exit code to the clients that have asked for the stop."""
        replaced = {'replaced': True} if self.successor is not None else {}
        for connection in self._asked_to_stop:
            more = (
                self.timelines(LAST_CALLS)
                if connection.request.get('timeline') is True
                else {}
            )
            connection.answer({'exit_code': code, **replaced, **more})
        self.started(
            {'exit_code': code, 'line': self._masked()} if self.failure else {}
        )

    def _masked(self) -> str:
        from paste_wspbus.ini.masking import without_secrets

        return without_secrets(self.failure, self.process.config)

    def started(self, answer: dict[str, Any]) -> None:
        """Send an answer to the clients that wait for the end of the start."""
        while self._asked_for_failure:
            self._asked_for_failure.pop().answer(answer)

    def _status(self, connection: Connection) -> dict[str, Any] | None:
        supervisor = self.bus.plugins.get('supervisor')
        if supervisor is None:
            return self.describe()
        machines = connection.request.get('machines') is True
        patience = MACHINES_PATIENCE if machines else CLUSTER_PATIENCE
        answer = supervisor.inquiries.answerer(connection)
        self.describe_all(supervisor, answer, connection, machines, patience)
        return None

    def describe(self) -> dict[str, Any]:
        """Return what `status` answers of a site of one process."""
        return self._whole(self._describe(), self.process.server)

    def describe_all(
        self,
        supervisor: Any,
        answer: Callable[[Callable[[], dict[str, Any]]], object],
        connection: Connection | None = None,
        machines: bool = False,
        patience: float = CLUSTER_PATIENCE,
    ) -> None:
        """Call ``answer`` with a function that makes the supervisor's answer to `status`.

        :param machines: whether it shows all machines of its cluster.
        :param patience: seconds to wait for their reports.
        """

        def make() -> dict[str, Any]:
            told = self._describe() | _readable(supervisor.describe())
            return self._whole(told, supervisor.server)

        def ask_workers() -> None:
            supervisor.inquire(connection, lambda: answer(make))

        cluster = supervisor.cluster
        if cluster is None:
            ask_workers()
        else:
            cluster.status.ask(ask_workers, machines, patience)

    def _whole(self, status: dict[str, Any], server: Server | None) -> dict[str, Any]:
        """Add the backlog to a status, and mask secrets in what plugins say of themselves."""
        saying = [one for one in (status, *status['workers']) if one.get('plugins')]
        if saying:
            from paste_wspbus.ini.masking import secrets_of
            from paste_wspbus.ops.status import public

            secrets = secrets_of(self.process.config)
            for one in saying:
                one['plugins'] = public(one['plugins'], secrets)
        return _with_backlog(status, server)

    def _describe(self) -> dict[str, Any]:
        bus, process = self.bus, self.process
        last = None if process.renewal is None else process.renewal.describe()
        trials = process.trials
        since = trials.since if trials is not None else None
        return _readable(
            {
                'pid': os.getpid(),
                **process.names.fields,
                'state': bus.state.name,
                'drained': bus.drained,
                'is_crashed': False,
                'since': process.began,
                'age': round(time.monotonic() - process.began_monotonic, 3),
                'urls': process.server.urls if process.server is not None else [],
                'generation': 1,
                'workers': [],
                **load_of(bus),
                **_counts(bus),
                'health': self._health(),
                'threads': _lingering() if bus.state is State.EXITING else [],
                'calling': bus.calling,
                'deadline': bus.stop_timeout,
                'failure': None if last is None else last['reason'],
                'last_reload': last,
                'trial': None if since is None else round(time.monotonic() - since, 3),
            }
        )

    def _health(self) -> list[dict[str, Any]]:
        has_overdue = getattr(self.bus.plugins.get('requests'), 'overdue', None)
        if not has_overdue and getattr(self.bus, 'checks', None) is None:
            return []
        from paste_wspbus.process.health import rows_of

        return rows_of(self.bus, self.process.config)

    def _graceful(self, connection: Connection) -> dict[str, Any] | None:
        bus = self.bus
        supervisor = bus.plugins.get('supervisor')
        what = 'a restart' if supervisor is None else 'a graceful restart'
        bus.asked_by = connection.who('graceful')
        bus.post('log', f'Asked for {what}: {bus.asked_by}', 20)
        if supervisor is not None:
            return supervisor.ask_for_renewal(connection)  # type: ignore[no-any-return]
        try:
            bus.check_restart()
        except WSPBusError as error:
            bus.post('reload_failed', str(error))
            raise
        waits = connection.request.get('wait', True) and bus.try_restart is not None
        if not waits:
            connection.answer({'restarting': True})  # before another program runs here
        if bus.try_restart is None:
            bus.restarting = True
            bus.graceful()  # tell the listeners before anything stops, as after SIGHUP
            bus.restart()
        else:
            self.process.try_restart(bus, connection if waits else None)
        return None

    def _drain(self, drained: bool) -> dict[str, Any]:
        bus, was = self.bus, self.bus.drained
        supervisor = bus.plugins.get('supervisor')
        if supervisor is None:
            bus.drained = drained
        else:
            supervisor.draining.set(drained)
        if was != drained:
            bus.log(
                f'The site is {"drained" if drained else "not drained any more"}', 30
            )
        return {'drained': drained, 'was': was, 'pid': os.getpid()}

    def _stacks(self, connection: Connection) -> dict[str, Any] | None:
        """Answer with the stacks of all processes; or, if the request says so, log them."""
        supervisor: Any = self.bus.plugins.get('supervisor')
        logs = connection.request.get('log') is True
        if supervisor is None and not logs:
            trials = self.process.trials
            others = trials.describe() if trials is not None else []
            return {'processes': limited([describe_stacks(self.bus), *others])}
        if not logs:
            answer = supervisor.inquiries.answerer(connection)
            supervisor.describe_stacks(
                lambda make: answer(lambda: {'processes': make()})
            )
            return None
        if supervisor is not None:
            supervisor.log_stacks()
        else:
            log_stacks(self.bus)
        files = getattr(self.bus.plugins.get('sitelog'), 'files', ())
        return {'accepted': True, 'log': files[0][0] if files else None}

    def _timeline(self, connection: Connection) -> None:
        supervisor = self.bus.plugins.get('supervisor')
        if supervisor is None:
            connection.answer(self.timelines())
        else:
            answer = supervisor.inquiries.answerer(connection)
            supervisor.history.ask(lambda: answer(self.timelines))

    def timelines(self, room: int = MAX_CALLS) -> dict[str, Any]:
        """Return the timelines of all processes, as far as they are known now.

        :param room: the number of calls that it has at most.
        """
        from paste_wspbus.control.timeline import describe_calls, limited_calls, now

        supervisor = self.bus.plugins.get('supervisor')
        own = {
            'name': 'site' if supervisor is None else 'supervisor',
            'pid': os.getpid(),
            'began': self.process.began_monotonic,
            **describe_calls(self.bus),
        }
        others = [] if supervisor is None else supervisor.history.describe()
        forgotten = 0 if supervisor is None else supervisor.history.forgotten
        return {
            **now(),
            'processes': limited_calls([own, *others], room),
            'forgotten': forgotten,
        }

    def _change_workers(self, channel: str, change: int) -> dict[str, Any]:
        supervisor = self.bus.plugins.get('supervisor')
        if supervisor is None or not supervisor.plan.workers:
            return {'error': 'this site has no workers: start it with --workers'}
        if self.bus.state is not State.STARTED:
            return {'error': f'the site is {self.bus.state.name}'}
        if (why := supervisor.resizing.why_not(change)) is not None:
            return {'error': why}
        self.bus.post(channel)
        return {'accepted': True, 'workers': supervisor.count + change}

    def _stop(self, connection: Connection) -> None:
        self._asked_to_stop.append(connection)
        note_reason(self.bus, f'`wspserve stop`, asked by {connection.client}')
        self.bus.exit()

    def _failure(self, connection: Connection) -> dict[str, Any] | None:
        """Answer when the start of this program, or of the next one, has ended."""
        if self.bus.state is State.STARTED and not self.bus.restarting:
            return {}
        self._asked_for_failure.append(connection)
        return None

    def _replace(self, connection: Connection) -> dict[str, Any] | None:
        if self.successor is not None:
            return {'error': 'another process is already taking over'}
        self.successor = connection
        note_reason(self.bus, f'`wspserve restart`, asked by {connection.client}')
        self.bus.exit()
        return None


def _readable(status: dict[str, Any]) -> dict[str, Any]:
    """Make an object of ``calling``, which is a channel, a listener and a time."""
    if status['calling'] is not None:
        channel, listener, since = status['calling']
        age = round(time.monotonic() - since, 3)  # all processes have the same clock
        status['calling'] = {'channel': channel, 'listener': listener, 'age': age}
    return status


def _with_backlog(status: dict[str, Any], server: Server | None) -> dict[str, Any]:
    """Add the connections that no process has accepted to the requests that wait.

    The processes of a site share the listening sockets: they are counted once.
    """
    from paste_wspbus.listening.backlog import length

    sockets = [] if server is None else list(server.sockets)
    waiting = [length(listening.sock) for listening in sockets]
    known = [number for number in (status['queued'], *waiting) if number is not None]
    status['queued'] = sum(known) if known else None
    return status


def _counts(bus: Bus) -> dict[str, int | None]:
    """Return how many requests were slow and overdue; None if nothing watches requests."""
    counts = getattr(bus.plugins.get('requests'), 'counts', None)
    if counts is None:
        return {'slow_requests': None, 'overdue_requests': None}
    return counts.describe()  # type: ignore[no-any-return]


def _lingering() -> list[str]:
    """Return the names of the threads that the end of the process waits for."""
    return [
        thread.name
        for thread in threading.enumerate()
        if thread is not threading.main_thread() and not thread.daemon
    ]

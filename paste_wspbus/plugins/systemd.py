"""The notifications to systemd: the site is ready, reloads, stops, needs time, or is alive."""

from __future__ import annotations

import functools
import os
import socket
import threading
import time
from queue import Empty, SimpleQueue

from paste_wspbus.bus import State
from paste_wspbus.plugins import Plugin, on
from paste_wspbus.values import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping
    from typing import Any

    from paste_wspbus.bus import Bus

FIRST, LAST = float('-inf'), float('inf')

#: Seconds that a datagram waits at most, if systemd does not read.
SEND_TIMEOUT = 5

#: The number of characters of a STATUS=: systemd drops messages of more than 4096 bytes.
LONGEST = 700

#: The variables that systemd sets for this process, and not for its children.
VARIABLES = ('NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID')


class SystemdNotifier(Plugin):
    """Notifies systemd with the protocol of sd_notify(3).

    Without NOTIFY_SOCKET in the environment it does nothing. Otherwise it sends:

    - READY=1 when the bus is STARTED;
    - RELOADING=1 before 'graceful' and at a restart in place, and READY=1 afterwards,
      whether that succeeded or not: STATUS= says it;
    - STATUS= every ``status_every`` seconds at most, if it has changed: where the site
      serves, what is in flight, whether workers crash again and again;
    - STOPPING=1 at 'drain' or 'stop', because for systemd a site that stops will end;
    - EXTEND_TIMEOUT_USEC during start and stop, within ``bus.start_timeout`` and
      ``bus.stop_timeout``; if the bus has no limit, the limit of systemd counts;
    - WATCHDOG=1 as long as the thread in ``block()`` answers. If a server blocks that
      thread, it only shows that the interpreter runs.

    While it is subscribed, the variables are not in the environment, so that no child
    of the site notifies systemd. At a restart in place they are put back.

    :param socket_path: a path, or an abstract address with ``@``; NOTIFY_SOCKET if None.
    :param watchdog_usec: microseconds; 0 turns the watchdog off. If None, it is
        WATCHDOG_USEC, unless WATCHDOG_PID names another process (sd_watchdog_enabled(3)).
    :param environ: holds the variables; os.environ if None.
    """

    #: Its own channels. It posts to them, so that the thread in block() publishes them.
    channels = ('systemd_ready', 'watchdog')
    #: Seconds between two requests for time, and the seconds that each one asks for.
    extend_every: float = 5
    extend_by: float = 15
    #: Seconds between two looks at what STATUS= says; it is sent again if it has changed.
    status_every: float = 5
    #: Whether READY=1 waits until the site has answered the requests of smoke.
    holds = False

    def __init__(
        self,
        bus: Bus,
        socket_path: str | None = None,
        watchdog_usec: int | None = None,
        environ: MutableMapping[str, str] | None = None,
    ) -> None:
        super().__init__(bus)
        # A supervisor has no threads: its bus repeats calls in its own loop.
        self._repeat = getattr(bus, 'repeat', functools.partial(_Repeat, bus))
        self._environ = os.environ if environ is None else environ
        if socket_path is None:
            socket_path = self._environ.get('NOTIFY_SOCKET', '')
        self.socket_path, self.watchdog_usec = socket_path, watchdog_usec
        self._taken: dict[str, str] | None = None
        self._transition: _Repeat | None = None
        self._watchdog: _Repeat | None = None
        self._looks: _Repeat | None = None
        #: The last STATUS= of `_standing`, and why the last reload failed. The site's code
        #: may have sent another one since: it stays until there is something new.
        self._said, self._failure = '', ''
        self._asked = self._complained = False
        self._served = self._reloading = self._leaving = self._tries = False
        self._until = self._reloads_since = 0.0

    def subscribe(self) -> None:
        """Plug in, if there is a socket of systemd."""
        if not self.socket_path or self._taken is not None:
            return
        if self.socket_path[0] not in '/@':
            self.bus.log(
                f'systemd is not notified: NOTIFY_SOCKET={self.socket_path} is neither '
                'a path nor an abstract address with @',
                level=30,
            )
            return
        if self.watchdog_usec is None:
            self.watchdog_usec = self._read_watchdog()
        self._taken = {
            name: self._environ.pop(name) for name in VARIABLES if name in self._environ
        }
        super().subscribe()
        if self.bus.state is State.STARTED:
            self.bus.post('systemd_ready')
        else:
            self.notify(STATUS='Loading the site')

    def unsubscribe(self) -> None:
        """Unplug: end the threads, and put the variables back into the environment."""
        super().unsubscribe()
        self._end_transition()
        self._end_repeats()
        self._environ.update(self._taken or {})
        self._taken = None

    def _read_watchdog(self) -> int:
        """Return WATCHDOG_USEC as sd_watchdog_enabled(3) does; 0 if it is for another process."""
        text = self._environ.get('WATCHDOG_USEC', '0')
        if self._environ.get('WATCHDOG_PID', str(os.getpid())) != str(os.getpid()):
            return 0
        if not (text.isascii() and text.isdigit()):
            self.bus.log(f'WATCHDOG_USEC={text} is not a number: no watchdog', 30)
            return 0
        return int(text)

    def notify(self, **variables: object) -> None:
        """Send one datagram of assignments: ``notify(STATUS='Warming the cache')``.

        Without systemd nothing happens. If the socket cannot be reached, that is logged
        once.

        :param variables: names and values, as in sd_notify(3).
        """
        if self._taken is None:
            return
        message = '\n'.join(
            f'{name}={" ".join(str(value).splitlines())}'
            for name, value in variables.items()
        )
        address = self.socket_path
        if address.startswith('@'):
            address = '\0' + address[1:]
        try:
            # A new socket each time, so that none has to be closed at exit or in a fork.
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(SEND_TIMEOUT)
                sock.sendto(message.encode('utf-8', 'replace'), address)
        except OSError as error:
            if not self._complained:
                self._complained = True
                reason = error.strerror or str(error)
                self.bus.log(
                    f'Cannot notify systemd at {self.socket_path}: {reason}', 30
                )

    # -- start ----------------------------------------------------------------

    @on('start', priority=FIRST)
    def starting(self) -> None:
        """Ask systemd for the time that the start may take."""
        self._served = self._leaving = False
        self._end_transition()
        # The bus of a supervisor has no start_timeout for the start of its processes.
        limit = getattr(self.bus, 'start_patience', self.bus.start_timeout)
        self._begin_transition(limit, lambda: 'Starting')

    @on('start', priority=LAST)
    def almost_started(self) -> None:
        """Queue READY=1, which is sent when the bus is STARTED, and not before."""
        self._end_transition()
        if self.holds:
            return
        if self._server_blocks():  # start() returns when the site stops
            self._ready()
        else:
            # It is queued after this start, and after a stop that was queued meanwhile.
            self.bus.post('systemd_ready')

    def _server_blocks(self) -> bool:
        return any(one.blocking for one in self.bus.channel('start').ordered)

    @on('systemd_ready')
    def started(self) -> None:
        """Send READY=1, unless the site has stopped already."""
        if self.bus.state is State.STARTED:
            self._ready()

    def _ready(self) -> None:
        self._served = True
        self._said = self._standing()
        self.notify(READY=1, MAINPID=os.getpid(), STATUS=self._said)
        if self._looks is None:
            self._looks = self._repeat('systemd status', self.status_every, self._look)
        if self.watchdog_usec and self._watchdog is None:
            self._asked = False
            self._watchdog = self._repeat(
                'systemd watchdog', self.watchdog_usec / 2e6, self._ask_main_loop
            )

    # -- what STATUS= says ------------------------------------------------------

    def _standing(self) -> str:
        """Return what STATUS= says while the site serves."""
        plugins = self.bus.plugins
        supervisor = plugins.get('supervisor')
        server = plugins.get('server') or getattr(supervisor, 'server', None)
        urls = getattr(server, 'urls', ())
        parts = [f'Serving on {", ".join(urls)}' if urls else 'Started']
        if supervisor is not None:
            parts += supervisor.in_brief()
        elif requests := len(plugins.get('requests', ())):
            parts.append(f'requests in flight: {requests}')
        if self._failure:
            parts.append(f'the last reload failed: {self._failure}')
        return printable('; '.join(parts))[:LONGEST]

    def _look(self) -> bool:
        """Send STATUS= again if it has changed; a supervisor asks its workers first."""
        supervisor = self.bus.plugins.get('supervisor')
        if supervisor is not None:
            supervisor.inquire(None, self._say)
        else:
            self._say()
        return True

    def _say(self) -> None:
        is_steady = self.bus.state is State.STARTED and self._transition is None
        standing = self._standing()
        if is_steady and self._looks is not None and standing != self._said:
            self._said = standing
            self.notify(STATUS=standing)

    # -- reload ---------------------------------------------------------------

    @on('graceful', priority=FIRST)
    def reloading(self) -> None:
        """Send RELOADING=1, which READY=1 follows."""
        # If a restart follows, the restart sends it.
        is_told = self.bus.execv or self.bus.restarting
        if hasattr(self.bus, 'supervisor'):  # a supervisor restarts only by this reload
            is_told = False
        if self.bus.state is State.STARTED and not is_told:
            self._reloading, self._failure = True, ''
            self._reloads_since = time.time()
            self._tell_reloading('Reloading')
            patience = getattr(self.bus, 'reload_patience', None)
            if patience is not None:
                self._begin_transition(patience, lambda: 'Reloading')

    @on('graceful', priority=LAST)
    def reloaded(self) -> None:
        """Send READY=1: the site serves, with the new code or with the old code."""
        if self._reloading:
            self._reloading = False
            self._end_transition()
            self._failure = self._failure or self._failed_listener()
            self._ready()

    def _failed_listener(self) -> str:
        """Return which listener of 'graceful' has failed; '' if none has."""
        for call in self.bus.timeline:
            is_ours = call.channel == 'graceful' and call.start >= self._reloads_since
            if is_ours and call.outcome != 'ok':
                return f"{call.name}, a listener of 'graceful'"
        return ''

    @on('reload_failed')
    def reload_has_failed(self, reason: str) -> None:
        """Note why a reload has failed; send the whole exchange if it was refused at once.

        systemd waits for RELOADING=1 and READY=1 after it has sent SIGHUP
        (Type=notify-reload, systemd.service(5)).
        """
        self._failure = reason
        if not (self._reloading or self._tries) and self.bus.state is State.STARTED:
            self._tell_reloading('Reloading')
            self._ready()

    def begin_trial(self, patience: float | None) -> None:
        """Send RELOADING=1: another process loads the new code before the site restarts.

        :param patience: seconds that this may take.
        """
        if self._taken is not None:
            self._end_transition()
            self._tries, self._failure = True, ''
            self._tell_reloading('Loading the new code')
            self._begin_transition(patience, lambda: 'Loading the new code')

    def end_trial(self, why: str) -> None:
        """Send READY=1: the new code has failed, and the old code keeps serving."""
        self._tries, self._failure = False, why
        if self._taken is not None and self.bus.state is State.STARTED:
            self._end_transition()
            self._ready()

    def _tell_reloading(self, status: str) -> None:
        # Type=notify-reload compares it with the time of its request (systemd.service(5)).
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self.notify(RELOADING=1, MONOTONIC_USEC=now, STATUS=status)

    # -- stop -----------------------------------------------------------------

    @on('drain', priority=FIRST)
    def draining(self) -> None:
        """Send STOPPING=1, and ask for the time that the stop may take."""
        self._leave(lambda: self._with_requests('Draining, still accepting'))

    @on('stop', priority=FIRST)
    def stopping(self) -> None:
        """Do the same as at 'drain', if 'drain' was not published."""
        self._leave(lambda: self._with_requests('Stopping'))

    @on('stop', priority=LAST)
    def stopped(self) -> None:
        """Stop asking for time until 'exit'."""
        self._end_transition()

    @on('exit', priority=FIRST)
    def exiting(self) -> None:
        """Ask for the time that remains of the stop."""
        self._leave(lambda: 'Exiting')

    @on('exit', priority=LAST)
    def exited(self) -> None:
        """Put the variables back for the new program, if this is a restart in place."""
        self._end_transition()
        if not self.bus.execv:
            self.notify(STATUS='Stopped' if self._served else 'The site did not start')
            return
        self._environ.update(self._taken or {})
        time_for_it = {}
        if self.bus.start_timeout:  # systemd's watchdog also runs during a reload
            time_for_it['EXTEND_TIMEOUT_USEC'] = _usec(self.bus.start_timeout)
        self.notify(STATUS='Restarting: the new program begins', **time_for_it)

    def _leave(self, status: Callable[[], str]) -> None:
        self._end_repeats()
        self._end_transition()
        if not self._leaving:
            self._leaving = True
            self._until = 0
            if not self.bus.execv:
                self.notify(STOPPING=1)
            elif not self._tries:  # else the trial has sent it
                # After STOPPING=1 systemd would kill the new program.
                self._tell_reloading('Restarting')
        limit = self.bus.stop_timeout
        if limit is not None and self._until > time.monotonic():
            # Drain, stop and exit have one limit.
            limit = self._until - time.monotonic()
        elif limit is not None:
            self._until = time.monotonic() + limit
        self._begin_transition(limit, status)

    def _with_requests(self, what: str) -> str:
        if self.bus.execv:
            what = f'Restarting: {what}'
        requests = len(self.bus.plugins.get('requests', ()))
        return f'{what}, requests in flight: {requests}' if requests else what

    # -- time -------------------------------------------------------------------

    def _begin_transition(self, limit: float | None, status: Callable[[], str]) -> None:
        """Ask for time again and again, within ``limit`` seconds; do not ask if it is None."""
        if limit is None:
            self.notify(STATUS=status())
            return
        until = time.monotonic() + limit

        def extend() -> bool:
            remaining = until - time.monotonic()
            if remaining > 0:
                self.notify(
                    STATUS=status(),
                    EXTEND_TIMEOUT_USEC=_usec(min(remaining, self.extend_by)),
                )
            return remaining > 0

        extend()
        self._transition = self._repeat('systemd timeout', self.extend_every, extend)

    def _end_transition(self) -> None:
        transition, self._transition = self._transition, None
        if transition is not None:
            transition.end()

    # -- watchdog -----------------------------------------------------------------

    def _ask_main_loop(self) -> bool:
        if self._server_blocks():
            # No thread is in block(): a post would run here, and would also run a stop
            # that is queued for the main thread.
            self.notify(WATCHDOG=1)
        elif not self._asked:
            self._asked = True  # only one post at a time, even if the thread hangs long
            self.bus.post('watchdog')
        return True

    @on('watchdog')
    def alive(self) -> None:
        """Send WATCHDOG=1: the thread in block() answers."""
        self._asked = False
        if self._watchdog is not None:
            self.notify(WATCHDOG=1)

    def _end_repeats(self) -> None:
        repeats = self._watchdog, self._looks
        self._watchdog = self._looks = None
        for repeat in repeats:
            if repeat is not None:
                repeat.end()


class _Repeat:
    """A thread that calls ``function`` every ``seconds``, until it returns False or `end`."""

    def __init__(
        self, bus: Bus, name: str, seconds: float, function: Callable[[], bool]
    ) -> None:
        # If threads are greenlets, the queue of the bus lets the others run.
        self._ended: Any = getattr(bus, 'queue_class', SimpleQueue)()
        self._seconds, self._function = seconds, function
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                self._ended.get(timeout=min(self._seconds, threading.TIMEOUT_MAX))
                return
            except Empty:
                if not self._function():
                    return

    def end(self) -> None:
        """End the thread; it does not call the function after this."""
        self._ended.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join(2 * SEND_TIMEOUT)


def _usec(seconds: float) -> int:
    return int(seconds * 1_000_000)

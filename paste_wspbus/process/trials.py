"""The trials of new code: another process loads it before the site restarts in place."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import NamedTuple

from paste_wspbus.bus import Bus, ChannelFailures
from paste_wspbus.bus.replacing import command_line
from paste_wspbus.control.stacks import describe_threads
from paste_wspbus.errors import RestartImpossible
from paste_wspbus.exits import FAILED
from paste_wspbus.inbox import Inbox
from paste_wspbus.plugins.log_files import path_of_log
from paste_wspbus.plugins.systemd import SystemdNotifier
from paste_wspbus.process.inheritance import TRIAL
from paste_wspbus.process.renewal import Renewal
from paste_wspbus.process.repairing import repair
from paste_wspbus.requests.written_stacks import StackFile
from paste_wspbus.streams import fill_numbers
from paste_wspbus.unix.processes import descendants, how

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from paste_wspbus.control.server import Connection
    from paste_wspbus.process.process import Process

#: Seconds that a process has to end after SIGTERM; then it is killed.
ENDING = 2.0

#: Seconds between two checks whether the process has ended, if the system has no
#: pidfd_open(2).
LOOK = 0.1

#: The environment variables that are for this process only, and not for the one that
#: tries the new code.
_OWN = ('NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID', 'LISTEN_PID', 'LISTEN_FDS')


class Failed(NamedTuple):
    """The new code cannot be loaded: the exit code, the line, and the traceback or ''."""

    code: int
    line: str
    trace: str = ''


class Untried(NamedTuple):
    """The new code cannot be tried beside the running site, and why."""

    why: str


class Cancelled(Exception):
    """The site stops, so the result of the trial does not matter."""


class Trials:
    """Restarts a site of one process in place, if another process can load its new code.

    If the new code fails, the old code keeps serving. If a restart is asked for during a
    trial, the code may have changed since: exactly one more trial follows.

    ``since`` is the time.monotonic() at which the present trial has begun; None if there
    is none.
    """

    def __init__(self, process: Process, bus: Bus) -> None:
        self.process, self.bus = process, bus
        self.since: float | None = None
        self._lock = threading.Lock()
        self._over = threading.Event()
        #: The clients that asked before the present trial, and those that ask during
        #: it.
        self._waiting: list[Connection] = []
        self._asking: list[Connection] = []
        self._again = self._is_cancelled = False
        self._loading: TrialProcess | None = None

    def ask(self, connection: Connection | None) -> None:
        """Try the new code and restart; return at once if another thread does that.

        :param connection: is answered when the restart begins, or the trial has failed.
        """
        with self._lock:
            self._asking += [connection] if connection is not None else []
            self._again = self.since is not None
            if self._again:
                return
            self.since, self._is_cancelled = time.monotonic(), False
            self._over.clear()
        try:
            repair(self.process, self.bus)
            self._run()
        except Cancelled:
            self._answer({'error': 'it has been asked to stop'})
        except RestartImpossible as error:
            self.bus.log(str(error), 40)
            self.bus.post('reload_failed', str(error))
            self._answer({'error': str(error)})
        except Exception as error:  # such as no free process
            self._has_failed(Failed(FAILED, f'{type(error).__name__}: {error}'))
        finally:
            self.since = None
            self._over.set()

    def cancel(self) -> None:
        """End the trial that runs, if there is one, because the site stops."""
        self._is_cancelled = True
        loading = self._loading
        if loading is not None:
            loading.cancel()

    def wait(self) -> None:
        """Wait until a cancelled trial has ended."""
        if self.since is not None:
            self._over.wait(2 * ENDING)

    def _run(self) -> None:
        bus = self.bus
        if bus.is_told_to_leave:
            raise Cancelled
        bus.check_restart()
        self.process.renewal, bus.asked_by = Renewal(bus.asked_by), None
        if isinstance(notifier := bus.plugins.get('systemd'), SystemdNotifier):
            notifier.begin_trial(bus.start_timeout)
        while True:
            with self._lock:
                self._waiting, self._asking = [*self._waiting, *self._asking], []
            outcome = self._outcome()
            if self._is_cancelled or bus.is_told_to_leave:
                raise Cancelled
            with self._lock:
                again, self._again = self._again, False
                if isinstance(outcome, Failed) and not again:
                    self.since = None  # a request from now on begins a new trial
            if isinstance(outcome, Failed):
                self._has_failed(outcome)
                if not again:
                    return
            elif not again:  # else the code may have changed since
                self._restart(outcome)
                return

    def _has_failed(self, failed: Failed) -> None:
        """Log why the old code keeps serving; answer those who asked before this trial."""
        bus, renewal = self.bus, self.process.renewal
        line = f'The new code fails, and the old code keeps serving: {failed.line}'
        with _tracebacks(bus):
            bus.log('\n'.join([line, failed.trace]).strip(), 40)
        if isinstance(notifier := bus.plugins.get('systemd'), SystemdNotifier):
            notifier.end_trial(failed.line)
        if renewal is not None:
            renewal.ends(None, failed.line)
        log = path_of_log(bus) if failed.trace else None
        answer = {'failed': failed.code, 'line': failed.line, 'log': log}
        self._answer({**answer, 'serves': 'the old code'})

    def _answer(self, answer: dict[str, object]) -> None:
        waiting, self._waiting = self._waiting, []
        for connection in waiting:
            connection.answer(answer)

    def describe(self) -> list[dict[str, Any]]:
        """Return the process that loads the new code, with its stack, for `stacks`."""
        loading = self._loading
        return [] if loading is None else [loading.describe()]

    def _restart(self, untried: Untried | None) -> None:
        bus = self.bus
        if untried is not None and untried.why:
            line = (
                'The new code cannot be tried beside the site that runs, which restarts'
            )
            bus.log(f'{line} without a trial: {untried.why}', 30)
        self._answer({'restarting': True})  # before another program runs here
        bus.restarting = True
        with contextlib.suppress(ChannelFailures):  # the log has each error
            bus.graceful()  # tell the listeners before anything stops
        bus.restart()

    # -- one trial --------------------------------------------------------------

    def _outcome(self) -> Failed | Untried | None:
        """Let another process load the new code; return None if it has succeeded."""
        process = self.process
        is_auto = process.config.settings['trial'] == 'auto'
        if is_auto and (file := _file_storage()):
            return Untried(f'this process holds the lock of {file} (ZODB, FileStorage)')
        stack_file = StackFile()
        try:
            self._loading = loading = TrialProcess(
                process, self.bus.start_timeout, stack_file=stack_file
            )
            if self._is_cancelled:
                loading.cancel()
            return loading.outcome()
        finally:
            self._loading = None
            stack_file.close()


class TrialProcess:
    """Another process, a fresh interpreter, that loads the new code of ``process`` and ends.

    It runs the command line of this process, in a process group of its own.

    :param limit: the seconds that this may take; None stands for no limit.
    :param logs: whether that process logs why it fails, because nobody else can.
    :param stack_file: where it writes at which line its load is.
    """

    def __init__(
        self,
        process: Process,
        limit: float | None,
        *,
        logs: bool = False,
        stack_file: StackFile | None = None,
    ) -> None:
        self._limit, self._began = limit, time.monotonic()
        self._stack_file = stack_file
        fill_numbers()  # the site may have closed them
        self._ours, theirs = socket.socketpair()
        options, log_file = process.options, process.log_file
        order: dict[str, Any] = {
            'fd': theirs.fileno(),
            'parent': os.getpid(),
            'log_file': log_file,
        }
        order |= {'user': options.user, 'group': options.group}
        order |= {'began': self._began, 'limit': limit, 'logs': logs}
        stacks = -1 if stack_file is None else stack_file.fd
        order |= {'stacks': stacks}
        environ = {name: os.environ[name] for name in os.environ if name not in _OWN}
        environ |= {'PWD': process.folder, TRIAL: json.dumps(order)}
        try:
            self.child = subprocess.Popen(
                command_line(process.folder, Bus.startup_folder),
                cwd=process.folder,
                env=environ,
                stdin=subprocess.DEVNULL,
                pass_fds=[fd for fd in (theirs.fileno(), stacks) if fd != -1],
                process_group=0,
            )
        except BaseException:
            self._ours.close()
            raise
        finally:
            theirs.close()
        self._messages: list[dict[str, Any]] = []
        self._inbox: Inbox | None = Inbox(self._ours.fileno())
        self._poll = select.poll()  # select(2) knows only descriptors below 1024
        self._poll.register(self._ours, select.POLLIN)
        self._pidfd = -1
        with contextlib.suppress(AttributeError, OSError):
            self._pidfd = os.pidfd_open(self.child.pid)
            self._poll.register(self._pidfd, select.POLLIN)

    def describe(self) -> dict[str, Any]:
        """Return the process and the stack of its main thread: see `control.stacks`."""
        pid = self.child.pid
        frames = self._stack_file.frames(pid) if self._stack_file is not None else []
        return {
            'name': 'the new code',
            'pid': pid,
            'generation': None,
            'state': 'starting',
            'problem': None,
            'threads': describe_threads({pid: frames} if frames else {}, ()),
        }

    def cancel(self) -> None:
        """End it soon; another thread, and a signal handler, may call this."""
        self.child.terminate()

    def outcome(self) -> Failed | Untried | None:
        """Wait for its end, and return how it went; None if it has loaded the code."""
        try:
            in_time = self._wait(self._limit)
            if not in_time and not self._messages:
                self.cancel()
                self._wait(ENDING)
        finally:
            self._end()
        for message in self._messages:
            if (word := next(iter(message))) in _OUTCOMES:
                return _OUTCOMES[word](message)
        if not in_time:
            return Failed(FAILED, too_slow(self._limit))
        code = self.child.returncode
        line = (
            f'the process that loaded it ended before the site was loaded, {how(code)}'
        )
        return Failed(FAILED, line)

    def _wait(self, seconds: float | None) -> bool:
        """Read its reports until it ends; return False if the time is over."""
        until = None if seconds is None else time.monotonic() + seconds
        while True:
            remaining = None if until is None else until - time.monotonic()
            if remaining is not None and remaining <= 0:
                return False
            if self._pidfd == -1:  # only a check finds its end
                remaining = min(LOOK, LOOK if remaining is None else remaining)
            ready = dict(
                self._poll.poll(None if remaining is None else remaining * 1000)
            )
            if self._ours.fileno() in ready:
                self._read()
            has_ended = self._pidfd in ready
            if self._pidfd == -1:
                has_ended = self.child.poll() is not None
            if has_ended:
                self._ours.setblocking(False)
                while self._inbox is not None:
                    self._read()
                return True

    def _read(self) -> None:
        assert self._inbox is not None
        try:
            came = self._inbox.read()
        except (OSError, ValueError):
            # The output has ended; or the site itself writes there.
            came = None
        if came is None:
            self._inbox = None
            self._poll.unregister(self._ours)
        else:
            self._messages += filter(None, came)

    def _end(self) -> None:
        """Kill what the site has started in it; reap it."""
        # A trial that ends by itself has killed the sessions that the site has made.
        below = descendants(self.child.pid) if self.child.poll() is None else []
        for pid in below:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()
        self._ours.close()
        if self._pidfd != -1:
            os.close(self._pidfd)


@contextlib.contextmanager
def _tracebacks(bus: Bus) -> Iterator[None]:
    """Let the log have tracebacks in the block; it has none with a server in the main thread."""
    sitelog: Any = bus.plugins.get('sitelog')
    before = getattr(sitelog, 'tracebacks', True)
    try:
        if not before:
            sitelog.tracebacks = True
        yield
    finally:
        if not before:
            sitelog.tracebacks = False


def too_slow(limit: float | None) -> str:
    """Return the line for code that takes too long; ``limit`` is in seconds."""
    return f'it was not loaded within {limit or 0:g} s'


#: From each report of the process to how the trial has ended; None stands for a success.
_OUTCOMES: dict[str, Callable[[dict[str, Any]], Failed | Untried | None]] = {
    'composed': lambda message: None,
    'untried': lambda message: Untried(message['untried']),
    'failed': lambda message: Failed(
        message['failed'], message['line'], message['traceback']
    ),
}


def _file_storage() -> str | None:
    """Return the file of a ZODB FileStorage that this process has open and locked."""
    if 'ZODB.FileStorage.FileStorage' not in sys.modules:
        return None
    names = set()
    with contextlib.suppress(OSError):
        for fd in os.listdir('/proc/self/fd'):
            with contextlib.suppress(OSError):
                names.add(os.readlink(f'/proc/self/fd/{fd}'))
    held = {name.removesuffix('.lock') for name in names if name.endswith('.lock')}
    for name in sorted(held & names):
        with contextlib.suppress(OSError), open(name, 'rb') as file:
            if file.read(2) == b'FS':  # the PID file of the site has a lock, too
                return name
    return None

"""The process that tries new code: it loads the site, reports how that went, and ends."""

from __future__ import annotations

import _thread
import atexit
import contextlib
import errno
import functools
import io
import json
import linecache
import logging
import os
import signal
import socket
import stat
import sys
import time
import traceback
from logging.handlers import BaseRotatingHandler

from paste_wspbus.command.leaving import end_at_once
from paste_wspbus.command.single import Single
from paste_wspbus.command.terminal import one_line
from paste_wspbus.control.status import followed
from paste_wspbus.errorpage.problem import trace_of
from paste_wspbus.errors import WSPBusError, shortage
from paste_wspbus.exits import DONE, FAILED, TERMINATED
from paste_wspbus.ini.config import Terminated
from paste_wspbus.ini.factories import at_place
from paste_wspbus.ini.file import wait_for_no_pipe
from paste_wspbus.ini.listed import check_cluster_plugins
from paste_wspbus.ini.masking import without_secrets
from paste_wspbus.plugins.log_files import log_to_files
from paste_wspbus.process.inheritance import TRIAL
from paste_wspbus.process.trials import too_slow
from paste_wspbus.report import Report
from paste_wspbus.requests import written_stacks
from paste_wspbus.unix.peers import peer_of
from paste_wspbus.unix.processes import adopt_orphans, descendants, state_of
from paste_wspbus.unix.users import Identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from paste_wspbus.bus import Bus
    from paste_wspbus.process.launch import Launch
    from paste_wspbus.process.process import Process

#: Seconds that this process has to clean up when the site is gone.
ENDING = 1.0

#: The number of attempts to kill all that was started here, and the seconds between them.
ROUNDS, PAUSE = 20, 0.01

#: The end of a line that says why the new code was not loaded, with trial = true.
HINT = 'with trial = auto in [wspbus:main] the site restarts without a trial'


class Trial(Single):
    """Loads the site of ``process``, which has opened nothing: no file, socket or PID file."""

    def plug_in(self, bus: Bus) -> None:
        """Let the code of the site know that nothing will start."""
        bus.trial = True

    def run(self) -> int:
        """Load the site.

        :returns: 0.
        :raises WSPBusError: if it cannot be loaded.
        """
        process, config = self.process, self.process.config
        process.server = process.known_server(config)
        config.check_workers(process.workers, process.server)
        name = process.options.server_name
        check_cluster_plugins(config, process.workers, process.server, name)
        _only_append()
        self.compose()
        return DONE


def try_to_load(launch: Launch, make: Callable[[], Process]) -> None:
    """Load the site, report, and end this process, if it was started for that.

    :param make: reads the .ini.
    """
    order = _order()
    if order is None:
        return
    connection = socket.socket(fileno=order['fd'])
    if order.get('stacks', -1) != -1:
        written_stacks.register(order['stacks'])
    report = launch.report = Report(os.dup(connection.fileno()), lasting=True)
    launch.later, pid = True, os.getpid()
    wait_for_no_pipe()  # the site waits for this process
    if (order['user'], order['group']) != (None, None):
        launch.options.identity = Identity(order['user'], order['group'])
    _end_with_all_children()
    _leave_with_the_site(launch, connection)
    failed: BaseException | None = None
    setting: object = None
    try:
        process = make()
        launch.mask = functools.partial(without_secrets, config=process.config)
        _use_log(process, order['log_file'])
        setting = process.config.settings['trial']
        if setting is False:
            report.untried('')
            end_at_once(DONE)
        with launch.early.raising():
            Trial(launch, process).run()
    except BaseException as error:
        failed = error
    if os.getpid() != pid:  # a factory has forked, and this is the child
        os._exit(FAILED)
    if failed is None:
        report.composed()
    else:
        _tell(launch, failed, order, is_auto=setting == 'auto')
    end_at_once(DONE if failed is None else FAILED)


def _order() -> dict[str, Any] | None:
    """Return what the site has ordered; None if it has not started this process.

    If the site has ended meanwhile, this process ends: it must not serve in its place.
    """
    text = os.environ.pop(TRIAL, '')
    try:
        order = json.loads(text)
        fd, parent = order['fd'], order['parent']
        if type(fd) is not int or not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return None
        if parent == os.getppid():
            return order  # type: ignore[no-any-return]
        with socket.socket(fileno=os.dup(fd)) as sock:
            peer = peer_of(sock)  # the site has made the pair, and may have ended since
        if peer is not None and peer[0] == parent:
            end_at_once(TERMINATED)
    except (ValueError, LookupError, TypeError, OSError):
        pass
    return None


def _end_with_all_children() -> None:
    """At the end of this process, kill what the site has started in it, also daemons.

    A process that leads a session of its own is not in the process group that the site
    kills.
    """
    if not adopt_orphans():
        return
    pid = os.getpid()

    def kill_all() -> None:
        for _ in range(ROUNDS if os.getpid() == pid else 0):
            found = [one for one in descendants(pid) if state_of(one) not in ('Z', '')]
            for one in found:
                with contextlib.suppress(OSError):
                    os.kill(one, signal.SIGKILL)
            if not found:
                return
            time.sleep(PAUSE)  # one of them may have forked meanwhile

    atexit.register(kill_all)  # the first one is called last


def _use_log(process: Process, log_file: str | None) -> None:
    """Write to the log of the site, to which the standard streams lead already."""
    process.log_file = process.launch.log = log_file
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)


def _only_append() -> None:
    """Let the handlers of logging neither empty nor rotate a file: the site writes there.

    A handler that empties its file also overwrites what others append to it. So its lines
    go to standard error.
    """
    open_file = logging.FileHandler._open

    def open_to_append(handler: logging.FileHandler) -> Any:
        if 'a' in handler.mode:
            return open_file(handler)
        return open(2, 'w', encoding=handler.encoding, closefd=False)

    logging.FileHandler._open = open_to_append  # type: ignore[assignment,method-assign]
    BaseRotatingHandler.emit = logging.FileHandler.emit  # type: ignore[method-assign]


def _leave_with_the_site(launch: Launch, connection: socket.socket) -> None:
    """End this process when the site has ended."""
    from paste_wspbus.workers.orders import watch_for_the_end

    def leave() -> None:
        time.sleep(ENDING)
        os._exit(TERMINATED)

    def lose_the_site() -> None:
        _thread.start_new_thread(leave, ())
        launch.early.ask(signal.SIGTERM)

    watch_for_the_end(connection, lose_the_site)


# -- what has failed ------------------------------------------------------------------


def _tell(
    launch: Launch, error: BaseException, order: dict[str, Any], is_auto: bool
) -> None:
    """Report why the site was not loaded."""
    if isinstance(error, (Terminated, KeyboardInterrupt)):
        limit, seconds = order['limit'], time.monotonic() - order['began']
        is_late = limit is not None and seconds >= limit
        line = (
            too_slow(limit) if is_late else 'a signal ended the process that loaded it'
        )
        _fail(launch, order, FAILED, f'{line}{at_place(error)}', trace_of(error)[0])
        return
    if not isinstance(error, WSPBusError):
        lack = shortage(error) if isinstance(error, Exception) else None
        text = ''.join(traceback.format_exception_only(error)).strip()
        line = str(lack) if lack is not None else f'{text}{at_place(error)}'
        _fail(launch, order, FAILED, line, trace_of(error)[0])
        return
    line, is_held = one_line(error), any(map(_is_held, _chain(error)))
    if is_held and is_auto:
        launch.report.untried(line)
    else:
        _fail(
            launch,
            order,
            error.exit_code,
            followed(line, HINT) if is_held else line,
            trace_of(error)[0],
        )


def _fail(
    launch: Launch, order: dict[str, Any], code: int, line: str, trace: str
) -> None:
    """Report a failure; for `restart`, log it: the site that runs does not learn of it."""
    if order.get('logs'):
        text = f'The new code fails, and the old site was not stopped: {line}\n{trace}'
        log_to_files(text.rstrip('\n'))
    launch.report.failed(code, launch.mask(line), trace)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that have led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _is_held(error: BaseException) -> bool:
    """Whether an error means that only one process can have a lock or an address."""
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return True
    kind = type(error)
    if (kind.__module__.partition('.')[0], kind.__name__) == ('zc', 'LockError'):
        return True
    if not isinstance(error, BlockingIOError):
        return False
    # fcntl.flock and fcntl.lockf raise it; a socket raises it, too.
    place = [*traceback.walk_tb(error.__traceback__)][-1:]
    lines = [linecache.getline(frame.f_code.co_filename, at) for frame, at in place]
    return any('flock(' in line or 'lockf(' in line for line in lines)

"""The fork of a daemon: what it keeps open, and what the launching process does meanwhile."""

from __future__ import annotations

import functools
import os

from paste_wspbus.errors import UsageError
from paste_wspbus.requests.written_stacks import StackFile
from paste_wspbus.unix.daemonizing import daemonize as fork_daemon
from paste_wspbus.unix.daemonizing import wait_for_start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from paste_wspbus.ini.config import Config
    from paste_wspbus.process.launch import Launch


#: Seconds that a supervisor has to say where its workers are.
ANSWER = 1.5


def daemonize(launch: Launch, keep: Iterable[int], config: Config) -> None:
    """Become a daemon; the process that calls this waits for the start, and exits.

    The daemon closes the descriptors that it inherits, except sockets that are passed
    to it.

    :param keep: other descriptors that the daemon needs.
    :param config: its key ``daemonizer`` may name another function than ours.
    :raises UsageError: in process 1.
    :raises ThreadsAlive: if threads run.
    """
    if os.getpid() == 1:
        raise UsageError(
            'process 1 cannot become a daemon: all other processes would end with it; '
            'leave out start and --daemon'
        )

    def clean_up(failed: bool) -> None:
        if failed:  # the daemon may have another user, who cannot remove the files
            from paste_wspbus.control.stop import clean_up
            from paste_wspbus.unix.pid_lock import PIDLock

            clean_up(PIDLock(str(launch.options.pid_file), launch.options.control))
        launch.end_turn()

    passed, log = _activated(), os.path.abspath(str(launch.options.log_file))
    become = fork_daemon
    if 'daemonizer' in config.settings['defaults']:
        from paste_wspbus.ini.defaults import daemonizer

        become = daemonizer(config, fork_daemon)
    where = None
    if launch.options.verbosity > 0:
        launch.stack_file = StackFile()
        keep = [*keep, launch.stack_file.fd]
        where = functools.partial(_where, launch, launch.stack_file)
    launch.report = become(
        lambda inbox, child: wait_for_start(inbox, child, clean_up, log, where),
        {*keep, *passed, *_named(launch.options.listen)},
    )
    launch.turn = None  # the launching process has it
    if passed:  # systemd has set the ID of the launching process
        os.environ['LISTEN_PID'] = str(os.getpid())


def _where(launch: Launch, stack_file: StackFile, pid: int) -> str:
    """Return the line where the start of the site is, or ''.

    A process that loads the site itself is asked by a signal. A supervisor, and a process
    that has loaded the site, answer at the control socket.
    """
    if place := stack_file.of(pid):
        return place
    from paste_wspbus.control.client import NoAnswer, ask
    from paste_wspbus.control.stacks import where_it_starts
    from paste_wspbus.unix.pid_lock import PIDLock

    lock = PIDLock(str(launch.options.pid_file), launch.options.control)
    try:
        return where_it_starts(ask(lock.control, 'stacks', ANSWER))
    except NoAnswer:
        return ''


def _activated() -> Iterable[int]:
    """Return the descriptors that systemd passes to this process, sd_listen_fds(3)."""
    count = os.environ.get('LISTEN_FDS', '')
    is_ours = os.environ.get('LISTEN_PID') == str(os.getpid())
    # If it is not a number, `listening.activation` reports that later.
    is_number = count.isascii() and count.isdecimal() and len(count) < 5
    return range(3, 3 + int(count)) if is_ours and is_number else ()


def _named(listen: list[str] | None) -> Iterable[int]:
    """Return the descriptors that ``--listen fd://N`` names."""
    for address in listen or ():
        number = address.removeprefix('fd://')
        is_number = number.isascii() and number.isdecimal() and len(number) < 10
        if is_number and number != address:
            yield int(number)

"""The state of one run of the command, beside its command line."""

from __future__ import annotations

import contextlib
import os

from paste_wspbus.errors import UsageError
from paste_wspbus.report import Report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from paste_wspbus.process.early_signals import EarlySignals
    from paste_wspbus.process.options import Options
    from paste_wspbus.process.turns import Turn
    from paste_wspbus.watching.files import Files


class Launch:
    """One run of the command, from its command line to its exit code.

    :param options: the command line.
    :param early: the signals that come before the site can handle them.
    """

    def __init__(self, options: Options, early: EarlySignals) -> None:
        self.options, self.early = options, early
        #: Reports the result of the start to the process that waits for it.
        self.report = Report()
        #: The turn of `start` and `restart`, until the site is started.
        self.turn: Turn | None = None
        #: A copy of the stderr that --log-file has replaced.
        self.terminal: int | None = None
        #: A copy of the stderr of `restart`, until the old site has stopped: people wait for
        #: that, and the log file has replaced it.
        self.stderr: int | None = None
        #: The path of the log file, if stderr is that file now.
        self.log: str | None = None
        #: The PID file and the log file ('' for none) of the site that runs, if the
        #: command line names none.
        self.found_files: list[str] | None = None
        #: Whether a running site has stopped for this one.
        self.took_over = False
        #: Whether the site was started before: then people look for errors in its log.
        self.later = False
        #: What --reload watches from the beginning: files, and the paths that the .ini names.
        #: It does not watch what the globs in ignore_files of [pserve] match.
        self.files: Files | None = None
        self.watch: Sequence[str] = ()
        self.ignore: Sequence[str] = ()
        #: Why --reload polls the files; '' if it does not.
        self.poll = ''

    @contextlib.contextmanager
    def talking(self) -> Generator[None]:
        """Print to the stderr of the command inside the block, also if there is a log file."""
        own, self.stderr = self.stderr, None
        if own is None:
            yield
            return
        log = os.dup(2)
        try:
            os.dup2(own, 2)
            yield
        finally:
            os.dup2(log, 2)
            os.close(log)
            os.close(own)

    @property
    def changes_user(self) -> bool:
        """Whether this process is root and may change its user before it imports the site."""
        options = self.options
        is_root = hasattr(os, 'geteuid') and os.geteuid() == 0
        # A restart without --user keeps the user of the site.
        return is_root and (options.identity is not None or options.replaces)

    @property
    def is_printed_elsewhere(self) -> bool:
        """Whether another process prints the report.

        It is the process that has launched the daemon, or the supervisor.
        """
        if self.report.fd is None:
            return False
        return self.report.lasting or (self.options.daemon and not self.log)

    def fail(self, code: int, line: str = '') -> int:
        """Report to the process that waits for the start that the start has failed.

        :returns: ``code``, the exit code.
        """
        self.report.failed(code, line)
        return code

    def take_turn(self, patience: float) -> None:
        """Wait until no other command starts or restarts the site.

        `start` does not wait here: it prints that the site runs, or waits for its start.

        :param patience: seconds that another command may take.
        :raises OtherCommand: if it takes longer.
        """
        from paste_wspbus.process.turns import Turn

        self.turn = Turn(str(self.options.pid_file))
        if self.options.replaces:
            self.turn.wait(patience)
        else:
            self.turn.take()

    def end_turn(self) -> None:
        """Let the next command start or restart the site."""
        turn, self.turn = self.turn, None
        if turn is not None:
            turn.end()

    def daemonize(self, keep: Iterable[int] = ()) -> None:
        """Become a daemon; the process that calls this waits for the start, and exits.

        The daemon closes the descriptors that it inherits, except sockets that are passed
        to it.

        :param keep: other descriptors that the daemon needs.
        :raises UsageError: in process 1.
        :raises ThreadsAlive: if threads run.
        """
        from paste_wspbus.unix.daemonizing import daemonize, wait_for_start

        if os.getpid() == 1:
            raise UsageError(
                'process 1 cannot become a daemon: all other processes would end with it; '
                'leave out start and --daemon'
            )

        def clean_up(failed: bool) -> None:
            if failed:  # the daemon may have another user, who cannot remove the files
                from paste_wspbus.control.stop import clean_up
                from paste_wspbus.unix.pid_lock import PIDLock

                clean_up(PIDLock(str(self.options.pid_file), self.options.control))
            self.end_turn()

        passed = _activated()
        self.report = daemonize(
            lambda inbox, child: wait_for_start(inbox, child, clean_up),
            {*keep, *passed, *_named(self.options.listen)},
        )
        self.turn = None  # the launching process has it
        if passed:  # systemd has set the ID of the launching process
            os.environ['LISTEN_PID'] = str(os.getpid())


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

"""The state of one run of the command, beside its command line."""

from __future__ import annotations

import contextlib
import os

from paste_wspbus.report import Report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from paste_wspbus.ini.config import Config
    from paste_wspbus.process.early_signals import EarlySignals
    from paste_wspbus.process.options import Options
    from paste_wspbus.process.turns import Turn
    from paste_wspbus.requests.written_stacks import StackFile
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
        #: Masks secrets in what `fail` reports.
        self.mask: Callable[[str], str] = str
        #: The turn of `start` and `restart`, until the site is started.
        self.turn: Turn | None = None
        #: A copy of the stderr that --log-file has replaced.
        self.terminal: int | None = None
        #: A copy of the stderr of `restart`, until the old site has stopped: people wait for
        #: that, and the log file has replaced it.
        self.stderr: int | None = None
        #: Where a daemon writes at which line its load is; None if nobody waits.
        self.stack_file: StackFile | None = None
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

    @property
    def is_supervised(self) -> bool:
        """Whether a supervisor reads the report of this process."""
        return self.report.lasting and self.report.fd is not None

    def fail(self, code: int, line: str = '', trace: str = '') -> int:
        """Report to the process that waits for the start that the start has failed.

        :param trace: the traceback, for a supervisor; a launcher has no use for it.
        :returns: ``code``, the exit code.
        """
        told = trace if self.report.lasting else ''
        self.report.failed(code, self.mask(line), told)
        return code

    def loads(self, pid: int | None = None) -> None:
        """Report which process loads the site now.

        :param pid: 0 for none; None for this one, which writes where it is from now on.
        """
        if self.stack_file is None or self.report.lasting:
            return
        if pid is None:
            self.stack_file.begin()
        self.report.loading(os.getpid() if pid is None else pid)

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

    def daemonize(self, keep: Iterable[int], config: Config) -> None:
        """Become a daemon; see `process.daemon.daemonize`."""
        from paste_wspbus.process.daemon import daemonize

        daemonize(self, keep, config)

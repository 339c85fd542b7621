"""How a process reports to whoever waits for it: a launcher, a supervisor.

The words are in `wire`.
"""

from __future__ import annotations

import contextlib
import os
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any


class Report:
    """The end that reports: messages, each a line of JSON, in a pipe or socket.

    It is silent where nobody waits (``fd`` None), and when the reader is gone.
    """

    def __init__(self, fd: int | None = None, *, lasting: bool = False) -> None:
        self.fd = fd
        self._sending = threading.RLock()  # a signal handler may say something, too
        #: Whether there is more to say after the start.
        self.lasting = lasting
        #: Whether the outcome of the start has been reported.
        self.outcome_sent = False
        if fd is not None:
            from paste_wspbus.forks import close_in_child  # most starts report nothing
            from paste_wspbus.wire import report_word

            self._word = report_word
            os.set_inheritable(fd, False)
            # A forked child must not keep the pipe open: the reader knows by its
            # end that this process has ended.
            close_in_child(self, Report.close)

    def pid(self) -> None:
        """Say which process it is that starts."""
        self._say('pid', os.getpid())

    def ready(self, lines: Iterable[str] = ()) -> None:
        """Say that the site is STARTED; ``lines`` are for the terminal."""
        if not self.outcome_sent:
            self.outcome_sent = True
            self._say('ready', list(lines))
            if not self.lasting:
                self.close()

    def composed(self) -> None:
        """Say that this process waits for the order to go on."""
        self._say('composed', True)

    def status(self, status: dict[str, Any]) -> None:
        """Say what this process does."""
        self._say('status', status)

    def forked(self, token: int, pid: int) -> None:
        """Say which process was forked for an order."""
        self._say('forked', token, pid)

    def ended(self, token: int, code: int | None) -> None:
        """Say that it has ended.

        :param code: os.waitstatus_to_exitcode's number; None: nobody knows.
        """
        self._say('ended', token, code)

    def learnt(self, news: list[Any], modules: list[str]) -> None:
        """Say what the site is made of.

        :param news: what `watching.files.Files.news` returns.
        :param modules: the modules that the site did not bring.
        """
        self._say('learnt', news, modules)

    def imported(self, name: str = '', why: str = '') -> None:
        """Say that modules are imported, or which one has spoiled this process."""
        self._say('imported', name, why)

    def leave(self) -> None:
        """Say that the site asks to stop."""
        self._say('leave', True)

    def succeed(self) -> None:
        """Say that this process asks for a successor."""
        self._say('succeed', True)

    def renew(self) -> None:
        """Say that the site asks to be restarted as a whole."""
        self._say('renew', True)

    def restarts(self, style: str) -> None:
        """Say that the site has stopped, to be restarted.

        :param style: 'child' or 'fork'; 'execv': this process replaces itself.
        """
        self._say('restarts', style)

    def cut(self, streams: int, others: int) -> None:
        """Say how many streams and other requests the stop of this process has cut."""
        self._say('cut', streams, others)

    def exits(self, code: int) -> None:
        """Say that the process is about to end."""
        self._say('exits', code)

    def failed(
        self,
        code: int,
        line: str = '',
        trace: str = '',
        file: str | None = None,
        problem: str = '',
    ) -> None:
        """Say that the start failed.

        :param code: the exit code.
        :param line: the line to print.
        :param trace: the traceback, and ``file`` the one in which it ends.
        :param problem: what `errorpage.problem.problem_of` returns, to be shown.
        """
        if not self.outcome_sent:
            self.outcome_sent = True
            self._say('failed', code, line, trace, file, problem)

    def _say(self, word: str, *carried: object) -> None:
        if self.fd is None:
            return
        import json  # only where somebody waits

        known = self._word(word)
        message = dict(zip(known.carries or (word,), carried, strict=True))
        rest = memoryview(json.dumps(message).encode() + b'\n')
        with contextlib.suppress(OSError), self._sending:
            while rest:
                rest = rest[os.write(self.fd, rest) :]

    def close(self) -> None:
        """End the connection: nothing more will be said."""
        fd, self.fd = self.fd, None
        if fd is not None:
            os.close(fd)


#: The most bytes that are read at once: a process that floods its supervisor with
#: reports must leave it time for others.
READ = 8192


class Inbox:
    """The reading end of a `Report`, which may be sent anything."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._buffer = bytearray()

    def read(self) -> list[dict[str, Any]] | None:
        """Read once: the messages that are complete now; None at the end.

        :raises NoReport: (a ValueError) if what came is no report, or too long.
        """
        from paste_wspbus.wire import MAX_REPORT, NoReport, read_report

        came = os.read(self.fd, READ)
        if not came:
            return None
        searched = len(self._buffer)
        self._buffer += came
        end = self._buffer.rfind(b'\n', searched)
        if end < 0:
            if len(self._buffer) > MAX_REPORT:
                self._buffer.clear()
                raise NoReport(f'a line of more than {MAX_REPORT} bytes')
            return []
        lines = bytes(self._buffer[:end]).split(b'\n')
        del self._buffer[: end + 1]
        return [message for line in lines if (message := read_report(line))]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """All messages, until the end."""
        while (messages := self.read()) is not None:
            yield from messages

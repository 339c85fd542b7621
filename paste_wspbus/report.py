"""How a process reports to the process that waits for it: a launcher, or a supervisor.

`wire` has the table of the reports.
"""

from __future__ import annotations

import os
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


class Report:
    """The end that reports: it sends messages, each a line of JSON, into a pipe or socket.

    It sends nothing if no process waits (``fd`` is None), or if the reader has ended.
    """

    def __init__(self, fd: int | None = None, *, lasting: bool = False) -> None:
        self.fd = fd
        self._sending = threading.RLock()  # a signal handler may report, too
        #: What is not sent yet: the rest of a line, and lines. If a handler reports in the
        #: middle of a line, its own line follows that one.
        self._rest = memoryview(b'')
        self._lines: list[bytes] = []
        self._is_sending = False
        #: Whether the process also reports after the start.
        self.lasting = lasting
        #: Whether the outcome of the start has been reported.
        self.outcome_sent = False
        if fd is not None:
            from paste_wspbus.forks import close_in_child  # most starts report nothing
            from paste_wspbus.wire import report_word

            self._word = report_word
            os.set_inheritable(fd, False)
            # A forked child must not keep the pipe open: when it closes, the reader
            # knows that this process has ended.
            close_in_child(self, Report.close)

    def pid(self) -> None:
        """Report the ID of the process that starts."""
        self._say('pid', os.getpid())

    def ready(self, lines: Iterable[str] = ()) -> None:
        """Report that the site is STARTED; ``lines`` are for the terminal."""
        if not self.outcome_sent:
            self.outcome_sent = True
            self._say('ready', list(lines))
            if not self.lasting:
                self.close()

    def composed(self) -> None:
        """Report that this process waits for the order to continue."""
        self._say('composed', True)

    def untried(self, why: str) -> None:
        """Report that the site cannot be loaded beside the one that runs.

        :param why: the reason; '' if there is nothing to say of it.
        """
        self._say('untried', why)

    def status(self, status: dict[str, Any]) -> None:
        """Report the status of this process."""
        self._say('status', status)

    def timeline(self, calls: list[Any], left_out: int, ends: bool) -> None:
        """Report the calls of this process: see `control.timeline.describe_calls`.

        :param ends: whether the process is about to end.
        """
        self._say('timeline', calls, left_out, ends)

    def examined(self, number: int, waits: str) -> None:
        """Report what a request waits for: see `requests.examining`."""
        self._say('examined', number, waits)

    def forked(self, token: int, pid: int) -> None:
        """Report the ID of the process that was forked for an order."""
        self._say('forked', token, pid)

    def ended(self, token: int, code: int | None, dumped: bool = False) -> None:
        """Report that the process that was forked for an order has ended.

        :param code: the number of os.waitstatus_to_exitcode; None if it is not known.
        :param dumped: whether it has dumped core.
        """
        self._say('ended', token, code, dumped)

    def learnt(self, news: list[Any], modules: list[str]) -> None:
        """Report the files and modules of the site.

        :param news: the result of `watching.files.Files.news`.
        :param modules: the modules of installed packages.
        """
        self._say('learnt', news, modules)

    def imported(self, name: str = '', why: str = '') -> None:
        """Report that modules are imported, or which module makes a fork unsafe, and why."""
        self._say('imported', name, why)

    def loads(self, place: str) -> None:
        """Report the line where the load of the site is.

        A signal handler calls this: it reports nothing in the middle of another report.
        """
        if not self._sending._is_owned():  # type: ignore[attr-defined]
            self._say('loads', place)

    def health(self, checks: list[dict[str, Any]]) -> None:
        """Report the health checks of this process: see `bus.health.Check.describe`."""
        self._say('health', checks)

    def wants(self, kind: str) -> None:
        """Report that the ops listener wants this kind of answer about the site."""
        self._say('wants', kind)

    def outdated(self, paths: list[str]) -> None:
        """Report that these files of the site have changed: it must be restarted."""
        self._say('outdated', paths)

    def leave(self) -> None:
        """Report that the site asks for a stop."""
        self._say('leave', True)

    def succeed(self) -> None:
        """Report that this process asks for a successor."""
        self._say('succeed', True)

    def renew(self) -> None:
        """Report that the site asks for a graceful restart of all processes."""
        self._say('renew', True)

    def restarts(self, style: str) -> None:
        """Report that the site has stopped for a restart.

        :param style: 'child' or 'fork'; or 'execv' if this process replaces itself.
        """
        self._say('restarts', style)

    def cut(self, streams: int, others: int) -> None:
        """Report how many streams and other requests the stop of this process has cut."""
        self._say('cut', streams, others)

    def hears(self, channels: list[str]) -> None:
        """Report that messages on these channels are published here from now on."""
        self._say('hears', channels)

    def broadcast(self, channel: str, args: str, retain: bool, cluster: bool) -> None:
        """Report a message for all processes.

        :param args: its arguments, as JSON.
        :param retain: whether a process that starts later gets it, too.
        :param cluster: whether the other machines get it, too.
        """
        self._say('broadcast', channel, args, retain, cluster)

    def ask(self, token: int, channel: str, args: str, timeout: float) -> None:
        """Report a question for all processes, whose answers have this token."""
        self._say('ask', token, channel, args, timeout)

    def answer(self, token: int, value: str | None, error: str | None) -> None:
        """Report the answer to a question: a value as JSON, or the reason why there is none."""
        self._say('answer', token, value, error)

    def exits(self, code: int) -> None:
        """Report the exit code of this process, which is about to end."""
        self._say('exits', code)

    def failed(
        self,
        code: int,
        line: str = '',
        trace: str = '',
        file: str | None = None,
        problem: str = '',
    ) -> None:
        """Report that the start failed.

        :param code: the exit code.
        :param line: the line to print.
        :param trace: the traceback.
        :param file: the file in which the traceback ends.
        :param problem: the result of `errorpage.problem.problem_of`, for the page.
        """
        if not self.outcome_sent:
            self.outcome_sent = True
            self._say('failed', code, line, trace, file, problem)

    def _say(self, word: str, *carried: object) -> None:
        if self.fd is None:
            return
        import json  # imported here: most starts report nothing

        known = self._word(word)
        message = dict(zip(known.carries or (word,), carried, strict=True))
        with self._sending:
            self._lines.append(json.dumps(message).encode() + b'\n')
            if not self._is_sending:
                self._send_lines()

    def _send_lines(self) -> None:
        self._is_sending = True
        try:
            while self.fd is not None and (self._rest or self._lines):
                self._rest = self._rest or memoryview(self._lines.pop(0))
                self._rest = self._rest[os.write(self.fd, self._rest) :]
        except OSError:  # the reader has ended
            self._rest = memoryview(b'')
            self._lines.clear()
        finally:
            self._is_sending = False

    def close(self) -> None:
        """Close the connection: there are no more reports."""
        fd, self.fd = self.fd, None
        if fd is not None:
            os.close(fd)

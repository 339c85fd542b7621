"""How a process reports its start to the process that waits for it.

`wire` has the table of the reports; `process.supervised_report` has those that follow.
"""

from __future__ import annotations

import os
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


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
            from paste_wspbus.wire.words import report_word

            self._word = report_word
            os.set_inheritable(fd, False)
            # A forked child must not keep the pipe open: when it closes, the reader
            # knows that this process has ended.
            close_in_child(self, Report.close)

    def pid(self) -> None:
        """Report the ID of the process that starts."""
        self._say('pid', os.getpid())

    def loading(self, pid: int) -> None:
        """Report which process loads and starts the site now; 0 if none does."""
        self._say('loading', pid)

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

"""How a start tells whoever asked for it what came of it: a launcher, a supervisor."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any


class Report:
    """The writing end: messages, each a line of JSON, in a pipe or socket.

    It is silent when nobody waits (``fd`` None) and where the reader is gone.
    """

    def __init__(self, fd: int | None = None, *, lasting: bool = False) -> None:
        self.fd = fd
        self._sending = threading.RLock()  # a signal handler may say something, too
        #: Whether there is more to say after the start.
        self.lasting = lasting
        #: Whether it is told what came of the start.
        self.told = False
        if fd is not None:
            os.set_inheritable(fd, False)
            _watch_forks(self)

    def pid(self) -> None:
        """Say which process it is that starts."""
        self._send({'pid': os.getpid()}, last=False)

    def ready(self, lines: Iterable[str] = ()) -> None:
        """The site is STARTED; ``lines`` are for the terminal."""
        if not self.told:
            self.told = True
            self._send({'ready': list(lines)}, last=not self.lasting)

    def composed(self) -> None:
        """The site is composed, and waits for the word to start."""
        self._send({'composed': True}, last=False)

    def status(self, told: dict[str, Any]) -> None:
        """What this process does, for whoever asked."""
        self._send({'status': told}, last=False)

    def forked(self, token: int, pid: int) -> None:
        """The process that was asked for is there."""
        self._send({'forked': token, 'process': pid}, last=False)

    def ended(self, token: int, code: int | None) -> None:
        """It has ended: os.waitstatus_to_exitcode's number; None: nobody knows."""
        self._send({'ended': token, 'code': code}, last=False)

    def learnt(self, news: list[Any], modules: list[str]) -> None:
        """What the site is made of: `sources.Files.news`; modules that are others'."""
        self._send({'learnt': news, 'modules': modules}, last=False)

    def imported(self, name: str = '', why: str = '') -> None:
        """Modules are imported; or one of them has spoiled this process."""
        self._send({'imported': name, 'why': why}, last=False)

    def leave(self) -> None:
        """The site wishes to stop."""
        self._send({'leave': True}, last=False)

    def succeed(self) -> None:
        """This process wishes to be succeeded by another one."""
        self._send({'succeed': True}, last=False)

    def renew(self) -> None:
        """The site wishes to be restarted, all of it."""
        self._send({'renew': True}, last=False)

    def restarts(self, style: str) -> None:
        """The site has stopped, to be restarted: 'child', 'fork'; 'execv' by this process."""
        self._send({'restarts': style}, last=False)

    def exits(self, code: int) -> None:
        """The process is about to end: its last words."""
        self._send({'exits': code}, last=False)

    def failed(
        self,
        code: int,
        line: str = '',
        trace: str = '',
        file: str | None = None,
        problem: str = '',
    ) -> None:
        """The start failed: the exit code, what to print, the traceback, where it ends.

        ``problem``: `errorpage.problem_of`, to be shown.
        """
        if not self.told:
            self.told = True
            said = {'failed': code, 'line': line, 'traceback': trace, 'file': file}
            said['problem'] = problem
            self._send(said, last=False)

    def _send(self, message: dict[str, Any], last: bool) -> None:
        if self.fd is None:
            return
        import json  # only where somebody waits

        left = memoryview(json.dumps(message).encode() + b'\n')
        with contextlib.suppress(OSError), self._sending:
            while left:
                left = left[os.write(self.fd, left) :]
        if last:
            self.close()

    def close(self) -> None:
        """Nothing more will be said."""
        fd, self.fd = self.fd, None
        if fd is not None:
            os.close(fd)


_open: weakref.WeakSet[Report] = weakref.WeakSet()
_forks_watched = False


def _watch_forks(report: Report) -> None:
    """A forked child must not keep the pipe open: its end tells of the parent's death."""
    global _forks_watched
    _open.add(report)
    if not _forks_watched and hasattr(os, 'register_at_fork'):
        _forks_watched = True
        os.register_at_fork(after_in_child=_close_in_child)


def _close_in_child() -> None:
    for report in list(_open):
        report.close()


class Inbox:
    """The reading end of a `Report`."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._buffer = b''

    def read(self) -> list[dict[str, Any]] | None:
        """Read once: the messages that are complete now; None at the end."""
        import json

        came = os.read(self.fd, 65536)
        if not came:
            return None
        *lines, self._buffer = (self._buffer + came).split(b'\n')
        return [json.loads(line) for line in lines]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """All messages, until the end."""
        while (messages := self.read()) is not None:
            yield from messages

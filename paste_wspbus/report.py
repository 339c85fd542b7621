"""How a start tells whoever asked for it what came of it: a launcher, a supervisor."""

from __future__ import annotations

import contextlib
import os
import time

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
        #: Whether there is more to say after the start.
        self.lasting = lasting
        self._has_failed = False
        if fd is not None:
            os.set_inheritable(fd, False)

    def pid(self) -> None:
        """Say which process it is that starts."""
        self._send({'pid': os.getpid()}, last=False)

    def ready(self, lines: Iterable[str] = ()) -> None:
        """The site is STARTED; ``lines`` are for the terminal."""
        self._send({'ready': list(lines)}, last=not self.lasting)

    def restart(self) -> None:
        """The site stops, and asks to be started again."""
        self._send({'restart': True}, last=True)

    def failed(self, code: int, line: str = '') -> None:
        """The start failed: the exit code, and what to print.

        It stays open: its end tells that this process has cleaned up and is gone.
        """
        if not self._has_failed:
            self._has_failed = True
            self._send({'failed': code, 'line': line}, last=False)

    def _send(self, message: dict[str, Any], last: bool) -> None:
        if self.fd is None:
            return
        import json  # only where somebody waits

        with contextlib.suppress(OSError):
            os.write(self.fd, json.dumps(message).encode() + b'\n')
        if last:
            self.close()

    def close(self) -> None:
        """Nothing more will be said."""
        fd, self.fd = self.fd, None
        if fd is not None:
            os.close(fd)


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

    def wait_for_end(self, seconds: float) -> None:
        """Wait until the process at the other end is gone, but not for ever."""
        import select

        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if select.select([self.fd], [], [], left)[0] and self.read() is None:
                return

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """All messages, until the end."""
        while (messages := self.read()) is not None:
            yield from messages

"""The supervisor's standard output and error: it queues or drops text, but never waits."""

from __future__ import annotations

import contextlib
import io
import os
import select
import selectors
import signal
import socket
import stat
import sys
import threading
import time
from collections import deque

from paste_wspbus.forks import close_in_child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

    from paste_wspbus.watching.loop import Events

#: The number of bytes that wait for a reader at most: further text is lost.
MAX_WAITING = 1 << 18

#: The number of bytes that a pipe takes at once if poll(2) reports it as writable (pipe(7)).
PIPE_BUF = getattr(select, 'PIPE_BUF', 512)

#: Seconds for one write: another process may have filled the pipe after the poll.
PATIENCE = 0.2

#: Seconds that the process waits for a reader at its end.
LAST = 1.0


class Output(io.TextIOBase):
    """Replaces a standard stream in a process with one thread, which must never wait.

    A pipe, a terminal (Ctrl-S) or a FIFO may have a reader that stopped reading. The
    descriptor cannot be made non-blocking: the workers and the shell share it. So before
    each write, this checks whether there is room. If the room is gone when the write
    begins, a timer ends the write. Text without room is queued, in order, up to
    MAX_WAITING bytes. Further text is lost; a line says how many lines are lost.

    In a forked child, it writes to the stream directly.

    :param stream: the standard stream, whose descriptor is used.
    :param events: the loop, which calls `_send` when there is room again.
    """

    def __init__(self, stream: TextIO, events: Events) -> None:
        self.stream, self._fd = stream, stream.fileno()
        self._encoding = stream.encoding or 'utf-8'
        self._events: Events | None = events
        self._waiting: deque[bytes] = deque()
        self._size = self._lost = 0
        self._is_sending = self._is_registered = self._is_disowned = False
        close_in_child(self, Output.disown)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream."""
        return self._encoding

    def fileno(self) -> int:
        """Return the descriptor of the stream."""
        return self._fd

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self.stream.isatty()

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str) -> int:
        """Write a text as far as there is room; queue the rest, or lose the text."""
        if self._is_disowned:
            return self.stream.write(text)
        data = text.encode(self._encoding, 'backslashreplace')
        if self._size + len(data) > MAX_WAITING:
            self._lost += data.count(b'\n')
        else:
            self._note_loss()
            self._queue(data)
        self._send()
        return len(text)

    def flush(self) -> None:
        """Write as much as there is room for."""
        if self._is_disowned:
            self.stream.flush()
        else:
            self._send()

    def drain(self, seconds: float = LAST) -> None:
        """Write what waits, for some seconds at most, without the loop.

        The process calls this at its end.
        """
        self._events = None
        until = time.monotonic() + seconds
        while self._waiting and (remaining := until - time.monotonic()) > 0:
            poll = select.poll()
            poll.register(self._fd, select.POLLOUT)
            poll.poll(remaining * 1000)
            self._send()

    def disown(self) -> None:
        """Write to the stream directly, in a forked child: the parent writes what waits."""
        self._is_disowned = True
        self._events = None
        self._waiting.clear()
        self._size = 0

    # -- sending --------------------------------------------------------------------

    def _queue(self, data: bytes) -> None:
        self._waiting.append(data)
        self._size += len(data)

    def _note_loss(self) -> None:
        if self._lost:
            count, self._lost = self._lost, 0
            line = f'… {count} lines are lost here: nobody read the output in time\n'
            self._queue(line.encode(self._encoding, 'backslashreplace'))

    def _send(self) -> None:
        if self._is_sending:
            return  # a signal handler has interrupted this method, and writes, too
        self._is_sending = True
        try:
            while self._waiting:
                data = self._waiting.popleft()
                self._size -= len(data)
                try:
                    rest = data[self._write(data) :]
                except OSError:  # the disk is full, or the reader has ended
                    self._lost += data.count(b'\n')
                    continue
                if rest:
                    self._waiting.appendleft(rest)
                    self._size += len(rest)
                    if len(rest) == len(data):
                        break
                elif not self._waiting:
                    self._note_loss()
        finally:
            self._is_sending = False
            self._watch()

    def _watch(self) -> None:
        """Let the loop call `_send` when there is room, as long as text waits."""
        events, wants = self._events, bool(self._waiting)
        if events is None or wants == self._is_registered:
            return
        with contextlib.suppress(KeyError, ValueError, OSError):
            if wants:
                events.selector.register(self._fd, selectors.EVENT_WRITE, self._send)
            else:
                events.selector.unregister(self._fd)
            self._is_registered = wants

    def _has_room(self) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(0))

    def _write(self, data: bytes) -> int:
        """Write as much as there is room for; return the number of bytes."""
        try:
            kind = stat.S_IFMT(os.fstat(self._fd).st_mode)
            if kind == stat.S_IFREG:
                return os.write(self._fd, data)
            if not self._has_room():
                return 0
            if kind == stat.S_IFSOCK:
                with socket.socket(fileno=os.dup(self._fd)) as sock:
                    return sock.send(data, socket.MSG_DONTWAIT)
            return _write_in_time(self._fd, data[:PIPE_BUF])
        except BlockingIOError:
            return 0


class _Late(BaseException):
    """This is raised in a write that takes too long."""


def _write_in_time(fd: int, data: bytes) -> int:
    """Write to a descriptor, for PATIENCE seconds at most; return the number of bytes."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getitimer(signal.ITIMER_REAL) != (0.0, 0.0):
        return os.write(fd, data)
    writes, written = True, 0

    def alarm(*_: object) -> None:
        if writes:
            raise _Late

    previous = signal.signal(signal.SIGALRM, alarm)
    try:
        # An alarm may also come just after the write: so there are two suppress() blocks.
        with contextlib.suppress(_Late):
            with contextlib.suppress(_Late):
                signal.setitimer(signal.ITIMER_REAL, PATIENCE, PATIENCE)
                written = os.write(fd, data)
            writes = False
    finally:
        writes = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if previous is None else previous)
    return written


def take_over_streams(events: Events) -> None:
    """Put an `Output` in the place of standard output and error, only in this process."""
    for name in ('stdout', 'stderr'):
        stream = getattr(sys, name)
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()
            setattr(sys, name, Output(stream, events))


def give_back_streams() -> None:
    """Put the original streams back, in a forked child."""
    for name in ('stdout', 'stderr'):
        stream = getattr(sys, name)
        if isinstance(stream, Output):
            setattr(sys, name, stream.stream)

"""The file of an access log: lines are collected, and a thread of its own writes them."""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import select
import stat
import sys
import threading
import time
from _thread import allocate_lock, start_new_thread

from paste_wspbus.errors import WSPBusError
from paste_wspbus.forks import close_in_child
from paste_wspbus.unix.exposed import open_or_make

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: About so many lines are written at once, some 64 kB: they are in the processor's cache
#: then, and requests need the interpreter in between.
AT_ONCE = 500

#: Seconds after which the thread looks whether so many wait, at most and at least.
LONGEST_LOOK, SHORTEST_LOOK = 1.0, 0.02

#: So many lines wait at most if the file cannot be written to; further ones are lost.
MOST = 10_000

#: Seconds that the thread waits for the reader of a pipe; then it looks for other work.
PATIENCE = 0.2

#: Bytes that a pipe takes at once, so that the lines of several processes stay whole (pipe(7)).
PIPE_BUF = getattr(select, 'PIPE_BUF', 512)

#: Paths of descriptors that this process has: a socket cannot be opened by such a path.
STANDARD = {'/dev/stdout': 1, '/dev/stderr': 2, '/dev/fd/1': 1, '/dev/fd/2': 2}

_WRITE = os.O_WRONLY | os.O_APPEND | getattr(os, 'O_NONBLOCK', 0)


class CannotOpen(WSPBusError):
    """The file cannot be opened at the start."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f'{path} cannot be opened: {reason}')
        self.path, self.reason = path, reason


class Writer:
    """Appends lines to a file; no request waits for that.

    Only its thread writes, so that a full disk, or a reader that has stopped, holds up
    nothing else. While there are no lines, the thread sleeps. Each write(2) has whole
    lines, and the file is open for appending, so several processes may share it.

    Who adds a line appends it to ``lines``, and then calls `ring` if the writer ``asks``
    for it. The thread does so before it looks for lines and sleeps: no line is overlooked.

    :param path: the file.
    :param log: is called as `Bus.log`.
    :param seconds: the time after which a line is written; with 0 each line is written at
        once, in the thread that has made it, which may have to wait for a pipe.
    """

    def __init__(self, path: str, log: Callable[..., object], seconds: float) -> None:
        self.path, self._log, self.seconds = path, log, seconds
        self._fd = -1
        #: The lines that are not written, with their line feeds.
        self.lines: list[str] = []
        #: How many lines were lost since it was reported last, and in all.
        self._lost = self.lost = 0
        self._is_failing = self._is_torn = self._is_started = False
        self._begin_anew()
        close_in_child(self, Writer._begin_anew)

    def _begin_anew(self) -> None:
        """Begin without a thread and without lines: a forked child has those of its parent."""
        self.lines.clear()
        #: What was made of lines, and not written: a pipe had no room.
        self._rest = b''
        #: Whether `ring` must be called for a line: the thread sleeps, or is writing.
        self.asks = True
        self._sleeps, self._has_thread, self._ends = True, False, False
        self._writing = threading.Lock()
        self._starting = allocate_lock()
        self._bell, self._done = allocate_lock(), allocate_lock()

    def add(self, line: str) -> None:
        """Add a line."""
        self.lines.append(line)
        if self.asks:
            self.ring()

    def _lose(self) -> None:
        """Count a line for which there is no room."""
        self._lost += 1
        self.lost += 1

    def ring(self) -> None:
        """Wake the thread; without one, start it or write."""
        if len(self.lines) > MOST:
            del self.lines[-1:]
            self._lose()
        if not self.seconds or self._ends:
            self._write(PATIENCE)
            return
        if not self._has_thread:
            with self._starting:
                self._start()
        if self._sleeps:
            self._wake()

    def _wake(self) -> None:
        if self._bell.locked():
            with contextlib.suppress(RuntimeError):  # another thread was faster
                self._bell.release()

    def _start(self) -> None:
        if self._has_thread or self._ends:
            return
        self._bell.acquire(blocking=False)
        self._done.acquire(blocking=False)
        try:
            start_new_thread(self._run, (self._bell, self._done))
        except RuntimeError:  # the system starts no more: the next line tries it again
            return
        self._has_thread = True
        if not self._is_started:  # no bus stops it
            self._is_started = True
            atexit.register(self.stop, 1.0)

    def _run(self, bell: threading.Lock, done: threading.Lock) -> None:
        """Write what was added; it ends after `stop`."""
        look = LONGEST_LOOK
        while True:
            self._sleeps = True
            if not (self.lines or self._rest or self._ends):
                bell.acquire()
            self._sleeps = False
            look = self._collect(bell, look)
            self._write()
            if self._ends:
                self._has_thread = False
                done.release()
                return

    def _collect(self, bell: threading.Lock, look: float) -> float:
        """Wait until it is time to write, or many lines are there.

        :param look: the seconds after which to look, as the last call has returned them.
        :returns: in how many seconds about `AT_ONCE` lines come.
        """
        since, passed = time.monotonic(), 0.0
        while not self._ends and passed < self.seconds:
            # While a reader has stopped, `ring` sees to it that not too many lines wait.
            self.asks = bool(self._rest)
            bell.acquire(timeout=min(look, self.seconds - passed))
            self.asks = True
            passed = time.monotonic() - since
            if self._rest or len(self.lines) >= AT_ONCE / 2:
                break
        expected = passed * AT_ONCE / max(len(self.lines), 1)
        return min(max(expected, SHORTEST_LOOK), LONGEST_LOOK)

    def start(self) -> None:
        """Open the file.

        :raises CannotOpen: if that is impossible; a FIFO without a reader is no such case.
        """
        self._is_started = True
        if self._ends:
            self._begin_anew()
        try:
            self._open()
        except OSError as error:
            if not _is_fifo(self.path):
                raise CannotOpen(self.path, error.strerror or str(error)) from None
            self._tell(error)

    def stop(self, seconds: float) -> None:
        """Write everything; lines that come later are written at once.

        :param seconds: the most that this may take.
        """
        with self._starting:
            self._ends = True
            has_thread = self._has_thread
        if not has_thread:
            self._write()
        else:
            self._wake()
            self._done.acquire(timeout=max(seconds, 0))
        if waiting := len(self.lines) + self._rest.count(b'\n'):
            self._lost += waiting
            self.lost += waiting
        if self._lost:
            self._log(f'The access log {self.path} lost {_lines(self._lost)}', 40)
            self._lost = 0

    def flush(self, seconds: float = 1.0) -> bool:
        """Write what was added until now.

        :returns: whether it is written; False if the file took longer than ``seconds``.
        """
        return self._write(seconds)

    def reopen(self) -> None:
        """Write everything to the file, then open what has its path now.

        :raises OSError: if it cannot be opened; then the old file stays in use.
        """
        if self._fd < 0 or self.path in STANDARD:
            return
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            return
        self.flush()
        if not self._writing.acquire(timeout=1.0):
            return  # the thread hangs in a write
        try:
            old, mode = self._fd, stat.S_IMODE(os.fstat(self._fd).st_mode)
            self._open(mode)
            os.close(old)
        finally:
            self._writing.release()

    def _open(self, mode: int | None = None) -> None:
        """Open the file; a new one has the mode of the old one, or 0644 without the umask.

        :raises OSError: if it cannot be opened.
        """
        if self.path in STANDARD:
            self._fd = STANDARD[self.path]
            return
        self._fd, is_new = open_or_make(self.path, _WRITE | _CLOEXEC, 0o644)
        if is_new and mode is not None:
            os.fchmod(self._fd, mode)

    # -- writing ------------------------------------------------------------------------

    def _write(self, seconds: float = -1) -> bool:
        """Write what waits, as far as the file takes it."""
        if not self._writing.acquire(timeout=seconds):
            return False
        try:
            while self.lines or self._rest:
                if not self._write_some():
                    return False
            return True
        finally:
            self._writing.release()

    def _write_some(self) -> bool:
        batch = []
        if not self._rest:
            batch = self.lines[:AT_ONCE]
            del self.lines[: len(batch)]  # what is added meanwhile stays
        data = self._rest + ''.join(batch).encode('utf-8', 'backslashreplace')
        try:
            self._rest = self._put(data)
        except OSError as error:
            self._rest = b''
            self._fail(error, data)
        else:
            self._succeed()
        return not self._rest

    def _put(self, data: bytes) -> bytes:
        """Write whole lines; return those for which a pipe has no room.

        :raises _Partly: if some of them were written.
        :raises OSError: if none was written.
        """
        if self._fd < 0:
            self._open()
        if stat.S_ISREG(os.fstat(self._fd).st_mode):
            if self._is_torn:
                data = b'\n' + data  # the line before was written in part
            self._put_all(data)
            self._is_torn = False
            return b''
        until = time.monotonic() + PATIENCE
        while data:
            if not _has_room(self._fd, until - time.monotonic()):
                return data
            end = data.rfind(b'\n', 0, PIPE_BUF) + 1 or data.find(b'\n') + 1
            try:
                self._put_all(data[:end])
            except BlockingIOError:
                return data
            except OSError as error:
                raise _Partly(error, data) from None
            data = data[end:]
        return b''

    def _put_all(self, data: bytes) -> None:
        left = data
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError as error:
            if left is data:
                raise
            written = data[: -len(left)]
            torn = len(written) - written.rfind(b'\n') - 1
            self._is_torn = torn > 0 and not self._takes_back(torn)
            raise _Partly(error, left) from None

    def _takes_back(self, size: int) -> bool:
        """Remove what was just written of a line, unless another process has written since.

        That process would append its own line to it.
        """
        if self._fd <= 2:  # others may write where they were
            return False
        with contextlib.suppress(OSError):
            end = os.lseek(self._fd, 0, os.SEEK_CUR)
            if os.fstat(self._fd).st_size == end:
                os.ftruncate(self._fd, end - size)
                return True
        return False

    def _fail(self, error: OSError, data: bytes) -> None:
        """Count the lines that are lost; report it once."""
        lost = error.left if isinstance(error, _Partly) else data
        self._lost += lost.count(b'\n')
        self.lost += lost.count(b'\n')
        if self._fd > 2 and not stat.S_ISREG(os.fstat(self._fd).st_mode):
            os.close(self._fd)  # a FIFO may get another reader
            self._fd = -1
        self._tell(error)

    def _tell(self, error: OSError) -> None:
        if not self._is_failing:
            self._is_failing = True
            reason = error.strerror or str(error)
            if error.errno == errno.ENXIO:  # a FIFO, fifo(7)
                reason = 'nobody reads it'
            text = f'The access log {self.path} loses lines: {reason}; the site keeps serving'
            self._log(text, 40)

    def _succeed(self) -> None:
        if self._is_failing:
            self._is_failing = False
            lost, self._lost = self._lost, 0
            text = (
                f'The access log {self.path} is written again; {_lines(lost)} were lost'
            )
            self._log(text, 30)


class _Partly(OSError):
    """A write failed after a part; ``left`` is the rest."""

    def __init__(self, error: OSError, left: bytes) -> None:
        super().__init__(error.errno, error.strerror)
        self.left = left


_CLOEXEC = getattr(os, 'O_CLOEXEC', 0)


def _lines(count: int) -> str:
    return '1 line' if count == 1 else f'{count} lines'


def _is_fifo(path: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except OSError:
        return False


def _has_room(fd: int, seconds: float) -> bool:
    if not hasattr(select, 'poll'):
        return True
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(max(seconds, 0) * 1000))


def writes_at_once() -> bool:
    """Whether threads of this process run only while a request does: uWSGI without threads."""
    options = getattr(sys.modules.get('uwsgi'), 'opt', None)
    return options is not None and not {'enable-threads', 'threads'} & {*options}

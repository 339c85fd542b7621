"""A command on a terminal of its own, under a shell that stops and continues it."""

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading

from tests.kit.processes import BIN, TIMEOUT, eventually

#: A shell with one job: it says on standard error when the job has stopped, and whether
#: the terminal is as it was before; then it continues the job.
SHELL = """
import os, signal, sys, termios
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
before = termios.tcgetattr(0)
job = os.fork()
if not job:
    os.setpgid(0, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    if 'ERRORS_ON_SCREEN' in os.environ:
        os.dup2(1, 2)
    os.execv(sys.argv[1], sys.argv[1:])
try:
    os.setpgid(job, job)
except OSError:
    pass
os.tcsetpgrp(0, job)
os.write(2, f'job {job}\\n'.encode())
while True:
    _, status = os.waitpid(job, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        break
    os.tcsetpgrp(0, os.getpid())
    is_restored = termios.tcgetattr(0) == before
    os.write(2, f'stopped, restored: {is_restored}\\n'.encode())
    os.tcsetpgrp(0, job)
    os.killpg(job, signal.SIGCONT)
code = os.waitstatus_to_exitcode(status)
os.tcsetpgrp(0, os.getpid())
os.write(2, f'ended {code}, restored: {termios.tcgetattr(0) == before}\\n'.encode())
"""


class Screen:
    """``wspserve`` on a terminal, until its ``with`` block ends.

    Its standard error goes to the shell, or with ``env={'ERRORS_ON_SCREEN': '1'}`` to the
    terminal.
    """

    def __init__(self, folder, *args, env=None, size=(80, 24)):
        self._ours, theirs = pty.openpty()
        self.resize(*size)
        reader, writer = os.pipe()
        environ = {**os.environ, 'TERM': 'xterm', **(env or {})}
        environ.pop('NO_COLOR', None) if 'NO_COLOR' not in (env or {}) else None
        self.process = subprocess.Popen(
            [sys.executable, '-c', SHELL, BIN / 'wspserve', *args],
            cwd=folder,
            env=environ,
            stdin=theirs,
            stdout=theirs,
            stderr=writer,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)
        os.close(writer)
        self._is_open = True
        self.text, self.said, self._came = '', '', threading.Condition()
        self._threads = [
            threading.Thread(target=self._read, args=read, daemon=True)
            for read in ((self._ours, 'text'), (reader, 'said'))
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, fd, name):
        with contextlib.suppress(OSError):  # EIO: all have closed the terminal
            while came := os.read(fd, 65536):
                with self._came:
                    text = getattr(self, name) + came.decode('utf-8', 'replace')
                    setattr(self, name, text)
                    self._came.notify_all()
        with self._came:
            self._came.notify_all()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.killpg(self.job, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(TIMEOUT)
        if self._is_open:
            os.close(self._ours)

    def hang_up(self):
        """Close the terminal, as a network that is cut does."""
        self._is_open = False
        os.close(self._ours)

    @property
    def job(self):
        """The process of the command."""
        self.hears('job ')
        return int(self.said.split('job ')[1].split()[0])

    def press(self, keys):
        os.write(self._ours, keys.encode())

    def resize(self, columns, rows):
        size = struct.pack('HHHH', rows, columns, 0, 0)
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, size)

    def _wait_for(self, name, text, since):
        with self._came:
            found = self._came.wait_for(
                lambda: text in getattr(self, name)[since:], TIMEOUT
            )
        assert found, f'{text!r} does not come.\n{self.said}\n{self.text[-3000:]}'

    def shows(self, text, since=0):
        """Wait until the terminal has got a text; return how much it has got then."""
        self._wait_for('text', text, since)
        return len(self.text)

    def hears(self, text):
        """Wait until the shell has said something, or the command on standard error."""
        self._wait_for('said', text, 0)

    def ends(self, code):
        """Wait for the end of the command; the terminal is as it was before."""
        self.hears('ended ')
        eventually(lambda: self.said.endswith('\n'))
        assert f'ended {code}, restored: True\n' in self.said, self.said
        if self._is_open:
            self._threads[0].join(TIMEOUT)  # it reads what the terminal still has

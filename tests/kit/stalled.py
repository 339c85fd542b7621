"""Pipes that nobody reads, and a site whose output nobody reads."""

import contextlib
import fcntl
import os
import signal
import subprocess

from paste_wspbus.control.client import ask as ask_control
from tests.kit.processes import BIN, TIMEOUT, eventually
from tests.kit.sites import APP, write

SIZE = 4096


def pipe():
    """Make a pipe with the size of one page; return its two descriptors."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, SIZE)
    return reader, writer


def fill(writer):
    """Fill a pipe, which blocks again afterwards."""
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b'.' * SIZE)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b'.')
    os.set_blocking(writer, True)


class Stalled:
    """A site whose standard error (or output) is a pipe that is full and that nobody reads."""

    def __init__(self, folder, stream, ini, *args, app=APP):
        write(folder, {'webapp.py': app, 'site.ini': ini})
        self.folder = folder
        self.reader, self.writer = pipe()
        fill(self.writer)
        streams = {'stdout': subprocess.DEVNULL, 'stderr': subprocess.DEVNULL}
        if stream == 'both':
            streams = dict.fromkeys(streams, self.writer)
        else:
            streams[stream] = self.writer
        words = [BIN / 'wspserve', 'site.ini', '--pid-file', 'site.pid', *args]
        self.process = subprocess.Popen(
            words,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            **streams,
        )

    def __enter__(self):
        eventually(self.is_started)
        return self

    def is_started(self):
        with contextlib.suppress(Exception):
            return self.status()['state'] == 'STARTED'
        return False

    def status(self):
        return ask_control(str(self.folder / 'site.pid.sock'), 'status')

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(TIMEOUT)
        os.close(self.reader)
        os.close(self.writer)

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

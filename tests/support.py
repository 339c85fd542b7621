"""A site in a child process, and HTTP by hand."""

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

#: Seconds that a thing may take before its test fails; a busy machine is slow.
TIMEOUT = 60

BIN = Path(sys.executable).parent

COMMANDS = {
    'wspserve': [str(BIN / 'wspserve')],
    'paster': [str(BIN / 'paster'), 'wspserve'],
    'module': [sys.executable, '-m', 'paste_wspbus'],
}

#: What would change the command's behaviour if the tests were run with it set.
_UNSET = (
    'PASTE_CONFIG_FILE',
    'PASTE_DEFAULT_QUIET',
    'PYTHONUNBUFFERED',
    'PYTHONWARNINGS',
    '_',
)


def write(folder, files):
    """Write {name: text} into ``folder``; the texts may be indented."""
    for name, text in files.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip('\n'))


class Output:
    """What a child writes to one of its pipes, as it comes."""

    def __init__(self, pipe):
        self.text, self.ended = '', False
        self._pipe, self._came = pipe, threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        for line in self._pipe:
            with self._came:
                self.text += line
                self._came.notify_all()
        with self._came:
            self.ended = True
            self._came.notify_all()

    def wait_for(self, text, count=1):
        """Wait until ``text`` came ``count`` times; False if the child ends before."""
        with self._came:
            self._came.wait_for(
                lambda: self.ended or self.text.count(text) >= count, TIMEOUT
            )
            return self.text.count(text) >= count

    def close(self):
        self._thread.join(TIMEOUT)
        self._pipe.close()


class Process:
    """A child that never outlives its ``with`` block."""

    def __init__(self, args, cwd, env=None, pass_fds=(), **kwargs):
        environ = {k: v for k, v in os.environ.items() if k not in _UNSET}
        environ['PATH'] = os.pathsep.join([str(BIN), environ.get('PATH', os.defpath)])
        environ.update(env or {})
        self.process = subprocess.Popen(
            [str(arg) for arg in args],
            cwd=cwd,
            env=environ,
            pass_fds=pass_fds,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **kwargs,
        )
        self.pid = self.process.pid
        self.out, self.err = Output(self.process.stdout), Output(self.process.stderr)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(2)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # whatever it left behind
        self.process.wait(TIMEOUT)
        self.release()
        self.out.close()
        self.err.close()

    def send(self, signum):
        self.process.send_signal(signum)

    def release(self):
        """End its standard input, which sites in the tests wait for."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def expect(self, text, count=1):
        """Wait for a line on standard error."""
        assert self.err.wait_for(text, count), self.report()

    def wait(self, timeout=TIMEOUT):
        """Wait for its end; return its exit code."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f'It does not end. {self.report()}') from None
        self.out._thread.join(TIMEOUT)
        self.err._thread.join(TIMEOUT)
        return code

    def has_left_nothing(self):
        """Whether no process of its session is there; call it after `wait`."""
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return True
        return False

    def report(self):
        return (
            f'exit code: {self.process.poll()}\n'
            f'stdout:\n{self.out.text}\nstderr:\n{self.err.text}'
        )


class Site(Process):
    """``with Site(tmp_path, ini) as site:`` serves an .ini until the block ends.

    ``files``: what stands beside the .ini. ``command``: a key of COMMANDS or
    the words of a command; ``args``: what follows ``site.ini``, or all
    arguments if ``ini`` is None. ``wait=False``: do not wait until it serves.
    """

    def __init__(
        self, folder, ini, *args, files=None, command='wspserve', wait=True, **kwargs
    ):
        self.folder = Path(folder)
        write(folder, {**(files or {}), **({'site.ini': ini} if ini else {})})
        words = COMMANDS.get(command) if isinstance(command, str) else command
        first = ['site.ini'] if ini else []
        super().__init__([*words, *first, *args], **{'cwd': folder, **kwargs})
        self._wait = wait

    def __enter__(self):
        super().__enter__()
        try:
            if self._wait:
                self.wait_until_served()
        except BaseException:
            self.__exit__()
            raise
        return self

    def wait_until_served(self, count=1):
        """Wait for the line that tells where; ``count``: for which of them."""
        assert self.out.wait_for('Serving on ', count), self.report()
        found = re.findall(r'^Serving on (\S+)$', self.out.text, re.M)
        self.url = found[-1]
        self.urls = found

    @property
    def port(self):
        return int(self.url.rpartition(':')[2])

    @property
    def address(self):
        """What a socket connects to: (host, port), or a path."""
        if self.url.startswith('unix:'):
            return str(self.folder / self.url.removeprefix('unix:'))
        return self.url.partition('//')[2].rpartition(':')[0].strip('[]'), self.port

    def connect(self, **kwargs):
        return Connection(self.address, **kwargs)

    def get(self, path='/', **headers):
        """One request on a connection of its own."""
        with self.connect() as connection:
            return connection.get(path, connection='close', **headers)

    def stop(self, signum=signal.SIGTERM):
        """Send a signal and wait: (exit code, standard output, standard error)."""
        self.send(signum)
        return self.wait(), self.out.text, self.err.text


class Connection:
    """A client's end of an HTTP connection."""

    def __init__(self, address, receive_buffer=None, timeout=TIMEOUT):
        unix = isinstance(address, str)
        self.socket = socket.socket(socket.AF_UNIX if unix else _family(address))
        try:
            if receive_buffer:
                self.socket.setsockopt(
                    socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer
                )
            self.socket.settimeout(timeout)
            self.socket.connect(address)
        except BaseException:
            self.socket.close()
            raise
        self.file = self.socket.makefile('rb')

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.file.close()
        self.socket.close()

    def send(self, path='/', version='1.1', **headers):
        """Send a GET request; ``keep_alive='1'`` is the header Keep-Alive."""
        lines = [f'GET {path} HTTP/{version}', 'Host: localhost']
        lines += [f'{k.replace("_", "-").title()}: {v}' for k, v in headers.items()]
        self.socket.sendall('\r\n'.join([*lines, '', '']).encode())

    def receive(self):
        """Read one response."""
        return Response(self.file)

    def get(self, path='/', **headers):
        self.send(path, **headers)
        return self.receive()

    def is_ended(self):
        """Read to the end: True if there is nothing and no reset."""
        return self.file.read() == b''


def _family(address):
    return socket.AF_INET6 if ':' in address[0] else socket.AF_INET


class Response:
    """A response: ``status``, ``headers`` (names in lower case), ``body``.

    :raises ConnectionError: if there is none, or only a part of it.
    """

    def __init__(self, file):
        line = file.readline()
        if not line:
            raise ConnectionResetError('the connection ended before the response')
        self.status = int(line.split()[1])
        self.headers = {}
        while (line := file.readline()).strip():
            name, _, value = line.decode().partition(':')
            self.headers[name.lower()] = value.strip()
        if not line:
            raise ConnectionResetError('the connection ended in the headers')
        self.body = self._read_body(file)
        self.text = self.body.decode('utf-8', 'replace')

    def _read_body(self, file):
        if 'content-length' in self.headers:
            return _read_exactly(file, int(self.headers['content-length']))
        if self.headers.get('transfer-encoding') == 'chunked':
            chunks = []
            while size := int(file.readline() or b'-1', 16):
                chunks.append(_read_exactly(file, size))
                file.readline()
            file.readline()
            return b''.join(chunks)
        return file.read()


def _read_exactly(file, size):
    body = file.read(size)
    if len(body) != size:
        raise ConnectionResetError(f'{len(body)} of {size} bytes came')
    return body


def run(folder, *args, files=None, command='wspserve', **kwargs):
    """Run a command to its end: a Process with ``code``."""
    with Site(
        folder, None, *args, files=files, command=command, wait=False, **kwargs
    ) as process:
        process.code = process.wait()
    return process


def free_port():
    """A port of 127.0.0.1 that was free a moment ago.

    Not one that the system gives to somebody else next (ip_local_port_range).
    """
    while True:
        port = random.randrange(15000, 32000)
        if is_free(port):
            return port


def is_free(port, host='127.0.0.1'):
    """Whether somebody could listen there now."""
    try:
        socket.create_server((host, port)).close()
    except OSError:
        return False
    return True


def eventually(condition):
    """Ask until it is so: for what another process does by itself."""
    until = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < until, 'It does not come about'
        threading.Event().wait(0.01)

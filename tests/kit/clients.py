"""Clients: single HTTP requests, byte by byte, and load."""

import contextlib
import json
import random
import socket
import threading

from tests.kit.processes import TIMEOUT


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
        """Read to the end; return whether nothing comes; raise an error after a reset."""
        return self.file.read() == b''


def _family(address):
    return socket.AF_INET6 if ':' in address[0] else socket.AF_INET


class Response:
    """A response: ``status``, ``headers`` (names in lower case), ``body``.

    :raises ConnectionError: if no response comes, or only a part of it.
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


def free_port():
    """Return a port of 127.0.0.1 that was free a moment ago.

    It is not one of the ports that the system gives to other sockets (ip_local_port_range).
    """
    while True:
        port = random.randrange(15000, 32000)
        if is_free(port):
            return port


def is_free(port, host='127.0.0.1'):
    """Whether a process could listen on the port now."""
    try:
        socket.create_server((host, port)).close()
    except OSError:
        return False
    return True


class Busy:
    """Threads that do something again and again, until the ``with`` block ends.

    ``pause`` is the number of seconds that each thread waits before it calls `do`.
    """

    def __init__(self, count=1, pause=0):
        self._over, self._pause = threading.Event(), pause
        self._threads = [
            threading.Thread(target=self._run, daemon=True) for _ in range(count)
        ]

    def do(self):
        """Do something once; subclasses define what."""
        raise NotImplementedError

    def _run(self):
        while not self._over.wait(self._pause):
            self.do()

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self._over.set()
        for thread in self._threads:
            thread.join(TIMEOUT)


class Load:
    """Closed-loop clients; every second client keeps its connection alive."""

    def __init__(self, site, clients=16):
        self.site, self.resets, self.answers = site, [], 0
        self.lock, self.warm = threading.Lock(), threading.Event()
        self.threads = [
            threading.Thread(target=self.loop, args=(bool(n % 2),))
            for n in range(clients)
        ]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        for thread in self.threads:
            thread.join(TIMEOUT)

    def loop(self, keep):
        while True:
            try:
                connection = self.site.connect()
            except OSError:  # the connection was refused, so no request was sent
                return
            with connection:
                self.use(connection, keep)

    def use(self, connection, keep):
        fresh = True
        with contextlib.suppress(ConnectionError, BrokenPipeError):
            while True:
                try:
                    token = 'keep-alive' if keep else 'close'
                    response = connection.get(connection=token)
                    assert (response.status, response.body) == (200, b'hello')
                except Exception as error:
                    # The server may close a kept-alive connection. A client of HTTP/1.1
                    # must expect this, and sends its request again.
                    if fresh or not isinstance(error, ConnectionError):
                        self.resets.append(repr(error))
                    raise
                fresh = False
                with self.lock:
                    self.answers += 1
                    if self.answers == 200:
                        self.warm.set()
                if not keep or response.headers.get('connection') == 'close':
                    return


class Clients(Busy):
    """Clients that send requests again and again, each on a new connection."""

    def __init__(self, site, count=4):
        super().__init__(count)
        self.site, self.answers, self.failures = site, [], []

    def do(self):
        try:
            with Connection(self.site.address) as connection:
                response = connection.get('/', connection='close')
            self.answers.append(json.loads(response.body)['pid'])
        except Exception as error:
            self.failures.append(error)

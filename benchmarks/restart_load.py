"""Closed-loop clients in their own process, which count the results of their requests."""

from __future__ import annotations

import array
import collections
import dataclasses
import errno
import heapq
import itertools
import multiprocessing
import selectors
import signal
import socket
import time

import rounds

#: The number of clients. Each sends its next request when it has its response; every
#: second client keeps its connection alive.
CLIENTS = 16

#: Seconds that a client waits for a response at most.
TIMEOUT = 10.0

#: Seconds that a client waits after a failure that HTTP clients do not repeat at once.
PAUSE = 0.01

#: The results of a request. 'repeatable' means that the server closed a kept-alive
#: connection before the first byte of the response: HTTP clients repeat such a request
#: (RFC 9112, 9.3.1).
KINDS = ('answered', 'refused', 'reset', 'timeout', 'truncated', '5xx', 'repeatable')

_REQUEST = b'GET / HTTP/1.1\r\nHost: localhost\r\nConnection: %s\r\n\r\n'


@dataclasses.dataclass
class Result:
    """The results of the requests until now.

    ``fresh`` counts KINDS on new connections, ``kept`` on connections that were used
    before. ``pages`` counts the versions of the pages, ``pids`` the processes that
    answered. ``latencies`` are the seconds of the answered requests, ``cpu`` is the
    clients' share of a processor's time; both are set only at the end.
    """

    fresh: collections.Counter[str]
    kept: collections.Counter[str]
    pages: collections.Counter[str]
    pids: collections.Counter[int]
    latencies: array.array[float] | None = None
    cpu: float = 0.0

    def failed(self, *kinds: str) -> int:
        """Return how many requests failed in these ways; by default, all but 'repeatable'."""
        kinds = kinds or KINDS[1:-1]
        return sum(self.fresh[kind] + self.kept[kind] for kind in kinds)

    @property
    def lost(self) -> int:
        """The number of requests without a whole response, also the repeatable ones."""
        return self.failed(*KINDS[1:])

    @property
    def asked(self) -> int:
        """The number of requests that have ended on fresh connections."""
        return self.fresh.total()


class Client:
    """One client in the loop of `Clients`: its connection and its present request."""

    def __init__(self, loop: Clients, keeps_alive: bool) -> None:
        self.loop, self.keeps_alive = loop, keeps_alive
        self.request = _REQUEST % (b'keep-alive' if keeps_alive else b'close')
        self.sock: socket.socket | None = None
        self.used = False
        self.began, self.response = 0.0, b''

    def ask(self) -> None:
        """Begin the next request."""
        self.began, self.response = time.perf_counter(), b''
        if self.sock is not None and self._is_closed():
            self.close()
        if self.sock is not None:
            self._send()
            return
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.used = False
        failure = self.sock.connect_ex(('127.0.0.1', self.loop.port))
        if failure in (0, errno.EINPROGRESS):
            self.loop.selector.register(
                self.sock, selectors.EVENT_WRITE, self._connected
            )
        else:
            self.end('refused')

    def _is_closed(self) -> bool:
        try:
            return not self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _connected(self) -> None:
        if self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.end('refused')
            return
        self.loop.selector.modify(self.sock, selectors.EVENT_READ, self._receive)
        self._send()

    def _send(self) -> None:
        try:
            self.sock.send(self.request)
        except ConnectionError:
            self._receive()  # there may be a response nevertheless

    def _receive(self) -> None:
        try:
            came = self.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            came = b''
        self.response += came
        if not came:
            self.end(self._how())
            return
        head, end, body = self.response.partition(b'\r\n\r\n')
        if not end:
            return
        if not head.startswith((b'HTTP/1.1 200 ', b'HTTP/1.0 200 ')):
            self.end('5xx')
            return
        headers = head.lower() + b'\r\n'
        if len(body) >= int(headers.partition(b'\ncontent-length:')[2].split()[0]):
            self._answered(head, headers, body)

    def _how(self) -> str:
        if self.response:
            return 'truncated'
        return 'repeatable' if self.used else 'reset'

    def _answered(self, head: bytes, headers: bytes, body: bytes) -> None:
        stays = self.keeps_alive and b'\nconnection: close\r' not in headers
        if (
            head.startswith(b'HTTP/1.0')
            and b'\nconnection: keep-alive\r' not in headers
        ):
            stays = False
        self.end('answered', stays, body)

    def end(self, kind: str, stays: bool = False, body: bytes = b'') -> None:
        """Note the result of the request; plan the next one."""
        self.loop.note(self, kind, body)
        if not stays:
            self.close()
        self.used = stays
        if kind in ('answered', 'repeatable'):
            self.loop.call_later(0, self.ask)
        else:
            self.loop.call_later(PAUSE, self.ask)

    def close(self) -> None:
        """Close its connection."""
        if self.sock is not None:
            if self.sock in self.loop.selector.get_map():
                self.loop.selector.unregister(self.sock)
            self.sock.close()
            self.sock = None


class Clients:
    """All clients in one thread, which also answers the process that measures."""

    def __init__(self, port: int, orders) -> None:
        self.port, self.orders = port, orders
        self.selector = selectors.DefaultSelector()
        self.selector.register(orders, selectors.EVENT_READ, self._obey)
        self.clients = [Client(self, bool(number % 2)) for number in range(CLIENTS)]
        self.result = Result(*(collections.Counter() for _ in range(4)))
        self.latencies = array.array('f')
        self._timers: list = []
        self._numbers = itertools.count()
        self._ends = False

    def call_later(self, seconds: float, function) -> None:
        """Call ``function`` after ``seconds``."""
        entry = time.perf_counter() + seconds, next(self._numbers), function
        heapq.heappush(self._timers, entry)

    def note(self, client: Client, kind: str, body: bytes) -> None:
        """Count the result of a request."""
        (self.result.kept if client.used else self.result.fresh)[kind] += 1
        if kind == 'answered':
            self.latencies.append(time.perf_counter() - client.began)
            version, pid = body.split()[:2]
            self.result.pages[version.decode()] += 1
            self.result.pids[int(pid)] += 1

    def run(self) -> None:
        """Send requests until the process that measures sends 'end'."""
        for client in self.clients:
            client.ask()
        self._look_for_timeouts()
        while not self._ends:
            due = max(self._timers[0][0] - time.perf_counter(), 0)
            for key, _ in self.selector.select(due):
                if key.fileobj in self.selector.get_map():
                    key.data()
            now = time.perf_counter()
            while self._timers[0][0] <= now:
                heapq.heappop(self._timers)[2]()

    def _look_for_timeouts(self) -> None:
        late = time.perf_counter() - TIMEOUT
        for client in self.clients:
            if client.sock is not None and client.began < late:
                client.end('timeout')
        self.call_later(0.5, self._look_for_timeouts)

    def _obey(self) -> None:
        if self.orders.recv() == 'end':
            self._ends = True
            self.result.latencies = self.latencies
            self.result.cpu = time.process_time()
        self.orders.send(self.result)


def _run(port: int, orders) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    Clients(port, orders).run()


class Load:
    """``with Load(port) as load:`` sends requests until the block ends, or until `end`."""

    def __init__(self, port: int) -> None:
        context = multiprocessing.get_context('fork')  # no threads run here
        self._orders, its = context.Pipe()
        self._process = context.Process(target=_run, args=(port, its), daemon=True)
        self._process.start()
        its.close()
        self._began = time.perf_counter()

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join(rounds.PATIENCE)
        self._orders.close()

    def so_far(self) -> Result:
        """Return the results of the requests until now."""
        return self._ask('tell')

    def end(self) -> Result:
        """Stop sending requests; return the results of all."""
        result = self._ask('end')
        result.cpu /= time.perf_counter() - self._began
        return result

    def _ask(self, order: str) -> Result:
        self._orders.send(order)
        if not self._orders.poll(rounds.PATIENCE):
            raise rounds.Unavailable('the clients do not answer')
        return self._orders.recv()

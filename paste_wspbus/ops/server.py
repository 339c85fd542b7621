"""The HTTP server of the ops listener: one thread, few connections, and a limit for each."""

from __future__ import annotations

import _socket
import contextlib
import email.utils
import math
import os
import selectors
import time
from typing import Protocol

from paste_wspbus.ops.access import Access, Refusal
from paste_wspbus.ops.history import History
from paste_wspbus.ops.making import Maker
from paste_wspbus.ops.pages import EVENTS, PAGES, Asked, Page
from paste_wspbus.ops.requests import MAX_HEAD, BadRequest, Request, read_head
from paste_wspbus.ops.streams import Streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from webob import Response

    from paste_wspbus.ops.snapshot import Snapshot

#: The number of connections at once. If another one comes, the oldest that has sent no
#: complete request is closed.
MAX_CONNECTIONS = 64

#: Seconds that a connection has from its beginning to its end.
TIME = 5.0

#: Seconds that a page may take which is made in a thread.
LONG = 30.0

#: Seconds that a page waits for an answer of the site; then it is made from an older one.
PATIENCE = 0.7

#: Seconds for which an answer of the site is fresh: the site is asked no more often.
FRESH = 0.25

#: The number of bytes that the system keeps for the client of an event stream. One that
#: does not read is noticed when they are full, and dropped TIME seconds later.
STREAM_BUFFER = 1 << 16

#: Seconds in which a client that has sent too much may read why it got no page.
LINGER = 1.0

#: Seconds for which no connection is accepted when the system can give none.
REST = 0.1

_HEADERS = (
    ('X-Content-Type-Options', 'nosniff'),
    ('Cache-Control', 'no-store'),
    ('Connection', 'close'),
)
_POLICY = "default-src 'none'; frame-ancestors 'none'"


class Source(Protocol):
    """Where the listener gets what it knows of the site. No method waits."""

    def snapshot(self) -> Snapshot:
        """Return what is known now."""

    def ask(self, kind: str) -> None:
        """Ask the site for an answer of a kind, which a later snapshot has."""

    def readers(self) -> Mapping[int, Callable[[], object]]:
        """Return descriptors, and what to call when there is something to read there."""


class Client:
    """One connection."""

    def __init__(self, sock: _socket.socket, is_local: bool) -> None:
        self.sock, self.is_local = sock, is_local
        self.until = time.monotonic() + TIME
        self.buffer, self.output = b'', b''
        self.request: Request | None = None
        #: The page that it waits for, since when, and whether it is being made.
        self.page: Page | None = None
        self.asked_at, self.is_made = 0.0, False
        #: Whether it has its response, and the server only waits for the end of what
        #: the client sends.
        self.lingers = False
        #: The events that it gets; None if it has asked for a page.
        self.stream: EventStream | None = None


class EventStream:
    """A connection that stays open, and gets events: see `Streams`."""

    def __init__(self, server: OpsServer, client: Client) -> None:
        self._server, self._client = server, client
        with contextlib.suppress(OSError):
            buffer = _socket.SOL_SOCKET, _socket.SO_SNDBUF, STREAM_BUFFER
            client.sock.setsockopt(*buffer)

    def send(self, data: bytes) -> None:
        """Send data; drop it if the client has not read the data before."""
        if not self._client.output:
            self._client.until = time.monotonic() + TIME
            self._client.output = data
            self._server.send(self._client)

    def end(self, data: bytes) -> None:
        """Send the last data, and close the connection when it is read."""
        self._client.stream = None
        self._client.until = time.monotonic() + TIME
        self._client.output += data
        self._server.send(self._client)


class OpsServer:
    """Answers HTTP requests with the pages of a table.

    It uses the sockets of C alone (`_socket`): a site may patch the others (gevent).

    :param sockets: they listen already, and do not block.
    """

    def __init__(
        self,
        sockets: Iterable[socket.socket],
        access: Access,
        source: Source,
        pages: Mapping[str, Page] = PAGES,
    ) -> None:
        self._sockets, self._access = list(sockets), access
        self._source, self._pages = source, pages
        self._selector = selectors.DefaultSelector()
        self._clients: dict[int, Client] = {}
        self._history = History()
        self._streams = Streams(source, self._history)
        self._wake_reader, self._waker = os.pipe()
        os.set_blocking(self._wake_reader, False)
        self._maker = Maker(self._ring)
        self._rests_until = 0.0
        self._is_stopped = False

    # -- the loop -----------------------------------------------------------------

    def serve(self) -> None:
        """Serve until `stop`."""
        for sock in self._sockets:
            self._selector.register(
                sock.fileno(), selectors.EVENT_READ, self._accepter(sock)
            )
        self._selector.register(self._wake_reader, selectors.EVENT_READ, self._wake)
        for fd, read in self._source.readers().items():
            self._selector.register(fd, selectors.EVENT_READ, read)
        while not self._is_stopped:
            for key, _ in self._selector.select(self._time_to_sleep()):
                # What came before it may have closed its connection to make room.
                if self._selector.get_map().get(key.fd) is key:
                    key.data()
            self._answer_those_that_wait()
            self._send_those_that_are_made()
            self._history.look(lambda: self._source.snapshot().numbers)
            self._streams.look()
            self._drop_late()

    def stop(self) -> None:
        """Let `serve` return soon; any thread and signal handler may call this."""
        self._is_stopped = True
        self._ring()

    def _ring(self) -> None:
        os.write(self._waker, b'.')

    def close(self) -> None:
        """Close the connections; the listening sockets stay open."""
        self._maker.end()
        self._streams.end()
        for client in list(self._clients.values()):
            self._close(client)
        self._selector.close()
        os.close(self._wake_reader)
        os.close(self._waker)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_reader, 4096)

    def _time_to_sleep(self) -> float:
        due = [self._history.due]
        due += [client.until for client in self._clients.values()]
        if self._streams.due is not None:
            due.append(self._streams.due)
        due += [
            client.asked_at + PATIENCE
            for client in self._clients.values()
            if client.page and not client.is_made
        ]
        if self._rests_until:
            due.append(self._rests_until)
        return max(min(due) - time.monotonic(), 0.0)

    def _drop_late(self) -> None:
        now = time.monotonic()
        for client in list(self._clients.values()):
            if client.until <= now:
                self._close(client)
        if self._rests_until and self._rests_until <= now:
            self._rests_until = 0.0
            for sock in self._sockets:
                self._selector.register(
                    sock.fileno(), selectors.EVENT_READ, self._accepter(sock)
                )

    # -- connections --------------------------------------------------------------

    def _accepter(self, sock: socket.socket) -> Callable[[], None]:
        is_local = sock.family == getattr(_socket, 'AF_UNIX', None)

        def accept() -> None:
            try:
                fd, _ = sock._accept()  # type: ignore[attr-defined]  # noqa: SLF001
            except (BlockingIOError, ConnectionAbortedError):  # the client is gone
                return
            except OSError:  # no descriptor is free, or no memory
                self._rest()
                return
            client_socket = _socket.socket(fileno=fd)
            client_socket.setblocking(False)
            if len(self._clients) >= MAX_CONNECTIONS:
                self._make_room()
            client = self._clients[fd] = Client(client_socket, is_local)
            self._selector.register(
                fd, selectors.EVENT_READ, lambda: self._read(client)
            )
            self._read(client)  # most requests are there already

        return accept

    def _rest(self) -> None:
        """Accept nothing for a moment: select(2) would report the connection for ever."""
        self._rests_until = time.monotonic() + REST
        for sock in self._sockets:
            self._selector.unregister(sock.fileno())

    def _make_room(self) -> None:
        clients = list(self._clients.values())  # the oldest first
        idle = [one for one in clients if one.request is None or one.lingers]
        idle = idle or [one for one in clients if one.stream is not None]
        self._close((idle or clients)[0])

    def _close(self, client: Client) -> None:
        fd = client.sock.fileno()
        if self._clients.pop(fd, None) is not None:
            with contextlib.suppress(KeyError):
                self._selector.unregister(fd)
        client.sock.close()
        if client.stream is not None:
            self._streams.remove(client.stream)

    def _read(self, client: Client) -> None:
        try:
            came = client.sock.recv(MAX_HEAD + 1)
        except BlockingIOError:
            return
        except OSError:
            came = b''
        if not came and client.page is not None:
            # The client has only ended what it sends, and may still read.
            self._selector.unregister(client.sock.fileno())
        elif not came:
            self._close(client)
        elif client.request is None and not client.lingers:
            client.buffer += came
            self._understand(client)

    def _wait(self, client: Client, event: int, then: Callable[[Client], None]) -> None:
        fd = client.sock.fileno()
        with contextlib.suppress(KeyError):
            self._selector.unregister(fd)
        self._selector.register(fd, event, lambda: then(client))

    def _understand(self, client: Client) -> None:
        try:
            request = read_head(client.buffer, client.is_local)
        except BadRequest as bad:
            self._refuse(client, Refusal(bad.status, str(bad)))
            return
        if request is None:
            return
        client.request, client.buffer = request, b''
        refusal = self._access.refuse(request)
        page = self._pages.get(request.path)
        if refusal is None and page is None:
            refusal = Refusal(404, 'there is no such page')
        elif refusal is None and not (page.is_open or self._access.sees_all(request)):  # type: ignore[union-attr]
            refusal = self._access.demand()
        if refusal is not None:
            self._refuse(client, refusal)
            return
        assert page is not None
        client.page, client.asked_at = page, time.monotonic()
        if page.needs and not self._is_fresh(page.needs, client.asked_at):
            self._source.ask(page.needs)
        if page.asks:
            self._source.ask(page.asks)
        self._answer_if_possible(client)

    # -- answers ------------------------------------------------------------------

    def _is_fresh(self, kind: str, at: float) -> bool:
        told = self._source.snapshot().told.get(kind)
        return told is not None and told.at >= at - FRESH

    def _answer_those_that_wait(self) -> None:
        for client in list(self._clients.values()):
            if client.page is not None and not client.is_made:
                self._answer_if_possible(client)

    def _answer_if_possible(self, client: Client) -> None:
        page, request = client.page, client.request
        assert page is not None and request is not None
        is_late = time.monotonic() >= client.asked_at + PATIENCE
        if (
            page.needs
            and not is_late
            and not self._is_fresh(page.needs, client.asked_at)
        ):
            return
        sees_all = page.is_open is False or self._access.sees_all(request)
        asked = Asked(request, self._source.snapshot(), sees_all)
        if page.takes_long:
            client.is_made, client.until = True, time.monotonic() + LONG
            key = request.path, request.accept, sees_all
            self._maker.add(key, lambda: page.make(asked), client)
            return
        client.page = None
        try:
            self._send_response(client, page.make(asked))
        except Exception as error:  # no page may end the listener
            self._fail(client, error)

    def _send_those_that_are_made(self) -> None:
        for client, response in self._maker.take():
            if client not in self._clients.values():
                continue
            client.page, client.until = None, time.monotonic() + TIME
            if isinstance(response, Exception):
                self._fail(client, response)
            else:
                self._send_response(client, response)

    def _fail(self, client: Client, error: Exception) -> None:
        why = f'the page cannot be made: {type(error).__name__}'
        self._refuse(client, Refusal(500, why))

    def _refuse(self, client: Client, refusal: Refusal) -> None:
        from webob import Response

        # WebOb does not know the reason phrase of 421.
        status = '421 Misdirected Request' if refusal.status == 421 else refusal.status
        response = Response(
            f'{refusal.why}\n',
            status=status,
            content_type='text/plain',
            charset='UTF-8',
        )
        response.headers.extend(refusal.headers)
        self._send_response(client, response)

    def _send_response(self, client: Client, response: Response) -> None:
        request = client.request
        is_head = request is not None and request.method == 'HEAD'
        if response.content_type == EVENTS and not is_head:
            client.stream = EventStream(self, client)
            self._streams.add(client.stream, serialized(response, with_body=False))
            return
        client.output = serialized(response, with_body=not is_head)
        # If bytes of the client stay unread, close(2) resets the connection, and the
        # client may lose the response.
        client.lingers = request is None or request.has_body
        self.send(client)

    def send(self, client: Client) -> None:
        """Send of the output of a client what the system takes; the loop does the rest."""
        try:
            sent = client.sock.send(client.output)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._close(client)
            return
        client.output = client.output[sent:]
        if client.output:
            self._wait(client, selectors.EVENT_WRITE, self.send)
        elif client.stream is not None:
            client.until = math.inf
            self._wait(client, selectors.EVENT_READ, self._read)
        elif client.lingers:
            with contextlib.suppress(OSError):
                client.sock.shutdown(_socket.SHUT_WR)
            client.until = min(client.until, time.monotonic() + LINGER)
            self._wait(client, selectors.EVENT_READ, self._read)
        else:
            self._close(client)


def serialized(response: Response, with_body: bool = True) -> bytes:
    """Return a response as bytes of HTTP/1.1, with the headers that all of them have.

    :param with_body: False for HEAD: then only the body is missing.
    """
    body = response.body if with_body else b''
    headers: list[tuple[str, Any]] = [
        ('Date', email.utils.formatdate(usegmt=True)),
        *response.headerlist,
        *_HEADERS,
    ]
    if 'Content-Security-Policy' not in response.headers:
        headers.append(('Content-Security-Policy', _POLICY))
    head = f'HTTP/1.1 {response.status}\r\n'
    head += ''.join(f'{name}: {value}\r\n' for name, value in headers)
    return head.encode('latin-1') + b'\r\n' + body

"""The HTTP server of the ops listener: one thread, few connections, and a limit for each."""

from __future__ import annotations

import _socket
import contextlib
import email.utils
import errno
import os
import selectors
import time
from typing import Protocol

from paste_wspbus.ops.access import Access, Refusal
from paste_wspbus.ops.pages import PAGES, Asked, Page
from paste_wspbus.ops.requests import MAX_HEAD, BadRequest, Request, read_head

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

#: The number of pages that stay open at most, and seconds between two of their events.
MAX_STREAMS, EVERY = 8, 1.0

#: Seconds that a page waits for an answer of the site; then it is made from an older one.
PATIENCE = 0.7

#: Seconds for which an answer of the site is fresh: the site is asked no more often.
FRESH = 0.25

#: Seconds in which a client that has sent too much may read why it got no page.
LINGER = 1.0

#: Seconds for which no connection is accepted when no descriptor is free.
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
        #: The page that waits for an answer of the site, and since when.
        self.page: Page | None = None
        self.asked_at = 0.0
        #: The page that stays open, the time.monotonic() of its next event, and what it has
        #: sent of: the answer's time, and the state.
        self.stream: Page | None = None
        self.next_event = 0.0
        self.sent_of: object = None
        #: Whether it has its response, and only the end of what it sends is awaited.
        self.lingers = False


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
        self._wake_reader, self._waker = os.pipe()
        os.set_blocking(self._wake_reader, False)
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
                key.data()
            self._answer_those_that_wait()
            self._send_events()
            self._drop_late()

    def stop(self) -> None:
        """Let `serve` return soon; any thread and signal handler may call this."""
        self._is_stopped = True
        os.write(self._waker, b'.')

    def close(self) -> None:
        """Close the connections; the listening sockets stay open."""
        for client in list(self._clients.values()):
            self._close(client)
        self._selector.close()
        os.close(self._wake_reader)
        os.close(self._waker)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_reader, 4096)

    def _time_to_sleep(self) -> float | None:
        due = [client.until for client in self._clients.values()]
        due += [
            client.asked_at + PATIENCE
            for client in self._clients.values()
            if client.page
        ]
        due += [one.next_event for one in self._streams()]
        if self._rests_until:
            due.append(self._rests_until)
        return max(min(due) - time.monotonic(), 0.0) if due else None

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
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
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
        idle = idle or self._streams()
        self._close((idle or clients)[0])

    def _close(self, client: Client) -> None:
        fd = client.sock.fileno()
        if self._clients.pop(fd, None) is not None:
            with contextlib.suppress(KeyError):
                self._selector.unregister(fd)
        client.sock.close()

    def _read(self, client: Client) -> None:
        try:
            came = client.sock.recv(MAX_HEAD + 1)
        except BlockingIOError:
            return
        except OSError:
            came = b''
        if not came and client.page is not None:
            # It has only ended what it sends, and may still read.
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
        elif refusal is None and page.event and len(self._streams()) >= MAX_STREAMS:  # type: ignore[union-attr]
            refusal = Refusal(503, f'{MAX_STREAMS} pages stay open already')
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

    # -- pages that stay open ----------------------------------------------------

    def _streams(self) -> list[Client]:
        return [one for one in self._clients.values() if one.stream is not None]

    def _send_events(self) -> None:
        for client in self._streams():
            page, request, now = client.stream, client.request, time.monotonic()
            assert page is not None and page.event is not None and request is not None
            if client.next_event <= now:
                client.next_event = now + EVERY
                self._source.ask(page.needs)
            snapshot = self._source.snapshot()
            told = snapshot.told.get(page.needs)
            is_of = told and told.at, snapshot.state
            if is_of == client.sent_of or client.output:
                continue  # there is nothing new, or it does not read
            client.sent_of = is_of
            try:
                client.output = page.event(Asked(request, snapshot, sees_all=True))
            except Exception:  # no page may end the listener
                self._close(client)
                continue
            if client.output:
                self._send(client)

    # -- answers ------------------------------------------------------------------

    def _is_fresh(self, kind: str, at: float) -> bool:
        told = self._source.snapshot().told.get(kind)
        return told is not None and told.at >= at - FRESH

    def _answer_those_that_wait(self) -> None:
        for client in list(self._clients.values()):
            if client.page is not None:
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
        client.page = None
        sees_all = page.is_open is False or self._access.sees_all(request)
        try:
            response = page.make(Asked(request, self._source.snapshot(), sees_all))
            if page.event is not None and request.method == 'GET':
                client.stream, client.next_event = page, 0.0
            self._send_response(client, response)
        except Exception as error:  # no page may end the listener
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
        response.headers.update(refusal.headers)
        self._send_response(client, response)

    def _send_response(self, client: Client, response: Response) -> None:
        request = client.request
        is_head = request is not None and request.method == 'HEAD'
        stays = client.stream is not None
        client.output = serialized(response, with_body=not is_head, stays=stays)
        # If bytes of the client stay unread, close(2) resets the connection, and the
        # client may lose the response.
        client.lingers = request is None or request.has_body
        self._send(client)

    def _send(self, client: Client) -> None:
        try:
            sent = client.sock.send(client.output)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._close(client)
            return
        client.output = client.output[sent:]
        if client.stream is not None:
            if sent:
                client.until = time.monotonic() + TIME + EVERY
            event = selectors.EVENT_WRITE if client.output else selectors.EVENT_READ
            self._wait(client, event, self._send if client.output else self._read)
        elif client.output:
            self._wait(client, selectors.EVENT_WRITE, self._send)
        elif client.lingers:
            with contextlib.suppress(OSError):
                client.sock.shutdown(_socket.SHUT_WR)
            client.until = min(client.until, time.monotonic() + LINGER)
            self._wait(client, selectors.EVENT_READ, self._read)
        else:
            self._close(client)


def serialized(
    response: Response, with_body: bool = True, stays: bool = False
) -> bytes:
    """Return a response as bytes of HTTP/1.1, with the headers that all of them have.

    :param with_body: False for HEAD: then only the body is missing.
    :param stays: whether more follows, so that the body ends with the connection.
    """
    body = response.body
    if stays:
        del response.content_length
    headers: list[tuple[str, Any]] = [
        ('Date', email.utils.formatdate(usegmt=True)),
        *response.headerlist,
        *_HEADERS,
    ]
    if 'Content-Security-Policy' not in response.headers:
        headers.append(('Content-Security-Policy', _POLICY))
    head = f'HTTP/1.1 {response.status}\r\n'
    head += ''.join(f'{name}: {value}\r\n' for name, value in headers)
    return head.encode('latin-1') + b'\r\n' + (body if with_body else b'')

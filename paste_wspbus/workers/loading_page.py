"""The process that answers browsers while the site is loading; other requests wait in it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time

from paste_wspbus.errorpage.page import LOADING_POLICY, accepts_html, loading_page
from paste_wspbus.exits import DONE
from paste_wspbus.wire.lines import read_order
from paste_wspbus.workers.orders import watch_for_the_end

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable
    from typing import Any, TypeVar

    from paste_wspbus.listening.sockets import ListeningSocket

    T = TypeVar('T')

#: The number of bytes that are read at once, and that the head of a request has at most.
READ, HEAD = 1 << 16, 1 << 17

#: What a browser wants to show as a page (the header Sec-Fetch-Dest, Fetch Metadata).
_PAGES = frozenset({'', 'document', 'frame', 'iframe'})


def show_loading(
    connection: socket.socket,
    sockets: Iterable[ListeningSocket],
    ready: Callable[[], object],
) -> None:
    """Answer browsers until the supervisor orders an end; return when all have an answer.

    :param connection: that to the supervisor.
    :param sockets: those of the site. They stay open in other processes.
    :param ready: is called when clients can connect.
    """
    watch_for_the_end(connection, None)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGQUIT, signal.SIG_IGN)  # its stacks say nothing of the site
    asyncio.run(LoadingPage([one.sock for one in sockets]).run(connection, ready))


class LoadingPage:
    """Accepts the connections of a site that is loading.

    A browser that asks for a page gets one, which asks again every second. Any other
    connection is held. When the site can accept connections, this connects to it, and
    passes on what the client has sent and sends.
    """

    def __init__(self, sockets: list[socket.socket]) -> None:
        self._sockets = sockets
        #: The time.monotonic() at which the load has begun, and the line where it is.
        self._since, self._place = time.monotonic(), ''
        self._over = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, connection: socket.socket, ready: Callable[[], object]) -> None:
        """Serve until the supervisor orders an end, or has ended."""
        loop = asyncio.get_running_loop()
        reader, _ = await asyncio.open_connection(sock=connection)
        for sock in self._sockets:
            sock.listen(socket.SOMAXCONN)  # in the first start, nothing listens yet
            loop.add_reader(sock, self._accept, sock)
        ready()
        async for line in reader:
            word, carried = read_order(line)
            if word == 'show':
                self._since, self._place = carried
            elif word in ('make_way', 'stop'):
                break
        else:
            os._exit(DONE)  # the supervisor has ended: nobody would serve the site
        for sock in self._sockets:
            loop.remove_reader(sock)
        self._over.set()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _accept(self, sock: socket.socket) -> None:
        try:
            client, _ = sock.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError:  # no descriptor is free, or the site stops
            asyncio.get_running_loop().remove_reader(sock)
            return
        task = asyncio.create_task(self._serve(client, sock))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, client: socket.socket, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the client has gone
            reader, writer = await asyncio.open_connection(sock=client)
            with contextlib.closing(writer):
                head = await self._read_head(reader)
                if not self._over.is_set() and wants_page(head):
                    writer.write(self._response(head))
                    await writer.drain()
                    return
                await self._over.wait()
                await _pass_on(head, reader, writer, listening)

    async def _read_head(self, reader: asyncio.StreamReader) -> bytes:
        """Read the head of a request, as far as it comes before the load is over."""
        head = b''
        while b'\r\n\r\n' not in head and len(head) < HEAD:
            came = await self._unless_over(reader.read(READ))
            if not came:
                break
            head += came
        return head

    async def _unless_over(self, reading: Coroutine[None, None, T]) -> T | None:
        task = asyncio.create_task(reading)
        over = asyncio.create_task(self._over.wait())
        await asyncio.wait({task, over}, return_when=asyncio.FIRST_COMPLETED)
        over.cancel()
        if task.done():
            return task.result()
        task.cancel()  # what comes from now on stays in the reader
        return None

    def _response(self, head: bytes) -> bytes:
        body = loading_page(time.monotonic() - self._since, self._place)
        lines = (
            'HTTP/1.1 503 Service Unavailable',
            'Content-Type: text/html; charset=utf-8',
            f'Content-Length: {len(body)}',
            f'Content-Security-Policy: {LOADING_POLICY}',
            'X-Content-Type-Options: nosniff',
            'Cache-Control: no-store',
            'Retry-After: 1',
            'Vary: Accept',
            'X-WSPBus-Problem: 1',
            'X-WSPBus-Problem-Tag: loading',
            'Connection: close',
            '',
            '',
        )
        top = '\r\n'.join(lines).encode()
        return top if head.startswith(b'HEAD ') else top + body


def wants_page(head: bytes) -> bool:
    """Whether the head of a request is that of a browser that wants to show a page."""
    top, end, _ = head.partition(b'\r\n\r\n')
    first, *lines = top.decode('latin-1').split('\r\n')
    method, _, rest = first.partition(' ')
    if not end or method not in ('GET', 'HEAD') or ' HTTP/1.' not in rest:
        return False
    fields = {}
    for line in lines:
        name, _, value = line.partition(':')
        fields[name.lower()] = value.strip()
    kind = fields.get('sec-fetch-dest', '').lower()
    # The page of an error asks by HEAD whether the site has changed.
    return accepts_html(fields.get('accept', '')) and (
        method == 'HEAD' or kind in _PAGES
    )


def closing(head: bytes) -> bytes:
    """Return the beginning of a request which asks the server to close the connection.

    Else a client would keep the connection, and each later request would take this way.
    A request for another protocol (websockets), and what is no request, stays as it is.
    """
    top, end, rest = head.partition(b'\r\n\r\n')
    first, *lines = top.split(b'\r\n')
    names = [line.partition(b':')[0].strip().lower() for line in lines]
    if not end or b'upgrade' in names or not first.endswith((b'/1.1', b'/1.0')):
        return head
    kept = [
        line
        for name, line in zip(names, lines, strict=True)
        if name not in (b'connection', b'keep-alive')
    ]
    return b'\r\n'.join([first, *kept, b'Connection: close']) + end + rest


async def _pass_on(
    head: bytes,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    listening: socket.socket,
) -> None:
    """Connect to the site in the place of a client, and copy both ways until it closes."""
    loop, sock = asyncio.get_running_loop(), socket.socket(listening.family)
    sock.setblocking(False)
    try:
        await loop.sock_connect(sock, _reachable(listening))
    except OSError:  # the site has stopped, or its socket has another path now
        sock.close()
        return
    site_reader, site_writer = await asyncio.open_connection(sock=sock)
    with contextlib.closing(site_writer):
        site_writer.write(closing(head))
        upwards = asyncio.create_task(_copy(reader, site_writer))
        try:
            await _copy(site_reader, writer)
        finally:
            upwards.cancel()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while came := await reader.read(READ):
            writer.write(came)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


def _reachable(listening: socket.socket) -> Any:
    """Return the address at which this machine reaches a listening socket."""
    name = listening.getsockname()
    anywhere = {'0.0.0.0': '127.0.0.1', '::': '::1'}
    if isinstance(name, tuple) and name[0] in anywhere:
        return (anywhere[name[0]], *name[1:])
    return name

"""What waitress reports to an access log: its tasks know what was sent, and when."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from time import monotonic

from waitress.channel import ClientDisconnected
from waitress.task import ErrorTask
from waitress.utilities import InternalServerError

from paste_wspbus.reference import REQUEST_ID_KEY
from paste_wspbus.servers.arriving import DONE, RECEIVED_KEY, UNUSUAL, Known
from paste_wspbus.servers.waitress_fast import OneSend
from paste_wspbus.servers.waitress_heads import FastHead

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: tcpi_last_data_recv in the tcp_info of Linux (linux/tcp.h): for how many milliseconds
#: the system has had the last bytes that came.
_HAS_FOR = struct.Struct('=52xI')

#: Shorter times than these seconds are not certain: the system's clock often ticks so
#: slowly.
_TICK = 0.004

#: The end of a request whose client did not take the whole response.
ABORTED = 'aborted'

#: How the line of a request that was answered is made from its task ``x``.
KNOWN = Known(
    arguments='x, since, received',
    before=('environ = x.environ', 'now = monotonic()'),
    texts={},
    status='x.status',
    numbers={
        'bytes': 'x.content_bytes_written or x.size()',
        'waited_us': 'trunc((since - received) * 1e6)',
        'spent_us': 'trunc((now - since) * 1e6)',
    },
    end=DONE,
)

#: A `FastParser` has a ``line`` only if none of its characters needs an escape in a
#: log.
TEXTS = {
    'line': 'x.request.line',
    'uri': 'x.request.line and x.request.request_uri',
    'path': "x.request.line and x.request.request_uri.partition('?')[0]",
}


def arrival(channel: Any) -> float:
    """Return the time.monotonic() at which the request of a channel had arrived.

    While all threads of all workers are busy, a connection waits in the backlog, with
    its first request. The channel does not know that time; the system does.
    """
    used: float = channel.used
    if channel.answered is None:
        arrived = monotonic() - has_bytes_for(channel.socket)
        if arrived < used - _TICK:
            return arrived
    return used


def has_bytes_for(sock: socket.socket) -> float:
    """Return the seconds since the system got the last bytes of a connection.

    :returns: 0.0 if the system does not say it: Linux does, of TCP.
    """
    with contextlib.suppress(OSError, AttributeError, struct.error):
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _HAS_FOR.size)
        return float(_HAS_FOR.unpack(info)[0]) / 1000
    return 0.0


def has_gone(sock: socket.socket) -> bool:
    """Whether the client of a connection has reset it, as far as the system says that."""
    if not hasattr(select, 'poll'):  # Windows
        return False
    poll = select.poll()
    try:
        poll.register(sock, 0)  # poll(2) always reports POLLHUP and POLLERR
    except (TypeError, ValueError):
        return True  # it was closed meanwhile
    return bool(poll.poll(0))


def noting(adapter: Any, task: type) -> tuple[type, type]:
    """Return classes of tasks that note what the access log needs, or the arrival of a request.

    :param adapter: if it has an ``access_log``, that gets the tasks: to an `AccessLog`, a
        task is an exchange. If it ``notes_arrival``, ``environ`` has the time.
    :param task: the class of the tasks of the application.
    :returns: the class for them, and that for requests that waitress refuses itself.
    """
    if adapter.notes_arrival:
        task = type('Arriving', (_Arriving, task), {})
    log = adapter.access_log
    if log is None:
        return task, ErrorTask
    name = 'write_more' if issubclass(task, OneSend) else 'write'
    write_of = getattr(task, name)

    def write(self: Any, data: Any) -> None:
        write_of(self, data)
        if self.content_length is None:
            self.counted += len(data)

    service = _service(log, issubclass(task, FastHead))
    logged = {'log': log, 'service': service, name: write}
    log.open_in_server = lambda: _in_service(log) if adapter.load_now().busy else []
    refused = type('Refused', (_Refused,), {'log': log})
    return type('Logged', (_Logged, task), logged), refused


def _service(log: Any, has_head: bool) -> Callable[[Any], None]:
    """Return the method ``service`` of a task that is logged.

    :param has_head: whether most of its requests have a ``head``, see `FastParser`.
    """
    known = KNOWN._replace(texts=TEXTS, head='x.request.head') if has_head else KNOWN
    line, ids = log.line_of(known), log.ids

    def service(self: Any) -> None:
        channel = self.channel
        received = channel.used if channel.answered is not None else arrival(channel)
        self.received = received
        since = self.since = monotonic()
        if ids is not None:
            environ = self.get_environment()
            try:
                gives = self.request.head.has_id
            except AttributeError:
                gives = True
            if gives:
                _give_id(ids, environ, self.request)
            else:
                environ[REQUEST_ID_KEY] = ids.new()
        try:
            self.start()
            self.execute()
            self.finish()
        except BaseException as error:
            if self.fails(error):
                raise
            return
        if channel.total_outbufs_len and has_gone(channel.socket):
            self.sent = self.content_bytes_written or self.given()
            self.ends(ABORTED)
            return
        self.since = None
        # This order: `AccessLog.stop` looks later for those that have not ended.
        if log.is_stopping:
            self.since = since
            self.ends(DONE)
            return
        try:
            line(self, since, received)
        except UNUSUAL:
            sent, now = self.content_bytes_written or self.size(), monotonic()
            parts = self.environ, self.status, sent, since, received, now, DONE
            log.careful(self, *parts)

    return service


def _give_id(ids: Any, environ: dict[str, Any], request: Any) -> None:
    """Give a request its id, and note whether others with the same head need more than a new one."""
    ids.give(environ)
    head = getattr(request, 'head', None)
    if head is not None:
        head.has_id = 'X_REQUEST_ID' in head or 'TRACEPARENT' in head


def _in_service(log: Any) -> list[Any]:
    """Return the tasks that threads work on, and that have not ended.

    Only a stop with such threads needs it; so serving costs nothing for it.
    """
    from paste_wspbus.servers.cutting import stacks_by_owner

    tasks = {stack.find(_Logged) for stack in stacks_by_owner().values()}
    return [
        task.stopped()
        for task in tasks
        if isinstance(task, _Logged) and task.log is log and task.is_open()
    ]


class _Arriving:
    def get_environment(self: Any) -> Any:
        environ = super().get_environment()  # type: ignore[misc]
        if RECEIVED_KEY not in environ:
            environ[RECEIVED_KEY] = arrival(self.channel)
        return environ


class _Logged:
    """A request and its response; see `paste_wspbus.ready.accesslog.filter.Exchange`."""

    log: Any
    #: The bytes that the application has given after the chunk that `OneSend` has joined:
    #: without Content-Length, waitress does not count them.
    counted = joined = 0
    #: Whether it is logged; a request that was answered has no ``since`` any more, either.
    has_ended = False
    #: The number of bytes that were sent, if it is known.
    sent = None

    def is_open(self) -> bool:
        """Whether the request has begun, and has not ended."""
        return not self.has_ended and getattr(self, 'since', None) is not None

    def fails(self: Any, error: BaseException) -> bool:
        """Log a request whose task has failed; return whether waitress raises the error."""
        is_quiet = isinstance(error, OSError) and not self.channel.adj.log_socket_errors
        if isinstance(error, OSError):
            self.close_on_finish = True
        self._fails(error, is_answered=not is_quiet and not self.wrote_header)
        return not is_quiet

    def ends(self: Any, end: str) -> None:
        """Log the request, unless a stop has done it."""
        if end is DONE:
            self.sent = self.content_bytes_written or self.size()
        self.has_ended = True
        if self.log.is_stopping:
            self.log.take_last(self, end)
        else:
            self.log.log(self, end)

    def stopped(self: Any) -> Any:
        """Note what was sent when the site stopped; return this."""
        if self.wrote_header:
            self.sent = self.content_bytes_written or self.given()
        else:
            self.status = ''
        return self

    def given(self: Any) -> int:
        """Return the bytes of a body without Content-Length: waitress does not count them."""
        return int(self.joined + self.counted) if self.content_length is None else 0

    def size(self: Any) -> int:
        """Return the bytes of a body that waitress has not counted: of a file, for example."""
        length = self.content_length
        if not self.has_body:
            return 0
        if length is None:
            return int(self.given())
        is_head = self.environ['REQUEST_METHOD'] == 'HEAD'
        return 0 if is_head else int(length)

    def _fails(self: Any, error: BaseException, is_answered: bool) -> None:
        """Log the request.

        :param is_answered: whether waitress answers 500, if the client is there.
        """
        is_gone = isinstance(error, ClientDisconnected) or not self.channel.connected
        self.sent = self.content_bytes_written or self.given()
        if not self.wrote_header:
            self.status = '500' if is_answered and not is_gone else ''
            self.sent = None
        self.ends(ABORTED if is_gone else 'error')

    @property
    def headers(self: Any) -> Any:
        """The headers of the response."""
        return self.response_headers


class _Refused(ErrorTask):  # type: ignore[misc]
    """The answer to a request that waitress does not give to the application."""

    log: Any

    def service(self) -> None:
        request = self.request
        self.since, self.received = monotonic(), None
        super().service()
        if isinstance(request.error, InternalServerError):
            return  # an error of the application, whose task is logged
        # From a head that waitress cannot read, it has no method or path.
        self.environ = {
            'REMOTE_ADDR': self.channel.addr[0],
            'REQUEST_METHOD': getattr(request, 'command', None),
            'REQUEST_URI': getattr(request, 'request_uri', None),
            'SERVER_PROTOCOL': f'HTTP/{request.version}',
        }
        self.sent, self.headers = self.content_bytes_written, self.response_headers
        self.log.log(self, 'refused')

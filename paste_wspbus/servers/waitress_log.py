"""What waitress reports to an access log: its tasks know what was sent, and when."""

from __future__ import annotations

from time import monotonic

from waitress.channel import ClientDisconnected
from waitress.task import ErrorTask
from waitress.utilities import InternalServerError

from paste_wspbus.servers.arriving import DONE, RECEIVED_KEY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


#: How an access log computes fields of a request that was answered, from its task ``x``:
#: with fewer look-ups than from ``environ``. What is None, or '', is unknown.
KNOWN = {
    'client': "x.environ['REMOTE_ADDR']",
    'user': "('REMOTE_USER' in x.environ and x.environ['REMOTE_USER'])",
    'method': 'x.request.command',
    'uri': 'x.request.request_uri',
    'referer': "('REFERER' in x.request.headers and x.request.headers['REFERER'])",
    'agent': "('USER_AGENT' in x.request.headers and x.request.headers['USER_AGENT'])",
    'request_id': "x.environ['wspbus.request_id']",
    'bytes': 'x.sent',
    'waited_us': 'trunc((x.since - x.received) * 1e6)',
}


def noting(adapter: Any, task: type) -> tuple[type, type]:
    """Return classes of tasks that note what the adapter of waitress is asked for.

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
    write_of = task.write  # type: ignore[attr-defined]

    def write(self: Any, data: Any) -> None:
        write_of(self, data)
        if self.content_length is None:
            self.counted += len(data)

    line = staticmethod(log.line_of(KNOWN))
    logged = {'log': log, 'line': line, 'write': write}
    log.open_in_server = lambda: _in_service(log) if adapter.load_now().busy else []
    refused = type('Refused', (_Refused,), {'log': log})
    return type('Logged', (_Logged, task), logged), refused


def _in_service(log: Any) -> list[Any]:
    """Return the tasks that threads work on, and that have not ended.

    Only a stop with such threads needs it; so serving costs nothing for it.
    """
    from paste_wspbus.servers.cutting import stacks_by_owner

    tasks = {stack.find(_Logged) for stack in stacks_by_owner().values()}
    return [
        task.stopped()
        for task in tasks
        if isinstance(task, _Logged) and task.log is log and not task.has_ended
    ]


class _Arriving:
    def get_environment(self: Any) -> Any:
        environ = super().get_environment()  # type: ignore[misc]
        # When the last byte was received.
        environ.setdefault(RECEIVED_KEY, self.channel.used)
        return environ


class _Logged:
    """A request and its response; see `paste_wspbus.ready.accesslog.filter.Exchange`."""

    log: Any
    line: Any
    #: The bytes that the application has given: without Content-Length, waitress does not
    #: count them.
    counted = 0
    #: Whether its end is known, and the number of bytes that were sent.
    has_ended, sent = False, None

    def service(self: Any) -> None:
        log = self.log
        self.since, self.received = monotonic(), self.channel.used
        if log.ids is not None:
            log.ids.give(self.get_environment())
        try:
            try:
                self.start()
                self.execute()
                self.finish()
            except OSError as error:  # as waitress's own method
                self.close_on_finish = True
                if self.channel.adj.log_socket_errors:
                    raise
                self._fails(error, is_answered=False)
                return
        except BaseException as error:
            self._fails(error, is_answered=not self.wrote_header)
            raise
        self.has_ended = True
        # This order: `AccessLog.stop` looks for those that have not ended later.
        if log.is_stopping:
            self._ends(DONE)
            return
        self.sent = self.content_bytes_written or self._size()
        try:
            self.line(self, monotonic(), DONE)
        except KeyError:  # the application has removed something from environ
            log.log(self, DONE)

    def _ends(self: Any, end: str) -> None:
        """Log the request, unless a stop has done it."""
        if end is DONE:
            self.sent = self.content_bytes_written or self._size()
        self.has_ended = True
        if self.log.is_stopping:
            self.log.take_last(self, end)
        else:
            self.log.log(self, end)

    def stopped(self: Any) -> Any:
        """Note what was sent when the site stopped; return this."""
        if self.wrote_header:
            self.sent = self.content_bytes_written or int(self.counted)
        else:
            self.status = ''
        return self

    def _size(self: Any) -> int:
        """Return the bytes of a body that waitress has not counted: of a file, for example."""
        length = self.content_length
        if not self.has_body:
            return 0
        if length is None:
            return int(self.counted)
        is_head = self.environ['REQUEST_METHOD'] == 'HEAD'
        return 0 if is_head else int(length)

    def _fails(self: Any, error: BaseException, is_answered: bool) -> None:
        """Log the request.

        :param is_answered: whether waitress answers 500, if the client is there.
        """
        is_gone = isinstance(error, ClientDisconnected) or not self.channel.connected
        self.sent = self.content_bytes_written or int(self.counted)
        if not self.wrote_header:
            self.status = '500' if is_answered and not is_gone else ''
            self.sent = None
        self._ends('aborted' if is_gone else 'error')

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
        # Of a head that waitress cannot read, it knows nothing.
        self.environ = {
            'REMOTE_ADDR': self.channel.addr[0],
            'REQUEST_METHOD': getattr(request, 'command', None),
            'REQUEST_URI': getattr(request, 'request_uri', None),
            'SERVER_PROTOCOL': f'HTTP/{request.version}',
        }
        self.sent, self.headers = self.content_bytes_written, self.response_headers
        self.log.log(self, 'refused')

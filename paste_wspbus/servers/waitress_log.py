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


def noting(adapter: Any, task: type) -> tuple[type, type]:
    """Return classes of tasks that note what the adapter of waitress is asked for.

    :param adapter: if it has an ``access_log``, that gets the tasks: to an `AccessLog`, a
        task is an exchange. If it ``notes_arrival``, ``environ`` has the time.
    :param task: the class of the tasks of the application.
    :returns: the class for them, and that for requests that waitress refuses itself.
    """
    if adapter.notes_arrival:
        task = type('Arriving', (_Arriving, task), {})
    if adapter.access_log is None:
        return task, ErrorTask
    write_of = task.write  # type: ignore[attr-defined]

    def write(self: Any, data: Any) -> None:
        write_of(self, data)
        if self.content_length is None:
            self.counted += len(data)

    parts = {'log': adapter.access_log}
    logged = {**parts, 'write': write}
    refused = type('Refused', (_Refused,), parts)
    return type('Logged', (_Logged, task), logged), refused


class _Arriving:
    def get_environment(self: Any) -> Any:
        environ = super().get_environment()  # type: ignore[misc]
        # When the last byte was received.
        environ.setdefault(RECEIVED_KEY, self.channel.used)
        return environ


class _Logged:
    """A request and its response; see `paste_wspbus.ready.accesslog.filter.Exchange`."""

    log: Any
    sent: int | None = 0
    #: The bytes that the application has given: without Content-Length, waitress does not
    #: count them.
    counted = 0

    def service(self: Any) -> None:
        log = self.log
        self.since = now = monotonic()
        self.waited = now - self.channel.used
        if log.ids is not None:
            log.ids.give(self.get_environment())
        log.open[self] = None
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
        self.sent = self.content_bytes_written or self._size()
        log.take(self, DONE)

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
        self.log.take(self, 'aborted' if is_gone else 'error')

    def is_begun(self: Any) -> bool:
        """Whether the status was sent."""
        return bool(self.wrote_header)

    @property
    def headers(self: Any) -> Any:
        """The headers of the response."""
        return self.response_headers


class _Refused(ErrorTask):  # type: ignore[misc]
    """The answer to a request that waitress does not give to the application."""

    log: Any

    def service(self) -> None:
        request = self.request
        self.since, self.waited = monotonic(), None
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
        self.log.open[self] = None
        self.log.take(self, 'refused')

"""The access log: a line for each request, as a plugin and as a filter."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from time import monotonic

from paste_wspbus.errors import SettingError
from paste_wspbus.plugins import Plugin, on
from paste_wspbus.plugins.kinds import Seconds
from paste_wspbus.ready.accesslog.filter import Logged
from paste_wspbus.ready.accesslog.lines import read_format
from paste_wspbus.ready.accesslog.writer import STANDARD, Writer, writes_at_once
from paste_wspbus.reference import REQUEST_ID_KEY
from paste_wspbus.requests.ids import Ids
from paste_wspbus.servers.arriving import DONE, UNUSUAL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from paste_wspbus.bus import Bus
    from paste_wspbus.ready.accesslog.filter import Exchange
    from paste_wspbus.ready.accesslog.lines import Format
    from paste_wspbus.requests.filter import WSGIApp
    from paste_wspbus.servers.arriving import Known

#: How a request ended that the stop of the site cut.
CUT = 'cut'

#: Seconds that the stop of the site waits for the file at most.
LAST = 1.0


def accesslog(
    bus: Bus,
    global_conf: Mapping[str, Any],
    file: Path,
    format: str = 'combined',
    query: bool = True,
    flush: Seconds = 1.0,  # type: ignore[assignment]
    trusted_proxies: list[str] | None = None,
) -> AccessLog:
    """Writes a line for each request to a file.

    file is the file; /dev/stdout is standard output. format is combined, common, json, json
    with names of fields, or a text with {fields}. query = false leaves queries out. flush is
    the time after which lines are written. From trusted_proxies (their addresses), the header
    X-Request-Start says when a request came.
    """
    check_settings({'file': file, 'format': format, 'query': query})
    form = read_format(format, query, bool(trusted_proxies))
    return AccessLog(bus, str(file), form, flush, trusted_proxies or ())


def make_filter(
    global_conf: dict[str, Any], **local_conf: str
) -> Callable[[WSGIApp], WSGIApp]:
    """Make the filter of ``use = egg:paste_wspbus#accesslog``; it has the keys of the plugin.

    Its entry point is in the group paste.filter_factory.

    :raises ConfigError: if a key is wrong.
    """
    from paste_wspbus.handoff import get_bus  # a plugin needs none of these
    from paste_wspbus.ini.factories import making
    from paste_wspbus.ini.typed import converted

    bus = get_bus(global_conf)
    file, section = making[-1] if making else (global_conf.get('__file__'), None)
    settings = converted(accesslog, local_conf, file, section)
    log = accesslog(bus, global_conf, **settings)
    log.subscribe()
    return log.around


def check_settings(settings: Mapping[str, Any]) -> None:
    """Check what no type says; ``wspserve --check`` calls this, too.

    :raises SettingError: if the file cannot be there, or the format is wrong.
    """
    if 'format' in settings:
        try:
            read_format(settings['format'])
        except SettingError as error:
            raise SettingError('format', error.problem) from None
    path = str(settings['file'])
    if path in STANDARD:
        return
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path):
        raise SettingError('file', f'{path} is a folder')
    if not os.path.isdir(folder):
        raise SettingError('file', f'there is no folder {folder}')
    try:
        kind = os.stat(path).st_mode
    except OSError:
        return
    if stat.S_ISSOCK(kind):
        raise SettingError('file', f'{path} is a socket')


class OwnIds(Ids):
    """Gives each request its id in a site whose filter does not do that."""

    def give(self, environ: dict[str, Any]) -> None:
        """Put the id of a request into ``environ``, unless it has one."""
        if REQUEST_ID_KEY in environ:
            return
        if 'HTTP_X_REQUEST_ID' in environ or 'HTTP_TRACEPARENT' in environ:
            environ[REQUEST_ID_KEY] = self.of(environ)
        else:
            environ[REQUEST_ID_KEY] = self.new()


class AccessLog(Plugin):
    """Logs requests; each application that it wraps in a `Logged` reports to it.

    :param path: the file.
    :param form: the format of its lines.
    :param seconds: see `Writer`.
    :param proxies: the addresses whose header X-Request-Start counts.
    """

    def __init__(
        self,
        bus: Bus,
        path: str,
        form: Format,
        seconds: float = 1.0,
        proxies: Iterable[str] = (),
    ) -> None:
        super().__init__(bus)
        self.path, self._form = path, form
        #: The key in ``environ`` by which each request gets one line in a file.
        self.key = f'wspbus.accesslog:{path}'
        self.proxies = frozenset(proxies)
        flush = 0 if writes_at_once() else seconds
        self.writer = Writer(path, bus.log, flush)
        #: The requests in flight.
        self.open: dict[Exchange, None] = {}
        self._asks_id = 'request_id' in form.fields
        #: Makes the ids of requests, if nothing else does it.
        self.ids: OwnIds | None = OwnIds() if self._asks_id else None
        self._compile(None, 1)
        #: Whether the stop of the site has logged what was open.
        self.is_stopping = False
        #: Returns the requests that the server logs, and that are not answered yet.
        self.open_in_server: Callable[[], list[Any]] = list
        #: Those that ended while the site stopped, each with the end that counts.
        self._last: dict[Any, object] = {}
        self._asks_waited = 'waited_us' in form.fields

    @on('start', priority=5)
    def start(self) -> None:
        """Open the file.

        :raises CannotOpen: if that is impossible.
        """
        self.is_stopping = False
        self._last.clear()
        sitelog: Any = self.bus.plugins.get('sitelog')
        number = getattr(sitelog, 'process', '').rpartition(' ')[2]
        self._compile(
            int(number) if number.isdecimal() else None,
            getattr(sitelog, 'generation', 1),
        )
        # A filter that watches requests makes ids itself.
        has_ids = hasattr(self.bus.plugins.get('requests'), 'ids')
        self.ids = OwnIds() if self._asks_id and not has_ids else None
        self.writer.start()

    @on('stop', priority=float('inf'))
    def stop(self) -> None:
        """Log the requests that are still open, and write everything.

        This is the last listener: what stops before may wait for requests.
        """
        self.is_stopping = True
        for exchange in list(self.open):
            if not exchange.is_begun():
                exchange.status, exchange.sent = '', None
            self.take(exchange, CUT)
        for task in self.open_in_server():
            self.take_last(task, CUT)
        remaining = max(self.bus.deadline.until - monotonic(), 0) / 2
        self.writer.stop(min(LAST, remaining))

    @on('reopen_logs')
    def reopen(self) -> None:
        """Write everything, and open the file anew by its path; if that fails, log it."""
        try:
            self.writer.reopen()
        except OSError as error:
            why = error.strerror or error
            self.bus.log(f'Cannot reopen {self.path}: {why}; the old file is used', 40)

    def wrap_application(self, app: WSGIApp) -> WSGIApp:
        """Return an application whose requests are logged, by the server if it does that."""
        server: Any = self.bus.plugins.get('server')
        if getattr(server, 'access_log', self) is None:  # it has none yet
            server.access_log = self
            return app
        return self.around(app)

    def around(self, app: WSGIApp) -> Logged:
        """Return an application whose requests are logged, whichever server there is."""
        server: Any = self.bus.plugins.get('server')
        if self._asks_waited and hasattr(server, 'notes_arrival'):
            server.notes_arrival = True
        return Logged(app, self)

    def take(self, exchange: Any, end: str) -> None:
        """Make the line of a request, once: some servers close a response twice.

        :param exchange: what is in ``open``.
        :param end: how it ended.
        """
        if self.open.pop(exchange, self) is not self:
            self.log(exchange, end)

    def log(self, exchange: Any, end: str) -> None:
        """Make the line of a request.

        :param exchange: an `Exchange`, or what has the same attributes.
        :param end: how it ended.
        """
        if end is not DONE and self.is_cutting():
            end = CUT
        x, now = exchange, monotonic()
        parts = x.environ, x.status, x.sent, x.since, x.received, now, end
        try:
            self._line(x, *parts)
        except UNUSUAL:
            self.careful(x, *parts)

    def take_last(self, exchange: Any, end: str) -> None:
        """Make the line of a request that ends while the site stops: it may end twice."""
        token = object()
        if self._last.setdefault(exchange, token) is token:
            self.log(exchange, end)

    def line_of(self, known: Known) -> Callable[..., None]:
        """Return the function that makes the line of a request, see `Format.compiled`."""
        return self._form.compiled(self.writer, self._constants, known)

    def _compile(self, worker: int | None, generation: int) -> None:
        pid = os.getpid()
        self._constants = {'worker': worker, 'generation': generation, 'pid': pid}
        self._line = self._form.compiled(self.writer, self._constants)
        self.careful = self._form.compiled(
            self.writer, self._constants, is_careful=True
        )

    def is_cutting(self) -> bool:
        """Whether the server cuts requests now, or has done it."""
        server = self.bus.plugins.get('server')
        return self.is_stopping or bool(getattr(server, 'has_cut', False))

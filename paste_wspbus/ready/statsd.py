"""`egg:paste_wspbus#statsd`: each request of the site, as StatsD and Datadog's agent read it."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import Counter, deque

from paste_wspbus.errors import SettingError
from paste_wspbus.plugins import on
from paste_wspbus.ready.part import Part
from paste_wspbus.requests.metered import meter_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from paste_wspbus.bus import Bus
    from paste_wspbus.requests.ledger import Series

#: Seconds between two sends.
EVERY = 1.0

#: The number of requests that are kept until then at most.
MOST = 20_000

#: The number of bytes of a datagram at most: what an Ethernet frame has room for.
DATAGRAM = 1432

#: Seconds until the name of the host is looked up again.
AGAIN = 60.0

#: The characters that a name may not have, because StatsD gives them a meaning (':',
#: '|', '@', '#'); and those that a tag may not have.
_NOT_IN_NAME = re.compile(r'[^A-Za-z0-9_-]+')
_NOT_IN_TAG = re.compile(r'[\s,|#@]+')


def check_settings(settings: Mapping[str, Any]) -> None:
    """Check what the types of the settings do not say: the port.

    :raises SettingError: if it is none.
    """
    port = settings.get('port')
    if port is not None and not 0 < port < 65536:
        raise SettingError('port', f'{port} is not from 1 to 65535')


class Statsd(Part):
    """Sends a counter and a time for each request, by UDP, from a thread of its own.

    No request waits for it. What cannot be sent is lost.

    :param tags: such as ``env:prod,site:shop``. With them, the method, the status and the
        route are tags, too, in the format of DogStatsD; else they are parts of the name.
    """

    def __init__(
        self,
        bus: Bus,
        global_conf: dict[str, str],
        host: str = '127.0.0.1',
        port: int = 8125,
        prefix: str = 'wspbus',
        tags: str = '',
    ) -> None:
        super().__init__(bus, 'statsd')
        try:
            check_settings({'port': port})
        except SettingError as error:
            raise self.wrong('port', error.problem) from None
        self.host, self.port = host, port
        self.prefix = '.'.join(map(_name, prefix.split('.')))
        words = (word.strip() for word in tags.split(','))
        self.tags = [_NOT_IN_TAG.sub('_', word) for word in words if word]
        self._requests: deque[tuple[Series, float]] = deque(maxlen=MOST)
        self._ends = threading.Event()
        self._thread: threading.Thread | None = None
        self._socket: socket.socket | None = None
        self._not_before = 0.0
        meter_of(bus).sinks.append(self._note)

    def _note(self, series: Series, seconds: float) -> None:
        self._requests.append((series, seconds))

    @on('start', priority=20)
    def start(self) -> None:
        """Start the thread that sends."""
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, name='statsd', daemon=True)
        self._thread.start()

    @on('stop', priority=80)
    def stop(self) -> None:
        """Send the rest; the server has stopped."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._ends.set()
            thread.join(EVERY)

    def _run(self) -> None:
        ends = self._ends
        while not ends.wait(EVERY):
            self._send()
        self._send()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self) -> None:
        requests = []
        while self._requests:
            requests.append(self._requests.popleft())
        if not requests or not self._connect():
            return
        assert self._socket is not None
        for datagram in packed(self.lines(requests)):
            try:
                self._socket.send(datagram)
            except OSError:  # nobody listens, or the system's buffer is full
                continue

    def _connect(self) -> bool:
        if self._socket is not None:
            return True
        if time.monotonic() < self._not_before:
            return False
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_DGRAM)
            family, kind, protocol, _, address = found[0]
            self._socket = socket.socket(family, kind, protocol)
            self._socket.setblocking(False)
            self._socket.connect(address)
        except (OSError, UnicodeError) as error:
            if self._socket is not None:
                self._socket.close()
            self._socket, self._not_before = None, time.monotonic() + AGAIN
            what = f'{self.host}:{self.port} cannot be reached: {error}'
            self.say(f'{what}. The next try is in {AGAIN:g} s', 30)
        return self._socket is not None

    def lines(self, requests: Iterable[tuple[Series, float]]) -> Iterator[str]:
        """Yield the lines on requests: the number of each kind, and the time of each request."""
        requests = list(requests)
        for series, count in Counter(series for series, _ in requests).items():
            name, tags = self._named('requests', series)
            yield f'{name}:{count}|c{tags}'
        for series, seconds in requests:
            name, tags = self._named('request_duration', series)
            yield f'{name}:{seconds * 1000:.3f}|ms{tags}'

    def _named(self, what: str, series: Series) -> tuple[str, str]:
        """Return the name of a metric, and its tags."""
        if not self.tags:
            parts = (_name(part) for part in series)
            return f'{self.prefix}.{what}.{".".join(parts)}', ''
        pairs = zip(series._fields, series, strict=True)
        tags = [f'{key}:{_NOT_IN_TAG.sub("_", value)}' for key, value in pairs]
        return f'{self.prefix}.{what}', '|#' + ','.join([*self.tags, *tags])


def _name(text: str) -> str:
    """Return a part of a name; '/' is 'root'."""
    return _NOT_IN_NAME.sub('_', text).strip('_') or 'root'


def packed(lines: Iterable[str]) -> Iterator[bytes]:
    """Yield datagrams with as many whole lines as fit."""
    gathered = b''
    for line in lines:
        data = line.encode()
        if gathered and len(gathered) + 1 + len(data) > DATAGRAM:
            yield gathered
            gathered = b''
        gathered += b'\n' * bool(gathered) + data
    if gathered:
        yield gathered

"""Measures how long a message takes to all workers of all machines, in round trips of the engine.

Beside it stands the floor: the same number of processes that do nothing but wait for an entry
of a stream with redis-py (XREAD BLOCK), and another that adds one (XADD).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import statistics
import struct
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import rounds
from cluster import Engine, Site

#: The number of messages that are not counted at the beginning.
WARM_UP = 5

#: The round trips that a message may take (median).
ROUND_TRIPS = 10

_INI = """
[app:main]
use = call:heard:make

[server:main]
use = egg:waitress
listen = 127.0.0.1:{listen}

[wspbus:main]
workers = {workers}
plugins = hears

[plugin:hears]
use = call:heard:hears
to = {to}

[cluster:main]
use = redis://127.0.0.1:{port}/0
name = shop
machine = {name}
secret = sesame
"""

_HEARD = """
import socket
import struct
import time


def hears(bus, global_conf, to):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(('127.0.0.1', int(to)))

    def hear(number):
        sock.send(struct.pack('qd', number, time.monotonic()))

    bus.subscribe('note', hear)
    bus.accept('note')
    yield
    sock.close()


def make(global_conf):
    def app(environ, start_response):
        number, at = int(environ['PATH_INFO'][1:]), time.monotonic()
        environ['wspbus.bus'].broadcast('note', number, cluster=True)
        start_response('200 OK', [('Content-Type', 'text/plain')])
        return [str(at).encode()]
    return app
"""


class Machine(Site):
    """One machine of the site, with several workers."""

    def __init__(
        self, folder: Path, name: str, port: int, workers: int, to: int
    ) -> None:
        self.listen = rounds.free_port()
        (folder / name).mkdir()
        (folder / name / 'heard.py').write_text(_HEARD)
        text = _INI.format(
            listen=self.listen, workers=workers, to=to, port=port, name=name
        )
        self.serve(folder / name, text)


class Distance:
    """A proxy before the engine, a process: each word takes so many seconds on its way."""

    def __init__(self, port: int, seconds: float) -> None:
        self.engine, self.seconds = port, seconds
        self._listening = socket.create_server(('127.0.0.1', 0))
        self.port: int = self._listening.getsockname()[1]
        self._pid = os.fork()
        if not self._pid:
            try:
                self._accept()
            finally:
                os._exit(1)
        self._listening.close()

    def _accept(self) -> None:
        while True:
            near, _ = self._listening.accept()
            far = socket.create_connection(('127.0.0.1', self.engine))
            for one, other in ((near, far), (far, near)):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(
                    target=self._pass, args=(one, other), daemon=True
                ).start()

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        with one:
            with contextlib.suppress(OSError):
                while data := one.recv(65536):
                    time.sleep(self.seconds)
                    other.sendall(data)
            with contextlib.suppress(OSError):
                other.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End it."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


def round_trip(port: int, times: int) -> float:
    """Return the seconds of a round trip of the engine (median)."""
    import redis

    took = []
    with redis.Redis(port=port) as client:
        for _ in range(times + 5):
            began = time.perf_counter()
            client.ping()
            took.append(time.perf_counter() - began)
    return statistics.median(took[5:])


def broadcasts(
    port: int, folder: Path, machines: int, workers: int, times: int
) -> list[float]:
    """Return the seconds from each call until the last worker has heard the message."""
    with contextlib.ExitStack() as stack:
        heard = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        heard.bind(('127.0.0.1', 0))
        heard.settimeout(2)
        to, sites = heard.getsockname()[1], []
        for number in range(machines):
            sites.append(Machine(folder, f'web{number}', port, workers, to))
            stack.callback(sites[-1].close)
        took: list[float] = []
        for number in range(times + 2 * WARM_UP):
            if len(took) == times + WARM_UP:
                break
            site = sites[number % machines]
            url = f'http://127.0.0.1:{site.listen}/{number}'
            with urllib.request.urlopen(url) as response:
                at = float(response.read())
            last = wait_for(heard, number, machines * workers)
            if last is not None:
                took.append(last - at)
        return took[-times:]


def bare(port: int, count: int, times: int) -> list[float]:
    """Return the seconds from each XADD until the last of the bare subscribers has it."""
    import redis

    with contextlib.ExitStack() as stack:
        heard = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        heard.bind(('127.0.0.1', 0))
        heard.settimeout(2)
        for _ in range(count):
            pid = os.fork()
            if not pid:
                try:
                    _subscribe(port, heard.getsockname())
                finally:
                    os._exit(1)
            stack.callback(os.waitpid, pid, 0)
            stack.callback(os.kill, pid, signal.SIGKILL)
        client = stack.enter_context(redis.Redis(port=port))
        took: list[float] = []
        for number in range(times + 2 * WARM_UP):
            at = time.monotonic()
            client.xadd('bare', {'m': number})
            last = wait_for(heard, number, count)
            if last is not None:
                took.append(last - at)
        return took[-times:]


def _subscribe(port: int, to: tuple[str, int]) -> None:
    import redis

    last, client = b'$', redis.Redis(port=port)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(to)
        while True:
            for _, entries in client.xread({'bare': last}, block=2000):
                for _, fields in entries:
                    number = int(fields[b'm'])
                    sock.send(struct.pack('qd', number, time.monotonic()))
                last = entries[-1][0]


def wait_for(heard: socket.socket, number: int, count: int) -> float | None:
    """Return when the last worker has heard a message; None if not all have heard it.

    That is so at the beginning, when not all machines have joined.
    """
    times: list[float] = []
    with contextlib.suppress(TimeoutError):
        while len(times) < count:
            which, at = struct.unpack('qd', heard.recv(16))
            times += [at] * (which == number)
        return max(times)
    return None


def measure(distance: float, options: Any) -> tuple[float, list[float], list[float]]:
    """Return a round trip of the engine, and what each message has taken, in seconds.

    The last ones are those of the bare subscribers.
    """
    times = int(options.times)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        engine = Engine(folder)
        stack.callback(engine.process.wait)
        stack.callback(engine.process.kill)
        stack.callback(engine.client.close)
        port = engine.port
        if distance:
            far = Distance(port, distance)
            stack.callback(far.close)
            port = far.port
        machines, workers = int(options.machines), int(options.workers)
        took = broadcasts(port, folder, machines, workers, times)
        floor = bare(port, machines * workers, times)
        return round_trip(port, times), took, floor


def main() -> None:
    """Print what a message takes here, and over a network."""
    options = rounds.options(__doc__ or '', times=50, machines=4, workers=4, distance=1)
    count = int(options.machines) * int(options.workers)
    print(f'  a message to {count} workers on {options.machines:g} machines')
    print(
        f'  {"engine at a distance of":<26}{"round trip":>12}{"message":>12}'
        f'{"round trips":>12}{"bare XREAD":>12}{"÷":>6}'
    )
    ratio = None
    for distance in (0.0, float(options.distance) / 1000):
        trip, took, floor = measure(distance, options)
        if not took or not floor:
            raise rounds.Unavailable('not all workers have heard the messages')
        message, least = statistics.median(took), statistics.median(floor)
        ratio = message / trip
        print(
            f'  {distance * 1000:>23g} ms{trip * 1000:>9.3f} ms'
            f'{message * 1000:>9.3f} ms{ratio:>12.1f}'
            f'{least * 1000:>9.3f} ms{message / least:>6.1f}'
        )
    rounds.judge('round trips of a message', ratio, at_most=ROUND_TRIPS)


if __name__ == '__main__':
    os.environ.setdefault('PYTHONUNBUFFERED', '1')
    signal.signal(signal.SIGTERM, lambda *_: exit(1))
    main()

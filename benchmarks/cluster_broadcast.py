"""Measures how long a message takes to all workers of all machines, in round trips of the engine.

Beside it stand two floors. The bare subscribers are as many processes as workers, which do nothing
but wait for an entry of a stream with redis-py (XREAD BLOCK), and another that adds one (XADD). The
bare chain has all processes that a message passes, and they do nothing but pass it on: a supervisor
and an agent that send it, and an agent, a supervisor and the workers of each machine.

A burst is many messages that one worker sends in one request, as fast as it can: what is printed
is how many of them a worker of another machine hears, and how many of them in a second.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import statistics
import struct
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rounds
from cluster import Engine, Site

#: The number of messages that are not counted at the beginning.
WARM_UP = 5

#: Seconds between two messages: processes that have slept for a while are slower.
PAUSE = 0.02

#: The round trips that a message may take (median).
ROUND_TRIPS = 10

#: Seconds without another message after which a burst counts as over.
QUIET = 2.0

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
import json
import socket
import struct
import time


BURST = []  # when this process has heard each message of a burst


def hears(bus, global_conf, to):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(('127.0.0.1', int(to)))

    def hear(number):
        sock.send(struct.pack('qd', number, time.monotonic()))

    bus.subscribe('note', hear)
    bus.subscribe('burst', lambda text: BURST.append(time.monotonic()))
    bus.accept('note')
    bus.accept('burst')
    yield
    sock.close()


def make(global_conf):
    def app(environ, start_response):
        _, word, *numbers = environ['PATH_INFO'].split('/')
        bus, said = environ['wspbus.bus'], [time.monotonic()]
        if word == 'heard':
            said = BURST[:1] + BURST[-1:] + [len(BURST)]
        elif word == 'burst':
            for _ in range(int(numbers[0])):
                bus.broadcast('burst', 'x' * 100, cluster=True)
            said.append(time.monotonic())
        else:
            bus.broadcast('note', int(word), cluster=True)
            time.sleep(PAUSE)  # the answer costs time, too, which is not the message's
        start_response('200 OK', [('Content-Type', 'application/json')])
        return [json.dumps(said).encode()]
    return app
"""


class Machine(Site):
    """One machine of the site, with several workers."""

    def __init__(
        self, folder: Path, name: str, port: int, workers: int, to: int
    ) -> None:
        self.listen = rounds.free_port()
        (folder / name).mkdir()
        (folder / name / 'heard.py').write_text(_HEARD.replace('PAUSE', str(PAUSE)))
        text = _INI.format(
            listen=self.listen, workers=workers, to=to, port=port, name=name
        )
        self.serve(folder / name, text)

    def ask(self, *words: object) -> list[float]:
        """Return what the site answers to a path of these words."""
        path = '/'.join(map(str, words))
        with urllib.request.urlopen(
            f'http://127.0.0.1:{self.listen}/{path}'
        ) as response:
            return json.loads(response.read())  # type: ignore[no-any-return]


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
            (at,) = site.ask(number)
            last = wait_for(heard, number, machines * workers)
            if last is not None:
                took.append(last - at)
        return took[-times:]


def settled(site: Machine, most: float = float('inf')) -> float:
    """Return how many messages a site has heard when no other one comes."""
    heard, since = 0.0, time.monotonic()
    while time.monotonic() < since + QUIET and heard < most:
        time.sleep(0.05)
        now = site.ask('heard')[-1]
        if now > heard:
            heard, since = now, time.monotonic()
    return heard


def burst(port: int, folder: Path, count: int) -> tuple[float, int, float]:
    """Let one worker send many messages at once; another machine hears them.

    :returns: how many it has sent in a second, how many were heard, and in a second.
    """
    with contextlib.ExitStack() as stack:
        sites = []
        for name in ('sends', 'hears'):
            sites.append(Machine(folder, name, port, 1, port))
            stack.callback(sites[-1].close)
        until = time.monotonic() + rounds.PATIENCE
        while not sites[1].ask('heard')[-1] and time.monotonic() < until:
            sites[0].ask('burst', 1)
            time.sleep(0.05)
        before = settled(sites[1])  # others of these are on their way
        began, ended = sites[0].ask('burst', count)
        settled(sites[1], before + count)
        *_, last, heard = sites[1].ask('heard')
        heard = int(heard - before)
        return count / (ended - began), heard, heard / max(last - began, 1e-6)


class Processes(contextlib.ExitStack):
    """Forks processes that pass messages on; ``heard`` gets a datagram for each that has come."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.enter_context(self.heard)
        self.heard.bind(('127.0.0.1', 0))
        self.heard.settimeout(2)

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """Return the ends of a connection between two of them."""
        near, far = socket.socketpair()
        self.enter_context(near)
        self.enter_context(far)
        return near, far

    def fork(self, run: Callable[..., object], *args: Any) -> None:
        """Call a function in a process of its own."""
        pid = os.fork()
        if not pid:
            try:
                run(*args)
            finally:
                os._exit(1)
        self.callback(os.waitpid, pid, 0)
        self.callback(os.kill, pid, signal.SIGKILL)

    def says_what_comes(self, comes: Callable[..., object], *args: Any) -> None:
        """Send a datagram for each message that this function gives to its last argument."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
            end.connect(self.heard.getsockname())
            comes(*args, lambda text: end.send(_heard(text)))

    def passed(
        self, send: Callable[[bytes], object], count: int, times: int
    ) -> list[float]:
        """Return the seconds that each message takes to the last of so many processes."""
        took: list[float] = []
        for number in range(times + 2 * WARM_UP):
            time.sleep(PAUSE)
            at = time.monotonic()
            send(b'%d' % number)
            last = wait_for(self.heard, number, count)
            if last is not None:
                took.append(last - at)
        return took[-times:]


def bare(port: int, count: int, times: int) -> list[float]:
    """Return the seconds from each XADD until the last of the bare subscribers has it."""
    import redis

    with Processes() as all_, redis.Redis(port=port) as client:
        for _ in range(count):
            all_.fork(all_.says_what_comes, _receive, port)
        return all_.passed(lambda text: client.xadd('bare', {'m': text}), count, times)


def chain(port: int, machines: int, workers: int, times: int) -> list[float]:
    """Return the seconds until the last worker of the bare chain has a message."""
    with Processes() as all_:
        begin, supervisor = all_.pair()
        down, agent = all_.pair()
        all_.fork(_pass_on, supervisor, down.send)
        all_.fork(_send, port, agent)
        for _ in range(machines):
            up, its = all_.pair()
            pairs = [all_.pair() for _ in range(workers)]
            all_.fork(_receive, port, up.send)
            all_.fork(_pass_on, its, *(near.send for near, _ in pairs))
            for _, far in pairs:
                all_.fork(all_.says_what_comes, _pass_on, far)
        return all_.passed(begin.send, machines * workers, times)


def _heard(text: bytes) -> bytes:
    return struct.pack('qd', int(text), time.monotonic())


def _pass_on(come: socket.socket, *sends: Callable[[bytes], object]) -> None:
    while text := come.recv(65536):
        for send in sends:
            send(text)


def _send(port: int, come: socket.socket) -> None:
    import redis

    client = redis.Redis(port=port)
    while text := come.recv(65536):
        client.xadd('bare', {'m': text})


def _receive(port: int, send: Callable[[bytes], object]) -> None:
    import redis

    last, client = b'$', redis.Redis(port=port)
    while True:
        for _, entries in client.xread({'bare': last}, block=2000):
            for last, fields in entries:  # noqa: B007
                send(fields[b'm'])


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


def measure(
    distance: float, options: Any
) -> tuple[float, list[list[float]], tuple[float, int, float]]:
    """Return a round trip of the engine, what each message takes, and a `burst`; in seconds.

    The messages are those of the site, of the bare subscribers, and of the bare chain.
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
        took = [
            broadcasts(port, folder, machines, workers, times),
            bare(port, machines * workers, times),
            chain(port, machines, workers, times),
        ]
        many = burst(port, folder, int(options.burst))
        return round_trip(port, times), took, many


def main() -> None:
    """Print what a message takes here, and over a network."""
    options = rounds.options(
        __doc__ or '', times=50, machines=4, workers=4, distance=1, burst=3000
    )
    count = int(options.machines) * int(options.workers)
    print(f'  a message to {count} workers on {options.machines:g} machines')
    print(
        f'  {"engine at a distance of":<26}{"round trip":>12}{"message":>12}'
        f'{"round trips":>12}{"bare XREAD":>12}{"÷":>6}{"bare chain":>12}{"÷":>6}'
    )
    ratio, lines = None, []
    for distance in (0.0, float(options.distance) / 1000):
        trip, took, (sent, heard, in_a_second) = measure(distance, options)
        lines.append(
            f'  {distance * 1000:>23g} ms{sent:>12,.0f}{heard:>12,}{in_a_second:>12,.0f}'
        )
        if not all(took):
            raise rounds.Unavailable('not all workers have heard the messages')
        message, *floors = map(statistics.median, took)
        ratio = message / trip
        print(
            f'  {distance * 1000:>23g} ms{trip * 1000:>9.3f} ms'
            f'{message * 1000:>9.3f} ms{ratio:>12.1f}'
            + ''.join(
                f'{least * 1000:>9.3f} ms{message / least:>6.1f}' for least in floors
            )
        )
    print(
        f'  a burst of {options.burst:,.0f} messages of 100 bytes, from one worker to another'
    )
    print(
        f'  {"engine at a distance of":<26}{"sent/s":>12}{"heard":>12}{"heard/s":>12}'
    )
    print(*lines, sep='\n')
    rounds.judge('round trips of a message', ratio, at_most=ROUND_TRIPS)


if __name__ == '__main__':
    os.environ.setdefault('PYTHONUNBUFFERED', '1')
    signal.signal(signal.SIGTERM, lambda *_: exit(1))
    main()

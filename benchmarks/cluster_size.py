"""Measures what machines cost the engine of a cluster, and says on paper where that ends."""

from __future__ import annotations

import contextlib
import resource
import selectors
import socket
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import cluster
import rounds

from paste_wspbus.cluster.engine import Member, Message
from paste_wspbus.cluster.facts import bounded
from paste_wspbus.cluster.redis import RedisEngine
from paste_wspbus.cluster.settings import Settings

#: The sizes of the table: machines of a site, each with so many workers.
SIZES, WORKERS = (10, 100, 1000), 16

#: The bytes of the message that is broadcast, and the part of one CPU at which an engine
#: counts as full: it has one thread, and should answer at once.
MESSAGE, FULL = 1000, 0.5

#: The number of descriptors that this process needs beside those of the simulated machines.
SPARE = 100

NAME = 'shop'


class Cost(NamedTuple):
    """What something costs the engine: seconds of its CPU, and bytes in and out."""

    cpu: float
    bytes: float


def machines_cost(ttl: float, counts: list[int], seconds: float) -> dict[str, float]:
    """Run real machines, and return what one costs in a second: the median of all counts.

    :returns: commands, bytes and seconds of the engine's CPU.
    """
    print(f'\nReal machines, idle, ttl {ttl:g} s: what each costs in a second')
    print(f'  {"machines":>9}{"commands":>12}{"bytes":>12}{"engine CPU, µs":>17}')
    found = []
    for count in counts:
        one = cluster.idle(ttl, count, seconds)
        found.append(one)
        print(
            f'  {count:>9}{one["commands"]:>12.2f}{one["bytes"]:>12.0f}'
            f'{one["cpu"] * 1e6:>17.0f}'
        )
    return {key: statistics.median(one[key] for one in found) for key in found[0]}


def cost(engine: cluster.Engine, times: int, act: Any) -> tuple[Cost, float]:
    """Call a function again and again; return what a call costs, and its median seconds."""
    before, took = engine.counts(), []
    for _ in range(times):
        began = time.monotonic()
        act()
        took.append(time.monotonic() - began)
    after = engine.counts()
    spent = Cost(
        (after['cpu'] - before['cpu']) / times,
        (after['bytes'] - before['bytes']) / times,
    )
    return spent, statistics.median(took)


def members_of(client: RedisEngine, count: int) -> list[Member]:
    """Let so many members join, each with facts of the usual size."""
    found = [
        Member(f'web{number:04}-1a2b3c4d', f'web{number:04}') for number in range(count)
    ]
    facts = {
        **{'release': '20261130101112', 'version': '1.4.2', 'generation': 12},
        **{'state': 'STARTED', 'renewing': False, 'drained': False, 'serving': WORKERS},
        **{'wanted': WORKERS, 'since': 1796005280.123, 'ttl': 10.0, 'leads': []},
    }
    for member in found:
        client.join(member, {'plugins': 1}, bounded(facts))
    return found


class Receivers:
    """So many machines that wait for messages, as the agents do: one connection each."""

    def __init__(self, port: int, count: int, key: str) -> None:
        self.selector, self.sockets = selectors.DefaultSelector(), []
        words = ['XREAD', 'BLOCK', '0', 'STREAMS', key, '$']
        ask = f'*{len(words)}\r\n' + ''.join(
            f'${len(one)}\r\n{one}\r\n' for one in words
        )
        self._ask = ask.encode()
        for _ in range(count):
            sock = socket.create_connection(('127.0.0.1', port))
            self.sockets.append(sock)
            self.selector.register(sock, selectors.EVENT_READ)
        self.wait()

    def wait(self) -> None:
        """Let all wait for the next message."""
        for sock in self.sockets:
            sock.sendall(self._ask)

    def receive(self) -> None:
        """Return when the message has reached all."""
        left = set(self.sockets)
        until = time.monotonic() + rounds.PATIENCE
        while left:
            if time.monotonic() > until:
                raise rounds.Unavailable('a message has not reached all')
            for key, _ in self.selector.select(1):
                key.fileobj.recv(1 << 16)
                left.discard(key.fileobj)

    def close(self) -> None:
        """Close all connections."""
        for sock in self.sockets:
            sock.close()
        self.selector.close()


def of_size(count: int, times: int) -> dict[str, tuple[Cost, float]]:
    """Return what a word of a member, a list of all, and a broadcast cost, of so many machines."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        engine = cluster.Engine(Path(name))
        stack.callback(engine.process.wait)
        stack.callback(engine.process.kill)
        stack.callback(engine.client.close)
        settings = Settings(f'redis://127.0.0.1:{engine.port}/0', NAME, 'web0000')
        client = RedisEngine(settings)
        stack.callback(client.close)
        member = members_of(client, count)[0]
        found = {
            'word': cost(
                engine, times, lambda: client.join(member, {'plugins': 1}, {})
            ),
            'list': cost(engine, times, client.members),
        }
        receivers = Receivers(engine.port, count, f'wspbus:{{{NAME}}}:messages')
        stack.callback(receivers.close)
        wait_until_blocked(engine, count)
        message = Message(member.id, 'test', 'x' * MESSAGE)

        def broadcast() -> None:
            client.send(message)
            receivers.receive()

        spent: list[tuple[Cost, float]] = []
        for _ in range(times):
            spent.append(cost(engine, 1, broadcast))
            receivers.wait()
            wait_until_blocked(engine, count)
        found['broadcast'] = (
            Cost(*(statistics.mean(one[0][key] for one in spent) for key in (0, 1))),
            statistics.median(one[1] for one in spent),
        )
        return found


def wait_until_blocked(engine: cluster.Engine, count: int) -> None:
    """Wait until so many machines wait for a message."""
    until = time.monotonic() + rounds.PATIENCE
    while engine.client.info('clients')['blocked_clients'] < count:
        if time.monotonic() > until:
            raise rounds.Unavailable('the machines do not wait for messages')
        time.sleep(0.01)


def on_paper(each: dict[str, float], ttl: float, found: dict[int, Any]) -> None:
    """Print the table for the sizes, and where it ends."""
    print(f'\nOn paper: machines of {WORKERS} workers, ttl {ttl:g} s')
    print(
        f'  {"":>9}{"heartbeats":>30}{"a list of all":>26}{f"a broadcast of {MESSAGE} bytes":>36}'
    )
    print(
        f'  {"machines":>9}{"commands/s":>12}{"kB/s":>8}{"CPU %":>10}'
        f'{"kB":>10}{"CPU, ms":>8}{"ms":>8}{"kB":>12}{"CPU, ms":>8}{"ms":>8}{"workers":>8}'
    )
    for size, costs in found.items():
        (listed, took), (sent, arrived) = costs['list'], costs['broadcast']
        print(
            f'  {size:>9}{size * each["commands"]:>12.1f}'
            f'{size * each["bytes"] / 1000:>8.1f}{size * each["cpu"] * 100:>10.2f}'
            f'{listed.bytes / 1000:>10.1f}{listed.cpu * 1000:>8.2f}{took * 1000:>8.2f}'
            f'{sent.bytes / 1000:>12.1f}{sent.cpu * 1000:>8.2f}{arrived * 1000:>8.1f}'
            f'{size * WORKERS:>8}'
        )
    print(f'\nWhere it ends: {FULL:.0%} of the one CPU of the engine is used by')
    most = FULL / each['cpu'] if each['cpu'] else float('inf')
    print(f'  {most:>12,.0f} idle machines, at a ttl of {ttl:g} s')
    for size, costs in found.items():
        beats, sent = size * each['cpu'], costs['broadcast'][0].cpu
        left = max(FULL - beats, 0) / sent if sent else float('inf')
        print(f'  {left:>12,.0f} broadcasts a second to {size:,} machines')


def main() -> None:
    """Print what is measured, and the tables."""
    options = rounds.options(
        __doc__, ttl=10, most=8, seconds=30, times=100, largest=SIZES[-1]
    )
    sizes = [size for size in SIZES if size <= options.largest]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needs = max(sizes) + SPARE
    if soft < needs:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(needs, hard), hard))
    counts = sorted({1, *(count for count in (3, 8) if count <= options.most)})
    each = machines_cost(options.ttl, counts, options.seconds)
    found = {size: of_size(size, max(int(options.times), 2)) for size in sizes}
    on_paper(each, options.ttl, found)
    rounds.judge(
        'commands a second, idle', each['commands'] * options.ttl / 10, at_most=1
    )


if __name__ == '__main__':
    main()

"""Measures what the metrics cost, and whether they agree with what clients have counted."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import rounds
from restart_load import CLIENTS, Load

FIGURES = ('cost', 'agree', 'scrape', 'deaths')

_INI = """
[app:main]
use = call:shop:make

[server:main]
use = egg:waitress
host = 127.0.0.1
port = {port}

[wspbus:main]
workers = {workers}
soak = 0
ops = 127.0.0.1:{ops}
site_metrics = multiprocess
"""

#: Each worker has {series} series of its own, and adds to one of them in each request.
_SHOP = """
import itertools
import logging
import os

from prometheus_client import Counter

logging.getLogger('waitress.queue').setLevel(logging.ERROR)
SOLD = Counter('sold', 'Items that were sold', ['item'])
ITEMS = [SOLD.labels(f'item {{number}}') for number in range({series})]
NUMBERS = itertools.count()


def app(environ, start_response):
    ITEMS[next(NUMBERS) % {series}].inc()
    body = b'1 %d' % os.getpid()
    headers = [('Content-Type', 'text/plain'), ('Content-Length', str(len(body)))]
    start_response('200 OK', headers)
    return [body]


def make(conf):
    for item in ITEMS:
        item.inc(0)
    return app
"""

_COST = """
import time, timeit
from paste_wspbus.bus import Bus
from paste_wspbus.requests.metered import meter_of

def app(environ, start_response):
    start_response('200 OK', [('Content-Length', '2')])
    return [b'hi']

def request(app):
    app({'REQUEST_METHOD': 'GET', 'SCRIPT_NAME': '', 'PATH_INFO': '/shop/item/5'}, start)

start = lambda status, headers: None
metered = meter_of(Bus()).around(app)
def best(one):  # the time of this process: others may be busy
    return min(timeit.repeat(
        lambda: request(one), number=20000, repeat=10, timer=time.process_time
    )) / 20000

print(best(metered) - best(app))
"""

#: A process that does at its start what a worker does, counts, and dies; again and again.
_DEATHS = """
import os, sys
from paste_wspbus.metrics.site import enter

folder, many = sys.argv[1], int(sys.argv[2])
os.environ['PROMETHEUS_MULTIPROC_DIR'] = folder

def size():
    own = str(os.getpid())
    return sum(one.stat().st_size for one in os.scandir(folder) if own not in one.name)

import prometheus_client
counter = prometheus_client.Counter('sold', 'Items', ['item'])
seconds = prometheus_client.Histogram('seconds', 'Seconds')

def total():
    registry = prometheus_client.CollectorRegistry()
    from paste_wspbus.metrics.site import SiteCollector
    registry.register(SiteCollector(folder))
    return sum(one.value for metric in registry.collect() for one in metric.samples
               if one.name == 'sold_total')

before, down, sizes = 0.0, 0, []
for death in range(1, many + 1):
    if not os.fork():
        enter(folder)
        for item in range(100):
            counter.labels(f'item {item}').inc()
        seconds.observe(0.1)
        os.kill(os.getpid(), 9)
    os.wait()
    if death in (10, many):  # before it is read, which adds files, too
        sizes.append(size())
    if death % 20 == 0 or death <= 10:
        now = total()
        down += now < before
        before = now
print(*sizes, down, total())
"""


class Site:
    """A site with workers: its ports, its metrics, its signals."""

    def __init__(self, folder: Path, workers: int, series: int) -> None:
        self.port, self.ops = rounds.free_port(), rounds.free_port()
        ini = _INI.format(port=self.port, ops=self.ops, workers=workers)
        (folder / 'site.ini').write_text(ini)
        (folder / 'shop.py').write_text(_SHOP.format(series=series))
        self.command = [rounds.command('wspserve'), str(folder / 'site.ini')]
        self.process: subprocess.Popen[bytes]

    def metrics(self, name: str, *labels: str) -> float:
        """Return the sum of the samples of a name that have these texts."""
        url = f'http://127.0.0.1:{self.ops}/metrics'
        with urllib.request.urlopen(url, timeout=rounds.PATIENCE) as response:
            lines = response.read().decode().splitlines()
        return sum(
            float(line.rpartition(' ')[2])
            for line in lines
            if line.startswith((f'{name}{{', f'{name} '))
            and all(label in line for label in labels)
        )

    def wait_for(self, name: str, value: float, *labels: str) -> None:
        """Wait until a metric has at least a value."""
        until = time.monotonic() + 3 * rounds.PATIENCE
        while self.metrics(name, *labels) < value:
            if time.monotonic() > until:
                raise rounds.Unavailable(f'{name} did not become {value}')
            time.sleep(0.05)


@contextlib.contextmanager
def serving(workers: int, series: int) -> Iterator[Site]:
    """Run a site until the block ends."""
    with tempfile.TemporaryDirectory() as name:
        site = Site(Path(name), workers, series)
        with rounds.child(site.command) as site.process:
            rounds.wait_for_response(site.port, site.process)
            yield site


def agree(requests: int, restarts: int, kills: int) -> None:
    """Compare the metrics with the clients, over graceful restarts and SIGKILL."""
    with serving(4, 10) as site:
        first = int(site.metrics('wspbus_requests_total'))
        with Load(site.port) as load:
            seen = [0.0]
            for number in range(restarts + kills):
                share = requests * number / (restarts + kills)
                while load.so_far().asked + load.so_far().kept.total() < share:
                    time.sleep(0.05)
                if number % 3 == 2 and kills:
                    kill(site, load)
                else:
                    generation = site.metrics('wspbus_generation')
                    site.process.send_signal(signal.SIGHUP)
                    site.wait_for('wspbus_generation', generation + 1)
                seen.append(site.metrics('wspbus_requests_total'))
            while load.so_far().asked + load.so_far().kept.total() < requests:
                time.sleep(0.05)
            result = load.end()
        time.sleep(1)  # the requests of clients that have gone end
        counted = int(site.metrics('wspbus_requests_total')) - first
        own = int(site.metrics('sold_total')) - first
    answered = result.fresh['answered'] + result.kept['answered']
    # When the clients end, each has sent a request that is not in the result; and perhaps
    # one more, if the first was answered before its loop came to the end.
    asked = result.asked + result.kept.total() + 2 * CLIENTS
    print(
        f'  {restarts} graceful restarts, {kills} workers killed: {answered} answered,'
    )
    print(f'  at most {asked} asked, {counted} counted, {own} by the site itself')
    lost = max(answered - min(counted, own), 0)
    rounds.judge('answered and not counted', lost, at_most=0)
    rounds.judge('counted and not asked', max(max(counted, own) - asked, 0), at_most=0)
    down = sum(two < one for one, two in itertools.pairwise(seen))
    rounds.judge('times that a counter went down', down, at_most=0)


def kill(site: Site, load: Load) -> None:
    """Kill a worker that has answered lately."""
    before = site.metrics('wspbus_restarts_total', 'crash')
    for pid in reversed(list(load.so_far().pids)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            break
    site.wait_for('wspbus_restarts_total', before + 1, 'crash')


def processors(pid: int) -> float:
    """Return the seconds of CPU that a site has taken: the supervisor and its children."""
    children = Path(f'/proc/{pid}/task/{pid}/children').read_text().split()
    ticks = 0
    for process in (pid, *map(int, children)):
        fields = Path(f'/proc/{process}/stat').read_text().rpartition(')')[2].split()
        ticks += sum(map(int, fields[11:13]))
    return ticks / os.sysconf('SC_CLK_TCK')


def scrape(count: int, seconds: float, every: float) -> None:
    """Compare the requests of a site while its metrics are read, and while they are not.

    Their CPU is compared, too: other programs of the machine do not change that.
    """
    with serving(8, 200) as site:
        site.wait_for('wspbus_workers', 8)
        costs: dict[str, list[float]] = {'read': [], 'not read': []}

        def answered(is_read: bool) -> float:
            ends = threading.Event()
            began = processors(site.process.pid)

            def read() -> None:
                while not ends.wait(every):
                    site.metrics('sold_total')

            reader = threading.Thread(target=read)
            with Load(site.port) as load:  # it forks: no thread may run yet
                if is_read:
                    reader.start()
                time.sleep(seconds)
                result = load.end()
            ends.set()
            if is_read:
                reader.join()
            number = result.fresh['answered'] + result.kept['answered']
            took = processors(site.process.pid) - began
            costs['read' if is_read else 'not read'].append(took * 1e6 / number)
            return number / seconds

        samples = rounds.alternate(
            {'read': lambda: answered(True), 'not read': lambda: answered(False)},
            count,
        )
        times = []
        for _ in range(5):
            began = time.perf_counter()
            site.metrics('sold_total')
            times.append((time.perf_counter() - began) * 1000)
        samples_of = int(site.metrics('sold_total'))
    title = f'8 workers with 200 series, /metrics every {every:g} s'
    ratios = rounds.table(title, 'requests a second', samples, 'read')
    print(f'  one page: {statistics.median(times):.0f} ms; {samples_of} were sold')
    rounds.judge('read ÷ not read', ratios.get('not read'), at_least=0.97)
    costs = {
        name: values[1:] for name, values in costs.items()
    }  # the first one warms up
    rounds.table(title, 'CPU of the site, µs a request', costs, 'read')
    pairs = zip(costs['not read'], costs['read'], strict=True)
    ratio = statistics.median(one / other for one, other in pairs)
    rounds.judge('CPU of a request, not read ÷ read', ratio, at_least=0.97)


def deaths(many: int) -> None:
    """Compare the folder of prometheus_client after 10 deaths, and after many."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, '-c', _DEATHS, folder, str(many)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    few, size, down, total = done.stdout.split()
    print(f'  after 10 deaths {few} bytes, after {many} deaths {size} bytes')
    rounds.judge('folder after all ÷ after 10', int(size) / int(few), at_most=1)
    rounds.judge('times that it went down over deaths', int(down), at_most=0)
    rounds.judge('lost numbers', 100 * many - float(total), at_most=0)


def cost(count: int) -> None:
    """Print what counting adds to a request."""
    found = [float(rounds.output_of(_COST)) * 1e6 for _ in range(max(count, 1))]
    rounds.judge('microseconds more for a request', min(found), at_most=3)


def main() -> None:
    """Print the figures that were named, or all, and their targets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('figures', nargs='*', help=f'of {", ".join(FIGURES)}')
    for name, default in (
        *(('rounds', 6), ('requests', 20000), ('restarts', 6), ('kills', 3)),
        *(('seconds', 10.0), ('every', 0.2), ('deaths', 1000)),
    ):
        kind = type(default)
        parser.add_argument(f'--{name}', type=kind, default=default)
    chosen = parser.parse_args()
    wanted = chosen.figures or FIGURES
    if 'cost' in wanted:
        cost(chosen.rounds // 2)
    if 'agree' in wanted:
        agree(chosen.requests, chosen.restarts, chosen.kills)
    if 'scrape' in wanted:
        scrape(max(chosen.rounds, 2), chosen.seconds, chosen.every)
    if 'deaths' in wanted:
        deaths(chosen.deaths)


if __name__ == '__main__':
    main()

"""Rounds in which contenders alternate, the tables of their figures, and their processes."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import math
import os
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent
SITE = str(HERE / 'small_site.ini')
LOGGING_SITE = str(HERE / 'logging_site.ini')

#: Seconds that a child has to answer or to end, before it counts as unavailable.
PATIENCE = 30.0

_REQUEST = b'GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n'


class Unavailable(Exception):
    """A contender cannot be measured; the message says why."""


def options(description: str, **more: float) -> argparse.Namespace:
    """Parse the command line: --rounds, and an option with its default for each of ``more``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('--rounds', type=int, default=15, help='default 15')
    for name, default in more.items():
        flag = '--' + name.replace('_', '-')
        parser.add_argument(
            flag, type=float, default=default, help=f'default {default:g}'
        )
    chosen = parser.parse_args()
    chosen.rounds = max(2, chosen.rounds)  # percentiles need two
    return chosen


# -- contenders ---------------------------------------------------------------


def has(module: str) -> bool:
    """Whether a peer is installed; if it is not, print that."""
    if importlib.util.find_spec(module.partition('.')[0]) is not None:
        return True
    print(f'{module} is not installed: left out')
    return False


def command(name: str) -> str:
    """Return the path of a console script that is installed beside this Python."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise Unavailable(f'there is no {name} beside {Path(sys.executable).name}')
    return str(path)


def alternate(
    contenders: dict[str, Callable[[], float]], rounds: int
) -> dict[str, list[float]]:
    """Call each contender once in each round; the first of one round is the last of the next.

    The first round is for warming up and is not counted. A contender that raises
    `Unavailable` is not called again.
    """
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    for number in range(rounds + 1):
        if sys.stderr.isatty():
            print(f'\rround {number} of {rounds}', end='\r', file=sys.stderr)
        for name in [one for one in order if one in samples]:
            try:
                value = contenders[name]()
            except Unavailable as why:
                print(f'{name} is left out: {why}')
                del samples[name]
                continue
            if number:
                samples[name].append(value)
        order = order[1:] + order[:1]
    return samples


# -- tables -------------------------------------------------------------------

#: Ways to compare ours with a peer: the head of the column, and the function for its values.
RATIO = ('ours ÷ peer', lambda ours, peer: ours / peer)
TIMES_AS_FAST = ('peer ÷ ours', lambda ours, peer: peer / ours)
DIFFERENCE = ('ours - peer', lambda ours, peer: ours - peer)


def table(
    title: str,
    unit: str,
    samples: dict[str, list[float]],
    ours: str,
    compare: tuple[str, Callable[[float, float], float]] = RATIO,
) -> dict[str, float]:
    """Print the table of one figure for all contenders.

    :returns: for each peer, the median of its comparisons with ours in all rounds.
    """
    mine, compared = samples.get(ours), {}
    head, function = compare
    counted = max(map(len, samples.values()), default=0)
    print('\n' + ', '.join(filter(None, [title, unit, f'{counted} rounds'])))
    print(f'  {"":<26}{"median":>9}{"min – max":>20}{head:>14}  95 % interval')
    for name, values in samples.items():
        line = f'  {name:<26}{statistics.median(values):>9.3g}'
        line += f'{f"{min(values):.3g} – {max(values):.3g}":>20}'
        if mine and name != ours:
            each = [function(*pair) for pair in zip(mine, values, strict=True)]
            compared[name] = statistics.median(each)
            low, high = interval(each)
            line += f'{compared[name]:>14.3g}  {low:.3g} – {high:.3g}'
        print(line)
    return compared


def interval(values: list[float]) -> tuple[float, float]:
    """Return the 95 % confidence interval of a median: no distribution is assumed.

    Each value is above the true median by the chance of a coin. So the interval leaves out
    as many values on each side as hardly ever fall there: 5 of 20, none of fewer than 6.
    """
    ordered, count = sorted(values), len(values)
    out, chance = 0, 0.5**count
    while chance <= 0.025:
        out += 1
        chance += math.comb(count, out) * 0.5**count
    out = max(out - 1, 0)
    return ordered[out], ordered[-1 - out]


def judge(
    what: str,
    value: float | None,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
) -> None:
    """Print a target, and whether it was met."""
    if at_most is not None:
        target, met = f'at most {at_most:g}', value is not None and value <= at_most
    else:
        target, met = f'at least {at_least:g}', value is not None and value >= at_least
    if value is None:
        print(f'  target: {what} {target}: not measured')
    else:
        print(f'  target: {what} {target}: {value:.3g}, {"met" if met else "missed"}')


def median(samples: dict[str, list[float]], name: str) -> float | None:
    """Return a contender's median, or None if it was left out."""
    return statistics.median(samples[name]) if name in samples else None


# -- children -----------------------------------------------------------------


@contextlib.contextmanager
def child(arguments: list[str], **popen: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a child process that ends with the block; it may write bytecode."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith('PYTHON')}
    environment['PYTHONPATH'] = str(HERE)
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            arguments,
            env=environment,
            stdin=popen.get('stdin', subprocess.DEVNULL),
            stdout=popen.get('stdout', subprocess.DEVNULL),
            stderr=errors,
        )
        try:
            yield process
        except Unavailable as why:
            errors.seek(0)
            said = errors.read().decode(errors='replace').strip().splitlines()
            raise Unavailable(f'{why}: {said[-1]}' if said else str(why)) from None
        finally:
            process.terminate()
            with contextlib.suppress(Unavailable):
                wait_for_end(process)
            process.kill()
            process.wait(PATIENCE)


def wait_for_end(process: subprocess.Popen[bytes]) -> None:
    """Wait until the kernel reports the end: `Popen.wait` with a timeout would poll."""
    if process.returncode is not None:
        return
    handle = os.pidfd_open(process.pid)
    try:
        waiter = select.poll()  # select(2) takes no descriptor above 1,023
        waiter.register(handle, select.POLLIN)
        ended = waiter.poll(PATIENCE * 1000)
    finally:
        os.close(handle)
    if not ended:
        raise Unavailable(f'it did not end within {PATIENCE:g} s')
    process.wait(PATIENCE)


def output_of(program: str) -> str:
    """Run a program with this Python and the installed packages; return what it prints."""
    # With -P, it does not import from the working folder.
    arguments = [sys.executable, '-P', '-c', program]
    with child(arguments, stdout=subprocess.PIPE) as process:
        try:
            said, _ = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            raise Unavailable(f'it did not end within {PATIENCE:g} s') from None
        if process.returncode:
            raise Unavailable(f'it exited with {process.returncode}')
    return said.decode()


def free_port() -> int:
    """Return a port of 127.0.0.1 on which no process listens."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def wait_for_response(port: int, server: subprocess.Popen[bytes]) -> None:
    """Send requests until the server answers; read the whole response."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(('127.0.0.1', port), PATIENCE) as connection,
        ):
            connection.sendall(_REQUEST)
            if b''.join(iter(lambda: connection.recv(65536), b'')):
                return
        if server.poll() is not None:
            raise Unavailable(f'it exited with {server.returncode}')
        time.sleep(0.0005)
    raise Unavailable(f'it did not answer within {PATIENCE:g} s')


# -- the same small site in several servers -------------------------------------


def wspserve(port: int, server: str | None = None) -> list[str]:
    """Return the command of wspserve."""
    named = ['--server-name', server] if server else []
    return [command('wspserve'), *named, SITE, f'http_port={port}']


def wspserve_with_logging(port: int) -> list[str]:
    """Return the command of wspserve for a site with logging sections and a plugin."""
    return [command('wspserve'), LOGGING_SITE, f'http_port={port}']


def ten_lines(port: int) -> list[str]:
    """Return the command of the script without wspserve."""
    return [sys.executable, str(HERE / 'ten_lines.py'), SITE, str(port)]


def floor(port: int) -> list[str]:
    """Return the command of the script that imports as little as a start can."""
    return [sys.executable, str(HERE / 'floor.py'), SITE, str(port)]


def ten_lines_with_logging(port: int) -> list[str]:
    """Return the command of the script that configures logging, too."""
    script = str(HERE / 'ten_lines.py')
    return [sys.executable, script, LOGGING_SITE, str(port), 'logging']


def waitress_serve(port: int) -> list[str]:
    """Return waitress's own command."""
    listen = f'--listen=127.0.0.1:{port}'
    return [command('waitress-serve'), '--threads=4', listen, 'small_site:app']


def alone(port: int, server: str) -> list[str]:
    """Return the command of cheroot or Paste#http ('paste') without wspserve."""
    return [sys.executable, str(HERE / 'alone.py'), server, str(port)]


def paster_serve(port: int) -> list[str]:
    """Return PasteScript's command."""
    return [command('paster'), 'serve', SITE, f'http_port={port}']


def pserve(port: int) -> list[str]:
    """Return Pyramid's command."""
    return [command('pserve'), SITE, f'http_port={port}']


def gunicorn_threads(port: int) -> list[str]:
    """Return gunicorn's command for one worker with threads."""
    words = ['--worker-class=gthread', '--threads=4', f'--bind=127.0.0.1:{port}']
    return [command('gunicorn'), *words, 'small_site:app']


def gunicorn_sync(port: int) -> list[str]:
    """Return gunicorn's command for four workers of one request each."""
    words = ['--worker-class=sync', '--workers=4', f'--bind=127.0.0.1:{port}']
    return [command('gunicorn'), *words, 'small_site:app']


def granian(port: int) -> list[str]:
    """Return granian's command for one worker with threads for Python."""
    words = ['--interface=wsgi', '--blocking-threads=4', '--host=127.0.0.1']
    words += [f'--port={port}']  # without --access-log, it writes none
    return [command('granian'), *words, 'small_site:app']


def uvicorn(port: int) -> list[str]:
    """Return uvicorn's command; a2wsgi lets it serve a WSGI application."""
    words = [f'--port={port}', '--no-access-log', '--log-level=warning']
    return [command('uvicorn'), *words, 'small_asgi:app']


def uwsgi_threads(port: int) -> list[str]:
    """Return uWSGI's command for one process with threads, behind its own HTTP router."""
    words = [f'--http=127.0.0.1:{port}', '--http-keepalive', '--threads=4']
    words += ['--master', '--die-on-term']  # else SIGTERM restarts it
    return [command('uwsgi'), *words, '--disable-logging', '--module=small_site:app']


def gunicorn_paste(port: int) -> list[str]:
    """Return gunicorn's command for an .ini, with threads."""
    listen = f'--bind=127.0.0.1:{port}'
    return [command('gunicorn'), '--paste', SITE, '--threads=4', listen]

"""Measures the time from SIGTERM to the end of the process, without requests and under load."""

from __future__ import annotations

import collections
import contextlib
import functools
import multiprocessing
import random
import socket
import tempfile
import threading
import time
from pathlib import Path

import rounds

OURS = 'wspserve, waitress'

#: The number of closed-loop clients: each sends its next request when it has its response.
CLIENTS = 16

#: The number of processes in which the clients are threads.
PROCESSES = 2

#: Seconds that one request takes in the application that works.
WORK = 0.004

#: Seconds that a client waits for a connection; under load SYNs may be dropped.
CONNECT_TIMEOUT = 0.2

SERVERS = {
    'waitress': 'egg:waitress',
    'cheroot': 'egg:paste_wspbus#cheroot',
    # Without this line Paste keeps no connection alive.
    'paste': 'egg:Paste#http\nprotocol_version = HTTP/1.1',
}

INI = """
[app:main]
use = call:{app}

[server:main]
use = {server}
host = 127.0.0.1
port = {port}
"""


def working_app(environ, start_response):
    """Wait as if for a database."""
    time.sleep(WORK)
    body = b'Worked\n' * 100
    headers = [('Content-Type', 'text/plain'), ('Content-Length', str(len(body)))]
    start_response('200 OK', headers)
    return [body]


def make_working_app(global_conf):
    return working_app


# -- without requests in flight -------------------------------------------------


def milliseconds_to_end(serve, codes):
    def measure():
        port = rounds.free_port()
        with rounds.child(serve(port)) as server:
            rounds.wait_for_response(port, server)
            time.sleep(0.1 + random.random() / 10)  # a random moment of a polling loop
            took = terminate(server)
        codes.add(server.returncode)
        return took

    return measure


def terminate(server):
    """Send SIGTERM; return the milliseconds until the process has ended."""
    began = time.perf_counter()
    server.terminate()
    rounds.wait_for_end(server)
    return (time.perf_counter() - began) * 1000


def measure_idle(options):
    servers = {OURS: rounds.wspserve}
    for name in ('paste', 'cheroot', 'wsgiref'):
        servers[f'wspserve, {name}'] = functools.partial(rounds.wspserve, server=name)
    servers['(waitress-serve)'] = rounds.waitress_serve
    servers['(paster serve)'] = rounds.paster_serve
    codes = {name: set() for name in servers}
    samples = rounds.alternate(
        {name: milliseconds_to_end(servers[name], codes[name]) for name in servers},
        options.rounds,
    )
    rounds.table('SIGTERM to the end of the process', 'ms', samples, OURS)
    rounds.judge(f'milliseconds of {OURS}', rounds.median(samples, OURS), at_most=50)
    for name in samples:
        if any(code < 0 for code in codes[name]):
            print(f'  note: {name} dies of the signal at once and stops nothing')
        elif codes[name] != {0}:
            print(f'  note: {name} exits with {sorted(codes[name])}')


# -- clients, in their own processes ----------------------------------------------


class Failed(Exception):
    """A request had no whole response; ``how`` says what happened."""

    def __init__(self, how):
        super().__init__(how)
        self.how = how


class Client:
    """Sends requests until its connection is refused; ``counts`` has the results.

    A request is 'answered', or 'truncated' (a part of the response came), or reset:
    'fresh' on a new connection, 'kept' on one that was used before. The client does not
    use a connection that the server has closed before the request.
    """

    def __init__(self, port, keeps_alive):
        self.port, self.keeps_alive = port, keeps_alive
        self.counts = collections.Counter()
        connection = 'keep-alive' if keeps_alive else 'close'
        head = f'GET / HTTP/1.1\r\nHost: localhost\r\nConnection: {connection}'
        self._request = f'{head}\r\n\r\n'.encode()
        self._socket, self._used = None, False

    def run(self):
        """Release `_answered` once, at the first response."""
        try:
            while self._connect():
                how = self._ask()
                self.counts[how] += 1
                if how == 'answered' and self.counts[how] == 1:
                    _answered.release()
        finally:
            self._close()

    def _connect(self):
        if self._socket is not None and not self._is_closed():
            return True
        self._close()
        while not _gone.is_set():
            with contextlib.suppress(TimeoutError):
                try:
                    address = '127.0.0.1', self.port
                    self._socket = socket.create_connection(address, CONNECT_TIMEOUT)
                except ConnectionError:
                    return False  # nothing was sent, so no request is lost
                self._socket.settimeout(rounds.PATIENCE)
                self._used = False
                return True
        return False

    def _is_closed(self):
        self._socket.setblocking(False)
        try:
            return not self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            self._socket.settimeout(rounds.PATIENCE)

    def _ask(self):
        try:
            closes = self._exchange()
        except Failed as failed:
            self._close()
            return failed.how
        self._used = True
        if closes or not self.keeps_alive:
            self._close()
        return 'answered'

    def _exchange(self):
        """Send one request; return whether its response is the last of the connection."""
        # There may be a response nevertheless.
        with contextlib.suppress(ConnectionError):
            self._socket.sendall(self._request)
        response = b''
        while b'\r\n\r\n' not in response:
            response += self._receive(response)
        head, _, body = response.partition(b'\r\n\r\n')
        if not head.startswith((b'HTTP/1.1 200 ', b'HTTP/1.0 200 ')):
            raise Failed('not 200')
        headers = head.lower() + b'\r\n'
        length = int(headers.partition(b'\ncontent-length:')[2].split()[0])
        while len(body) < length:
            body += self._receive(response)
        if b'\nconnection: keep-alive\r' in headers:
            return False
        return head.startswith(b'HTTP/1.0') or b'\nconnection: close\r' in headers

    def _receive(self, before):
        try:
            came = self._socket.recv(65536)
        except OSError:
            came = b''
        if came:
            return came
        raise Failed('truncated' if before else 'kept' if self._used else 'fresh')

    def _close(self):
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def set_up(answered, gone):
    """Set, in each process of clients, the objects that it shares with its parent."""
    global _answered, _gone
    _answered, _gone = answered, gone


def run_clients(port):
    """Run the clients of one process, half of them with keep-alive; return their counts."""
    clients = [Client(port, bool(n % 2)) for n in range(CLIENTS // PROCESSES)]
    threads = [threading.Thread(target=client.run) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum((client.counts for client in clients), collections.Counter())


class Load:
    """``with Load() as load:`` keeps the processes of the clients for several stops."""

    def __init__(self):
        context = multiprocessing.get_context('fork')  # no threads run here
        self._answered, self._gone = context.Semaphore(0), context.Event()
        shared = self._answered, self._gone
        self._pool = context.Pool(PROCESSES, initializer=set_up, initargs=shared)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._pool.terminate()
        self._pool.join()

    def on(self, port, stop):
        """Call ``stop`` when every client has a response; return its result, and the counts."""
        self._gone.clear()
        counts = self._pool.map_async(run_clients, [port] * PROCESSES, chunksize=1)
        try:
            for _ in range(CLIENTS):
                if not self._answered.acquire(timeout=rounds.PATIENCE):
                    raise rounds.Unavailable('it does not answer every client')
            result = stop()
        finally:
            self._gone.set()
            counted = sum(counts.get(3 * rounds.PATIENCE), collections.Counter())
            while self._answered.acquire(block=False):
                pass  # remove the releases of clients that were too late
        return result, counted


# -- under load ---------------------------------------------------------------------


def wspserve(folder, server, app, port):
    ini = Path(folder, f'{server}.ini')
    module, name = app
    ini.write_text(
        INI.format(app=f'{module}:make_{name}', server=SERVERS[server], port=port)
    )
    return [rounds.command('wspserve'), str(ini)]


def gunicorn(app, port):
    module, name = app
    return [
        rounds.command('gunicorn'),
        *('--worker-class=gthread', '--threads=10', '--no-control-socket'),
        *(f'--bind=127.0.0.1:{port}', f'{module}:{name}'),
    ]


def granian(app, port):
    module, name = app
    return [
        *(rounds.command('granian'), '--interface=wsgi', '--blocking-threads=10'),
        *('--host=127.0.0.1', f'--port={port}', f'{module}:{name}'),
    ]


def milliseconds_under_load(serve, load, stops):
    """Return a function that measures a stop; ``stops`` gets the Counter of each stop."""

    def measure():
        port = rounds.free_port()

        def stop():
            time.sleep(0.05 + random.random() / 10)
            return terminate(server)

        with rounds.child(serve(port)) as server:
            rounds.wait_for_response(port, server)
            took, counted = load.on(port, stop)
        stops.append(counted)
        return took

    return measure


def measure_loaded(options, load, app, what):
    with tempfile.TemporaryDirectory() as folder:
        servers = {
            f'wspserve, {name}': functools.partial(wspserve, folder, name, app)
            for name in SERVERS
        }
        ours = list(servers)
        for name, peer in (('gunicorn', gunicorn), ('granian', granian)):
            if rounds.has(name):
                servers[f'({name})'] = functools.partial(peer, app)
        stops = {name: [] for name in servers}
        contenders = {
            name: milliseconds_under_load(servers[name], load, stops[name])
            for name in servers
        }
        samples = rounds.alternate(contenders, int(options.stops))
    title = f'SIGTERM to the end of the process under load, {what}'
    rounds.table(title, 'ms', samples, OURS)
    counted = {name: stops[name][1:] for name in samples}  # as `alternate` counts
    print_losses(counted)
    for name in ours:
        for how, words in (
            ('fresh', 'requests reset on fresh connections'),
            ('truncated', 'truncated responses'),
        ):
            value = total(counted[name], how) if name in counted else None
            rounds.judge(f'{words}, {name}', value, at_most=0)


def total(stops, how):
    return sum(stop[how] for stop in stops)


def print_losses(counted):
    kinds = ('answered', 'fresh', 'kept', 'truncated', 'not 200')
    print(f'\n  {"requests; in brackets: of how many stops":<44}')
    print(f'  {"":<26}{"".join(f"{kind:>13}" for kind in kinds)}')
    for name, stops in counted.items():
        line = f'  {name:<26}{total(stops, "answered"):>13}'
        for kind in kinds[1:]:
            hit = sum(stop[kind] > 0 for stop in stops)
            line += f'{f"{total(stops, kind)} ({hit})":>13}'
        print(line)
    print('  fresh, kept: reset on a new connection, on one that was kept alive')


def main():
    options = rounds.options(__doc__, stops=20)
    measure_idle(options)
    with Load() as load:
        for app, what in (
            (('small_site', 'app'), 'answers at once'),
            (('stop', 'working_app'), f'{WORK * 1000:g} ms of work'),
        ):
            measure_loaded(options, load, app, what)


if __name__ == '__main__':
    main()

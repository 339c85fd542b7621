"""How many requests wait in one worker although a thread of another one is free."""

from __future__ import annotations

import os
import socket
import threading
import time

import rounds

#: The workers, the threads of each, and the requests that come at once.
WORKERS, THREADS = 2, 2
REQUESTS = WORKERS * THREADS


def wspserve(server):
    """Return a function from a port to the command of wspserve with this server."""
    site = str(rounds.HERE / 'spread_site.ini')
    name = ['--server-name', server]
    return lambda port: [rounds.command('wspserve'), *name, site, f'http_port={port}']


def gunicorn(port):
    words = [f'--workers={WORKERS}', f'--threads={THREADS}', '--worker-class=gthread']
    bind = f'--bind=127.0.0.1:{port}'
    return [rounds.command('gunicorn'), *words, bind, 'spread_site:app']


CONTENDERS = {
    'wspserve, waitress': wspserve('waitress'),
    'wspserve, cheroot': wspserve('cheroot'),
    'wspserve, Paste#http': wspserve('paste'),
    'gunicorn, gthread': gunicorn,
}


def request(port, path):
    """Send a request on a new connection; return the seconds until its response, and its end."""
    began = time.monotonic()
    with socket.create_connection(('127.0.0.1', port), rounds.PATIENCE) as connection:
        head = f'GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n'
        connection.sendall(head.encode())
        response = b''.join(iter(lambda: connection.recv(65536), b''))
        if not response:
            raise rounds.Unavailable('a response did not come')
    return time.monotonic() - began, response.rpartition(b'\n')[2]


def wait_for_all(port, server):
    """Return when each worker has answered: the first one serves before the others."""
    rounds.wait_for_response(port, server)
    until, answered = time.monotonic() + rounds.PATIENCE, set()
    while len(answered) < WORKERS:
        if time.monotonic() > until:
            raise rounds.Unavailable(f'{len(answered)} of {WORKERS} workers answer')
        answered.add(request(port, '/')[1])


def burst(port):
    """Send the requests at once; return the seconds of each."""
    times, together = [], threading.Barrier(REQUESTS)

    def send():
        together.wait()
        times.append(request(port, '/slow')[0])

    threads = [threading.Thread(target=send) for _ in range(REQUESTS)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return times


def waited(port, count, seconds):
    """Return how many of ``count`` bursts' requests took longer than their own time."""
    return sum(took > 1.5 * seconds for _ in range(count) for took in burst(port))


def main():
    options = rounds.options(__doc__, seconds=1)
    os.environ['SPREAD_SECONDS'] = str(options.seconds)
    total = REQUESTS * options.rounds
    print(
        f'{WORKERS} workers of {THREADS} threads; {options.rounds} times {REQUESTS} requests of '
        f'{options.seconds:g} s at once, each on a new connection'
    )
    for name, command in CONTENDERS.items():
        port = rounds.free_port()
        try:
            with rounds.child(command(port)) as server:
                wait_for_all(port, server)
                late = waited(port, options.rounds, options.seconds)
        except rounds.Unavailable as why:
            print(f'{name} is left out: {why}')
            continue
        print(f'  {name:<24} {late} of {total} waited although a thread was free')
        if name.startswith('wspserve'):
            rounds.judge(f'requests that waited, {name}', late, at_most=0)


if __name__ == '__main__':
    main()

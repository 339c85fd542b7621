"""Hostile clients while a site stops: ``python -m tests.attacks.clients --count 100``.

Each trial serves a site with 850 clients that hold it up. Some send nothing. Some send half a
head or half a body, or send it byte by byte. Some do not read a long response, and some read a
stream without end. Then the site gets SIGTERM. It must end within its `stop_timeout`, with exit
code 0, and its lifespan must be closed.
"""

import argparse
import contextlib
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.kit.places import ROOT

SERVERS = {
    'waitress': 'egg:waitress\nconnection_limit = 2000',
    'paste': 'egg:Paste#http',
    'cheroot': 'egg:paste_wspbus#cheroot',
    'wsgiref': 'egg:paste_wspbus#wsgiref',
}

#: The site's stop_timeout in seconds, and the seconds that a busy machine may add.
STOP_TIMEOUT, SLACK = 6, 4

INI = """\
[app:main]
use = call:webapp:make
[server:main]
use = {server}
host = 127.0.0.1
port = 0
[wspbus:main]
plugins = db
stop_timeout = {stop_timeout}
[plugin:db]
use = call:webapp:db
"""

WEBAPP = """
import time


def make(global_conf):
    def app(environ, start_response):
        path = environ['PATH_INFO']
        if path == '/body':
            environ['wsgi.input'].read()
        start_response('200 OK', [('Content-Type', 'text/plain')])
        if path == '/stream':
            return stream()
        if path == '/long':
            return (b'x' * 65536 for _ in range(1000))
        return [b'hi']
    return app


def stream():
    while True:
        yield b'data: x\\n\\n'
        time.sleep(0.05)


def db(bus, global_conf):
    open('open', 'w').close()
    yield
    open('closed', 'w').close()
"""

HOST = b' HTTP/1.1\r\nHost: localhost\r\n'

#: From the kind of a client to the bytes that it sends at once, and the bytes that it then
#: sends one by one.
KINDS = {
    'silent': (b'', b''),
    'idle': (b'GET /' + HOST + b'\r\n', b''),
    'half a head': (b'GET /' + HOST, b''),
    'a head in drops': (b'GET /' + HOST, b'X-Drop: ' + b'x' * 5000),
    'half a body': (b'POST /body' + HOST + b'Content-Length: 99999\r\n\r\nhalf', b''),
    'a body in drops': (
        b'POST /body' + HOST + b'Content-Length: 99999\r\n\r\n',
        b'x' * 5000,
    ),
    'no body': (
        b'POST /body' + HOST + b'Content-Length: 9\r\nExpect: 100-continue\r\n\r\n',
        b'',
    ),
    'an endless chunk': (
        b'POST /body' + HOST + b'Transfer-Encoding: chunked\r\n\r\nffffff\r\n',
        b'x' * 5000,
    ),
    'reads nothing': (b'GET /long' + HOST + b'\r\n', b''),
    'a stream': (b'GET /stream' + HOST + b'\r\n', b''),
    'garbage': (b'\x00\xff\x16\x03\x01 garbage\r\n', b'\x00' * 5000),
}


class Clients:
    """``with Clients(port, count, dice):`` runs these clients until the block ends."""

    def __init__(self, port, count, dice):
        self._sockets, self._drops = [], []
        self._over = threading.Event()
        for _ in range(count):
            at_once, in_drops = KINDS[dice.choice([*KINDS])]
            with contextlib.suppress(OSError):
                client = socket.create_connection(('127.0.0.1', port), 10)
                self._sockets.append(client)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.sendall(at_once)
                if in_drops:
                    self._drops.append((client, in_drops))

    def __enter__(self):
        self._thread = threading.Thread(target=self._drip, daemon=True)
        self._thread.start()
        return self

    def _drip(self):
        position = 0
        while not self._over.wait(0.1):
            position += 1
            for client, text in self._drops:
                with contextlib.suppress(OSError):
                    client.send(text[position % len(text) :][:1])

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()
        for client in self._sockets:
            client.close()


def trial(server, seed, count, args=()):
    """Serve, attack and stop a site; return what is wrong (or ''), and the stop's seconds."""
    dice = random.Random(f'{server} {seed}')
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, 'webapp.py').write_text(WEBAPP)
        conf = INI.format(server=SERVERS[server], stop_timeout=STOP_TIMEOUT)
        Path(folder, 'site.ini').write_text(conf)
        with Path(folder, 'err').open('wb') as err:
            process = subprocess.Popen(
                [sys.executable, '-m', 'paste_wspbus', 'site.ini', *args],
                cwd=folder,
                env={**os.environ, 'PYTHONPATH': f'{ROOT}{os.pathsep}{folder}'},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=err,
            )
        try:
            line = b''
            for line in process.stdout:
                if line.startswith(b'Serving on '):
                    break
            port = int(line.rpartition(b':')[2])
            with Clients(port, count, dice):
                time.sleep(dice.uniform(0.1, 1))
                began = time.monotonic()
                process.send_signal(signal.SIGTERM)
                try:
                    code = process.wait(STOP_TIMEOUT + SLACK)
                except subprocess.TimeoutExpired:
                    code = None
                took = time.monotonic() - began
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        text = Path(folder, 'err').read_text(errors='replace')
        problem = ''
        if code != 0:
            problem = 'it does not end' if code is None else f'exit code {code}'
        elif not Path(folder, 'closed').exists():
            problem = 'its lifespan is not closed'
        elif 'Traceback' in text:
            problem = 'traceback'
        cut = f'{text[:2000]}\n...\n{text[-2000:]}' if len(text) > 4000 else text
        return problem and f'{server} {seed}: {problem}\n{cut}', took


def attack(server, count, clients=850, first=0, args=()):
    """Stop ``count`` sites; return a text for each failure, and the longest stop."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4096 <= hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, hard))
    results = [
        trial(server, seed, clients, args) for seed in range(first, first + count)
    ]
    return [wrong for wrong, _ in results if wrong], max(took for _, took in results)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--count', type=int, default=3, help='stops of each server')
    parser.add_argument('--clients', type=int, default=850)
    parser.add_argument('--first', type=int, default=0, help='the first seed')
    parser.add_argument('--workers', default='0')
    parser.add_argument('--server', choices=SERVERS, action='append')
    options = parser.parse_args()
    failed = 0
    for server in options.server or SERVERS:
        args = ['--workers', options.workers] if options.workers != '0' else []
        wrong, longest = attack(
            server, options.count, options.clients, options.first, args
        )
        failed += len(wrong)
        print(
            f'{server}: {options.count - len(wrong)} of {options.count} stops are right; '
            f'the longest took {longest:.1f} s of {STOP_TIMEOUT}',
            *wrong,
            sep='\n',
            flush=True,
        )
    return bool(failed)


if __name__ == '__main__':
    sys.exit(main())

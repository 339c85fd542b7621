"""Requests at random delays, each of which waitress's loop has to wake up for: ``python -m tests.attacks.wakeups --count 100000``.

The site looks at its connections only if something wakes it up: what bounds a lost wake-up
there (`ARMED_AGAIN`, `asyncore_loop_timeout`) is set to an hour. So a wake-up that is lost is a
request without a response.
"""

import argparse
import random
import sys
import tempfile
import threading
import time

from tests.kit import Connection, Site

#: Seconds after which a response does not come any more.
LOST = 30

INI = """\
[app:main]
use = call:webapp:make
[server:main]
use = egg:waitress
host = 127.0.0.1
port = 0
threads = {threads}
asyncore_loop_timeout = 3600
"""

WEBAPP = """
import random
import time

from paste_wspbus.servers import waitress_fast

waitress_fast.ARMED_AGAIN = 3600
assert waitress_fast.ways() == set(waitress_fast.WAYS)


def app(environ, start_response):
    path, body = environ['PATH_INFO'], environ['wsgi.input'].read()
    if path == '/large':
        start_response('200 OK', [('Content-Length', '600000')])
        return (b'x' * 60000 for _ in range(10))
    start_response('200 OK', [('Content-Length', str(6 + len(body)))])
    return parts(body) if path == '/parts' else [b'abcdef' + body]


def parts(body):
    for part in (b'abc', b'def' + body):
        yield part
        if random.random() < 0.5:
            time.sleep(random.random() / 5000)


def make(global_conf):
    return app
"""


def pause(dice):
    """Wait between nothing and a millisecond; most often so long as a thread takes to go on."""
    until = (
        time.perf_counter() + dice.choice((0, 0.00003, 0.0002, 0.001)) * dice.random()
    )
    while time.perf_counter() < until:
        time.sleep(0)


class Client(threading.Thread):
    """Sends ``count`` requests on connections that it keeps; ``lost``: what was not answered."""

    def __init__(self, address, count, seed):
        super().__init__(daemon=True)
        self.address, self.count, self.dice = address, count, random.Random(seed)
        self.lost, self.answered = '', 0

    def run(self):
        while self.answered < self.count and not self.lost:
            with Connection(self.address, receive_buffer=16384, timeout=LOST) as client:
                self.use(client)

    def use(self, client):
        dice = self.dice
        while self.answered < self.count:
            closes = dice.random() < 0.1
            paths = dice.choices(
                ('/', '/parts', '/large'), (80, 20, 0.5), k=self.depth()
            )
            text = b''.join(self.request(path) for path in paths[:-1])
            text += self.request(paths[-1], b'Connection: close\r\n' if closes else b'')
            try:
                self.send(client, text)
                for path in paths:
                    pause(dice)
                    body = client.receive().body
                    assert len(body) == 600000 or body.startswith(b'abcdef'), path
                    self.answered += 1
                if closes:
                    assert client.is_ended()
                    return
            except (OSError, AssertionError) as error:
                self.lost = (
                    f'{error!r} of {paths} after {self.answered}, closes: {closes}'
                )
                return

    def depth(self):
        return 1 if self.dice.random() < 0.9 else self.dice.randrange(2, 5)

    def request(self, path, header=b''):
        head = b' HTTP/1.1\r\nHost: a\r\n' + header
        if self.dice.random() < 0.8:
            return b'GET ' + path.encode() + head + b'\r\n'
        return b'POST ' + path.encode() + head + b'Content-Length: 5\r\n\r\nhello'

    def send(self, client, text):
        """Send it whole, or in two pieces with a pause between them."""
        cut = self.dice.randrange(len(text)) if self.dice.random() < 0.2 else 0
        for piece in (text[:cut], text[cut:]):
            if piece:
                client.socket.sendall(piece)
                pause(self.dice)


def attack(folder, count, clients=6, threads=4, seed=0):
    """Send about ``count`` requests; return how many were answered, and what was wrong."""
    with Site(folder, INI.format(threads=threads), files={'webapp.py': WEBAPP}) as site:
        senders = [
            Client(site.address, -(-count // clients), f'{seed} {number}')
            for number in range(clients)
        ]
        for one in senders:
            one.start()
        for one in senders:
            one.join()
        wrong = [one.lost for one in senders if one.lost]
        code = site.stop()[0]
        if code:
            wrong.append(f'exit code {code}: {site.report()}')
        return sum(one.answered for one in senders), wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--count', type=int, default=100_000, help='requests')
    parser.add_argument('--clients', type=int, default=6)
    parser.add_argument('--threads', type=int, default=4, help='of the server')
    parser.add_argument('--seed', type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        answered, wrong = attack(
            folder, options.count, options.clients, options.threads, options.seed
        )
    print(f'{answered} requests are answered, {len(wrong)} are lost', *wrong, sep='\n')
    return bool(wrong)


if __name__ == '__main__':
    sys.exit(main())

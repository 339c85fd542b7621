"""What the tests of published applications share: requests with a body, and waiting ones."""

import base64
import contextlib
import http.client
import json
import re
import sqlite3
import subprocess
import threading

from tests.kit import TIMEOUT
from tests.kit.clients import Busy


class Client:
    """Requests to a site; ``headers`` go with each, and ``auth`` is 'name:password'."""

    def __init__(self, port, auth=None, **headers):
        self.port, self.headers = port, {'Accept': 'application/json', **headers}
        if auth:
            token = base64.b64encode(auth.encode()).decode()
            self.headers['Authorization'] = f'Basic {token}'

    @contextlib.contextmanager
    def sent(self, method, path, body=None, **headers):
        """Send a request; in the block, a function reads its response."""
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=TIMEOUT)
        content = {} if body is None else {'Content-Type': 'application/json'}
        body = None if body is None else json.dumps(body)
        headers = {**self.headers, 'Connection': 'close', **content, **headers}
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            yield lambda: Answer(connection)

    def __call__(self, *args, **kwargs):
        with self.sent(*args, **kwargs) as receive:
            return receive()


class Answer:
    """A response: ``status``, ``headers`` (names in lower case), ``text``."""

    def __init__(self, connection):
        response = connection.getresponse()
        self.port, self.status = connection.port, response.status
        self.text = response.read().decode()
        self.headers = {k.lower(): v for k, v in response.getheaders()}

    @property
    def json(self):
        return json.loads(self.text)

    def seen(self):
        """What must be the same from another server, on another port."""
        texts = (
            self.headers.get('content-type'),
            self.headers.get('location'),
            self.text,
        )
        here = f':{self.port}'
        return self.status, *(text and text.replace(here, ':PORT') for text in texts)


class Load(Busy):
    """Clients that ask without a pause, until the block ends.

    ``outcomes``: the status of each response, or what a request died of.
    """

    def __init__(self, client, path, clients=4):
        super().__init__(clients)
        self.client, self.path, self.outcomes = client, path, []
        self._came = threading.Condition()

    def do(self):
        try:
            outcome = self.client('GET', self.path).status
        except (OSError, http.client.HTTPException) as error:
            outcome = repr(error)
        with self._came:
            self.outcomes.append(outcome)
            self._came.notify_all()

    def more(self, count=20):
        """Wait for so many outcomes more."""
        with self._came:
            target = len(self.outcomes) + count
            assert self._came.wait_for(lambda: len(self.outcomes) >= target, TIMEOUT)


@contextlib.contextmanager
def locked(path):
    """Nobody else can read an SQLite database until the block calls this, or ends."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute('BEGIN EXCLUSIVE')
        yield database.rollback


def run(folder, *words, code=0, **kwargs):
    """Run a program to its end: what it wrote, errors too."""
    told = subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=2 * TIMEOUT,
        **kwargs,
    )
    assert told.returncode == code, told.stdout
    return told.stdout


def warnings_of_the_bus(text):
    """Those in a log, but for the one that tells what a stop that takes a second waits for."""
    lines = re.findall(r'^.*WARN.*paste_wspbus.*$', text, re.M)
    return [line for line in lines if 'requests in flight: ' not in line]

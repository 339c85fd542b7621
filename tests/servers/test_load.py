"""How busy each server says that it is: threads, those that work, requests that wait."""

import contextlib

import pytest

from tests.kit import eventually
from tests.kit.workers import FILES, INI, TCP, Workers

#: [server:main] with two threads, and what is known of three requests: threads, busy
#: threads, and requests that wait for a thread.
SERVERS = {
    'waitress': (f'egg:waitress\n{TCP}threads = 2\n', (2, 2, 1)),
    'cheroot': (f'egg:paste_wspbus#cheroot\n{TCP}numthreads = 2\n', (2, 2, 1)),
    'paste': (
        f'egg:Paste#http\n{TCP}threadpool_workers = 2\n',
        (2, 2, 1),
    ),
    'paste without a pool': (
        f'egg:Paste#http\n{TCP}use_threadpool = false\n',
        (None, 3, 0),
    ),
    'wsgiref': (f'egg:paste_wspbus#wsgiref\n{TCP}', (None, 3, 0)),
}


def load(status):
    return status['server_threads'], status['busy'], status['queued']


@pytest.mark.parametrize('server, expected', SERVERS.values(), ids=SERVERS)
def test_three_requests_for_two_threads(tmp_path, server, expected):
    head, _, rest = INI.partition('use = egg:waitress\n')
    ini = f'{head}use = {server}[wspbus:main]{rest.partition("[wspbus:main]")[2]}'
    files = {**FILES, 'site.ini': ini}
    with (
        Workers(tmp_path, count=None, files=files) as site,
        contextlib.ExitStack() as stack,
    ):
        assert load(site.status()) == (expected[0], 0, 0)
        clients = [stack.enter_context(site.connect()) for _ in range(3)]
        for client in clients:
            client.send('/wait')
        eventually(lambda: load(site.status()) == expected)
        # A thread that has a connection reads its request first.
        eventually(lambda: site.status()['in_flight'] == expected[1])
        site.release()
        for client in clients:
            assert client.receive().status == 200
        eventually(lambda: site.status()['served'] == 3)
        assert site.stop()[0] == 0, site.report()

"""Messages between the workers of a site, and the process of its site plugins."""

import json
import os
import signal

import pytest

from tests.kit.processes import eventually, freeze
from tests.kit.sites import ask
from tests.kit.workers import Workers

SITE = """
import json
import os
import threading

from paste_wspbus import Plugin, on

HEARD = []


class Cache(Plugin):
    @on('cache', remote=True)
    def drop(self, *args):
        HEARD.append([*args])
        return {'pid': os.getpid(), 'heard': len(HEARD)}

    @on('start', priority=75)
    def note(self):
        self.at_start = [*HEARD]  # before the server accepts: it comes later


def cache(bus, global_conf):
    plugin = bus.plugins['cache'] = Cache(bus)
    return plugin


class Cron(Plugin):
    @on('cache', remote=True)
    def drop(self, *args):
        return 'cron'

    @on('start')
    def start(self):
        self.bus.broadcast('cache', 'from the cron', retain=True)


def cron(bus, global_conf):
    return Cron(bus)


def make(global_conf):
    return app


def app(environ, start_response):
    bus, path = environ['wspbus.bus'], environ['PATH_INFO']
    _, verb, *args = path.split('/')
    answer = None
    if verb == 'broadcast':
        for number in range(int(args[0])):
            bus.broadcast('cache', os.getpid(), number)
    elif verb == 'ask':
        answer = bus.ask('cache', timeout=300)
    elif verb == 'capable':
        answer = 'messages' in bus.host.capabilities
    told = {
        'pid': os.getpid(),
        'heard': HEARD,
        'at_start': bus.plugins['cache'].at_start,
        'answer': answer,
    }
    start_response('200 OK', [('Content-Type', 'application/json')])
    return [json.dumps(told).encode()]
"""

INI = """
[app:main]
use = call:webapp:make

[server:main]
use = egg:waitress
host = 127.0.0.1
port = 0

[wspbus:main]
plugins = cache
site_plugins = cron

[plugin:cache]
use = call:webapp:cache

[plugin:cron]
use = call:webapp:cron
"""

FILES = {'webapp.py': SITE, 'site.ini': INI}


@pytest.fixture
def site(tmp_path):
    with Workers(tmp_path, files=FILES) as site:
        yield site


def ask_all(site, path='/'):
    """What each worker says, in the order of their numbers."""
    workers = [one['pid'] for one in site.workers() if one['number']]
    told = {}

    def all_have_answered():
        one = ask(site, path)
        told[one['pid']] = one
        return set(workers) <= told.keys()

    eventually(all_have_answered)
    return [told[pid] for pid in workers]


def test_all_processes_hear_it_in_the_order_of_the_sender(site):
    assert ask(site, '/capable')['answer'] is True
    sender = ask(site, '/broadcast/200')['pid']
    answers = ask(site, '/ask')['answer']
    assert [name for name, _, _ in answers] == ['worker 1', 'worker 2', 'site plugins']
    assert [error for _, _, error in answers] == [None] * 3
    pids = [one['pid'] for one in site.workers() if one['number']]
    assert [value['pid'] for _, value, _ in answers[:2]] == pids
    assert answers[2][1] == 'cron'
    for one in ask_all(site):
        own = [number for pid, number in filter(lambda a: len(a) == 2, one['heard'])]
        assert own == [*range(200)]
        assert [sender, 0] in one['heard']


def test_a_new_worker_has_the_retained_message_before_it_serves(site):
    ask(site, '/broadcast/1')  # this one is not retained
    site.graceful()
    for one in ask_all(site):
        assert one['at_start'] == [['from the cron']]


def test_a_worker_that_dies_has_answered_at_once(site):
    _, second = (one['pid'] for one in ask_all(site))
    freeze(second)  # now it does not answer, and the other one accepts all requests
    before = len(ask(site)['heard'])
    with site.connect() as connection:
        connection.send('/ask')  # its timeout is longer than that of the test
        eventually(lambda: len(ask(site)['heard']) > before)
        os.kill(second, signal.SIGKILL)
        answers = json.loads(connection.receive().body)['answer']
    assert [answer[0] for answer in answers] == ['worker 1', 'worker 2', 'site plugins']
    assert answers[1] == ['worker 2', None, 'the process has ended']
    assert answers[0][2] is answers[2][2] is None

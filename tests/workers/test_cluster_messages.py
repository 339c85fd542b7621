"""Messages to all machines of a site, on a real Redis and on one machine without it."""

import json
import os
import signal

import pytest

from tests.kit import Site, eventually
from tests.kit.processes import agents, children, freeze
from tests.kit.redis_servers import RedisServer
from tests.kit.sites import ask, run

SITE = """
import json
import os

from paste_wspbus import Plugin, on

HEARD = []


class Cache(Plugin):
    @on('cache', remote=True)
    def drop(self, *args):
        HEARD.append([*args])

    @on('missed')
    def drop_all(self, count):
        HEARD.append(['missed', count])


def cache(bus, global_conf):
    return Cache(bus)


def make(global_conf):
    return app


def app(environ, start_response):
    bus, problem = environ['wspbus.bus'], None
    _, verb, *args = environ['PATH_INFO'].split('/')
    try:
        if verb == 'send':
            for number in range(int(args[1])):
                bus.broadcast('cache', args[0], number, cluster=True)
        elif verb == 'long':
            bus.broadcast('cache', 'x' * int(args[0]), cluster=True)
        elif verb == 'object':
            bus.broadcast('cache', object(), cluster=True)
    except Exception as error:
        problem = f'{type(error).__name__}: {error}'
    told = {'pid': os.getpid(), 'heard': HEARD, 'problem': problem}
    start_response('200 OK', [('Content-Type', 'application/json')])
    return [json.dumps(told).encode()]
"""

INI = """
[app:main]
use = call:webapp:make

[server:main]
use = egg:waitress
listen = 127.0.0.1:0

[wspbus:main]
workers = 1
plugins = cache

[plugin:cache]
use = call:webapp:cache
"""

CLUSTER = """
[cluster:main]
{use}
name = shop
machine = {machine}
secret = sesame
"""


def machine(folder, name, url):
    own = folder / name
    own.mkdir()
    text = INI + CLUSTER.format(use=f'use = {url}' if url else '', machine=name)
    env = {'RUNTIME_DIRECTORY': str(folder)}
    site = Site(own, text, '-v', files={'webapp.py': SITE}, env=env)
    site.env = env
    return site


@pytest.fixture(scope='module')
def engine(tmp_path_factory):
    with RedisServer(tmp_path_factory.mktemp('redis')) as server:
        yield server


@pytest.fixture(scope='module', params=['redis', 'local'])
def machines(request, tmp_path_factory):
    """Two machines that have joined."""
    url = request.getfixturevalue('engine').url if request.param == 'redis' else ''
    folder = tmp_path_factory.mktemp('machines')
    with machine(folder, 'one', url) as one, machine(folder, 'two', url) as two:
        wait_until_joined(one, two)
        yield one, two


def wait_until_joined(one, two):
    """Send until both hear each other, and forget that."""
    for sender, hearer, word in ((one, two, 'there'), (two, one, 'here')):
        eventually(
            lambda a=sender, b=hearer, c=word: ask(a, f'/send/{c}/1') and heard(b, c)
        )


def heard(site, word, path='/'):
    return [args[1] for args in ask(site, path)['heard'] if args[0] == word]


def dropped(site):
    """How many of its messages do not reach other machines."""
    words = 'site.ini', 'status', '--cluster', '--json'
    told = json.loads(run(site.folder, *words, env=site.env).out.text)
    return told['cluster']['messages']['dropped']


def agent(site):
    (found,) = agents(site.pid)
    return found


def test_all_processes_of_all_machines_hear_it_in_order_and_once(machines):
    one, two = machines
    ask(one, '/send/first/300')
    ask(two, '/send/second/300')
    for site in (one, two):
        for word in ('first', 'second'):
            eventually(lambda site=site, word=word: len(heard(site, word)) >= 300)
            assert heard(site, word) == [*range(300)]
    assert ask(one, '/long/65530')['problem'] is None
    eventually(lambda: ask(two)['heard'][-1] == ['x' * 65530])
    assert ask(one, '/long/65533')['problem'].startswith('TooLong: A message on')
    assert ask(one, '/object')['problem'].startswith('NotJSON: A message on')


@pytest.mark.parametrize('machines', ['redis'], indirect=True)
def test_who_is_cut_off_for_a_while_reads_what_was_sent_and_no_machine_waits(machines):
    one, two = machines
    freeze(agent(two))
    ask(one, '/send/late/100')
    eventually(lambda: heard(one, 'late') == [*range(100)])
    assert heard(two, 'late') == []
    os.kill(agent(two), signal.SIGCONT)
    eventually(lambda: len(heard(two, 'late')) >= 100)
    assert heard(two, 'late') == [*range(100)]
    assert heard(two, 'missed') == []


@pytest.mark.parametrize('machines', ['redis'], indirect=True)
def test_while_the_engine_is_away_messages_stay_here_and_others_learn_it(
    machines, engine
):
    one, two = machines
    engine.kill()
    ask(one, '/send/lost/3')
    eventually(lambda: len(heard(one, 'lost')) == 3)
    one.expect('cluster: messages that other machines do not get: ')
    engine.start()  # empty
    eventually(lambda: heard(two, 'missed'))
    eventually(lambda: ask(one, '/send/again/1') and heard(two, 'again'))
    assert heard(two, 'lost') == []


@pytest.mark.parametrize('machines', ['redis'], indirect=True)
def test_who_has_missed_messages_learns_of_those_that_are_lost_after_them(
    machines, engine
):
    one, two = machines
    eventually(lambda: ask(one, '/send/known/1') and heard(two, 'known'))
    had = len(heard(two, 'missed'))
    engine.restart()  # empty
    eventually(lambda: len(heard(two, 'missed')) > had)
    counts = heard(two, 'missed')
    client = engine.client()
    lost = dropped(one)
    client.config_set('maxmemory', 1)
    ask(one, '/send/refused/3')
    eventually(lambda: dropped(one) == lost + 3)
    client.config_set('maxmemory', 0)
    # Each message follows the one before so soon that nothing shows the gap before it.
    eventually(lambda: ask(one, '/send/anew/1') and heard(two, 'anew'))
    assert heard(two, 'refused') == []
    assert heard(two, 'missed')[len(counts) :]


@pytest.mark.parametrize('machines', ['local'], indirect=True)
def test_another_agent_goes_on_with_the_messages(machines):
    one, two = machines
    before = agent(one)
    os.kill(before, signal.SIGKILL)
    one.expect('The process that talks to the cluster has ended')
    eventually(lambda: heard(one, 'missed'))  # when the next one runs
    assert before not in children(one.pid)
    eventually(lambda: ask(two, '/send/anew/1') and heard(one, 'anew'))
    ask(one, '/send/more/3')
    eventually(lambda: heard(two, 'more') == [0, 1, 2])

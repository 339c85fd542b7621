"""Rolls: the turn of a site, what operators hear, and three machines with a broken release."""

import contextlib
import json
import os
import re
import signal
import socket
from types import SimpleNamespace

import pytest

from paste_wspbus.bus import State
from paste_wspbus.cluster.engine import Member
from paste_wspbus.cluster.redis import RedisEngine
from paste_wspbus.cluster.settings import Settings
from paste_wspbus.unix.kernel_timer import boot_clock
from paste_wspbus.workers import rolls
from paste_wspbus.workers.children import WorkerFailed
from paste_wspbus.workers.renewals import Renewals
from paste_wspbus.workers.rolls import Operators, Order, Turn, is_gone
from paste_wspbus.workers.waiting import Waiting
from tests.kit import TIMEOUT, Site, eventually, run
from tests.kit.processes import agents
from tests.kit.redis_servers import RedisServer, released

WEB1 = Member('web1-x', 'web1')


class Mail:
    """What a turn and operators say to other machines and to the agent."""

    def __init__(self):
        self.sent, self.said, self.runs = [], [], True

    def send(self, kind, text):
        self.sent.append((kind, json.loads(text)))

    def say(self, *words):
        self.said.append(words)
        return self.runs


class Supervisor:
    """A site whose graceful restart waits for the test."""

    def __init__(self):
        self.lines = []
        self.bus = SimpleNamespace(
            state=State.STARTED, log=lambda line, level=20: self.lines.append(line)
        )
        self.renewals = SimpleNamespace(ask=self._renew)
        self.latest, self.count, self.is_renewing = 1, 4, False
        self.asked, self.orders = [], []

    def _renew(self, order):
        self.orders.append(order)
        self.asked.append(order.request)
        self.latest, self.is_renewing = 2, True

    def serving(self, generation):
        return [1]


@pytest.fixture
def turn():
    turn = Turn(Supervisor(), Mail(), 5.0)
    turn.site = turn.supervisor
    return turn


def order(turn, token='a', fence=7, age=0, **more):
    """Send it an order that was valid some seconds ago; return what it has answered."""
    asked = {'token': token, 'to': WEB1.id, 'fence': fence, 'soak': True, 'by': 'alice'}
    turn.mail.sent.clear()
    turn.mail.ordered(json.dumps({**asked, **more}), boot_clock() - age)
    assert all(kind == 'rolled' for kind, _ in turn.mail.sent)
    return [answer for _, answer in turn.mail.sent]


def test_an_order_restarts_the_site_once_and_each_is_answered(turn):
    doing = '1 of 4 workers serve generation 2'
    running = {'state': 'running', 'token': 'a', 'doing': doing}
    assert order(turn, soak=False) == order(turn) == [running]
    assert turn.site.asked == [{'soak': False}]
    assert turn.site.bus.asked_by == 'a roll over all machines, by alice'
    turn.site.orders[0].answer({'generation': 2, 'notes': ['1 stream cut']})
    line = 'generation 2 serves. 1 stream cut'
    done = {'state': 'done', 'line': line, 'generation': 2, 'token': 'a'}
    assert turn.mail.sent[-1] == ('rolled', done)
    assert order(turn) == [done]
    assert len(turn.site.asked) == 1
    running['token'] = 'b'
    assert order(turn, token='b') == [running]
    turn.site.orders[0].answer({'generation': 2})  # not that of this roll
    assert order(turn, token='b') == [running]


@pytest.mark.parametrize(
    'answer, line',
    [
        ({'generation': 1}, 'why; generation 1 keeps serving'),
        ({'generation': None}, 'why; no worker serves'),
        ({'generation': 1, 'mixed': '1 of 2 serve'}, 'why; 1 of 2 serve'),
        ({'generation': 2, 'is_new': True}, 'why; generation 2 serves'),
    ],
)
def test_a_failure_says_who_serves(turn, answer, line):
    order(turn)
    turn.site.orders[0].answer({'failed': 1, 'line': 'why', **answer})
    assert turn.mail.sent[-1][1]['state'] == 'failed'
    assert turn.mail.sent[-1][1]['line'] == line


def test_a_site_that_stops_fails_at_once(turn):
    turn.site.bus.state = State.STOPPING
    assert order(turn)[-1]['line'] == 'the site is STOPPING; no worker serves'
    assert turn.site.asked == []


def test_what_is_old_or_nonsense_is_not_obeyed(turn):
    assert order(turn, fence=9, age=60) == []  # it was stopped for so long
    assert turn.site.asked == []
    order(turn, fence=9)
    # It has obeyed already.
    assert order(turn, fence=9, age=60)[0]['state'] == 'running'
    for wrong in ({'fence': 8, 'token': 'b'}, {'soak': 1}, {'by': 7}):
        assert order(turn, **{'fence': 9, **wrong}) == []
    for text in ('', '[]', '{}', '[' * 10**5):
        turn.mail.ordered(text, boot_clock())
    assert len(turn.site.asked) == 1


class Waits:
    """The end of a client that waits for its answer."""

    def recv(self, *_):
        raise BlockingIOError


@pytest.fixture
def entering(turn, events):
    """A turn that asks whether the roll of fence 7 goes on; ``answers`` are what it hears."""
    leaving = SimpleNamespace(leaving=False, events=events)
    turn.site.events, turn.site.waiting = events, Waiting(leaving)
    turn.answers, turn._ttl = [], TIMEOUT

    def say(*words):
        turn.mail.said.append(words)
        if turn.answers:
            answer = turn.answers.pop(0)
            events.call_later(0, lambda: turn.mail.entered(*answer))

    turn.mail.say = say
    return turn


def test_before_the_first_process_stops_the_roll_must_still_go_on(
    entering, monkeypatch
):
    monkeypatch.setattr(rolls, 'AGAIN', 0.05)
    order(entering)
    (asked,) = entering.site.orders
    entering.answers = [(7, None), (6, True), (7, True)]
    asked.enter(lambda: None)
    assert entering.mail.said == [('enter', 7)] * 3
    entering.answers = [(7, False)]
    with pytest.raises(WorkerFailed, match='the roll that has asked for it has ended'):
        asked.enter(lambda: None)
    entering._ttl = 0.2
    with pytest.raises(
        WorkerFailed, match='it is not known whether the roll continues'
    ):
        asked.enter(lambda: None)


def test_an_operator_of_the_machine_asks_no_roll():
    asked, fakes = [], []

    def renewals(*waiting):
        supervisor = SimpleNamespace(
            bus=SimpleNamespace(state=State.STARTED, asked_by=None),
            failures=SimpleNamespace(logged=0),
            strategy=SimpleNamespace(renew=lambda: one.enter() or fakes.append(one)),
        )
        one = Renewals(supervisor)
        one._it_serves = dict
        supervisor.generation, one._asking = 2, [*waiting]
        one.renew()

    def enters(check):
        asked.append(check)

    by_roll = Order(True, lambda _: None, enters)
    renewals(by_roll)
    assert len(asked) == 1
    renewals(by_roll, Connection())
    renewals(Connection())
    renewals()
    assert len(asked) == 1 and len(fakes) == 4


class Connection:
    """An operator, who asks once."""

    client = 'alice (PID 4711)'

    def __init__(self, sock=None, **request):
        self.request, self.answers, self.sock = request, [], sock or Waits()

    def answer(self, message):
        self.answers.append(message)


@pytest.fixture
def operators():
    operators = Operators(Supervisor(), Mail())
    operators.ask = lambda command, **request: operators.commands[command](
        Connection(**request)
    )
    return operators


def test_operators_hear_what_happens_as_it_happens(operators):
    token = 'a'
    operators.ask('roll', token=token, soak=False, begin='web2')
    assert operators.mail.said == [('roll', token, False, 'web2', 'alice (PID 4711)')]
    assert 'rolls already' in operators.ask('roll')['error']
    waiting = Connection(since=0, said=0)
    assert operators.commands['roll_news'](waiting) is None
    operators.mail.news('another', 'turn', 'web9', 'web9-x')
    assert waiting.answers == []
    operators.mail.news(token, 'turn', 'web2', 'web2-x')
    (answer,) = waiting.answers
    assert answer['news'] == [['turn', 'web2', 'web2-x']]
    assert (answer['roll'], answer['over']) == (token, False)
    waiting = Connection(since=1, said=0)
    assert operators.commands['roll_news'](waiting) is None
    operators.mail.news(token, 'doing', 'web2', 'it loads')
    assert waiting.answers[0]['doing'] == ['web2', 'it loads']
    assert waiting.answers[0]['news'] == []
    assert operators.ask('roll_news', since=1, said=0)['said'] == 1
    assert operators.ask('stop_roll', token='before') == {'accepted': False}
    assert len(operators.mail.said) == 1
    assert operators.ask('stop_roll', token=token) == {'accepted': True}
    assert operators.mail.said[-1] == ('stop_roll',)
    operators.mail.news(token, 'ends', 'web2 has failed', [])
    assert operators.ask('roll_news', since=1, said=1)['over'] is True
    assert operators.ask('roll', token='b')['accepted']


def test_a_command_that_has_ended_begins_no_roll(operators):
    mine, its = socket.socketpair()
    its.close()
    with mine:
        answer = operators.ask('roll', token='a', sock=mine)
    assert 'has ended' in answer['error']
    assert operators.ask('stop_roll', token='a') == {'accepted': False}
    for token in (None, '', 7, 'x' * 65):
        assert operators.ask('roll', token=token) == {'error': 'it has no token'}
    assert operators.mail.said == []


def test_a_client_is_gone_when_it_has_closed_its_end():
    mine, its = socket.socketpair()
    with mine, its:
        assert not is_gone(mine)
        its.send(b'more')
        assert not is_gone(mine)
        mine.recv(10)
        its.close()
        assert is_gone(mine)


def test_the_end_of_the_agent_ends_the_roll(operators):
    operators.mail.ended()
    operators.ask('roll', token='a')
    operators.mail.ended()
    answer = operators.ask('roll_news', since=0, said=0)
    assert answer['news'][0][1] == 'the process that talks to the cluster has ended'
    operators.mail.runs = False
    assert 'does not run' in operators.ask('roll', token='b')['error']


# -- three machines ---------------------------------------------------------------------------

INI = """
[app:main]
use = call:webapp:make

[server:main]
use = egg:waitress
listen = 127.0.0.1:0

[wspbus:main]
workers = 1
soak = 0
pid_file = site.pid

[cluster:main]
use = {url}
name = shop
machine = {name}
ttl = 5
"""

APP = """
def make(global_conf):
    def app(environ, start_response):
        start_response('200 OK', [('Content-Type', 'text/plain')])
        return [b'{version}']
    return app
"""


def deploy(folder, name, version, broken=False):
    """Let the link of a machine lead to a release."""
    release = folder / name / 'releases' / version
    release.mkdir(parents=True)
    text = APP.replace('{version}', version) + 'broken\n' * broken
    (release / 'webapp.py').write_text(text)
    ini = INI.format(url=(folder / 'url').read_text(), name=name)
    (release / 'site.ini').write_text(ini)
    link = folder / name / 'current'
    link.unlink(missing_ok=True)
    link.symlink_to(release)


class Machine(Site):
    def __init__(self, folder, name, **kwargs):
        self.name = name
        super().__init__(folder / name, None, 'current/site.ini', '-v', **kwargs)

    def command(self, *args, **kwargs):
        return Site(self.folder, None, 'current/site.ini', *args, wait=False, **kwargs)

    def run(self, *args):
        return run(self.folder, 'current/site.ini', *args)

    @property
    def serves(self):
        return self.get('/').body.decode()


NAMES = 'web1', 'web2', 'web3'


@pytest.fixture(scope='module')
def machines(tmp_path_factory):
    """Three machines; ``folder`` of each is in one folder with the others."""
    folder = tmp_path_factory.mktemp('machines')
    (folder / 'engine').mkdir()
    with RedisServer(folder / 'engine') as engine:
        released(RedisEngine(Settings(engine.url, 'shop', 'nobody')), 'roll')
        (folder / 'url').write_text(engine.url)
        for name in NAMES:
            deploy(folder, name, '41')
        with (
            Machine(folder, 'web1') as one,
            Machine(folder, 'web2') as two,
            Machine(folder, 'web3') as three,
        ):
            seen = 'wspbus:{shop}:seen'
            eventually(lambda: engine.client().zcard(seen) == 3)
            yield one, two, three


def rows(told):
    """From each machine of the last table to its outcome, generation and release."""
    found = re.findall(
        r'^(web\d)\s+(\S+(?: \S+)*?)  +(\d)\s+(\S+)', told.out.text, re.M
    )
    return {name: row for name, *row in found}


def test_a_roll_ends_at_the_first_machine_that_fails(machines):
    one, two, three = machines
    folder = one.folder.parent
    for name in NAMES:
        deploy(folder, name, '42', broken=name == 'web2')
    failed = three.run('graceful', '--cluster')  # asked for on any of them
    assert failed.code == 1, failed.report()
    assert [site.serves for site in machines] == ['42', '41', '41']
    lines = failed.out.text.splitlines()
    assert lines[0] == '3 machines: web1, web2, web3'
    assert lines[1].startswith('web1: generation 2 serves (')
    assert lines[2].startswith('web2: it has failed: ')
    assert 'NameError' in lines[2] and 'generation 1 keeps serving' in lines[2]
    assert rows(failed) == {
        'web1': ['restarted', '2', '42'],
        'web2': ['failed', '1', '41'],
        'web3': ['not restarted', '1', '41'],
    }
    go_on = 'wspserve current/site.ini graceful --cluster --from web2'
    assert f'To continue, mend web2, and then: {go_on}' in failed.out.text
    assert failed.err.text == 'The roll has ended: web2 has failed.\n'
    two.expect('Asked for a graceful restart: a roll over all machines, by ')
    deploy(folder, 'web2', '43')
    mended = one.run('graceful', '--cluster', '--from', 'web2')
    assert mended.code == 0, mended.report()
    assert mended.out.text.endswith('2 machines restarted, as asked.\n')
    assert [site.serves for site in machines] == ['42', '43', '42']
    assert rows(mended)['web1'] == ['not in the roll', '2', '42']


@contextlib.contextmanager
def held_up(folder):
    """Let each load of web2 that begins meanwhile wait for a pipe, which it gets."""
    app, gate = folder / 'web2' / 'current' / 'webapp.py', folder / 'gate'
    if not gate.exists():
        os.mkfifo(gate)
    loadable = app.read_text()
    app.write_text(f'open({str(gate)!r}).close()\n{loadable}')
    try:
        yield gate
    finally:
        app.write_text(loadable)


def test_a_second_operator_is_told_who_rolls_and_ctrl_c_says_what_goes_on(machines):
    one, two, three = machines
    folder = one.folder.parent
    with held_up(folder) as gate, one.command('graceful', '--cluster') as first:
        assert first.out.wait_for('web1: generation ')
        second = three.run('graceful', '--cluster')
        assert second.code == 1
        assert re.fullmatch(
            r'No roll: web1 \(for \S+ \(PID \d+\)\) rolls already, for \d+ s; web2 is in its turn. Nothing was '
            r'restarted. If that roll has died, another one can begin in \d s.\n',
            second.err.text,
        )
        same = one.run('graceful', '--cluster')
        assert 'refuses: this machine rolls already' in same.err.text
        first.send(signal.SIGINT)
        assert first.wait() == 130
        assert first.err.text.splitlines()[-1] == (
            'The roll is stopped. Restarted: web1. In its turn: web2, which continues: see '
            'its log. Not restarted: web3.'
        )
        count = two.out.text.count(' serves, workers in PIDs ')
        with gate.open('w'):
            assert two.out.wait_for(' serves, workers in PIDs ', count + 1)
    one.expect('Roll: it has ended: the operator has stopped it')


def test_a_roll_whose_process_dies_ends_there_and_each_machine_says_so(machines):
    one, two, three = machines
    serves = two.serves
    count = two.err.text.count('Asked for a graceful restart')
    with held_up(one.folder.parent) as gate:
        with one.command('graceful', '--cluster') as roll:
            two.expect('Asked for a graceful restart', count + 1)
            (agent,) = agents(one.pid)
            os.kill(agent, signal.SIGKILL)
            assert roll.wait() == 1
        assert 'In its turn: web2: see its log. Not restarted: web3.' in roll.out.text
        # The next agent says that; if the engine was too slow for it, the lease ends by itself.
        eventually(lambda: 'has died' in three.run('status', '--cluster').out.text)
        said = three.run('status', '--cluster').out.text.splitlines()[-1]
        assert re.fullmatch(
            r'.*web1 \(for .*\),? has .* has died. In its turn: web2, which had replaced no '
            r'process. Restarted: web1. Not restarted: web3. To continue, see what web2 does, and '
            r'then: graceful --cluster --from web2.',
            said,
        )
        three.expect(
            'died. In its turn: web2, which had replaced no process. Restarted: '
        )
        with gate.open('w'):
            two.expect('failed: the roll that has asked for it has ended; generation ')
    assert two.serves == serves


def test_a_machine_that_is_silent_in_its_turn_fails_and_does_not_restart_later(
    machines,
):
    one, two, _ = machines
    serves = two.serves
    count = two.err.text.count('Asked for a graceful restart')
    failed = two.err.text.count('the roll that has asked for it has ended')
    with held_up(one.folder.parent) as gate:
        with one.command('graceful', '--cluster') as roll:
            two.expect('Asked for a graceful restart', count + 1)
            os.killpg(two.pid, signal.SIGSTOP)
            assert roll.wait() == 1
        os.killpg(two.pid, signal.SIGCONT)
        assert re.search(
            r'web2: it has failed: it has not answered for \d+ s.*\. It had replaced no process, '
            r'and does not begin any more$',
            roll.out.text,
            re.M,
        )
        assert rows(roll)['web3'][0] == 'not restarted'
        with gate.open('w'):
            two.expect('the roll that has asked for it has ended', failed + 1)
    assert two.serves == serves


def test_a_site_without_a_cluster_and_wrong_words_are_refused_in_one_line(tmp_path):
    text = INI.partition('[cluster:main]')[0].replace('pid_file = site.pid', '')
    env = {'RUNTIME_DIRECTORY': str(tmp_path)}
    files = {'webapp.py': APP.replace('{version}', '1')}
    with Site(tmp_path, text, '--pid-file', 'a.pid', files=files, env=env) as site:
        told = run(tmp_path, 'site.ini', 'graceful', '--cluster', '--pid-file', 'a.pid')
        assert told.code == 1
        (line,) = told.err.text.splitlines()
        assert f'(process {site.pid}) belongs to no cluster: it needs workers' in line
    for args, line in (
        (['graceful', '--from', 'web2'], '--from MACHINE works only with graceful'),
        (['status', '--cluster', '--from', 'a'], '--from MACHINE works only with grac'),
        (['stop', '--cluster'], '--cluster works only with status, graceful, ps'),
    ):
        told = run(tmp_path, 'site.ini', *args)
        assert told.code == 2 and line in told.err.text

"""The agent: what it asks the engine for, and what it says to its supervisor."""

import json
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest

from paste_wspbus.cluster.agent import FIRST, RECEIVES, RENEWS, Agent
from paste_wspbus.cluster.claim import Held
from paste_wspbus.cluster.engine import (
    Answer,
    EngineAway,
    Member,
    Received,
    Record,
    Seen,
)
from paste_wspbus.cluster.redis import PATIENCE, SHARE
from paste_wspbus.cluster.roll import ROLL
from paste_wspbus.cluster.settings import Settings
from paste_wspbus.unix.kernel_timer import boot_clock
from paste_wspbus.workers.guard import ASKS, end_of

TTL = 10
ONE, TWO = Member('one-1', 'one'), Member('two-2', 'two')


class Engine:
    """It grants what it is asked for, and notes that; ``away`` is why it does not answer."""

    def __init__(self):
        self.acts, self.away, self.holder, self.others = [], '', '', []
        self.warned = ['it is too small']
        #: Whether it knows of the member.
        self.knows = True

    def _look(self, act):
        self.acts.append(act)
        if self.away:
            raise EngineAway(self.away)

    def join(self, member, fences, facts):
        self._look('join')
        self.facts = facts
        return 1 + len(self.others)

    def members(self):
        return [Seen(one, 0.0, {}) for one in (ONE, *self.others)]

    def leave(self, member):
        self._look('leave')

    def lease(self, name, member, wish):
        self._look(wish.act)
        if wish.act == 'take':
            self.holder = member.id
        if wish.act == 'free':
            self.holder = ''
        record = Record(self.holder, 7, len(self.acts), 'run', 0.0, 0.0, self.holder)
        members = (1 + len(self.others)) * self.knows
        return Answer(wish.act != 'look', record, 'run', boot_clock(), members)

    def send(self, message):
        self.acts.append(message.kind)

    def record(self, member, facts):
        self.acts.append('record')

    def receive(self, timeout):
        return Received([])

    def warnings(self):
        return self.warned


class Told:
    """An agent, whose supervisor is the test."""

    def __init__(self, held=None, secret='sesame'):
        self.engine = Engine()
        self.mine, its = socket.socketpair()
        self.mine.setblocking(False)
        ini = Settings('redis://h/0', 'shop', 'one', TTL, secret)
        self.agent = Agent(ini, ONE, self.engine, its, held)
        self.its = its

    def tell(self, *words):
        """Tell it something; return whether it goes on."""
        self.mine.send(json.dumps(words).encode() + b'\n')
        return self.agent._read()

    def beat(self):
        """Let it work once; return what it has asked for, and what it has said."""
        self.engine.acts.clear()
        self.agent._joins_at = float('inf')
        self.agent._beat()
        return self.engine.acts, self.said()

    def said(self):
        try:
            lines = self.mine.recv(65536).splitlines()
        except BlockingIOError:
            return {}
        words = [json.loads(line) for line in lines]
        return {word: carried for word, *carried in words}

    def close(self):
        for one in (self.mine, self.its, self.agent._wake, self.agent._woken):
            one.close()


@pytest.fixture
def told():
    made = []

    def make(**kwargs):
        made.append(Told(**kwargs))
        return made[-1]

    yield make
    for one in made:
        one.close()


def leads(one):
    one.tell('wants', True)
    one.beat()
    acts, said = one.beat()
    assert acts == ['take']
    fence, until = said['held']
    return fence, until


def test_it_looks_at_the_lease_only_if_its_site_wants_it(told):
    one = told()
    assert one.beat()[0] == []
    one.tell('wants', True)
    assert one.beat()[0] == ['look']


def test_each_look_at_the_lease_says_that_the_member_is_there(told):
    """So a machine that waits for the lease sends one command in half a ttl."""
    one = told()
    one.engine.holder = TWO.id
    one.tell('wants', True)
    one.agent._beat()
    assert one.engine.acts == ['join', 'look']
    one.engine.acts.clear()
    one.engine.others = [TWO]
    for _ in range(3):
        one.agent._beat()
        assert TTL * 0.3 < one.agent._next - boot_clock() <= TTL / 2
    assert 'join' not in one.engine.acts and one.agent._members == 2
    one.engine.knows = False  # it has lost its data
    one.engine.acts.clear()
    one.agent._beat()
    assert one.engine.acts[-1] == 'join'
    one.tell('wants', False)
    one.agent._beat()
    assert one.agent._next == one.agent._joins_at


def test_it_renews_only_what_its_supervisor_has_heard_of(told):
    one = told()
    fence, until = leads(one)
    assert until <= boot_clock() + TTL
    acts, said = one.beat()
    assert acts == ['look'] and 'held' not in said
    one.tell('heard', fence, until)
    acts, said = one.beat()
    assert acts == ['renew']
    assert said['held'][0] == fence and said['held'][1] > until


def test_after_a_lease_without_a_word_of_the_supervisor_it_takes_none(told):
    one = told()
    fence, until = leads(one)
    one.agent.claim.held = Held(fence, boot_clock() - 1)  # the time has passed
    acts, said = one.beat()
    assert said['lost'] == [fence]
    assert acts == ['look']
    assert one.beat()[0] == ['look']
    one.tell('heard', fence, until)  # it was only stopped
    assert 'take' in [*one.beat()[0], *one.beat()[0]]


def test_it_releases_a_lease_and_tells_the_others(told):
    one = told()
    fence, _ = leads(one)
    one.tell('wants', False)
    one.tell('free', fence)
    acts, _ = one.beat()
    assert acts == ['free', 'freed']
    assert one.beat()[0] == []
    assert not one.tell('bye')
    assert one.engine.acts == ['leave']


def test_a_release_that_fails_is_tried_again(told):
    one = told()
    fence, _ = leads(one)
    one.engine.away = 'it is full'
    one.tell('wants', False)
    one.tell('free', fence)
    assert one.beat()[0] == ['free']
    one.engine.away = ''
    assert one.beat()[0] == ['free', 'freed']


def test_the_next_agent_goes_on_with_the_lease_of_the_one_before(told):
    one = told(held=Held(7, boot_clock() + TTL))
    one.tell('wants', True)
    assert one.beat()[0] == ['renew']


def test_a_lost_engine_is_logged_once_a_minute_and_its_return_once(told):
    one = told()
    one.tell('wants', True)
    one.engine.away = 'it is full'
    _, said = one.beat()
    level, line = said['note']
    assert level == 40
    assert (
        line == 'cluster: no word from redis://h/0: it is full. The site keeps serving'
    )
    assert said['engine'][0]['away'] == 'it is full'
    assert 'note' not in one.beat()[1]
    one.agent._told_at -= 61
    one.agent._away_since -= 72
    assert ' for 72 s: it is full' in one.beat()[1]['note'][1]
    one.engine.away, one.engine.warned = '', []
    _, said = one.beat()
    assert said['note'] == [30, 'cluster: redis://h/0 is back after 72 s']
    assert said['engine'][0]['away'] == ''
    for away in ('it is full', '', 'it is full', ''):  # it comes and goes
        one.engine.away = away
        assert 'note' not in one.beat()[1]
    one.agent._told_at -= 61
    line = 'cluster: redis://h/0 was away 2 times more: it is full. It is back'
    assert one.beat()[1]['note'] == [30, line]
    assert 'note' not in one.beat()[1]


def test_each_failure_says_since_when_there_is_no_word(told):
    one = told()
    one.tell('wants', True)
    one.beat()
    one.engine.away = 'it is full'
    for _ in range(2):
        _, said = one.beat()
        assert said['engine'][0]['away'] == 'it is full'
        assert said['engine'][0]['since'] <= boot_clock()


def test_it_looks_at_all_machines_for_who_asks_and_not_while_the_engine_is_away(told):
    one = told()
    one.beat()
    one.engine.others = [TWO]
    one.engine.acts.clear()
    one.tell('look', False)
    assert one.engine.acts == ['look']
    assert one.said()['looked'] == [None, 0, None]
    one.tell('look', True)
    said = one.said()
    (first, second), more, roll = said['looked']
    assert (more, roll) == (0, None)
    assert (first['machine'], second['id']) == ('one', 'two-2')
    assert first['release'] is None and first['age'] == 0
    assert said['engine'][0]['round_trip'] >= 0

    def lease(name, *_):
        if name == ROLL:
            raise EngineAway('another program has its key')
        return Engine.lease(one.engine, name, *_)

    one.engine.lease = lease
    one.tell('look', True)
    said = one.said()
    assert len(said['looked'][0]) == 2 and said['engine'][0]['away'] == ''
    one.engine.away = 'it is full'
    one.tell('look', True)
    said = one.said()
    assert (
        said['looked'] == [None, 0, None] and said['engine'][0]['away'] == 'it is full'
    )
    one.engine.acts.clear()
    one.tell('look', True)
    assert one.said()['looked'] == [None, 0, None] and one.engine.acts == []


def test_who_asks_before_the_first_word_gets_an_answer_and_the_warnings_too(told):
    one = told()
    one.tell('look', True)
    said = one.said()
    assert [row['machine'] for row in said['looked'][0]] == ['one']
    assert 'it is too small' in said['note'][1]


@pytest.mark.parametrize(
    ('record', 'leader'),
    [
        (None, ''),
        (Record('', 7, 1, 'run', 0.0, 0.0, '', 10), ''),
        (Record('two-2', 7, 1, 'run', 9.0, 90.0, 'two', 10), 'two'),
        (Record('one-1', 7, 1, 'run', 9.0, 90.0, 'one', 10), 'one'),
        # A namesake of this machine.
        (Record('one-9', 7, 1, 'run', 9.0, 90.0, 'one', 10), 'one-9'),
        (Record('two-2', 7, 1, 'run', 11.0, 90.0, 'two', 10), ''),  # it has ended
        (Record('two-2', 7, 1, 'before', 1.0, 90.0, 'two', 10), ''),
    ],
)
def test_nobody_leads_whose_lease_has_ended(told, record, leader):
    one = told()
    one.beat()
    one.engine.lease = lambda name, member, wish: Answer(False, record, 'run', 5.0)
    one.tell('look', False)
    said = one.said()['engine'][0]
    assert said['leader'] == leader
    if leader:
        assert said['leads'] == pytest.approx(boot_clock() - 90, abs=5)
    else:
        assert said['leads'] is None


def test_it_asks_an_engine_that_is_away_soon_and_then_more_rarely(told):
    one, waits = told(), []
    one.tell('wants', True)
    one.engine.away = 'it is full'
    for _ in range(9):
        one.beat()
        waits.append(one.agent._next - boot_clock())
    assert 0 < waits[0] < 0.3
    assert 1 < waits[-1] <= TTL / 3


def test_who_has_no_secret_is_warned(told):
    for secret, is_warned in (('', True), ('sesame', False)):
        one = told(secret=secret)
        one.agent._beat()
        assert ('has no secret' in one.mine.recv(65536).decode()) is is_warned


def test_warnings_of_the_engine_and_namesakes_are_told_once(told):
    one = told()
    one.tell('wants', True)
    one.engine.others = [Member('one-9', 'one'), TWO]
    one.agent._beat()
    said = one.mine.recv(65536).decode()
    assert said.count('it is too small') == 1
    assert said.count('has the name one, too (one-9; this one is one-1)') == 1
    for _ in range(3):
        one.agent._joins_at = 0
        one.agent._beat()
    assert 'note' not in one.said()


def test_facts_are_recorded_when_they_change_and_with_each_word_of_the_member(told):
    one = told()
    one.tell('record', {'release': '1.2'})
    one.agent._beat()
    assert one.engine.facts == {'release': '1.2'}
    one.tell('record', {'release': '1.3'})
    assert one.beat()[0] == ['record']
    for _ in range(3):  # not each change of a moment is recorded
        one.tell('record', {'release': '1.4'})
        assert one.beat()[0] == []
    assert one.agent._next <= boot_clock() + 1
    one.agent._records_at = 0
    assert one.beat()[0] == ['record']
    assert one.beat()[0] == []


def test_it_joins_again_as_soon_as_an_engine_that_was_away_is_back(told):
    one = told()
    assert 'join' not in one.beat()[0]
    one.engine.away = 'there is no connection'
    one.tell('wants', True)
    one.beat()
    one.engine.away = ''
    one.engine.acts.clear()
    one.agent._beat()
    assert one.engine.acts[0] == 'join'


def test_an_engine_that_answers_but_gives_no_messages_is_logged_once_a_minute(told):
    one, lines = told(), []
    one.agent._mail = SimpleNamespace(say=lambda *words: lines.append(words))
    away, now = EngineAway('this user may not do that'), boot_clock()
    for seconds in (0, 9, 12, 30, 75):
        one.agent._receives_nothing(away, now + seconds)
    says = 'cluster: no messages of other machines for {} s: this user may not do that'
    assert lines == [('note', 40, says.format(12)), ('note', 40, says.format(75))]
    one.agent._away_since = now  # the log says that already
    one.agent._receives_nothing(away, now + 300)
    assert len(lines) == 2


def test_a_thread_of_the_agent_that_fails_ends_it():
    script = (
        'import threading, time\n'
        'from paste_wspbus.cluster.agent import _end_all\n'
        'threading.excepthook = _end_all\n'
        'threading.Thread(target=lambda: 1 / 0).start()\n'
        'time.sleep(60)\n'
    )
    ended = subprocess.run([sys.executable, '-c', script], capture_output=True)
    assert ended.returncode == 1
    assert b'ZeroDivisionError' in ended.stderr


@pytest.mark.parametrize('ttl', [2.5, 4, 10, 3600])
def test_a_renewal_without_an_answer_is_repeated_in_time(ttl):
    """The other one is sent after a wait, and the plugins need not stop."""
    asks = end_of(Held(1, ttl), ttl) - ttl * ASKS
    fails = ttl * RENEWS + min(PATIENCE, ttl * SHARE)
    assert fails + min(2 * FIRST, ttl / 10) < asks


def test_with_a_ttl_of_four_seconds_an_idle_machine_sends_a_command_a_second():
    ttl, mean = 4, (0.9 + 1) / 2
    assert 1 / (ttl * RENEWS * mean) + 1 / RECEIVES <= 1

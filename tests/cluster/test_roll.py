"""A roll, over machines of the test's own: they answer what the test says."""

import json
import queue
import re
import time
from collections import deque
from types import SimpleNamespace

import pytest

from paste_wspbus.cluster import roll, rolled
from paste_wspbus.cluster.claim import Claim
from paste_wspbus.cluster.engine import (
    Answer,
    EngineAway,
    Member,
    Message,
    Record,
    Seen,
)
from paste_wspbus.cluster.roll import DONE, FAILED, Asked, Roll, Rolls
from paste_wspbus.cluster.settings import Settings
from paste_wspbus.unix.kernel_timer import boot_clock

TTL = 1
WEB1, WEB2, WEB3 = (Member(f'web{number}-x', f'web{number}') for number in (1, 2, 3))
SERVES = {'state': DONE, 'line': 'generation 2 serves', 'generation': 2}
FAILS = {'state': FAILED, 'line': 'ImportError; generation 1 keeps serving'}


class Inbox(deque):
    """A queue in which nobody waits: the time passes at once, so no machine is too slow for it."""

    def __init__(self):
        super().__init__()
        self.now = 1000.0
        self.put = self.append

    def get(self, timeout):
        if not self:
            self.now += timeout
            raise queue.Empty
        return self.popleft()

    def clock(self):
        self.now += 1e-6  # that takes a moment, too
        return self.now


class Engine:
    """It grants the lease at once; ``answers`` has what each machine answers to its orders.

    The last answer of a machine is given again and again; None is no answer.
    """

    def __init__(self):
        self.seen = [Seen(one, 0.1, {'generation': 1}) for one in (WEB1, WEB2, WEB3)]
        self.answers = {one.id: [SERVES] for one in (WEB1, WEB2, WEB3)}
        self.orders, self.holder, self.acts = [], '', []
        self.clock = boot_clock
        self.away = self.entered = ''
        self.roll, self.notes = None, []

    def members(self):
        return [
            one._replace(facts={**one.facts, 'generation': 2})
            if one.member.id in [order['to'] for order in self.orders]
            else one
            for one in self.seen
        ]

    def lease(self, name, member, wish):
        assert name == 'roll'
        self.acts.append(wish.act)
        is_other = self.holder not in ('', member.id)
        if wish.act == 'take' and not is_other:
            self.holder, self.shown = member.id, member.machine
        if wish.act == 'free':
            self.holder = ''
        self.notes += [wish.note] * bool(wish.note)
        note = self.notes[-1] if self.notes else ''
        record = Record(
            *(self.holder, 7, len(self.acts), 'run', 0.1, 12.0, 'web9', TTL),
            *(note, self.entered),
        )
        return Answer(wish.act != 'look' and not is_other, record, 'run', self.clock())

    def send(self, message):
        if self.away:
            raise EngineAway(self.away)
        order = json.loads(message.text)
        self.ordered_at = self.clock()
        self.orders.append(order)
        answers = self.answers[order['to']]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if callable(answer):
            answer = answer()
        if answer is not None:
            text = json.dumps({**answer, 'token': order['token']})
            self.roll.hear(Message(order['to'], 'rolled', text))

    def close(self):
        self.acts.append('close')


@pytest.fixture
def made(monkeypatch):
    monkeypatch.setattr(roll, 'EVERY', 0.02)
    monkeypatch.setattr(roll, 'LATER', 0.1)

    def make(**asked):
        engine, news = Engine(), []
        one = Roll(
            Settings('', 'shop', 'web1', TTL),
            WEB1,
            Claim(WEB1.id, TTL),
            Asked('token', by='alice', **asked),
            lambda: engine,
            lambda *words: news.append(words),
        )
        engine.roll, one.engine, one.news = one, engine, news
        one.inbox = Inbox()
        engine.clock = one.inbox.clock
        return one

    return make


def outcomes(one):
    """Run it; return how it has ended, and what each machine is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roll, 'clock', one.inbox.clock)
        one.run()
    word, line, rows = one.news[-1]
    assert word == 'ends'
    assert one.engine.acts[-1] == 'close'
    return line, {row['machine']: row['outcome'] for row in rows}


def words(one):
    return [news[:2] for news in one.news if news[0] not in ('doing', 'ends')]


def test_each_machine_has_its_turn_in_the_order_of_their_names(made):
    one = made(soak=False)
    line, rows = outcomes(one)
    assert (line, rows) == ('', dict.fromkeys(('web1', 'web2', 'web3'), 'done'))
    assert [order['to'] for order in one.engine.orders] == [WEB1.id, WEB2.id, WEB3.id]
    assert one.engine.orders[0]['soak'] is False
    assert one.engine.orders[0]['fence'] == 7
    assert one.engine.orders[0]['by'] == 'alice, from web1'
    assert words(one)[:3] == [
        ('begins', ['web1', 'web2', 'web3']),
        ('turn', 'web1'),
        ('done', 'web1'),
    ]
    assert 'alice' in one.engine.shown  # a second operator reads that


def test_machines_of_one_name_are_told_apart_by_their_ids(made):
    one = made()
    one.engine.seen[1] = one.engine.seen[1]._replace(member=Member('web1-y', 'web1'))
    one.engine.answers['web1-y'] = [FAILS]
    assert outcomes(one)[0] == 'web1-y has failed'
    assert words(one)[0] == ('begins', ['web1-x', 'web1-y', 'web3'])
    again = made(begin='web1-y')
    again.engine.seen = one.engine.seen
    again.engine.answers['web1-y'] = [SERVES]
    assert outcomes(again)[0] == ''
    assert [order['to'] for order in again.engine.orders] == ['web1-y', WEB3.id]


def test_the_first_failure_ends_it(made):
    one = made()
    one.engine.answers[WEB2.id] = [{'state': 'running', 'doing': 'it loads'}, FAILS]
    line, rows = outcomes(one)
    assert line == 'web2 has failed'
    assert rows == {'web1': 'done', 'web2': 'failed', 'web3': 'waits'}
    assert ('doing', 'web2', 'it loads') in one.news
    assert ('failed', 'web2', FAILS['line']) in one.news
    assert one.engine.acts[-2] == 'free' and one.engine.holder == ''


def test_a_machine_that_says_nothing_fails_after_the_ttl(made):
    one = made()
    one.engine.answers[WEB2.id] = [{'state': 'running'}, None]
    began = one.engine.clock()
    _, rows = outcomes(one)
    assert one.engine.clock() - began > TTL
    assert rows == {'web1': 'done', 'web2': 'failed', 'web3': 'waits'}
    (failed,) = [news for news in one.news if news[0] == 'failed']
    assert re.fullmatch(
        r'it has not answered for \d s. It had replaced no process, and does not begin any '
        r'more',
        failed[2],
    )
    assert one.engine.clock() - one.engine.ordered_at > roll.LATER
    assert one.engine.acts[-2:] == ['free', 'close']
    said = rolled.read_note(one.engine.notes[-1])
    assert said == {
        **{'who': 'web1 (for alice)', 'turn': '', 'line': 'web2 has failed'},
        **{'done': 'web1', 'failed': 'web2', 'rest': 'web3'},
    }


def test_a_machine_that_was_at_it_before_it_became_silent_may_have_restarted(made):
    one = made()

    def enters():
        one.engine.entered = WEB1.id
        del one.engine.seen[0]  # then somebody has stopped it

    one.engine.answers[WEB1.id] = [enters, None]
    outcomes(one)
    (failed,) = [news for news in one.news if news[0] == 'failed']
    assert failed[2].endswith(
        '. It had begun to replace its processes: see its log. It is no longer in the cluster'
    )


def test_who_has_lost_the_lease_does_not_know_what_a_silent_machine_does(made):
    one = made()

    def loses():
        one.engine.holder = WEB3.id  # another one rolls

    one.engine.answers[WEB1.id] = [loses, None]
    one._renew = lambda engine: None
    outcomes(one)
    (failed,) = [news for news in one.news if news[0] == 'failed']
    assert failed[2].endswith('. Whether it restarts is not known')


def test_the_lease_says_how_far_it_is_and_the_next_roll_how_the_last_one_ended(made):
    one = made()
    one.engine.answers[WEB2.id] = [FAILS]
    outcomes(one)
    said = [rolled.read_note(note) for note in one.engine.notes]
    assert [(one['turn'], one['done'], one['failed']) for one in said] == [
        ('web1', '', ''),
        ('web2', 'web1', ''),
        ('', 'web1', 'web2'),
    ]
    two = made()
    two.engine.notes = one.engine.notes[:2]  # it has died there
    two.engine.holder = ''
    outcomes(two)
    assert two.news[0][:1] == ('before',)
    assert (
        'In its turn: web2, which had replaced no process. Restarted: web1.'
        in (two.news[0][1])
    )
    three = made()
    three.engine.notes = two.engine.notes
    outcomes(three)
    assert three.news[0][0] == 'begins'


def test_an_order_is_sent_again_until_it_is_answered(made):
    one = made()
    one.engine.answers[WEB1.id] = [None, None, {'state': 'running'}, SERVES]
    assert outcomes(one)[0] == ''
    assert len([one for one in one.engine.orders if one['to'] == WEB1.id]) == 4


def test_the_lease_is_renewed_in_a_long_turn_and_its_loss_ends_the_roll(made):
    one = made()
    until = one.engine.clock() + 1.5 * TTL

    def answer():
        return {'state': 'running'} if one.engine.clock() < until else SERVES

    one.engine.answers[WEB1.id] = [answer]
    assert outcomes(one)[0] == ''
    assert one.engine.acts.count('renew') >= 2
    lost = made()

    def lose():
        lost.claim.held = None
        return {'state': 'running'}

    lost.engine.answers[WEB1.id] = [lose]
    line, rows = outcomes(lost)
    assert 'lease of the roll is lost' in line
    assert rows['web1'] == 'in turn' and rows['web2'] == 'waits'


def test_an_engine_that_is_away_for_a_moment_is_no_failure(made):
    one = made()
    send, comes_back = one.engine.send, one.engine.clock() + 0.5 * TTL

    def is_away(message):
        away = one.engine.orders and one.engine.clock() < comes_back
        one.engine.away = 'it is full' if away else ''
        send(message)

    one.engine.send = is_away
    one.engine.answers[WEB1.id] = [{'state': 'running'}, SERVES]
    assert outcomes(one)[0] == ''
    assert any(news[0] == 'doing' and 'it is full' in news[2] for news in one.news)


def test_an_engine_that_grants_leases_but_takes_no_messages_ends_it(made):
    one = made()
    one.engine.away = 'this user may not do that'
    line, rows = outcomes(one)
    assert line == 'the engine has taken no order for 1 s: this user may not do that'
    assert rows == {'web1': 'in turn', 'web2': 'waits', 'web3': 'waits'}
    assert 'renew' in one.engine.acts


def test_it_can_begin_with_any_machine(made):
    one = made(begin='web2')
    line, rows = outcomes(one)
    assert (line, rows) == ('', {'web1': '', 'web2': 'done', 'web3': 'done'})
    line, _ = outcomes(made(begin='web9'))
    assert line == (
        'there is no machine web9, only web1, web2, web3. Nothing was restarted'
    )


def test_a_sentence_names_some_of_many_machines(made):
    one = made()
    one.engine.seen = [
        Seen(Member(f'web{number}-x', f'web{number}'), 43.0, {})
        for number in range(100, 130)
    ]
    line, _ = outcomes(one)
    assert 'web119 for 43 s and 10 more. Nothing' in line


def test_a_second_operator_is_told_who_rolls(made):
    one = made()
    one.engine.holder = 'web9-x'
    line, _ = outcomes(one)
    assert line == (
        'web9 rolls already, for 12 s. Nothing was restarted. If that roll has died, '
        'another one can begin in 1 s'
    )
    assert one.engine.orders == []


def test_nothing_is_restarted_while_a_machine_is_silent(made):
    one = made()
    one.engine.seen[2] = one.engine.seen[2]._replace(age=43.0)
    line, _ = outcomes(one)
    assert line.startswith('no report from web3 for 43 s. Nothing was restarted')
    assert one.engine.orders == []
    other = made()  # its ttl may be longer
    facts = {'ttl': 60, 'generation': 1}
    other.engine.seen[2] = other.engine.seen[2]._replace(age=43.0, facts=facts)
    assert outcomes(other)[0] == ''


def test_machines_that_an_empty_engine_did_not_know_yet_are_in_the_roll(made):
    one, known = made(), made().engine.seen
    one.engine.seen = known[:1]
    lease = one.engine.lease

    def take(name, member, wish):
        if wish.act == 'take':  # all have said something before a lease is taken
            one.engine.seen = known
        return lease(name, member, wish)

    one.engine.lease = take
    assert outcomes(one) == ('', dict.fromkeys(('web1', 'web2', 'web3'), 'done'))


def test_the_lease_is_renewed_while_a_silent_machine_is_waited_for(made):
    one = made()

    def members():
        is_held = one.claim.held is not None
        return [known._replace(age=43.0 * is_held) for known in one.engine.seen]

    one.engine.members = members
    one.engine.notes = [note := json.dumps(dict(NOTE, who='web2', line='it has died'))]
    assert 'no report from web1 for 43 s' in outcomes(one)[0]
    assert 'renew' in one.engine.acts
    assert {*one.engine.notes} == {note}  # nothing has begun: that is not forgotten


def test_a_machine_that_was_killed_and_started_again_is_one_machine(made):
    one = made()
    dead = Seen(Member('web2-old', 'web2'), 3.0, {'since': time.time() - 99})
    one.engine.seen[1] = one.engine.seen[1]._replace(facts={'since': time.time() - 2})
    one.engine.seen.insert(1, dead)
    assert outcomes(one)[0] == ''
    assert [order['to'] for order in one.engine.orders] == [WEB1.id, WEB2.id, WEB3.id]
    for since in (time.time() - 5, None):  # that is another machine of this name
        other = made()
        other.engine.seen[1] = one.engine.seen[2]._replace(facts={'since': since})
        other.engine.seen.insert(1, dead)
        assert 'no report from web2 for 3 s' in outcomes(other)[0]


def test_an_operator_who_stops_it_lets_the_machine_in_its_turn_go_on(made):
    one = made()

    def stop():
        one.stop()
        return {'state': 'running'}

    one.engine.answers[WEB2.id] = [stop, SERVES]
    line, rows = outcomes(one)
    assert line == 'the operator has stopped it'
    assert rows == {'web1': 'done', 'web2': 'done', 'web3': 'waits'}
    assert words(one)[-2:] == [('stops', ['web3']), ('done', 'web2')]


def test_answers_to_another_roll_and_nonsense_are_nothing(made):
    one = made()
    for text in ('', '[]', '{}', '{"token": "other"}', '[' * 10**5):
        one.hear(Message(WEB1.id, 'rolled', text))
    assert not one.inbox


def test_a_machine_obeys_only_the_roll_that_has_the_lease_now():
    engine = Engine()
    rolls = Rolls(Settings('', 'shop', 'web1', TTL), WEB1, Engine, print)
    order = {'token': 'a', 'to': WEB1.id, 'by': 'alice', 'fence': 7, 'soak': True}

    def is_valid(**more):
        return rolls.is_valid(engine, json.dumps({**order, **more})) is not None

    assert not is_valid()  # nobody rolls any more
    engine.holder = 'web2-x'
    assert is_valid()
    assert not is_valid(fence=6)
    looks = len(engine.acts)
    assert not is_valid(to=WEB2.id) and not is_valid(soak=1)
    assert len(engine.acts) == looks  # nobody is asked about these

    def lease(*_):
        raise EngineAway('it is full')

    engine.lease = lease
    assert not is_valid()


@pytest.fixture
def rolls():
    said = []

    def say(*words):
        said.append(words)

    one = Rolls(Settings('', 'shop', 'web1', TTL), WEB1, Engine, say)
    one.engine, one.said = Engine(), said
    return one


def test_the_next_agent_releases_the_lease_of_a_roll_whose_agent_has_died(rolls):
    engine = rolls.engine
    rolls.look(engine)
    assert engine.acts == ['look']
    engine.holder = WEB2.id  # that roll goes on
    rolls.look(engine)
    assert engine.holder == WEB2.id
    assert rolls.said == []
    engine.holder, engine.notes = WEB1.id, [json.dumps(dict(NOTE, turn='web2'))]
    rolls.look(engine)
    assert engine.holder == ''
    said = rolled.read_note(engine.notes[-1])
    assert said == {**NOTE, 'turn': 'web2', 'line': 'the process that rolled has died'}
    assert Claim(WEB1.id, TTL).held is None
    [(word, roll)] = rolls.said
    assert (word, roll['state'], roll['line']) == ('roll', 'ended', said['line'])


def test_a_machine_that_starts_learns_that_a_roll_has_died(rolls):
    engine, died = rolls.engine, Record(WEB2.id, 7, 1, 'run', 9.0, 9.0, 'web2', TTL)
    died = died._replace(note=json.dumps({**NOTE, 'who': 'web2', 'turn': 'web3'}))
    engine.lease = lambda *_: Answer(False, died, 'run', 1.0)
    rolls.look(engine)
    assert [roll['state'] for _, roll in rolls.said] == ['died']


def test_a_roll_is_looked_at_when_it_begins_and_a_ttl_after_its_last_order():
    said, looks = [], []
    record = Record(WEB1.id, 7, 1, 'run', 0.1, 1.0, 'web1', TTL, json.dumps(NOTE))

    def follow(now, record):
        def look():
            looks.append(now)
            return Answer(False, record, 'run', 1.0)

        watch.follow(now, look)
        return [roll['state'] for roll in said]

    watch = rolled.Watch(10, said.append)
    assert follow(1, record) == []  # nobody rolls
    watch.hear(2)
    assert follow(3, record) == ['rolls']
    watch.hear(9)
    assert follow(12, record) == follow(14, record) == ['rolls']
    assert follow(19.1, record) == ['rolls']
    assert looks == [3]
    assert follow(19.3, record) == ['rolls', 'rolls']  # it renews on
    assert follow(29.0, record) == ['rolls', 'rolls']
    died = record._replace(age=12.0)
    assert follow(29.6, died) == ['rolls', 'rolls', 'died']
    watch.follow(99, None)  # it is over
    watch.hear(100)
    assert follow(100, record._replace(holder=''))[-1] == 'ended'


def test_a_site_that_ends_releases_the_lease_of_its_roll(rolls):
    engine = rolls.engine
    engine.holder = WEB1.id
    rolls.end(engine)
    assert engine.acts == []  # it has not rolled
    rolls._roll = SimpleNamespace(is_over=False)
    rolls.end(engine)
    assert (engine.holder, engine.acts) == ('', ['look', 'free'])


def test_a_machine_enters_only_a_roll_that_goes_on():
    def enter(granted, record, epoch='run'):
        answer = Answer(granted, record, epoch, 1.0)
        engine = SimpleNamespace(lease=lambda *_: answer)
        return one.enter(engine, 7)

    one = Rolls(Settings('', 'shop', 'web1', TTL), WEB1, Engine, print)
    held = Record(WEB2.id, 7, 1, 'run', 0.1, 1.0, 'web2', TTL)
    assert enter(True, held) is True
    assert enter(False, held) is False  # its time is over
    assert enter(False, held._replace(fence=8)) is False
    assert enter(False, held._replace(holder='')) is False
    assert enter(False, held, epoch='next') is None  # it may be renewed yet
    assert enter(False, None) is None
    away = Engine()
    away.lease = lambda *_: (_ for _ in ()).throw(EngineAway('it is full'))
    assert one.enter(away, 7) is None


NOTE = dict.fromkeys(('who', 'turn', 'done', 'failed', 'rest', 'line'), '')


@pytest.mark.parametrize('text', ['', '[]', '{}', '[' * 10**5, '{"who": "web1"}'])
def test_what_is_no_note_of_a_roll_says_nothing(text):
    record = Record('', 7, 1, 'run', 0.1, 1.0, '', TTL, text)
    assert rolled.seen_of(record) is None
    assert rolled.sentences(None) == ''


def test_what_a_roll_has_left_is_said_in_sentences():
    said = {**NOTE, 'who': 'web1 (for al\x1b)', 'turn': 'web2', 'done': 'web1'}
    record = Record(WEB1.id, 7, 1, 'run', 12.3, 40.0, 'web1', TTL, json.dumps(said))
    assert rolled.sentences(rolled.seen_of(record, True)) == (
        'web1 (for al\\x1b) rolls. In its turn: web2. Restarted: web1.'
    )
    assert rolled.sentences(rolled.seen_of(record)) == (
        'web1 (for al\\x1b) rolled, and has not reported for 12 s: that roll has died. '
        'In its turn: web2, which had replaced no process. Restarted: web1. To continue, see what web2 does, and then: '
        'graceful --cluster --from web2.'
    )
    for entered, begun in ((WEB2.id, True), ('web2', True), (WEB1.id, False)):
        seen = rolled.seen_of(record._replace(entered=entered))
        assert seen['begun'] is begun
        assert ('had begun to replace its processes' in rolled.sentences(seen)) is begun
    said |= {'turn': '', 'failed': 'web2', 'rest': 'web3', 'line': 'web2 has failed'}
    freed = record._replace(holder='', note=json.dumps(said))
    assert rolled.sentences(rolled.seen_of(freed)) == (
        'The last roll, by web1 (for al\\x1b), has ended: web2 has failed. Failed: '
        'web2. Restarted: web1. Not restarted: web3. To continue, mend web2, and then: graceful '
        '--cluster --from web2.'
    )

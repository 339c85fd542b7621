"""What a site knows of its cluster, and what it does not claim to know."""

import time
from types import SimpleNamespace

import pytest

from paste_wspbus.cluster.claim import Held
from paste_wspbus.cluster.engine import Member
from paste_wspbus.cluster.settings import Settings
from paste_wspbus.unix.kernel_timer import boot_clock
from paste_wspbus.workers.cluster_status import HANGS, KNOWN, ClusterStatus

WEB2 = {'machine': 'web2', 'id': 'web2-2', 'age': 3.0, 'ttl': 60, 'release': '41'}


class Cluster:
    """What `ClusterStatus` asks of the part of the supervisor; ``late`` has its timers."""

    def __init__(self):
        self.engine, self.words, self.is_connected = {}, 0, True
        self.holds, self.held, self.looks, self.late = False, None, [], []
        self.rest = SimpleNamespace(until=None)
        self.settings = Settings('redis://u:p@h/0', 'shop', 'web1', 10)
        self.member = Member('web1-1', 'web1')
        plan = SimpleNamespace(cluster_plugins=('job',))
        self.supervisor = SimpleNamespace(plan=plan)
        self.events = SimpleNamespace(
            call_later=lambda _, function: self.late.append(function),
            run=lambda function: function(),
        )
        self.look = self.looks.append
        self.mail = SimpleNamespace(counts={'sent': 3, 'dropped': 1})
        self.lines = []
        self.bus = SimpleNamespace(log=lambda line, level: self.lines.append(line))

    def learns(self, **facts):
        known = {'away': '', 'members': 2, 'leader': 'web2', 'round_trip': 0.001}
        now = boot_clock()
        self.engine = {**known, 'since': now, 'leads': now - 90, **facts}
        self.words += 1


@pytest.fixture
def cluster():
    return Cluster()


@pytest.fixture
def status(cluster):
    return ClusterStatus(cluster)


def test_the_check_says_since_when_there_is_no_word(cluster, status):
    assert status.check()['ok'] is None
    cluster.learns(members=1, leader='web1')
    assert status.check()['text'] == '1 member, web1 has the lease'
    cluster.learns(leader='')
    assert status.check()['text'] == '2 members, nobody has the lease'
    cluster.supervisor.plan.cluster_plugins = ()  # then nobody needs it
    assert status.check()['text'] == '2 members'
    cluster.learns(leader=None)  # it wants no lease, and has not looked
    assert status.check()['text'] == '2 members'
    cluster.learns(away='it does not answer in time', since=boot_clock() - 12)
    check = status.check()
    assert check['ok'] is False
    assert check['text'] == 'no word for 12 s: it does not answer in time'
    assert check['at'] <= time.monotonic()


def test_an_agent_that_has_ended_or_hangs_is_no_word_of_the_engine(cluster, status):
    cluster.learns(since=0.0)
    cluster.is_connected = False
    status.has_ended()
    assert (
        status.check()['text']
        == 'no word for 0 s: the process that talks to it has ended'
    )
    assert status.describe()['members'] is None
    cluster.is_connected = True
    status.ask(lambda: None)
    assert status.check()['ok'] is True
    status._asked_since -= HANGS
    words = cluster.words
    cluster.late.pop()()
    assert cluster.words == words + 1  # /health is sent anew
    assert status.check()['ok'] is False
    assert (
        status.describe()['problem'] == 'the process that talks to it does not answer'
    )
    status.has_looked(None)
    assert status.check()['ok'] is True


def test_before_the_first_answer_nothing_is_known(status):
    told = status.describe()
    assert told['engine'] == 'redis://h/0'  # without the password
    assert told['messages'] == {'sent': 3, 'dropped': 1}
    assert (told['plugins'], told['waits'], told['holds']) == (['job'], True, False)
    nothing = ('answers', 'problem', 'last_word', 'round_trip', 'members', 'leader')
    assert {told[key] for key in nothing} == {None}
    assert told['leads_for'] is told['machines'] is None


def test_while_the_engine_is_away_nothing_is_known_but_this_site(cluster, status):
    cluster.learns()
    cluster.held, cluster.holds = Held(7, boot_clock() + 5), True
    status.has_looked([WEB2])
    assert status.describe()['leads_for'] == pytest.approx(90, abs=5)
    cluster.learns(away='it is full', since=boot_clock() - 12)
    told = status.describe()
    assert (told['answers'], told['problem']) == (False, 'it is full')
    assert told['last_word'] == pytest.approx(12, abs=5)
    assert told['leader'] is told['members'] is told['leads_for'] is None
    assert told['machines'] is None
    assert (told['holds'], told['fence'], told['waits']) == (True, 7, False)


def test_without_a_word_for_a_ttl_nobody_knows_who_leads(cluster, status):
    cluster.learns()
    assert status.describe()['leader'] == 'web2'
    cluster.learns(since=boot_clock() - 11)  # the agent does not answer yet
    assert status.describe()['leader'] is status.describe()['leads_for'] is None


def test_a_machine_is_silent_after_its_own_ttl_and_what_was_seen_grows_old(
    cluster, status
):
    short = {**WEB2, 'ttl': None, 'age': 11.0}
    cluster.learns()
    status.has_looked([WEB2, short])
    assert (status.describe()['members'], status.describe()['left_out']) == (1, 0)
    status.has_looked([WEB2, short], 500)  # they are not all
    assert (status.describe()['members'], status.describe()['left_out']) == (2, 500)
    first, second = status.describe()['machines']
    assert (first['is_silent'], second['is_silent']) == (False, True)
    status._machines_at -= 2
    assert status.describe()['machines'][0]['age'] >= 5
    status._machines_at -= KNOWN
    assert status.describe()['machines'] is None


def test_each_who_asks_is_answered_once(cluster, status):
    answered = []
    status.ask(lambda: answered.append('one'))
    status.ask(lambda: answered.append('all'), machines=True)
    assert cluster.looks == [False, True] and answered == []
    status.has_looked(None)
    assert answered == ['one']
    status.has_looked([])
    assert answered == ['one', 'all']
    for late in cluster.late:
        late()
    status.ask(lambda: answered.append('at once'), machines=True)
    assert answered == ['one', 'all', 'at once'] and len(cluster.looks) == 2


def test_who_asks_is_answered_without_the_agent_too(cluster, status):
    answered = []
    status.ask(lambda: answered.append('late'))
    cluster.late.pop()()
    status.ask(lambda: answered.append('ended'), machines=True)
    status.has_ended()
    cluster.is_connected = False
    status.ask(lambda: answered.append('none'))
    cluster.is_connected = True
    cluster.learns(away='it is full')
    status.ask(lambda: answered.append('away'), machines=True)
    status.has_looked(None)
    assert answered == ['late', 'ended', 'none', 'away']


ROLL = {
    **{'state': 'died', 'age': 12.0, 'who': 'web1', 'turn': 'web2', 'begun': False},
    **{'done': '', 'failed': '', 'rest': 'web3', 'line': ''},
}


def test_a_roll_that_has_died_is_logged_once_and_stays_in_the_status(cluster, status):
    cluster.learns()
    status.has_seen_roll({**ROLL, 'state': 'rolls'})
    assert status.describe()['roll'] is None  # how far it is now, only the engine knows
    status.has_looked([WEB2], 0, {**ROLL, 'state': 'rolls'})
    assert status.describe()['roll']['text'].startswith('web1 rolls. In its turn: web2')
    status._roll_at -= KNOWN + 1
    assert status.describe()['roll'] is None  # it may be over since then
    words = cluster.words
    for age in (12.0, 13.0):  # two late orders of it
        status.has_seen_roll({**ROLL, 'age': age})
    assert cluster.words == words + 1
    [line] = cluster.lines
    assert line.startswith('cluster: web1 rolled, and has not reported for 12 s')
    assert status.check()['text'].endswith('; a roll has died: see status')
    status._roll_at -= 100
    assert status.describe()['roll']['age'] == pytest.approx(113.0, abs=1)
    over = {**ROLL, 'state': 'ended', 'line': 'all machines have restarted'}
    status.has_seen_roll(over)
    assert status.describe()['roll']['text'] == ''
    status.has_seen_roll({**over, 'line': 'web2 has failed'})
    assert len(cluster.lines) == 2
    status.has_seen_roll(None)
    assert status.describe()['roll'] is None

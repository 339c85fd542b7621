"""What `status` and `ps` print of a cluster, which may come from another version, or be nonsense."""

import json

import pytest

from paste_wspbus.cluster.settings import Settings
from paste_wspbus.command import status_text
from paste_wspbus.command.arguments import parse
from paste_wspbus.command.cluster_text import describe, in_brief
from paste_wspbus.command.ps_cluster import show
from paste_wspbus.errors import UsageError

CLUSTER = {
    'name': 'shop',
    'machine': 'web1',
    'id': 'web1-1',
    'engine': 'redis://10.0.0.5/0',
    'answers': True,
    'problem': None,
    'last_word': 0.1,
    'round_trip': 0.0004,
    'members': 2,
    'plugins': ['nightly'],
    'holds': False,
    'fence': None,
    'waits': True,
    'leader': 'web2',
    'leads_for': 7300.0,
    'machines': None,
}

WEB1 = {
    'machine': 'web1',
    'id': 'web1-1',
    'age': 1.24,
    'is_silent': False,
    'release': '42',
    'version': None,
    'generation': 3,
    'state': 'STARTED',
    'renewing': False,
    'drained': False,
    'serving': 3,
    'wanted': 4,
    'leads': [],
}


def lines(function, *args, **more):
    return [line.text for line in function({**CLUSTER, **more}, *args)]


def test_a_plain_status_says_which_machine_this_is_and_who_has_the_lease():
    assert lines(in_brief) == [
        'This is web1 of the cluster shop, which has 2 machines.',
        'This machine waits for the lease of the cluster plugins (nightly): web2 has it, for '
        '2 hours.',
    ]
    answer = {'pid': 1, 'state': 'STARTED', 'cluster': CLUSTER}
    text = '\n'.join(line.text for line in status_text.describe(answer, None))
    assert 'waits for the lease' in text


@pytest.mark.parametrize(
    ('more', 'says'),
    [
        ({'leader': '', 'leads_for': None}, 'nobody has it now.'),
        ({'leader': None, 'leads_for': None}, 'it is not known who has it.'),
        (
            {'holds': True, 'waits': False, 'fence': 7, 'leads_for': 90.0},
            'This machine has the lease of the cluster plugins (nightly), for 90 seconds, '
            'with the fence 7.',
        ),
        (
            {'rests': 3.6, 'leader': '', 'leads_for': None},
            'The cluster plugins (nightly) crash again and again here. This machine wants '
            'their lease again in 4 s; nobody has it now.',
        ),
        (
            {'plugins': [], 'waits': False},
            'The lease of the cluster plugins: web2 has it, for 2 hours.',
        ),
    ],
)
def test_who_has_the_lease(more, says):
    assert lines(in_brief, **more)[1].endswith(says)


def test_a_site_without_cluster_plugins_says_nothing_of_a_lease():
    nobody = {'plugins': [], 'waits': False, 'leader': '', 'leads_for': None}
    assert len(lines(in_brief, **nobody)) == 1


def test_a_site_without_an_engine_that_is_the_only_one_says_only_who_has_the_lease():
    alone = {'engine': Settings('', 'shop', 'web1').shown, 'members': 1}
    (line,) = lines(in_brief, **alone)
    assert 'the lease' in line
    assert len(lines(in_brief, **{**alone, 'members': 2})) == 2


def test_messages_that_were_lost_are_counted():
    lost = {'sent': 9, 'dropped': 1, 'received': 7, 'missed': 3}
    line = (
        '1 message of this machine did not reach the others, 3 messages of other machines may '
        'not have reached this one: the log says why.'
    )
    assert line in lines(in_brief, messages=lost)
    assert line in lines(describe, messages=lost)
    none = {'sent': 9, 'dropped': 0, 'missed': 0}
    assert lines(in_brief, messages=none) == lines(in_brief)


def test_the_table_of_machines_does_not_say_what_a_silent_one_does():
    web2 = {**WEB1, 'machine': 'web2', 'release': '41', 'leads': ['nightly']}
    silent = {**web2, 'machine': 'web3', 'age': 47.0, 'is_silent': True}
    assert lines(describe, machines=[WEB1, {**web2, 'drained': True}, silent]) == [
        'The cluster shop, seen from web1: 3 machines, 1 of them silent.',
        'The engine is redis://10.0.0.5/0; a round trip takes 0.4 ms.',
        'This machine waits for the lease of the cluster plugins (nightly): web2 has it, for '
        '2 hours.',
        '',
        'MACHINE  STATE             RELEASE  VERSION  GEN  WORKERS  LEADS    LAST WORD',
        'web1     started           42       -        3    3/4      -        1.2 s ago',
        'web2     started, drained  41       -        3    3/4      nightly  1.2 s ago',
        'web3     silent            ?        ?        ?    ?        ?        47.0 s ago',
        '',
        'web3 has not reported for 47 seconds: its state is not known. Its last report was '
        'that it runs 41.',
    ]


def test_machines_for_which_there_was_no_room_are_counted():
    first, *_ = lines(describe, machines=[WEB1], left_out=500)
    assert first == (
        'The cluster shop, seen from web1: 501 machines, of which the first 1 are shown.'
    )


def test_namesakes_are_shown_by_their_ids():
    shown = lines(describe, machines=[WEB1, {**WEB1, 'id': 'web1-2'}])
    assert [line.split()[0] for line in shown[-2:]] == ['web1-1', 'web1-2']


def test_an_engine_that_is_away_says_nothing_of_the_others():
    away = {'answers': False, 'problem': 'it is full', 'last_word': 12.0}
    unknown = {'leader': None, 'leads_for': None, 'members': None, 'round_trip': None}
    assert lines(describe, **away, **unknown) == [
        'The cluster shop, seen from web1.',
        'There is no word from redis://10.0.0.5/0 for 12 seconds: it is full.',
        'This machine waits for the lease of the cluster plugins (nightly): it is not known '
        'who has it.',
    ]
    assert 'it has not answered yet' in lines(describe, answers=None)[1]


def test_without_a_cluster_it_says_so():
    (line,) = describe(None)
    assert line.text == (
        'The site belongs to no cluster: it was started without workers, or without '
        '[cluster:main] in its .ini.'
    )


def test_nonsense_is_shown_as_nonsense():
    for nonsense in (None, 7, [], 'x\x1b[2J', {}, {'machines': [7, {}]}, float('nan')):
        text = '\n'.join(line.text for line in describe(nonsense))
        for key in CLUSTER:
            text += '\n'.join(lines(describe, **{key: nonsense}))
            text += '\n'.join(lines(in_brief, **{key: nonsense}))
        for key in WEB1:
            text += '\n'.join(lines(describe, machines=[{**WEB1, key: nonsense}]))
        assert '\x1b' not in text


# -- ps --cluster --------------------------------------------------------------------------


def site(cluster, state='STARTED'):
    return {'ini': '/srv/site.ini', 'state': state, 'cluster': cluster}


def test_each_cluster_is_listed_once(capsys):
    known = {**CLUSTER, 'machines': [WEB1]}
    other = {**known, 'name': 'blog'}
    show([site(CLUSTER), site(known), site(known), site(other), site(None)], False)
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [
        ['CLUSTER', 'MACHINE'],
        ['blog', 'web1'],
        ['shop', 'web1'],
    ]
    show([site(known), site(CLUSTER)], True)
    assert json.loads(capsys.readouterr().out) == [known]


def test_what_is_not_known_is_said(capsys):
    away = {**CLUSTER, 'answers': False, 'problem': 'it is full'}
    show([site(away), site(None, 'does not answer')], False)
    assert capsys.readouterr().out.splitlines()[1:] == [
        'The machines of shop are not known: there is no word from redis://10.0.0.5/0: it is '
        'full.',
        '/srv/site.ini does not answer.',
    ]
    show([site(None)], False)
    assert 'belongs to a cluster' in capsys.readouterr().out


# -- the command line ----------------------------------------------------------------------


def test_which_subcommands_know_machines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse(['site.ini', 'status', '--cluster'], 'wspserve').cluster
    assert parse(['ps', '--cluster', '--json'], 'wspserve').cluster
    for words, says in (
        (['site.ini', '--cluster'], '--cluster works only with'),
        (['site.ini', 'stop', '--cluster'], '--cluster works only with'),
        (['plugins', '--cluster'], 'plugins knows no machines'),
        (['site.ini', 'status', '--cluster', '--watch'], 'leave out --cluster'),
    ):
        with pytest.raises(UsageError, match=says):
            parse(words, 'wspserve')


ROLL = {
    **{'state': 'died', 'age': 12.0, 'who': 'web1 (for alice)', 'turn': 'web2'},
    **{'begun': True, 'done': 'web1', 'failed': '', 'rest': 'web3', 'line': ''},
}


def test_status_of_all_machines_ends_with_a_roll_that_goes_on_or_has_not_gone_well():
    assert lines(describe, roll=ROLL)[-1] == (
        'web1 (for alice) rolled, and has not reported for 12 s: that roll has died. In '
        'its turn: web2, which had begun to replace its processes. Restarted: web1. Not '
        'restarted: web3. To continue, see what web2 does, and then: graceful --cluster --from '
        'web2.'
    )
    assert lines(describe, roll={**ROLL, 'state': 'rolls'})[-1] == (
        'web1 (for alice) rolls. In its turn: web2. Restarted: web1. Not restarted: web3.'
    )
    assert lines(in_brief, roll=ROLL)[-1] == lines(describe, roll=ROLL)[-1]
    failed = {**ROLL, 'state': 'ended', 'line': 'web2 has failed'}
    assert lines(in_brief, roll=failed) == lines(in_brief)
    assert 'web2 has failed' in lines(describe, roll=failed)[-1]
    without = lines(describe)
    over = {**ROLL, 'state': 'ended', 'line': 'all machines have restarted'}
    for roll in (None, [], {}, {'state': 'x'}, over):
        assert lines(describe, roll=roll) == without
    nonsense = {key: ['\x1b'] for key in ROLL}
    assert '?' in lines(describe, roll={**nonsense, 'state': 'ended'})[-1]

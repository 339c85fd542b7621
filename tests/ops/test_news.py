"""What the console gets: its own files, and what it is told of the site."""

import json
import time

import pytest

from paste_wspbus.ops import news as module
from paste_wspbus.ops.health import Checked
from paste_wspbus.ops.news import news_of
from paste_wspbus.ops.pages import PAGES, Asked
from paste_wspbus.ops.requests import Request
from paste_wspbus.ops.snapshot import Snapshot, State, Told

STARTED = State('STARTED', was_started=True, serving=1, wanted=2)
RELOAD = {'outcome': 'failed', 'reason': 'no licence', 'asked_by': 'signal SIGHUP'}


def page(path, told=None):
    known = {} if told is None else {'timeline': Told(told, time.monotonic())}
    return PAGES[path].make(Asked(Request('GET', path), Snapshot(STARTED, known), True))


def news(status, state=STARTED, checked=()):
    told = {} if status is None else {'status': Told(status, time.monotonic())}
    return news_of(Snapshot(state, told, checked))


def check(name, ok, text=''):
    return {
        **{'name': name, 'group': 'ready', 'every': 10.0, 'timeout': 1.0, 'took': 0.1},
        **{'at': None if ok is None else time.monotonic(), 'ok': ok, 'text': text},
    }


@pytest.mark.parametrize('name', ['', 'console.css', 'console.js', 'console.svg'])
def test_the_files_of_the_console_run_nothing_that_is_not_of_the_package(name):
    assert not PAGES[f'/{name}'].is_open
    response = page(f'/{name}')
    policy = response.headers['Content-Security-Policy'].split('; ')
    assert {"default-src 'none'", "script-src 'self'", "style-src 'self'"} <= {*policy}
    assert 'unsafe' not in response.headers['Content-Security-Policy']
    text = response.text
    for foreign in ('http:', 'https:', 'innerHTML', ' style=', ' onclick=', '<style'):
        assert foreign not in text.replace('http://www.w3.org/2000/svg', '')


@pytest.mark.parametrize('path', ['/events', '/timeline.svg', '/timeline.html'])
def test_not_everybody_sees_what_the_console_shows(path):
    assert not PAGES[path].is_open


def test_the_timeline_is_a_picture_that_runs_nothing():
    name = '<script>alert(1)</script>'
    calls = [['start', name, 10.0, 1.0, 'ok', 'MainThread']]
    answer = {
        **{'now': 12.0, 'time': 1e9},
        'processes': [{'name': 'site', 'pid': 7, 'began': 9.0, 'calls': calls}],
    }
    for path in ('/timeline.svg', '/timeline.html'):
        response = page(path, answer)
        assert 'start &lt;script&gt;alert(1)' in response.text
        assert '<script' not in response.text
        assert 'script-src' not in response.headers['Content-Security-Policy']
    assert page('/timeline.svg', answer).content_type == 'image/svg+xml'
    assert page('/timeline.svg').status_code == 200  # there is no timeline yet


def test_the_news_have_a_few_fields_of_each_thing():
    worker = {'name': 'worker 1', 'pid': 7, 'rss': 1 << 20, 'last_crash': {'a': 1}}
    request = {'method': 'GET', 'path': '/a', 'age': 1.5, 'id': 'x', 'thread': 't'}
    told = news(
        {
            **{'pid': 6, 'served': 9, 'workers': [worker], 'requests': [request]},
            **{'last_reload': RELOAD, 'environment': 'a secret'},
        }
    )
    assert (told['state'], told['site']['served']) == ('STARTED', 9)
    assert told['workers'][0]['rss'] == 1 << 20
    assert told['requests'][0].keys() == {'method', 'path', 'age', 'thread', 'worker'}
    assert told['reloads'][0]['reason'] == 'no licence'
    assert 'secret' not in json.dumps(told) and 'last_crash' not in json.dumps(told)


def test_a_site_of_one_process_is_one_row():
    [row] = news({'pid': 6, 'state': 'STARTED', 'workers': []})['workers']
    assert (row['name'], row['pid']) == ('site', 6) and row['rss'] > 1 << 20


def test_news_of_a_site_that_has_not_answered_have_its_state():
    told = news(None, State('STARTING'))
    assert (told['state'], told['why']) == ('STARTING', 'the site starts')
    assert told['answered'] is None
    assert (
        told['workers'] == told['requests'] == told['reloads'] == told['checks'] == []
    )


def test_a_cluster_has_its_silent_machines_first(monkeypatch):
    assert news({'pid': 6})['cluster'] is None
    quiet = {'machine': 'web3', 'is_silent': True, 'secret': 1}
    machines = [{'machine': f'web{number}', 'is_silent': False} for number in range(3)]
    cluster = {
        'name': 'shop',
        'leader': None,
        'machines': [*machines, quiet],
        'left_out': 5,
        'roll': {'state': 'died', 'text': 'web1 rolls.', 'who': 'web1'},
    }
    monkeypatch.setattr(module, 'MAX_MACHINES', 2)
    told = news({'cluster': cluster})['cluster']
    assert [one['machine'] for one in told['machines']] == ['web3', 'web0']
    assert (told['name'], told['leader'], told['more']) == ('shop', None, 7)
    assert 'secret' not in told['machines'][0]
    assert told['roll'] == {'state': 'died', 'text': 'web1 rolls.'}
    told = news({'cluster': {'machines': None, 'roll': 'x'}})['cluster']
    assert (told['machines'], told['roll']) == ([], None)


def test_lists_are_short(monkeypatch):
    monkeypatch.setattr(module, 'MAX_REQUESTS', 3)
    requests = [{'method': 'GET', 'path': '/', 'age': 1.0}] * 5
    assert len(news({'requests': requests})['requests']) == 3


def test_checks_that_fail_come_first_with_the_text_of_a_process_in_which_they_fail():
    checked = [
        Checked('worker 1', True, [check('a', True, 'fine'), check('b', True)]),
        Checked('worker 2', True, [check('a', None), check('b', False, 'refused')]),
    ]
    told = news({}, checked=checked)['checks']
    shown = [(one['name'], one['ok'], one['text'], one['failed']) for one in told]
    assert shown == [('b', False, 'refused', 1), ('a', True, 'fine', 0)]
    assert (told[0]['process'], told[0]['processes']) == ('worker 2', 2)

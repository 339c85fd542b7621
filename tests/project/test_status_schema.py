"""The schema of `status --json`: real answers match it, and docs/status.md describes it."""

import contextlib
import json
import os
import re
import signal

import jsonschema
import pytest

from tests.kit import eventually, run
from tests.kit.places import DOCS
from tests.kit.processes import freeze
from tests.kit.reloading import Edited, stop
from tests.kit.stand_in import StandIn
from tests.kit.workers import Workers, set_up

SCHEMA = json.loads((DOCS / 'status.schema.json').read_text())
PARTS = SCHEMA['$defs']

#: The titles of the tables in docs/status.md.
TITLES = {
    'answer': 'A site',
    'load': 'What a process does',
    'worker': 'A worker',
    'request': 'A request',
    'crash': 'A crash',
    'recycling': 'A recycling',
    'replacement': 'A replacement',
    'reload': 'A reload',
    'soak': 'A soak',
    'check': 'A health check',
    'cluster': 'A cluster',
    'roll': 'A roll',
    'machine': 'A machine',
    'calling': 'A listener',
    'no_answer': 'No answer',
}


def keys(*parts):
    return {key for part in parts for key in PARTS[part]['properties']}


def check(told):
    """A document matches the schema, and has no key that the schema does not have."""
    jsonschema.validate(told, SCHEMA, jsonschema.Draft202012Validator)
    if 'problem' in told:
        return
    assert told.keys() <= keys('answer', 'load')
    for worker in told['workers']:
        assert worker.keys() == keys('worker', 'load')
        if worker['last_crash'] is not None:
            assert worker['last_crash'].keys() == keys('crash')
    for request in told['requests']:
        assert request.keys() <= keys('request')
    if told['last_reload'] is not None:
        assert told['last_reload'].keys() == keys('reload')
    for reload in told.get('reloads', ()):
        assert reload.keys() == keys('reload')


def status(folder, *args):
    told = run(folder, 'site.ini', 'status', '--json', *args)
    return json.loads(told.out.text)


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize('part', PARTS)
def test_the_page_describes_each_key_of_the_schema(part):
    page = (DOCS / 'status.md').read_text()
    section = page.split(f'### {TITLES[part]}\n')[1].split('\n### ')[0]
    assert re.findall(r'^\| `(\w+)` \|', section, re.M) == [*PARTS[part]['properties']]


WRONG = [
    {'state': 'started'},
    {'age': '3 s'},
    {'workers': None},
    {'requests': ['GET /']},
    {'rss': 1.5},
    {'last_reload': {}},
]


def test_one_process_with_a_request_and_a_reload(tmp_path):
    with Workers(tmp_path, count=None) as site, contextlib.ExitStack() as stack:
        site.send(signal.SIGHUP)
        site.wait_until_served(2)
        client = stack.enter_context(site.connect())
        client.send('/wait')
        eventually(lambda: site.status()['in_flight'] == 1)
        told = status(tmp_path, '--pid-file', 'site.pid')
        check(told)
        assert len(told['requests']) == 1 and told['last_reload'] is not None
        assert keys('answer', 'load') - told.keys() == {
            'serving',
            'wanted',
            'reloads',
            'recent_crashes',
            'crash_loop',
            'soak',
            'replaced',
            'cluster',
        }
        for wrong in WRONG:
            with pytest.raises(jsonschema.ValidationError):
                check({**told, **wrong})
        site.send(signal.SIGTERM)
        eventually(lambda: site.status()['calling'] is not None)
        told = status(tmp_path, '--pid-file', 'site.pid')
        check(told)
        assert told['calling'].keys() == keys('calling')
        site.release()
        assert client.receive().status == 200
        assert site.wait() == 0


def test_workers_that_crash_are_stopped_and_fail_to_reload(tmp_path):
    with Workers(tmp_path) as site, contextlib.ExitStack() as stack:
        first, second = site.pids()
        site.wait_in(first, stack)
        assert status(tmp_path, '--pid-file', 'site.pid')['in_flight'] == 1
        os.kill(first, signal.SIGSEGV)
        site.expect('had 1 request in flight: GET /wait for ')
        freeze(second)
        told = status(tmp_path, '--pid-file', 'site.pid')
        check(told)
        crash = told['workers'][0]['last_crash']
        assert (crash['signal'], crash['requests'][0]['path']) == ('SIGSEGV', '/wait')
        assert told['workers'][1]['is_stopped'] is True
        assert told['workers'][1]['requests'] is None
        os.kill(second, signal.SIGCONT)
        eventually(lambda: site.status()['serving'] == 2)
        set_up(tmp_path, at_composition="raise RuntimeError('it is broken')")
        assert site.run('graceful').code != 0
        told = status(tmp_path, '--pid-file', 'site.pid')
        check(told)
        assert told.keys() == keys('answer', 'load')
        assert told['last_reload']['outcome'] == 'failed'
        site.release()
        assert site.stop()[0] == 0


def test_the_schema_fits_a_site_under_reload(tmp_path):
    with Edited(tmp_path) as site:
        site.edit('the second')
        site.expect('served in')
        check(status(tmp_path))
        stop(site)


def test_the_schema_fits_a_site_without_an_answer(tmp_path, monkeypatch):
    monkeypatch.setenv('RUNTIME_DIRECTORY', str(tmp_path))
    (tmp_path / 'site.ini').write_text('[app:main]\n')
    check(status(tmp_path))
    with StandIn(tmp_path, '--silent'):
        told = status(tmp_path)
        check(told)
        assert told['state'] == 'NO ANSWER'

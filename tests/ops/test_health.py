"""What the results of health checks decide, and how sites show them."""

import json
import os
import time

import pytest

from paste_wspbus.bus.health import outcome_of
from paste_wspbus.ops import health
from paste_wspbus.ops.health import Checked, masked, rows, summary, why_not_ready
from tests.kit import Site, free_port, ops, run
from tests.kit.processes import eventually
from tests.kit.sites import APP, SERVED


def check(name='db', ok=True, age=1.0, group='ready', text=''):
    at = None if age is None else time.monotonic() - age
    return {
        **{'name': name, 'group': group, 'every': 10.0, 'timeout': 1.0},
        **{'ok': ok, 'text': text, 'at': at, 'took': 0.01},
    }


def worker(number, *checks, serves=True):
    return Checked(f'worker {number}', serves, list(checks))


def test_one_worker_that_is_well_is_enough():
    assert why_not_ready([]) == ''
    bad, good = check(ok=False), check()
    assert why_not_ready([worker(1, bad), worker(2, good)]) == ''
    assert why_not_ready([worker(1, bad), worker(2, bad)]) == 'db'


def test_a_check_without_a_result_does_not_fail():
    assert why_not_ready([worker(1, check(ok=None, age=None))]) == ''


def test_only_checks_of_the_group_ready_of_processes_that_serve_count():
    bad = check(ok=False)
    assert why_not_ready([worker(1, check(ok=False, group='health'))]) == ''
    assert why_not_ready([worker(1, bad, serves=False), worker(2, check())]) == ''


def test_a_process_that_reports_nothing_any_more_is_not_well():
    old = check(age=10 * 1.1 + 1 + health.LATE + 1)
    (row,) = rows([worker(1, old)])
    assert row['ok'] is False and 'no result for' in row['text']
    assert why_not_ready([worker(1, old)]) == 'db'


def test_no_part_of_a_secret_stays_where_a_long_text_is_cut():
    def fails():
        raise ValueError('x' * (health.MAX_TEXT - 20) + 'hunter2')

    _, text = outcome_of(fails)
    (shown,) = masked([check(text=text)], ['hunter2'])
    assert len(shown['text']) <= health.MAX_TEXT
    assert shown['text'].endswith('x***')


def test_texts_are_only_for_those_who_may_see_them():
    told = [worker(1, check(text='why', ok=False)), worker(2, check(age=5.0))]
    shown = summary(rows(told), with_texts=False)
    assert shown['healthy'] is False
    assert shown['checks']['db'].keys() == {'ok', 'age'}
    assert shown['checks']['db']['age'] >= 5.0
    (first, second) = summary(rows(told), with_texts=True)['checks']['db']['processes']
    assert (first['text'], first['process'], second['ok']) == ('why', 'worker 1', True)
    assert summary([], with_texts=True) == {'healthy': True, 'checks': {}}


# -- sites ---------------------------------------------------------------------------

SITE = (
    APP
    + """
import time

class Pool:
    def health(self):
        if os.path.exists('broken'):
            raise OSError('no route to postgres://shop:planted-1@db?x=planted-2, planted-3')
        return 'pool of 5'

def plugin(bus, global_conf, password):
    @bus.lifespan(name='pool')
    def pool():
        yield Pool()

    @bus.health('fast', every=0.05)
    def fast():
        if os.path.exists('broken'):
            raise OSError('no route to postgres://shop:planted-1@db?x=planted-2, planted-3')

    @bus.health('shown', group='health', every=0.05)
    def shown():
        return {'jobs': 3}
"""
)

INI = """
[wspbus:main]
workers = {workers}
plugins = db
ops = unix:ops.sock 127.0.0.1:{port}

[plugin:db]
use = call:webapp:plugin
password = planted-3
"""

each_mode = pytest.mark.parametrize('workers', [0, 2], ids=['alone', 'workers'])


@each_mode
def test_a_site_is_as_well_as_its_checks(tmp_path, workers):
    tcp, unix = ('127.0.0.1', free_port()), str(tmp_path / 'ops.sock')
    ini = INI.format(workers=workers, port=tcp[1]) + SERVED
    with Site(tmp_path, ini, files={'webapp.py': SITE}) as site:

        def all_have_results():
            told = ops.told(unix, '/health')[1]['checks'].values()
            rows = [row['ok'] for one in told for row in one['processes']]
            return rows == [True] * 3 * max(workers, 1)

        eventually(all_have_results)
        status, told = ops.told(unix, '/health')
        assert (status, told['healthy']) == (200, True)
        shown = told['checks']['shown']['processes']
        assert [one['text'] for one in shown] == ['jobs: 3'] * max(workers, 1)
        assert told['checks']['pool']['processes'][0]['text'] == 'pool of 5'
        (tmp_path / 'broken').touch()
        ops.becomes(tcp, '/ready', 503)
        assert ops.told(tcp, '/ready')[1]['why'] == 'these health checks fail: fast'
        status, told = ops.told(unix, '/health')
        text = told['checks']['fast']['processes'][0]['text']
        assert (status, 'no route to postgres://***@db' in text) == (503, True)
        answers = [ops.get(unix, page).text for page in ('/health', '/status')]
        answers += [ops.get(tcp, page).text for page in ('/health', '/ready')]
        answers.append(run(tmp_path, 'site.ini', 'status', '--json').out.text)
        assert [one for one in answers if 'planted' in one] == []
        assert (
            'The health check fast fails'
            in run(tmp_path, 'site.ini', 'status').out.text
        )
        os.remove(tmp_path / 'broken')
        ops.becomes(tcp, '/ready', 200)
        rows = json.loads(answers[-1])['health']
        assert {row['name'] for row in rows} == {'fast', 'shown', 'pool'}
        assert site.stop()[0] == 0

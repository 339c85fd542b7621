"""The first start of several workers fails: it is told once, and nothing is left."""

import os
import re
import signal
import socket
import sys

import pytest

from tests.kit import Site, eventually, run
from tests.kit.sites import SERVED
from tests.kit.stand_in import begun
from tests.kit.supervised import imported
from tests.kit.workers import FILES, INI, ONE_ONLY, Workers, set_up

#: It fails while the other one starts.
FIRST_ALONE = """
if name() == 'worker 1':
    open('starting').close()
    raise RuntimeError('it is broken')
"""


#: It fails while the other one composes.
SECOND_ALONE = """
if name() == 'worker 2':
    raise RuntimeError('it is broken')
wait_at_gate()
"""


FIRST_STARTS = {
    'import': ({'at_import': "raise RuntimeError('it is broken')"}, 'it is broken'),
    'composition': (
        {'at_composition': "raise RuntimeError('it is broken')"},
        'it is broken',
    ),
    'start': ({'at_start': "raise RuntimeError('it is broken')"}, 'it is broken'),
    'exit 3': ({'at_composition': 'os._exit(3)'}, 'exit code 3'),
    'crash': ({'at_start': 'os.kill(os.getpid(), signal.SIGKILL)'}, 'SIGKILL'),
    'one alone': (
        {'at_composition': ONE_ONLY % "raise RuntimeError('it is broken')"},
        'it is broken',
    ),
    'one alone at its start': (
        {'at_start': ONE_ONLY % "raise RuntimeError('it is broken')"},
        'it is broken',
    ),
    'first alone': (  # BUG 6
        {
            'at_composition': FIRST_ALONE,
            'at_start': "open('starting', 'w').close(); time.sleep(0.5)",
        },
        'it is broken',
    ),
    'second alone': ({'at_composition': SECOND_ALONE}, 'it is broken'),  # BUG 7
    'one waits': (
        {
            'at_composition': ONE_ONLY % 'wait_at_gate()',
            'at_start': "raise RuntimeError('it is broken')",
        },
        'it is broken',
    ),
}


def told(text):
    """The lines but for what the site itself prints, two processes at once perhaps."""
    others = re.sub(r'(opened|closed|draining|composing) \d+', '', text)
    return [line for line in others.splitlines() if line]


@pytest.mark.parametrize('case', FIRST_STARTS)
def test_a_first_start_that_fails_is_told_once_and_leaves_nothing(tmp_path, case):
    hooks, line = FIRST_STARTS[case]
    set_up(tmp_path, **hooks)
    with Workers(tmp_path, wait=False) as site:
        code = site.wait()
        assert site.has_left_nothing()
    alone = 'one' not in case and 'alone' not in case
    lines = told(site.err.text)
    assert len(lines) == 1, site.report()
    assert line in lines[0]
    assert site.out.text == ''
    assert {'site.pid', 'site.pid.sock'}.isdisjoint(os.listdir(tmp_path))
    assert code != 0
    assert len(imported(tmp_path)) <= 2
    if alone:
        site_of_one = Site(tmp_path, None, 'site.ini', wait=False, files=FILES)
        with site_of_one as one:
            expected = one.wait() % 256
        assert code == (1 if case == 'crash' else expected)
        if 'exit' not in case and case != 'crash':
            assert told(one.err.text) == lines


@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGSEGV])
def test_a_signal_for_a_worker_that_loads_the_site_is_no_stop_of_the_site(
    tmp_path, signum
):
    set_up(tmp_path, at_composition='wait_at_gate()')
    with Workers(tmp_path, wait=False) as site:
        site.expect('composing')
        os.kill(site.says('composing')[0], signum)
        assert site.wait() == 1, site.report()
        assert site.has_left_nothing()


@pytest.mark.parametrize('case', ['import', 'one alone'])
def test_a_daemons_first_start_that_fails_is_told_to_the_shell(tmp_path, case):
    hooks, line = FIRST_STARTS[case]
    set_up(tmp_path, **hooks)
    site = run(tmp_path, 'site.ini', 'start', '--workers', '2', files=FILES)
    assert site.code in (1, 2)
    assert len(site.err.text.splitlines()) == 1, site.report()
    assert line in site.err.text
    assert site.out.text == ''
    assert {'paster.pid', 'paster.pid.sock'}.isdisjoint(os.listdir(tmp_path))


def test_a_first_start_that_is_too_slow_is_told(tmp_path):
    ini = INI.replace('[wspbus:main]', '[wspbus:main]\nstart_timeout = 1')
    set_up(tmp_path, at_composition=ONE_ONLY % 'wait_at_gate()')
    with Workers(tmp_path, wait=False, files={**FILES, 'site.ini': ini}) as site:
        assert site.wait() == 1
        assert site.has_left_nothing()
    assert 'start_timeout' in site.err.text
    assert site.out.text == ''


def test_a_port_that_is_taken_is_told_once(tmp_path):
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        files = {**FILES, 'site.ini': INI.replace('port = 0', f'port = {port}')}
        with Workers(tmp_path, wait=False, files=files) as site:
            assert site.wait() == 1
    (line,) = site.err.text.splitlines()
    assert f'127.0.0.1:{port}' in line
    assert not (tmp_path / 'life').exists()


SLOW = """
import time


def make(global_conf):
    open('loading', 'w').close()
    time.sleep(600)
"""


@pytest.mark.parametrize('workers', ['1', '2'])
def test_a_stop_before_the_first_worker_is_ready_says_why_and_ends_the_log(
    tmp_path, workers
):
    """The reason came behind "Bus STOPPED": it waited for the end of the start."""
    (tmp_path / 'webapp.py').write_text(SLOW)
    (tmp_path / 'site.ini').write_text(SERVED)
    with begun(tmp_path, 'site.ini', '-v', '--workers', workers) as site:
        eventually((tmp_path / 'loading').exists)
        site.send(signal.SIGTERM)
        assert site.wait() == 143, site.report()
    said = [line.rpartition('] ')[2] for line in site.err.text.splitlines()]
    assert said == [
        'Bus STARTING',
        'Stopping: SIGTERM',
        'Bus STOPPING',
        'Bus STOPPED',
        'Bus EXITING',
        'Bus EXITED',
    ]


#: The signal comes when the supervisor handles signals, and has no process yet.
AT_ONCE = """
import functools
import signal
import sys
from paste_wspbus.__main__ import main
from paste_wspbus.workers.supervisor import Supervisor

def subscribe(supervisor, signals, subscribe=Supervisor.subscribe):
    subscribe(supervisor, signals)
    comes = functools.partial(signal.raise_signal, signal.{name})
    supervisor.bus.subscribe('start', comes, priority=40)  # the supervisor's has 50

Supervisor.subscribe = subscribe
sys.exit(main())
"""


@pytest.mark.parametrize('name, code', [('SIGTERM', 143), ('SIGINT', 130)])
def test_a_signal_before_the_first_process_has_the_code_of_one_during_its_start(
    tmp_path, name, code
):
    files = {'webapp.py': SLOW, 'site.ini': SERVED}
    program = [sys.executable, '-c', AT_ONCE.format(name=name)]
    done = run(tmp_path, 'site.ini', '--workers', '2', files=files, command=program)
    assert done.code == code, done.report()
    assert done.out.text == ''

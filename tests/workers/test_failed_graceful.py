"""A graceful restart that fails: the old generation keeps serving, and it is told why."""

import os
import re
import signal

import pytest

from tests.kit import Site, eventually, is_free, run
from tests.kit.clients import Clients
from tests.kit.processes import children, lines_beside_progress
from tests.kit.reloading import Edited, stop
from tests.kit.sites import SERVED, ask
from tests.kit.supervised import has_cleaned_up
from tests.kit.workers import (
    FILES,
    INI,
    ONE_ONLY,
    Workers,
    set_up,
)

# -- a broken deploy ----------------------------------------------------------------


#: What happens to the new generation: hooks, edits of the .ini, what is said of it.
BROKEN = {
    'import': ({'at_import': "raise RuntimeError('it is broken')"}, (), 'it is broken'),
    'syntax': ({'at_import': 'def :'}, (), 'invalid syntax'),
    'composition': (
        {'at_composition': "raise RuntimeError('it is broken')"},
        (),
        'it is broken',
    ),
    'ini': ({}, [('[wspbus:main]', '[wspbus:main')], 'site.ini'),
    'setting': ({}, [('plugins = resource', 'plugns = resource')], 'plugins'),
    'start': ({'at_start': "raise RuntimeError('it is broken')"}, (), 'it is broken'),
    'exit 0': ({'at_composition': 'os._exit(0)'}, (), 'exit code 0'),
    'exit 3': ({'at_start': 'os._exit(3)'}, (), 'exit code 3'),
    'SystemExit': ({'at_composition': 'sys.exit(5)'}, (), ''),
    'crash': (
        {'at_composition': 'os.kill(os.getpid(), signal.SIGSEGV)'},
        (),
        'signal SIGSEGV',
    ),
    'second': (
        {'at_composition': ONE_ONLY % "raise RuntimeError('it is broken')"},
        (),
        'it is broken',
    ),
}


@pytest.mark.parametrize('case', BROKEN)
def test_a_generation_that_fails_is_dropped_and_reported(tmp_path, case):
    hooks, edits, line = BROKEN[case]
    with Workers(tmp_path) as site, Clients(site, count=2) as clients:
        old = site.pids()
        good = (tmp_path / 'site.ini').read_text()
        set_up(tmp_path, **hooks)
        site.deploy(2)
        site.change(*edits)
        told = site.run('graceful')
        assert told.code == (2 if case in ('ini', 'setting') else 1)
        assert told.out.text == ''
        assert 1 <= len(told.err.text.splitlines()) <= 2, told.report()
        assert line in told.err.text
        assert 'Traceback' not in told.err.text
        if case != 'second':
            assert site.pids() == old
            assert site.versions() == {'1'}
        eventually(lambda: len(children(site.pid)) == 2)
        assert line in site.status()['failure']
        status = site.run('status')
        assert status.code == 0
        assert ', failed after ' in status.out.text
        assert line in status.out.text

        (tmp_path / 'site.ini').write_text(good)
        for hook in hooks:
            (tmp_path / hook).unlink()
        site.deploy(3)
        site.graceful()
        assert site.versions() == {'3'}
        assert site.status()['failure'] is None
        assert 'failed' not in site.run('status').out.text
        clients.stop()
        assert clients.failures == []
        assert site.stop()[0] == 0
        assert has_cleaned_up(site)


@pytest.mark.parametrize('hook', ['at_import', 'at_composition', 'at_start'])
def test_the_log_has_the_whole_traceback_of_a_generation_that_fails(tmp_path, hook):
    with Workers(tmp_path) as site:
        set_up(tmp_path, **{hook: "raise RuntimeError('it is broken: hunter2')"})
        new = '[app:other]\nuse = call:app:make\npassword = hunter2\n[server:main]'
        site.change(('[server:main]', new))
        told = site.run('graceful')
        assert told.code in (1, 2)
        # What others show of it has no secret of the .ini.
        for shown in told.err.text, repr(site.status()), site.run('status').out.text:
            assert 'it is broken: ***' in shown and 'hunter2' not in shown
        assert 'it is broken: hunter2' in site.err.text
        site.expect('Generation 2 failed')
        assert 'Traceback (most recent call last)' in site.err.text
        assert f'{hook}", line 1' in site.err.text
        assert site.stop()[0] == 0


SLOW = {
    'composition': {'at_composition': 'wait_at_gate()'},
    'start': {'at_start': 'wait_at_gate()'},
    'deaf': {
        'at_composition': """
say('composing')
while True:
    try:
        threading.Event().wait()
    except BaseException:
        pass  # it swallows the end
"""
    },
}


@pytest.mark.parametrize('case', ['composition', 'start'])
def test_a_generation_that_is_too_slow_is_dropped_and_reported(tmp_path, case):
    ini = INI.replace('[wspbus:main]', '[wspbus:main]\nstart_timeout = 2')
    with Workers(tmp_path, files={**FILES, 'site.ini': ini}) as site:
        old = site.pids()
        set_up(tmp_path, **SLOW[case])
        told = site.run('graceful')
        assert told.code == 1
        assert len(lines_beside_progress(told)) == 1
        # By its own deadline, of what its composition has left, or the supervisor's.
        own = re.search(r'did not start within (1\.\d|2) s', told.err.text)
        assert own or 'start_timeout' in told.err.text
        site.expect('in wait_at_gate')  # its stack
        eventually(lambda: sorted(children(site.pid)) == sorted(old))
        assert site.versions() == {'1'}
        assert 'start' in site.status()['failure']
        for hook in SLOW[case]:
            (tmp_path / hook).unlink()
        site.deploy(2)
        site.graceful()
        assert site.versions() == {'2'}
        assert site.stop()[0] == 0


def test_a_generation_that_ignores_sigterm_is_killed(tmp_path):
    ini = INI.replace('[wspbus:main]', '[wspbus:main]\nstart_timeout = 1')
    with Workers(tmp_path, files={**FILES, 'site.ini': ini}) as site:
        old = site.pids()
        set_up(tmp_path, **SLOW['deaf'])
        told = site.run('graceful')
        assert told.code == 1, told.report()
        assert 'start_timeout' in told.err.text
        assert ask(site)['pid'] in old
        site.expect('did not stop in time: it is killed')
        eventually(lambda: sorted(children(site.pid)) == sorted(old))
        assert site.stop()[0] == 0


def test_a_failed_graceful_leaves_the_number_of_workers(tmp_path):
    ini = INI.replace('[wspbus:main]', '[wspbus:main]\nworkers = 2')
    with Workers(tmp_path, count=None, files={**FILES, 'site.ini': ini}) as site:
        site.change(('workers = 2', 'workers = 1'))
        set_up(tmp_path, at_composition="raise RuntimeError('broken')")
        assert site.run('graceful').code == 1
        (tmp_path / 'at_composition').unlink()
        assert len(site.pids()) == 2
        os.kill(site.pids()[1], signal.SIGKILL)
        eventually(lambda: {w['state'] for w in site.workers()} == {'ready'})
        eventually(lambda: len(site.pids()) == 2)
        assert site.stop()[0] == 0


def test_more_workers_that_fail_leave_the_number_of_workers(tmp_path):
    ini = INI.replace('[wspbus:main]', '[wspbus:main]\nworkers = 1')
    with Workers(tmp_path, count=None, files={**FILES, 'site.ini': ini}) as site:
        site.change(('workers = 1', 'workers = 3'))
        set_up(tmp_path, at_composition="raise RuntimeError('broken')")
        assert site.run('graceful').code == 1
        (tmp_path / 'at_composition').unlink()
        site.send(signal.SIGTTIN)
        eventually(lambda: len(site.pids()) == 2)
        assert [one['number'] for one in site.workers()] == [1, 2]
        assert site.stop()[0] == 0
        assert has_cleaned_up(site)


def test_a_site_whose_folder_was_removed_serves_and_stops(tmp_path):
    there = tmp_path / 'there'
    there.mkdir()
    with Site(
        there,
        None,
        'site.ini',
        '--workers',
        '2',
        '--pid-file',
        tmp_path / 'site.pid',
        files=FILES,
    ) as site:
        for file in there.rglob('*'):
            if file.is_file():
                file.unlink()
        for left in there.glob('*'):
            left.rmdir()
        there.rmdir()
        told = run(tmp_path, 'there/site.ini', 'graceful', '--pid-file', 'site.pid')
        assert told.code in (1, 2)
        assert len(lines_beside_progress(told)) == 1
        assert 'site.ini' in told.err.text
        assert ask(site)['version'] == '1'
        stop = run(tmp_path, 'there/site.ini', 'stop', '--pid-file', 'site.pid')
        assert stop.code == 0, stop.report()
        assert site.wait() == 0, site.report()
        assert site.has_left_nothing()
        assert is_free(site.port)


# -- a server that is not known -----------------------------------------------------------------


BY_TEXT = """
def make(global_conf, text):
    if text == 'broken':
        raise RuntimeError('it is broken')

    def app(environ, start_response):
        start_response('200 OK', [('Content-Length', str(len(text)))])
        return [text.encode()]

    return app
"""


def test_a_worker_that_dies_after_a_failed_graceful_has_the_ini_as_it_was(tmp_path):
    ini = '[app:main]\nuse = call:by_text:make\ntext = good\n'
    ini += '[server:main]\nuse = egg:waitress\nhost = 127.0.0.1\nport = 0\n'
    args = ['--workers', '1', '--pid-file', 'site.pid']
    with Site(tmp_path, ini, *args, files={'by_text.py': BY_TEXT}) as site:
        (tmp_path / 'site.ini').write_text(ini.replace('good', 'broken'))
        told = run(tmp_path, 'site.ini', 'graceful', '--pid-file', 'site.pid')
        assert told.code == 1, told.report()
        (old,) = children(site.pid)
        os.kill(old, signal.SIGKILL)
        eventually(lambda: children(site.pid) not in ([old], []))
        assert site.get().text == 'good'
        assert site.stop()[0] == 0


def test_a_pipe_in_the_place_of_the_ini_does_not_hold_up_the_supervisor(tmp_path):
    with Workers(tmp_path, count=1) as site:
        put_a_pipe_there(tmp_path)
        told = site.run('graceful')
        assert told.code == 2, told.report()
        assert 'it is a pipe' in told.err.text
        assert site.get('/').status == 200
        assert site.stop()[0] == 0


@pytest.mark.parametrize('reloader', ['fork', 'child', 'execv'])
def test_a_pipe_in_the_place_of_the_ini_does_not_hold_up_a_reload(tmp_path, reloader):
    with Edited(tmp_path, '--reloader', reloader) as site:
        put_a_pipe_there(tmp_path)
        site.expect('it is a pipe')
        site.until_broken('it is a pipe')  # a page that shows no lines of the pipe
        site.save(SERVED, 'site.ini')
        site.edit('two')
        stop(site)


def put_a_pipe_there(folder):
    os.mkfifo(folder / 'pipe')
    os.replace(folder / 'pipe', folder / 'site.ini')

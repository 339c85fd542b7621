"""warm_up and smoke: a site is asked before it accepts connections."""

import contextlib
import os
import re
import signal

import pytest

from tests.kit import Connection, eventually, run
from tests.kit.supervised import UNKNOWN_SERVER, has_cleaned_up
from tests.kit.systemd import states
from tests.kit.workers import FILES, INI, Workers, each_server, files_for

#: Pages that count who was asked, and one that answers as a health check does.
PAGES = """
def asked(environ):
    say('asked')


def health(environ):
    say('health')
    assert bus_of(environ).state.name == 'STARTED', bus_of(environ).state


def failing(environ):
    raise KeyError('dsn')


PAGES.update({'/asked': asked, '/health': health, '/failing': failing})
"""
WEBAPP = {'webapp.py': FILES['webapp.py'] + PAGES}


def files(keys, ini=INI):
    return {**WEBAPP, 'site.ini': ini.replace('soak = 0', f'soak = 0\n{keys}')}


@each_server
def test_one_process_is_asked_when_it_is_started_and_clients_wait(tmp_path, server):
    ini = files_for(server)['site.ini']
    keys = 'warm_up = /asked, /wait\nsmoke = /health'
    with Workers(tmp_path, count=None, files=files(keys, ini), wait=False) as site:
        site.expect('waiting')
        assert 'Serving on' not in site.out.text
        with contextlib.ExitStack() as stack:
            if 'unix' in server:  # the port of the others is not known yet
                path = str(tmp_path / 'site.sock')
                client = stack.enter_context(Connection(path))
                client.send()
            site.release()
            site.wait_until_served()
            early = 0
            if 'unix' in server:
                assert client.receive().status == 200
                early = 1
        assert site.get('/').status == 200
        # What it has asked itself does not count.
        eventually(lambda: site.status()['served'] == early + 1)
        assert site.stop()[0] == 0
        assert has_cleaned_up(site)
    eventually(lambda: site.says('asked') == site.says('health') == [site.pid])


WRONG = {
    'raises': ('/failing', "raised KeyError: 'dsn', at webapp.py:"),
    'hangs': ('/wait', 'was not answered within 0.5 s (smoke_timeout), at webapp.py:'),
    'status': ('/asked', 'answered 200 OK, not 204'),
}


@pytest.mark.parametrize('count', [None, 2])
@pytest.mark.parametrize('wrong', WRONG)
def test_a_request_of_smoke_that_fails_is_a_start_that_fails(tmp_path, count, wrong):
    url, words = WRONG[wrong]
    keys = f'smoke = {url}\nsmoke_timeout = 500ms\nsmoke_status = 204'
    with Workers(tmp_path, count=count, files=files(keys), wait=False) as site:
        assert site.wait() == 1
        assert site.has_left_nothing()
    last = site.err.text.splitlines()[-1]
    assert f'site.ini [wspbus:main] smoke: {url} {words}' in last, site.report()
    assert 'Serving on' not in site.out.text


LOG = """
[loggers]
keys = root
[handlers]
keys = file
[formatters]
keys = plain
[logger_root]
level = INFO
handlers = file
[handler_file]
class = FileHandler
args = ('%(here)s/app.log', 'a')
formatter = plain
[formatter_plain]
format = %(levelname)s %(message)s
"""


@pytest.mark.parametrize(('url', 'words'), [WRONG['raises'], WRONG['status']])
def test_the_log_says_before_the_stop_why_smoke_failed(tmp_path, url, words):
    keys = f'smoke = {url}\nsmoke_status = 204'
    told = run(tmp_path, 'site.ini', files=files(keys, INI + LOG))
    assert told.code == 1, told.report()
    lines = (tmp_path / 'app.log').read_text().splitlines()
    (error,) = (line for line in lines if f'smoke: {url} ' in line)
    assert error.startswith('ERROR ') and words.partition(', at ')[0] in error
    at = lines.index(error)
    assert lines[at - 1 : at + 2] == ['INFO Bus STARTED', error, 'INFO Bus STOPPING']
    assert told.err.text.count(f'smoke: {url} ') == 1


def test_the_log_says_that_it_has_passed(tmp_path):
    files_ = files('smoke = /health', INI + LOG)
    with Workers(tmp_path, count=None, files=files_) as site:
        assert site.stop()[0] == 0
    log = (tmp_path / 'app.log').read_text()
    assert re.search(r'^INFO smoke: /health answered 200 OK in \d+ ms$', log, re.M)


def test_v_shows_the_traceback_of_a_start_that_fails_once(tmp_path):
    fails = 'def fails(bus, global_conf):\n    raise KeyError(1)\n    yield\n'
    ini = re.sub('plugins = .*', 'plugins = bad', INI)
    more = {'site.ini': f'{ini}[plugin:bad]\nuse = call:bad:fails\n', 'bad.py': fails}
    told = run(tmp_path, '-v', 'site.ini', '--workers', '0', files={**WEBAPP, **more})
    assert told.code == 1, told.report()
    assert told.err.text.count('Traceback') == 1, told.report()
    assert "Error in 'start' listener bad, at " in told.err.text
    assert 'KeyError: 1' in told.err.text.splitlines()[-2]


def test_a_server_that_nobody_knows_is_asked_as_well(tmp_path):
    ini = INI.replace('egg:waitress', 'call:server:make').replace('threads = 4\n', '')
    more = {'server.py': UNKNOWN_SERVER}
    with Workers(
        tmp_path, count=None, files=files('smoke = /failing', ini) | more, wait=False
    ) as site:
        assert site.wait() == 1
    assert site.err.text.count('Traceback') == 0
    assert "/failing raised KeyError: 'dsn'" in site.err.text
    ini = files('smoke = /health', ini)
    with Workers(tmp_path, count=None, files=ini | more) as site:
        eventually(lambda: site.says('health') == [site.pid])
        assert site.stop()[0] == 0


@pytest.mark.parametrize('preload', ['false', 'true'])
def test_smoke_is_once_a_generation_and_warm_up_in_each_worker(tmp_path, preload):
    keys = f'warm_up = /asked\nsmoke = /health\npreload = {preload}'
    with Workers(tmp_path, files=files(keys)) as site:
        first, second = [one['pid'] for one in site.workers() if one['number']]
        eventually(lambda: sorted(site.says('asked')) == sorted([first, second]))
        eventually(lambda: site.says('health') == [first])
        os.kill(first, signal.SIGKILL)  # its successor is of the same generation
        eventually(lambda: len(site.says('asked')) == 3)
        site.graceful()
        new = [one['pid'] for one in site.workers() if one['number']]
        eventually(lambda: site.says('health') == [first, new[0]])
        eventually(lambda: site.says('asked')[3:] == new)
        site.change(('smoke = /health', 'smoke = /failing'))
        told = site.run('graceful')
        assert told.code == 1, told.report()
        words = 'generation 2 keeps serving: site.ini [wspbus:main] smoke: /failing '
        assert f"{words}raised KeyError: 'dsn', at webapp.py:" in told.err.text
        assert "KeyError: 'dsn'\n" in site.err.text  # the traceback
        assert [one['pid'] for one in site.workers() if one['number']] == new
        assert site.stop()[0] == 0
        assert has_cleaned_up(site)


def test_a_warm_up_that_fails_is_a_warning(tmp_path):
    keys = 'warm_up = /failing /asked'
    with Workers(tmp_path, count=None, files=files(keys)) as site:
        site.expect("warm_up: /failing raised KeyError: 'dsn', at ")
        eventually(lambda: site.says('asked') == [site.pid])
        assert site.stop()[0] == 0


@pytest.mark.parametrize('count', [None, 1, 2])
@pytest.mark.parametrize('key', ['smoke', 'warm_up'])
def test_a_stop_does_not_wait_for_them(tmp_path, count, key):
    keys = f'{key} = /wait\nsmoke_timeout = 10m'
    with Workers(tmp_path, count=count, files=files(keys), wait=False) as site:
        if (key, count) == ('warm_up', 2):  # with 'smoke', one worker starts alone
            # One that still loads the site would end with 143, and the site, too.
            site.expect('opened', 2)
        site.expect('waiting')
        site.send(signal.SIGTERM)
        assert site.wait() == 0, site.report()
        assert site.has_left_nothing()
    assert 'Serving on' not in site.out.text


def test_a_daemon_says_why_its_smoke_failed(tmp_path):
    told = run(tmp_path, 'site.ini', 'start', files=files('smoke = /failing'))
    assert told.code == 1, told.report()
    assert "smoke: /failing raised KeyError: 'dsn', at webapp.py:" in told.err.text


def test_systemd_hears_of_the_site_when_it_has_passed(tmp_path, manager):
    env = {'NOTIFY_SOCKET': manager.address}
    keys = 'warm_up = /wait\nsmoke = /health'
    with Workers(tmp_path, count=None, files=files(keys), wait=False, env=env) as site:
        site.expect('waiting')
        assert 'READY' not in str(manager.pending())
        site.release()
        before = manager.until(READY='1')
        assert states(before) == ['READY']
        eventually(lambda: site.says('health') == [site.pid])
        assert site.stop()[0] == 0

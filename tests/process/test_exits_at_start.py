"""What gives up while it starts is named, whoever runs the site."""

import sys

import pytest

from tests.kit import Site, run

INI = """
[app:main]
use = call:front:make

[server:main]
use = egg:waitress
host = 127.0.0.1
port = 0

[wspbus:main]
plugins = first second

[plugin:first]
use = call:parts:first

[plugin:second]
use = call:parts:second
"""

FRONT = """
def make(global_conf):
    return lambda environ, start_response: []
"""

PARTS = """
import sys

def first(bus, global_conf):
    yield
    print('first is closed', flush=True)

def second(bus, global_conf):
    sys.exit({reason!r})
    yield
"""

REASONS = {
    0: (1, 'exit code 0'),
    3: (3, 'exit code 3'),
    'no database': (1, 'no database'),
}


@pytest.mark.parametrize('args', [(), ('--workers', '1'), ('--monitor-restart',)])
@pytest.mark.parametrize('reason', REASONS)
def test_a_component_that_exits_while_it_starts_is_named(tmp_path, reason, args):
    files = {'front.py': FRONT, 'parts.py': PARTS.format(reason=reason)}
    code, why = REASONS[reason]
    command = run(tmp_path, 'site.ini', *args, files={**files, 'site.ini': INI})
    assert command.code == code, command.report()
    line = f'site.ini [plugin:second]: second exited instead of starting: {why}'
    assert line in command.err.text
    assert 'first is closed' in command.out.text


def test_a_daemons_component_that_exits_while_it_starts_is_named(tmp_path):
    files = {'front.py': FRONT, 'parts.py': PARTS.format(reason=3), 'site.ini': INI}
    command = run(tmp_path, 'site.ini', 'start', files=files)
    assert command.code == 3, command.report()
    assert '[plugin:second]: second exited instead of starting' in command.err.text
    assert not (tmp_path / 'paster.pid').exists()


# -- what is logged, and not raised --------------------------------------------------

GIVES_UP = """
def first(bus, global_conf):
    yield
    print('first is closed', flush=True)

def second(bus, global_conf):
    bus.log('no licence found', 40)
    bus.exit()
    yield
"""

RELOADS = [('--reload',), ('--reload', '--reloader', 'execv')]
STOPPED = '[plugin:second]: the site was stopped while second was starting'


@pytest.mark.parametrize(
    'args', [(), ('--workers', '1'), ('--workers', '1', 'forks=true')]
)
def test_an_error_that_is_logged_during_the_start_is_shown(tmp_path, args):
    ini = INI.replace('[plugin:first]', 'preload = %(forks)s\n[plugin:first]')
    ini += '[DEFAULT]\nforks = false\n'
    files = {'front.py': FRONT, 'parts.py': GIVES_UP, 'site.ini': ini}
    command = run(tmp_path, 'site.ini', *args, files=files)
    assert command.code == 1, command.report()
    assert 'no licence found' in command.err.text
    assert STOPPED in command.err.text.splitlines()[-1]
    assert 'first is closed' in command.out.text


@pytest.mark.parametrize('args', [(), ('--workers', '1')])
def test_an_error_that_a_daemon_logs_during_its_start_is_in_its_log(tmp_path, args):
    files = {'front.py': FRONT, 'parts.py': GIVES_UP, 'site.ini': INI}
    command = run(tmp_path, 'site.ini', 'start', *args, files=files)
    assert command.code == 1, command.report()
    assert STOPPED in command.err.text
    assert 'no licence found' in (tmp_path / 'paster.log').read_text()


@pytest.mark.parametrize('args', RELOADS, ids=' '.join)
def test_an_error_that_is_logged_during_a_start_under_reload_is_shown(tmp_path, args):
    files = {'front.py': FRONT, 'parts.py': GIVES_UP}
    with Site(tmp_path, INI, *args, files=files) as site:
        assert site.get().status == 500
        assert 'no licence found' in site.err.text
        assert STOPPED in site.err.text


SERVERS = {
    'waitress': 'egg:waitress',
    'paste': 'egg:Paste#http',
    'cheroot': 'egg:paste_wspbus#cheroot',
    'wsgiref': 'egg:paste_wspbus#wsgiref',
}

FAILING_SERVER = """
import threading

def first(bus, global_conf):
    bus.plugins['server'].run = fail
    yield

def second(bus, global_conf):
    asked, leave = threading.Event(), bus.exit
    bus.exit = lambda: (leave(), asked.set())
    bus.subscribe('start', asked.wait, priority=90)

def fail():
    raise ValueError('cannot wait for so many files')
"""


@pytest.mark.parametrize('server', SERVERS)
def test_a_server_that_fails_before_the_site_is_started_is_shown(tmp_path, server):
    ini = INI.replace('egg:waitress', SERVERS[server])
    files = {'front.py': FRONT, 'parts.py': FAILING_SERVER, 'site.ini': ini}
    command = run(tmp_path, 'site.ini', files=files)
    assert command.code == 1, command.report()
    why = 'ValueError: cannot wait for so many files'
    assert f'The HTTP server failed: this process stops ({why})\n' in command.err.text
    last = command.err.text.splitlines()[-1]
    assert last == 'The site stopped before it was started'


HOSTED = (
    INI
    + """
[filter:bus]
use = egg:paste_wspbus#bus
"""
)

SCRIPT = """
from paste.deploy import loadapp
from waitress import create_server

server = create_server(loadapp('config:site.ini', relative_to='.'), port=0)
print(f'Serving on http://127.0.0.1:{server.effective_port}', flush=True)
server.run()
"""


def test_a_server_that_knows_of_no_bus_answers_500_when_a_component_exits(tmp_path):
    files = {
        'front.py': FRONT,
        'parts.py': PARTS.format(reason=3),
        'site.ini': HOSTED.replace('[app:main]', '[app:main]\nfilter-with = bus'),
        'script.py': SCRIPT,
    }
    command = [sys.executable, '-W', 'ignore', 'script.py']
    with Site(tmp_path, None, command=command, files=files) as site:
        for _ in range(2):
            assert site.get().status == 500
        site.expect('[plugin:second]: second exited instead of starting: exit code 3')

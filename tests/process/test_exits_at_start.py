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

REASONS = {3: (3, 'exit code 3'), 'no database': (1, 'no database')}


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

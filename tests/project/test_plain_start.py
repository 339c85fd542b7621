"""What a start of one process imports until it serves: the time of a start is mostly that."""

import importlib.util
import subprocess
import sys
from pathlib import Path

from tests.kit import TIMEOUT, free_port

#: Runs wspserve, and prints the modules that are loaded as soon as the site serves.
PROGRAM = """
import os, sys
from paste_wspbus.__main__ import main
from paste_wspbus.bus import Bus

def start_and_tell(self, start=Bus.start):
    start(self)
    print(self.state, *sorted(sys.modules), flush=True)
    os._exit(0)

Bus.start = start_and_tell
main()
"""

SITE = """
[app:main]
use = call:plain_site:make

[server:main]
use = egg:waitress
listen = 127.0.0.1:{port}
"""

#: The modules of ours that it needs. To add one costs each start 0.1 to 0.3 ms: import it
#: in the function that needs it, if most starts do not.
OURS = """
__main__ errors exits forks reference report streams values
bus bus.broadcasting bus.bus bus.calls bus.channels bus.deadlines bus.ending bus.held_gil
bus.host bus.interrupts bus.joining bus.lifespans bus.places bus.states bus.transitions
bus.turn bus.waiting
command command.announcing command.arguments command.defaults command.files
command.leaving command.main command.single command.site_handlers command.terminal
frameworks
ini ini.composing ini.config ini.factories ini.file ini.pastedeploy ini.server
ini.settings
listening listening.addresses listening.backlog listening.sockets
plugins plugins.restart plugins.signal_names plugins.signals plugins.sitelog plugins.threads
process process.early_signals process.inheritance process.launch process.names
process.opening process.options process.process process.succession
requests requests.filter
servers servers.accepting servers.binding servers.registry servers.server
servers.thread_queue servers.waitress servers.waitress_fast servers.waitress_heads
unix unix.holding unix.importing
"""

#: Modules of Python that take long to import, and of which a start needs nothing.
NOT_NEEDED = {
    'ast',
    'difflib',
    'dis',
    'email.message',
    'encodings.idna',
    'heapq',
    'importlib.metadata',
    'inspect',
    'json',
    'queue',
    'subprocess',
    'typing',
    'unittest',
    'zipfile',
}

#: Bytes of source that are compiled and run. There are a third of docstrings in it.
MOST = 554_000


PLUGIN = """
[wspbus:main]
plugins = part

[plugin:part]
use = call:plain_site:part
"""


def loaded(tmp_path, more=''):
    """Return the state of the bus after its start, and the names of all modules."""
    site = tmp_path / 'site.ini'
    site.write_text(SITE.format(port=free_port()) + more)
    (tmp_path / 'plain_site.py').write_text(
        'def make(conf):\n    return str\n\ndef part(bus, conf):\n    yield\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', PROGRAM, str(site)],
        env={'PATH': '', 'HOME': str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.stderr == ''
    state, *names = done.stdout.splitlines()[-1].split()
    return state, names


def test_a_plain_start_imports_what_it_needs(tmp_path):
    state, names = loaded(tmp_path)
    assert state == 'State.STARTED'
    ours = {
        name.removeprefix('paste_wspbus.')
        for name in names
        if name.startswith('paste_wspbus.')
    }
    assert sorted(ours - set(OURS.split())) == []
    files = [importlib.util.find_spec(f'paste_wspbus.{name}').origin for name in ours]
    assert sum(Path(file).stat().st_size for file in files) < MOST
    # An editable install imports some for its own finder, and Python 3.14 for `traceback`:
    # these are no fault of a start.
    bare = subprocess.run(
        [sys.executable, '-c', 'import sys, traceback; print(*sys.modules)'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert sorted(NOT_NEEDED & set(names) - set(bare.stdout.split())) == []


def test_a_start_with_a_plugin_imports_nothing_that_only_errors_need(tmp_path):
    state, names = loaded(tmp_path, PLUGIN)
    assert state == 'State.STARTED'
    assert 'paste_wspbus.ini.hints' not in names
    assert sorted({'difflib', 'importlib.metadata'} & set(names)) == []

"""What every host has in common: capabilities, one start and one stop; and the embedded bus."""

import json
import re
import sys

import pytest

from paste_wspbus.bus import Bus
from paste_wspbus.hosts import OWN, Host, HostCannot, host_of, require
from paste_wspbus.hosts.site import compose
from tests.hosts import promises as hosts
from tests.kit import Process, write

#: Of each host, under CI; `make hosts` runs 20.
ROUNDS = 3


@pytest.mark.parametrize('name', hosts.runners())
def test_the_promises_hold(name, tmp_path):
    runner = hosts.runners()[name]
    report = hosts.conform(runner, ROUNDS, tmp_path)
    assert not report.evidence
    assert report.processes['started once'] >= (2 if runner.reloads else 1) * ROUNDS
    assert report.outcomes['answered'] >= ROUNDS * hosts.REQUESTS


# -- asking what a host can do -----------------------------------------------------------


def test_a_component_refuses_where_what_it_needs_is_missing():
    bus = Bus()
    bus.host = Host('embedded', '', {'start', 'stop'})
    require(bus, 'start', 'stop')
    with pytest.raises(HostCannot) as caught:
        require(bus, 'stop', 'drain', 'reload', component='mysite.queue')
    assert str(caught.value) == (
        'mysite.queue cannot run under embedded, which lacks '
        "'drain' ('stop' listeners run after the last request was answered); "
        "'reload' ('graceful' is published before a process with new code replaces this one)"
    )
    assert caught.value.missing == ['drain', 'reload']


def test_a_capability_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="no capability 'drian'"):
        require(Bus(), 'drian')
    with pytest.raises(ValueError, match="no capability 'drian'"):
        Host('gunicorn', '27', {'drian'})


def test_a_bus_that_nobody_gave_a_host_is_its_own_programs():
    assert host_of(Bus()) is OWN


def test_a_host_says_what_it_is():
    assert str(Host('gunicorn', '27.0.1', ())) == 'gunicorn 27.0.1'
    assert repr(Host('uWSGI', '2', {'stop', 'start'})) == '<Host uWSGI 2: start, stop>'


def test_a_component_may_ask_while_it_is_made(tmp_path):
    run(tmp_path, HOST)
    assert 'composed mine start,stop' in (tmp_path / 'events').read_text()


# -- a site under a host that is a few lines ----------------------------------------------

#: A whole host: what it does with the site of an .ini, and prints what comes of it.
HOST = """
import os, sys, threading
from paste_wspbus.errors import WSPBusError
from paste_wspbus.hosts import Host
from paste_wspbus.hosts.site import compose

site = compose('site.ini', Host('mine', '1', {'start', 'stop'}))

def ask(path='/'):
    environ = {'REQUEST_METHOD': 'GET', 'PATH_INFO': '/', 'QUERY_STRING': path[2:]}
    body = site.app(environ, lambda status, headers: None)
    try:
        return b''.join(body)
    finally:
        body.close()

"""


def run(folder, script, ini=None, **changes):
    """Run the host in a folder with the site; what each process has written, in order."""
    text = (hosts.SITE / 'site.ini').read_text() if ini is None else ini
    for old, new in changes.items():
        text = text.replace(old, new)
    source = (hosts.SITE / 'hosted.py').read_text()
    write(folder, {'site.ini': text, 'hosted.py': source, 'host.py': script})
    with Process([sys.executable, '-W', 'error', 'host.py'], folder) as process:
        code = process.wait()
        assert code == 0, process.report()
        text = process.out.text
    file = folder / 'events'
    events = (
        [' '.join(line.split()[1:]) for line in file.read_text().splitlines()]
        if file.exists()
        else []
    )
    return [one for one in events if 'composed' not in one], text


def test_a_site_starts_once_and_stops_once(tmp_path):
    events, _ = run(
        tmp_path,
        HOST + 'site.start(); site.start(); ask(); '
        'print(site.stop("upgrade"), site.stop("again"), site.bus.stop_reason)',
    )
    assert events == ['start', 'request open', 'response', 'stop upgrade']


def test_a_site_that_no_host_stops_is_stopped_by_the_end_of_the_process(tmp_path):
    events, _ = run(tmp_path, HOST + 'site.start(); ask()')
    assert events[-1] == 'stop process exit'


def test_a_site_that_no_host_starts_is_started_by_the_first_request(tmp_path):
    threads = """
ts = [threading.Thread(target=ask) for _ in range(8)]
[t.start() for t in ts]
[t.join() for t in ts]
"""
    events, _ = run(tmp_path, HOST + threads)
    assert events[0] == 'start'
    assert events.count('start') == 1
    assert events.count('request open') == 8


def test_a_site_that_leaves_while_it_starts_is_not_started(tmp_path):
    leave = """
site.bus.subscribe('start', site.bus.exit)
try:
    site.start()
except WSPBusError as error:
    print(error)
print(site.is_started, site.stop())
"""
    events, text = run(tmp_path, HOST + leave)
    assert text.endswith(
        'site.ini: the site stopped as soon as it was started\nFalse 0\n'
    )
    assert events == ['start', 'stop None']


LOGGERS = """
[loggers]
keys = root
[handlers]
keys = all
[formatters]
keys = short
[logger_root]
level = INFO
handlers = all
[handler_all]
class = StreamHandler
args = (sys.stderr,)
formatter = short
[formatter_short]
format = %(message)s
"""


@pytest.mark.parametrize('loggers', ['', LOGGERS])
def test_the_log_of_a_site_is_json_if_the_ini_decides_how_it_looks(tmp_path, loggers):
    ini = (hosts.SITE / 'site.ini').read_text() + loggers
    told = 'site.start(); site.bus.log("hello\\nworld"); site.stop()'
    script = f'import sys; sys.stderr = sys.stdout\n{HOST}{told}'
    changes = {'[wspbus:main]': '[wspbus:main]\nlog_format = json'}
    _, text = run(tmp_path, script, ini, **changes)
    made = [json.loads(line) for line in text.splitlines()]
    messages = [one['message'] for one in made]
    assert messages.count('hello\nworld') == 1
    assert 'Bus STARTED' in messages


def test_a_log_whose_lines_the_host_makes_is_one_warning(tmp_path, caplog):
    ini = '[app:main]\nuse = egg:paste_wspbus#hello\n[wspbus:main]\nlog_format = json\n'
    (tmp_path / 'site.ini').write_text(ini)
    host = Host('mine', '1', {'start', 'stop'})
    compose(tmp_path / 'site.ini', host, configure_logging=False)
    (said,) = [one.getMessage() for one in caplog.records]
    assert said.startswith('log_format = json does nothing here, because mine 1 makes')
    assert 'paste_wspbus.plugins.json_log.JsonFormatter' in said


def test_in_a_forked_child_the_parents_site_is_not_stopped(tmp_path):
    fork = """
site.start()
if os.fork() == 0:
    site.stop()
    sys.exit()
os.wait()
print(site.bus.state.name)
"""
    events, text = run(tmp_path, HOST + fork)
    assert text == 'STARTED\n'
    assert events == ['start', 'stop process exit']


def test_a_site_that_does_not_start_answers_no_request(tmp_path):
    ask = """
for _ in range(2):
    try:
        ask()
    except WSPBusError as error:
        print(error)
"""
    changes = {'[plugin:events]': '[plugin:events]\nfail = 1'}
    events, text = run(tmp_path, HOST + ask, **changes)
    said = re.escape(
        f'{tmp_path}/site.ini [plugin:events]: broken failed: RuntimeError: no database, '
        f'at {tmp_path}/hosted.py:'
    )
    for line in text.splitlines():
        assert re.fullmatch(rf'{said}\d+ in raise_at_start\.<locals>\.broken', line)
    assert len(text.splitlines()) == 2
    assert events == ['start', 'stop'] * 2


def test_a_stop_waits_for_requests_in_flight_as_long_as_the_host_says(tmp_path):
    stop = """
site.start()
site.patience = 30
started = threading.Event()
site.bus.subscribe('before_request', lambda environ: started.set())
thread = threading.Thread(target=ask, args=('/?seconds=0.3',))
thread.start()
started.wait()
site.stop()
thread.join()
"""
    events, _ = run(tmp_path, HOST + stop)
    assert events == ['start', 'request open', 'response', 'stop']


def test_who_asks_the_bus_for_an_exit_asks_the_host(tmp_path):
    leave = """
asked = []
site.leave = lambda: asked.append(site.bus.state.name)
site.start()
site.bus.exit(); site.bus.stop(); site.bus.restart()
print(*asked)
site.stop()
print(site.bus.state.name)
"""
    events, text = run(tmp_path, HOST + leave)
    assert text == 'STARTED STARTED STARTED\nEXITING\n'
    assert events == ['start', 'stop']


def test_a_host_that_cannot_restart_refuses_to(tmp_path):
    restart = """
site.start()
try:
    site.bus.restart()
except WSPBusError as error:
    print(error)
"""
    _, text = run(tmp_path, HOST + restart)
    assert (
        text
        == 'Restart refused, the site keeps running: the process belongs to mine 1\n'
    )


# -- the embedded bus ----------------------------------------------------------------------

#: A server that knows of no bus, in the place of the host.
EMBEDDED = """
import os
from paste.deploy import loadapp
from paste_wspbus.errors import WSPBusError
from paste_wspbus.hosts import require

class site:
    app = loadapp('config:site.ini', relative_to=os.getcwd())

""" + HOST.partition("'stop'}))\n")[2]


def test_the_plugins_of_the_ini_ride_the_embedded_bus(tmp_path):
    show = """
ask()
from paste_wspbus.handoff import get_bus
bus = get_bus()
print(bus.host, *sorted(bus.host.capabilities))
print(sorted(bus.plugins))
"""
    events, text = run(tmp_path, EMBEDDED + show)
    assert text.splitlines() == [
        'the embedded bus cluster per-worker start stop',
        "['events', 'requests', 'signals', 'sitelog', 'threads']",
    ]
    assert events == ['start', 'request open', 'response', 'stop process exit']


def test_a_component_may_refuse_the_embedded_bus(tmp_path):
    refuse = """
from paste_wspbus.handoff import get_bus
try:
    require(get_bus(), 'drain', component='mysite.queue')
except WSPBusError as error:
    print(error)
"""
    _, text = run(tmp_path, EMBEDDED + refuse)
    assert text == (
        'mysite.queue cannot run under the embedded bus, which lacks '
        "'drain' ('stop' listeners run after the last request was answered)\n"
    )


def test_the_embedded_site_that_does_not_start_answers_no_request(tmp_path):
    ask = """
try:
    ask()
except WSPBusError as error:
    print(error)
"""
    changes = {'[plugin:events]': '[plugin:events]\nfail = 1'}
    _, text = run(tmp_path, EMBEDDED + ask, **changes)
    assert 'broken failed: RuntimeError: no database, at ' in text.splitlines()[-1]


def test_a_bus_of_the_inis_own_is_the_embedded_one(tmp_path):
    changes = {'[wspbus:main]': '[wspbus:main]\nuse = call:mine:CompanyBus'}
    write(
        tmp_path,
        {
            'mine.py': """
                from paste_wspbus.bus import Bus

                class CompanyBus(Bus):
                    pass
            """
        },
    )
    show = 'from paste_wspbus.handoff import get_bus\nprint(type(get_bus()).__name__)\n'
    assert run(tmp_path, EMBEDDED + show, **changes)[1] == 'CompanyBus\n'


def test_a_wrong_ini_is_told_when_the_application_is_loaded(tmp_path):
    script = """
from paste_wspbus.errors import WSPBusError
from paste.deploy import loadapp
import os
try:
    loadapp('config:site.ini', relative_to=os.getcwd())
except WSPBusError as error:
    print(error)
"""
    changes = {'[wspbus:main]': '[wspbus:main]\nstop_timeuot = 3'}
    _, text = run(tmp_path, script, **changes)
    assert '[wspbus:main] stop_timeuot: unknown key' in text

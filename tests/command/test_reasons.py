"""The log says in one line why a site stops, and who asked for a stop or a restart."""

import os
import signal
import sys

import pytest

from paste_wspbus.unix.users import name_of
from tests.kit import Site, run
from tests.kit.sites import APP, SERVED

MODES = {
    'one process': ([], 'a restart'),
    'workers': (['--workers', '1'], 'a graceful restart'),
}

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith('linux'), reason='Linux names the client (SO_PEERCRED)'
)


def by(process):
    return f'{name_of(os.geteuid())} (PID {process.pid})'


def reasons(site):
    return [line for line in site.err.text.splitlines() if 'Stopping: ' in line]


@pytest.mark.parametrize('mode', MODES)
def test_the_log_names_the_signal_and_the_clients_of_the_site(tmp_path, mode):
    args, wish = MODES[mode]
    files = {'webapp.py': APP}
    with Site(tmp_path, SERVED, '-v', *args, files=files) as site:
        site.send(signal.SIGHUP)
        site.expect(f'Asked for {wish}: SIGHUP')
        if args:
            assert site.out.wait_for('Generation 2 serves'), site.report()
        else:
            site.wait_until_served(2)
        asks = run(tmp_path, 'site.ini', 'graceful')
        assert asks.code == 0, asks.report()
        site.expect(f'Asked for {wish}: `wspserve graceful` by {by(asks)}')
        stops = run(tmp_path, 'site.ini', 'stop')
        assert site.wait() == 0, site.report()
    (line,) = reasons(site)
    assert line.endswith(f'Stopping: `wspserve stop`, asked by {by(stops)}')


@pytest.mark.parametrize('mode', MODES)
def test_the_log_names_the_line_of_the_site_that_calls_exit(tmp_path, mode):
    args, _ = MODES[mode]
    files = {'webapp.py': APP}
    with (
        Site(tmp_path, SERVED, '-v', *args, files=files) as site,
        site.connect() as client,
    ):
        client.send('/bus_exit')
        assert site.wait() == 0, site.report()
    own, *others = reasons(site)
    assert f'Stopping: bus.exit() was called at {tmp_path}/webapp.py:' in own
    if args:
        (of_supervisor,) = others
        assert 'Stopping: Worker 1 (process ' in of_supervisor
    else:
        assert not others


@pytest.mark.parametrize('mode', MODES)
def test_the_log_names_the_first_signal_once(tmp_path, mode):
    args, _ = MODES[mode]
    files = {'webapp.py': APP}
    with Site(tmp_path, SERVED, '-v', *args, files=files) as site:
        code, _, err = site.stop(signal.SIGTERM)
        assert code == 0, site.report()
    (line,) = reasons(site)
    assert line.endswith('Stopping: SIGTERM')
    assert 'Caught signal SIGTERM' not in err


PLUGIN = '[wspbus:main]\nplugins = p\n\n[plugin:p]\nuse = call:webapp:{}\n'

PLUGINS = """

def leaves(bus, global_conf):
    bus.exit()
    yield


def fails_at_stop(bus, global_conf):
    yield
    sys.exit('no licence')
"""


@pytest.mark.parametrize('mode', MODES)
def test_a_start_that_the_site_ends_names_the_line_that_did_it(tmp_path, mode):
    args, _ = MODES[mode]
    files = {'webapp.py': f'import sys\n{APP}{PLUGINS}'}
    files['site.ini'] = PLUGIN.format('leaves') + SERVED
    process = run(tmp_path, 'site.ini', *args, files=files)
    assert process.code == 1, process.report()
    (line,) = process.err.text.splitlines()
    why = (
        'the site was stopped while p was starting: bus.exit() was called at webapp.py:'
    )
    assert why in line


def test_stop_names_the_log_that_says_why_it_failed(tmp_path):
    files = {'webapp.py': f'import sys\n{APP}{PLUGINS}'}
    files['site.ini'] = PLUGIN.format('fails_at_stop') + SERVED
    started = run(tmp_path, 'site.ini', 'start', files=files)
    assert started.code == 0, started.report()
    stopped = run(tmp_path, 'site.ini', 'stop')
    assert stopped.code == 1, stopped.report()
    log = tmp_path / 'paster.log'
    assert stopped.out.text.endswith(f'(exit code 1): see {log}.\n')
    place = f', at {tmp_path}/webapp.py:'
    assert f"listener p called sys.exit('no licence'){place}" in log.read_text()


#: The ways to run a site whose standard error is a pipe, as in a container.
CONTAINERS = {
    'one process': [],
    'workers': ['--workers', '2'],
    'reload': ['--reload'],
    'execv': ['--reload', '--reloader=execv'],
}


@pytest.mark.parametrize('mode', CONTAINERS)
def test_without_a_terminal_one_line_says_why_the_site_stops(tmp_path, mode):
    with Site(tmp_path, SERVED, *CONTAINERS[mode], files={'webapp.py': APP}) as site:
        code, _, err = site.stop()
        assert code == 0, site.report()
    assert [line for line in err.splitlines() if 'waitress.queue' not in line] == [
        'INFO  [paste_wspbus] Stopping: SIGTERM'
    ]


def test_without_a_terminal_the_worker_names_the_code_that_has_asked(tmp_path):
    with (
        Site(tmp_path, SERVED, '--workers', '1', files={'webapp.py': APP}) as site,
        site.connect() as client,
    ):
        client.send('/bus_exit')
        assert site.wait() == 0, site.report()
    own, of_supervisor = reasons(site)
    assert f'Stopping: bus.exit() was called at {tmp_path}/webapp.py:' in own
    assert 'Stopping: Worker 1 (process ' in of_supervisor


@pytest.mark.parametrize('mode', MODES)
def test_the_log_of_a_daemon_says_why_the_site_stops(tmp_path, mode):
    args = ['site.ini', '--pid-file', 'site.pid']
    files = {'webapp.py': APP, 'site.ini': SERVED}
    more = ['start', '--log-file', 'site.log', *MODES[mode][0]]
    started = run(tmp_path, *args, *more, files=files)
    assert started.code == 0, started.report()
    stops = run(tmp_path, *args, 'stop')
    assert stops.code == 0, stops.report()
    said = (tmp_path / 'site.log').read_text()
    assert said.count('Stopping: ') == 1
    assert f'Stopping: `wspserve stop`, asked by {by(stops)}\n' in said
    assert 'Bus ' not in said

"""site_plugins: what runs once per site, however many workers, in a process of its own."""

import os
import signal
from pathlib import Path

import pytest

from tests.kit import Site, eventually, is_free, run
from tests.kit.clients import Clients
from tests.kit.processes import children, has_ended, processes_of_session
from tests.kit.sites import APP, SERVED, ask
from tests.kit.supervised import (
    graceful,
    has_cleaned_up,
    impatient_command,
    life,
    stop,
    story,
    wait_for,
    workers,
)

PARTS = """
import fcntl
import sys

note('imported')


def wait_for_release(environ):
    say('waiting')
    with open('released') as released:
        released.read()


PAGES['/wait'] = wait_for_release


def make(global_conf):
    note('app')
    obey('at_app')
    return app


class Cron:
    '''Two of these at the same time fail.'''

    def __init__(self, bus, global_conf):
        note('composed')
        obey('at_composition')
        self.bus = bus
        bus.subscribe('resized', lambda: say(f'resized {os.getpid()}'))

    def subscribe(self):
        self.bus.lifespan(self.run, name='cron')

    def run(self):
        self.lock = open('lock', 'w')
        fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        obey('at_start')
        note('started')
        self.bus.log('cron runs', 30)
        watch(self.bus)
        yield 'cron'
        obey('at_stop')
        note('stopped')
        self.lock.close()


def watch(bus):
    '''Do what comes through a pipe.'''

    def run():
        while True:
            with open('orders') as orders:
                exec(orders.read(), {'bus': bus, **globals()})

    if os.path.exists('orders'):
        threading.Thread(target=run, daemon=True).start()


def resource(bus, global_conf):
    obey('at_worker_start')
    note('opened')
    yield
    note('closed')


def other(bus, global_conf):
    note('other')
    yield
"""

INI = (
    SERVED
    + """
[wspbus:main]
soak = 0
workers = 2
plugins = resource
site_plugins = cron
signal.SIGWINCH = resized

[plugin:resource]
use = call:webapp:resource

[plugin:cron]
use = call:webapp:Cron

[plugin:other]
use = call:webapp:other
"""
)

FILES = {'webapp.py': APP + PARTS, 'site.ini': INI}
SLOW_START = INI.replace('workers = 2', 'workers = 2\nstart_timeout = 1')
SLOW_STOP = INI.replace('workers = 2', 'workers = 2\nstop_timeout = 1')
WITHOUT = INI.replace('site_plugins = cron\n', '')


def served(folder, *args, ini=INI, files=None, **kwargs):
    files = {**FILES, 'site.ini': ini, **(files or {})}
    args = ['site.ini', '--pid-file', 'site.pid', *args]
    return Site(folder, None, *args, files=files, **kwargs)


def impatient(folder, *args, backoff=(0, 0.1), healthy=60, **kwargs):
    """The same, which does not wait so long before a restart."""
    return served(
        folder, *args, command=impatient_command(folder, backoff, healthy), **kwargs
    )


def order(site, text):
    """Have the site plugin do something, in a thread."""
    with open(site.folder / 'orders', 'w') as orders:
        orders.write(text)


# -- once ------------------------------------------------------------------------------


@pytest.mark.parametrize('count', [1, 2, 3])
def test_a_site_plugin_runs_once_in_a_process_of_its_own(tmp_path, count):
    with served(tmp_path, '--workers', str(count)) as site:
        (cron,) = life(tmp_path, 'started')
        assert cron not in workers(site)
        assert cron in children(site.pid)
        assert sorted(life(tmp_path, 'app')) == sorted(workers(site))
        assert sorted(life(tmp_path, 'opened')) == sorted(workers(site))
        assert life(tmp_path, 'composed') == [cron]
        assert {ask(site)['pid'] for _ in range(20)} <= set(workers(site))
        stop(site)
    assert life(tmp_path, 'started', 'stopped') == [cron, cron]


def test_its_process_does_not_have_the_listening_socket(tmp_path):
    with served(tmp_path) as site:
        (cron,) = life(tmp_path, 'started')
        sockets = listening(site.port)
        assert sockets & descriptors(workers(site)[0])
        assert not sockets & descriptors(cron)
        stop(site)


def listening(port):
    """The sockets that listen on a port, as /proc calls them."""
    lines = Path('/proc/net/tcp').read_text().splitlines()[1:]
    words = [line.split() for line in lines]
    return {
        f'socket:[{one[9]}]'
        for one in words
        if one[3] == '0A' and int(one[1].rpartition(':')[2], 16) == port
    }


def descriptors(pid):
    folder = f'/proc/{pid}/fd'
    return {os.readlink(f'{folder}/{fd}') for fd in os.listdir(folder)}


def test_it_starts_before_the_workers_and_stops_after_them(tmp_path):
    with served(tmp_path) as site:
        stop(site)
    parts = story(tmp_path, 'started', 'opened', 'closed', 'stopped')
    assert parts == ['started', 'opened', 'opened', 'closed', 'closed', 'stopped']


def test_it_stops_after_the_requests_in_flight(tmp_path):
    os.mkfifo(tmp_path / 'released')
    with served(tmp_path) as site, site.connect() as client:
        client.send('/wait')
        site.expect('waiting')
        site.send(signal.SIGTERM)
        eventually(lambda: 'closed' in story(tmp_path, 'closed'))  # the other worker
        assert life(tmp_path, 'stopped') == []
        with open(tmp_path / 'released', 'w'):
            pass
        assert client.receive().status == 200
        assert site.wait() == 0
    assert story(tmp_path, 'closed', 'stopped')[-1] == 'stopped'


def test_its_bus_tells_its_name_and_gets_signals(tmp_path):
    with served(tmp_path, '-v') as site:
        site.expect('[site plugins] [paste_wspbus.siteplugins] cron runs')
        (cron,) = life(tmp_path, 'started')
        site.send(signal.SIGWINCH)
        site.expect(f'resized {cron}\n')
        stop(site)
    assert site.err.text.count('resized') == 1


def test_one_process_runs_both_kinds_of_plugins_where_there_are_no_workers(tmp_path):
    with served(tmp_path, '--workers', '0') as site:
        pids = life(tmp_path, 'started', 'opened', 'app')
        assert pids == [site.pid] * 3
        stop(site)
    parts = story(tmp_path, 'started', 'opened', 'closed', 'stopped')
    assert parts == ['started', 'opened', 'closed', 'stopped']


def test_one_process_that_is_kept_alive_runs_both_kinds(tmp_path):
    with served(tmp_path, '--workers', '0', '--monitor-restart') as site:
        (child,) = children(site.pid)
        assert life(tmp_path, 'started', 'opened') == [child, child]
        site.send(signal.SIGTERM)
        assert site.wait() == 0
    assert life(tmp_path, 'closed', 'stopped') == [child, child]


# -- a start that fails ----------------------------------------------------------------


@pytest.mark.parametrize('when', ['at_composition', 'at_start'])
def test_a_site_plugin_that_fails_is_told_once_and_nothing_is_left(tmp_path, when):
    files = {when: "raise RuntimeError('no clock')"}
    with served(tmp_path, files=files, wait=False) as site:
        assert site.wait() == 1
        assert processes_of_session(site.pid) == []
    assert site.err.text.count('no clock') == 1
    assert len(site.err.text.splitlines()) == 1
    assert '[plugin:cron]' in site.err.text
    assert life(tmp_path, 'opened', 'app') == []
    assert not (tmp_path / 'site.pid').exists()


def test_a_site_plugin_that_hangs_at_its_start_is_given_up(tmp_path):
    files = {'at_start': 'threading.Event().wait()'}
    with served(tmp_path, ini=SLOW_START, files=files, wait=False) as site:
        assert site.wait() == 1
        assert processes_of_session(site.pid) == []
    assert life(tmp_path, 'opened') == []


def test_workers_that_fail_stop_the_site_plugin(tmp_path):
    files = {'at_worker_start': "raise RuntimeError('no database')"}
    with served(tmp_path, files=files, wait=False) as site:
        assert site.wait() == 1
        assert processes_of_session(site.pid) == []
    assert site.err.text.count('no database') == 1
    assert story(tmp_path, 'started', 'stopped') == ['started', 'stopped']


WRONG = {
    'in both': (
        'site_plugins = cron resource',
        'the plugin resource is also listed in plugins: to have it in both, write a '
        'second section',
    ),
    'cluster': (
        'site_plugins = cron\ncluster_plugins = cron',
        'the plugin cron is also listed in site_plugins',
    ),
    'unknown': ('site_plugins = crom', "[plugin:crom]; did you mean 'cron'?"),
    'twice': ('site_plugins = cron cron', 'the plugin cron is listed twice'),
}


@pytest.mark.parametrize('check', [[], ['--check']], ids=['serve', 'check'])
@pytest.mark.parametrize('case', WRONG)
def test_a_wrong_name_is_told_in_one_line(tmp_path, case, check):
    text, told = WRONG[case]
    files = {**FILES, 'site.ini': INI.replace('site_plugins = cron', text)}
    attempt = run(tmp_path, 'site.ini', *check, files=files)
    assert attempt.code == 2
    (line,) = attempt.err.text.splitlines()
    assert told in line
    assert 'site.ini [wspbus:main]' in line
    assert 'site_plugins' in line
    assert not (tmp_path / 'life').exists()


def test_check_knows_site_plugins(tmp_path):
    checked = run(tmp_path, 'site.ini', '--check', files=FILES)
    assert checked.code == 0, checked.report()
    broken = INI.replace('call:webapp:Cron', 'call:webapp')
    checked = run(tmp_path, 'site.ini', '--check', files={**FILES, 'site.ini': broken})
    assert 'plugin:cron' in checked.out.text + checked.err.text


# -- a graceful restart ----------------------------------------------------------------


def test_the_old_one_stops_before_the_new_one_starts(tmp_path):
    with served(tmp_path) as site, Clients(site) as clients:
        for count in (2, 3):
            old = life(tmp_path, 'started')[-1]
            graceful(site)
            new = life(tmp_path, 'started')[-1]
            assert len(life(tmp_path, 'started')) == count
            assert new != old
            assert has_ended(old)
            eventually(lambda: len(processes_of_session(site.pid)) == 4)
        clients.stop()
        assert clients.failures == []
        stop(site)
    # Composed before anything changed, started when all workers were replaced.
    parts = story(tmp_path, 'composed', 'opened', 'closed', 'started', 'stopped')
    assert parts[:3] == ['composed', 'started', 'opened']
    assert parts[4:11] == [
        'composed',
        *['opened', 'closed'] * 2,
        'stopped',
        'started',
    ]
    assert 'crashed' not in site.err.text


def test_a_site_plugin_that_cannot_be_composed_changes_nothing(tmp_path):
    with served(tmp_path) as site:
        before = life(tmp_path, 'started', 'opened')
        (tmp_path / 'at_composition').write_text("raise RuntimeError('no clock')")
        assert 'no clock' in graceful(site, code=1)
        assert life(tmp_path, 'started', 'opened') == before
        assert life(tmp_path, 'stopped', 'closed') == []
        assert set(before) | {site.pid} == set(processes_of_session(site.pid))
        (tmp_path / 'at_composition').unlink()
        graceful(site)
        assert len(life(tmp_path, 'started')) == 2
        stop(site)


def test_a_generation_that_fails_leaves_the_old_site_plugin(tmp_path):
    with served(tmp_path) as site:
        (cron,) = life(tmp_path, 'started')
        (tmp_path / 'at_worker_start').write_text("raise RuntimeError('no database')")
        assert 'no database' in graceful(site, code=1)
        assert life(tmp_path, 'started') == [cron]
        assert life(tmp_path, 'stopped') == []
        eventually(lambda: len(processes_of_session(site.pid)) == 4)
        assert not has_ended(cron)
        stop(site)


def test_a_new_site_plugin_that_does_not_start_is_told_and_tried_again(tmp_path):
    with impatient(tmp_path) as site:
        (tmp_path / 'at_start').write_text("raise RuntimeError('no clock')")
        assert 'no clock' in graceful(site, code=1)
        site.expect('restarting in 0.1 s')
        assert ask(site)['pid'] in workers_now(site)
        (tmp_path / 'at_start').unlink()
        cron = wait_for(tmp_path, 'started', 2)
        eventually(lambda: len(processes_of_session(site.pid)) == 4)
        assert not has_ended(cron)
        stop(site)


def workers_now(site):
    return life(site.folder, 'opened')[-2:]


def test_site_plugins_come_and_go_with_the_ini(tmp_path):
    with served(tmp_path, ini=WITHOUT) as site:
        assert len(processes_of_session(site.pid)) == 3
        (tmp_path / 'site.ini').write_text(INI)
        graceful(site)
        (cron,) = life(tmp_path, 'started')
        assert not has_ended(cron)
        (tmp_path / 'site.ini').write_text(INI.replace('cron\n', 'cron other\n', 1))
        graceful(site)
        assert len(life(tmp_path, 'started')) == 2
        assert life(tmp_path, 'other') == life(tmp_path, 'started')[1:]
        (tmp_path / 'site.ini').write_text(WITHOUT)
        graceful(site)
        assert len(life(tmp_path, 'stopped')) == 2
        eventually(lambda: len(processes_of_session(site.pid)) == 3)
        stop(site)


def test_a_site_plugin_that_is_not_wanted_any_more_is_not_restarted(tmp_path):
    with impatient(tmp_path, backoff=(0, 1)) as site:
        # Its replacement is to wait when the .ini has no use for it any more.
        (tmp_path / 'at_start').write_text('os._exit(3)')
        os.kill(life(tmp_path, 'started')[0], signal.SIGKILL)
        site.expect('restarting in 1 s')
        (tmp_path / 'site.ini').write_text(WITHOUT)
        graceful(site)
        # One that is wanted, and waits for as long.
        (tmp_path / 'at_worker_start').write_text('os._exit(3)')
        os.kill(workers_now(site)[0], signal.SIGKILL)
        site.expect('restarting in 1 s', 2)
        (tmp_path / 'at_worker_start').unlink()
        wait_for(tmp_path, 'opened', 5)
        assert len(processes_of_session(site.pid)) == 3
        stop(site)


def test_a_stop_while_the_old_one_stops_starts_no_new_one(tmp_path):
    os.mkfifo(tmp_path / 'stop_gate')
    with served(tmp_path) as site:
        (tmp_path / 'at_stop').write_text(
            "say('stopping')\nopen('stop_gate').close()\n"
        )
        site.send(signal.SIGHUP)
        site.expect('stopping')
        site.send(signal.SIGTERM)
        with open(tmp_path / 'stop_gate', 'w'):
            pass
        assert site.wait() == 0, site.report()
        assert has_cleaned_up(site, zombies=True)
    assert len(life(tmp_path, 'started')) == len(life(tmp_path, 'stopped')) == 1


def test_a_hanging_stop_does_not_keep_the_next_one_away(tmp_path):
    with served(tmp_path, ini=SLOW_STOP) as site:
        (tmp_path / 'at_stop').write_text('threading.Event().wait()')
        graceful(site)
        assert len(life(tmp_path, 'started')) == 2
        (tmp_path / 'at_stop').unlink()
        stop(site)


# -- crashes ---------------------------------------------------------------------------


def test_a_site_plugin_that_dies_is_replaced(tmp_path):
    with served(tmp_path) as site:
        for count in (2, 3):
            cron = life(tmp_path, 'started')[-1]
            os.kill(cron, signal.SIGKILL)
            wait_for(tmp_path, 'started', count)
            site.expect(f'The process of the site plugins (process {cron}) ')
        site.expect('crashed, signal SIGKILL; restarting\n')
        assert sorted(life(tmp_path, 'opened')) == sorted(workers(site))
        stop(site)


def test_a_site_plugin_that_dies_again_and_again_waits_while_the_workers_serve(
    tmp_path,
):
    with impatient(tmp_path) as site:
        (tmp_path / 'at_start').write_text('os._exit(3)')
        os.kill(life(tmp_path, 'started')[0], signal.SIGKILL)
        site.expect('restarting in 0.1 s. Crash loop: 3 crashes')
        assert ask(site)['pid'] in workers(site)
        (tmp_path / 'at_start').unlink()
        wait_for(tmp_path, 'started', 2)
        assert sorted(life(tmp_path, 'opened')) == sorted(workers(site))
        stop(site)
    assert 'gives up' not in site.err.text


def test_an_exit_of_its_bus_stops_the_site(tmp_path):
    os.mkfifo(tmp_path / 'orders')
    with served(tmp_path) as site:
        order(site, 'bus.exit()')
        assert site.wait() == 0, site.report()
        assert has_cleaned_up(site, zombies=True)
    assert story(tmp_path, 'closed', 'stopped') == ['closed', 'closed', 'stopped']


def test_a_restart_of_its_bus_replaces_all_processes(tmp_path):
    os.mkfifo(tmp_path / 'orders')
    with served(tmp_path) as site:
        (old,) = life(tmp_path, 'started')
        order(site, 'bus.restart()')
        assert wait_for(tmp_path, 'started', 2) != old
        assert len(life(tmp_path, 'opened')) == 4
        eventually(lambda: len(processes_of_session(site.pid)) == 4)
        stop(site)
    assert 'crashed' not in site.err.text


def test_sigterm_to_it_alone_is_followed_by_another(tmp_path):
    with served(tmp_path) as site:
        (old,) = life(tmp_path, 'started')
        os.kill(old, signal.SIGTERM)
        new = wait_for(tmp_path, 'started', 2)
        assert new != old
        eventually(lambda: has_ended(old))
        eventually(lambda: len(processes_of_session(site.pid)) == 4)
        os.kill(new, signal.SIGKILL)  # it is looked after
        wait_for(tmp_path, 'started', 3)
        stop(site)
    assert story(tmp_path, 'started', 'stopped')[:3] == [
        'started',
        'stopped',
        'started',
    ]


# -- the end ---------------------------------------------------------------------------


def test_it_stops_when_the_supervisor_was_killed(tmp_path):
    with served(tmp_path) as site:
        site.send(signal.SIGKILL)
        site.wait()
        eventually(lambda: not processes_of_session(site.pid))
        assert is_free(site.port)
    assert len(life(tmp_path, 'stopped')) == 1
    assert len(life(tmp_path, 'closed')) == 2


def test_one_that_waits_for_its_turn_ends_when_the_supervisor_was_killed(tmp_path):
    os.mkfifo(tmp_path / 'stop_gate')
    with served(tmp_path) as site:
        (tmp_path / 'at_stop').write_text(
            "say('stopping')\nopen('stop_gate').close()\n"
        )
        site.send(signal.SIGHUP)
        site.expect('stopping')
        site.send(signal.SIGKILL)
        with open(tmp_path / 'stop_gate', 'w'):
            pass
        site.wait()
        eventually(lambda: not processes_of_session(site.pid))
    assert len(life(tmp_path, 'started')) == 1


def test_one_that_hangs_at_its_stop_is_forced_out(tmp_path):
    with served(tmp_path, ini=SLOW_STOP) as site:
        (tmp_path / 'at_stop').write_text('threading.Event().wait()')
        stop(site, code=70)
    assert len(life(tmp_path, 'closed')) == 2


@pytest.mark.parametrize(
    'signum', [signal.SIGTERM, signal.SIGINT], ids=lambda one: one.name
)
def test_a_signal_to_all_processes_stops_them_once(tmp_path, signum):
    with served(tmp_path) as site:
        os.killpg(site.pid, signum)
        assert site.wait() == 0, site.report()
        assert has_cleaned_up(site, zombies=True)
    assert len(life(tmp_path, 'started')) == len(life(tmp_path, 'stopped')) == 1
    assert 'Traceback' not in site.err.text


# -- with preload ----------------------------------------------------------------------

PRELOAD = INI.replace('workers = 2', 'workers = 2\npreload = true')


def test_site_plugins_together_with_preload(tmp_path):
    with served(tmp_path, ini=PRELOAD) as site:
        (cron,), (one,) = life(tmp_path, 'started'), life(tmp_path, 'app')
        assert sorted(children(site.pid)) == sorted([cron, one])
        assert sorted(children(one)) == sorted(workers(site))
        graceful(site)
        assert len(life(tmp_path, 'started')) == len(life(tmp_path, 'app')) == 2
        eventually(lambda: len(processes_of_session(site.pid)) == 5)
        os.kill(life(tmp_path, 'started')[-1], signal.SIGKILL)
        wait_for(tmp_path, 'started', 3)
        os.kill(workers_now(site)[0], signal.SIGKILL)
        wait_for(tmp_path, 'opened', 5)
        assert len(life(tmp_path, 'app')) == 2
        stop(site)


def test_a_site_plugin_that_does_not_start_leaves_no_old_process_behind(tmp_path):
    with impatient(tmp_path, ini=PRELOAD) as site:
        (old,) = life(tmp_path, 'app')
        (tmp_path / 'at_start').write_text("raise RuntimeError('no clock')")
        assert 'no clock' in graceful(site, code=1)
        (tmp_path / 'at_start').unlink()
        wait_for(tmp_path, 'started', 2)
        graceful(site)
        eventually(lambda: len(processes_of_session(site.pid)) == 5)
        assert has_ended(old)
        stop(site)

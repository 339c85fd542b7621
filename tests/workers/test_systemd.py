"""What systemd is told of several workers."""

import contextlib
import os
import signal
import sys

import pytest

from tests.kit import eventually
from tests.kit.systemd import states
from tests.kit.workers import AT_GATE, ONE_ONLY, Workers, open_gate, set_up


def test_systemd_is_told_when_the_whole_first_generation_is_ready(tmp_path, manager):
    set_up(tmp_path, at_start=ONE_ONLY % AT_GATE)
    env = {'NOTIFY_SOCKET': manager.address}
    with Workers(tmp_path, env=env, wait=False) as site:
        site.expect('composing')
        site.expect('opened', 2)
        eventually(lambda: site.status()['state'] == 'STARTING')
        assert states(manager.pending()) == []
        open_gate(tmp_path)
        ready = manager.until(READY='1')[-1]
        assert ready['MAINPID'] == str(site.pid)
        assert site.url if site.wait_until_served() else True
        assert site.stop()[0] == 0
    assert states(manager.pending()) == ['STOPPING']


@pytest.mark.parametrize('is_broken', [False, True])
def test_systemd_is_told_of_a_graceful_restart(tmp_path, manager, is_broken):
    with Workers(tmp_path, env={'NOTIFY_SOCKET': manager.address}) as site:
        manager.until(READY='1')
        if is_broken:
            set_up(tmp_path, at_composition="raise RuntimeError('it is broken')")
        assert (site.run('graceful').code != 0) == is_broken
        manager.until(RELOADING='1')
        ready = manager.until(READY='1')
        assert states(ready) == ['READY']
        assert ready[-1]['STATUS'].startswith(f'Serving on {site.url}')
        assert ('the last reload failed: ' in ready[-1]['STATUS']) == is_broken
        assert ('it is broken' in ready[-1]['STATUS']) == is_broken
        assert states(manager.pending()) == []
        assert site.stop()[0] == 0
    assert states(manager.pending()) == ['STOPPING']


def test_systemd_is_asked_for_time_while_a_worker_starts(tmp_path, manager):
    set_up(tmp_path, at_composition=AT_GATE)
    env = {'NOTIFY_SOCKET': manager.address}
    with Workers(tmp_path, env=env, wait=False) as site:
        site.expect('composing', 2)
        while 'EXTEND_TIMEOUT_USEC' not in manager.receive():
            pass
        open_gate(tmp_path)
        site.wait_until_served()
        assert site.stop()[0] == 0


#: A command whose supervisor looks at what STATUS= says all the time, and for which a
#: crash is old after two seconds.
RESTLESS = """
import sys
from paste_wspbus.command.main import main
from paste_wspbus.plugins.systemd import SystemdNotifier
from paste_wspbus.workers import crashes
SystemdNotifier.status_every, crashes.MINUTE = 0.1, 2.0
sys.exit(main(owns_process=True))
"""


def restless(folder, manager):
    (folder / 'restless.py').write_text(RESTLESS)
    command = [sys.executable, 'restless.py']
    return Workers(folder, command=command, env={'NOTIFY_SOCKET': manager.address})


def until_status(manager, text):
    """Wait for a STATUS= with this text; return it."""
    while text not in (told := manager.receive().get('STATUS', '')):
        pass
    return told


def test_systemd_is_told_what_is_in_flight_in_the_workers(tmp_path, manager):
    with restless(tmp_path, manager) as site, contextlib.ExitStack() as stack:
        ready = manager.until(READY='1')[-1]
        assert ready['STATUS'] == f'Serving on {site.url}'
        clients = site.wait_in_all(stack)
        told = until_status(manager, 'in flight: 2')
        assert told == f'Serving on {site.url}; requests in flight: 2'
        site.release()
        for client in clients.values():
            assert client.receive().status == 200
        manager.until(STATUS=f'Serving on {site.url}')
        assert site.stop()[0] == 0


def test_systemd_is_told_of_a_crash_loop_and_of_its_end(tmp_path, manager):
    with restless(tmp_path, manager) as site:
        manager.until(READY='1')
        for count in range(3):
            eventually(lambda: [w['state'] for w in site.workers()] == ['ready'] * 2)
            os.kill(site.pids()[1], signal.SIGSEGV)
            site.expect('crashed, signal SIGSEGV', count + 1)
        told = until_status(manager, 'crash loop')
        assert (
            'crashes in the last minute, the last one of worker 2: signal SIG' in told
        )
        manager.until(STATUS=f'Serving on {site.url}')
        assert site.stop()[0] == 0


def test_systemd_is_told_that_a_reload_of_one_process_is_refused(tmp_path, manager):
    env = {'NOTIFY_SOCKET': manager.address}
    with Workers(tmp_path, count=None, env=env) as site:
        manager.until(READY='1')
        (tmp_path / 'site.ini').rename(tmp_path / 'other.ini')
        site.send(signal.SIGHUP)
        told = manager.until(READY='1')
        assert states(told) == ['RELOADING', 'READY']
        assert told[0]['MONOTONIC_USEC'].isdigit()
        assert 'the last reload failed: ' in told[-1]['STATUS']
        assert 'site.ini is gone' in told[-1]['STATUS']
        assert site.stop()[0] == 0

"""What systemd is told of several workers."""

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

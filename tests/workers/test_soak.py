"""The soak: the first new worker serves beside all old ones before the first of them stops."""

import os
import signal

import pytest

from tests.kit import eventually
from tests.kit.processes import children, freeze
from tests.kit.sites import ask
from tests.kit.supervised import has_cleaned_up, notes
from tests.kit.workers import FILES, INI, Workers, set_up

#: A soak that only another request ends.
LONG = {**FILES, 'site.ini': INI.replace('soak = 0', 'soak = 10m')}
ENDS = 'threading.Timer(0.1, os.%s).start()'


def soak(site):
    """Wait for a soak; return the process that is in it."""
    eventually(lambda: site.status()['soak'])
    return site.status()['soak']['pid']


def test_the_new_worker_serves_beside_all_old_ones_until_somebody_hurries(tmp_path):
    with Workers(tmp_path, files=LONG) as site:
        old = site.pids()
        site.deploy(2)
        with site.begin('graceful') as told:
            new = soak(site)
            assert sorted(children(site.pid)) == sorted([*old, new])
            assert {one['state'] for one in site.workers()} == {'ready'}
            freeze(old[0]), freeze(old[1])
            assert ask(site)['pid'] == new
            for pid in old:
                os.kill(pid, signal.SIGCONT)
            shown = site.run('status').out.text
            assert 'Worker 1 of generation 2 serves beside the old workers' in shown
            assert site.says('draining') == []
            site.deploy(3)
            assert site.run('graceful', '--no-soak').code == 0
            assert told.wait() == 0, told.report()
        assert told.out.text == f'Generation 2 serves (process {site.pid}).\n'
        assert site.versions() == {'3'}
        assert site.stop()[0] == 0


@pytest.mark.parametrize('preload', ['false', 'true'])
def test_if_the_new_worker_dies_the_old_ones_are_all_there(tmp_path, preload):
    ini = INI.replace('soak = 0', f'soak = 10m\npreload = {preload}')
    with Workers(tmp_path, count=1, files={**FILES, 'site.ini': ini}) as site:
        old = site.pids()
        set_up(tmp_path, at_start=ENDS % '_exit, [3]')
        told = site.run('graceful')
        assert told.code == 1
        assert 'generation 1 keeps serving: Worker 1 (process ' in told.err.text
        assert 'crashed, exit code 3, ' in told.err.text
        assert set(old) <= set(site.pids())
        assert site.says('draining') == []
        assert ask(site)['pid'] in old
        assert site.status()['crash_loop'] is None
        assert site.stop()[0] == 0
        assert has_cleaned_up(site)


def test_a_new_worker_that_is_asked_to_stop_fails_its_generation(tmp_path):
    with Workers(tmp_path, files=LONG) as site:
        old = site.pids()
        with site.begin('graceful') as told:
            os.kill(soak(site), signal.SIGTERM)
            assert told.wait() == 1, told.report()
        assert 'was asked to stop, ' in told.err.text
        eventually(lambda: sorted(children(site.pid)) == sorted(old))
        assert site.stop()[0] == 0


def test_a_new_worker_that_would_stop_the_site_fails_its_generation(tmp_path):
    with Workers(tmp_path, files=LONG) as site:
        old = site.pids()
        exits = "sys._getframe(2).f_locals['bus'].exit"  # of the lifespan that obeys
        set_up(tmp_path, at_start=f'threading.Timer(0.1, {exits}).start()')
        told = site.run('graceful')
        assert told.code == 1
        assert 'has asked for a stop of the site, ' in told.err.text
        eventually(lambda: sorted(children(site.pid)) == sorted(old))
        assert ask(site)['pid'] in old
        assert site.stop()[0] == 0


def test_a_second_sighup_ends_a_soak_and_a_stop_does_not_wait_for_one(tmp_path):
    with Workers(tmp_path, files=LONG) as site:
        site.send(signal.SIGHUP)
        soak(site)
        site.send(signal.SIGHUP)
        eventually(lambda: site.status()['generation'] == 2)
        soak(site)
        assert site.stop()[0] == 0
        assert has_cleaned_up(site)
    assert len(notes(tmp_path, {'imported'})) == 5


def test_the_ini_that_is_new_says_how_long(tmp_path):
    with Workers(tmp_path, files=LONG) as site:
        site.change(('soak = 10m', 'soak = 10ms'))
        site.graceful()
        assert site.stop()[0] == 0

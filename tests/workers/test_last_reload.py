"""What `status` says of the last reload: who asked for it, and how it ended."""

import json
import signal

from tests.kit import eventually, run
from tests.kit.reloading import Edited, stop, webapp
from tests.kit.workers import Workers, set_up


def last(site):
    return site.status()['last_reload']


def has_ended(site):
    told = last(site)
    return told is not None and told['outcome'] != 'in progress'


def test_status_says_who_asked_for_a_graceful_restart_and_how_it_ended(tmp_path):
    with Workers(tmp_path) as site:
        assert last(site) is None
        command = site.run('graceful')
        told = last(site)
        assert told['asked_by'].startswith('`wspserve graceful` by ')
        assert f'(PID {command.pid})' in told['asked_by']
        assert (told['outcome'], told['generation']) == ('served', 2)
        assert 0 < told['took'] <= told['age'] + told['took']
        set_up(tmp_path, at_composition="raise RuntimeError('it is broken')")
        site.send(signal.SIGHUP)
        site.expect('Generation 3 failed')
        eventually(lambda: has_ended(site) and last(site)['outcome'] == 'failed')
        told = last(site)
        assert (told['asked_by'], told['generation']) == ('signal SIGHUP', 2)
        assert 'it is broken' in told['reason']
        outcomes = [one['outcome'] for one in site.status()['reloads']]
        assert outcomes == ['failed', 'served']
        shown = ' '.join(site.run('status').out.text.split())
        assert 'by signal SIGHUP, failed after' in shown
        assert 'it is broken' in shown
        assert site.stop()[0] == 0


def test_one_process_which_restarts_in_place(tmp_path):
    with Workers(tmp_path, count=None) as site:
        assert last(site) is None
        site.send(signal.SIGHUP)
        site.wait_until_served(2)
        told = last(site)
        assert (told['asked_by'], told['outcome']) == ('signal SIGHUP', 'served')
        assert told['took'] > 0
        (tmp_path / 'site.ini').rename(tmp_path / 'other.ini')
        site.send(signal.SIGHUP)
        site.expect('site.ini is gone')
        eventually(lambda: last(site)['outcome'] == 'failed')
        assert 'site.ini is gone' in last(site)['reason']
        assert site.stop()[0] == 0


def status_of(site):
    told = run(site.folder, 'site.ini', 'status', '--json')
    return json.loads(told.out.text)


def test_under_reload_the_change_has_asked_for_it(tmp_path):
    for reloader in ('fork', 'execv'):
        folder = tmp_path / reloader
        folder.mkdir()
        with Edited(folder, '--reloader', reloader) as site:
            site.edit('the second')
            site.expect('served in')
            told = status_of(site)['last_reload']
            assert told['asked_by'] == 'a change of webapp.py'
            assert (told['outcome'], told['reason']) == ('served', None)
            site.save(webapp('broken', top='1 / 0'))
            site.until_broken('division by zero')
            site.expect('the site cannot be served')
            told = status_of(site)['last_reload']
            assert told['outcome'] == 'failed'
            assert 'division by zero' in told['reason']
            stop(site)

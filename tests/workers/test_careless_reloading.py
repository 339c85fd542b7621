"""--reload in the hands of somebody who is careless, in a hurry, or unlucky."""

import os
import signal
import threading

import pytest

from tests.kit import free_port, is_free
from tests.kit.reloading import INI, RELOADERS, Edited, stop, webapp
from tests.kit.supervised import UNKNOWN_SERVER

# -- one reload after another ----------------------------------------------------------

SLOW_STOP = INI.replace(
    '[server:main]',
    """
[wspbus:main]
plugins = slow

[plugin:slow]
use = call:slow:slow

[server:main]""",
)

SLOW = """
import time

def slow(bus, global_conf):
    yield
    time.sleep(0.8)
"""


def test_a_worker_that_begins_anew_is_not_killed_for_the_stop_that_is_over(tmp_path):
    """The next stop is under way when the time of the one before runs out."""
    args = '--reloader', 'execv', '--workers', '1'
    files = {'slow.py': SLOW}
    with Edited(tmp_path, *args, ini=SLOW_STOP, files=files) as site:
        pids = {site.edit(text)['pid'] for text in ('two', 'three', 'four', 'five')}
        assert pids == {site.until('five')['pid']}, site.report()
        assert 'does not stop' not in stop(site)


def test_an_edit_during_a_reload_begins_it_again_and_that_is_all(tmp_path):
    """Another reload followed, which nobody had 'asked for'."""
    with Edited(tmp_path) as site:
        site.settle()
        for count in range(1, 4):
            site.save(
                webapp(f'{count}a', body="print('begun', flush=True); time.sleep(.3)")
            )
            assert site.out.wait_for('begun', count)
            site.edit(f'{count}b')
            site.expect('webapp.py has changed\nserved in', count)
        assert 'asked for' not in stop(site)


# -- what fails ------------------------------------------------------------------------


@pytest.mark.parametrize('workers', ['1', '2'])
@pytest.mark.parametrize('reloader', RELOADERS)
def test_workers_that_fail_heal_however_they_are_restarted(tmp_path, reloader, workers):
    """With execv, the page stayed for ever."""
    with Edited(tmp_path, '--reloader', reloader, '--workers', workers) as site:
        site.save('1 / 0\n')
        site.until_broken('ZeroDivisionError')
        site.edit('two')
        site.expect('served in')
        site.save('import os; os._exit(4)\n')
        site.until_broken('exit code 4')
        site.edit('three')
        stop(site)


STOPS = SLOW_STOP, {'slow.py': SLOW.replace('time.sleep(0.8)', "print('it stops')")}


def test_an_ini_that_is_gone_for_a_while_is_told_of_and_the_site_stops_in_order(
    tmp_path,
):
    """The site was killed after three seconds."""
    ini, files = STOPS
    with Edited(tmp_path, ini=ini, files=files) as site:
        os.rename(tmp_path / 'site.ini', tmp_path / 'away.ini')
        site.until_broken('there is no such file')
        assert site.out.wait_for('it stops'), site.report()
        os.rename(tmp_path / 'away.ini', tmp_path / 'site.ini')
        site.until('one')
        err = stop(site)
        assert 'does not stop' not in err
        assert 'Restart refused' not in err


# -- Ctrl-C ----------------------------------------------------------------------------


@pytest.mark.parametrize('moment', [0.02, 0.1, 0.3])
def test_ctrl_c_while_a_reload_begins_ends_the_site(tmp_path, moment):
    """The .ini is read before the process replaces itself; this one takes long."""
    ini = INI + '[extra]\n' + ''.join(f'key{n} = {n}\n' for n in range(40_000))
    with Edited(tmp_path, '--reloader', 'execv', ini=ini) as site:
        site.save(webapp('two'))
        threading.Event().wait(moment)  # there is nothing that tells of that moment
        site.send(signal.SIGINT)
        assert site.wait() in (0, 128 + signal.SIGINT, 128 + signal.SIGTERM)
        assert site.has_left_nothing()


# -- servers, and what there is once per site ------------------------------------------


def test_a_server_that_binds_by_itself_shows_a_problem_too(tmp_path):
    """Nothing was served, and 'served in 44 ms' printed."""
    port = free_port()
    ini = INI.replace('egg:waitress', 'call:server:make').replace(
        'port = 0', f'port = {port}'
    )
    files = {'server.py': UNKNOWN_SERVER}
    with Edited(tmp_path, ini=ini, files=files) as site:
        site.save('1 / 0\n')
        site.expect('the site cannot be served')
        assert 'ZeroDivisionError' in site.get().text
        assert 'served in' not in site.err.text
        site.save(webapp('two'))
        site.expect('served in')


CRON = """
def cron(bus, global_conf):
    print('+cron one', flush=True)
    yield
    print('-cron one', flush=True)
"""

SITE_PLUGINS = INI.replace(
    '[server:main]',
    """
[wspbus:main]
site_plugins = cron

[plugin:cron]
use = call:cron:cron

[server:main]""",
)


@pytest.mark.parametrize('workers', ['0', '2'])
@pytest.mark.parametrize('reloader', RELOADERS)
def test_site_plugins_are_reloaded(tmp_path, reloader, workers):
    args = '--reloader', reloader, '--workers', workers
    with Edited(tmp_path, *args, ini=SITE_PLUGINS, files={'cron.py': CRON}) as site:
        site.save(CRON.replace('one', 'two'), 'cron.py')
        assert site.out.wait_for('+cron two'), site.report()
        site.expect('cron.py has changed\nserved in')
        stop(site)
        told = [line for line in site.out.text.splitlines() if 'cron' in line]
        assert told == ['+cron one', '-cron one', '+cron two', '-cron two']


def test_a_site_plugin_that_fails_is_told_of(tmp_path):
    """The workers serve on; they were said to be all there is."""
    files = {'cron.py': CRON}
    with Edited(tmp_path, '--workers', '1', ini=SITE_PLUGINS, files=files) as site:
        assert site.out.wait_for('+cron one'), site.report()
        site.save(CRON.replace('yield', '1 / 0; yield'), 'cron.py')
        site.expect('ms, without its site plugins')
        site.save(CRON.replace('one', 'two'), 'cron.py')
        assert site.out.wait_for('+cron two'), site.report()
        assert 'crashed' not in stop(site)


# -- where it listens ------------------------------------------------------------------


@pytest.mark.parametrize('reloader', ['fork', 'child'])
def test_that_another_port_takes_a_restart_is_told_once(tmp_path, reloader):
    """Told late or never, and again and again."""
    with Edited(tmp_path, '--reloader', reloader) as site:
        other = INI.replace('port = 0', f'port = {free_port()}')
        site.save(other, 'site.ini')
        site.expect('site.ini has changed\nserved in')
        site.edit('two')
        site.expect('served in')
        site.save(other + '\n[more]\n', 'site.ini')
        site.expect('site.ini has changed\nserved in', 2)
        site.save(INI, 'site.ini')
        site.expect('site.ini has changed\nserved in', 3)
        assert stop(site).count('The address in the .ini has changed') == 1


def test_a_process_that_replaces_itself_listens_where_the_ini_says_now(tmp_path):
    ports = [free_port(), free_port()]
    inis = [INI.replace('port = 0', f'port = {port}') for port in ports]
    with Edited(tmp_path, '--reloader', 'execv', ini=inis[0]) as site:
        site.save(inis[1], 'site.ini')
        site.wait_until_served(2)
        assert site.urls == [f'http://127.0.0.1:{port}' for port in ports]
        site.edit('two')
        assert is_free(ports[0])
        stop(site)

"""--reload in the hands of somebody who is careless, in a hurry, or unlucky."""

import os
import signal
import threading

import pytest
from test_reload import INI, RELOADERS, Edited, stop, webapp

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
    """BUG 1: the next stop is under way when the time of the one before runs out."""
    args = '--reloader', 'execv', '--workers', '1'
    files = {'slow.py': SLOW}
    with Edited(tmp_path, *args, ini=SLOW_STOP, files=files) as site:
        pids = {site.edit(text)['pid'] for text in ('two', 'three', 'four', 'five')}
        assert pids == {site.until('five')['pid']}, site.report()
        assert 'does not stop' not in stop(site)


# -- what fails ------------------------------------------------------------------------


@pytest.mark.parametrize('workers', ['1', '2'])
@pytest.mark.parametrize('reloader', RELOADERS)
def test_workers_that_fail_heal_however_they_are_restarted(tmp_path, reloader, workers):
    """BUG 2: with execv, the page stayed for ever."""
    with Edited(tmp_path, '--reloader', reloader, '--workers', workers) as site:
        site.save('1 / 0\n')
        site.until_broken('ZeroDivisionError')
        site.edit('two')
        site.expect('webapp.py has changed: reloaded in')
        site.save('import os; os._exit(4)\n')
        site.until_broken('exit code 4')
        site.edit('three')
        stop(site)


STOPS = SLOW_STOP, {'slow.py': SLOW.replace('time.sleep(0.8)', "print('it stops')")}


def test_an_ini_that_is_gone_for_a_while_is_told_of_and_the_site_stops_in_order(
    tmp_path,
):
    """BUG 3: the site was killed after three seconds."""
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
    """BUG 4: the .ini is read before the process replaces itself; this one takes long."""
    ini = INI + '[extra]\n' + ''.join(f'key{n} = {n}\n' for n in range(40_000))
    with Edited(tmp_path, '--reloader', 'execv', ini=ini) as site:
        site.save(webapp('two'))
        threading.Event().wait(moment)  # there is nothing that tells of that moment
        site.send(signal.SIGINT)
        assert site.wait() in (0, 128 + signal.SIGINT, 128 + signal.SIGTERM)
        assert site.has_left_nothing()

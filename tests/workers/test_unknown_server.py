"""Workers with a server that wspserve does not know, which binds by itself."""

import contextlib

from tests.kit import eventually, free_port, run
from tests.kit.sites import ask
from tests.kit.supervised import UNKNOWN_SERVER
from tests.kit.workers import FILES, INI, Workers, set_up

# -- graceful -----------------------------------------------------------------------


def test_a_server_that_binds_by_itself_takes_a_restart(tmp_path):
    files = {**FILES, 'server.py': UNKNOWN_SERVER}
    with Workers(tmp_path, files=files) as site:
        old = site.pids()
        site.change(('egg:waitress', 'call:server:make'), ('threads = 4\n', ''))
        told = site.run('graceful')
        assert told.code == 2
        line = 'use: it has changed from egg:waitress to call:server:make'
        assert line in told.err.text
        assert site.pids() == old
        site.change(('call:server:make', 'egg:waitres'))
        told = site.run('graceful')
        assert told.code == 2
        line = "[server:main] use: egg:waitres: the distribution 'waitres' is not"
        assert line in told.err.text
        assert ask(site)['pid'] in old
        assert site.stop()[0] == 0


# -- a server that is not known -----------------------------------------------------------------


UNKNOWN = INI.replace('egg:waitress', 'call:server:make').replace('threads = 4\n', '')


UNKNOWN_FILES = {**FILES, 'server.py': UNKNOWN_SERVER, 'site.ini': UNKNOWN}


def test_a_server_that_binds_by_itself_cannot_have_two_workers(tmp_path):
    site = run(tmp_path, 'site.ini', '--workers', '2', files=UNKNOWN_FILES)
    assert site.code == 2
    (line,) = site.err.text.splitlines()
    assert 'opens its own socket' in line
    assert 'waitress' in line
    assert not (tmp_path / 'life').exists()


def test_a_server_that_binds_by_itself_can_have_one_worker(tmp_path):
    port = free_port()
    ini = UNKNOWN.replace('port = 0', f'port = {port}')
    with Workers(tmp_path, count=1, files={**UNKNOWN_FILES, 'site.ini': ini}) as site:
        eventually(lambda: site.status()['state'] == 'STARTED')
        site.url = f'http://127.0.0.1:{port}'
        assert ask(site)['ppid'] == site.pid
        site.deploy(2)
        site.graceful()
        eventually(lambda: version(site) == '2')

        set_up(tmp_path, at_composition="raise RuntimeError('it is broken')")
        told = site.run('graceful')
        assert told.code == 1
        assert 'it is broken' in told.err.text
        assert ask(site)['version'] == '2'
        (tmp_path / 'at_composition').unlink()
        site.deploy(3)
        site.graceful()
        eventually(lambda: version(site) == '3')
        assert site.stop()[0] == 0, site.report()
        assert site.has_left_nothing()


def version(site):
    """What is served; a server that binds by itself is not there for a moment."""
    with contextlib.suppress(OSError):
        return ask(site)['version']

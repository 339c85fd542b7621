"""A Unix socket whose file somebody has removed: a graceful restart binds it again."""

import os

import pytest

from tests.kit import Site, run
from tests.kit.sites import APP, SERVED, ask

SERVERS = {
    'waitress': 'use = egg:waitress\nunix_socket_perms = 660',
    'cheroot': 'use = egg:paste_wspbus#cheroot',
}


@pytest.fixture(params=SERVERS)
def serve(tmp_path, request):
    """Serve with two workers on run/site.sock."""
    (tmp_path / 'run').mkdir()
    ini = SERVED.replace('use = egg:waitress', SERVERS[request.param])
    ini = ini.replace('host = 127.0.0.1\nport = 0', 'unix_socket = run/site.sock')
    ini += '\n[wspbus:main]\nworkers = 2\n'

    def serve():
        return Site(tmp_path, ini, '--pid-file=site.pid', files={'webapp.py': APP})

    return serve


def graceful(folder):
    return run(folder, 'site.ini', 'graceful', '--pid-file=site.pid')


def test_a_removed_socket_is_bound_again(serve, tmp_path):
    path = tmp_path / 'run/site.sock'
    with serve() as site:
        first = ask(site)['pid']
        mode = path.stat().st_mode
        for _ in range(2):
            path.unlink()
            with pytest.raises(FileNotFoundError):
                site.get()
            told = graceful(tmp_path)
            assert told.code == 0, told.report()
            assert path.stat().st_mode == mode
            second = ask(site)['pid']
            assert second != first
            first = second
        assert 'was removed: it is bound again' in told.out.text
        assert graceful(tmp_path).code == 0  # its file is there: nothing is bound
        ask(site)
        assert site.stop()[0] == 0, site.report()
    assert not path.exists()


def test_a_graceful_restart_fails_where_it_cannot_be_bound_again(serve, tmp_path):
    with serve() as site:
        with site.connect() as connection:
            old = connection.get('/').body
            os.rename(tmp_path / 'run', tmp_path / 'moved')
            told = graceful(tmp_path)
            assert told.code == 1, told.report()
            assert 'generation 1 keeps serving' in told.err.text
            assert 'there is no such folder' in told.err.text
            assert connection.get('/').body == old
        os.rename(tmp_path / 'moved', tmp_path / 'run')
        told = graceful(tmp_path)
        assert told.code == 0, told.report()
        ask(site)
        assert site.stop()[0] == 0, site.report()


@pytest.mark.parametrize('style', ['fork', 'child', 'execv'])
def test_a_reload_binds_a_removed_socket_again(tmp_path, style):
    ini = SERVED.replace('host = 127.0.0.1\nport = 0', 'unix_socket = site.sock')
    files = {'webapp.py': APP}
    with Site(tmp_path, ini, '--reload', '--reloader', style, files=files) as site:
        old = ask(site)['pid']
        for count in (1, 2):
            if count == 1:
                (tmp_path / 'site.sock').unlink()
            with open(tmp_path / 'webapp.py', 'a') as file:
                file.write(f'# {count}\n')
            site.expect('served in', count)
            assert (ask(site)['pid'] == old) == (style == 'execv')
        assert site.stop()[0] == 0, site.report()
    if style != 'execv':
        assert site.err.text.count('was removed: it is bound again') == 1

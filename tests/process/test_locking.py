"""How a start opens its PID file, if the lock of a running site was removed."""

from tests.kit import Site, run, write
from tests.kit.daemons import WEBAPP, ini

FILES = ['--pid-file=x.pid', '--log-file=x.log']


def test_a_start_keeps_the_files_of_a_site_whose_lock_was_removed(tmp_path):
    write(tmp_path, {'site.ini': ini(), 'webapp.py': WEBAPP})
    with Site(tmp_path, None, 'site.ini', '--pid-file=x.pid') as site:
        (tmp_path / 'x.pid.lock').unlink()
        for mode in ([], ['--daemon']):
            told = run(tmp_path, 'site.ini', *FILES, *mode)
            assert told.code == 1, told.report()
            text = told.err.text
            said = 'x.pid.sock, although its lock was removed: stop it'
            assert said in text, told.report()
            assert (tmp_path / 'x.pid').read_text() == f'{site.process.pid}\n'
        assert run(tmp_path, 'site.ini', 'status').code == 0
        assert run(tmp_path, 'site.ini', 'stop').code == 0
        assert site.wait() == 0, site.report()
    assert not list(tmp_path.glob('x.pid*'))


def test_a_start_replaces_the_socket_of_a_site_that_was_killed(tmp_path):
    write(tmp_path, {'site.ini': ini(), 'webapp.py': WEBAPP})
    with Site(tmp_path, None, 'site.ini', '--pid-file=x.pid') as site:
        site.process.kill()
        site.wait()
    assert (tmp_path / 'x.pid.sock').exists()
    with Site(tmp_path, None, 'site.ini', '--pid-file=x.pid') as site:
        assert run(tmp_path, 'site.ini', 'status').code == 0
        assert site.stop()[0] == 0

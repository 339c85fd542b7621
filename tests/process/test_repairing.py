"""What a running site makes anew if somebody has removed it: its control socket and its entry."""

import os
import signal
import socket

import pytest

from tests.kit import Site, eventually, run
from tests.kit.daemons import WEBAPP, ini
from tests.kit.stand_in import status_json

MODES = {'one process': [], 'workers': ['--workers=1'], 'reload': ['--reload']}


@pytest.fixture(params=MODES)
def mode(request):
    return MODES[request.param]


@pytest.fixture
def serve(tmp_path, mode, monkeypatch):
    """Serve with the control socket run/control.sock; the entry is in the folder xdg."""
    (tmp_path / 'run').mkdir()
    (tmp_path / 'xdg').mkdir(mode=0o700)
    monkeypatch.setenv('RUNTIME_DIRECTORY', str(tmp_path / 'xdg'))

    def serve(**settings):
        settings = settings or {'control': 'run/control.sock'}
        return Site(tmp_path, ini(**settings), *mode, files={'webapp.py': WEBAPP})

    return serve


def hang_up(site, line):
    """Send SIGHUP, and wait for a line of the log that says what the site found."""
    count = site.err.text.count(line)
    site.send(signal.SIGHUP)
    assert site.err.wait_for(line, count + 1), site.report()


def test_a_control_socket_by_name_is_bound_again(serve, tmp_path):
    path = tmp_path / 'run/control.sock'
    with serve() as site:
        for _ in range(2):
            path.unlink()
            hang_up(site, 'run/control.sock was missing: it is bound again')
            assert path.stat().st_mode & 0o777 == 0o600
        eventually(lambda: status_json(tmp_path)[1].get('state') == 'STARTED')
        descriptors = os.listdir(f'/proc/{site.process.pid}/fd')
        assert run(tmp_path, 'site.ini', 'graceful').code == 0
        assert site.stop()[0] == 0, site.report()
    assert len(descriptors) < 50
    assert not path.exists()


@pytest.mark.parametrize('what', ['socket', 'file', 'folder', 'link', 'no folder'])
def test_nothing_of_others_is_replaced_or_removed(serve, tmp_path, what):
    path = tmp_path / 'run/control.sock'
    (tmp_path / 'secret').write_text('secret')
    with serve() as site, socket.socket(socket.AF_UNIX) as other:
        path.unlink()
        if what == 'socket':
            other.bind(str(path))
            other.listen()
        elif what == 'file':
            path.write_text('theirs')
        elif what == 'folder':
            path.mkdir()
        elif what == 'link':
            path.symlink_to(tmp_path / 'secret')
        else:
            path.parent.rename(tmp_path / 'moved')
        before = os.lstat(path) if what != 'no folder' else None
        hang_up(site, 'control.sock cannot be opened: ')
        assert site.get('/').status == 200
        assert site.stop()[0] == 0, site.report()
        if before is not None:
            assert os.path.samestat(os.lstat(path), before)
    assert (tmp_path / 'secret').read_text() == 'secret'


@pytest.mark.parametrize('ends', [('.json',), ('.lock',), ('.json', '.lock', '.sock')])
def test_an_entry_is_made_again(serve, tmp_path, ends):
    with serve(workers=0) as site:
        folder = tmp_path / 'xdg'
        eventually(lambda: [*folder.glob('*.json')])
        for path in [one for end in ends for one in folder.glob(f'*{end}')]:
            path.unlink()
        status = run(tmp_path, 'site.ini', 'status')
        assert status.code == (0 if ends == ('.lock',) else 4), status.report()
        site.send(signal.SIGHUP)
        eventually(lambda: all([*folder.glob(f'*{end}')] for end in ends))
        eventually(lambda: status_json(tmp_path)[1].get('state') == 'STARTED')
        told = run(tmp_path, 'site.ini', 'graceful')
        assert told.code == 0, told.report()
        assert run(tmp_path, 'site.ini', 'stop').code == 0
        assert site.wait() == 0, site.report()
    assert not [*folder.iterdir()]


@pytest.mark.parametrize('what', ['nothing', 'FIFO', 'folder', 'link', 'garbage'])
def test_another_file_in_the_place_of_the_entry_stops_nothing(serve, tmp_path, what):
    (tmp_path / 'secret').write_text('secret')
    with serve() as site:
        folder = tmp_path / 'xdg'
        eventually(lambda: [*folder.glob('*.json')])
        for path in folder.glob('*.json'):
            path.unlink()
            if what == 'FIFO':
                os.mkfifo(path)
            elif what == 'folder':
                path.mkdir()
            elif what == 'link':
                path.symlink_to(tmp_path / 'secret')
            elif what == 'garbage':
                path.write_bytes(b'{"ini": \0')
        for _ in range(2):
            told = run(tmp_path, 'site.ini', 'graceful')
            assert told.code == 0, told.report()
            assert site.get('/').status == 200
        assert site.stop()[0] == 0, site.report()
    assert (tmp_path / 'secret').read_text() == 'secret'


@pytest.mark.parametrize('trial', ['auto', 'false'])
def test_one_process_repairs_although_it_keeps_its_old_code(
    tmp_path, monkeypatch, trial
):
    (tmp_path / 'xdg').mkdir(mode=0o700)
    monkeypatch.setenv('RUNTIME_DIRECTORY', str(tmp_path / 'xdg'))
    files = {'webapp.py': WEBAPP}
    with Site(tmp_path, ini(trial=trial), files=files) as site:
        eventually(lambda: status_json(tmp_path)[1].get('state') == 'STARTED')
        for path in (tmp_path / 'xdg').iterdir():
            path.unlink()
        # The first cannot be loaded, and without the second no restart is possible.
        broken = tmp_path / ('webapp.py' if trial == 'auto' else 'site.ini')
        broken.rename(tmp_path / 'moved')
        if trial == 'auto':
            broken.write_text('import cheesecake')
        hang_up(site, 'was missing: it is bound again')
        said = 'No module named' if trial == 'auto' else 'site.ini is gone'
        assert site.err.wait_for(said), site.report()
        broken.unlink(missing_ok=True)
        (tmp_path / 'moved').rename(broken)
        eventually(lambda: status_json(tmp_path)[1].get('state') == 'STARTED')
        assert site.get('/').status == 200
        for _ in range(2):
            told = run(tmp_path, 'site.ini', 'graceful')
            assert told.code == 0, told.report()
        assert site.err.text.count('it is bound again') == 1
        assert site.stop()[0] == 0, site.report()
    assert not [*(tmp_path / 'xdg').iterdir()]

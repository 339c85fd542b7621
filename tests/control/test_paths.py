"""Where the control socket of a site is."""

import os
import socket

import pytest

from paste_wspbus.control.paths import (
    address_of,
    is_private,
    path_for,
    remove_socket,
    runtime_path,
    runtime_paths,
)
from paste_wspbus.listening.addresses import UNIX_PATH_MAX


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    """$XDG_RUNTIME_DIR, a folder of this user's alone; the working folder is another."""
    folder = tmp_path / 'runtime'
    folder.mkdir(mode=0o700)
    (tmp_path / 'site').mkdir()
    monkeypatch.chdir(tmp_path / 'site')
    monkeypatch.setenv('PWD', str(tmp_path / 'site'))
    monkeypatch.setenv('XDG_RUNTIME_DIR', str(folder))
    return folder


def test_it_is_beside_the_pid_file(runtime):
    assert path_for('site.pid') == f'{os.getcwd()}/site.pid.sock'
    assert path_for('/run/site.pid') == '/run/site.pid.sock'


def test_without_one_it_is_first_looked_for_in_the_runtime_folder(runtime):
    first, *others = runtime_paths('site.ini')
    assert first.startswith(f'{runtime}/paste_wspbus/site.ini-')
    # A session without $XDG_RUNTIME_DIR has opened it elsewhere.
    assert all(os.path.basename(path) == os.path.basename(first) for path in others)


def test_two_sites_of_one_name_have_two_sockets(runtime):
    assert runtime_paths('a/site.ini')[0] != runtime_paths('b/site.ini')[0]


def test_a_site_is_found_by_the_link_that_leads_to_it_and_by_its_own_path(runtime):
    os.symlink('.', '../current')
    open('site.ini', 'w').close()
    through_link = runtime_paths('../current/site/site.ini')
    assert runtime_paths('site.ini')[0] in through_link


def test_a_long_name_is_cut_for_the_path_of_a_socket_must_be_short(runtime):
    long = f'{"site" * 50}.ini'
    assert os.path.basename(runtime_paths(long)[0]).startswith(f'{long[:32]}-')


def test_the_site_makes_the_folder_for_its_user_alone(runtime):
    path = runtime_path('site.ini')
    assert path == runtime_paths('site.ini')[0]
    assert os.stat(os.path.dirname(path)).st_mode & 0o777 == 0o700


@pytest.mark.parametrize('mode', [0o770, 0o707])
def test_a_folder_that_others_may_write_to_is_not_private(tmp_path, mode):
    os.chmod(tmp_path, mode)
    assert not is_private(str(tmp_path))


def test_neither_a_link_nor_a_file_is_a_private_folder(tmp_path):
    os.chmod(tmp_path, 0o700)
    os.symlink(tmp_path, tmp_path / 'link')
    (tmp_path / 'file').touch()
    assert is_private(str(tmp_path))
    assert not is_private(str(tmp_path / 'link'))
    assert not is_private(str(tmp_path / 'file'))


def test_a_socket_can_be_bound_at_a_path_of_any_length(tmp_path):
    folder = tmp_path / ('long' * 40)
    folder.mkdir()
    path = str(folder / 'site.sock')
    assert len(path) > UNIX_PATH_MAX
    with socket.socket(socket.AF_UNIX) as sock, address_of(path) as address:
        sock.bind(address)
    assert os.path.exists(path)
    remove_socket(path)
    assert not os.path.exists(path)


def test_only_a_socket_is_removed(tmp_path):
    (tmp_path / 'site.sock').write_text('precious')
    remove_socket(str(tmp_path / 'site.sock'))
    assert (tmp_path / 'site.sock').read_text() == 'precious'
    remove_socket(str(tmp_path / 'missing'))

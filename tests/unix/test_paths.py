"""Where the control socket of a site is."""

import os
import socket

import pytest

from paste_wspbus.listening.addresses import UNIX_PATH_MAX
from paste_wspbus.process.names import ini_paths
from paste_wspbus.unix import paths
from paste_wspbus.unix.paths import (
    UnsafeFolder,
    address_of,
    is_private,
    remove_socket,
    runtime_folder,
)


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    """$XDG_RUNTIME_DIR, a folder of this user's alone; the working folder is another."""
    folder = tmp_path / 'runtime'
    folder.mkdir(mode=0o700)
    (tmp_path / 'site').mkdir()
    monkeypatch.chdir(tmp_path / 'site')
    monkeypatch.setenv('PWD', str(tmp_path / 'site'))
    monkeypatch.setenv('XDG_RUNTIME_DIR', str(folder))
    monkeypatch.setenv('TMPDIR', str(tmp_path))
    monkeypatch.delenv('RUNTIME_DIRECTORY')
    monkeypatch.setattr(paths, 'SYSTEM', str(tmp_path / 'system'))
    return folder


def test_a_site_registers_in_the_folder_that_systemd_has_made_for_it(
    runtime, monkeypatch, tmp_path
):
    made = tmp_path / 'shop'
    made.mkdir()
    monkeypatch.setenv('RUNTIME_DIRECTORY', f'{made}:/somewhere/else')
    assert runtime_folder() == str(made)


def test_a_site_of_root_registers_where_each_of_its_sessions_looks(runtime):
    assert runtime_folder() == paths.SYSTEM
    # systemd makes the folders of other users' services in it.
    assert os.stat(paths.SYSTEM).st_mode & 0o777 == 0o755


def test_where_that_folder_cannot_be_it_takes_the_next_one(runtime, monkeypatch):
    monkeypatch.setattr(paths, 'SYSTEM', '/proc/paste_wspbus')
    assert runtime_folder() == f'{runtime}/paste_wspbus'
    assert os.stat(f'{runtime}/paste_wspbus').st_mode & 0o777 == 0o700
    os.chown(runtime, 65534, -1)  # as `su` without `-` leaves it in the environment
    assert runtime_folder() == f'{os.environ["TMPDIR"]}/paste_wspbus-0'


def others_folder(folder):
    folder.mkdir(0o700)
    os.chown(folder, 65534, -1)


def shared_folder(folder):
    folder.mkdir()
    folder.chmod(0o777)


def folder_of_a_group(folder):
    folder.mkdir()
    folder.chmod(0o770)


def link(folder):
    (folder.parent / 'target').mkdir(0o700)
    folder.symlink_to(folder.parent / 'target')


def file(folder):
    folder.write_text('precious')


@pytest.mark.parametrize(
    'make', [others_folder, shared_folder, folder_of_a_group, link, file]
)
def test_a_folder_that_is_not_ours_alone_is_not_used(runtime, monkeypatch, make):
    make(runtime / 'paste_wspbus')
    assert runtime_folder() == paths.SYSTEM
    monkeypatch.setattr(paths, 'SYSTEM', str(runtime / 'paste_wspbus'))
    monkeypatch.setenv('XDG_RUNTIME_DIR', '')
    monkeypatch.setenv('TMPDIR', '/proc')
    with pytest.raises(UnsafeFolder) as caught:
        runtime_folder()
    assert str(runtime / 'paste_wspbus') in str(caught.value)


def test_an_ini_has_the_name_that_was_given_and_its_real_path(runtime):
    os.symlink('.', '../current')
    folder = os.path.dirname(os.getcwd())
    assert ini_paths('../current/site/site.ini') == (
        f'{folder}/current/site/site.ini',
        f'{folder}/site/site.ini',
    )
    assert ini_paths('config:site.ini#other')[0] == f'{folder}/site/site.ini'
    assert ini_paths('egg:Shop#main') == ('egg:Shop', 'egg:Shop')


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

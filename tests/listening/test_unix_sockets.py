"""The file of a Unix socket: its mode, and what root does with it in a folder of the user's."""

import os
import socket

import pytest

from paste_wspbus.errors import BindError
from paste_wspbus.listening.unix_sockets import bind_unix
from tests.kit.in_place import make_hard_link, make_link


@pytest.mark.parametrize('umask', [0o000, 0o022, 0o077])
@pytest.mark.parametrize('mode', [0o600, 0o660, 0o666])
def test_a_unix_socket_has_its_mode_from_the_first_moment(
    tmp_path, monkeypatch, mode, umask
):
    def chmod(*args, **kwargs):
        raise AssertionError('another file could be there by now')

    monkeypatch.setattr(os, 'chmod', chmod)
    before = os.umask(umask)
    try:
        listening = bind_unix(str(tmp_path / 's'), mode)
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert (tmp_path / 's').stat().st_mode & 0o777 == mode
    listening.close()
    assert not (tmp_path / 's').exists()


def make_other_socket(path, target):
    other = target.with_name('other')
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(other))
    path.hardlink_to(other)


@pytest.mark.parametrize('make', [make_link, make_hard_link, make_other_socket])
def test_root_gives_only_the_socket_away_that_it_has_bound(tmp_path, make):
    users, target = tmp_path / 'users', tmp_path / 'target'
    users.mkdir()
    os.chown(users, 65534, 65534)
    target.touch(0o600)
    listening = bind_unix(str(users / 's'))
    (users / 's').unlink()  # as the user does it
    make(users / 's', target)
    with pytest.raises(BindError):
        listening.chown(65534, 65534)
    assert {path.lstat().st_uid for path in tmp_path.iterdir() if path != users} == {0}
    listening.close()
    assert os.path.lexists(users / 's')


def test_root_removes_no_socket_through_a_link_of_the_users(tmp_path):
    users, roots = tmp_path / 'users', tmp_path / 'roots'
    users.mkdir()
    roots.mkdir()
    os.chown(users, 65534, 65534)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(roots / 's'))
    (users / 'run').symlink_to(roots)
    with pytest.raises(BindError, match='a symbolic link'):
        bind_unix(str(users / 'run' / 's'))
    assert (roots / 's').exists()

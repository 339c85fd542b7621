"""What a successor checks of what it receives, piece by piece."""

import fcntl
import os
import socket

import pytest

from paste_wspbus.control.status import number
from paste_wspbus.control.stop import MARGIN, NO_DEADLINE, patience
from paste_wspbus.errors import BindError
from paste_wspbus.listening.passed import received, what_is_wrong_with
from paste_wspbus.unix.users import Identity
from tests.kit.users import NOBODY


def test_the_file_of_a_received_socket_is_touched_after_its_claim_only(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'theirs').mkdir()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind('site.sock')
        sock.listen()
        for claims in (False, True):
            listening = received(os.dup(sock.fileno()), owned=True)
            listening.chown(NOBODY.pw_uid, NOBODY.pw_gid)
            assert (tmp_path / 'site.sock').stat().st_uid == os.geteuid()
            if claims:
                listening.claim()
            listening.close()
            assert (tmp_path / 'site.sock').exists() is not claims


def test_a_socket_of_others_is_never_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind('site.sock')
        sock.listen()
        listening = received(os.dup(sock.fileno()), owned=False)
        listening.claim()
        listening.close()
        assert (tmp_path / 'site.sock').exists()


KINDS = {
    'SEQPACKET': (socket.AF_UNIX, socket.SOCK_SEQPACKET),
    'UDP': (socket.AF_INET, socket.SOCK_DGRAM),
    'netlink': (socket.AF_NETLINK, socket.SOCK_RAW),
    'TCP that does not listen': (socket.AF_INET, socket.SOCK_STREAM),
}


@pytest.mark.parametrize('kind', KINDS)
def test_what_nobody_could_serve_from_is_closed(kind):
    fd = socket.socket(*KINDS[kind]).detach()
    with pytest.raises(BindError):
        received(fd, owned=True)
    with pytest.raises(OSError, match='Bad file descriptor'):
        os.fstat(fd)


def test_a_look_leaves_the_descriptor_open():
    with socket.create_server(('127.0.0.1', 0)) as sock, open(os.devnull) as null:
        assert what_is_wrong_with(sock.fileno()) == ''
        assert what_is_wrong_with(null.fileno()) == 'Socket operation on non-socket'
        assert fcntl.fcntl(sock.fileno(), fcntl.F_GETFD) == fcntl.FD_CLOEXEC
        os.fstat(null.fileno())


def test_root_is_root_again_after_it_has_acted_as_another_user(tmp_path):
    before = os.getresuid(), os.getresgid(), os.getgroups()
    with pytest.raises(PermissionError), Identity('nobody', None).borrowed():
        assert (os.geteuid(), os.getegid()) == (NOBODY.pw_uid, NOBODY.pw_gid)
        assert os.getgroups() == [NOBODY.pw_gid]
        (tmp_path / 'file').write_text('')
    assert (os.getresuid(), os.getresgid(), os.getgroups()) == before


@pytest.mark.parametrize(
    'told', [1e999, -1e999, float('nan'), 1e300, -5, True, '25', [], {}, None, 10**400]
)
def test_a_deadline_that_makes_no_sense_is_a_number_of_seconds(told):
    seconds = patience({'deadline': told})
    assert MARGIN <= seconds <= NO_DEADLINE + MARGIN
    assert number({'deadline': told}, 'deadline') in (None, -5)

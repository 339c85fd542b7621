"""What cannot be tried: locks and addresses that only one process can have."""

import errno
import fcntl
import queue
import socket
import sys
import types

import pytest
import zc.lockfile

from paste_wspbus.bus import Bus
from paste_wspbus.command.trial import _chain, _is_held
from paste_wspbus.process.process import Process
from paste_wspbus.process.trials import _file_storage
from tests.kit import eventually

ZODB = 'ZODB.FileStorage.FileStorage'


@pytest.fixture
def opened(tmp_path):
    """Two files with a lock beside them, which this process has open."""
    texts = {
        'Data.fs': b'FS30',
        'Data.fs.lock': b'',
        'a.pid': b'1\n',
        'a.pid.lock': b'',
    }
    files = []
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text)
        files.append((tmp_path / name).open('rb'))
    yield tmp_path
    for file in files:
        file.close()


def test_a_file_storage_that_is_open_is_found_and_the_pid_file_is_not(
    opened, monkeypatch
):
    monkeypatch.setitem(sys.modules, ZODB, types.ModuleType(ZODB))
    assert _file_storage() == str(opened / 'Data.fs')
    (opened / 'Data.fs').write_bytes(b'no')
    assert _file_storage() is None


def test_without_zodb_no_file_is_taken_for_a_file_storage(opened, monkeypatch):
    monkeypatch.delitem(sys.modules, ZODB, raising=False)
    assert _file_storage() is None


def error_of(function, *args):
    with pytest.raises(Exception) as raised:
        function(*args)
    return raised.value


def test_a_lock_of_zc_lockfile_is_held(tmp_path):
    lock = zc.lockfile.LockFile(str(tmp_path / 'lock'))
    assert _is_held(error_of(zc.lockfile.LockFile, str(tmp_path / 'lock')))
    lock.close()


def test_a_lock_of_fcntl_is_held_and_a_socket_without_data_is_not(tmp_path):
    with (tmp_path / 'lock').open('w') as one, (tmp_path / 'lock').open('w') as other:
        fcntl.flock(one, fcntl.LOCK_EX)

        def lock():
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)

        assert _is_held(error_of(lock))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        assert not _is_held(error_of(ours.recv, 1))


def test_an_address_that_is_taken_is_held():
    with socket.create_server(('127.0.0.1', 0)) as taken:
        error = error_of(socket.create_server, taken.getsockname())
    assert error.errno == errno.EADDRINUSE
    assert _is_held(error)
    assert not _is_held(OSError(errno.EACCES, 'denied'))


def test_the_causes_of_an_error_count_too_once_each():
    first, second = ValueError('first'), OSError(errno.EADDRINUSE, 'taken')
    first.__cause__, second.__context__ = second, first
    assert list(_chain(first)) == [first, second]


def test_a_restart_is_refused_if_what_tries_it_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, 'paste_wspbus.process.trials', None)
    bus, answers, failures = Bus(), queue.SimpleQueue(), []
    bus.subscribe('reload_failed', failures.append)
    process = Process.__new__(Process)
    process.try_restart(bus, types.SimpleNamespace(answer=answers.put))
    refused = answers.get(timeout=10)
    assert 'Restart refused, the site keeps running: ' in refused['error']
    eventually(lambda: failures == [refused['error']])

"""Who holds a PID file: the system says it, whatever others write into it or lock."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from paste_wspbus.unix.pid_lock import (
    AlreadyRunning,
    ForeignPIDFile,
    GarbagePIDFile,
    PIDFileError,
    PIDLock,
    StalePIDFile,
    UnreadablePIDFile,
)
from tests.kit import eventually
from tests.kit.in_place import (
    make_fifo,
    make_folder,
    make_hard_link,
    make_link,
    make_socket,
)
from tests.kit.processes import has_ended, kill
from tests.kit.users import NOBODY

STRANGER = 54321


@pytest.fixture
def path():
    """In a folder of root's that others can enter; pytest's own is root's alone."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder, 'site.pid')


@pytest.fixture
def lock(path):
    """The lock of a site that runs in this process."""
    lock = PIDLock(str(path))
    lock.acquire()
    lock.write()
    yield lock
    lock.release()


@pytest.fixture
def users(tmp_path):
    """A folder of another user's, which others can enter."""
    folder = tmp_path / 'users'
    folder.mkdir()
    os.chown(folder, NOBODY.pw_uid, NOBODY.pw_gid)
    return folder


@pytest.fixture
def victim():
    """A process of root's that must not be harmed."""
    process = subprocess.Popen(['sleep', '1000'])
    yield process
    assert process.poll() is None
    process.kill()
    process.wait()


FIRST = """
import fcntl, os, sys
from paste_wspbus.unix.pid_lock import PIDLock

path, uid = sys.argv[1], int(sys.argv[2])
if uid:
    os.setgid(uid)
    os.setuid(uid)


def wait():
    print('up', flush=True)
    sys.stdin.read()


"""


@contextlib.contextmanager
def running(path, script, uid=0):
    """A script that has got as far as ``wait()``; it knows ``path``."""
    process = subprocess.Popen(
        [sys.executable, '-W', 'error', '-c', FIRST + script, str(path), str(uid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout.readline() == b'up\n'
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


SITE = """
lock = PIDLock(path)
lock.acquire()
lock.write()
wait()
"""


# -- the two files ---------------------------------------------------------------------------


def test_the_number_is_for_everybody_and_the_lock_for_its_owner_alone(lock, path):
    assert path.stat().st_mode & 0o777 == 0o644
    locked = path.with_name('site.pid.lock')
    assert (locked.stat().st_mode & 0o777, locked.stat().st_size) == (0o600, 0)
    lock.release()
    assert list(path.parent.iterdir()) == []


def test_a_lock_that_everybody_could_read_is_its_owners_again(path):
    path.with_name('site.pid.lock').touch(0o644)
    lock = PIDLock(str(path))
    lock.acquire()
    assert path.with_name('site.pid.lock').stat().st_mode & 0o777 == 0o600
    lock.release()


def test_a_file_of_another_kind_is_not_taken_for_the_lock(path):
    """The lock is given to the user of the site; a file with a secret would be lost."""
    other = path.with_name('site.pid.lock')
    other.write_text('precious\n')
    other.chmod(0o600)
    for use in (PIDLock(str(path)).acquire, PIDLock(str(path)).read):
        with pytest.raises(GarbagePIDFile, match='is not a lock file of wspserve'):
            use()
    assert other.read_text() == 'precious\n'
    assert not path.exists()


@pytest.mark.parametrize('name', ['site.pid', 'site.pid.lock'])
@pytest.mark.parametrize(
    'make', [make_link, make_hard_link, make_fifo, make_folder, make_socket]
)
def test_in_a_folder_of_the_users_neither_is_anything_but_a_plain_file(
    users, tmp_path, make, name
):
    target = tmp_path / 'target'
    target.touch(0o600)
    make(users / name, target)
    for use in (
        PIDLock(f'{users}/site.pid').acquire,
        PIDLock(f'{users}/site.pid').read,
    ):
        with pytest.raises(UnreadablePIDFile):
            use()
    assert (target.stat().st_uid, target.read_text()) == (0, '')
    assert [path.name for path in users.iterdir()] == [name]


def test_no_folder_on_the_way_is_a_link_of_the_users(users, tmp_path):
    (users / 'run').symlink_to(tmp_path)
    with pytest.raises(UnreadablePIDFile, match='run: a symbolic link'):
        PIDLock(f'{users}/run/site.pid').acquire()
    assert [path.name for path in tmp_path.iterdir()] == ['users']


def test_a_huge_pid_file_is_not_read(users):
    with open(users / 'site.pid', 'wb') as file:
        file.truncate(2**40)
    with pytest.raises(GarbagePIDFile):
        PIDLock(f'{users}/site.pid').read()
    assert (users / 'site.pid').stat().st_size == 2**40


# -- who holds it ------------------------------------------------------------------------------


def test_the_number_in_the_file_does_not_matter(path, victim):
    with running(path, SITE) as site:
        assert PIDLock(str(path)).read() == site.pid
        for text in (f'{victim.pid}\n', '', '1\n', 'no number', '9' * 100_000):
            path.write_text(text)
            assert PIDLock(str(path)).read() == site.pid
            with pytest.raises(AlreadyRunning) as caught:
                PIDLock(str(path)).acquire()
            assert caught.value.pid == site.pid


def test_a_site_that_has_not_written_its_number_is_starting(path, victim):
    path.write_text(f'{victim.pid}\n')  # of an earlier one
    with running(path, 'lock = PIDLock(path); lock.acquire(); wait()'):
        assert PIDLock(str(path)).read() == 0
        with pytest.raises(AlreadyRunning) as caught:
            PIDLock(str(path)).acquire()
        assert caught.value.pid is None


#: Like a program that sudo(8) or a setuid bit makes another user's: it keeps the lock.
DISGUISED = SITE.replace(
    'wait()', 'lock.chown(OWNER, OWNER)\nos.setresuid(*USERS)\nwait()'
)

OTHER = STRANGER + 1


@pytest.mark.parametrize(
    ('owner', 'users', 'is_named'),
    [
        (STRANGER, (STRANGER,) * 3, True),
        (STRANGER, (OTHER,) * 3, False),
        (STRANGER, (0, 0, 0), False),
        (STRANGER, (STRANGER, 0, 0), False),
        (0, (OTHER,) * 3, True),  # only a process that was root's can have signed it
    ],
)
def test_root_names_a_holder_only_if_it_is_the_owners(path, owner, users, is_named):
    script = f'OWNER, USERS = {owner}, {users}\n{DISGUISED}'
    with running(path, script) as process:
        assert PIDLock(str(path)).read() == (process.pid if is_named else 0)


def test_whoever_locks_the_pid_file_gains_nothing(path, victim):
    path.write_text(f'{victim.pid}\n')
    stranger = """
file = open(path)
fcntl.flock(file, fcntl.LOCK_EX)
wait()
"""
    with running(path, stranger, STRANGER):
        with pytest.raises(ForeignPIDFile):
            PIDLock(str(path)).read()
        lock = PIDLock(str(path))
        assert isinstance(lock.acquire(), ForeignPIDFile)
        lock.write()
        assert PIDLock(str(path)).read() == os.getpid()
        lock.release()


def test_a_stranger_who_waits_for_the_locks_has_none_when_the_site_is_killed(path):
    waiting = """
try:
    open(path + '.lock')
except PermissionError:
    fcntl.flock(open(path), fcntl.LOCK_EX)
    wait()
"""
    with running(path, SITE) as site, running(path, waiting, STRANGER):
        site.kill()
        site.wait()
        with pytest.raises(StalePIDFile):
            PIDLock(str(path)).read()
        lock = PIDLock(str(path))
        assert isinstance(lock.acquire(), StalePIDFile)
        lock.release()


def test_a_lock_that_a_stranger_has_made_is_not_used(path):
    locked = path.with_name('site.pid.lock')
    locked.touch()
    locked.chmod(0o666)
    path.parent.chmod(0o777)
    asking = """
try:
    PIDLock(path).acquire()
except Exception as error:
    print(type(error).__name__, error)
"""
    command = [sys.executable, '-c', FIRST + asking, str(path), str(STRANGER)]
    said = subprocess.check_output(command, text=True)
    assert said.startswith('UnreadablePIDFile')
    assert 'site.pid.lock belongs to another user (UID 0)' in said


SWAP = """
os.chdir(os.path.dirname(path))
open('plain', 'w').close()
os.symlink('../secret', 'link')
os.mkfifo('fifo')
os.mkdir('folder')
print('up', flush=True)
while True:
    for name in ('site.pid', 'site.pid.lock'):
        for other in ('link', 'fifo', 'folder', 'plain'):
            try:
                os.rename(other, name)
                os.rename(name, other)
            except OSError:
                pass
"""


def test_files_that_are_swapped_meanwhile_neither_mislead_nor_block_root(path):
    secret, users = path.with_name('secret'), path.with_name('users')
    secret.write_text('precious\n')
    secret.chmod(0o600)
    users.mkdir()
    os.chown(users, NOBODY.pw_uid, NOBODY.pw_gid)
    with running(users / 'site.pid', SWAP, NOBODY.pw_uid) as user:
        for _ in range(300):
            lock = PIDLock(str(users / 'site.pid'))
            with contextlib.suppress(PIDFileError):
                lock.acquire()
                lock.write()
                lock.chown(NOBODY.pw_uid, NOBODY.pw_gid)
            lock.release()
            with contextlib.suppress(PIDFileError):
                lock.read()
        assert user.poll() is None
    assert (secret.read_text(), secret.stat().st_uid) == ('precious\n', 0)


def test_another_user_sees_which_process_it_is_but_cannot_take_the_lock(path):
    asking = """
try:
    print(PIDLock(path).read())
    PIDLock(path).acquire()
except Exception as error:
    print(type(error).__name__, error)
"""

    def ask():
        words = [str(path), str(STRANGER)]
        command = [sys.executable, '-c', FIRST + asking, *words]
        return subprocess.check_output(command, text=True).splitlines()

    with running(path, SITE) as site:
        seen, refused = ask()
        assert seen == str(site.pid)
        assert refused.startswith('UnreadablePIDFile')
        site.kill()
        site.wait()
        (unknown,) = ask()  # nobody is named, and it may not look
        assert unknown.startswith('UnreadablePIDFile')
        assert 'site.pid.lock: Permission denied' in unknown


def test_a_process_sees_what_it_holds_itself_and_is_named_afterwards(lock, path):
    for _ in range(3):
        assert PIDLock(str(path)).read() == os.getpid()
        with pytest.raises(AlreadyRunning):
            PIDLock(str(path)).acquire()
    read = f'from paste_wspbus.unix.pid_lock import PIDLock; print(PIDLock({str(path)!r}).read())'
    other = subprocess.check_output([sys.executable, '-c', read], text=True)
    assert int(other) == os.getpid()


def test_a_forked_child_neither_holds_nor_drops_it(lock, path):
    child = os.fork()
    if not child:
        code = 1
        with contextlib.suppress(BaseException):
            code = int(PIDLock(str(path)).read() != os.getppid())
        os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    read = f'from paste_wspbus.unix.pid_lock import PIDLock; print(PIDLock({str(path)!r}).read())'
    other = subprocess.check_output([sys.executable, '-c', read], text=True)
    assert int(other) == os.getpid()


# -- what comes from another process ---------------------------------------------------------------


def hand_over(path, script):
    """A process that holds the site, and what it sends in the place of the lock."""
    return running(
        path,
        f"""
import socket
lock = PIDLock(path)
lock.acquire()
lock.write()
server = socket.socket(socket.AF_UNIX)
server.bind(path + '.test')
server.listen()
{script}
print('up', flush=True)
client, _ = server.accept()
socket.send_fds(client, [b'x'], [fd])
lock.forget()
sys.stdin.read()
""",
    )


def receive(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(f'{path}.test')
        return socket.recv_fds(sock, 1, 1)[1][0]


def test_the_lock_passes_with_its_descriptor(path):
    with hand_over(path, 'fd = lock.copy()') as predecessor:
        lock = PIDLock(str(path))
        lock.receive(receive(path))
        lock.write()
        with pytest.raises(AlreadyRunning):
            PIDLock(str(path)).acquire()
        read = f'from paste_wspbus.unix.pid_lock import PIDLock; print(PIDLock({str(path)!r}).read())'
        other = subprocess.check_output([sys.executable, '-c', read], text=True)
        assert int(other) == os.getpid()
        assert predecessor.poll() is None
        lock.release()
    assert not path.exists()


OTHER_DESCRIPTORS = {
    'of another file': "fd = os.open('/etc/passwd', os.O_RDONLY)",
    'of the lock, without the lock': "fd = os.open(path + '.lock', os.O_RDWR)",
    'of a pipe': 'fd = os.pipe()[0]',
    'of a lock that was exchanged': (
        "fd = lock.copy(); os.unlink(path + '.lock'); open(path + '.lock', 'w')"
    ),
    'of a file with the name of the lock': (
        "os.unlink(path + '.lock'); os.link(path + '.other', path + '.lock'); "
        "fd = os.open(path + '.lock', os.O_RDONLY)"
    ),
}


@pytest.mark.parametrize('script', OTHER_DESCRIPTORS.values(), ids=OTHER_DESCRIPTORS)
def test_another_descriptor_is_not_taken_for_the_lock(path, script):
    path.with_name('site.pid.other').touch()
    with hand_over(path, script):
        lock = PIDLock(str(path))
        with pytest.raises(UnreadablePIDFile):
            lock.receive(receive(path))
        assert lock.fd is None


# -- a site ------------------------------------------------------------------------------------------


def test_a_restart_in_place_is_named_all_the_time(ground):
    ground.start()
    pid, log = ground.pid, ground.log_file
    lock = PIDLock(str(ground.pid_file))
    os.kill(pid, signal.SIGHUP)
    looks = 0
    while log.read_text().count('Serving on') < 2:
        assert lock.read() == pid
        looks += 1
    assert looks > 10
    assert lock.read() == pid
    ground.stop()
    assert ground.has_left_nothing()


def test_a_site_with_workers_is_its_supervisor(ground):
    ground.change(workers=2)
    ground.start()
    lock = PIDLock(str(ground.pid_file))
    assert lock.read() == ground.pid
    supervisor, workers = ground.pid, {*ground.processes()} - {ground.pid}
    assert len(workers) >= 2
    kill(supervisor)
    with pytest.raises(StalePIDFile):  # no worker holds it
        lock.read()
    eventually(lambda: all(map(has_ended, workers)))


def test_a_site_that_another_one_replaces_is_always_held(ground):
    ground.start()
    first = ground.pid
    lock = PIDLock(str(ground.pid_file))
    seen = []
    with ground.begin('site.ini', 'restart') as command:
        while command.process.poll() is None:
            seen.append(lock.read())
        assert command.wait() == 0, ground.report(command)
    assert {first, ground.pid} <= {*seen, lock.read()}
    assert {*seen} <= {first, ground.pid, 0}


def test_root_stops_the_site_and_not_the_process_whose_number_was_written(
    ground, victim
):
    ground.start()
    pid = ground.pid
    ground.pid_file.write_text(f'{victim.pid}\n')
    told = ground.run('site.ini', 'status')
    assert told.code == 0
    assert f'process {pid}' in told.out.text
    ground.stop()
    assert has_ended(pid)
    assert ground.has_left_nothing()


@pytest.mark.parametrize('args', [(), ('--pid-file', 'paster.pid')])
@pytest.mark.skipif(os.geteuid() != 0, reason='only root can give a file away')
def test_root_stops_a_site_whose_lock_was_given_to_another_user(ground, args):
    ground.start(*args)
    pid = ground.pid
    os.chown(ground.lock_file, OTHER, -1)
    stopped = ground.run('site.ini', 'stop', *args)
    assert (stopped.code, stopped.out.text) == (0, 'The site has stopped.\n')
    assert has_ended(pid)
    assert ground.has_left_nothing()


def test_a_number_without_a_lock_is_never_signalled(ground, victim):
    ground.start()
    kill(ground.pid)
    ground.pid_file.write_text(f'{victim.pid}\n')
    told = ground.run('site.ini', 'status')
    assert told.code == 1
    assert f'process {victim.pid} is another program' in told.out.text
    ground.stop()
    assert ground.has_left_nothing()


def test_whoever_holds_the_lock_without_a_name_cannot_have_another_process_stopped(
    ground, victim
):
    """The user of a site can lock the lock, which is its own, and write any number."""
    holder = """
fd = os.open(path + '.lock', os.O_RDWR | os.O_CREAT, 0o600)
fcntl.flock(fd, fcntl.LOCK_EX)
wait()
"""
    ground.change(start_timeout=1)
    ground.pid_file.write_text(f'{victim.pid}\n')
    with running(ground.pid_file, holder):
        stopped = ground.run('site.ini', 'stop')
        assert stopped.code == 1, stopped.report()
        (line,) = stopped.err.text.splitlines()
        assert 'starting' in line
        started = ground.run('site.ini', 'start')
        assert started.code == 1, started.report()
        (line,) = started.err.text.splitlines()
        assert line.startswith('The site is running, but does not answer')

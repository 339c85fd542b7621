"""What root opens where others can write: no link leads it elsewhere, no FIFO blocks it."""

import contextlib
import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from paste_wspbus.plugins.log_files import append_to
from paste_wspbus.unix import exposed
from paste_wspbus.unix.exposed import (
    give_away,
    is_exposed,
    open_file,
    place_of,
    remove,
)
from tests.kit.in_place import (
    make_fifo,
    make_folder,
    make_hard_link,
    make_link,
    make_socket,
)
from tests.kit.users import NOBODY

WRITE = os.O_WRONLY | os.O_APPEND


@pytest.fixture
def roots(tmp_path):
    """A folder of root's, to which nobody else can write; links are followed there."""
    assert os.geteuid() == 0, 'these tests are about root: run them as root'
    assert not is_exposed(str(tmp_path / 'file'))
    return tmp_path


@pytest.fixture
def users(roots):
    """A folder of another user's."""
    folder = roots / 'users'
    folder.mkdir()
    os.chown(folder, NOBODY.pw_uid, NOBODY.pw_gid)
    return folder


@pytest.fixture
def secret(roots):
    path = roots / 'secret'
    path.write_text('precious\n')
    path.chmod(0o600)
    return path


def append(path):
    """Append a line, as the log of a site does; the file is made if need be."""
    try:
        fd = open_file(str(path), WRITE)
    except FileNotFoundError:
        fd = open_file(str(path), WRITE | os.O_CREAT, 0o644)
    os.write(fd, b'a line\n')
    os.close(fd)


# -- where others can write --------------------------------------------------------------


def test_a_file_is_opened_or_made(users):
    append(users / 'site.log')
    append(users / 'site.log')
    assert (users / 'site.log').read_text() == 'a line\na line\n'


def make_dangling_link(path, secret):
    path.symlink_to(secret.with_name('nothing'))


def make_terminal(path, secret):
    path.symlink_to('/dev/ptmx')


KINDS = [
    make_link,
    make_dangling_link,
    make_hard_link,
    make_fifo,
    make_socket,
    make_folder,
    make_terminal,
]


@pytest.mark.parametrize('make', KINDS)
def test_only_a_regular_file_of_one_name_is_opened(users, secret, make):
    make(users / 'site.log', secret)
    with pytest.raises(OSError) as caught:
        append(users / 'site.log')
    assert caught.value.strerror
    assert secret.read_text() == 'precious\n'
    assert not secret.with_name('nothing').exists()


def test_a_fifo_that_somebody_reads_is_no_log(users):
    os.mkfifo(users / 'site.log')
    reader = os.open(users / 'site.log', os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(OSError, match='not a regular file'):
        append(users / 'site.log')
    assert os.read(reader, 100) == b''
    os.close(reader)


def test_no_folder_of_the_path_may_be_a_link_there(users, roots, secret):
    (users / 'log').symlink_to(roots)
    with pytest.raises(OSError, match='log: a symbolic link'):
        append(users / 'log' / 'secret')
    (users / 'deep').mkdir()
    (users / 'deep' / 'log').symlink_to('../../')
    with pytest.raises(OSError, match='log: a symbolic link'):
        append(users / 'deep' / 'log' / 'secret')
    assert secret.read_text() == 'precious\n'


def test_a_link_of_roots_leads_to_the_users_folder_where_none_is_followed(
    users, roots, secret
):
    (roots / 'log').symlink_to('users')
    (roots / 'site.log').symlink_to('log/site.log')
    append(roots / 'site.log')
    assert (users / 'site.log').read_text() == 'a line\n'
    (users / 'site.log').unlink()
    (users / 'site.log').symlink_to(secret)
    for path in (roots / 'site.log', roots / 'log' / 'site.log'):
        with pytest.raises(OSError, match='symbolic link'):
            append(path)
    assert secret.read_text() == 'precious\n'


def test_roots_folder_inside_of_the_users_is_the_users_too(users):
    (users / 'roots').mkdir()  # the user can rename it, and put a link in its place
    assert is_exposed(str(users / 'roots' / 'site.log'))


WRITABLE = {
    'the group': lambda folder: folder.chmod(0o775),
    'everybody': lambda folder: folder.chmod(0o777),
    'its owner': lambda folder: os.chown(folder, NOBODY.pw_uid, 0),
}


@pytest.mark.parametrize('change', WRITABLE.values(), ids=WRITABLE)
def test_whoever_can_write_to_a_folder_is_another(roots, change):
    (roots / 'log').mkdir()
    assert not is_exposed(str(roots / 'log' / 'site.log'))
    change(roots / 'log')
    assert is_exposed(str(roots / 'log' / 'site.log'))


def test_what_is_roots_stays_where_it_is_in_a_sticky_folder(roots, secret):
    sticky = roots / 'tmp'
    sticky.mkdir()
    sticky.chmod(0o1777)
    (sticky / 'roots').mkdir()
    (sticky / 'theirs').mkdir()
    os.chown(sticky / 'theirs', NOBODY.pw_uid, NOBODY.pw_gid)
    (sticky / 'link').symlink_to(secret)
    assert not is_exposed(str(sticky / 'roots' / 'site.log'))
    assert is_exposed(str(sticky / 'theirs' / 'site.log'))
    assert is_exposed(str(sticky / 'site.log'))
    with pytest.raises(OSError, match='symbolic link'):
        append(sticky / 'link')


def test_a_sticky_folder_of_the_users_protects_nothing(users):
    users.chmod(0o1777)
    (users / 'roots').mkdir()
    assert is_exposed(str(users / 'roots' / 'site.log'))


# -- elsewhere -----------------------------------------------------------------------------


def test_links_fifos_and_devices_of_roots_are_opened(roots, secret):
    for make in (make_link, make_dangling_link, make_hard_link):
        make(roots / make.__name__, secret)
        append(roots / make.__name__)
    assert secret.read_text() == 'precious\na line\na line\n'
    assert secret.with_name('nothing').read_text() == 'a line\n'
    os.mkfifo(roots / 'fifo')
    reader = os.open(roots / 'fifo', os.O_RDONLY | os.O_NONBLOCK)
    append(roots / 'fifo')
    assert os.read(reader, 100) == b'a line\n'
    os.close(reader)
    append(Path(os.devnull))


@pytest.mark.parametrize(
    'path', ['/dev/stdout', '/dev/fd/1', '/proc/self/fd/1', 'link']
)
def test_the_output_that_a_process_has_is_opened(roots, path):
    (roots / 'link').symlink_to('/dev/stdout')
    script = f"""
import os
from paste_wspbus.plugins.log_files import append_to
append_to({path!r}, (2,))
os.write(2, b'a line')
"""
    command = [sys.executable, '-c', script]
    done = subprocess.run(command, cwd=roots, stdout=subprocess.PIPE, check=True)
    assert done.stdout == b'a line'


def test_another_user_opens_as_ever(users):
    """It can harm only itself."""
    script = """
import os, sys
from paste_wspbus.plugins.log_files import append_to
os.chdir(sys.argv[1])
os.setgid(int(sys.argv[3]))
os.setuid(int(sys.argv[2]))
os.symlink('target', 'site.log')
append_to('site.log', (1,))
os.write(1, b'a line')
"""
    words = [str(users), str(NOBODY.pw_uid), str(NOBODY.pw_gid)]
    subprocess.run([sys.executable, '-c', script, *words], check=True)
    assert (users / 'target').read_text() == 'a line'


def test_a_loop_of_links_is_an_error(roots):
    (roots / 'one').symlink_to('two')
    (roots / 'two').symlink_to('one')
    with pytest.raises(OSError) as caught:
        append(roots / 'one')
    assert caught.value.errno == errno.ELOOP


def test_a_missing_folder_is_missing(users, roots):
    for folder in (users, roots):
        with pytest.raises(FileNotFoundError):
            append(folder / 'no' / 'site.log')


def test_no_descriptor_stays_open(users, secret):
    before = os.listdir('/proc/self/fd')
    append(users / 'site.log')
    for make in KINDS[:4]:
        make(users / make.__name__, secret)
        with pytest.raises(OSError):
            append(users / make.__name__)
    with pytest.raises(OSError):
        append(users / 'no' / 'site.log')
    assert os.listdir('/proc/self/fd') == before


# -- the log of a site ---------------------------------------------------------------------


def test_a_log_that_is_made_is_new_whatever_stands_there_the_next_moment(users):
    assert append_to(str(users / 'site.log'), ()) is True
    assert append_to(str(users / 'site.log'), ()) is False


# -- sockets -------------------------------------------------------------------------------


def test_a_socket_is_given_away_and_nothing_else(users, secret):
    path = users / 'site.sock'
    make_socket(path, secret)
    give_away(str(path), NOBODY.pw_uid, NOBODY.pw_gid)
    assert (path.lstat().st_uid, path.lstat().st_gid) == (NOBODY.pw_uid, NOBODY.pw_gid)
    with pytest.raises(OSError, match='exchanged'):  # it is not root's any more
        give_away(str(path), 0, 0)
    path.unlink()
    for make in (make_link, make_hard_link, make_fifo):
        make(path, secret)
        with pytest.raises(OSError, match='exchanged'):
            give_away(str(path), NOBODY.pw_uid, NOBODY.pw_gid)
        path.unlink()
    make_socket(users / 'other.sock', secret)
    path.hardlink_to(users / 'other.sock')
    with pytest.raises(OSError, match='exchanged'):
        give_away(str(path), NOBODY.pw_uid, NOBODY.pw_gid)
    assert secret.stat().st_uid == 0
    assert (users / 'other.sock').lstat().st_uid == 0


def test_only_the_socket_that_is_meant_is_removed(users, secret):
    path = users / 'site.sock'
    make_socket(path, secret)
    status = path.lstat()
    assert not remove(str(path), (status.st_dev, status.st_ino + 1))
    assert remove(str(path), (status.st_dev, status.st_ino))
    make_hard_link(path, secret)
    assert not remove(str(path))
    assert path.exists()


WITHOUT_DESCRIPTORS = """
import os, resource, socket, sys
from paste_wspbus.unix import exposed

folder, then = sys.argv[1:]
path = f'{folder}/site.sock'
sock = socket.socket(socket.AF_UNIX)
with exposed.place_of(path, makes=True):
    sock.bind(path)
status = os.lstat(path)
exec(then)
resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30))
close, taken = os.close, []

def take():
    try:
        while True:
            taken.append(os.open('/dev/null', os.O_RDONLY))
    except OSError:
        pass

def close_and_lose(fd):
    close(fd)
    take()  # another thread is faster than whoever closes a descriptor

take()
os.close = close_and_lose
print(exposed.remove(path, (status.st_dev, status.st_ino)))
"""


def remove_without_descriptors(folder, then=''):
    words = [sys.executable, '-c', WITHOUT_DESCRIPTORS, str(folder), then]
    done = subprocess.run(words, capture_output=True, text=True)
    return done.stdout, done.stderr


@pytest.mark.parametrize('whose', ['users', 'roots'])
def test_no_descriptor_has_to_be_free_for_the_removal(request, whose):
    folder = request.getfixturevalue(whose)
    assert remove_without_descriptors(folder) == ('True\n', '')
    assert not (folder / 'site.sock').exists()


SWAPPED = [
    # The user moves the folder away, and puts a link to root's in its place.
    "os.rename(folder, folder + '.old'); os.symlink(folder + '.roots', folder)",
    # The user exchanges the file.
    "os.rename(path, path + '.old'); os.link(folder + '.roots/site.sock', path)",
]


@pytest.mark.parametrize('then', SWAPPED)
def test_the_removal_without_descriptors_harms_no_other_file(users, secret, then):
    other = users.with_name('users.roots')
    other.mkdir()
    make_socket(other / 'site.sock', secret)
    out, err = remove_without_descriptors(users, then)
    assert (other / 'site.sock').exists(), out + err


def test_a_number_that_other_code_has_closed_is_not_used(users):
    lose = 'os.closerange(4, 20); [os.open("/", os.O_RDONLY) for _ in range(20)]'
    out, err = remove_without_descriptors(users, lose)
    assert out == ''
    assert err.splitlines()[-1].startswith('OSError: [Errno 24]')


def test_the_user_of_the_site_does_not_get_roots_folders(roots):
    """With the descriptor of a folder, it would get past a folder that it may not enter."""
    script = f"""
import os
from paste_wspbus.unix.exposed import place_of
from paste_wspbus.unix.users import Identity

with place_of({str(roots / 'site.pid')!r}, makes=True):
    pass
print(len(os.listdir('/proc/self/fd')))
Identity('nobody', None).take()
print(len(os.listdir('/proc/self/fd')))
"""
    out = subprocess.check_output([sys.executable, '-c', script], text=True)
    before, after = map(int, out.split())
    assert after == before - 1


# -- at the same time ----------------------------------------------------------------------

SWAP = """
import os, sys
folder, secret, uid, gid = sys.argv[1:]
os.chdir(folder)
os.setgid(int(gid))
os.setuid(int(uid))
os.mkdir('real')
open('real/site.log', 'w').close()
os.mkdir('other')
os.symlink(os.path.dirname(secret), 'link')
os.symlink(secret, 'real/link')
print('up', flush=True)
while True:
    # The folder is a link to root's now and then, and the file to the secret.
    os.rename('real', 'log'); os.rename('log', 'real')
    os.rename('link', 'log'); os.rename('log', 'link')
    os.rename('real/site.log', 'real/old')
    os.rename('real/link', 'real/site.log')
    os.rename('real/site.log', 'real/link')
    os.rename('real/old', 'real/site.log')
"""


@contextlib.contextmanager
def swapping(folder, secret):
    words = [str(folder), str(secret), str(NOBODY.pw_uid), str(NOBODY.pw_gid)]
    process = subprocess.Popen(
        [sys.executable, '-c', SWAP, *words], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout.readline() == b'up\n'
        yield
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_links_that_are_swapped_in_meanwhile_lead_root_nowhere():
    with tempfile.TemporaryDirectory() as outer:
        os.chmod(outer, 0o755)
        users, roots = Path(outer, 'users'), Path(outer, 'roots')
        users.mkdir()
        os.chown(users, NOBODY.pw_uid, NOBODY.pw_gid)
        roots.mkdir()
        secret = roots / 'site.log'
        secret.write_text('precious\n')
        outcomes = {True: 0, False: 0}
        with swapping(users, secret):
            for _ in range(1000):
                for path in (users / 'log' / 'site.log', users / 'real' / 'site.log'):
                    try:
                        os.close(open_file(str(path), WRITE))
                        outcomes[True] += 1
                    except OSError:
                        outcomes[False] += 1
                    with contextlib.suppress(OSError):
                        append(path)
                    with contextlib.suppress(OSError), place_of(str(path)) as place:
                        name, folder = place
                        os.unlink(f'{name}.gone', dir_fd=folder)
        assert all(outcomes.values()), outcomes  # both have happened
        assert secret.read_text() == 'precious\n'
        assert [path.name for path in roots.iterdir()] == ['site.log']


def test_a_file_that_another_process_makes_at_the_same_time_is_opened(
    users, monkeypatch
):
    path = users / 'access.log'
    real = exposed.open_file

    def open_file(name, flags, mode=0o666):
        if not path.exists():
            path.touch()  # another worker, a moment later
            raise FileNotFoundError
        return real(name, flags, mode)

    monkeypatch.setattr(exposed, 'open_file', open_file)
    fd, is_new = exposed.open_or_make(str(path), WRITE)
    os.close(fd)
    assert not is_new

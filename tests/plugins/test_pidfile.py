"""The PID file: what may stand in it, who holds it, and what the commands make of it."""

import contextlib
import inspect
import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from cherrypy.process import plugins as cherrypy_plugins

from paste_wspbus.bus import Bus, ChannelFailures, State
from paste_wspbus.plugins.pidfile import (
    AlreadyRunning,
    ForeignPIDFile,
    GarbagePIDFile,
    PIDFile,
    PIDFileError,
    PIDLock,
    StalePIDFile,
    UnreadablePIDFile,
)
from tests.kit import Process, eventually, write
from tests.kit.daemons import ini
from tests.kit.processes import has_ended, kill
from tests.kit.users import AS_PLAIN_USER, PLAIN_USER


@pytest.fixture
def bus():
    bus = Bus()
    bus.lines = []
    bus.subscribe('log', lambda msg, level: bus.lines.append(msg))
    yield bus
    with contextlib.suppress(ChannelFailures):
        bus.exit()


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'site.pid'


@pytest.fixture
def locks():
    """Make locks that are given back at the end."""
    made = []

    def make(path):
        made.append(PIDLock(str(path)))
        return made[-1]

    yield make
    for lock in made:
        lock.forget()


@pytest.fixture
def dead():
    """The number of a process that is gone."""
    process = subprocess.Popen([sys.executable, '-c', ''])
    process.wait()
    return process.pid


@contextlib.contextmanager
def program(folder, name):
    """A living process of a program with this name."""
    write(folder, {name: 'import sys\nprint("up", flush=True)\nsys.stdin.read()\n'})
    with Process([sys.executable, name], folder) as process:
        assert process.out.wait_for('up'), process.report()
        yield process


def plain_bus(folder, script, command=()):
    """A script with a plain bus that has a PID file; for a ``with`` block."""
    first = """
import os, signal, sys
from paste_wspbus.bus import Bus
from paste_wspbus.plugins.pidfile import PIDFile, PIDLock
bus = Bus()
PIDFile(bus, 'site.pid').subscribe()


def say(*words):
    os.write(1, (' '.join(map(str, words)) + '\\n').encode())


"""
    write(folder, {'script.py': first + script})
    words = [*command, sys.executable, '-W', 'error', 'script.py']
    return Process(words, folder)


# -- the plugin -----------------------------------------------------------------


def test_the_file_is_there_from_start_to_exit(bus, path):
    PIDFile(bus, str(path)).subscribe()
    assert not path.exists()
    bus.start()
    assert path.read_text() == f'{os.getpid()}\n'
    bus.stop()
    assert path.read_text() == f'{os.getpid()}\n'
    bus.start()
    assert path.read_text() == f'{os.getpid()}\n'
    bus.exit()
    assert not path.exists()
    assert f'PID {os.getpid()} written to {str(path)!r}.' in bus.lines
    assert bus.lines.count(f'PID file removed: {str(path)!r}.') == 1


def test_it_is_made_and_ordered_as_cherrypys(bus, path):
    theirs = cherrypy_plugins.PIDFile
    assert list(inspect.signature(PIDFile).parameters) == list(
        inspect.signature(theirs).parameters
    )
    called = []
    for priority in (theirs.start.priority - 1, theirs.start.priority + 1):
        bus.subscribe('start', lambda: called.append(path.exists()), priority=priority)
    for priority in (49, 51):
        bus.subscribe('exit', lambda: called.append(path.exists()), priority=priority)
    plugin = PIDFile(bus, pidfile=str(path))
    plugin.subscribe()
    assert plugin.pidfile == str(path)
    bus.start()
    bus.exit()
    assert called == [False, True, True, False]


def test_it_can_be_unsubscribed(bus, path):
    plugin = PIDFile(bus, path)
    plugin.subscribe()
    plugin.unsubscribe()
    bus.start()
    assert not path.exists()


def test_a_relative_path_is_that_of_the_beginning(bus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'elsewhere').mkdir()
    PIDFile(bus, 'site.pid').subscribe()
    monkeypatch.chdir(tmp_path / 'elsewhere')
    bus.start()
    assert (tmp_path / 'site.pid').exists()
    bus.exit()
    assert not (tmp_path / 'site.pid').exists()


def test_it_is_0644_under_an_open_umask(bus, path):
    PIDFile(bus, path).subscribe()
    before = os.umask(0)
    try:
        bus.start()
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_stale_file_is_taken_over_and_that_is_said(bus, path, dead):
    path.write_text(f'{dead}\n')
    PIDFile(bus, path).subscribe()
    bus.start()
    assert path.read_text() == f'{os.getpid()}\n'
    assert any(f'process {dead}' in line and 'taken over' in line for line in bus.lines)


def failure(bus):
    """What a PIDFile plugin raised in a start that failed."""
    with pytest.raises(ChannelFailures) as caught:
        bus.start()
    assert bus.state is State.STOPPED
    return caught.value.__cause__


def test_a_second_site_does_not_start_and_leaves_the_firsts_file(bus, path):
    PIDFile(bus, path).subscribe()
    bus.start()
    second = Bus()
    PIDFile(second, path).subscribe()
    error = failure(second)
    assert isinstance(error, AlreadyRunning)
    assert (error.path, error.pid) == (str(path), os.getpid())
    second.exit()
    assert path.read_text() == f'{os.getpid()}\n'
    assert PIDLock(str(path)).read() == os.getpid()


def test_a_site_that_is_starting_is_already_running(path, locks):
    locks(path).acquire()
    with pytest.raises(AlreadyRunning) as caught:
        locks(path).acquire()
    assert caught.value.pid is None
    assert 'starting' in str(caught.value)


def test_a_site_that_fails_to_start_removes_its_file(bus, path):
    PIDFile(bus, path).subscribe()
    bus.subscribe('start', lambda: 1 / 0, priority=75)
    assert isinstance(failure(bus), ZeroDivisionError)
    bus.exit()
    assert not path.exists()


# -- what may stand there -------------------------------------------------------


def test_no_file_and_an_empty_one_are_nobodys(path, locks):
    assert PIDLock(str(path)).read() is None
    assert not path.exists()
    path.touch()
    assert PIDLock(str(path)).read() is None
    assert locks(path).acquire() is None


def test_a_stale_file_is_known_by_its_number(path, locks, dead):
    path.write_text(f'{dead}\n')
    with pytest.raises(StalePIDFile) as caught:
        PIDLock(str(path)).read()
    assert (caught.value.path, caught.value.pid) == (str(path), dead)
    assert str(dead) in str(caught.value)
    assert path.read_text() == f'{dead}\n'
    left = locks(path).acquire()
    assert isinstance(left, StalePIDFile)
    assert left.pid == dead


def test_a_zombies_file_is_stale(path):
    process = subprocess.Popen([sys.executable, '-c', ''])
    try:
        eventually(lambda: has_ended(process.pid))
        path.write_text(f'{process.pid}\n')
        with pytest.raises(StalePIDFile):
            PIDLock(str(path)).read()
    finally:
        process.wait()


def test_a_number_that_went_to_another_program_is_foreign(tmp_path, path, locks):
    with program(tmp_path, 'cron.py') as other:
        path.write_text(f'{other.pid}\n')
        with pytest.raises(ForeignPIDFile) as caught:
            PIDLock(str(path)).read()
        assert caught.value.pid == other.pid
        assert caught.value.program == 'cron.py'
        assert 'cron.py' in str(caught.value)
        left = locks(path).acquire()
        assert isinstance(left, ForeignPIDFile)
        assert other.process.poll() is None


def test_the_number_of_this_very_process_is_no_obstacle(path, locks):
    """As in a container, where every start may get the same number."""
    path.write_text(f'{os.getpid()}\n')
    assert locks(path).acquire() is None


@pytest.mark.parametrize('name', ['paster', 'pserve', 'gunicorn'])
def test_the_file_of_another_server_that_runs_is_not_taken(
    bus, tmp_path, path, name, locks
):
    with program(tmp_path, name) as other:
        path.write_text(f'{other.pid}\n')
        PIDFile(bus, path).subscribe()
        error = failure(bus)
        assert isinstance(error, ForeignPIDFile)
        assert (error.pid, error.program) == (other.pid, name)
        bus.exit()
        assert path.read_text() == f'{other.pid}\n'


GARBAGE = {
    'text': b'[app:main]\n',
    'two numbers': b'12 34\n',
    'two lines': b'12\n34\n',
    'negative': b'-5\n',
    'zero': b'0\n',
    'too large': b'99999999999\n',
    'beyond a number': b'4294967296\n',
    'fullwidth digits': '１２'.encode(),
    'no UTF-8': b'\xff\xfe',
    'zeros': bytes(8),
    'long': b'1' * 100_000,
}


@pytest.mark.parametrize('text', GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_neither_taken_nor_changed(bus, path, text):
    path.write_bytes(text)
    with pytest.raises(GarbagePIDFile) as caught:
        PIDLock(str(path)).read()
    assert caught.value.path == str(path)
    PIDFile(bus, path).subscribe()
    assert isinstance(failure(bus), GarbagePIDFile)
    bus.exit()
    assert path.read_bytes() == text


def test_space_around_the_number_is_no_garbage(path, dead):
    path.write_text(f'  {dead} \n')
    with pytest.raises(StalePIDFile):
        PIDLock(str(path)).read()


def make_link(path):
    target = path.with_name('target')
    target.write_text('precious')
    path.symlink_to(target)


def make_dangling_link(path):
    path.symlink_to(path.with_name('nothing'))


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


KINDS = {
    'symbolic link': make_link,
    'dangling link': make_dangling_link,
    'folder': Path.mkdir,
    'FIFO': os.mkfifo,
    'socket': make_socket,
}


@pytest.mark.parametrize('make', KINDS.values(), ids=KINDS)
def test_what_is_no_regular_file_is_unreadable(bus, path, make):
    make(path)
    before = path.lstat()
    with pytest.raises(UnreadablePIDFile):
        PIDLock(str(path)).read()
    PIDFile(bus, path).subscribe()
    assert isinstance(failure(bus), UnreadablePIDFile)
    bus.exit()
    after = path.lstat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)


def test_a_symbolic_link_is_named_as_the_reason_and_its_target_unchanged(path):
    make_link(path)
    with pytest.raises(UnreadablePIDFile, match='symbolic link'):
        PIDLock(str(path)).acquire()
    assert path.with_name('target').read_text() == 'precious'


def test_a_dangling_link_makes_no_file(path):
    make_dangling_link(path)
    with pytest.raises(UnreadablePIDFile):
        PIDLock(str(path)).acquire()
    assert not path.with_name('nothing').exists()


def test_a_missing_folder_is_named(tmp_path):
    path = tmp_path / 'no' / 'site.pid'
    with pytest.raises(UnreadablePIDFile) as caught:
        PIDLock(str(path)).acquire()
    assert str(tmp_path / 'no') in caught.value.problem
    assert PIDLock(str(path)).read() is None


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(UnreadablePIDFile):
        PIDLock(str(tmp_path / 'file' / 'site.pid')).acquire()


def test_they_are_distinct_errors_of_one_kind():
    kinds = [
        AlreadyRunning,
        ForeignPIDFile,
        GarbagePIDFile,
        StalePIDFile,
        UnreadablePIDFile,
    ]
    for kind in kinds:
        assert issubclass(kind, PIDFileError)
        assert [other for other in kinds if issubclass(kind, other)] == [kind]


# -- whose it is ----------------------------------------------------------------


def test_a_file_that_was_put_in_its_place_is_left_alone(bus, path):
    PIDFile(bus, path).subscribe()
    bus.start()
    path.unlink()
    path.write_text('4711\n')
    bus.exit()
    assert path.read_text() == '4711\n'


def test_a_file_that_somebody_removed_does_not_disturb_the_exit(bus, path):
    PIDFile(bus, path).subscribe()
    bus.start()
    path.unlink()
    bus.exit()
    assert not path.exists()
    assert bus.state is State.EXITING


def test_the_exit_of_a_forked_child_does_not_remove_it(tmp_path, path):
    script = """
bus.start()
child = os.fork()
if not child:
    sys.exit(0)
say('child', os.waitpid(child, 0)[1])
child = os.fork()
if not child:
    bus.exit()
    os._exit(0)
os.waitpid(child, 0)
say(open('site.pid').read().strip())
try:
    PIDLock('site.pid').acquire()
except Exception as error:
    say(type(error).__name__)
"""
    with plain_bus(tmp_path, script) as process:
        assert process.wait() == 0, process.report()
    assert process.out.text.splitlines() == [
        'child 0',
        str(process.pid),
        'AlreadyRunning',
    ]
    assert not path.exists()


def test_a_forked_child_that_lives_longer_does_not_keep_the_lock(tmp_path, path, locks):
    script = """
bus.start()
child = os.fork()
if not child:
    sys.stdin.read()
    os._exit(0)
say('child', child)
os.kill(os.getpid(), signal.SIGKILL)
"""
    with plain_bus(tmp_path, script) as process:
        assert process.out.wait_for('child'), process.report()
        child = int(process.out.text.split()[1])
        process.process.wait()
        assert not has_ended(child)
        left = locks(path).acquire()
        assert isinstance(left, StalePIDFile)
        assert left.pid == process.pid
        assert not has_ended(child)
    eventually(lambda: has_ended(child))


def test_a_program_that_the_site_started_does_not_keep_the_lock(tmp_path, path, locks):
    script = """
import subprocess
bus.start()
child = subprocess.Popen(['cat'], close_fds=False)
say('child', child.pid)
os.kill(os.getpid(), signal.SIGKILL)
"""
    with plain_bus(tmp_path, script) as process:
        assert process.out.wait_for('child'), process.report()
        child = int(process.out.text.split()[1])
        process.process.wait()
        assert isinstance(locks(path).acquire(), StalePIDFile)
        assert not has_ended(child)
    eventually(lambda: has_ended(child))


def test_a_site_can_start_while_a_child_of_the_killed_one_lives(ground):
    ground.start()
    ground.get('/fork')
    kill(ground.pid)
    (child,) = ground.processes()
    assert ground.run('site.ini', 'status').code == 1
    ground.start()
    assert ground.get() == f'hello {ground.pid}'
    assert not has_ended(child)
    kill(child)


def test_it_is_emptied_where_its_folder_does_not_let_it_be_removed(tmp_path, path):
    script = """
bus.start()
os.chmod('.', 0o555)
bus.exit()
os.chmod('.', 0o755)
say('left', os.path.getsize('site.pid'))
"""
    words = [sys.executable, '-c', PLAIN_USER]
    with plain_bus(tmp_path, script, words) as process:
        assert process.wait() == 0, process.report()
    assert process.out.text == 'left 0\n'
    assert PIDLock(str(path)).read() is None


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / 'locked').mkdir(0o555)
    script = """
try:
    PIDLock('locked/site.pid').acquire()
except Exception as error:
    say(type(error).__name__, error)
"""
    words = [sys.executable, '-c', PLAIN_USER]
    with plain_bus(tmp_path, script, words) as process:
        assert process.wait() == 0, process.report()
    assert process.out.text.startswith('UnreadablePIDFile')
    assert 'ermission denied' in process.out.text


def test_a_full_disk_is_an_error_and_leaves_no_file(tmp_path, path):
    script = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
try:
    bus.start()
except Exception as error:
    say(type(error.__cause__).__name__, bus.state.name)
"""
    with plain_bus(tmp_path, script) as process:
        assert process.wait() == 0, process.report()
    assert process.out.text == 'PIDFileError STOPPED\n'
    assert not path.exists()


# -- what the commands make of it -----------------------------------------------


def outcomes(ground, *args, **kwargs):
    """The exit codes of status, start and stop, and the lines that they print."""
    processes = [
        ground.run('site.ini', subcommand, *args, **kwargs)
        for subcommand in ('status', 'start', 'stop')
    ]
    for process in processes:
        assert 'Traceback' not in process.err.text, process.report()
    texts = [process.out.text + process.err.text for process in processes]
    return [process.code for process in processes], texts


def test_the_commands_take_a_stale_file_over(ground, dead):
    ground.pid_file.write_text(f'{dead}\n')
    codes, texts = outcomes(ground)
    assert codes == [1, 0, 0]
    assert f'process {dead}, which wrote it, is gone' in texts[0]
    assert (
        f'process {dead}, which wrote it, is gone; this site uses the file now'
        in ground.log
    )
    assert ground.has_left_nothing()


def test_stop_removes_a_stale_file(ground, dead):
    ground.pid_file.write_text(f'{dead}\n')
    stopped = ground.stop()
    assert 'not running' in stopped.out.text
    assert str(dead) in stopped.out.text
    assert not ground.pid_file.exists()


def test_the_commands_leave_a_process_alone_that_got_the_number(ground):
    (ground.folder / 'other').mkdir()
    with program(ground.folder / 'other', 'cron.py') as other:
        ground.pid_file.write_text(f'{other.pid}\n')
        stopped = ground.stop()
        assert 'cron.py' in stopped.out.text
        assert not ground.pid_file.exists()
        ground.pid_file.write_text(f'{other.pid}\n')
        codes, texts = outcomes(ground)
        assert codes == [1, 0, 0]
        assert 'cron.py' in texts[0]
        assert 'cron.py' in ground.log
        assert other.process.poll() is None
    assert ground.has_left_nothing()


def test_the_commands_leave_the_file_of_another_server_alone(ground):
    (ground.folder / 'other').mkdir()
    with program(ground.folder / 'other', 'pserve') as other:
        ground.pid_file.write_text(f'{other.pid}\n')
        codes, texts = outcomes(ground)
        assert codes[:2] == [1, 2]
        for text in texts:
            assert 'pserve' in text
            assert str(other.pid) in text
        assert ground.pid_file.read_text() == f'{other.pid}\n'
        assert 'removed' not in texts[2]
        assert other.process.poll() is None
    assert len(texts[1].splitlines()) == 1, texts[1]


UNKNOWN = {
    'garbage': lambda path: path.write_text('[app:main]\n'),
    'symbolic link': make_link,
    'folder': Path.mkdir,
    'FIFO': os.mkfifo,
}


@pytest.mark.parametrize('make', UNKNOWN.values(), ids=UNKNOWN)
def test_the_commands_do_not_touch_what_is_no_pid_file(ground, make):
    make(ground.pid_file)
    before = ground.pid_file.lstat()
    codes, texts = outcomes(ground)
    assert codes == [4, 2, 2]
    assert all('paster.pid' in text for text in texts)
    assert [len(text.splitlines()) for text in texts] == [1, 1, 1], texts
    after = ground.pid_file.lstat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert ground.processes() == []
    assert not ground.control.exists()


def test_the_commands_say_that_they_may_not_read_the_file(ground):
    ground.pid_file.touch(0o000)
    codes, texts = outcomes(ground, command=AS_PLAIN_USER)
    assert codes == [4, 2, 2]
    assert all('ermission denied' in text for text in texts)
    assert [len(text.splitlines()) for text in texts] == [1, 1, 1], texts
    assert ground.processes() == []


def test_the_commands_say_that_they_may_not_write_in_the_folder(ground):
    (ground.folder / 'locked').mkdir(0o555)
    name = '--pid-file=locked/site.pid'
    codes, texts = outcomes(ground, name, command=AS_PLAIN_USER)
    assert codes == [3, 2, 0]
    assert 'ermission denied' in texts[1]
    assert len(texts[1].splitlines()) == 1, texts[1]
    assert ground.processes() == []


def test_the_commands_say_that_the_folder_is_missing(ground):
    codes, texts = outcomes(ground, '--pid-file=no/such/site.pid')
    assert codes == [3, 2, 0]
    assert 'no/such' in texts[1]
    assert len(texts[1].splitlines()) == 1, texts[1]
    assert ground.processes() == []


def test_start_on_a_full_disk_fails_and_leaves_nothing(ground):
    process = ground.run(
        'site.ini',
        'start',
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
    )
    assert process.code == 2, ground.report(process)
    (line,) = process.err.text.splitlines()
    assert line.startswith('PID file paster.pid: ')
    assert ground.has_left_nothing()


def test_a_site_in_the_foreground_holds_the_file_too(ground):
    with ground.begin('site.ini', '--pid-file=paster.pid') as site:
        site.wait_until_served()
        assert ground.pid == site.pid
        second = ground.run('site.ini', '--pid-file', 'paster.pid')
        assert second.code == 1, second.report()
        (line,) = second.err.text.splitlines()
        assert f'process {site.pid} ' in line
        assert site.get().text == f'hello {site.pid}'
        site.send(signal.SIGTERM)
        assert site.wait() == 0, site.report()
    assert ground.has_left_nothing()


AT_BIND = """
    import sys

    from paste_wspbus.command.main import main
    from paste_wspbus.ini.config import Config

    bind = Config.bind


    def read_and_bind(*args):
        with open('paster.pid') as pid_file, open('at_bind', 'w') as file:
            file.write(repr(pid_file.read()))
        return bind(*args)


    Config.bind = read_and_bind
    sys.exit(main(['site.ini', 'start']))
"""


def test_the_number_is_written_only_when_the_port_is_bound(ground):
    write(ground.folder, {'script.py': AT_BIND})
    with Process([sys.executable, 'script.py'], ground.folder) as process:
        assert process.wait() == 0, ground.report(process)
    assert (ground.folder / 'at_bind').read_text() == "''"
    assert ground.pid_file.read_text() == f'{ground.pid}\n'
    ground.find_url(process)
    assert ground.get() == f'hello {ground.pid}'


def test_a_running_sites_file_that_somebody_emptied_does_not_fool_the_commands(ground):
    ground.start()
    pid = ground.pid
    os.truncate(ground.pid_file, 0)
    told = ground.run('site.ini', 'status')
    assert told.code == 0
    assert 'is running' in told.out.text
    stopped = ground.run('site.ini', 'stop')
    assert has_ended(pid) or stopped.code != 0, stopped.report()
    assert ('has stopped' in stopped.out.text) == has_ended(pid), stopped.report()


def test_a_running_site_whose_pid_file_was_removed_is_found_by_its_lock(ground):
    ground.start()
    pid = ground.pid
    ground.pid_file.unlink()
    told = ground.run('site.ini', 'status')
    assert told.code == 0
    assert f'process {pid}' in told.out.text
    second = ground.run('site.ini', 'start')
    assert second.code == 0
    assert f'running already (process {pid})' in second.out.text
    ground.stop()
    assert has_ended(pid)
    assert ground.has_left_nothing()


def test_a_second_site_whose_first_ones_files_were_removed_keeps_its_own(ground):
    ground.start()
    first = ground.pid
    ground.pid_file.unlink()
    ground.lock_file.unlink()
    told = ground.run('site.ini', 'start')
    assert told.out.text == f'The site is running already (process {first}).\n'
    write(ground.folder, {'other.ini': ini()})
    started = ground.run('other.ini', 'start')
    assert started.code == 0, started.report()
    ground.find_url(started)
    second = ground.pid
    assert second != first
    kill(first, signal.SIGTERM)
    eventually(lambda: has_ended(first))
    assert ground.pid == second
    told = ground.run('other.ini', 'status')
    assert told.code == 0
    assert f'process {second}' in told.out.text
    assert ground.url in told.out.text
    assert ground.run('other.ini', 'stop').code == 0
    assert ground.has_left_nothing()


def test_an_ini_that_fails_leaves_the_file_of_the_site_that_runs(ground):
    ground.start()
    pid = ground.pid
    write(ground.folder, {'other.ini': ini(app='make_broken')})
    process = ground.run('other.ini', '--pid-file=paster.pid')
    assert process.code == 1, process.report()
    assert ground.pid == pid
    assert ground.run('site.ini', 'status').code == 0

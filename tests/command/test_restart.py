"""`restart` of a daemon: nobody is refused, and a failure leaves nothing."""

import contextlib
import os
import re
import signal
import socket

import pytest

from tests.kit import eventually, free_port, is_free
from tests.kit.daemons import Clients, LockWatch, ini
from tests.kit.processes import has_ended, kill
from tests.kit.sites import write

MORE = """
def make_with_lock(global_conf):
    import zc.lockfile

    global_conf['wspbus'].bus.lock = zc.lockfile.LockFile('data.lock')
    return make(global_conf)


def make_noted(global_conf):
    say('loaded')
    return make(global_conf)


def make_at_noted_gate(global_conf):
    say('at the gate')
    return make_at_gate(global_conf)
"""


def add(ground):
    path = ground.folder / 'webapp.py'
    path.write_text(path.read_text() + MORE)


def restart(ground, *args):
    process = ground.run('site.ini', 'restart', *args)
    assert process.code == 0, ground.report(process)
    return process


def test_no_connection_is_refused_or_reset_while_a_site_is_restarted(ground):
    ground.start()
    first, port = ground.pid, ground.port
    with Clients(ground) as clients:
        assert clients.have_seen(f'hello {first}')
        ground.change(text='changed')
        with LockWatch(ground) as watch:
            process = restart(ground)
        second = ground.pid
        assert clients.have_seen(f'changed {second}')
    assert clients.errors == []
    assert set(clients.texts) == {f'hello {first}', f'changed {second}'}
    assert second != first
    eventually(lambda: has_ended(first))  # it ends when it has handed all over
    assert watch.was_free == []
    assert watch.looks > 0
    ground.find_url(process)
    assert ground.port == port
    assert ground.processes() == [second]
    code, text = ground.status()
    assert code == 0
    assert f'process {second}' in text
    ground.stop()
    assert ground.has_left_nothing()


def opened(pid):
    """The descriptors of a process, and what they are."""
    found = {}
    for name in os.listdir(f'/proc/{pid}/fd'):
        with contextlib.suppress(FileNotFoundError):  # it is closed at this moment
            found[name] = os.readlink(f'/proc/{pid}/fd/{name}')
    return found


def pipes(descriptors):
    return {what for what in descriptors.values() if what.startswith('pipe:')}


def test_a_site_can_be_restarted_again_and_again(ground):
    ground.start()
    port, seen = ground.port, {ground.pid}
    assert ground.get() == f'hello {ground.pid}'
    # The server's loop has made one, and so has the main thread, when it waits for the end.
    eventually(lambda: len(pipes(opened(ground.pid))) == 2)
    first = opened(ground.pid)
    for _ in range(3):
        ground.find_url(restart(ground))
        assert ground.port == port
        seen.add(ground.pid)
        assert ground.get() == f'hello {ground.pid}'
    assert len(seen) == 4
    try:
        eventually(lambda: len(opened(ground.pid)) <= len(first))
    except AssertionError:
        raise AssertionError((first, opened(ground.pid))) from None


def test_restart_of_what_does_not_run_starts_it(ground):
    ground.find_url(restart(ground))
    assert ground.get() == f'hello {ground.pid}'


def test_restart_of_a_killed_site_starts_it(ground):
    ground.start()
    kill(ground.pid)
    ground.find_url(restart(ground))
    assert ground.get() == f'hello {ground.pid}'


def test_the_request_in_flight_is_answered_by_the_site_that_makes_way(ground):
    ground.start()
    first = ground.pid
    with (
        ground.request_at_gate() as request,
        ground.begin('site.ini', 'restart') as process,
    ):
        eventually(lambda: 'stopping' in ground.status()[1])
        waiting = ground.connect()
        waiting.send(connection='close')
        ground.gate.open()
        assert request.receive().text == f'hello {first}'
        assert process.wait() == 0, ground.report(process)
        with waiting:
            assert waiting.receive().text == f'hello {ground.pid}'
    assert ground.pid != first


def test_restart_leaves_nothing_if_the_new_site_does_not_start(ground):
    ground.start()
    ground.change(plugin='broken_start')  # it can be loaded
    process = ground.run('site.ini', 'restart')
    assert process.code == 1, ground.report(process)
    (line,) = process.err.text.splitlines()
    assert 'no database' in line
    assert 'the old site has stopped' in line
    assert process.out.text == ''
    assert ground.has_left_nothing()
    assert is_free(ground.port)


@pytest.mark.parametrize('more', [[], ['--workers=1']], ids=['one', 'workers'])
def test_restart_with_code_that_cannot_be_loaded_does_not_stop_the_site(ground, more):
    ground.start(*more)
    before = ground.get()
    ground.change(app='make_broken')
    process = ground.run('site.ini', 'restart', *more)
    assert process.code == 1, ground.report(process)
    (line,) = process.err.text.splitlines()
    assert 'ValueError: out of order, at ' in line
    assert '; the old site was not stopped (the traceback is in ' in line
    assert ground.log.count('Traceback') == 1
    assert ground.get() == before
    ground.change(text='mended')
    ground.find_url(restart(ground, *more))
    assert ground.get().startswith('mended')


ROOT_LOG = """
[loggers]
keys = root
[handlers]
keys = own
[formatters]
keys =
[logger_root]
level = INFO
handlers = own
[handler_own]
class = FileHandler
args = ('own.log',)
"""


def test_a_restart_that_fails_is_in_the_log_of_the_site(ground):
    ini = ground.folder / 'site.ini'
    ground.change()
    ini.write_text(f'{ini.read_text()}\n{ROOT_LOG}')
    ground.start()
    ground.change(app='make_broken')
    ini.write_text(f'{ini.read_text()}\n{ROOT_LOG}')
    assert ground.run('site.ini', 'restart').code == 1
    said = (ground.folder / 'own.log').read_text()
    assert 'fails, and the old site was not stopped: ' in said
    assert 'Traceback' in said and 'ValueError: out of order' in said
    ground.stop()


def wait_at_gate(ground, count):
    """Wait until a factory waits at the gate, as the nth one."""
    eventually(lambda: ground.log.count('at the gate') == count)
    ground.gate.wait()


def test_the_new_site_is_loaded_before_the_old_one_stops_accepting(ground):
    add(ground)
    ground.start()
    first = ground.pid
    ground.change(app='make_at_noted_gate')
    with ground.begin('site.ini', 'restart') as process:
        for count in (1, 2):  # a trial, and the load of the site itself
            wait_at_gate(ground, count)
            assert ground.get() == f'hello {first}'
            assert ground.pid == first
            ground.gate.open()
        assert process.wait() == 0, ground.report(process)
        ground.find_url(process)
    assert ground.get() == f'hello {ground.pid}'
    assert ground.pid != first
    ground.stop()
    assert ground.has_left_nothing()


def test_a_process_that_restart_has_made_restarts_in_place_with_one_trial(ground):
    add(ground)
    ground.start()
    ground.change(app='make_noted')
    restart(ground)
    assert ground.log.count('loaded') == 2
    pid = ground.pid
    told = ground.run('site.ini', 'graceful')
    assert told.code == 0, ground.report(told)
    assert ground.log.count('loaded') == 4
    assert ground.pid == pid


@pytest.mark.parametrize('gates', [1, 2], ids=['trial', 'load'])
def test_a_stop_while_the_new_site_is_loaded_holds(ground, gates):
    add(ground)
    ground.start()
    ground.change(app='make_at_noted_gate')
    with ground.begin('site.ini', 'restart') as process:
        for count in range(1, gates):
            wait_at_gate(ground, count)
            ground.gate.open()
        wait_at_gate(ground, gates)
        ground.stop()
        ground.gate.open()
        assert process.wait() == 1, ground.report(process)
        assert 'The site was stopped while its new code was loaded' in process.err.text
    assert ground.has_left_nothing()


@pytest.mark.parametrize('gates', [1, 2], ids=['trial', 'load'])
def test_ctrl_c_while_the_new_site_is_loaded_does_not_stop_the_old_one(ground, gates):
    add(ground)
    ground.start()
    first = ground.pid
    ground.change(app='make_at_noted_gate')
    with ground.begin('site.ini', 'restart') as process:
        for count in range(1, gates):
            wait_at_gate(ground, count)
            ground.gate.open()
        wait_at_gate(ground, gates)
        process.send(signal.SIGINT)
        assert process.wait() == 130, ground.report(process)
    ground.gate.open()
    assert ground.get() == f'hello {first}'
    eventually(lambda: ground.processes() == [first])


def test_a_lock_that_only_one_process_can_have_is_free_for_the_new_site(ground):
    add(ground)
    ground.change(app='make_with_lock')
    ground.start()
    first = ground.pid
    restart(ground)
    assert ground.pid != first
    assert ground.log.count('The new code cannot be loaded beside the old site') == 1


def test_restart_with_a_mistake_in_the_ini_does_not_stop_the_site(ground):
    ground.start()
    pid = ground.pid
    ground.change(stop_timeot=3)
    process = ground.run('site.ini', 'restart')
    assert process.code == 2, ground.report(process)
    (line,) = process.err.text.splitlines()
    assert 'stop_timeot' in line
    assert ground.get() == f'hello {pid}'
    assert ground.processes() == [pid]


def test_restart_with_a_variable_that_is_not_given_does_not_stop_the_site(ground):
    ground.start()
    pid = ground.pid
    ini = ground.folder / 'site.ini'
    ini.write_text(re.sub('(?m)^port = .*', 'port = %(nobody)s', ini.read_text()))
    process = ground.run('site.ini', 'restart')
    assert process.code == 2, ground.report(process)
    (line,) = process.err.text.splitlines()
    assert 'write nobody=VALUE after the file name' in line
    assert 'has stopped' not in line
    assert ground.get() == f'hello {pid}'


def test_restart_moves_the_site_to_the_port_that_the_ini_says_now(ground):
    ground.start()
    old, new = ground.port, free_port()
    ground.change(port=new)
    ground.find_url(restart(ground))
    assert ground.port == new
    assert ground.get() == f'hello {ground.pid}'
    assert is_free(old)


def test_restart_to_a_port_that_is_taken_leaves_nothing(ground):
    ground.start()
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        ground.change(port=port)
        process = ground.run('site.ini', 'restart')
        assert process.code == 1, ground.report(process)
        (line,) = process.err.text.splitlines()
        assert f'127.0.0.1:{port}' in line
    assert ground.has_left_nothing()


def test_restart_to_a_log_file_that_cannot_be_had_does_not_stop_the_site(ground):
    ground.start()
    pid = ground.pid
    process = ground.run('site.ini', 'restart', '--log-file', 'no/folder/site.log')
    assert process.code == 2, ground.report(process)
    (line,) = process.err.text.splitlines()
    assert 'no/folder/site.log' in line
    assert ground.get() == f'hello {pid}'


def test_a_pid_file_that_cannot_be_had_again_stops_no_site(ground):
    ground.start()
    first, site = ground.get(), ground.pid
    ground.pid_file.unlink()
    ground.pid_file.symlink_to('site.ini')
    why = 'PID file paster.pid: it is a symbolic link, which is not followed'
    asked = ground.run('site.ini', 'graceful')
    assert asked.code == 1 and why in asked.err.text, ground.report(asked)
    asked = ground.run('site.ini', 'restart')
    assert (asked.code, asked.err.text) == (2, f'{why}\n'), ground.report(asked)
    assert ground.get() == first
    ground.pid_file.unlink()
    ground.log_file.unlink()
    ground.log_file.mkdir()  # the site writes to the file that it has
    asked = ground.run('site.ini', 'graceful')
    assert asked.code == 0, asked.report()
    assert ground.pid == site
    ground.log_file.rmdir()
    ground.stop()


def test_another_file_in_the_place_of_the_socket_stops_no_site(ground):
    conf = ini(listen='unix:site.sock').replace('host = 127.0.0.1\nport = 0\n', '')
    write(ground.folder, {'site.ini': conf})
    assert ground.run('site.ini', 'start').code == 0
    pid, file = ground.pid, ground.folder / 'site.sock'
    file.unlink()
    file.write_text('precious')
    asked = ground.run('site.ini', 'graceful')
    why = 'cannot listen on unix:site.sock: a file is there that is not a socket'
    assert asked.code == 1 and why in asked.err.text, ground.report(asked)
    assert ground.pid == pid
    ground.stop()
    assert file.read_text() == 'precious'


def test_ctrl_c_of_a_restart_while_the_old_site_stops_leaves_nothing(ground):
    ground.start()
    first = ground.pid
    with ground.request_at_gate() as request:
        with ground.begin('site.ini', 'restart') as process:
            eventually(lambda: 'stopping' in ground.status()[1])
            process.send(signal.SIGINT)
            assert process.wait() == 130, ground.report(process)
        ground.gate.open()
        assert request.receive().text == f'hello {first}'
    eventually(lambda: has_ended(first))
    assert ground.has_left_nothing()


def test_two_restarts_at_once_leave_one_site(ground):
    ground.start()
    first = ground.pid
    with (
        ground.request_at_gate(),
        ground.begin('site.ini', 'restart') as one,
        ground.begin('site.ini', 'restart') as other,
    ):
        eventually(lambda: 'stopping' in ground.status()[1])
        ground.gate.open()
        codes = one.wait(), other.wait()
        texts = one.err.text + other.err.text
        assert 'Traceback' not in texts, texts
        assert 0 in codes, ground.report(one) + ground.report(other)
        for process in (one, other):  # whoever comes to nothing says so
            code = process.process.returncode
            assert (code == 0) == ('Serving on' in process.out.text), process.report()
    assert ground.pid != first
    # The one that was replaced last may still be ending.
    eventually(lambda: ground.processes() == [ground.pid])
    for process in (one, other):
        if f'PID {ground.pid}.' in process.out.text:
            ground.find_url(process)
    assert ground.get() == f'hello {ground.pid}'

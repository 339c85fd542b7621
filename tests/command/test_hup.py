"""HUP: the same process runs the site anew."""

import contextlib
import os
import resource
import signal
import socket
from pathlib import Path

import pytest

from tests.kit import Site, eventually, free_port, is_free
from tests.kit.daemons import Clients, LockWatch
from tests.kit.processes import has_ended, kill
from tests.kit.sites import APP, SERVED


def start_time(pid):
    return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]


def test_hup_replaces_the_program_in_the_same_process(ground):
    ground.start()
    pid, port = ground.pid, ground.port
    inode, born = ground.pid_file.stat().st_ino, start_time(pid)
    with Clients(ground) as clients:
        assert clients.have_seen(f'hello {pid}')
        ground.change(text='changed')
        with LockWatch(ground) as watch:
            kill(pid, signal.SIGHUP)
            assert clients.have_seen(f'changed {pid}')
    assert clients.errors == []
    assert set(clients.texts) == {f'hello {pid}', f'changed {pid}'}
    assert watch.was_free == []
    assert watch.looks > 0
    assert ground.processes() == [pid]
    assert start_time(pid) == born
    assert ground.pid == pid
    assert ground.pid_file.stat().st_ino == inode
    code, text = ground.status()
    assert code == 0
    assert f'process {pid}' in text
    assert f':{port}\n' in text
    assert 'by signal SIGHUP, served after' in text
    assert os.readlink(f'/proc/{pid}/fd/2') == str(ground.log_file)
    assert 'Traceback' not in ground.log
    ground.stop()
    assert ground.has_left_nothing()


def test_hup_does_not_pile_up_descriptors(ground):
    ground.start()
    pid = ground.pid
    first = len(os.listdir(f'/proc/{pid}/fd'))
    for text in ('one', 'two', 'three'):
        ground.change(text=text)
        kill(pid, signal.SIGHUP)
        eventually(lambda text=text: ground.get() == f'{text} {pid}')
    # Without the client's, once the site has seen its end.
    eventually(lambda: len(os.listdir(f'/proc/{pid}/fd')) <= first)


def test_hup_goes_on_with_the_same_log_file(ground):
    ground.start('-v')
    pid = ground.pid
    ground.change(text='changed')
    before = ground.log
    kill(pid, signal.SIGHUP)
    eventually(lambda: ground.get() == f'changed {pid}')
    assert ground.log.startswith(before)
    eventually(lambda: 'Bus STARTED' in ground.log[len(before) :])


def test_hup_restarts_a_site_that_is_no_daemon(ground):
    with Site(ground.folder, None, 'site.ini') as site:
        ground.change(text='changed')
        port = site.port
        site.send(signal.SIGHUP)
        site.wait_until_served(2)
        assert site.port == port
        assert site.get().text == f'changed {site.pid}'
        assert site.stop()[0] == 0, site.report()
        assert site.has_left_nothing()


def test_hup_of_a_site_that_is_no_daemon_keeps_its_pid_file(ground):
    options = ['--pid-file', 'paster.pid']
    with Site(ground.folder, None, 'site.ini', *options) as site:
        inode = ground.pid_file.stat().st_ino
        site.send(signal.SIGHUP)
        site.wait_until_served(2)
        assert ground.pid == site.pid
        assert ground.pid_file.stat().st_ino == inode
        assert ground.status()[0] == 0
        assert ground.stop().out.text == 'The site has stopped.\n'
        assert site.wait() == 0, site.report()
        assert ground.has_left_nothing()


def test_hup_of_a_daemon_that_does_not_start_again_leaves_nothing(ground):
    ground.start()
    pid = ground.pid
    ground.change(plugin='broken_start')  # it can be loaded
    kill(pid, signal.SIGHUP)
    eventually(lambda: has_ended(pid))
    assert 'no database' in ground.log
    assert 'Traceback' in ground.log
    assert ground.has_left_nothing()


def test_hup_to_a_port_that_is_taken_leaves_nothing(ground):
    ground.start()
    pid = ground.pid
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        ground.change(port=port)
        kill(pid, signal.SIGHUP)
        eventually(lambda: has_ended(pid))
    assert f'127.0.0.1:{port}' in ground.log
    assert ground.has_left_nothing()


def test_hup_moves_the_site_to_the_port_that_the_ini_says_now(ground):
    ground.start()
    pid, old, new = ground.pid, ground.port, free_port()
    ground.change(port=new)
    kill(pid, signal.SIGHUP)
    eventually(lambda: not is_free(new))
    ground.url = ground.url.replace(str(old), str(new))
    assert ground.get() == f'hello {pid}'
    assert is_free(old)
    assert f'127.0.0.1:{new}\n' in ground.status()[1]


def answer(ground):
    """A page's text; None where a site that dies resets the connection."""
    with contextlib.suppress(ConnectionError):
        return ground.get()


def test_a_hup_to_a_site_that_is_composed_is_carried_out_when_it_has_started(ground):
    ground.change(app='make_at_gate')
    with ground.begin('site.ini', 'start') as process:
        ground.gate.wait()
        pid = ground.pid
        kill(pid, signal.SIGHUP)
        ground.change(text='changed')
        ground.gate.open()
        assert process.wait() == 0, ground.report(process)
        ground.find_url(process)
    eventually(lambda: has_ended(pid) or answer(ground) == f'changed {pid}')
    assert ground.processes() == [pid]


@pytest.mark.parametrize('name', ['SIGUSR1', 'SIGUSR2'])
def test_a_signal_to_a_site_that_is_composed_does_not_end_it(ground, name):
    ground.change(app='make_at_gate')
    with ground.begin('site.ini', 'start') as process:
        ground.gate.wait()
        pid = ground.pid
        kill(pid, getattr(signal, name))
        ground.gate.open()
        assert process.wait() == 0, ground.report(process)
        ground.find_url(process)
    assert ground.get() == f'hello {pid}'
    assert ground.processes() == [pid]


def test_a_second_hup_while_the_first_is_carried_out_does_no_harm(ground):
    ground.start()
    pid = ground.pid
    ground.change(app='make_at_gate')
    kill(pid, signal.SIGHUP)
    ground.gate.wait()  # the new program composes the site
    kill(pid, signal.SIGHUP)
    ground.change(text='changed')
    ground.gate.open()
    eventually(lambda: has_ended(pid) or answer(ground) == f'changed {pid}')
    assert not has_ended(pid)
    assert ground.processes() == [pid]


def test_two_hups_at_once_are_no_accident(tmp_path):
    """The second one comes while the handler of the first one runs."""
    with Site(tmp_path, SERVED, files={'webapp.py': APP}) as site:
        for count in range(2, 7):
            for _ in range(2):
                os.kill(site.pid, signal.SIGHUP)
            site.wait_until_served(count)
            assert site.get().status == 200
        assert site.stop()[0] == 0, site.report()
    assert 'Error' not in site.err.text
    eventually(site.has_left_nothing)


def test_hup_without_descriptors_is_logged_and_the_old_code_keeps_serving(ground):
    ground.start()
    pid = ground.pid
    usual, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = {int(fd) for fd in os.listdir(f'/proc/{pid}/fd')}
    free = next(fd for fd in range(99) if fd not in used)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, hard))
    kill(pid, signal.SIGHUP)
    eventually(lambda: 'Too many open files' in ground.log)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (usual, hard))
    assert 'the site keeps running: [Errno 24] Too many open files' in ground.log
    assert ground.get() == f'hello {pid}'
    ground.stop()
    assert 'Traceback' not in ground.log

"""CherryPy's Daemonizer, DropPrivileges and PIDFile ride our bus unmodified."""

import contextlib
import os
import signal

import pytest

from paste_wspbus.bus import State
from tests.kit.cherrypys import Lines, get, nobody_listens, plugins, posix
from tests.kit.processes import TIMEOUT

# -- DropPrivileges, PIDFile -------------------------------------------------------


@posix
def test_drop_privileges_sets_the_umask_once(site, tmp_path):
    child = site("""
        os.umask(0o022)
        plugins.DropPrivileges(bus, umask=0o077).subscribe()
        bus.start()
        open('secret', 'w').close()
        bus.stop()
        bus.start()
        bus.exit()
    """)
    assert child.ends() == 0
    said = child.rest()
    assert 'umask old: 022, new: 077' in said
    assert 'umask already set to: 077' in said
    assert (tmp_path / 'secret').stat().st_mode & 0o777 == 0o600


def test_a_pid_file_is_written_at_the_first_start_and_removed_at_exit(
    bus, log, tmp_path
):
    path = tmp_path / 'site.pid'
    plugins.PIDFile(bus, str(path)).subscribe()
    bus.start()
    assert path.read_text() == f'{os.getpid()}\n'
    bus.stop()
    assert path.exists()
    bus.start()
    assert f'PID {os.getpid()} already written to {str(path)!r}.' in log
    bus.exit()
    assert not path.exists()
    assert f'PID file removed: {str(path)!r}.' in log


def test_a_pid_file_that_somebody_removed_does_not_disturb_the_exit(bus, tmp_path):
    path = tmp_path / 'site.pid'
    plugins.PIDFile(bus, str(path)).subscribe()
    bus.start()
    path.unlink()
    bus.exit()
    assert bus.state is State.EXITING
    assert bus.exit_code == 0


def test_a_site_that_fails_to_start_leaves_no_pid_file(site, tmp_path):
    child = site("""
        plugins.PIDFile(bus, 'site.pid').subscribe()
        bus.subscribe('start', lambda: 1 / 0, priority=90)
        bus.subscribe('start', lambda: say('written', os.path.exists('site.pid')), 80)
        bus.start()
        bus.block()
    """)
    assert child.ends() == 1
    assert 'written True' in child.rest()
    assert not (tmp_path / 'site.pid').exists()


# -- Daemonizer ------------------------------------------------------------------


class Daemon(Lines):
    """What a daemon says through a pipe that ends with the last process that has it."""

    def comes_up(self):
        """PID and port, once it blocks."""
        pid, port = self.hear('up').split()
        return int(pid), int(port)

    def kill(self):
        """Kill whoever said last that it is the daemon, until none is left."""
        for _ in range(TIMEOUT):
            if self.over.is_set():
                return
            said = [line for line in self.all if line.startswith('Daemonized to PID:')]
            if said:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(said[-1].rpartition(':')[2]), signal.SIGKILL)
            self.over.wait(1)


@pytest.fixture
def daemonize(site):
    """Start a daemon; return the process that the shell sees, and the daemon."""
    started = []

    def daemonize(source):
        read, write = os.pipe()
        daemon = Daemon(os.fdopen(read, 'rb'))
        try:
            child = site(source, pass_fds=[write], REPORT_FD=str(write))
        finally:
            os.close(write)
        started.append((child, daemon))
        return child, daemon

    yield daemonize
    for child, daemon in started:
        child.kill()
        daemon.kill()


DAEMON = """
    from cheroot.wsgi import Server

    def whoami(environ, start_response):
        start_response('200 OK', [('Content-Type', 'text/plain')])
        return [b'daemon %d' % os.getpid()]

    bus.max_cloexec_files = 0  # the pipe that we report on survives a restart
    plugins.Daemonizer(bus, stdout='daemon.log', stderr='daemon.log').subscribe()
    plugins.PIDFile(bus, os.path.abspath('daemon.pid')).subscribe()
    plugins.DropPrivileges(bus, umask=0o027).subscribe()
    plugins.SignalHandler(bus).subscribe()
    address = ('127.0.0.1', 0)
    server = servers.ServerAdapter(bus, Server(address, whoami), address)
    server.subscribe()

    @bus.subscribe('main')
    def once():
        bus.unsubscribe('main', once)
        open('made_by_daemon', 'w').close()
        say('up', os.getpid(), server.bound_addr[1])

    bus.start()
    bus.block()
    say('block returned')
"""


@posix
def test_a_daemonizer_moves_the_bus_to_the_daemon(daemonize, tmp_path):
    child, daemon = daemonize(DAEMON)
    assert child.ends() == 0
    pid, port = daemon.comes_up()
    assert pid != child.pid
    assert os.getsid(pid) not in (os.getsid(0), child.pid)
    assert (tmp_path / 'daemon.pid').read_text() == f'{pid}\n'
    assert get(port) == (200, f'daemon {pid}')
    assert (tmp_path / 'made_by_daemon').stat().st_mode & 0o777 == 0o640
    os.kill(pid, signal.SIGTERM)
    said = daemon.rest()
    assert said.count('Bus EXITED') == 1
    assert said[-1] == 'block returned'
    assert not (tmp_path / 'daemon.pid').exists()
    assert nobody_listens(port)
    assert child.rest() == []


@posix
def test_sighup_restarts_a_daemon(daemonize, tmp_path):
    child, daemon = daemonize(DAEMON)
    assert child.ends() == 0
    first, port = daemon.comes_up()
    os.kill(first, signal.SIGHUP)
    daemon.hear('SIGHUP caught while daemonized. Restarting.')
    daemon.hear('PID file removed')
    second, port = daemon.comes_up()
    assert second != first
    assert (tmp_path / 'daemon.pid').read_text() == f'{second}\n'
    assert get(port) == (200, f'daemon {second}')
    os.kill(second, signal.SIGTERM)
    assert daemon.rest()[-1] == 'block returned'
    assert not (tmp_path / 'daemon.pid').exists()


@posix
def test_a_daemon_that_fails_to_start_leaves_neither_process_nor_pid_file(
    daemonize, tmp_path
):
    child, daemon = daemonize("""
        plugins.Daemonizer(bus).subscribe()
        plugins.PIDFile(bus, os.path.abspath('daemon.pid')).subscribe()
        bus.subscribe('start', lambda: 1 / 0, priority=90)
        bus.start()
        bus.block()
    """)
    # CherryPy documents that of its Daemonizer: the first fork went well.
    assert child.ends() == 0
    said = daemon.rest()
    assert any(line.startswith('PID ') and ' written to ' in line for line in said)
    assert 'Bus EXITED' in said
    assert not (tmp_path / 'daemon.pid').exists()


@posix
def test_a_daemon_that_forgets_to_block_tidies_up_once(daemonize, tmp_path):
    child, daemon = daemonize("""
        plugins.Daemonizer(bus).subscribe()
        plugins.PIDFile(bus, os.path.abspath('daemon.pid')).subscribe()
        bus.subscribe('stop', lambda: say('stopped in', os.getpid()))
        bus.start()
        say('started in', os.getpid())
    """)
    assert child.ends() == 0
    pid = daemon.hear('started in')
    assert int(pid) != child.pid
    said = daemon.rest()
    assert [x for x in said if x.startswith('stopped in')] == [f'stopped in {pid}']
    assert not (tmp_path / 'daemon.pid').exists()

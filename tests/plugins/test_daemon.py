"""The Daemonizer plugin, on a plain bus."""

import os
import signal
import sys

from tests.kit import (
    Process,
    eventually,
    write,
)
from tests.kit.processes import has_ended, kill

PLAIN_BUS = """
import os, sys, threading
from paste_wspbus.bus import Bus
from paste_wspbus.plugins.daemon import Daemonizer
from paste_wspbus.plugins.signals import SignalHandler

bus = Bus()
bus.plugins['signals'] = SignalHandler(bus)
bus.plugins['signals'].subscribe()


def pass_gate():
    with open('gate') as gate:
        gate.read()


def tell():
    with open('daemon.new', 'w') as file:
        file.write(str(os.getpid()))
    os.rename('daemon.new', 'daemon.pid')
"""


def daemonize(ground, script):
    """A script with a plain bus; for a ``with`` block."""
    write(ground.folder, {'script.py': PLAIN_BUS + script})
    return Process([sys.executable, '-W', 'error', 'script.py'], ground.folder)


def test_a_daemonizer_lets_the_shell_go_on_when_the_bus_is_started(ground):
    script = """
Daemonizer(bus, stdout='daemon.log', stderr='daemon.log').subscribe()
bus.subscribe('start', tell, priority=70)
bus.subscribe('start', pass_gate, priority=90)
bus.subscribe('log', lambda msg, level: print(msg, flush=True))
bus.start()
print('state', bus.state.name, flush=True)
bus.block()
"""
    with daemonize(ground, script) as process:
        ground.gate.wait()
        assert process.process.poll() is None
        ground.gate.open()
        assert process.wait() == 0, process.report()
    pid = int((ground.folder / 'daemon.pid').read_text())
    assert pid != process.pid
    assert ground.processes() == [pid]
    assert os.getsid(pid) not in (os.getsid(0), process.pid, pid)
    assert os.readlink(f'/proc/{pid}/fd/0') == os.devnull
    log = ground.folder / 'daemon.log'
    for fd in (1, 2):
        assert os.readlink(f'/proc/{pid}/fd/{fd}') == str(log)
    # The shell goes on before the daemon's own next line runs.
    eventually(lambda: 'state STARTED' in log.read_text().splitlines())
    kill(pid, signal.SIGTERM)
    eventually(lambda: has_ended(pid))
    lines = log.read_text().splitlines()
    assert f'Daemonized to PID: {pid}' in lines
    assert lines.count('Bus EXITED') == 1
    assert 'Bus EXITED' not in process.out.text


def test_a_daemonizer_makes_the_shells_exit_code_that_of_a_failed_start(ground):
    script = """
Daemonizer(bus, stderr='daemon.log').subscribe()
bus.subscribe('start', lambda: 1 / 0, priority=90)
bus.start()
bus.block()
"""
    with daemonize(ground, script) as process:
        assert process.wait() == 1, process.report()
    assert process.err.text == 'The site did not start.\n'
    eventually(lambda: ground.processes() == [])
    assert 'ZeroDivisionError' in (ground.folder / 'daemon.log').read_text()


def test_a_daemonizer_makes_it_1_if_the_daemon_is_killed_while_it_starts(ground):
    script = """
Daemonizer(bus).subscribe()
bus.subscribe('start', tell, priority=70)
bus.subscribe('start', pass_gate, priority=90)
bus.start()
"""
    with daemonize(ground, script) as process:
        ground.gate.wait()
        pid = int((ground.folder / 'daemon.pid').read_text())
        kill(pid)
        assert process.wait() == 1, process.report()
    assert str(pid) in process.err.text


def test_a_daemonizer_refuses_where_threads_run_and_names_them(ground):
    script = """
over = threading.Event()
threads = [threading.Thread(target=over.wait, name=name) for name in ('two', 'one')]
Daemonizer(bus).subscribe()
bus.subscribe('start', lambda: [thread.start() for thread in threads], priority=10)
try:
    bus.start()
except Exception as error:
    print(repr(error.__cause__), error.__cause__.names, bus.state.name, flush=True)
print(os.getpid())
over.set()
bus.exit()
"""
    with daemonize(ground, script) as process:
        assert process.wait() == 0, process.report()
    refusal, pid = process.out.text.splitlines()
    assert 'ThreadsAlive' in refusal
    assert 'one, two' in refusal
    assert "['one', 'two'] STOPPED" in refusal.replace(
        "['two', 'one']", "['one', 'two']"
    )
    assert int(pid) == process.pid
    assert ground.processes() == []


def test_a_daemonizer_whose_log_cannot_be_opened_fails(ground):
    script = """
Daemonizer(bus, stderr='no/folder/daemon.log').subscribe()
bus.start()
bus.block()
"""
    with daemonize(ground, script) as process:
        assert process.wait() == 1, process.report()
    assert 'no/folder/daemon.log' in process.err.text
    eventually(lambda: ground.processes() == [])


def test_a_daemonizer_whose_log_is_on_a_full_disk_starts(ground):
    script = """
Daemonizer(bus, stdout='/dev/full', stderr='/dev/full').subscribe()
bus.subscribe('start', tell, priority=70)
bus.subscribe('log', lambda msg, level: print(msg, flush=True))
bus.subscribe('exit', lambda: os.rename('daemon.pid', 'daemon.gone'))
bus.start()
bus.block()
"""
    with daemonize(ground, script) as process:
        assert process.wait() == 0, process.report()
    pid = int((ground.folder / 'daemon.pid').read_text())
    kill(pid, signal.SIGTERM)
    eventually(lambda: has_ended(pid))
    assert (ground.folder / 'daemon.gone').exists()


def test_a_daemonizer_daemonizes_once(ground):
    script = """
Daemonizer(bus, stdout='daemon.log', stderr='daemon.log').subscribe()
bus.subscribe('start', lambda: print('in', os.getpid(), flush=True), priority=90)
bus.start()
bus.stop()
bus.start()
bus.exit()
"""
    with daemonize(ground, script) as process:
        assert process.wait() == 0, process.report()
    eventually(lambda: ground.processes() == [])
    first, second = (ground.folder / 'daemon.log').read_text().splitlines()
    assert first == second
    assert first != f'in {process.pid}'

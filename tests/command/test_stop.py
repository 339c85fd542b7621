"""`stop`: what it finds, waits for, prints and exits with."""

import signal
import subprocess
import sys

import pytest

from paste_wspbus.control.status import what_it_waits_for
from tests.kit import BIN, TIMEOUT, is_free, write
from tests.kit.processes import has_ended, kill
from tests.kit.stand_in import begun


def test_the_site_is_gone_when_stop_returns(ground):
    ground.start()
    pid = ground.pid
    process = ground.run('site.ini', 'stop')
    assert has_ended(pid)
    assert ground.has_left_nothing()
    assert is_free(ground.port)
    assert (process.code, process.err.text) == (0, '')
    assert process.out.text == 'The site has stopped.\n'


@pytest.mark.parametrize('words', ['--stop-daemon site.ini', '--stop-daemon'])
def test_the_option_stop_daemon_is_the_subcommand(ground, words):
    ground.start()
    process = ground.run(*words.split())
    assert process.code == 0, ground.report(process)
    assert ground.has_left_nothing()


def test_stop_of_what_does_not_run_says_so_and_is_no_failure(ground):
    process = ground.run('site.ini', 'stop')
    assert (process.code, process.err.text) == (0, '')
    assert 'not running' in process.out.text
    assert ground.has_left_nothing()


def test_stop_waits_for_the_request_in_flight_and_says_so(ground):
    ground.start()
    pid = ground.pid
    with ground.request_at_gate() as request, ground.begin('site.ini', 'stop') as stop:
        stop.expect('\n')
        assert stop.process.poll() is None
        ground.gate.open()
        assert request.receive().text == f'hello {pid}'
        assert stop.wait() == 0, ground.report(stop)
    (line,) = stop.err.text.splitlines()
    assert f'process {pid}' in line
    assert 'waiting for 1 request in flight' in line
    assert '/Gate' in line
    assert stop.out.text == 'The site has stopped.\n'
    assert ground.has_left_nothing()


def test_stop_says_which_component_it_waits_for(ground):
    ground.change(plugin='gate_at_stop')
    ground.start()
    with ground.begin('site.ini', 'stop') as stop:
        stop.expect('\n')
        ground.gate.wait()
        ground.gate.open()
        assert stop.wait() == 0, ground.report(stop)
    assert "waiting for the 'stop' listener gate_at_stop" in stop.err.text


def test_stop_tells_a_terminal_every_second_what_it_waits_for(ground, terminal):
    ground.start()
    with ground.request_at_gate():
        stop = subprocess.Popen(
            [BIN / 'wspserve', 'site.ini', 'stop'],
            cwd=ground.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=terminal.theirs,
        )
        try:
            terminal.hand_over()
            assert terminal.read_until(b', 2 s: waiting for 1 request in flight'), (
                terminal.text
            )
            ground.gate.open()
            assert stop.wait(TIMEOUT) == 0
        finally:
            stop.kill()
            stop.wait()
    assert not terminal.read_until(b'never said')
    assert b', 1 s: waiting for 1 request in flight' in terminal.text
    assert b'\n' not in terminal.text
    assert terminal.text.endswith(b'\r\x1b[K'), 'the line is left behind'
    assert ground.has_left_nothing()


def test_stop_of_a_site_that_stops_with_failures_is_a_failure(ground):
    ground.change(plugin='broken_stop')
    ground.start()
    process = ground.run('site.ini', 'stop')
    assert process.code == 1, ground.report(process)
    assert 'stopped with failures' in process.out.text
    assert 'no goodbye' in ground.log
    assert ground.has_left_nothing()


def test_stop_of_a_site_that_ignores_its_deadline_is_a_failure(ground):
    ground.change(plugin='endless_stop', stop_timeout=1)
    ground.start()
    process = ground.run('site.ini', 'stop')
    assert process.code == 1, ground.report(process)
    assert 'ended by force' in process.out.text
    assert ground.has_left_nothing()


def test_stop_of_a_site_whose_request_does_not_end_is_a_failure(ground):
    ground.change(stop_timeout=1)
    ground.start()
    with ground.request_at_gate():
        process = ground.run('site.ini', 'stop')
        assert process.code == 1, ground.report(process)
        assert 'stopped with failures (exit code 1)' in process.out.text
        assert ground.has_left_nothing()
    assert '/Gate' in ground.log


IMPATIENT = """
    import sys

    from paste_wspbus.command.main import main

    from paste_wspbus.control import stop as stopping

    stopping.UNKNOWN['deadline'], stopping.MARGIN = 0.0, 0.5
    sys.exit(main())
"""


@pytest.mark.parametrize('command', ['stop', 'restart'])
def test_a_stopped_process_is_killed_at_last(ground, command):
    ground.start()
    pid = ground.pid
    write(ground.folder, {'impatient.py': IMPATIENT})
    kill(pid, signal.SIGSTOP)
    process = ground.run('site.ini', command, command=[sys.executable, 'impatient.py'])
    assert has_ended(pid)
    assert f'Process {pid} did not stop within' in process.err.text
    if command == 'stop':
        assert process.code == 1, ground.report(process)
        assert ground.has_left_nothing()
    else:
        assert process.code == 0, ground.report(process)
        ground.find_url(process)
        assert ground.get() == f'hello {ground.pid}'


def test_stop_of_a_site_that_is_composed(ground):
    ground.change(app='make_at_gate')
    with ground.begin('site.ini', 'start') as process:
        ground.gate.wait()
        stopped = ground.run('site.ini', 'stop')
        assert process.wait() == 143
    assert stopped.code == 0, stopped.report()
    assert ground.has_left_nothing()


def test_stop_of_a_site_whose_components_start(ground):
    ground.change(plugin='gate_at_start')
    with ground.begin('site.ini', 'start') as process:
        ground.gate.wait()
        with ground.begin('site.ini', 'stop') as stop:
            stop.expect('Stopping process')
            ground.gate.open()
            assert stop.wait() == 0, ground.report(stop)
        assert process.wait() != 0, ground.report(process)
    assert ground.has_left_nothing()


def test_two_stops_at_once_both_tell_the_truth(ground):
    ground.start()
    with (
        ground.request_at_gate(),
        ground.begin('site.ini', 'stop') as one,
        ground.begin('site.ini', 'stop') as other,
    ):
        one.expect('waiting for')
        other.expect('waiting for')
        ground.gate.open()
        assert (one.wait(), other.wait()) == (0, 0)
        assert one.out.text == other.out.text == 'The site has stopped.\n'
        assert ground.has_left_nothing()


def test_stop_leaves_another_site_alone_that_started_meanwhile(ground):
    ground.start()
    with ground.request_at_gate(), ground.begin('site.ini', 'stop') as stop:
        stop.expect('waiting for')
        with ground.begin('site.ini', 'start') as start:
            ground.gate.open()
            assert stop.wait() == 0, ground.report(stop)
            assert start.wait() == 0, ground.report(start)
            ground.find_url(start)
    assert ground.get() == f'hello {ground.pid}'
    assert ground.processes() == [ground.pid]


def test_stop_names_the_workers_requests(folder, site):
    site.tell(status={'requests': ["'GET' '/a' 1 s", "'GET' '/b' 2 s"]})
    with begun(folder, 'site.ini', 'stop') as command:
        site.wait_for_request('stop')
        command.expect(
            f'Stopping process {site.pid}: waiting for 2 requests in flight '
            "('GET' '/a' 1 s, 'GET' '/b' 2 s)"
        )
        site.tell(answer={'exit_code': 0})
        site.release()
        assert command.wait() == 0, command.report()
        assert command.out.text == 'The site has stopped.\n'


def test_what_it_waits_for_makes_do_with_little():
    assert what_it_waits_for({}) == 'it does not answer'
    assert what_it_waits_for({'pid': 1}) == 'in an unknown state'
    assert what_it_waits_for({'requests': 'x', 'state': 'STOPPING'}) == 'stopping'

"""A 'start' listener that blocks: a server that runs in the thread of the bus."""

import contextlib
import os
import signal
import threading
import time

import pytest

from paste_wspbus.bus import ChannelFailures, State
from tests.kit import TIMEOUT
from tests.kit.buses import EXITED_LOG, STARTED_LOG, STOPPED_LOG, raiser
from tests.kit.threads import spawn


class Server:
    """A server that runs in the main thread until it is interrupted."""

    patience = TIMEOUT
    nap = 0.05

    def __init__(self, bus):
        self.bus, self.serving, self.state = bus, threading.Event(), None

    def __call__(self, app):
        self.app, self.state = app, self.bus.state
        until = time.monotonic() + self.patience
        self.serving.set()
        try:
            while time.monotonic() < until:
                threading.Event().wait(self.nap)
        finally:
            self.interrupted = time.monotonic() < until


def when_serving(server, function):
    def run():
        assert server.serving.wait(TIMEOUT)
        return function()

    return spawn(run)


@pytest.fixture
def server(bus):
    server = Server(bus)
    bus.subscribe('start', server, 'app', blocking=True)
    return server


@pytest.mark.parametrize('method', ['stop', 'exit'])
def test_a_server_that_blocks_is_ended_by_stop_or_exit_elsewhere(
    bus, calls, record, log, server, method
):
    record('stop', 'exit')
    asked = when_serving(server, getattr(bus, method))
    bus.start()
    asked.result(TIMEOUT)
    assert (server.app, server.state) == ('app', State.STARTED)
    assert server.interrupted
    ended = method == 'exit'
    assert calls == (['stop', 'exit'] if ended else ['stop'])
    assert log == STARTED_LOG + STOPPED_LOG + (EXITED_LOG if ended else [])


def test_an_exit_that_comes_just_as_the_server_falls_asleep_is_not_lost(bus, server):
    server.nap = server.patience = 5
    for _ in range(1000):
        server.serving.clear()
        asked = when_serving(server, bus.exit)
        bus.start()
        asked.result(TIMEOUT)
        assert server.interrupted


def test_a_server_that_blocks_runs_last_whatever_its_priority(bus, calls):
    bus.subscribe('start', lambda: calls.append('server'), priority=1, blocking=True)
    bus.subscribe('start', lambda: calls.append('plugin'), priority=99)
    bus.start()
    assert calls == ['plugin', 'server']


def test_the_return_of_a_server_that_blocks_means_stop(bus, calls, record, log):
    record('stop', 'exit')
    bus.subscribe('start', lambda: None, blocking=True)
    bus.start()
    assert bus.state is State.STOPPED
    assert calls == ['stop']
    bus.block(states=State.STOPPED)
    bus.exit()
    assert log == STARTED_LOG + STOPPED_LOG + EXITED_LOG


def test_block_exits_at_once_when_the_server_that_blocks_has_returned(bus):
    bus.subscribe('start', lambda: None, blocking=True)
    bus.start()
    bus.block()
    assert bus.state is State.EXITING


def test_ctrl_c_ends_a_server_that_blocks_and_the_site(bus, calls, record):
    record('stop')
    bus.subscribe('start', raiser(KeyboardInterrupt), blocking=True)
    bus.start()
    assert bus.state is State.STOPPED
    assert calls == ['stop']
    assert bus.exit_code == 0


def test_a_sys_exit_of_a_server_that_blocks_is_the_exit_code(bus, calls, record):
    record('stop')
    bus.subscribe('start', raiser(SystemExit(5)), blocking=True)
    with contextlib.suppress(SystemExit):
        bus.start()
    assert bus.state is State.STOPPED
    assert calls == ['stop']
    assert bus.exit_code == 5


def test_a_server_that_blocks_and_fails_fails_the_start(bus, calls, record):
    record('stop')
    error = OSError('port taken')
    bus.subscribe('start', raiser(error), blocking=True)
    with pytest.raises(ChannelFailures) as caught:
        bus.start()
    assert caught.value.__cause__ is error
    assert calls == ['stop']
    assert bus.state is State.STOPPED
    assert bus.exit_code == 1


def test_a_server_that_blocks_is_not_called_when_the_start_failed(bus, calls):
    bus.subscribe('start', lambda: calls.append('server'), blocking=True)
    bus.subscribe('start', raiser(ValueError))
    with pytest.raises(ChannelFailures):
        bus.start()
    assert calls == []


def test_a_server_that_blocks_is_not_called_when_exit_came_before_it(bus, calls):
    bus.subscribe('start', lambda: calls.append('server'), blocking=True)
    bus.subscribe('start', bus.exit)
    bus.start()
    assert calls == []
    assert bus.state is State.EXITING


def test_the_transition_is_free_while_a_server_blocks(bus, calls, server):
    def reload():
        bus.graceful()
        calls.append('returned')
        bus.exit()

    bus.subscribe('graceful', lambda: calls.append('graceful'))
    asked = when_serving(server, reload)
    bus.start()
    asked.result(TIMEOUT)
    assert calls == ['graceful', 'returned']


def test_wait_works_while_a_server_blocks(bus, server):
    asked = when_serving(server, lambda: (bus.wait(State.STARTED), bus.exit()))
    bus.start()
    assert asked.result(TIMEOUT)[0] is State.STARTED


def test_a_server_that_blocks_has_no_deadline(bus, calls):
    @bus.subscribe('start', blocking=True, timeout=0.001)
    def server():
        calls.append(signal.getitimer(signal.ITIMER_REAL))
        new = set(threading.enumerate()) - before
        calls.extend(t for t in new if isinstance(t, threading.Timer))

    before = set(threading.enumerate())
    bus.start_timeout = 600
    bus.start()
    assert calls == [(0.0, 0.0)]


def test_a_callback_may_say_itself_that_it_blocks(bus, calls):
    def server():
        calls.append(bus.state)

    server.blocking = True
    bus.subscribe('start', server)
    bus.start()
    assert calls == [State.STARTED]


def test_stop_listeners_run_in_the_thread_of_the_server(bus, calls, server):
    bus.subscribe('stop', lambda: calls.append(threading.current_thread()))
    asked = when_serving(server, bus.exit)
    bus.start()
    asked.result(TIMEOUT)
    assert calls == [threading.main_thread()]


def test_the_handler_of_sigint_is_as_it_was_when_the_server_has_ended(bus, server):
    before = signal.getsignal(signal.SIGINT)
    asked = when_serving(server, bus.exit)
    bus.start()
    asked.result(TIMEOUT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_server_that_blocks_is_ended_where_the_shell_ignores_sigint(
    bus, calls, record, server
):
    record('stop')
    server.patience = 5
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as for a shell's job with &
    try:
        asked = when_serving(server, bus.exit)
        bus.start()
        asked.result(TIMEOUT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert server.interrupted
    assert calls == ['stop']


def test_a_server_that_ends_is_not_interrupted_once_more_at_once(bus, calls):
    def server():
        try:
            while True:
                threading.Event().wait(0.05)
        except KeyboardInterrupt:
            calls.append('ending')
            threading.Event().wait(0.5)  # what it has to do before it returns
            calls.append('ended')

    bus.subscribe('start', server, blocking=True)
    before = signal.signal(signal.SIGUSR1, lambda *_: bus.exit())
    timer = threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGUSR1])
    timer.start()
    try:
        bus.start()
    finally:
        signal.signal(signal.SIGUSR1, before)
        timer.join()
    assert calls == ['ending', 'ended']


def test_of_two_servers_that_block_the_second_does_not_run_when_the_site_stopped(
    bus, calls
):
    for name in ('one', 'two'):
        bus.subscribe(
            'start', lambda name=name: calls.append((name, bus.state)), blocking=True
        )
    bus.start()
    assert calls == [('one', State.STARTED)]

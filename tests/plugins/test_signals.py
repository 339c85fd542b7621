"""OS signals: a table of channels and methods, listeners, and whose they are afterwards."""

import os
import signal
import sys
import threading
import time

import pytest

from paste_wspbus.bus import State
from paste_wspbus.errors import SettingError, WSPBusError
from paste_wspbus.hosts.site import Program
from paste_wspbus.plugins.signals import (
    DEFAULTS,
    BadSignal,
    Escalation,
    SignalHandler,
    signal_name,
)
from tests.kit import TIMEOUT, Process
from tests.kit.places import ROOT

#: A bus with a handler that tells on standard error what happens to it.
SITE = """
import os, signal, sys, threading
from paste_wspbus.bus import Bus
from paste_wspbus.plugins.signals import SignalHandler
def say(*words):
    os.write(2, (' '.join(map(str, words)) + '\\n').encode())
def where():
    return 'in main' if threading.current_thread() is threading.main_thread() else '?'
bus = Bus()
bus.subscribe('log', lambda msg, level: say(msg))
bus.subscribe('start', lambda: say('started'), priority=99)
bus.subscribe('reopen_logs', lambda: say('reopened'))
handler = SignalHandler(bus)
"""
RUN = """
handler.subscribe()
bus.start()
bus.block()
"""


def site(tmp_path, script='', run=RUN):
    return Process(
        [sys.executable, '-c', SITE + script + run],
        tmp_path,
        env={'PYTHONPATH': str(ROOT)},
    )


@pytest.fixture(autouse=True)
def dispositions():
    """Each test leaves the signals as they were."""
    before = {
        number: signal.getsignal(number)
        for number in signal.Signals
        if number not in (signal.SIGKILL, signal.SIGSTOP)
    }
    yield before
    after = {number: signal.getsignal(number) for number in before}
    for number, handler in before.items():
        if after[number] is not handler:
            signal.signal(number, handler)
    assert after == before


# -- the table -----------------------------------------------------------------------


def test_a_signal_stands_for_a_channel(tmp_path):
    script = "handler.handlers['SIGUSR1'] = 'tea'\nbus.subscribe('tea', lambda: say('tea', where()))"
    with site(tmp_path, script) as process:
        process.expect('Bus STARTED')
        process.send(signal.SIGUSR1)
        process.expect('tea in main')
        process.send(signal.SIGUSR2)
        process.expect('reopened')
        process.send(signal.SIGTERM)
        assert process.wait() == 0, process.report()
    assert process.err.text.count('Caught signal SIGUSR1.') == 1
    assert process.err.text.count('reopened') == 1


@pytest.mark.parametrize(
    ('method', 'line'),
    [
        ('exit', 'Bus EXITED'),
        ('stop', 'Bus STOPPED'),
        ('graceful', 'Bus graceful'),
        ('restart', 'Re-spawning'),
    ],
)
def test_a_signal_stands_for_a_method_of_the_bus(tmp_path, method, line):
    script = f"handler.handlers['SIGUSR1'] = {method!r}"
    with site(tmp_path, script) as process:
        process.expect('Bus STARTED')
        process.send(signal.SIGUSR1)
        process.expect(line)


def test_several_may_listen_to_a_signal_beside_what_it_stands_for(tmp_path):
    script = """
bus.subscribe('SIGUSR1', lambda: say('second'))
bus.subscribe('SIGUSR1', lambda: say('first'), priority=1)
"""
    with site(tmp_path, script) as process:
        process.expect('Bus STARTED')
        process.send(signal.SIGUSR1)
        process.expect('reopened')
    said = process.err.text.splitlines()
    caught = said.index('Caught signal SIGUSR1.')
    assert said[caught + 1 : caught + 4] == ['first', 'second', 'reopened']


def test_a_signal_that_is_a_channel_of_its_own_name_is_told_once(tmp_path):
    script = """
handler.handlers['SIGUSR1'] = 'SIGUSR1'
bus.subscribe('SIGUSR1', lambda: say('told'))
"""
    with site(tmp_path, script) as process:
        process.expect('Bus STARTED')
        process.send(signal.SIGUSR1)
        process.expect('told')
        process.send(signal.SIGUSR2)
        process.expect('reopened')
    assert process.err.text.count('told') == 1


def test_a_function_in_the_table_is_a_listener(tmp_path):
    """As people write it who come from CherryPy."""
    script = """
handler.handlers['SIGUSR1'] = lambda: say('called', where())
handler.handlers['SIGUSR2'] = bus.exit
"""
    with site(tmp_path, script) as process:
        process.expect('Bus STARTED')
        process.send(signal.SIGUSR1)
        process.expect('called in main')
        process.send(signal.SIGUSR2)
        assert process.wait() == 0, process.report()


def test_a_handler_only_enqueues(tmp_path):
    """The main thread holds a lock when the signal comes; the listener wants it."""
    script = """
lock = threading.Lock()
def listener():
    with lock:
        say('got the lock')
bus.subscribe('SIGUSR1', listener)
@bus.subscribe('start', priority=10)
def interrupted():
    with lock:
        os.kill(os.getpid(), signal.SIGUSR1)
        say('holds the lock')
"""
    with site(tmp_path, script) as process:
        process.expect('got the lock')
    said = process.err.text.splitlines()
    assert said.index('holds the lock') < said.index('got the lock')


@pytest.mark.parametrize('target', [None, 'ignore', ''])
def test_a_signal_may_be_ignored(tmp_path, target):
    script = f'handler.handlers.update(SIGUSR1={target!r}, SIGHUP={target!r})'
    with site(tmp_path, script) as process:
        process.expect('Bus STARTED')
        process.send(signal.SIGUSR1)
        process.send(signal.SIGHUP)
        process.send(signal.SIGUSR2)
        process.expect('reopened')
        process.send(signal.SIGTERM)
        assert process.wait() == 0, process.report()
    assert 'SIGUSR1' not in process.err.text
    assert 'SIGHUP' not in process.err.text


def test_what_the_table_is_given_replaces_the_default_and_may_be_spelled_as_in_an_ini(
    bus,
):
    handler = SignalHandler(bus, {'usr1': 'tea', 'SIGCHLD': 'children'})
    there = {name: DEFAULTS[name] for name in DEFAULTS if hasattr(signal, name)}
    assert handler.handlers == {**there, 'SIGUSR1': 'tea', 'SIGCHLD': 'children'}


def test_the_table_may_name_a_signal_by_another_of_its_names(bus, dispositions):
    handler = SignalHandler(bus)
    handler.handlers = {'hup': 'exit', signal.SIGUSR1: 'tea', 'SIGCLD': 'children'}
    told = []
    bus.subscribe('children', lambda: told.append('children'))
    handler.subscribe()
    os.kill(os.getpid(), signal.SIGCHLD)
    handler.unsubscribe()
    assert set(handler.handlers) == {'SIGHUP', 'SIGUSR1', 'SIGCHLD'}
    assert told == ['children']


@pytest.mark.parametrize(
    ('name', 'problem'),
    [
        ('SIGKILL', 'SIGKILL cannot be caught'),
        ('stop', 'SIGSTOP cannot be caught'),
        (9, 'SIGKILL cannot be caught'),
        ('SIGFOO', 'there is no such signal'),
        ('SIG_DFL', 'there is no such signal'),
        ('', 'there is no such signal'),
        (4711, 'there is no such signal'),
    ],
)
def test_a_signal_that_cannot_be_had_is_an_error_that_names_it(bus, name, problem):
    handler = SignalHandler(bus)
    handler.handlers[name] = 'exit'
    for wrong in (
        lambda: signal_name(name),
        lambda: SignalHandler(bus, {name: 'exit'}),
        lambda: handler.set_handler(name),
        handler.subscribe,
    ):
        with pytest.raises(BadSignal) as error:
            wrong()
        assert str(error.value) == f'signal.{name}: {problem}'
        assert (error.value.name, error.value.exit_code) == (name, 2)
        assert isinstance(error.value, (SettingError, WSPBusError))
        assert isinstance(error.value, ValueError)  # as CherryPy's set_handler has it
    assert name in handler.handlers
    # The fixture sees to it that no signal was taken over.


# -- set_handler ------------------------------------------------------------------------


def test_set_handler_adds_a_listener_to_what_a_signal_stands_for(tmp_path):
    script = """
bus.signal_handler = handler
bus.signal_handler.set_handler('SIGUSR1', lambda: say('listener', where()))
handler.set_handler(signal.SIGWINCH, lambda: say('resized'))
"""
    with site(tmp_path, script) as process:
        process.expect('Bus STARTED')
        process.send(signal.SIGUSR1)
        process.expect('reopened')
        process.send(signal.SIGWINCH)
        process.expect('resized')
    assert 'listener in main' in process.err.text
    assert 'Caught signal SIGWINCH.' in process.err.text


def test_set_handler_takes_effect_at_once(bus, dispositions):
    handler, told = SignalHandler(bus), []
    handler.set_handler('SIGWINCH', lambda: told.append('resized'))
    os.kill(os.getpid(), signal.SIGWINCH)
    assert told == ['resized']
    handler.unsubscribe()
    assert signal.getsignal(signal.SIGWINCH) is dispositions[signal.SIGWINCH]


def test_set_handler_without_a_listener_has_the_signal_told_to_its_channel(bus):
    handler, told = SignalHandler(bus), []
    bus.subscribe('SIGWINCH', lambda: told.append('resized'))
    handler.set_handler('SIGWINCH')
    os.kill(os.getpid(), signal.SIGWINCH)
    handler.unsubscribe()
    assert told == ['resized']


def test_whoever_wants_to_hear_a_signal_has_it_not_ignored_any_more(bus):
    handler, told = SignalHandler(bus, {'SIGUSR1': 'ignore'}), []
    handler.subscribe()
    os.kill(os.getpid(), signal.SIGUSR1)
    handler.set_handler('SIGUSR1', lambda: told.append('heard'))
    os.kill(os.getpid(), signal.SIGUSR1)
    handler.unsubscribe()
    assert told == ['heard']


# -- whose the signals are ---------------------------------------------------------------


@pytest.mark.parametrize('times', [1, 2])
def test_unsubscribed_the_signals_are_whose_they_were(bus, dispositions, times):
    def mine(signum, frame):
        pass

    before = {'SIGUSR1': mine, 'SIGUSR2': signal.SIG_IGN, 'SIGHUP': signal.SIG_DFL}
    for name, handler in before.items():
        signal.signal(getattr(signal, name), handler)
    try:
        signals = SignalHandler(bus, {'SIGHUP': 'ignore', 'SIGWINCH': lambda: None})
        for _ in range(times):
            signals.subscribe()
        for number in map(signal.Signals.__getitem__, signals.handlers):
            assert (
                signal.getsignal(number) not in before.values()
                or number == signal.SIGHUP
            )
        for _ in range(times):
            signals.unsubscribe()
        for name, handler in before.items():
            assert signal.getsignal(getattr(signal, name)) is handler
        assert not bus.listeners['SIGWINCH']
    finally:
        for name in before:
            number = getattr(signal, name)
            signal.signal(number, dispositions[number])


def test_outside_the_main_thread_it_stands_down_with_one_line(bus, log):
    handler = SignalHandler(bus)
    thread = threading.Thread(
        target=lambda: [handler.subscribe(), handler.unsubscribe()]
    )
    thread.start()
    thread.join(TIMEOUT)
    assert log == ['Signals are not handled: this is not the main thread.']


def test_outside_the_main_thread_they_are_not_given_back_but_kept(bus, log):
    handler = SignalHandler(bus)
    handler.subscribe()
    thread = threading.Thread(target=handler.unsubscribe)
    thread.start()
    thread.join(TIMEOUT)
    assert log == ['Signals are not given back: this is not the main thread.']
    handler.unsubscribe()


def test_in_a_forked_child_a_signal_is_its_own(tmp_path):
    script = """
child = None
@bus.subscribe('start')
def fork():
    global child
    child = os.fork()
    if not child:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    say('died of', -os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    with site(tmp_path, script) as process:
        process.expect('Bus STARTED')
        process.send(signal.SIGTERM)
        assert process.wait() == 0, process.report()
    assert f'died of {int(signal.SIGTERM)}' in process.err.text
    assert process.err.text.count('Bus STOPPING') == 1


def test_a_site_that_became_a_daemon_still_stops_gracefully(tmp_path):
    """A start listener forked, and the bus is the child's."""
    script = """
@bus.subscribe('start', priority=65)
def daemonize():
    if os.fork():
        os._exit(0)
bus.subscribe('start', lambda: say('daemon is', os.getpid()), priority=70)
"""
    with site(tmp_path, script) as process:
        process.expect('Bus STARTED')
        said = process.err.text.splitlines()
        daemon = int(next(line for line in said if 'daemon is' in line).split()[2])
        assert process.process.wait(TIMEOUT) == 0
        assert daemon != process.pid
        os.kill(daemon, signal.SIGTERM)
        process.expect('Bus EXITED')
        process.expect('Waiting for child threads')


# -- to leave -----------------------------------------------------------------------------


def test_a_handler_that_is_subscribed_again_counts_from_one(tmp_path):
    script = """
for _ in range(2):
    handler.subscribe()
    bus.start()
    os.kill(os.getpid(), signal.SIGTERM)
    bus.block()
    say('hurried', bus.hurried)
    handler.unsubscribe()
"""
    with site(tmp_path, script, run='') as process:
        assert process.wait() == 0, process.report()
    assert process.err.text.count('hurried False') == 2
    assert process.err.text.count('Bus EXITED') == 2


def test_signals_within_half_a_second_are_one_wish(monkeypatch, capfd):
    now = 100.0
    monkeypatch.setattr(time, 'monotonic', lambda: now)
    counted, wishes = [], Escalation()
    for at in (100.0, 100.002, 100.4, 100.499, 100.5, 100.9, 101.0):
        now = at
        if wishes.counts(signal.SIGINT):
            counted.append(at)
    assert counted == [100.0, 100.5, 101.0]  # not 100.9: it is too near to 100.5
    assert wishes.count == 3
    assert capfd.readouterr().err == 'stopping; press again to force\n'  # once


def test_only_ctrl_c_is_answered(capfd):
    wishes = Escalation()
    assert wishes.counts(signal.SIGINT)
    assert not wishes.counts(signal.SIGTERM)
    assert capfd.readouterr().err == ''


def test_the_answer_is_not_waited_for(tmp_path):
    """Nobody reads the pipe, and it is full."""
    script = """
import fcntl
full, _ = os.pipe()[::-1]
fcntl.fcntl(full, fcntl.F_SETFL, os.O_NONBLOCK)
try:
    while True:
        os.write(full, b'x' * 512)
except BlockingIOError:
    os.set_blocking(full, True)
err = os.dup(2)
def say(*words):
    os.write(err, (' '.join(map(str, words)) + '\\n').encode())
bus.subscribe('start', lambda: os.dup2(full, 2))
bus.subscribe('stop', sys.stdin.read)
"""
    with site(tmp_path, script) as process:
        process.expect('Bus STARTED')
        process.send(signal.SIGINT)
        process.send(signal.SIGINT)
        process.release()  # not before: the second one would end what has stopped
        assert process.wait() == 0, process.report()


def test_it_stands_down_where_the_host_owns_the_signals(bus, dispositions):
    logged = []
    bus.subscribe('log', lambda msg, level: logged.append(msg))
    bus.host = Program('mine', '', ())
    before = signal.getsignal(signal.SIGTERM)
    handler = SignalHandler(bus)
    handler.subscribe()
    assert signal.getsignal(signal.SIGTERM) is before
    assert logged == ['Signals are not handled: the host of this process handles them.']
    handler.unsubscribe()


# -- before the start ---------------------------------------------------------------------


@pytest.mark.parametrize('command', ['exit', 'stop'])
def test_a_signal_before_the_start_cuts_the_start_short(bus, command):
    started = []
    bus.subscribe('start', lambda: started.append(True))
    handler = SignalHandler(bus, {'SIGTERM': command})
    handler.expect_start()
    handler.subscribe()
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        assert bus.state is State.STOPPED  # the start will hear of it
        bus.start()
        assert started == []
        assert bus.state is (State.EXITING if command == 'exit' else State.STOPPED)
        if command == 'stop':  # the wish was fulfilled
            bus.start()
            assert started == [True]
            bus.exit()
    finally:
        handler.unsubscribe()

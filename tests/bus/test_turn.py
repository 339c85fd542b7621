"""Whose turn it is: commands are carried out one at a time, and the turn is never lost."""

import sys
import threading
from queue import SimpleQueue

import pytest

from paste_wspbus.bus import turn as module
from paste_wspbus.bus.turn import Turn
from tests.kit import TIMEOUT


class Bus:
    """What carries out commands: it notes them, and does what a test has for a name."""

    def __init__(self):
        self.done, self.does = [], {}
        self.turn = Turn(SimpleQueue(), self.carry_out)

    def carry_out(self, command):
        self.done.append((command.name, threading.get_ident()))
        try:
            self.does.get(command.name, lambda: None)()
        except BaseException as error:
            command.error = error

    @property
    def names(self):
        return [name for name, _ in self.done]


@pytest.fixture
def bus():
    return Bus()


def in_thread(function):
    results = []
    thread = threading.Thread(target=lambda: results.append(function()), daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    assert results, 'the thread hangs'
    return results[0]


def is_free(turn):
    return in_thread(lambda: turn.hold(lambda: True, wait=False)) is True


def test_who_asks_runs_the_command(bus):
    bus.turn.put('start')
    bus.turn.run_if_nobody_will()
    assert bus.done == [('start', threading.get_ident())]
    assert bus.turn.current is bus.turn.owner is None


def test_a_command_that_comes_in_a_command_is_run_behind_it(bus):
    def start():
        bus.turn.put('exit')
        bus.turn.run()
        assert bus.names == ['start']

    bus.does['start'] = start
    command = bus.turn.put('start')
    bus.turn.run()
    assert command.error is None
    assert bus.names == ['start', 'exit']


def test_a_command_of_another_thread_is_run_by_the_one_whose_turn_it_is(bus):
    def start():
        bus.turn.put('stop')
        in_thread(bus.turn.run)

    bus.does['start'] = start
    bus.turn.put('start')
    bus.turn.run()
    assert [thread for _, thread in bus.done] == [threading.get_ident()] * 2


def test_others_leave_their_commands_to_the_thread_that_is_named(bus):
    bus.turn.keep_for(threading.get_ident())
    bus.turn.put('stop')
    in_thread(bus.turn.run_if_nobody_will)
    assert bus.names == []
    bus.turn.run_if_nobody_will()
    assert bus.names == ['stop']


def test_a_turn_that_is_kept_for_nobody_is_run_by_nobody(bus):
    bus.turn.keep_for(0)
    bus.turn.put('stop')
    bus.turn.run_if_nobody_will()
    assert bus.names == []
    bus.turn.keep_for(None)
    bus.turn.run_if_nobody_will()
    assert bus.names == ['stop']


def test_the_first_interrupt_of_a_command_is_raised_when_all_are_done(bus):
    bus.does = {'start': lambda: sys.exit(3), 'stop': lambda: sys.exit(4)}
    for name in ('start', 'graceful', 'stop'):
        bus.turn.put(name)
    with pytest.raises(SystemExit) as caught:
        bus.turn.run()
    assert caught.value.code == 3
    assert bus.names == ['start', 'graceful', 'stop']
    assert is_free(bus.turn)


def test_an_error_that_is_no_interrupt_stays_with_its_command(bus):
    bus.does['start'] = lambda: 1 / 0
    command = bus.turn.put('start')
    bus.turn.run()
    assert isinstance(command.error, ZeroDivisionError)


def test_what_leaves_is_known_until_it_begins(bus):
    seen = []
    bus.does['exit'] = lambda: seen.append((bus.turn.leaving, bus.turn.current))
    command = bus.turn.put('exit')
    assert bus.turn.leaving == [command]
    bus.turn.run()
    assert seen == [([], 'exit')]


def test_a_turn_that_is_lent_runs_anything_but_what_ends_the_server(bus):
    def serve():
        assert not bus.turn.is_mine
        bus.turn.put('stop')
        bus.turn.put('graceful')
        in_thread(bus.turn.run_if_nobody_will)
        assert bus.names == ['start', 'graceful']
        assert bus.turn.leaving

    bus.does['start'] = lambda: bus.turn.lend(serve)
    command = bus.turn.put('start')
    bus.turn.run()
    assert command.error is None
    assert bus.names == ['start', 'graceful', 'stop']
    assert is_free(bus.turn)


def test_waiting_until_the_turn_is_free(bus):
    began, go, waited = threading.Event(), threading.Event(), threading.Event()

    def work():
        began.set()
        assert go.wait(TIMEOUT)

    worker = threading.Thread(target=bus.turn.hold, args=(work,))
    worker.start()
    assert began.wait(TIMEOUT)
    assert not is_free(bus.turn)

    def wait():
        bus.turn.wait_until_free()
        waited.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    assert not waited.is_set()
    go.set()
    assert waited.wait(TIMEOUT)
    worker.join(TIMEOUT)
    waiter.join(TIMEOUT)


def test_a_turn_that_gets_another_queue_keeps_the_commands(bus):
    queue = SimpleQueue()
    bus.turn.put('start')
    bus.turn.sleep_in(queue)
    bus.turn.put('stop')
    assert bus.turn.commands is queue
    bus.turn.run()
    assert bus.names == ['start', 'stop']


def test_a_thread_knows_that_the_turn_is_its_own(bus):
    assert bus.turn.hold(lambda: bus.turn.is_mine)
    assert bus.turn.hold(lambda: in_thread(lambda: bus.turn.is_mine)) is False
    assert not bus.turn.is_mine


def test_a_thread_that_does_not_get_the_turn_leaves_it_to_its_owner(bus):
    def work():
        assert not is_free(bus.turn)
        return bus.turn.owner

    assert bus.turn.hold(work) == threading.get_ident()


def test_a_command_that_does_not_end_the_site_does_not_leave(bus):
    bus.turn.put('graceful')
    assert not bus.turn.leaving


def test_the_command_that_wakes_carries_nothing_out(bus):
    bus.turn.wake()
    assert not bus.turn.commands.empty()
    bus.turn.run()
    assert bus.names == [] and bus.turn.commands.empty()


def test_what_runs_while_the_turn_is_lent_returns_its_result(bus):
    assert bus.turn.hold(lambda: bus.turn.lend(lambda: 'served')) == 'served'


def test_a_turn_that_was_lent_is_taken_back_as_it_was(bus):
    def work():
        bus.turn.blocker, bus.turn.current = 7, 'start'
        bus.turn.lend(lambda: None)
        assert bus.turn.is_mine
        return bus.turn.blocker, bus.turn.current

    assert bus.turn.hold(work) == (7, 'start')


def test_who_lent_the_turn_waits_for_it(bus):
    has_it, threads = threading.Event(), []

    def use():
        has_it.set()
        threading.Event().wait(0.05)

    def serve():
        threads.append(threading.Thread(target=bus.turn.hold, args=(use,)))
        threads[0].start()
        assert has_it.wait(TIMEOUT)

    def work():
        bus.turn.lend(serve)
        return bus.turn.is_mine

    assert bus.turn.hold(work)
    threads[0].join(TIMEOUT)


# -- KeyboardInterrupt at any bytecode ----------------------------------------------------


class InterruptAt:
    """Raises KeyboardInterrupt before the nth bytecode of turn.py that is run inside."""

    def __init__(self, number):
        self.left, self.came = number, False

    def __enter__(self):
        self.previous = sys.gettrace()
        sys.settrace(self.trace)

    def __exit__(self, *_):
        sys.settrace(self.previous)

    def trace(self, frame, event, arg):
        if frame.f_code.co_filename != module.__file__:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == 'opcode':
            self.left -= 1
            if self.left == 0:
                self.came = True
                raise KeyboardInterrupt
        return self.trace


def nowhere(turn):
    return turn.hold(lambda: True)


def in_the_queue(turn):
    turn.put('stop')
    turn.run()


def while_it_is_lent(turn):
    turn.hold(lambda: turn.lend(lambda: None))


@pytest.mark.parametrize('use', [nowhere, in_the_queue, while_it_is_lent])
def test_an_interrupt_at_any_bytecode_leaves_the_turn_free(use):
    with InterruptAt(-1):  # from Python 3.12 on, code is traced the second time it runs
        use(Bus().turn)
    number, came = 0, True
    while came:
        number += 1
        bus, interrupt = Bus(), InterruptAt(number)
        try:
            with interrupt:
                use(bus.turn)
        except KeyboardInterrupt:
            pass
        came = interrupt.came
        assert is_free(bus.turn), f'lost at bytecode {number}'
        assert bus.turn.owner is bus.turn.current is None, f'at bytecode {number}'
        assert not bus.turn.is_lent, f'at bytecode {number}'
    assert number > 10

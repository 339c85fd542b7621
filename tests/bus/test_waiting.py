"""Waiting for a state: no state is missed, and the thread in block() runs the commands."""

import contextlib
import os
import threading
from queue import SimpleQueue

import pytest

from paste_wspbus.bus import Bus as RealBus
from paste_wspbus.bus import State
from paste_wspbus.bus.callback import start_and_call
from paste_wspbus.bus.turn import Turn
from paste_wspbus.bus.waiting import Block, Waiting
from paste_wspbus.errors import IllegalTransition
from tests.kit import TIMEOUT

SOON = 0.001


class Bus:
    """What the waiting is for: a state, a log, commands that go to states."""

    def __init__(self):
        self.state, self.heard = State.STOPPED, set()
        self.log, self.published, self.does = [], [], {}
        self.turn = Turn(SimpleQueue(), self.carry_out)
        self.waiting = Waiting(
            self.turn,
            state=lambda: self.state,
            publish=self.publish,
            is_heard=lambda channel: channel in self.heard,
            log=lambda msg, level=20: self.log.append(msg),
            make_queue=SimpleQueue,
        )

    def publish(self, channel):
        self.published.append(channel)
        self.does.get(channel, lambda: None)()

    def carry_out(self, command):
        try:
            self.does.get(command.name, lambda: None)()
        except BaseException as error:
            command.error = error

    def move(self, *states):
        for state in states:
            self.state = state
            self.waiting.has_moved(state)

    def block(self, pid=None):
        return Block(
            self.turn,
            wait=lambda: self.waiting.run_commands({State.EXITING}, SOON, 'main'),
            is_reached=lambda: self.waiting.is_reached({State.EXITING}),
            log=self.log.append,
            leave='exit',
            pid=lambda: pid or os.getpid(),
        )


@pytest.fixture
def bus():
    return Bus()


# -- asleep -----------------------------------------------------------------------------------


def test_the_state_that_the_bus_is_in_needs_no_wait(bus):
    with bus.waiting.watching({State.STOPPED}) as watcher:
        assert bus.waiting.sleep(watcher, SOON, None) is State.STOPPED


def test_a_state_that_is_left_at_once_is_not_missed(bus):
    with bus.waiting.watching({State.STARTED, State.EXITING}) as watcher:
        bus.move(State.STARTING, State.STARTED, State.STOPPING)
        assert bus.waiting.sleep(watcher, SOON, None) is State.STARTED


def test_who_is_forgotten_hears_nothing(bus):
    with bus.waiting.watching({State.STARTED}) as watcher:
        pass
    bus.move(State.STARTED)
    bus.waiting.wake()
    assert watcher.reached.empty()


def test_a_channel_is_published_while_somebody_listens(bus):
    bus.heard.add('main')
    bus.does['main'] = lambda: bus.move(State.STARTED)
    with bus.waiting.watching({State.STARTED}) as watcher:
        assert bus.waiting.sleep(watcher, SOON, 'main') is State.STARTED
    assert bus.published == ['main']


def test_a_first_listener_is_noticed_by_who_sleeps_already(bus):
    watcher = bus.waiting.watch({State.STARTED})
    thread = threading.Thread(target=bus.waiting.sleep, args=(watcher, SOON, 'main'))
    thread.start()
    bus.does['main'] = lambda: bus.move(State.STARTED)
    bus.heard.add('main')
    bus.waiting.wake()
    thread.join(TIMEOUT)
    assert not thread.is_alive()


def test_a_start_forgets_what_was_visited_before(bus):
    bus.move(State.STARTING, State.STARTED, State.STOPPED, State.STARTING)
    assert bus.waiting.visited == {State.STARTING}


def test_a_call_in_a_new_thread_comes_when_the_bus_is_started(bus):
    called = threading.Event()
    states = State.STARTING, State.STARTED
    thread = start_and_call(bus.waiting, lambda: bus.move(*states), called.set)
    thread.join(TIMEOUT)
    assert called.is_set()


def test_a_start_that_fails_ends_that_thread_without_a_call(bus):
    called = threading.Event()
    before = set(threading.enumerate())
    with pytest.raises(ZeroDivisionError):
        start_and_call(bus.waiting, lambda: 1 / 0, called.set)
    for thread in set(threading.enumerate()) - before:
        thread.join(TIMEOUT)
        assert not thread.is_alive()
    assert not called.is_set()


# -- the thread in block() ----------------------------------------------------------------------


def test_commands_are_run_until_the_state_was_visited(bus):
    bus.does = {
        'start': lambda: bus.move(State.STARTED, State.STOPPED),
        'never': lambda: pytest.fail('behind the goal'),
    }
    bus.turn.put('start')
    bus.turn.put('never')
    reached = bus.waiting.run_commands({State.STARTED}, SOON, None)
    assert reached is State.STARTED


def test_an_error_of_the_commands_own_is_logged_and_others_are_kept(bus):
    def refuse():
        raise IllegalTransition('here', 'there')

    bus.does = {
        'start': refuse,
        'publish': lambda: 1 / 0,
        'exit': lambda: bus.move(State.EXITING),
    }
    commands = [bus.turn.put(name) for name in bus.does]
    bus.waiting.run_commands({State.EXITING}, SOON, None)
    assert bus.log == ["The bus cannot go from 'here' to 'there'"]
    assert isinstance(commands[1].error, ZeroDivisionError)


def test_an_interrupt_of_a_command_gets_out(bus):
    def interrupt():
        raise KeyboardInterrupt

    bus.does['start'] = interrupt
    bus.turn.put('start')
    with pytest.raises(KeyboardInterrupt):
        bus.waiting.run_commands({State.EXITING}, SOON, None)


@pytest.mark.parametrize(
    'error, notice, left',
    [
        (KeyboardInterrupt(), 'Keyboard Interrupt: shutting down bus', None),
        (SystemExit(7), 'SystemExit raised: shutting down bus', 7),
    ],
)
def test_an_interrupt_has_the_bus_leave(bus, error, notice, left):
    def fail():
        raise error

    bus.does = {'start': fail, 'exit': lambda: bus.move(State.EXITING)}
    bus.turn.put('start')
    came = bus.block().run(takes_turn=True)
    assert bus.log == [notice]
    assert (came and came.code) == left
    assert bus.turn.owner is bus.turn.blocker is None


def test_the_first_of_several_exits_is_kept(bus):
    codes = iter([3, 4])

    def leave():
        if (code := next(codes, None)) is not None:
            raise SystemExit(code)
        bus.move(State.EXITING)

    bus.does = {'exit': leave}
    bus.turn.put('exit')
    assert bus.block().run(takes_turn=True).code == 3


def test_an_interrupt_in_a_forked_child_is_the_childs_own(bus):
    def leave():
        raise SystemExit(0)

    bus.does['start'] = leave
    bus.turn.put('start')
    with pytest.raises(SystemExit):
        bus.block(pid=os.getpid() + 1).run(takes_turn=True)
    assert bus.turn.owner is None


def test_a_wait_that_knows_of_no_queue_does_not_take_the_turn(bus):
    owners = []

    def wait():
        owners.append(bus.turn.owner)

    block = Block(bus.turn, wait, bool, bus.log.append, 'exit', os.getpid)
    bus.turn.put('start')
    assert block.run(takes_turn=False) is None
    assert owners == [None]
    assert bus.turn.commands.empty()


@pytest.mark.parametrize('error', [KeyboardInterrupt, SystemExit(7)])
@pytest.mark.parametrize('states', [None, State.STOPPED])
def test_a_wait_that_was_replaced_and_raises_for_ever_stops_the_site(error, states):
    def wait(*args, **kwargs):
        raise error

    bus = RealBus()
    bus.wait = wait
    stopped, notices = [], []
    bus.subscribe('stop', lambda: stopped.append(True))
    bus.subscribe('log', lambda text, level: notices.append(text))
    bus.start()
    with contextlib.suppress(SystemExit):
        bus.block(states=states)
    assert stopped == [True]
    assert bus.state is (State.STOPPED if states else State.EXITING)
    assert notices.count('Keyboard Interrupt: shutting down bus') <= 1
    bus.exit()


def test_a_wait_that_raises_while_another_thread_stops_the_site_does_not_spin():
    def wait(*args, **kwargs):
        calls.append(1)
        if len(calls) == 1:
            stopping.start()
            assert is_stopping.wait(TIMEOUT)
        raise KeyboardInterrupt

    def hold():
        is_stopping.set()
        assert not go.wait(0.2)

    bus, calls = RealBus(), []
    is_stopping, go = threading.Event(), threading.Event()
    stopping = threading.Thread(target=bus.exit)
    bus.wait = wait
    bus.subscribe('stop', hold)
    bus.start()
    bus.block()
    stopping.join(TIMEOUT)
    assert len(calls) <= 2

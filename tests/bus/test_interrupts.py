"""A signal at each moment of the steps that must not be torn."""

import itertools
import os
import resource
import signal
import threading
from collections import deque
from functools import partial

import pytest

from paste_wspbus.bus import State
from paste_wspbus.bus.channels import call_next
from paste_wspbus.bus.deadlines import with_rlock
from paste_wspbus.bus.interrupts import inside, start_thread
from tests.attacks.moments import Keyboard, tracer
from tests.kit import TIMEOUT


def interrupted(make):
    """Yield (what ``make`` returns, the moment) after a signal at each moment of its call."""
    for number in itertools.count(1):
        made = make()
        at = tracer(number, Keyboard)
        try:
            with at:
                made()
        except KeyboardInterrupt:
            assert at.place is not None
        if at.place is None:
            assert number > 3
            return
        yield made, at.place


class Call:
    """A call of `call_next`; the method notes by one step that it was called."""

    def __init__(self, owner, method):
        self.owner, self.method = owner, method
        self.owners, self.results = deque([owner, 'next']), []

    def __call__(self):
        call_next(self.owners, self.method, self.results)


class Owner:
    is_called = False

    def method(self):
        self.is_called = True


def test_whoever_was_taken_out_was_called():
    for call, moment in interrupted(lambda: Call(Owner(), 'method')):
        assert call.owner.is_called is (call.owners[0] == 'next'), moment
        assert call.owner.is_called is (call.results == [None]), moment


@pytest.mark.parametrize(
    ('method', 'before'), [('__enter__', False), ('release', True)]
)
def test_whatever_is_written_in_c_was_called_if_it_has_a_result(method, before):
    def make():
        lock = threading.Lock()
        if before:
            lock.acquire()
        return Call(lock, method)

    for call, moment in interrupted(make):
        was_called = call.owner.locked() is not before
        assert was_called is (call.owners[0] == 'next') is bool(call.results), moment


def test_the_first_step_of_a_function_in_the_method_is_not_its_own():
    """The beginning of an inner function looks like that of the method."""

    class Outer(Owner):
        def method(self):
            super().method()
            (lambda: None)()

    for call, moment in interrupted(lambda: Call(Outer(), 'method')):
        if call.owner.is_called:
            assert call.owners[0] == 'next', moment


def test_no_owner_is_compared_with_anything():
    class Owned(Owner):
        __hash__ = None

        def __eq__(self, other):
            raise AssertionError

    for call, moment in interrupted(lambda: Call(Owned(), 'method')):
        assert call.owner.is_called is (call.results == [None]), moment


class Inside:
    """A call of `inside`; it is the context, too."""

    is_open = False

    def __enter__(self):
        self.is_open = True

    def __exit__(self, *_):
        self.is_open = False

    def __call__(self):
        inside(self, lambda: None)


def test_no_context_stays_open():
    for context, moment in interrupted(Inside):
        assert not context.is_open, moment


def test_an_error_in_a_context_is_raised():
    context = Inside()
    with pytest.raises(ZeroDivisionError):
        inside(context, lambda: 1 / 0)
    assert not context.is_open


@pytest.mark.parametrize('change', ['set', 'clear'])
def test_an_event_does_not_keep_its_lock(change):
    def make():
        return getattr(with_rlock(threading.Event()), change)

    for made, moment in interrupted(make):
        assert not made.args[0]._is_owned(), moment


def test_an_event_that_a_handler_sets_in_the_middle_keeps_its_lock():
    event = with_rlock(threading.Event())
    with event._cond:
        event.set()
        assert event._cond._is_owned()
    assert event.is_set()


def test_a_thread_that_starts_does_not_hide_an_interrupt():
    def make():
        thread = threading.Thread(target=lambda: None, daemon=True)
        return lambda: start_thread(thread)

    moments = [moment for _, moment in interrupted(make)]
    assert any('in Condition.wait' in moment for moment in moments)


def test_an_error_of_a_thread_that_cannot_start_is_raised():
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join(TIMEOUT)
    with pytest.raises(RuntimeError, match='only be started once'):
        start_thread(thread)


@pytest.fixture
def no_descriptor():
    """No descriptor is free; yield what makes some free again."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = partial(resource.setrlimit, resource.RLIMIT_NOFILE, before)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    yield free
    free()


def test_a_bus_without_a_free_descriptor_blocks_and_hears_a_signal(bus, no_descriptor):
    bus.start()

    def hear(*_):
        no_descriptor()
        bus.exit()

    before = signal.signal(signal.SIGUSR1, hear)
    try:
        bus.subscribe('main', lambda: os.kill(os.getpid(), signal.SIGUSR1))
        bus.block(interval=0.01)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert bus.state is State.EXITING

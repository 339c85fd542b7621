"""Lifespans: what is entered at start, and left at stop if it was entered."""

import contextlib
import threading

import pytest

from paste_wspbus.bus import Bus, ChannelFailures, State
from paste_wspbus.bus.channels import Channel, Listener
from paste_wspbus.bus.lifespan import Lifespan, _is_suspended
from paste_wspbus.bus.lifespans import Lifespans, Line
from paste_wspbus.errors import LifespanRefused, NameTaken, WSPBusError
from tests.kit import TIMEOUT
from tests.kit.buses import spawn_block


@pytest.fixture
def add(bus, calls):
    """Add a lifespan that says when it is entered and left."""

    def add(name, **kwargs):
        @bus.lifespan(name=name, **kwargs)
        def lifespan():
            calls.append(f'+{name}')
            yield f'the {name}'
            calls.append(f'-{name}')

    return add


def fail():
    raise ValueError('broken')


def failing(error=ValueError):
    raise error
    yield


# -- in and out ---------------------------------------------------------------


def test_what_stands_before_yield_runs_at_start_and_what_follows_at_stop(
    bus, calls, add
):
    add('db')
    assert calls == []
    bus.start()
    assert calls == ['+db']
    bus.stop()
    assert calls == ['+db', '-db']


def test_the_bare_decorator_takes_the_functions_name_and_leaves_it_there(bus):
    @bus.lifespan
    def pool():
        yield 7

    bus.start()
    assert bus.resources == {'pool': 7}
    assert list(pool()) == [7]


def test_lifespans_are_left_in_the_reverse_order_of_their_entry(bus, calls, add):
    add('web', priority=75)
    add('db')
    add('cache')
    add('log', priority=5)
    bus.start()
    bus.exit()
    entered = ['log', 'db', 'cache', 'web']
    assert calls == [f'+{name}' for name in entered] + [
        f'-{name}' for name in reversed(entered)
    ]


def test_a_lifespan_starts_at_its_priority_and_stops_at_100_less_it(bus, calls, add):
    for channel, priority in (('start', 24), ('start', 26), ('stop', 74), ('stop', 76)):
        bus.subscribe(
            channel,
            lambda name=f'{channel} {priority}': calls.append(name),
            priority=priority,
        )
    add('server', priority=25)
    bus.start()
    bus.stop()
    assert calls == ['start 24', '+server', 'start 26', 'stop 74', '-server', 'stop 76']


def test_a_lifespan_keeps_its_place_among_listeners_of_equal_priority(bus, calls, add):
    def both(name):
        bus.subscribe('start', lambda: calls.append(f'+{name}'))
        bus.subscribe('stop', lambda: calls.append(f'-{name}'))

    both('first')
    add('db')
    both('last')
    bus.start()
    bus.stop()
    assert calls == ['+first', '+db', '+last', '-last', '-db', '-first']


def test_a_lifespan_is_entered_at_every_start(bus, calls, add):
    add('db')
    for _ in range(3):
        bus.start()
        bus.stop()
    assert calls == ['+db', '-db'] * 3


def test_lifespans_keep_their_order_over_restarts(bus, calls, add):
    for name in ('a', 'b', 'c'):
        add(name)
    bus.start()
    bus.exit()
    first = calls[:]
    calls.clear()
    bus.start()
    bus.exit()
    assert calls == first == ['+a', '+b', '+c', '-c', '-b', '-a']


def test_a_stop_without_a_start_leaves_nothing(bus, calls, add):
    add('db')
    bus.exit()
    assert calls == []


def test_publishing_start_twice_by_hand_enters_once(bus, calls, add):
    add('db')
    bus.start()
    bus.publish('start')
    bus.stop()
    assert calls == ['+db', '-db']


def test_a_lifespan_is_left_in_the_thread_that_entered_it(bus, calls):
    @bus.lifespan
    def db():
        calls.append(threading.get_ident())
        yield
        calls.append(threading.get_ident())

    ended = spawn_block(bus)
    bus.start()
    bus.wait(State.STARTED)
    bus.exit()
    ended.result(TIMEOUT)
    assert calls == [ended.ident, ended.ident]


# -- enter --------------------------------------------------------------------


class Pool:
    """A context manager that says when it is entered and left."""

    def __init__(self, calls):
        self.calls = calls

    def __enter__(self):
        self.calls.append('+pool')
        return self

    def __exit__(self, *args):
        self.calls.append(('-pool', *args))


def test_enter_takes_a_context_manager(bus, calls):
    pool = Pool(calls)
    assert bus.enter(pool, name='db') is None
    assert calls == []
    bus.start()
    assert bus.resources == {'db': pool}
    assert calls == ['+pool']
    bus.stop()
    assert calls == ['+pool', ('-pool', None, None, None)]


def test_enter_returns_what_it_yields_where_the_bus_is_started(bus):
    bus.start()
    assert bus.enter(contextlib.nullcontext('pool')) == 'pool'


def test_enter_enters_a_generators_context_manager_at_every_start(bus, calls):
    @contextlib.contextmanager
    def pool(name):
        calls.append(f'+{name}')
        yield name
        calls.append(f'-{name}')

    bus.enter(pool('db'))
    for _ in range(2):
        bus.start()
        assert bus.resources == {'pool': 'db'}
        bus.stop()
    assert calls == ['+db', '-db'] * 2


def test_enter_takes_a_priority(bus, calls, add):
    add('db')
    bus.enter(Pool(calls), priority=10)
    bus.start()
    assert calls == ['+pool', '+db']


# -- resources and names ------------------------------------------------------


def test_what_a_lifespan_yields_is_a_resource_while_it_is_started(bus, add):
    add('db')
    assert bus.resources == {}
    bus.start()
    assert bus.resources == {'db': 'the db'}
    bus.stop()
    assert bus.resources == {}


def test_a_later_lifespan_finds_the_resource_of_an_earlier_one(bus, calls, add):
    add('db', priority=10)

    @bus.lifespan
    def cache():
        calls.append(bus.resources['db'])
        yield
        calls.append(bus.resources['db'])

    bus.start()
    bus.stop()
    assert calls == ['+db', 'the db', 'the db', '-db']


def test_a_name_that_was_given_cannot_be_given_again(bus, calls, add):
    add('db')
    with pytest.raises(NameTaken, match='db') as caught:
        add('db')
    assert isinstance(caught.value, WSPBusError)
    assert caught.value.name == 'db'
    bus.start()
    assert calls == ['+db']


def test_names_that_nobody_gave_are_numbered(bus):
    for value in 'abc':
        bus.enter(contextlib.nullcontext(value))
    bus.start()
    assert list(bus.resources.values()) == ['a', 'b', 'c']
    assert len(bus.resources) == 3


def test_a_name_that_another_thread_takes_first_is_numbered_again(bus):
    class Overtaken(Lifespans):
        def free_name(self, name):
            free = super().free_name(name)
            if not self:  # between the search for a name and its use
                self.setdefault(free, 'another')
            return free

    bus.lifespans = Overtaken()
    bus.lifespan(pool)
    assert list(bus.lifespans) == ['pool', 'pool-2']


def test_a_lifespan_is_found_by_its_name_and_unsubscribed(bus, calls, add):
    add('db')
    add('cache')
    bus.lifespans['db'].unsubscribe()
    bus.start()
    bus.stop()
    assert calls == ['+cache', '-cache']


def test_a_lifespan_unsubscribed_while_started_is_left_and_not_entered_again(
    bus, calls, add
):
    add('db')
    bus.start()
    bus.lifespans['db'].unsubscribe()
    bus.stop()
    bus.start()
    assert calls == ['+db', '-db']


def test_the_name_of_an_unsubscribed_lifespan_is_free(bus, calls, add):
    add('db')
    bus.lifespans['db'].unsubscribe()
    add('db')
    bus.start()
    assert calls == ['+db']


def test_a_replacement_under_the_same_name_keeps_its_resource(bus, add):
    add('db')
    bus.start()
    bus.lifespans['db'].unsubscribe()
    bus.enter(contextlib.nullcontext('the new db'), name='db', priority=90)
    bus.subscribe('stop', lambda: seen.append(bus.resources.get('db')), priority=20)
    seen = []
    bus.stop()
    bus.start()
    assert bus.resources == {'db': 'the new db'}


# -- only what started is stopped ---------------------------------------------


@pytest.mark.parametrize(
    'error, raised',
    [
        (ValueError(), ChannelFailures),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (SystemExit(3), SystemExit),
    ],
    ids=['error', 'ctrl-c', 'sys.exit'],
)
def test_after_a_failed_start_only_what_was_entered_is_left_in_reverse(
    bus, calls, add, error, raised
):
    add('log')
    add('db')
    bus.lifespan(lambda: failing(error), name='cache')
    add('web')
    with pytest.raises(raised):
        bus.start()
    assert calls == ['+log', '+db', '-db', '-log']
    assert bus.resources == {}
    assert bus.state is State.STOPPED


def test_a_failing_plain_listener_rolls_lifespans_back(bus, calls, add):
    add('db')
    bus.subscribe('start', fail)
    add('web')
    with pytest.raises(ChannelFailures):
        bus.start()
    assert calls == ['+db', '-db']


@pytest.mark.parametrize('method', ['stop', 'exit'])
def test_a_start_cut_short_leaves_what_was_entered(bus, calls, add, method):
    add('db')
    bus.subscribe('start', getattr(bus, method))
    add('web')
    bus.start()
    assert calls == ['+db', '-db']


def test_a_lifespan_that_failed_may_succeed_at_the_next_start(bus, calls):
    errors = [ValueError('not yet')]

    @bus.lifespan
    def db():
        if errors:
            raise errors.pop()
        calls.append('+db')
        yield
        calls.append('-db')

    with pytest.raises(ChannelFailures):
        bus.start()
    bus.start()
    bus.stop()
    assert calls == ['+db', '-db']


def test_a_failure_at_leaving_is_logged_by_name_and_does_not_keep_the_others(
    bus, calls, add
):
    lines = []
    bus.subscribe('log', lambda message, level: lines.append(message))
    add('log')

    @bus.lifespan
    def pool():
        yield
        raise ValueError('cannot flush')

    add('web')
    bus.start()
    with pytest.raises(ChannelFailures, match='cannot flush'):
        bus.stop()
    assert calls == ['+log', '+web', '-web', '-log']
    assert "Error in 'stop' listener pool" in '\n'.join(lines)
    assert bus.resources == {}


def test_a_failure_at_leaving_does_not_repeat_at_the_next_stop(bus):
    errors = [ValueError]

    @bus.lifespan
    def pool():
        yield
        if errors:
            raise errors.pop()

    bus.start()
    with pytest.raises(ChannelFailures):
        bus.stop()
    bus.start()
    bus.stop()


def test_a_generator_that_yields_nothing_fails_the_start(bus):
    bus.lifespan(lambda: iter(()), name='empty')
    with pytest.raises(ChannelFailures):
        bus.start()


def test_a_lifespan_stands_in_the_timeline_under_its_name(bus, add):
    add('db')
    bus.start()
    bus.stop()
    assert [(call.channel, call.name, call.outcome) for call in bus.timeline] == [
        ('start', 'db', 'ok'),
        ('stop', 'db', 'ok'),
    ]


# -- added late ---------------------------------------------------------------


def test_added_to_a_started_bus_it_is_entered_at_once(bus, calls, add):
    bus.start()
    add('db')
    assert calls == ['+db']
    assert bus.resources == {'db': 'the db'}
    bus.stop()
    assert calls == ['+db', '-db']


def test_added_to_a_started_bus_it_is_entered_again_at_the_next_start(bus, calls, add):
    bus.start()
    add('db')
    bus.stop()
    bus.start()
    assert calls == ['+db', '-db', '+db']


def test_added_during_a_start_before_its_turn_it_waits_for_it(bus, calls, add):
    @bus.subscribe('start', priority=10)
    def early():
        add('db', priority=60)
        calls.append('early')

    bus.subscribe('start', lambda: calls.append('middle'), priority=50)
    bus.subscribe('start', lambda: calls.append('late'), priority=70)
    bus.start()
    bus.stop()
    assert calls == ['early', 'middle', '+db', 'late', '-db']


def test_added_during_a_start_after_its_turn_it_is_entered_at_once(bus, calls, add):
    @bus.subscribe('start')
    def listener():
        add('db', priority=10)
        calls.append('listener')

    bus.start()
    bus.stop()
    assert calls == ['+db', 'listener', '-db']


def test_added_by_a_lifespan_to_come_before_its_end(bus, calls, add):
    @bus.lifespan
    def outer():
        calls.append('+outer')
        add('inner')
        yield
        calls.append('-outer')

    bus.start()
    bus.stop()
    assert calls == ['+outer', '+inner', '-inner', '-outer']


def test_added_after_its_turn_it_is_left_if_the_start_fails_later(bus, calls, add):
    bus.subscribe('start', lambda: add('db', priority=10), priority=50)
    bus.subscribe('start', fail, priority=60)
    with pytest.raises(ChannelFailures):
        bus.start()
    assert calls == ['+db', '-db']


def test_added_before_its_turn_it_is_left_if_the_start_fails_later(bus, calls, add):
    bus.subscribe('start', lambda: add('db', priority=55), priority=50)
    bus.subscribe('start', fail, priority=60)
    with pytest.raises(ChannelFailures):
        bus.start()
    assert calls == ['+db', '-db']


def test_added_before_its_turn_it_is_not_entered_if_the_start_fails_first(
    bus, calls, add
):
    bus.subscribe('start', lambda: add('db', priority=70), priority=50)
    bus.subscribe('start', fail, priority=60)
    with pytest.raises(ChannelFailures):
        bus.start()
    assert calls == []


def test_added_during_the_last_listener_by_another_thread_it_is_entered_once(
    bus, calls, add
):
    @bus.subscribe('start', priority=90)
    def last():
        thread = threading.Thread(target=add, args=('db',), kwargs={'priority': 95})
        thread.start()
        thread.join(TIMEOUT)

    bus.start()
    assert calls == ['+db']


def test_what_fails_when_it_is_added_late_is_not_kept(bus):
    bus.start()
    with pytest.raises(ValueError):
        bus.lifespan(failing, name='db')
    assert 'db' not in bus.lifespans
    assert bus.state is State.STARTED
    bus.stop()
    bus.start()


@pytest.mark.parametrize('channel', ['drain', 'stop', 'exit'])
def test_while_the_bus_is_stopping_it_is_refused(bus, calls, add, channel):
    bus.start()
    bus.subscribe(
        channel, lambda: refused.append(pytest.raises(LifespanRefused, add, 'db'))
    )
    refused = []
    bus.exit()
    (caught,) = refused
    assert isinstance(caught.value, WSPBusError)
    assert caught.value.name == 'db'
    assert 'db' in str(caught.value)
    assert calls == []
    assert 'db' not in bus.lifespans


def test_while_a_failed_start_is_rolled_back_it_is_refused(bus, calls, add):
    bus.subscribe('start', fail)
    bus.subscribe(
        'stop', lambda: refused.append(pytest.raises(LifespanRefused, add, 'db'))
    )
    refused = []
    with pytest.raises(ChannelFailures):
        bus.start()
    assert refused
    assert calls == []


def test_entered_late_while_a_stop_overtakes_it_it_is_left_and_refused(bus, calls):
    bus.start()
    stopped = threading.Event()

    def slow():
        thread = threading.Thread(target=lambda: (bus.stop(), stopped.set()))
        thread.start()
        assert stopped.wait(TIMEOUT)
        calls.append('+db')
        yield
        calls.append('-db')

    with contextlib.suppress(LifespanRefused):
        bus.lifespan(slow, name='db')
    assert calls == ['+db', '-db']


class WatchedChannel(Channel):
    """Calls ``before`` each time that it unsubscribes; knows when it has subscribed."""

    def __init__(self, name, before):
        super().__init__(name)
        self.before, self.subscribed = before, threading.Event()

    def subscribe(self, listener):
        super().subscribe(listener)
        self.subscribed.set()

    def unsubscribe(self, callback):
        self.before()
        super().unsubscribe(callback)


def test_entered_again_by_another_thread_while_it_is_left_late_it_is_left_again(bus):
    entered, left, again = [], [], threading.Event()
    starter = threading.Thread(target=bus.start)

    def start_in_between():
        if starter.ident is None:
            stop_channel.subscribed.clear()
            starter.start()
            assert again.wait(TIMEOUT)  # nothing is locked while it is entered
            # A lock makes the other thread wait with this until unsubscribe() has returned.
            stop_channel.subscribed.wait(0.3)

    stop_channel = bus.listeners['stop'] = WatchedChannel('stop', lambda: None)
    bus.start()

    def late():
        entered.append(threading.current_thread())
        if len(entered) == 1:
            bus.stop()  # it overtakes this lifespan, which is entered too late
            stop_channel.before = start_in_between
        else:
            again.set()
        yield len(entered)
        left.append(threading.current_thread())

    with pytest.raises(LifespanRefused):
        bus.lifespan(late, name='late')
    starter.join(TIMEOUT)
    assert bus.state is State.STARTED
    assert bus.resources == {'late': 2}
    assert (len(entered), len(left)) == (2, 1)
    bus.stop()
    assert bus.resources == {}
    assert (len(entered), len(left)) == (2, 2)


@pytest.mark.parametrize('method', ['stop', 'exit'])
def test_to_a_bus_that_has_stopped_it_may_be_added(bus, calls, add, method):
    bus.start()
    getattr(bus, method)()
    add('db')
    assert calls == []
    bus.start()
    assert calls == ['+db']


# -- the line of listeners that a start calls, and who comes late to it ---------------------


def lifespan_at(priority, name='late'):
    return Lifespan(Bus(), name, contextlib.nullcontext, priority, None)


def test_an_arrival_whose_place_is_to_come_gets_it():
    line = Line()
    listeners = [Listener(print, priority=priority) for priority in (10, 50, 90)]
    line.open(listeners)
    assert line.next() is listeners[0]
    late = lifespan_at(60)
    assert line.join(late)
    assert [line.next() for _ in range(4)] == [
        listeners[1],
        late.start_listener,
        listeners[2],
        None,
    ]


def test_an_arrival_whose_place_has_passed_is_not_taken():
    line = Line()
    listener = Listener(print, priority=50)
    line.open([listener])
    assert line.next() is listener
    assert not line.join(lifespan_at(40))
    assert line.join(lifespan_at(50))  # subscribed later: its place is behind


def test_when_the_start_is_over_no_place_is_to_come():
    line = Line()
    line.open([])
    line.close()
    assert not line.join(lifespan_at(1000))


def test_one_thread_alone_takes_an_arrival():
    line = Line()
    line.open([])
    first, second = lifespan_at(10), lifespan_at(20)
    assert line.join(first) and line.join(second)
    assert line.rest() is first.start_listener
    assert not line.withdraw(first)
    assert line.withdraw(second)
    assert line.rest() is None


def test_a_start_that_fails_drops_its_arrivals():
    line = Line()
    line.open([])
    late = lifespan_at(10)
    assert line.join(late)
    line.clear()
    assert line.next() is None
    assert not line.withdraw(late)


def test_the_first_free_number_is_a_names():
    bus = Bus()
    for _ in range(3):
        bus.lifespan(pool)
    assert list(bus.lifespans) == ['pool', 'pool-2', 'pool-3']
    bus.lifespans['pool-2'].unsubscribe()
    bus.lifespans['pool'].unsubscribe()
    for _ in range(3):
        bus.lifespan(pool)
    assert list(bus.lifespans) == ['pool-3', 'pool', 'pool-2', 'pool-4']


def pool():
    yield


def test_a_lifespan_says_whether_it_is_entered(bus, add):
    add('pool')
    assert not bus.lifespans['pool'].is_entered
    bus.start()
    assert bus.lifespans['pool'].is_entered
    bus.exit()
    assert not bus.lifespans['pool'].is_entered


def test_a_context_that_an_interrupt_has_kept_from_being_left_is_known():
    @contextlib.contextmanager
    def pool():
        yield

    context = pool()
    assert not _is_suspended(context, KeyboardInterrupt())
    context.__enter__()
    assert _is_suspended(context, KeyboardInterrupt())
    assert not _is_suspended(context, RuntimeError("generator didn't stop"))
    context.__exit__(None, None, None)
    assert not _is_suspended(context, KeyboardInterrupt())
    assert not _is_suspended(contextlib.nullcontext(), KeyboardInterrupt())


def test_a_name_that_somebody_chose_and_gave_up_is_free_again():
    lifespans = Lifespans()
    lifespans['pool'] = None
    assert lifespans.free_name('pool') == 'pool-2'
    lifespans['pool-2'] = None
    lifespans.pop('pool')
    assert lifespans.free_name('pool') == 'pool'


def test_a_number_that_is_free_again_is_given_again():
    lifespans = Lifespans()
    for _ in range(3):
        lifespans[lifespans.free_name('pool')] = None
    lifespans.groups['pool-2'] = 'what it needs'
    lifespans.pop('pool-2')
    assert lifespans.groups == {}
    assert lifespans.free_name('pool') == 'pool-2'


def test_a_start_that_has_ended_calls_nobody_and_the_next_begins_at_its_first_place():
    line = Line()
    line.open([Listener(fail)])
    line.close()
    assert line.next() is None
    assert not line.join(Lifespan(Bus(), 'late', contextlib.nullcontext, 10, None))
    line.open([])
    assert line.join(Lifespan(Bus(), 'late', contextlib.nullcontext, 10, None))


class Interrupting(dict):
    """Resources; the first change of a kind is interrupted, as by a signal handler."""

    def __init__(self):
        super().__init__()
        self.left = {'in', 'out'}

    def interrupt(self, change):
        if change in self.left:
            self.left.remove(change)
            raise KeyboardInterrupt

    def __setitem__(self, name, resource):
        self.interrupt('in')
        super().__setitem__(name, resource)

    def pop(self, name, default=None):
        self.interrupt('out')
        return super().pop(name, default)


def test_an_interrupt_after_an_entry_and_before_an_exit_leaves_it_entered(
    bus, add, calls
):
    bus.resources = Interrupting()
    add('pool')
    lifespan = bus.lifespans['pool']
    with pytest.raises(KeyboardInterrupt):
        lifespan.start()
    assert calls == ['+pool'] and lifespan.is_entered
    with pytest.raises(KeyboardInterrupt):
        lifespan.stop()
    assert calls == ['+pool'] and lifespan.is_entered
    lifespan.stop()
    lifespan.stop()
    assert calls == ['+pool', '-pool'] and not lifespan.is_entered


def test_what_fails_at_its_start_or_stop_is_not_entered(bus):
    class Broken:
        def __init__(self, enters):
            self.enters = enters

        def __enter__(self):
            if not self.enters:
                fail()

        def __exit__(self, *_):
            fail()

    bus.enter(Broken(enters=False), name='start')
    bus.enter(Broken(enters=True), name='stop')
    with pytest.raises(ValueError, match='broken'):
        bus.lifespans['start'].start()
    bus.lifespans['stop'].start()
    with pytest.raises(ValueError, match='broken'):
        bus.lifespans['stop'].stop()
    assert not bus.lifespans['start'].is_entered
    assert not bus.lifespans['stop'].is_entered

"""Messages in a process that is alone: who hears them, in which order, and what is refused."""

import threading
import time

import pytest

from paste_wspbus.bus import messages
from paste_wspbus.bus.host import EMBEDDED, OWN, WSPSERVE
from paste_wspbus.bus.messages import (
    MOST,
    MOST_BYTES,
    Answer,
    AskedInListener,
    ChannelRefused,
    NotJSON,
    NotStarted,
    TooLong,
)
from paste_wspbus.errors import PluginError
from paste_wspbus.plugins import CHANNELS, Plugin, on
from paste_wspbus.wire import checks
from tests.kit.processes import TIMEOUT


@pytest.fixture
def started(bus):
    """A started bus whose channel 'cache' accepts messages."""
    bus.accept('cache')
    bus.start()
    yield bus
    bus.messages.end()


@pytest.fixture
def heard(started):
    """What the channel 'cache' has published: a list that grows; `wait` waits for its end."""

    class Heard(list):
        def __init__(self):
            self.last = threading.Event()

        def hear(self, *args):
            if args == ('last',):
                self.last.set()
            else:
                self.append(args)

        def wait(self):
            started.broadcast('cache', 'last')
            assert self.last.wait(TIMEOUT)
            return list(self)

    heard = Heard()
    started.subscribe('cache', heard.hear)
    return heard


def thread_of_messages():
    return [one for one in threading.enumerate() if one.name == 'wspbus messages']


def test_a_broadcast_is_published_in_the_thread_of_the_messages(started, heard):
    names = []
    started.subscribe('cache', lambda *_: names.append(threading.current_thread().name))
    started.broadcast('cache', 1, {'a': [True, None]})
    assert heard.wait() == [(1, {'a': [True, None]})]
    assert names[0] == 'wspbus messages'


def test_a_signal_handler_may_send_one_while_another_one_is_sent(started, heard):
    with started.messages._lock:  # the handler interrupts the thread that has it
        started.broadcast('cache', 1)
    assert heard.wait() == [(1,)]


def test_what_comes_is_a_copy(started, heard):
    value = ['a']
    started.broadcast('cache', value, (1, 2))
    value.append('b')
    assert heard.wait() == [(['a'], [1, 2])]


def test_messages_come_in_the_order_of_each_sender(started, heard):
    def send(sender):
        for number in range(100):
            started.broadcast('cache', sender, number)

    senders = [threading.Thread(target=send, args=(name,)) for name in 'abcd']
    for one in senders:
        one.start()
    for one in senders:
        one.join(TIMEOUT)
    came = heard.wait()
    for name in 'abcd':
        assert [number for sender, number in came if sender == name] == [*range(100)]


def test_a_channel_that_does_not_accept_messages_hears_none(started, heard):
    others = []
    started.subscribe('other', others.append)
    started.broadcast('other', 1)
    assert started.ask('other') == []
    heard.wait()
    assert others == []


@pytest.mark.parametrize(
    'channel', ['start', 'stop', 'log', 'missed', 'before_request', 'SIGHUP']
)
def test_the_channels_of_the_bus_take_no_messages(started, channel):
    for refused in (started.accept, started.broadcast, started.ask):
        with pytest.raises(ChannelRefused, match=channel) as info:
            refused(channel)
        assert isinstance(info.value, ValueError)


def test_all_channels_of_the_package_are_reserved():
    assert CHANNELS <= messages.RESERVED


@pytest.mark.parametrize('channel', [None, 3, b'cache'])
def test_a_channel_is_a_text(started, channel):
    with pytest.raises(TypeError, match='text'):
        started.broadcast(channel)


@pytest.mark.parametrize('channel', ['', 'x' * 201])
def test_a_channel_has_some_characters(started, channel):
    with pytest.raises(ValueError, match='characters'):
        started.broadcast(channel)


def deep():
    value = []
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize(
    'value',
    [object(), {1, 2}, b'bytes', float('nan'), 10**5000, deep()],
    ids=['object', 'set', 'bytes', 'nan', 'huge', 'deep'],
)
def test_what_json_cannot_hold_is_not_sent(started, heard, value):
    for send in (started.broadcast, started.ask):
        with pytest.raises(NotJSON, match="'cache'") as info:
            send('cache', 1, value)
        assert isinstance(info.value, TypeError)
    assert heard.wait() == []


def test_a_message_that_is_too_long_is_not_sent(started, heard):
    started.broadcast('cache', 'x' * (MOST_BYTES - 4))
    with pytest.raises(TooLong, match="'cache' has 65,537 bytes") as info:
        started.broadcast('cache', 'x' * (MOST_BYTES - 3))
    assert isinstance(info.value, ValueError)
    assert len(heard.wait()) == 1


def test_the_wire_has_the_same_limits():
    ours = MOST_BYTES, messages.MOST_OF_NAME, messages.MOST_OF_ERROR
    assert ours == (checks.MAX_MESSAGE, checks.MAX_CHANNEL, checks.MAX_ERROR)
    assert checks.VALUES['timeout'](messages.MOST_SECONDS)


def test_nothing_is_sent_before_the_start_nor_after_the_stop(bus):
    others = thread_of_messages()  # of a bus that another test has left
    bus.accept('cache')
    bus.subscribe('cache', lambda: 1)
    for what in (bus.broadcast, bus.ask):
        with pytest.raises(NotStarted, match='STOPPED') as info:
            what('cache')
        assert isinstance(info.value, RuntimeError)
    bus.start()
    assert bus.ask('cache') == [Answer('site', 1)]
    bus.stop()
    with pytest.raises(NotStarted, match='STOPPED'):
        bus.ask('cache')
    assert set(thread_of_messages()) <= set(others)
    bus.start()
    assert bus.ask('cache') == [Answer('site', 1)]
    bus.stop()


def test_messages_that_wait_at_the_stop_are_dropped_and_questions_answered(started):
    release, begun, asked = threading.Event(), threading.Event(), []

    def hold():
        begun.set()
        release.wait(TIMEOUT)

    started.subscribe('cache', hold)
    started.broadcast('cache')
    assert begun.wait(TIMEOUT)
    started.broadcast('cache')
    asking = threading.Thread(
        target=lambda: asked.extend(started.ask('cache', timeout=TIMEOUT))
    )
    asking.start()
    while len(started.messages._items) < 2:
        time.sleep(0.001)
    started.subscribe('stop', release.set, priority=1)
    started.stop()
    asking.join(TIMEOUT)
    assert asked == [Answer('site', None, 'it is stopping')]


# -- listeners that fail, or are late -------------------------------------------------


def test_a_listener_that_raises_is_logged_and_the_others_hear_it(started, log, heard):
    def broken(*args):
        raise KeyError('no such key')

    started.subscribe('cache', broken, priority=1)
    started.broadcast('cache', 1)
    assert heard.wait() == [(1,)]
    assert any('broken' in line and __file__ in line for line in log), log
    (answer,) = started.ask('cache')
    assert answer == Answer('site', None, "KeyError: 'no such key'")


@pytest.mark.parametrize('error', [SystemExit(3), KeyboardInterrupt()])
def test_no_error_of_a_listener_ends_the_thread(started, log, heard, error):
    def leave(*args):
        if args == ('leave',):
            raise error

    started.subscribe('cache', leave)
    (answer,) = started.ask('cache', 'leave')
    assert answer.error.startswith(type(error).__name__)
    assert heard.wait() == [('leave',)]


def test_the_value_is_the_first_result_that_is_not_none(started):
    for result in (None, {'size': 3}, 'later'):
        started.subscribe('cache', lambda result=result: result)
    assert started.ask('cache') == [Answer('site', {'size': 3})]


@pytest.mark.parametrize(
    'result, error',
    [({1}, 'NotJSON'), ('x' * MOST_BYTES, 'TooLong')],
    ids=['set', 'long'],
)
def test_a_result_that_cannot_be_sent_is_an_error(started, result, error):
    started.subscribe('cache', lambda: result)
    (answer,) = started.ask('cache')
    assert answer.value is None and answer.error.startswith(error)


def test_ask_waits_no_longer_than_its_timeout(started):
    over = threading.Event()
    started.subscribe('cache', lambda: over.wait(TIMEOUT))
    assert started.ask('cache', timeout=0.05) == [
        Answer('site', None, 'no answer within 0.05 s')
    ]
    over.set()


@pytest.mark.parametrize(
    'timeout', [0, -1, float('nan'), float('inf'), 4000, None, '1']
)
def test_a_timeout_is_some_seconds(started, timeout):
    kind = ValueError if isinstance(timeout, int | float) else TypeError
    with pytest.raises(kind, match='The timeout must be'):
        started.ask('cache', timeout=timeout)


def test_a_listener_of_a_message_cannot_ask(started):
    started.subscribe('cache', lambda: started.ask('cache'))
    (answer,) = started.ask('cache')
    assert answer.error.startswith('AskedInListener') and "'cache'" in answer.error
    assert issubclass(AskedInListener, RuntimeError)


def test_a_listener_of_a_message_can_stop_the_site(started):
    started.subscribe('cache', lambda: started.stop())
    started.broadcast('cache')
    started.wait(messages.State.STOPPED)


def test_what_is_lost_is_counted_in_its_place(started, log):
    release, begun, came = threading.Event(), threading.Event(), []
    last = threading.Event()

    def hear(number):
        begun.set()
        release.wait(TIMEOUT)
        came.append(number)
        if number == 'last':
            last.set()

    started.subscribe('cache', hear)
    started.subscribe('missed', lambda count: came.append(('missed', count)))
    started.broadcast('cache', 'first')
    assert begun.wait(TIMEOUT)
    for number in range(MOST + 7):
        started.broadcast('cache', number)
    (answer,) = started.ask('cache', 'a question')
    assert answer.error == '1,000 messages wait there already'
    release.set()
    while ('missed', 7) not in came:
        time.sleep(0.001)
    started.broadcast('cache', 'last')
    assert last.wait(TIMEOUT)
    assert came == ['first', *range(MOST), ('missed', 7), 'last']
    assert any('lost' in line and '7' in line for line in log)


@pytest.mark.parametrize('host, lines', [(EMBEDDED, 1), (WSPSERVE, 0), (OWN, 0)])
def test_where_other_workers_do_not_hear_it_the_log_says_so_once(
    started, heard, log, host, lines
):
    started.host = host
    started.broadcast('cache', 1)
    assert heard.wait() == [(1,)]
    assert sum('reaches this process alone' in line for line in log) == lines
    started.host = OWN


# -- plugins --------------------------------------------------------------------------


class Cache(Plugin):
    def __init__(self, bus):
        super().__init__(bus)
        self.dropped = threading.Event()

    @on('cache', remote=True)
    def drop(self):
        self.dropped.set()


class Quick(Cache):
    def drop(self):
        self.dropped.set()


@pytest.mark.parametrize('cls', [Cache, Quick])
def test_a_plugin_says_that_its_channel_hears_messages(bus, cls):
    plugin = cls(bus)
    plugin.subscribe()
    bus.start()
    bus.broadcast('cache')
    assert plugin.dropped.wait(TIMEOUT)


def test_a_plugin_cannot_open_a_channel_of_the_bus(bus):
    class Careless(Plugin):
        @on('stop', remote=True)
        def stop(self):
            pass

        @on('start')
        def start(self):
            pass

    plugin = Careless(bus)
    with pytest.raises(ChannelRefused, match='stop'):
        plugin.subscribe()
    assert plugin.start not in bus.listeners['start']


def test_a_typo_is_still_found_beside_a_remote_channel(bus):
    class Careless(Cache):
        @on('strat')
        def start(self):
            pass

    with pytest.raises(PluginError, match="did you mean 'start'"):
        Careless(bus).subscribe()

"""Channels: who is subscribed, who is called, in which order, and who failed."""

import functools
import threading
from concurrent.futures import Future
from unittest import mock

import pytest

from paste_wspbus.bus import Bus, ChannelFailures
from paste_wspbus.errors import BadPriority, NotCallable, WSPBusError

BUILTIN = ('start', 'stop', 'exit', 'graceful', 'log', 'main')
CHANNELS = (*BUILTIN, 'drain', 'restart', 'huey')


@pytest.fixture
def recorder(calls):
    """Make listeners that say who they are, and with what they were called."""

    def make(name):
        def listener(*args, **kwargs):
            calls.append((name, args, kwargs) if args or kwargs else name)
            return name

        return listener

    return make


def fail(*args):
    raise ValueError('broken')


def names(numbers):
    return [f'l{number}' for number in numbers]


# -- the dict ---------------------------------------------------------------


def test_a_new_bus_has_the_channels_of_cherrypy():
    assert set(BUILTIN) <= set(Bus().listeners)


def test_two_buses_share_no_listener(bus, recorder):
    bus.subscribe('huey', recorder('l'))
    assert Bus().publish('huey') == []


def test_any_attribute_may_be_set(bus):
    bus.autoreload = object()
    bus.start_time = 1
    assert bus.start_time == 1


def test_publishing_on_a_channel_nobody_listens_to_gives_an_empty_list(bus):
    assert bus.publish('huey') == bus.publish('start') == bus.publish(None) == []


def test_publish_returns_what_the_listeners_return_in_order(bus, recorder):
    for name, priority in (('second', 60), ('first', 40)):
        bus.subscribe('huey', recorder(name), priority)
    assert bus.publish('huey') == ['first', 'second']


@pytest.mark.parametrize('channel', BUILTIN)
def test_a_state_channel_can_be_published_by_hand(bus, recorder, channel):
    bus.subscribe(channel, recorder(channel))
    assert bus.publish(channel) == [channel]


def test_a_plain_set_assigned_into_listeners_is_called(bus, recorder):
    bus.listeners['huey'] = {recorder('l')}
    assert bus.publish('huey') == ['l']


@pytest.mark.parametrize('channel', ['start', 'log', 'huey'])
def test_subscribing_to_a_plain_set_keeps_what_is_in_it(bus, recorder, channel):
    bus.listeners[channel] = {recorder('old')}
    bus.subscribe(channel, recorder('new'))
    assert bus.publish(channel) == ['old', 'new']


def test_a_plain_set_assigned_to_a_state_channel_takes_part_in_the_start(bus, calls):
    bus.listeners['start'] = {lambda: calls.append('start')}
    bus.start()
    assert calls == ['start']


def test_a_set_that_came_by_setdefault_may_be_added_to(bus, recorder):
    bus.listeners.setdefault('huey', set()).add(recorder('a'))
    bus.listeners.setdefault('main', set()).add(recorder('b'))
    assert bus.publish('huey') + bus.publish('main') == ['a', 'b']


def test_an_empty_plain_set_is_a_channel_like_any_other(bus, recorder):
    bus.listeners['huey'] = set()
    assert bus.publish('huey') == []
    bus.subscribe('huey', recorder('l'))
    assert bus.publish('huey') == ['l']


def test_unsubscribing_works_on_a_plain_set(bus, recorder):
    listener = recorder('l')
    bus.listeners['huey'] = {listener}
    bus.unsubscribe('huey', listener)
    assert bus.publish('huey') == []


def test_a_callback_is_found_in_the_set_of_its_channel(bus, recorder):
    listener = recorder('l')
    bus.subscribe('start', listener)
    assert listener in bus.listeners['start']
    assert list(bus.listeners['start']) == [listener]


@pytest.mark.parametrize('channel', ['huey', 'graceful'])
def test_what_is_added_to_a_channel_as_to_a_set_is_called(bus, recorder, channel):
    bus.subscribe(channel, recorder('a'))
    bus.listeners[channel].add(recorder('b'))
    assert bus.publish(channel) == ['a', 'b']


def test_what_a_channel_is_updated_with_is_called(bus, recorder):
    bus.subscribe('huey', recorder('a'))
    bus.listeners['huey'].update({recorder('b')})
    assert bus.publish('huey') == ['a', 'b']


def test_what_is_added_by_an_operator_is_called(bus, recorder):
    bus.subscribe('huey', recorder('a'))
    bus.listeners['huey'] |= {recorder('b')}
    assert sorted(bus.publish('huey')) == ['a', 'b']


@pytest.mark.parametrize('method', ['discard', 'remove'])
def test_what_is_taken_from_a_channel_as_from_a_set_is_not_called(
    bus, recorder, method
):
    one, two = map(recorder, 'ab')
    for listener in (one, two):
        bus.subscribe('huey', listener)
    getattr(bus.listeners['huey'], method)(one)
    assert bus.publish('huey') == ['b']


def test_what_is_popped_from_a_channel_is_not_called(bus, recorder):
    bus.subscribe('huey', recorder('a'))
    bus.listeners['huey'].pop()
    assert bus.publish('huey') == []


def test_a_channel_that_is_cleared_calls_nobody(bus, recorder):
    bus.subscribe('huey', recorder('l'))
    bus.listeners['huey'].clear()
    assert bus.publish('huey') == []


def test_removing_from_a_channel_what_is_not_there_is_a_key_error(bus):
    with pytest.raises(KeyError):
        bus.listeners['main'].remove(fail)


# -- order --------------------------------------------------------------------


@pytest.mark.parametrize('channel', CHANNELS)
def test_listeners_run_in_order_of_priority(bus, calls, recorder, channel):
    for name, priority in enumerate([100, 50, 0, 51]):
        bus.subscribe(channel, recorder(name), priority)
    bus.publish(channel)
    bus.publish(channel, 79347, key='value')
    order = [2, 1, 3, 0]
    assert calls == order + [(i, (79347,), {'key': 'value'}) for i in order]


@pytest.mark.parametrize(
    'channel', sorted(set(CHANNELS) - {'stop', 'exit'}), ids=lambda name: name
)
def test_equal_priorities_run_in_order_of_subscription(bus, calls, recorder, channel):
    for number in range(50):
        bus.subscribe(channel, recorder(number))
    bus.publish(channel)
    assert calls == list(range(50))


@pytest.mark.parametrize('channel', ['stop', 'exit'])
def test_on_stop_and_exit_equal_priorities_run_in_reverse(
    bus, calls, recorder, channel
):
    for name, priority in ((0, 50), (1, 50), (2, 10), (3, 50), (4, 10)):
        bus.subscribe(channel, recorder(name), priority=priority)
    bus.publish(channel)
    assert calls == [4, 2, 3, 1, 0]


def test_a_stop_mirrors_its_start(bus, calls):
    for name in ('db', 'cache', 'web'):
        bus.subscribe('start', lambda name=name: calls.append(f'+{name}'))
        bus.subscribe('stop', lambda name=name: calls.append(f'-{name}'))
    bus.start()
    bus.stop()
    assert calls == ['+db', '+cache', '+web', '-web', '-cache', '-db']


def test_a_priority_comes_from_the_callback_itself(bus, recorder):
    early = recorder('early')
    early.priority = 10
    bus.subscribe('huey', recorder('default'))
    bus.subscribe('huey', early)
    assert bus.publish('huey') == ['early', 'default']


@pytest.mark.parametrize('way', [{'priority': 10}, 10])
def test_a_priority_in_the_call_outranks_the_callbacks_own(bus, recorder, way):
    listener = recorder('listener')
    listener.priority = 90
    bus.subscribe('huey', recorder('default'))
    if isinstance(way, dict):
        bus.subscribe('huey', listener, **way)
    else:
        bus.subscribe('huey', listener, way)
    assert bus.publish('huey') == ['listener', 'default']


def test_the_default_priority_is_50(bus, recorder):
    for name, priority in (('51', 51), ('default', None), ('49', 49)):
        bus.subscribe('huey', recorder(name), priority=priority)
    assert bus.publish('huey') == ['49', 'default', '51']


@pytest.mark.parametrize('priority', [0, 10.5, -3, None])
def test_a_lone_number_or_none_is_a_priority_and_not_an_argument(
    bus, calls, recorder, priority
):
    bus.subscribe('huey', recorder('l'), priority)
    bus.publish('huey')
    assert calls == ['l']


@pytest.mark.parametrize('args', [('app',), (1, 2), (None, None), (True,)])
def test_what_follows_the_callback_is_passed_to_it(bus, calls, recorder, args):
    bus.subscribe('start', recorder('server'), *args)
    bus.start()
    assert calls == [('server', args, {})]


def test_a_number_is_an_argument_where_the_priority_has_its_name(bus, calls, recorder):
    bus.subscribe('huey', recorder('l'), 8080, priority=20)
    bus.publish('huey')
    assert calls == [('l', (8080,), {})]


def test_subscribed_arguments_come_before_published_ones(bus, calls, recorder):
    bus.subscribe('huey', recorder('l'), 'mine', 'too')
    bus.publish('huey', 'published', key=1)
    assert calls == [('l', ('mine', 'too', 'published'), {'key': 1})]


def test_one_callback_with_two_arguments_is_two_listeners(bus, calls, recorder):
    server = recorder('server')
    for app in ('blog', 'shop'):
        bus.subscribe('huey', server, app)
    bus.publish('huey')
    assert calls == [('server', ('blog',), {}), ('server', ('shop',), {})]
    bus.unsubscribe('huey', server)
    assert bus.publish('huey') == []


@pytest.mark.parametrize('priority', ['high', [], float('nan')])
def test_a_priority_that_is_no_number_is_refused(bus, recorder, priority):
    with pytest.raises(BadPriority, match='priority') as caught:
        bus.subscribe('huey', recorder('l'), priority=priority)
    assert isinstance(caught.value, (TypeError, WSPBusError))
    assert bus.publish('huey') == []


def test_a_mock_can_be_a_listener(bus):
    listener = mock.MagicMock()
    bus.subscribe('huey', listener)
    bus.publish('huey', 1)
    listener.assert_called_once_with(1)


# -- subscribe and unsubscribe ------------------------------------------------


def test_subscribe_is_a_decorator_that_leaves_the_function_in_its_name(bus):
    @bus.subscribe('huey')
    def listener():
        return 'called'

    assert listener() == 'called'
    assert bus.publish('huey') == ['called']


@pytest.mark.parametrize('args, kwargs', [((), {'priority': 10}), ((None, 10), {})])
def test_the_decorator_takes_a_priority(bus, recorder, args, kwargs):
    bus.subscribe('huey', recorder('default'))
    bus.subscribe('huey', *args, **kwargs)(recorder('early'))
    assert bus.publish('huey') == ['early', 'default']


@pytest.mark.parametrize('callback', ['module:function', 7, ()])
def test_what_is_not_callable_is_refused_by_subscribe(bus, callback):
    with pytest.raises(NotCallable, match='huey') as caught:
        bus.subscribe('huey', callback)
    assert isinstance(caught.value, TypeError)
    assert (caught.value.channel, caught.value.callback) == ('huey', callback)
    assert bus.publish('huey') == []


def test_what_is_not_callable_is_refused_by_the_decorator(bus):
    with pytest.raises(NotCallable):
        bus.subscribe('huey')('not callable')


def test_a_listener_that_is_subscribed_twice_is_called_once(bus, recorder):
    listener = recorder('l')
    bus.subscribe('huey', listener)
    bus.subscribe('huey', listener)
    assert bus.publish('huey') == ['l']


def test_subscribing_again_keeps_the_place_and_may_change_the_priority(bus, recorder):
    first, second = recorder('first'), recorder('second')
    for listener in (first, second, first):
        bus.subscribe('huey', listener)
    assert bus.publish('huey') == ['first', 'second']
    bus.subscribe('huey', first, priority=90)
    assert bus.publish('huey') == ['second', 'first']


def test_an_unsubscribed_listener_is_not_called(bus, recorder):
    listener = recorder('l')
    bus.subscribe('huey', listener)
    bus.unsubscribe('huey', listener)
    assert bus.publish('huey') == []
    assert listener not in bus.listeners['huey']


def test_a_bound_method_can_be_unsubscribed(bus, calls):
    class Plugin:
        def huey(self):
            calls.append('huey')

    plugin, other = Plugin(), Plugin()
    bus.subscribe('huey', plugin.huey)
    bus.subscribe('huey', other.huey)
    bus.unsubscribe('huey', plugin.huey)
    bus.publish('huey')
    assert calls == ['huey']


@pytest.mark.parametrize('channel', ['start', 'huey'])
def test_unsubscribing_what_is_not_subscribed_does_nothing(bus, recorder, channel):
    bus.unsubscribe(channel, recorder('l'))
    bus.subscribe(channel, recorder('other'))
    bus.unsubscribe(channel, recorder('l'))
    assert bus.publish(channel) == ['other']


@pytest.mark.parametrize('channel', ['huey', 'graceful'])
def test_a_listener_may_unsubscribe_itself(bus, calls, recorder, channel):
    def once():
        calls.append('once')
        bus.unsubscribe(channel, once)

    bus.subscribe(channel, once)
    bus.subscribe(channel, recorder('other'))
    bus.publish(channel)
    bus.publish(channel)
    assert calls == ['once', 'other', 'other']


@pytest.mark.parametrize('channel', ['huey', 'graceful'])
def test_who_subscribes_during_a_publish_is_called_by_the_next(
    bus, calls, recorder, channel
):
    new = recorder('new')
    bus.subscribe(channel, lambda: bus.subscribe(channel, new))
    bus.publish(channel)
    assert calls == []
    bus.publish(channel)
    assert calls == ['new']


@pytest.mark.parametrize('channel', ['huey', 'graceful'])
def test_subscribing_while_others_publish_never_raises_nor_loses_a_listener(
    bus, channel
):
    workers, each = 4, 200
    done, together = threading.Event(), threading.Barrier(workers + 1, timeout=60)
    outcomes = [Future() for _ in range(workers + 1)]

    def publish():
        together.wait()
        while not done.is_set():
            bus.publish(channel)

    def subscribe(number):
        together.wait()
        for index in range(each):
            passing = functools.partial(int, 0)
            bus.subscribe(channel, passing)
            bus.subscribe(channel, functools.partial(int, number * each + index))
            bus.unsubscribe(channel, passing)

    def run(future, function, *args):
        try:
            future.set_result(function(*args))
        except BaseException as error:
            future.set_exception(error)

    tasks = [(publish,), *((subscribe, number) for number in range(workers))]
    for future, task in zip(outcomes, tasks, strict=True):
        threading.Thread(target=run, args=(future, *task)).start()
    try:
        for future in outcomes[1:]:
            future.result(timeout=60)
    finally:
        done.set()
    outcomes[0].result(timeout=60)
    assert sorted(bus.publish(channel)) == list(range(workers * each))


def test_who_subscribes_while_a_plain_set_is_taken_over_is_not_lost(bus, recorder):
    class Slow(set):
        def __iter__(self):  # another thread gets in here
            if bus.listeners['huey'] is self and not self.entered:
                self.entered = True
                bus.subscribe('huey', recorder('meanwhile'))
            return super().__iter__()

        entered = False

    bus.listeners['huey'] = Slow({recorder('old')})
    bus.subscribe('huey', recorder('new'))
    assert sorted(bus.publish('huey')) == ['meanwhile', 'new', 'old']


# -- failures -----------------------------------------------------------------


@pytest.mark.parametrize('channel', sorted(set(CHANNELS) - {'log', 'start'}))
def test_a_failing_listener_does_not_silence_the_others(bus, calls, recorder, channel):
    bus.subscribe(channel, recorder('before'), priority=10)
    bus.subscribe(channel, fail, priority=20)
    bus.subscribe(channel, recorder('after'), priority=30)
    with pytest.raises(ChannelFailures) as caught:
        bus.publish(channel, 123)
    assert calls == [('before', (123,), {}), ('after', (123,), {})]
    assert [str(error) for error in caught.value.get_instances()] == ['broken']


@pytest.mark.parametrize('channel', ['huey', 'graceful'])
def test_every_failure_is_kept_in_the_order_it_was_raised(bus, channel):
    @bus.subscribe(channel, priority=20)
    def second():
        raise OSError

    bus.subscribe(channel, fail, priority=10)
    with pytest.raises(ChannelFailures) as caught:
        bus.publish(channel)
    assert [type(error) for error in caught.value.get_instances()] == [
        ValueError,
        OSError,
    ]


@pytest.mark.parametrize('channel', ['huey', 'graceful'])
def test_a_failure_is_logged_as_it_happens_with_the_listeners_name(bus, log, channel):
    bus.subscribe(channel, fail)
    bus.subscribe(channel, lambda: log.append('next listener'))
    with pytest.raises(ChannelFailures):
        bus.publish(channel)
    failure, following = log
    assert f'{__name__}.fail' in failure
    assert 'Traceback' in failure and 'ValueError: broken' in failure
    assert following == 'next listener'


def broken_partial():
    return functools.partial(fail), 'fail'


def broken_object():
    class Broken:
        def __call__(self):
            raise ValueError

    return Broken(), 'Broken'


def broken_method():
    class Plugin:
        def huey(self):
            raise ValueError

    return Plugin().huey, 'Plugin.huey'


@pytest.mark.parametrize('make', [broken_partial, broken_object, broken_method])
def test_every_kind_of_callable_has_a_name_in_the_log(bus, log, make):
    callback, name = make()
    bus.subscribe('huey', callback)
    with pytest.raises(ChannelFailures):
        bus.publish('huey')
    assert name in log[0].splitlines()[0]


@pytest.mark.parametrize('interrupt', [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize('channel', ['huey', 'main', 'graceful', 'start', 'drain'])
def test_an_interrupt_is_raised_at_once(bus, calls, recorder, channel, interrupt):
    bus.subscribe(channel, mock.Mock(side_effect=interrupt, priority=10))
    bus.subscribe(channel, recorder('later'))
    with pytest.raises(interrupt):
        bus.publish(channel)
    assert calls == []


@pytest.mark.parametrize('interrupt', [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize('channel', ['stop', 'exit'])
def test_on_stop_and_exit_an_interrupt_waits_for_the_other_listeners(
    bus, calls, recorder, channel, interrupt
):
    bus.subscribe(channel, mock.Mock(side_effect=interrupt, priority=10))
    bus.subscribe(channel, recorder('later'))
    with pytest.raises(interrupt):
        bus.publish(channel)
    assert calls == ['later']


@pytest.mark.parametrize('channel', ['huey', 'stop'])
def test_a_system_exit_after_a_failure_does_not_claim_success(bus, channel):
    bus.subscribe(channel, fail, priority=10)
    bus.subscribe(channel, mock.Mock(side_effect=SystemExit(0), priority=20))
    with pytest.raises(SystemExit) as caught:
        bus.publish(channel)
    assert caught.value.code == 1


def test_channel_failures_are_falsy_when_empty():
    failures = ChannelFailures()
    assert not failures
    assert failures.get_instances() == []
    assert str(failures) == ''


def test_channel_failures_collect_the_exception_being_handled():
    failures = ChannelFailures()
    for error in (ValueError('one'), OSError('two')):
        try:
            raise error
        except Exception:
            failures.handle_exception()
    assert failures
    assert str(failures) == repr(failures) == "ValueError('one')\nOSError('two')"
    assert failures.delimiter == '\n'


def test_channel_failures_are_a_plain_exception():
    assert issubclass(ChannelFailures, Exception)
    assert not issubclass(ChannelFailures, BaseExceptionGroup)


def test_channel_failures_turn_into_an_exception_group(bus):
    bus.subscribe('huey', fail)
    with pytest.raises(ChannelFailures) as caught:
        bus.publish('huey')
    group = caught.value.group()
    assert isinstance(group, ExceptionGroup)
    assert list(group.exceptions) == caught.value.get_instances()


def test_the_instances_are_a_copy():
    failures = ChannelFailures()
    failures.get_instances().append(ValueError())
    assert not failures


# -- log ------------------------------------------------------------------------


def test_log_publishes_the_message_and_its_level(bus):
    lines = []
    bus.subscribe('log', lambda *args: lines.append(args))
    bus.log("O mah darlin'")
    bus.log('Clementine', level=40)
    assert lines == [("O mah darlin'", 20), ('Clementine', 40)]


def test_log_adds_the_traceback_that_it_is_asked_for(bus, log):
    try:
        fail()
    except ValueError:
        bus.log('Lost and gone forever', traceback=True)
        bus.log('no traceback')
    assert log[0].startswith('Lost and gone forever\n')
    assert 'Traceback' in log[0] and 'ValueError: broken' in log[0]
    assert log[1] == 'no traceback'


def test_a_broken_log_listener_is_ignored_and_the_others_are_told(bus, log):
    bus.subscribe('log', fail, priority=10)
    bus.log('message')
    assert log == ['message']


def test_publishing_on_log_by_hand_tells_of_failures_but_does_not_log_them(bus, log):
    bus.subscribe('log', fail, priority=10)
    with pytest.raises(ChannelFailures):
        bus.publish('log', 'message', 20)
    assert log == ['message']


@pytest.mark.parametrize('error', [OSError('disk full'), BrokenPipeError()])
def test_a_broken_log_changes_nothing_about_start_stop_and_exit(bus, calls, error):
    bus.subscribe('log', mock.Mock(side_effect=error, priority=50))
    for channel in ('start', 'graceful', 'stop', 'exit'):
        bus.subscribe(channel, functools.partial(calls.append, channel))
    bus.start()
    bus.graceful()
    bus.exit()
    assert calls == ['start', 'graceful', 'stop', 'exit']
    assert bus.state is bus.states.EXITING


def test_a_broken_log_does_not_hide_the_failure_of_another_listener(bus, recorder):
    bus.subscribe('log', fail)
    bus.subscribe('start', fail)
    with pytest.raises(ChannelFailures) as caught:
        bus.start()
    assert len(caught.value.get_instances()) == 1
    assert bus.state is bus.states.STOPPED

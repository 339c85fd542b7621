"""Our bus does and says what CherryPy's does."""

import sys

import pytest

from paste_wspbus.bus import Bus
from tests.kit.cherrypys import wspbus


def scene_stop_of_a_fresh_bus(bus, note):
    bus.subscribe('stop', lambda: note('stop'))
    bus.stop()


def scene_exit_of_a_fresh_bus(bus, note):
    bus.subscribe('stop', lambda: note('stop'))
    bus.subscribe('exit', lambda: note('exit'))
    bus.exit()


def scene_two_cycles(bus, note):
    for channel in ('start', 'stop', 'exit'):
        bus.subscribe(channel, lambda channel=channel: note(channel))
    for command in (bus.start, bus.stop, bus.start, bus.exit, bus.start, bus.exit):
        command()
        note(bus.state)


def scene_priorities(bus, note):
    def by_attribute():
        note('by attribute')

    by_attribute.priority = 20
    bus.subscribe('any', lambda: note('default is 50'))
    bus.subscribe('any', by_attribute)
    bus.subscribe('any', lambda: note('positional'), 10)
    bus.subscribe('any', lambda: note('keyword'), priority=49.5)
    bus.subscribe('any')(lambda: note('decorated, before it was ready'))
    bus.listeners['any'].clear()
    bus.subscribe('any', lambda: note('late'), priority=51)
    bus.subscribe('any', by_attribute, priority=None)
    bus.subscribe('any', priority=1)(lambda: note('decorated'))
    bus.publish('any')


def scene_subscribed_twice(bus, note):
    def first():
        note('first')

    bus.subscribe('any', first, priority=10)
    bus.subscribe('any', lambda: note('second'), priority=20)
    bus.subscribe('any', first, priority=30)
    bus.publish('any')
    bus.unsubscribe('any', first)
    bus.unsubscribe('any', first)
    bus.unsubscribe('never heard of', first)
    bus.publish('any')


def scene_results_and_arguments(bus, note):
    note(bus.publish('nobody listens', 1, two=2))
    bus.subscribe('sum', lambda a, b=1: a + b, priority=1)
    bus.subscribe('sum', lambda a, b=1: a * b, priority=2)
    note(bus.publish('sum', 5))
    note(bus.publish('sum', 5, b=3))


def scene_failures_are_collected(bus, note):
    def fail(error):
        raise error

    bus.subscribe('any', lambda: fail(ValueError('one')), priority=1)
    bus.subscribe('any', lambda: note('between'), priority=2)
    bus.subscribe('any', lambda: fail(KeyError('two')), priority=3)
    try:
        bus.publish('any')
    except Exception as failures:
        note(type(failures).__name__, bool(failures), str(failures), repr(failures))
        note(failures.get_instances(), failures.delimiter, failures.args)


def scene_a_failing_log_listener_does_not_log_that(bus, note):
    def fail(msg, level):
        raise OSError(msg)

    bus.subscribe('log', fail, priority=1)
    try:
        bus.publish('log', 'disk full', 20)
    except Exception as failures:
        note(str(failures))


def scene_system_exit_ends_a_publish_at_once(bus, note):
    def leave(code):
        sys.exit(code)

    bus.subscribe('any', lambda: leave(0), priority=2)
    bus.subscribe('any', lambda: note('never called'), priority=3)
    with pytest.raises(SystemExit) as left:
        bus.publish('any')
    note(left.value.code)
    bus.subscribe('any', lambda: 1 / 0, priority=1)
    with pytest.raises(SystemExit) as left:
        bus.publish('any')
    note(left.value.code)


def scene_keyboard_interrupt_ends_a_publish_at_once(bus, note):
    def interrupt():
        raise KeyboardInterrupt

    bus.subscribe('any', interrupt, priority=1)
    bus.subscribe('any', lambda: note('never called'), priority=2)
    with pytest.raises(KeyboardInterrupt):
        bus.publish('any')


def scene_block_traps_what_main_listeners_raise(bus, note):
    def interrupt():
        raise KeyboardInterrupt

    def leave():
        sys.exit(3)

    for raiser in (interrupt, leave):
        bus.subscribe('main', raiser)
        bus.start()
        try:
            bus.block(interval=0.01)
            note('returned', bus.state)
        except SystemExit as left:
            note('raised', left.code, bus.state)
        bus.unsubscribe('main', raiser)


def scene_wait_takes_one_state_or_several(bus, note):
    bus.start()
    bus.wait(bus.states.STARTED)
    bus.wait([bus.states.STOPPED, bus.states.STARTED], interval=0.01, channel='main')
    bus.wait(state=bus.states.STARTED)
    bus.exit()
    bus.block()


def scene_a_log_line_with_its_traceback(bus, note):
    try:
        raise LookupError('gone')
    except LookupError:
        bus.log('It failed', level=40, traceback=True)
    bus.log()


def scene_foreign_code_writes_to_listeners(bus, note):
    note(sorted(bus.listeners))
    bus.listeners['before_request'] = set()
    bus.listeners.setdefault('acquire_thread', set())
    bus.subscribe('before_request', lambda: note('request'))
    bus.subscribe('acquire_thread', lambda: note('thread'))
    bus.publish('before_request')
    bus.publish('acquire_thread')
    note(len(bus.listeners['before_request']))
    bus.anything = 'goes'
    note(bus.anything)


SCENES = {
    name.removeprefix('scene_'): value
    for name, value in list(globals().items())
    if name.startswith('scene_')
}


def transcript(bus, scene):
    """All that a scene notes and the bus logs, without file names and addresses."""
    lines = []

    def note(*words):
        lines.append(' '.join(map(str, words)))

    def listen(msg, level):
        text, *traceback = msg.split('\n')
        # Which listener it was is told in another way by each bus.
        text = text.partition(' listener ')[0] if text.startswith('Error in') else text
        last = next((line for line in reversed(traceback) if line), '')
        lines.append(f'LOG {level} {text} {last}'.strip())

    bus.subscribe('log', listen, priority=99)
    scene(bus, note)
    lines.append(str(bus.state))
    return [line.replace('State.', 'states.') for line in lines]


@pytest.mark.parametrize('scene', SCENES.values(), ids=SCENES.keys())
def test_our_bus_does_and_says_what_cherrypys_does(scene):
    ours = transcript(Bus(), scene)
    assert ours == transcript(wspbus.Bus(), scene)

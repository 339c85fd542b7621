"""The bus against an independent model, and against its invariants under threads."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import traceback
from collections import Counter
from dataclasses import dataclass, field
from queue import SimpleQueue
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from paste_wspbus.bus import TRANSITIONS, Bus, ChannelFailures, State
from paste_wspbus.errors import IllegalTransition, LifespanRefused

# Given to each test, not loaded: other files keep their own. More examples than the
# default find rarer bugs: BUS_MODEL_EXAMPLES=5000.
settings.register_profile(
    'bus model',
    deadline=None,
    max_examples=int(os.environ.get('BUS_MODEL_EXAMPLES', '500')),
    stateful_step_count=15,
    derandomize='CI' in os.environ,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
PROFILE = settings.get_profile('bus model')

#: Seconds until a thread that does not end is a failure. Nothing waits for it otherwise.
STUCK = 30

STATE_CHANNELS = ('start', 'drain', 'stop', 'exit', 'graceful')
COMMANDS = ('start', 'stop', 'exit', 'restart', 'graceful')
BUS_LINES = {
    f'Bus {what}'
    for what in ('STARTING', 'STARTED', 'STOPPING', 'STOPPED', 'EXITING', 'EXITED')
} | {'Bus graceful'}


# -- what a listener does: written down once, foretold by the model, done by a site --


@dataclass(frozen=True)
class Command:
    """Call a method of the bus: the first two times only, so that it comes to an end."""

    method: str


@dataclass(frozen=True)
class Subscribe:
    """Subscribe a listener, always the same one."""

    channel: str
    priority: int
    behaviour: Behaviour


@dataclass(frozen=True)
class Unsubscribe:
    """Unsubscribe whatever has this name."""

    name: str


@dataclass(frozen=True)
class AddLifespan:
    priority: int
    start: Behaviour
    stop: Behaviour


@dataclass(frozen=True)
class Behaviour:
    """Steps, and how it ends: well, or in 'Oops', 'KeyboardInterrupt', 'SystemExit 3'."""

    steps: tuple[object, ...] = ()
    ending: str = ''


class Oops(Exception):
    """What a failing listener raises."""


def raise_ending(ending):
    match ending.split():
        case ['Oops']:
            raise Oops
        case ['KeyboardInterrupt']:
            raise KeyboardInterrupt
        case ['SystemExit', code]:
            raise SystemExit(int(code))


def fate_of(error):
    """What came of a call, in the model's words: '' is well."""
    match error:
        case None:
            return ''
        case ChannelFailures():
            return ' '.join(['ChannelFailures', *map(fate_of, error.get_instances())])
        case SystemExit():
            return f'SystemExit {error.code}'
    return type(error).__name__


def is_interrupt(fate):
    return fate.startswith(('SystemExit', 'KeyboardInterrupt'))


# -- the model ----------------------------------------------------------------


@dataclass
class Subscribed:
    channel: str
    name: str
    priority: int
    number: int
    behaviour: Behaviour
    lifespan: AddLifespan | None = None

    @property
    def plugin(self):
        return self.name.startswith('plug') and '-' not in self.name


@dataclass
class Outcome:
    """What a command brought on: errors of listeners, and wishes to leave."""

    failures: list[str] = field(default_factory=list)
    interrupts: list[str] = field(default_factory=list)

    def add(self, fate):
        if is_interrupt(fate):
            self.interrupts.append(fate)
        elif fate:
            self.failures.append(fate)

    def fates(self):
        """What the command may raise. Which of several wishes to leave is left open."""
        if self.interrupts and self.failures:
            # A site where something failed does not leave with success.
            return {fate.replace('Exit 0', 'Exit 1') for fate in self.interrupts}
        if self.interrupts:
            return set(self.interrupts)
        return {' '.join(['ChannelFailures', *self.failures]) if self.failures else ''}


class Model:
    """DESIGN.md's bus, one thread, nobody in `block`: a list of rows and a queue."""

    def __init__(self):
        self.state = State.STOPPED
        self.journal = []
        self.timeline = []
        self.resources = set()
        self.lifespans = set()
        self.failed = self.troubled = False
        self.rows = []
        self.numbers = 0
        self.stopped_since_start = False
        self.running = None
        self.asked = []
        self.turn = None
        self.to_come = []
        self.calls = Counter()

    # Subscriptions.

    def order(self, channel):
        sign = -1 if channel in ('stop', 'exit') else 1
        rows = [row for row in self.rows if row.channel == channel]
        return sorted(rows, key=lambda row: (row.priority, sign * row.number))

    def subscribe(self, name, wanted):
        for row in self.rows:
            if (row.channel, row.name) == (wanted.channel, name):
                row = self.rows[self.rows.index(row)] = Subscribed(**vars(row))
                row.priority = wanted.priority
                return
        self.numbers += 1
        self.rows.append(
            Subscribed(
                wanted.channel, name, wanted.priority, self.numbers, wanted.behaviour
            )
        )

    def unsubscribe(self, name):
        armed = [row for row in self.rows if row.lifespan and row.channel == 'stop']
        self.rows = [row for row in self.rows if row.name != name or row in armed]
        self.lifespans.discard(name)

    def add_lifespan(self, name, wanted):
        if self.running in ('stop', 'exit') or self.state in (
            State.DRAINING,
            State.STOPPING,
        ):
            return 'LifespanRefused'
        if name in self.lifespans:
            return 'NameTaken'
        self.numbers += 1
        row = Subscribed(
            'start', name, wanted.priority, self.numbers, wanted.start, wanted
        )
        self.rows.append(row)
        self.lifespans.add(name)
        fate = ''
        if self.state is State.STARTING and self.turn < (row.priority, row.number):
            self.to_come.append(row)
        elif self.state in (State.STARTING, State.STARTED):
            fate = self.call(row)
        if fate:
            self.unsubscribe(name)
        return fate

    # Listeners.

    def call(self, row):
        if row.lifespan and row.channel == 'stop':
            self.rows.remove(row)
            self.resources.discard(row.name)
        fate = self.act(row.channel, row.name, row.behaviour)
        if row.lifespan and row.channel == 'start' and not fate:
            self.resources.add(row.name)
            self.rows.append(
                Subscribed(
                    'stop',
                    row.name,
                    100 - row.priority,
                    row.number,
                    row.lifespan.stop,
                    row.lifespan,
                )
            )
        if row.channel in STATE_CHANNELS:
            self.timeline.append((row.channel, row.name, 'failed' if fate else 'ok'))
        return fate

    def act(self, channel, name, behaviour):
        self.journal.append((channel, name, self.state))
        self.calls[channel, name] += 1
        for number, step in enumerate(behaviour.steps):
            fate = ''
            match step:
                case Command(method):
                    if self.calls[channel, name] <= 2:
                        self.ask(method)
                case Subscribe():
                    self.subscribe(f'{name}-{channel}{number}', step)
                case Unsubscribe(other):
                    self.unsubscribe(other)
                case AddLifespan():
                    fate = self.add_lifespan(f'{name}-{channel}{number}', step)
            if fate:
                return fate
        return behaviour.ending

    def tell(self, channel, outcome, untold=()):
        """Call all of them; but for stop and exit, only until one wants to leave."""
        for row in self.order(channel):
            if row.name in untold:
                continue
            fate = self.call(row)
            outcome.add(fate)
            if is_interrupt(fate):
                if channel not in ('stop', 'exit'):
                    return
            elif fate:
                self.log(f'Error in {channel!r} listener {row.name}')

    def publish(self, channel):
        outcome = Outcome()
        self.tell(channel, outcome)
        return outcome.fates()

    def log(self, line):
        self.journal.append(('log', line))

    # Commands.

    def ask(self, command):
        """Run a command, and what its listeners asked for; what it may raise."""
        command = 'exit' if command == 'restart' else command
        if self.running:
            if command != self.running:
                self.asked.append(command)
            return {''}
        if command == 'start' and self.state is State.STARTED:
            return {'IllegalTransition'}
        own = self.perform(command)
        leave = set(own.fates()) if own.interrupts else set()
        while self.asked:
            later = self.perform(self.asked.pop(0))
            leave |= later.fates() if later.interrupts else set()
        return leave or own.fates()

    def perform(self, command):
        self.running = command
        outcome = Outcome()
        getattr(self, command)(outcome)
        self.running = None
        if command != 'graceful':
            codes = {fate.endswith('3') for fate in outcome.interrupts}
            self.failed = self.failed or bool(outcome.failures) or codes == {True}
        self.troubled = self.troubled or bool(outcome.failures or outcome.interrupts)
        return outcome

    def start(self, outcome):
        if self.state is State.STARTED:
            self.troubled = True
            return
        self.failed = self.troubled = self.stopped_since_start = False
        self.state = State.STARTING
        self.log('Bus STARTING')
        fate, begun = '', set()
        rest = self.order('start')
        while rest and not fate and not self.cut_short():
            row = rest.pop(0)
            self.turn = (row.priority, row.number)
            fate = self.call(row)
            begun.add(row.name if not fate else '')
            rest = sorted(rest + self.to_come, key=lambda r: (r.priority, r.number))
            self.to_come = []
        outcome.add(fate)
        if not fate and not self.cut_short():
            self.state = State.STARTED
            self.log('Bus STARTED')
            return
        if outcome.failures:
            self.log(f"Error in 'start' listener {row.name}")
            self.log('Shutting down due to error in start listener')
        self.roll_back(outcome, begun)

    def cut_short(self):
        return 'stop' in self.asked or 'exit' in self.asked

    def roll_back(self, outcome, begun):
        plugins = {row.name for row in self.order('start') if row.plugin}
        back = Outcome()
        self.tell_stop(back, untold=plugins - begun)
        outcome.interrupts += back.interrupts
        if back.failures:
            self.failed = self.troubled = True
            # Not raised: the caller is told why the start failed. But see `fates`.
            if outcome.interrupts and not outcome.failures:
                outcome.failures = back.failures

    def tell_stop(self, outcome, untold=()):
        self.state = State.STOPPING
        self.log('Bus STOPPING')
        self.tell('stop', outcome, untold)
        self.stopped_since_start = True
        self.state = State.STOPPED
        self.log('Bus STOPPED')

    def stop(self, outcome):
        if self.stopped_since_start:
            return
        if self.state is State.STARTED and self.order('drain'):
            self.state = State.DRAINING
            self.tell('drain', outcome)
        self.tell_stop(outcome)

    def exit(self, outcome):
        if self.state is State.EXITING:
            return
        self.stop(outcome)
        self.state = State.EXITING
        self.log('Bus EXITING')
        self.tell('exit', outcome)
        self.log('Bus EXITED')

    def graceful(self, outcome):
        self.log('Bus graceful')
        self.tell('graceful', outcome)


# -- the same with the real bus -------------------------------------------------


class Site:
    """A bus, and listeners that behave as told and note what they see."""

    def __init__(self):
        self.bus = Bus()
        self.bus.join_timeout = 0
        self.journal = []
        self.callbacks = {}
        self.plugins = {}
        self.calls = Counter()
        self.quiet = False
        self.bus.subscribe('log', self.note_line)
        self.bus.subscribe('restart', lambda: None)

    def note_line(self, message, level):
        line = message.splitlines()[0].partition(', at ')[0]
        if line.startswith('Error in'):
            words = line.split()
            line = ' '.join([*words[:-1], short(words[-1])])
        line = line.partition(':')[0]
        if line != 'Bus start refused':  # told of a start that nobody waits for
            self.journal.append(('log', line))

    def act(self, channel, name, behaviour):
        self.journal.append((channel, name, self.bus.state))
        self.calls[channel, name] += 1
        if self.quiet:
            return
        for number, step in enumerate(behaviour.steps):
            match step:
                case Command(method):
                    if self.calls[channel, name] <= 2:
                        getattr(self.bus, method)()
                case Subscribe():
                    self.subscribe(f'{name}-{channel}{number}', step)
                case Unsubscribe(other):
                    self.unsubscribe(other)
                case AddLifespan():
                    self.add_lifespan(f'{name}-{channel}{number}', step)
        raise_ending(behaviour.ending)

    def subscribe(self, name, wanted):
        def listener(*args):
            self.act(wanted.channel, name, wanted.behaviour)

        listener.__qualname__ = name
        channel, callback = self.callbacks.setdefault(name, (wanted.channel, listener))
        self.bus.subscribe(channel, callback, priority=wanted.priority)

    def subscribe_plugin(self, name, start, stop):
        def at_start(plugin):
            self.act('start', name, start.behaviour)

        def at_stop(plugin):
            self.act('stop', name, stop.behaviour)

        plugin = type(name, (), {'start': at_start, 'stop': at_stop})()
        self.plugins[name] = plugin
        self.bus.subscribe('start', plugin.start, priority=start.priority)
        self.bus.subscribe('stop', plugin.stop, priority=stop.priority)

    def add_lifespan(self, name, wanted):
        def body():
            self.act('start', name, wanted.start)
            yield
            self.act('stop', name, wanted.stop)

        self.bus.lifespan(body, priority=wanted.priority, name=name)

    def unsubscribe(self, name):
        if name in self.callbacks:
            self.bus.unsubscribe(*self.callbacks[name])
        elif name in self.bus.lifespans:
            self.bus.lifespans[name].unsubscribe()
        elif name in self.plugins:
            self.bus.unsubscribe('start', self.plugins[name].start)
            self.bus.unsubscribe('stop', self.plugins[name].stop)


def short(name):
    """A listener's name as the model calls it: neither its module nor its method."""
    name = name.removeprefix(f'{__name__}.').removesuffix('.at_start')
    return name.removesuffix('.at_stop')


# -- what may be asked of them ----------------------------------------------------

PRIORITIES = st.sampled_from([25, 50, 75])
ENDINGS = st.sampled_from(
    [''] * 12 + ['Oops'] * 2 + ['KeyboardInterrupt', 'SystemExit 0', 'SystemExit 3']
)


def behaviours(*steps):
    return st.builds(
        Behaviour, st.lists(st.one_of(*steps), max_size=2).map(tuple), ENDINGS
    )


COMMAND = st.builds(Command, st.sampled_from(COMMANDS))
CHANNELS = st.sampled_from([*STATE_CHANNELS, 'news'])
#: Of listeners that are subscribed by listeners, and of those that a publish of 'news'
#: calls, which is no transition: a command would be run there, not queued.
MODEST = st.builds(Behaviour, st.just(()), ENDINGS)
QUIET_STEPS = [
    st.builds(Subscribe, CHANNELS, PRIORITIES, MODEST),
    st.builds(AddLifespan, PRIORITIES, MODEST, MODEST),
    st.deferred(lambda: st.builds(Unsubscribe, NAMES)),
]
NAMES = st.builds(
    '{}{}'.format, st.sampled_from(['fun', 'life', 'plug']), st.integers(0, 6)
)
BUSY = behaviours(COMMAND, COMMAND, *QUIET_STEPS)
SUBSCRIBE = st.one_of(
    st.builds(Subscribe, st.sampled_from(STATE_CHANNELS), PRIORITIES, BUSY),
    st.builds(Subscribe, st.just('news'), PRIORITIES, behaviours(*QUIET_STEPS)),
)


class BusAgainstModel(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.model, self.site = Model(), Site()
        self.numbers = Counter()

    def new_name(self, kind):
        self.numbers[kind] += 1
        return f'{kind}{self.numbers[kind] - 1}'

    def both(self, foretold, do):
        error = None
        try:
            do()
        except BaseException as raised:
            error = raised
        assert fate_of(error) in foretold
        if isinstance(error, ChannelFailures) and error.__cause__:
            assert error.__cause__ is error.get_instances()[0]

    @initialize(
        wanted=st.lists(SUBSCRIBE, max_size=6),
        lifespans=st.lists(st.builds(AddLifespan, PRIORITIES, BUSY, BUSY), max_size=3),
    )
    def be_composed(self, wanted, lifespans):
        for listener in wanted:
            self.subscribe(listener)
        for lifespan in lifespans:
            self.add_lifespan(lifespan.priority, lifespan.start, lifespan.stop)

    @rule(wanted=SUBSCRIBE)
    def subscribe(self, wanted):
        name = self.new_name('fun')
        self.model.subscribe(name, wanted)
        self.site.subscribe(name, wanted)

    @rule(start=SUBSCRIBE, stop=SUBSCRIBE)
    def subscribe_plugin(self, start, stop):
        name = self.new_name('plug')
        start = Subscribe('start', start.priority, start.behaviour)
        stop = Subscribe('stop', stop.priority, stop.behaviour)
        self.model.subscribe(name, start)
        self.model.subscribe(name, stop)
        self.site.subscribe_plugin(name, start, stop)

    @rule(number=st.integers(0, 6), priority=PRIORITIES)
    def subscribe_again(self, number, priority):
        name = f'fun{number}'
        for row in [row for row in self.model.rows if row.name == name]:
            again = Subscribe(row.channel, priority, row.behaviour)
            self.model.subscribe(name, again)
            self.site.subscribe(name, again)

    @rule(name=NAMES)
    def unsubscribe(self, name):
        self.model.unsubscribe(name)
        self.site.unsubscribe(name)

    @rule(priority=PRIORITIES, start=BUSY, stop=BUSY)
    def add_lifespan(self, priority, start, stop):
        if self.model.state is State.STARTED:
            start = Behaviour((), start.ending)  # else its commands would run inside it
        wanted = AddLifespan(priority, start, stop)
        name = self.new_name('life')
        self.both(
            {self.model.add_lifespan(name, wanted)},
            lambda: self.site.add_lifespan(name, wanted),
        )

    @rule(failing=ENDINGS.filter(lambda ending: not is_interrupt(ending)))
    def break_a_log(self, failing):
        self.site.bus.subscribe('log', lambda message, level: raise_ending(failing))

    @rule(command=st.sampled_from(COMMANDS))
    def command(self, command):
        self.both(self.model.ask(command), getattr(self.site.bus, command))

    @rule()
    def publish_news(self):
        self.both(self.model.publish('news'), lambda: self.site.bus.publish('news', 1))

    @invariant()
    def it_did_what_was_foretold(self):
        assert self.site.journal == self.model.journal
        assert self.site.bus.state is self.model.state
        assert set(self.site.bus.resources) == self.model.resources
        assert set(self.site.bus.lifespans) == self.model.lifespans
        timeline = [
            (call.channel, short(call.name), call.outcome)
            for call in self.site.bus.timeline
            if call.channel in STATE_CHANNELS
        ]
        assert timeline == self.model.timeline[-1000:]

    @invariant()
    def the_exit_code_tells_of_failures_and_of_nothing_else(self):
        if self.model.failed:
            assert self.site.bus.exit_code != 0
        elif not self.model.troubled:
            assert self.site.bus.exit_code == 0

    def teardown(self):
        self.site.quiet = True
        self.site.bus.exit()
        assert self.site.bus.state is State.EXITING
        assert not self.site.bus.resources


TestBusAgainstModel = BusAgainstModel.TestCase
TestBusAgainstModel.settings = PROFILE


# -- many threads: no model of every interleaving, but what holds in each of them ------


@dataclass(frozen=True)
class Part:
    """A listener, or a lifespan; ``meanwhile`` another thread calls that command."""

    channel: str
    priority: int
    behaviour: Behaviour
    meanwhile: str = ''


class Crew:
    """Threads that must end, and must not fail."""

    def __init__(self):
        self.threads = []
        self.failures = []

    def start(self, target, *args):
        def run():
            try:
                target(*args)
            except BaseException as error:
                self.failures.append(error)

        thread = threading.Thread(target=run, daemon=True)
        self.threads.append(thread)
        thread.start()
        return thread

    def join(self, *threads):
        for thread in threads or self.threads:
            thread.join(STUCK)
            if thread.is_alive():
                frames = sys._current_frames().items()
                stacks = [
                    f'{ident}:\n' + ''.join(traceback.format_stack(frame))
                    for ident, frame in frames
                ]
                pytest.fail('A thread does not end.\n' + '\n'.join(stacks))


@contextlib.contextmanager
def what_a_bus_may_raise():
    with contextlib.suppress(
        ChannelFailures, IllegalTransition, KeyboardInterrupt, SystemExit
    ):
        yield


class CrowdedSite:
    """A bus that many threads command, and a journal of what its listeners saw.

    A row: kind, name, the state, the thread. Of each listener's call there are two
    rows, of its channel's kind and 'end'.
    """

    def __init__(self, parts):
        self.bus = Bus()
        self.bus.join_timeout = 0
        self.journal = []
        self.calls = Counter()
        self.quiet = False
        self.hanging = SimpleQueue()
        self.stuck = []
        self.bus.subscribe('log', lambda line, level: self.note('log', line))
        self.bus.subscribe('restart', lambda: None)
        self.published, self.told = SimpleQueue(), SimpleQueue()
        self.bus.subscribe('news', self.told.put, priority=1000)
        for number, part in enumerate(parts):
            if part.channel == 'lifespan':
                self.add_lifespan(f'lifespan{number}', part)
            else:
                self.add_listener(f'{part.channel}{number}', part)

    def note(self, kind, name):
        self.journal.append((kind, name, self.bus.state, threading.get_ident()))

    def act(self, kind, name, part):
        self.note(kind, name)
        try:
            if not self.quiet:
                self.behave(name, part)
        finally:
            self.note('end', name)

    def behave(self, name, part):
        self.calls[name] += 1
        if self.calls[name] <= 2:
            for command in part.behaviour.steps:
                getattr(self.bus, command.method)()
            if part.meanwhile:
                released = threading.Event()
                self.hanging.put((part.meanwhile, released))
                if not released.wait(STUCK):
                    self.stuck.append(name)  # the bus would swallow an exception
        raise_ending(part.behaviour.ending)

    def add_listener(self, name, part):
        self.bus.subscribe(
            part.channel,
            lambda: self.act(part.channel, name, part),
            priority=part.priority,
        )

    def add_lifespan(self, name, part):
        def body():
            self.act('start', name, part)
            self.note('entered', name)
            yield
            self.note('left', name)
            self.act('stop', name, part)

        self.bus.lifespan(body, priority=part.priority, name=name)

    # What threads do.

    def release(self):
        """Command the bus while a listener hangs, which must not hang, too."""
        while True:
            match self.hanging.get():
                case None:
                    return
                case command, released:
                    getattr(self.bus, command)()
                    released.set()

    def play(self, number, script):
        for line, action in enumerate(script):
            match action:
                case Part('lifespan'):
                    with (
                        contextlib.suppress(LifespanRefused, Oops),
                        what_a_bus_may_raise(),
                    ):
                        self.add_lifespan(f'late{number}.{line}', action)
                case Part(channel, priority):
                    self.bus.subscribe(channel, self.passer_by, priority=priority)
                case Unsubscribe(channel):
                    self.bus.unsubscribe(channel, self.passer_by)
                case 'publish':
                    self.published.put((number, line))
                    self.bus.publish('news', (number, line))
                case _:
                    with what_a_bus_may_raise():
                        getattr(self.bus, action)()

    def passer_by(self, *args):
        pass

    def block(self, inside, states):
        """Start and block, as a main thread does; say when it holds the turn."""

        def arrived():
            self.bus.unsubscribe('main', arrived)
            self.note('inside', 'block')
            inside.set()

        try:
            self.bus.subscribe('main', arrived)
            with what_a_bus_may_raise():
                self.bus.start()
            with what_a_bus_may_raise():
                self.bus.block(interval=0.001, states=states)
        finally:
            inside.set()


def check_journal(journal, until_line):
    """Read it from the start, as one transition after the other."""
    state, line, state_of_line = State.STOPPED, '', State.STOPPED
    running, ran, entered, inside = '', set(), [], None
    for kind, name, seen, thread in journal:
        if kind == 'log' and name in BUS_LINES:
            line, ran, state_of_line = name, set(), seen
            assert not running
            if name.split()[1] in State.__members__:
                assert seen is State[name.split()[1]]
                assert seen in TRANSITIONS[state]
                state = seen
            elif name == 'Bus EXITED':
                assert state is seen is State.EXITING
            if name in until_line:
                inside = None
        elif kind == 'inside':
            inside = thread
        elif kind == 'entered':
            entered.append(name)
        elif kind == 'left':
            if name.startswith('late'):
                entered.remove(name)
            else:  # those added late are not in the order of the starts
                on_time = [other for other in entered if other.startswith('lifespan')]
                assert name == on_time[-1]
                entered.reverse()
                entered.remove(name)
                entered.reverse()
        elif name.startswith('late'):
            pass
        elif kind == 'end':
            assert running == name
            running = ''
        elif kind in STATE_CHANNELS:
            assert not running
            assert inside in (None, thread)
            assert name not in ran
            assert seen is state_seen_in(kind, line, state_of_line)
            running = name
            ran.add(name)
    assert not entered


def state_seen_in(channel, line, state_of_line):
    match channel, line:
        case 'start', 'Bus STARTING':
            return State.STARTING
        case 'stop', 'Bus STOPPING':
            return State.STOPPING
        case 'exit', 'Bus EXITING':
            return State.EXITING
        case 'drain', 'Bus STARTED' | 'Bus graceful':
            return State.DRAINING
        case 'graceful', 'Bus graceful':
            return state_of_line
    raise AssertionError(f'{channel} was published after {line!r}')


PARTS = st.builds(
    Part,
    st.sampled_from([*STATE_CHANNELS, 'lifespan', 'lifespan']),
    PRIORITIES,
    st.builds(Behaviour, st.lists(COMMAND, max_size=2).map(tuple), ENDINGS),
    st.sampled_from(['', *COMMANDS]),
)
ACTIONS = st.one_of(
    st.sampled_from([*COMMANDS, *COMMANDS, 'publish']),
    st.builds(Part, st.just('lifespan'), PRIORITIES, MODEST),
    st.builds(Part, CHANNELS, PRIORITIES, st.just(Behaviour())),
    st.builds(Unsubscribe, CHANNELS),
)


# Not shrunk: what threads do is not the same twice.
@settings(PROFILE, phases=[Phase.explicit, Phase.generate])
@given(
    parts=st.lists(PARTS, max_size=8),
    scripts=st.lists(st.lists(ACTIONS, max_size=8), min_size=1, max_size=3),
    blocking=st.sampled_from(['nobody', 'until exit', 'until stopped']),
)
def test_whatever_threads_ask_for_transitions_run_one_after_the_other(
    parts, scripts, blocking
):
    site, crew = CrowdedSite(parts), Crew()
    no_execv = mock.patch(
        'os.execv', side_effect=AssertionError('a listener restarts it')
    )
    with no_execv, threads_switched_often():
        releaser = crew.start(site.release)
        crew.start(site.bus.wait, State.EXITING)
        if blocking != 'nobody':
            inside = threading.Event()
            states = State.STOPPED if blocking == 'until stopped' else None
            crew.start(site.block, inside, states)
            assert inside.wait(STUCK)
        players = [crew.start(site.play, *play) for play in enumerate(scripts)]
        crew.join(*players)
        site.quiet = True
        site.bus.exit()
        crew.join(*[thread for thread in crew.threads if thread is not releaser])
        site.hanging.put(None)
        crew.join(releaser)
        site.bus.exit()  # a start may have been asked for behind the other exit
    assert not crew.failures
    assert not site.stuck
    assert site.bus.state is State.EXITING
    assert not site.bus.resources
    check_journal(
        site.journal,
        until_line={'Bus EXITED', 'Bus STOPPED'}
        if blocking == 'until stopped'
        else {'Bus EXITED'},
    )
    assert drained(site.told) == drained(site.published)


@contextlib.contextmanager
def threads_switched_often():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def drained(queue):
    return sorted(queue.get() for _ in range(queue.qsize()))


@pytest.mark.parametrize('leave', ['stop', 'exit'])
def test_a_lifespan_that_is_entered_while_the_site_stops_is_left_at_once(leave):
    bus, crew, journal = Bus(), Crew(), []
    entering, stopped = threading.Event(), threading.Event()

    def body():
        entering.set()
        assert stopped.wait(STUCK)
        journal.append('entered')
        yield
        journal.append('left')

    def add():
        with pytest.raises(LifespanRefused):
            bus.lifespan(body)

    bus.start()
    crew.start(add)
    assert entering.wait(STUCK)
    getattr(bus, leave)()
    stopped.set()
    crew.join()
    bus.exit()
    assert journal == ['entered', 'left']
    assert not crew.failures

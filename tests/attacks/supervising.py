"""A supervisor on a simulated kernel, against its promises: ``python -m tests.attacks.supervising``.

The supervisor, its strategy, loop, timers and backoff are the real ones. What is simulated is
what the kernel and the processes do: the clock, the sleep in select(), forks, signals, deaths,
and the messages of the processes, each with its delay. Hypothesis chooses the fates of the
processes and the order of all that happens, also in the middle of a graceful restart or a stop.

The model knows what is true of each process, which the supervisor only hears of later:

- In a graceful restart, an order to leave never leaves fewer workers that serve than there were
  at its beginning, but for those that died by themselves.
- There is never more than one worker beyond the number, but for those that were ordered to leave.
- Crashed workers are not replaced more often than twelve times in a minute.
- A stop ends within `stop_timeout`, also with processes that react to SIGKILL alone, and leaves
  no process.
- When no more goes wrong, each worker serves again, unless the site has given up and stopped.
"""

import argparse
import contextlib
import heapq
import itertools
import signal
import sys
import time
from collections import defaultdict, deque
from functools import partial
from types import SimpleNamespace
from unittest import mock

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from paste_wspbus.bus import ChannelFailures, State
from paste_wspbus.role import PRELOAD
from paste_wspbus.workers import backoff
from paste_wspbus.workers.children import WorkerFailed
from paste_wspbus.workers.handle import WorkerHandle
from paste_wspbus.workers.plan import Configuration, Plan
from paste_wspbus.workers.rolling import Rolling
from paste_wspbus.workers.supervisor import Supervisor, SupervisorBus

#: Crashed workers are replaced so often in a minute, at most (docs/workers.md).
REPLACEMENTS = 12

#: No story has so many sleeps, unless the supervisor waits for what does not come.
SLEEPS = 20_000

#: Seconds that a stop may take beyond `stop_timeout`, until the last death is known.
MARGIN = 2.0


class Fate:
    """What becomes of a process; seconds, and None for never.

    :param ready: after this it is READY.
    :param dies: after this it dies by itself.
    :param code: its exit code then; negative for a signal.
    :param leaves: after this it follows an order to stop.
    :param answers: after this it answers a request for its status.
    :param notice: after this the supervisor knows of its death.
    """

    def __init__(
        self, ready=0.2, dies=None, code=1, leaves=0.1, answers=0.01, notice=0.0
    ):
        self.ready, self.dies, self.code = ready, dies, code
        self.leaves, self.answers, self.notice = leaves, answers, notice

    def __repr__(self):
        what = ', '.join(f'{name}={value!r}' for name, value in vars(self).items())
        return f'Fate({what})'


MOMENTS = st.sampled_from([0.0, 0.05, 0.3, 1.0, 2.5, 9.0, 25.0])
FATES = st.one_of(
    st.builds(Fate),
    st.builds(
        Fate,
        ready=st.one_of(st.none(), MOMENTS),
        dies=st.one_of(st.none(), MOMENTS),
        code=st.sampled_from([0, 1, 70, -signal.SIGSEGV, -signal.SIGKILL]),
        leaves=st.one_of(st.none(), MOMENTS),
        answers=st.one_of(st.none(), MOMENTS),
        notice=st.sampled_from([0.0, 0.01, 0.3]),
    ),
)


# -- the kernel ------------------------------------------------------------------------


class Clock:
    """Takes the place of the module `time`."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def __getattr__(self, name):
        return getattr(time, name)


class Kernel:
    """What happens later; it takes the place of the loop's selector."""

    def __init__(self, clock):
        self.clock, self._later, self._numbers = clock, [], itertools.count()
        self.sleeps, self._ready = 0, {}

    def after(self, seconds, function):
        due = self.clock.now + seconds
        heapq.heappush(self._later, (due, next(self._numbers), function))

    def select(self, timeout=None):
        """Sleep until the next thing happens, at most ``timeout`` seconds."""
        self.sleeps += 1
        assert self.sleeps < SLEEPS, 'the supervisor waits for ever'
        limit = float('inf') if timeout is None else self.clock.now + timeout
        if self._later and self._later[0][0] <= limit:
            due, _, function = heapq.heappop(self._later)
            self.clock.now = max(self.clock.now, due)
            self._ready = {0: SimpleNamespace(fd=0, data=function)}
            return [(self._ready[0], 1)]
        assert limit < float('inf'), 'the supervisor sleeps for ever'
        self.clock.now = limit
        return []

    def get_map(self):
        return self._ready

    def close(self):
        pass


class SimulatedProcess(WorkerHandle):
    """A process: what is true of it, and what it does at an order or a signal."""

    def __init__(self, children, role, template, limit, fate, pid):
        super().__init__(role, SimpleNamespace(fileno=lambda: -1), template, limit)
        self.children, self.fate, self.pid = children, fate, pid
        self.lives, self.serves, self.ordered = True, False, False
        self.served_since = None
        later = children.kernel.after
        if fate.ready is not None:
            later(fate.ready, self.becomes_ready)
        if fate.dies is not None:
            later(fate.dies, lambda: self.die(fate.code))

    def becomes_ready(self):
        if self.lives:
            self.serves, self.served_since = not self.ordered, self.children.now
            self.children.say(self, 'ready', [])

    def die(self, code):
        if self.lives:
            was_ordered, self.lives, self.serves = self.ordered, False, False
            self.children.model.has_died(self, by_itself=not was_ordered)
            self.children.kernel.after(
                self.fate.notice, lambda: self.children.end(self, code)
            )

    def tell(self, word, *carried, fds=()):
        if word == 'status' and self.fate.answers is not None:
            status = {'requests': []}
            self.children.kernel.after(
                self.fate.answers, lambda: self.children.say(self, 'status', status)
            )
        elif word in ('make_way', 'stop', 'release', 'hurry'):
            self.is_ordered()

    def signal(self, number, thread=None):
        if number == signal.SIGKILL:
            self.children.kernel.after(0.0, lambda: self.die(-number))
        elif number == signal.SIGTERM:
            self.is_ordered()

    def is_ordered(self):
        if self.lives and not self.ordered:
            served, self.ordered, self.serves = self.serves, True, False
            if served:
                self.children.model.was_ordered(self)
        if self.fate.leaves is not None:
            self.children.kernel.after(self.fate.leaves, lambda: self.die(0))


class SimulatedChildren:
    """Takes the place of `Children`: forks, orders, and what is heard of the processes."""

    board = SimpleNamespace(marks=SimpleNamespace(read=lambda place: {}))

    def __init__(self, kernel, model, events, heard, ended, sent_nonsense):
        self.kernel, self.model, self.events, self._ended = kernel, model, events, ended
        self._heard = defaultdict(list)
        for word, listener in heard.items():
            self.hear(word, listener)
        self.alive, self.every, self.fates = [], [], deque()
        #: The fate of each process for which there is none in ``fates``.
        self.usual = Fate()

    @property
    def now(self):
        return self.kernel.clock.now

    def hear(self, word, listener):
        self._heard[word].append(listener)

    def watch(self):
        pass

    def of_kind(self, kind):
        return [one for one in self.alive if one.role.kind == kind]

    def tell_all(self, word):
        for one in self.alive:
            one.tell(word)

    def composed(self):
        return [one for one in self.of_kind(PRELOAD) if one.is_ready]

    def press(self, worker):
        worker.signal(signal.SIGTERM)

    def note_lost(self):
        pass

    def spawn(self, role, template, limit, fresh=False):
        fate = self.fates.popleft() if self.fates else self.usual
        if fate.ready == fate.dies == 0.0:
            raise WorkerFailed(1, 'no process can be had')
        pid = len(self.every) + 2000
        worker = SimulatedProcess(self, role, template, limit, fate, pid)
        self.alive.append(worker)
        self.every.append(worker)
        self.model.was_started(worker)
        return worker

    def say(self, worker, word, value):
        if not worker.ended:
            for listener in self._heard[word]:
                listener(worker, {word: value})

    def end(self, worker, code):
        worker.has_ended(code)
        for timer in worker.timers:
            self.events.cancel(timer)
        self.alive.remove(worker)
        self._ended(worker)


# -- the model -------------------------------------------------------------------------


class Model:
    """The promises; it knows nothing of how the supervisor decides."""

    def __init__(self, clock):
        self.clock, self.children, self.count = clock, None, lambda: 0
        #: In a graceful restart: how many workers must serve; else None.
        self.floor = None
        self.is_starting = True
        self.replacements, self.allowed = [], 0

    @property
    def serving(self):
        return [one for one in self.children.every if one.serves]

    def was_started(self, worker):
        here = [one for one in self.children.every if one.lives and not one.ordered]
        assert len(here) <= self.count() + 1, f'{len(here)} workers of {self.count()}'
        if self.floor is not None or self.is_starting:
            return
        now = self.clock.now
        self.replacements.append(now)
        recent = [at for at in self.replacements if at > now - 60]
        assert len(recent) <= REPLACEMENTS + self.allowed, recent

    def has_died(self, worker, by_itself):
        since = worker.served_since
        if since is not None and self.clock.now - since >= backoff.SETTLED:
            self.allowed += 1  # it is replaced at once
        if by_itself and self.floor is not None and since is not None:
            self.floor = max(self.floor - 1, 0)

    def was_ordered(self, worker):
        if self.floor is not None:
            serving = len(self.serving)
            assert serving >= self.floor, f'{serving} serve, {self.floor} did'

    def graceful_begins(self):
        self.floor = min(len(self.serving), self.count())

    def graceful_ends(self):
        self.floor = None
        self.replacements.clear()  # a generation that serves begins without crashes


SERVER = SimpleNamespace(
    sockets=[SimpleNamespace(owned=True, is_reachable=True)], share=lambda board: None
)


@contextlib.contextmanager
def simulated_time(clock):
    """Let all modules of the supervisor read this clock."""
    with contextlib.ExitStack() as stack:
        for name, module in list(sys.modules.items()):
            is_ours = name.startswith(('paste_wspbus.workers', 'paste_wspbus.watching'))
            if is_ours and getattr(module, 'time', None) is time:
                stack.enter_context(mock.patch.object(module, 'time', clock))
        # A Backoff gets the function as the default of an argument.
        stack.enter_context(
            mock.patch.object(
                backoff.Backoff.__init__, '__defaults__', (clock.monotonic,)
            )
        )
        yield


class Supervising(RuleBasedStateMachine):
    """Hypothesis's machine."""

    def __init__(self):
        super().__init__()
        self.clock = Clock()
        self.kernel, self.model = Kernel(self.clock), Model(self.clock)
        self._time = contextlib.ExitStack()
        self._time.enter_context(simulated_time(self.clock))

    @initialize(
        workers=st.integers(1, 4),
        soak=st.sampled_from([0.0, 5.0]),
        fates=st.lists(FATES, max_size=3),
    )
    def start(self, workers, soak, fates):
        plan = Plan(workers, True, False, False, 10.0, 20.0, soak=soak)
        self.plan, self.bus = plan, SupervisorBus()
        self.bus.events.selector.close()
        self.bus.events.selector = self.kernel
        self.supervisor = Supervisor(
            self.bus,
            plan,
            SERVER,
            lambda: Configuration(plan, SERVER, lambda: None, []),
            Rolling,
            partial(SimulatedChildren, self.kernel, self.model),
        )
        self.children = self.model.children = self.supervisor.children
        self.model.count = lambda: self.supervisor.count
        self.bus.subscribe('graceful', self.model.graceful_begins, priority=0)
        self.bus.subscribe('graceful', self.model.graceful_ends, priority=99)
        self.supervisor.subscribe(SimpleNamespace(handlers={}))
        self.children.fates.extend(fates)
        with contextlib.suppress(ChannelFailures):
            self.bus.start()
        self.model.is_starting = False
        for worker in self.supervisor.late:
            self.supervisor.strategy.has_ended(worker)
        self.bus.turn.keep_for(0)  # as in `Supervisor.run`: the loop runs the commands

    @property
    def is_started(self):
        return self.bus.state is State.STARTED

    def live(self, seconds):
        """Let the loop run, as in `Bus.block`."""
        until = self.clock.now + seconds
        while self.clock.now < until and self.is_started:
            self.bus.events.step(until - self.clock.now)
            self.bus.turn.run()

    # -- what an operator, the site and the machine do -----------------------------------

    @rule(fates=st.lists(FATES, min_size=1, max_size=4))
    def the_next_processes_have_fates(self, fates):
        self.children.fates.extend(fates)

    @precondition(lambda self: self.is_started)
    @rule(seconds=MOMENTS)
    def time_passes(self, seconds):
        self.live(seconds)

    @precondition(lambda self: self.is_started)
    @rule(after=MOMENTS)
    def somebody_asks_for_a_graceful_restart(self, after):
        self.kernel.after(after, self.bus.graceful)

    @precondition(lambda self: self.is_started)
    @rule(number=st.integers(0, 5), after=MOMENTS, code=st.sampled_from([1, -9, -11]))
    def a_process_will_die(self, number, after, code):
        def die():
            alive = [one for one in self.children.every if one.lives]
            if alive:
                alive[number % len(alive)].die(code)

        self.kernel.after(after, die)

    @precondition(lambda self: self.is_started)
    @rule(
        channel=st.sampled_from(['add_worker', 'remove_worker']),
        after=MOMENTS,
    )
    def the_number_changes(self, channel, after):
        if channel == 'remove_worker' or self.supervisor.count < 4:
            self.kernel.after(after, lambda: self.bus.post(channel))
            self.model.allowed += 1  # it starts a worker that is no replacement

    @precondition(lambda self: self.is_started)
    @rule(
        fate=st.builds(
            Fate,
            ready=st.sampled_from([0.0, 0.3]),
            dies=st.sampled_from([0.2, 1.5, 3.0]),
            code=st.sampled_from([1, -9]),
        )
    )
    def each_new_process_crashes(self, fate):
        self.children.usual = fate
        for worker in self.model.serving:
            self.kernel.after(0.0, partial(worker.die, 1))
        self.live(60)

    @precondition(lambda self: self.is_started)
    @rule(after=MOMENTS)
    def somebody_will_stop_it(self, after):
        self.kernel.after(after, self.bus.exit)

    @precondition(lambda self: self.is_started)
    @rule()
    def nothing_goes_wrong_any_more(self):
        """Each worker serves again; what hangs has its time to become READY before that."""
        self.live(60)
        self.children.fates.clear()
        self.children.usual = Fate()
        self.live(120)
        if self.is_started:
            assert len(self.model.serving) == self.supervisor.count

    @invariant()
    def what_is_over_has_no_processes(self):
        if self.bus.state in (State.STOPPED, State.EXITING):
            assert not [one for one in self.children.every if one.lives]

    def teardown(self):
        if hasattr(self, 'bus'):
            began = self.clock.now
            self.bus.exit()
            self.bus.turn.run()
            assert self.bus.state is State.EXITING
            assert self.clock.now - began <= self.plan.deadline + MARGIN
            assert not [one for one in self.children.every if one.lives]
            self.bus.events.close()
        self._time.close()


def attack(examples, steps=12, derandomize=False):
    """Let Hypothesis try so many stories; raises AssertionError at a broken promise."""
    profile = settings(
        deadline=None,
        max_examples=examples,
        stateful_step_count=steps,
        derandomize=derandomize,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Supervising, settings=profile)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--examples', type=int, default=3000)
    parser.add_argument('--steps', type=int, default=20)
    options = parser.parse_args()
    attack(options.examples, options.steps)
    print(f'{options.examples} stories, in none of which a promise was broken')


if __name__ == '__main__':
    sys.exit(main())

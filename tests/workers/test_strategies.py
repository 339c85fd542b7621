"""Both strategies of renewing: who is started, stopped and kept, in which order.

No process is started: what stands for one does at the loop's next step what a
process would do.
"""

import signal
from collections import defaultdict
from functools import partial
from types import SimpleNamespace

import pytest

from paste_wspbus.bus import ChannelFailures, State
from paste_wspbus.role import PACKAGES, PRELOAD, SITE
from paste_wspbus.watching.files import Files
from paste_wspbus.workers import backoff, recycling, soaking, spares
from paste_wspbus.workers import reloading as reloading_module
from paste_wspbus.workers.children import WorkerFailed
from paste_wspbus.workers.handle import WorkerHandle
from paste_wspbus.workers.plan import Configuration, Plan
from paste_wspbus.workers.reloading import Reloading, ReloadPlan
from paste_wspbus.workers.rolling import Rolling
from paste_wspbus.workers.supervisor import Supervisor, SupervisorBus

pytestmark = pytest.mark.skipif(not hasattr(signal, 'SIGKILL'), reason='POSIX')

PLAN = Plan(
    workers=2,
    restarts=True,
    preload=False,
    site_plugins=False,
    start_timeout=60,
    stop_timeout=60,
)
SERVER = SimpleNamespace(
    shared=False,
    sockets=[SimpleNamespace(owned=True, is_reachable=True)],
    share=lambda board: None,
)


class FakeWorker(WorkerHandle):
    """Stands for a process: `tell` and `signal` go to its `FakeChildren`."""

    def __init__(self, children, role, template, limit):
        super().__init__(role, SimpleNamespace(fileno=lambda: -1), template, limit)
        self.children, self.pid = children, len(children.story) + 1000
        self.label = f'{role.name} ({role.generation})'
        if role.problem:
            self.label = f'problem as {self.label}'
        if role.spare:
            self.label = f'spare of {role.name}'

    def tell(self, word, *carried, fds=()):
        self.children.told(self, word)

    def signal(self, number):
        self.children.signalled(self, number)


class FakeChildren:
    """Takes the place of `Children`, and keeps the story of what was done."""

    def __init__(self, story, script, events, heard, ended, sent_nonsense):
        self.story, self.script, self.events = story, script, events
        self._heard, self._ended = defaultdict(list), ended
        for word, listener in heard.items():
            self.hear(word, listener)
        self.alive, self.board = [], None

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
        return [
            one for one in self.of_kind(PRELOAD) if one.is_ready and not one.leaving
        ]

    def press(self, worker):
        worker.signal(signal.SIGTERM)

    def forget_timers(self, worker):
        for timer in worker.timers:
            self.events.cancel(timer)
        worker.timers.clear()

    def spawn(self, role, template, limit, fresh=False):
        worker = FakeWorker(self, role, template, limit)
        how = ' afresh' if fresh else ''
        how = f' from {template.label}' if template else how
        self.story.append(f'start {worker.label}{how}')
        if self.script.no_process(worker):
            raise WorkerFailed(1, f'{worker.label} cannot be had')
        self.alive.append(worker)
        if role.spare or role.hold or role.kind == SITE:
            self._later(worker, lambda: self.say(worker, 'composed'))
        else:
            self._later(worker, lambda: self._start(worker))
        return worker

    def _later(self, worker, function):
        self.events.call_later(0, lambda: worker.ended or function())

    def _start(self, worker):
        if self.script.hangs(worker.label):
            return
        line = self.script.failure(worker)
        if line is None:
            self.story.append(f'{worker.label} is ready')
            self.say(worker, 'ready', [])
            return
        said = {'failed': 1, 'line': line, 'traceback': '', 'file': 'a.py'}
        for listener in self._heard['failed']:
            listener(worker, {**said, 'problem': 'the problem'})
        self.end(worker, 1)

    def say(self, worker, word, value=True, **more):
        for listener in self._heard[word]:
            listener(worker, {word: value, **more})

    def told(self, worker, word):
        self.story.append(f'{word}: {worker.label}')
        if self.script.hangs(self.story[-1]):
            return
        if word == 'go':
            worker.label = f'{worker.name} ({worker.role.generation})'
            self._later(worker, lambda: self._start(worker))
        elif word == 'status':
            self._later(worker, lambda: self.say(worker, 'status', {'requests': []}))
        elif word == 'import':
            self._later(worker, lambda: self.say(worker, 'imported', '', why=''))
        elif word in ('make_way', 'stop', 'release', 'restart'):
            self._later(worker, lambda: self.end(worker, 0))

    def signalled(self, worker, number):
        self.story.append(f'{signal.Signals(number).name}: {worker.label}')
        self._later(worker, lambda: self.end(worker, -number))

    def end(self, worker, code):
        self.story.append(f'{worker.label} has ended')
        worker.has_ended(code)
        self.forget_timers(worker)
        self.alive.remove(worker)
        self._ended(worker)


class Script:
    """What goes wrong: by the labels of the processes, and of orders to them."""

    def __init__(self):
        self.fails, self.refused, self.actions = {}, set(), {}

    def failure(self, worker):
        return self.fails.get(worker.label)

    def no_process(self, worker):
        return worker.label in self.refused

    def hangs(self, step):
        """Do what is to happen at a step; whether the process hangs in it."""
        action = self.actions.get(step)
        if action is not None:
            action()
        return action is not None


class Site:
    """A supervisor whose processes are fakes."""

    def __init__(self, make_strategy, plan=PLAN, server=SERVER):
        self.story, self.script, self.answers, self.lines = [], Script(), [], []
        self.undone = 0
        self.plan, self.server, self.next_plan = plan, server, None
        self.bus = SupervisorBus()
        self.bus.subscribe('log', lambda line, level: self.lines.append(line))
        self.supervisor = Supervisor(
            self.bus,
            plan,
            server,
            self.configure,
            make_strategy,
            partial(FakeChildren, self.story, self.script),
        )
        self.supervisor.subscribe(SimpleNamespace(handlers={}))

    def configure(self):
        plan = self.next_plan or self.plan
        return Configuration(plan, self.server, self.undo, ['a note'])

    def undo(self):
        self.undone += 1

    def start(self):
        self.bus.start()
        return self.take_story()

    def take_story(self):
        story = self.story[:]
        self.story.clear()
        return story

    def renew(self):
        """Ask for a renewal, and see it through: the story."""
        connection = SimpleNamespace(
            request={}, who=lambda command: command, answer=self.answers.append
        )
        self.supervisor.ask_for_renewal(connection)
        return self.take_story()

    def settle(self):
        """Let the loop run until nothing is due."""
        for _ in range(20):
            self.bus.events.step(0)
        return self.take_story()

    @property
    def serving(self):
        return sorted(worker.label for worker in self.supervisor.serving())

    def close(self):
        self.bus.exit()
        self.supervisor.close_in_child()
        self.bus.events.close()


@pytest.fixture
def make_site():
    sites = []

    def make(*args, **kwargs):
        site = Site(*args, **kwargs)
        sites.append(site)
        return site

    yield make
    for site in sites:
        site.close()


# -- rolling ------------------------------------------------------------------


@pytest.fixture
def rolling(make_site):
    return partial(make_site, Rolling)


FIRST = [
    'start worker 1 (1)',
    'start worker 2 (1)',
    'worker 1 (1) is ready',
    'worker 2 (1) is ready',
]


def test_the_first_generation_starts_at_once(rolling):
    site = rolling()
    assert site.start() == FIRST
    assert site.bus.state is State.STARTED
    assert site.serving == ['worker 1 (1)', 'worker 2 (1)']


def test_what_there_is_one_of_starts_before_the_workers(rolling):
    site = rolling(PLAN._replace(preload=True, site_plugins=True))
    assert site.start() == [
        'start preload (1)',
        'preload (1) is ready',
        'start site plugins (1)',
        'go: site plugins (1)',
        'site plugins (1) is ready',
        'start worker 1 (1) from preload (1)',
        'start worker 2 (1) from preload (1)',
        'worker 1 (1) is ready',
        'worker 2 (1) is ready',
    ]


def test_with_the_child_restarter_each_is_a_fresh_interpreter(make_site):
    site = make_site(partial(Rolling, fresh=True))
    assert site.start()[:2] == [
        'start worker 1 (1) afresh',
        'start worker 2 (1) afresh',
    ]


def test_a_first_generation_of_which_one_fails_is_stopped(rolling):
    site = rolling()
    site.script.fails['worker 2 (1)'] = 'no database'
    with pytest.raises(ChannelFailures, match='no database') as info:
        site.bus.start()
    assert isinstance(info.value.get_instances()[0], WorkerFailed)
    assert site.take_story() == [
        *FIRST[:3],
        'worker 2 (1) has ended',
        'stop: worker 1 (1)',
        'worker 1 (1) has ended',
    ]


def test_a_start_that_is_told_to_stop_stops_those_that_compose(rolling):
    site = rolling()
    site.script.actions['worker 1 (1)'] = site.bus.exit
    site.bus.start()
    story = site.take_story()
    assert story[:2] == FIRST[:2]
    assert 'worker 1 (1) has ended' in story and 'worker 2 (1) has ended' in story
    assert site.bus.state is State.EXITING
    assert site.supervisor.children.alive == []


def test_a_renewal_exchanges_a_worker_at_a_time(rolling):
    site = rolling()
    site.start()
    assert site.renew() == [
        'start worker 1 (2)',
        'worker 1 (2) is ready',
        'make_way: worker 1 (1)',
        'worker 1 (1) has ended',
        'start worker 2 (2)',
        'worker 2 (2) is ready',
        'make_way: worker 2 (1)',
        'worker 2 (1) has ended',
    ]
    assert site.answers == [{'generation': 2, 'notes': ['a note']}]
    assert site.undone == 0


def test_a_renewal_whose_first_worker_fails_leaves_all_as_it_was(rolling):
    site = rolling()
    site.start()
    site.next_plan = PLAN._replace(workers=3, start_timeout=1)
    site.script.fails['worker 1 (2)'] = 'no database'
    assert site.renew() == ['start worker 1 (2)', 'worker 1 (2) has ended']
    assert site.serving == ['worker 1 (1)', 'worker 2 (1)']
    assert site.undone == 1
    assert site.supervisor.plan == PLAN and site.supervisor.count == 2
    (answer,) = site.answers
    assert answer['failed'] == 1 and answer['line'] == 'no database'
    assert answer['generation'] == 1 and not answer['is_new']
    assert answer['mixed'] is None
    assert 'Generation 2 failed: no database; generation 1 keeps serving' in site.lines


def test_a_renewal_that_fails_half_way_keeps_the_worker_that_is_ready(rolling):
    site = rolling()
    site.start()
    site.script.fails['worker 2 (2)'] = 'no database'
    assert site.renew() == [
        'start worker 1 (2)',
        'worker 1 (2) is ready',
        'make_way: worker 1 (1)',
        'worker 1 (1) has ended',
        'start worker 2 (2)',
        'worker 2 (2) has ended',
    ]
    assert site.serving == ['worker 1 (2)', 'worker 2 (1)']
    (answer,) = site.answers
    assert answer['mixed'] == (
        '1 of 2 workers serve generation 2, the others generation 1'
    )


def test_a_renewal_that_fails_half_way_is_taken_back_where_the_old_code_is_composed(
    rolling,
):
    site = rolling(PLAN._replace(preload=True))
    site.start()
    site.script.fails['worker 2 (2)'] = 'no database'
    assert site.renew() == [
        'start preload (2)',
        'preload (2) is ready',
        'start worker 1 (2) from preload (2)',
        'worker 1 (2) is ready',
        'make_way: worker 1 (1)',
        'worker 1 (1) has ended',
        'start worker 2 (2) from preload (2)',
        'worker 2 (2) has ended',
        'make_way: preload (2)',
        'start worker 1 (1) from preload (1)',
        'preload (2) has ended',
        'worker 1 (1) is ready',
        'make_way: worker 1 (2)',
        'worker 1 (2) has ended',
    ]
    assert site.serving == ['worker 1 (1)', 'worker 2 (1)']


def test_a_renewal_whose_composition_fails_starts_no_worker(rolling):
    site = rolling(PLAN._replace(preload=True))
    site.start()
    site.script.fails['preload (2)'] = 'SyntaxError'
    assert site.renew() == ['start preload (2)', 'preload (2) has ended']
    assert site.serving == ['worker 1 (1)', 'worker 2 (1)']


def test_a_renewal_for_which_the_system_has_no_process_fails(rolling):
    site = rolling()
    site.start()
    site.script.refused.add('worker 2 (2)')
    assert site.renew()[-1] == 'start worker 2 (2)'
    assert site.serving == ['worker 1 (2)', 'worker 2 (1)']


def test_a_renewal_that_is_told_to_stop_ends_at_once(rolling):
    site = rolling()
    site.start()
    site.script.actions['worker 1 (2)'] = site.bus.exit
    assert site.renew() == [
        'start worker 1 (2)',
        'stop: worker 1 (1)',
        'stop: worker 2 (1)',
        'SIGTERM: worker 1 (2)',
        'worker 1 (1) has ended',
        'worker 2 (1) has ended',
        'worker 1 (2) has ended',
    ]
    assert site.answers == [
        {'failed': 1, 'line': 'The site was asked to stop before that was done'}
    ]
    assert site.bus.state is State.EXITING
    assert site.supervisor.children.alive == []


def test_site_plugins_are_composed_first_and_exchanged_last(rolling):
    site = rolling(PLAN._replace(workers=1, site_plugins=True))
    site.start()
    assert site.renew() == [
        'start site plugins (2)',
        'start worker 1 (2)',
        'worker 1 (2) is ready',
        'make_way: worker 1 (1)',
        'worker 1 (1) has ended',
        'make_way: site plugins (1)',
        'site plugins (1) has ended',
        'go: site plugins (2)',
        'site plugins (2) is ready',
    ]


def test_where_the_server_binds_by_itself_the_old_worker_ends_before_the_new_starts(
    rolling,
):
    site = rolling(PLAN._replace(workers=1), server=None)
    site.start()
    assert site.renew() == [
        'start worker 1 (2)',
        'make_way: worker 1 (1)',
        'worker 1 (1) has ended',
        'go: worker 1 (2)',
        'worker 1 (2) is ready',
    ]


@pytest.mark.parametrize(
    'workers, last',
    [
        (1, ['make_way: worker 2 (1)']),
        (3, ['start worker 3 (2)', 'worker 3 (2) is ready']),
    ],
)
def test_a_renewal_takes_another_number_of_workers(rolling, workers, last):
    site = rolling()
    site.start()
    site.next_plan = PLAN._replace(workers=workers)
    assert site.renew()[-len(last) :] == last
    assert len(site.serving) == workers


def test_a_worker_that_crashes_is_replaced_at_once(rolling):
    site = rolling()
    site.start()
    worker = site.supervisor.current['worker 2']
    site.supervisor.children.end(worker, -11)
    assert site.settle() == [
        'worker 2 (1) has ended',
        'start worker 2 (1)',
        'worker 2 (1) is ready',
    ]
    assert any('crashed, signal SIGSEGV; restarting' in line for line in site.lines)


def test_a_crash_ends_a_site_that_is_not_to_be_restarted(rolling):
    site = rolling(PLAN._replace(workers=0, restarts=False))
    assert site.start() == ['start site (1)', 'site (1) is ready']
    site.supervisor.children.end(site.supervisor.current['site'], 3)
    assert site.take_story() == ['site (1) has ended']
    assert site.bus.state is State.EXITING and site.bus.exit_code == 3


def test_a_preloading_process_that_died_is_composed_anew_when_it_is_needed(rolling):
    site = rolling(PLAN._replace(preload=True))
    site.start()
    site.supervisor.children.end(site.supervisor.current[PRELOAD], 1)
    assert site.settle() == ['preload (1) has ended']
    site.supervisor.children.end(site.supervisor.current['worker 1'], 1)
    assert site.settle() == [
        'worker 1 (1) has ended',
        'start preload (1)',
        'preload (1) is ready',
        'start worker 1 (1) from preload (1)',
        'worker 1 (1) is ready',
    ]


def test_a_site_that_crashes_too_often_is_given_up(rolling, monkeypatch):
    monkeypatch.setattr(backoff, 'WAITS', (0.0, 0.0))
    site = rolling(PLAN._replace(workers=0))
    site.start()
    site.script.fails['site (1)'] = 'no database'
    site.supervisor.children.end(site.supervisor.current['site'], 1)
    story = site.settle()
    assert story.count('start site (1)') == 2
    assert site.bus.state is State.EXITING and site.bus.exit_code == 1
    assert any(
        '3 crashes in a row, and no worker serves: wspserve gives up and stops' in line
        for line in site.lines
    )


def test_a_site_of_which_somebody_serves_is_not_given_up(rolling, monkeypatch):
    monkeypatch.setattr(backoff, 'WAITS', (0.0,))
    site = rolling()
    site.start()
    fails = iter(['no database'] * 5)
    site.script.failure = lambda worker: next(fails, None)
    site.supervisor.children.end(site.supervisor.current['worker 2'], 1)
    assert site.settle().count('start worker 2 (1)') == 6
    assert site.serving == ['worker 1 (1)', 'worker 2 (1)']


def test_if_one_crashes_during_the_start_the_others_wait_for_their_turn(
    rolling, monkeypatch
):
    monkeypatch.setattr(backoff, 'WAITS', (0.0, 1000.0))
    site = rolling(PLAN._replace(workers=6))
    site.supervisor.strategy._at_a_time = 2
    children = site.supervisor.children

    def failure(worker):
        if worker.name == 'worker 2' and 'worker 3' not in site.supervisor.current:
            children.end(site.supervisor.current['worker 1'], 1)

    site.script.failure = failure
    assert 'start worker 3 (1)' not in site.start()
    assert len(site.supervisor.pids) == 2
    site.script.failure = lambda worker: None
    site.supervisor.replacing.catch_up()
    assert 'start worker 3 (1)' not in site.settle()
    assert len(site.serving) == 2


def test_what_waits_starts_at_once_if_a_replacement_has_settled(rolling, monkeypatch):
    monkeypatch.setattr(backoff, 'WAITS', (0.0, 1000.0))
    site = rolling()
    site.start()
    for name in ('worker 1', 'worker 2'):
        site.supervisor.children.end(site.supervisor.current[name], 1)
    assert site.settle().count('start worker 2 (1)') == 0
    assert site.serving == ['worker 1 (1)']
    monkeypatch.setattr(backoff, 'SETTLED', 0.0)
    site.supervisor.replacing._is_ready('worker 1', 0)
    assert site.settle() == ['start worker 2 (1)', 'worker 2 (1) is ready']


# -- the soak -----------------------------------------------------------------

SOAKS = PLAN._replace(soak=0.05)


def test_after_its_soak_a_worker_takes_the_place_of_the_old_one(rolling):
    site = rolling(SOAKS)
    site.start()
    story = [line for line in site.renew() if not line.startswith('status')]
    assert story == [
        'start worker 1 (2)',
        'worker 1 (2) is ready',
        'make_way: worker 1 (1)',
        'worker 1 (1) has ended',
        'start worker 2 (2)',
        'worker 2 (2) is ready',
        'make_way: worker 2 (1)',
        'worker 2 (1) has ended',
    ]


def test_a_worker_that_does_not_answer_in_its_soak_has_failed(rolling, monkeypatch):
    monkeypatch.setattr(soaking, 'SILENCE', 0.1)
    site = rolling(SOAKS)
    site.start()
    site.script.actions['status: worker 1 (2)'] = lambda: None
    story = site.renew()
    assert [line for line in story if not line.startswith('status')] == [
        'start worker 1 (2)',
        'worker 1 (2) is ready',
        'make_way: worker 1 (2)',
    ]
    assert 'does not answer: it hangs' in site.supervisor.renewals.failure
    assert site.serving == ['worker 1 (1)', 'worker 2 (1)']


def test_where_no_old_worker_is_there_is_no_soak(rolling):
    site = rolling(SOAKS._replace(soak=600))
    site.start()
    site.supervisor.current.clear()
    assert site.renew()[-1] == 'worker 2 (2) is ready'


# -- recycling ----------------------------------------------------------------

OLD = PLAN._replace(max_age=0.001)


@pytest.fixture
def looks_often(monkeypatch):
    monkeypatch.setattr(recycling, 'EVERY', 0.001)


def recycled(site, count):
    """The story until so many processes have ended."""
    story = []
    while sum(line.endswith('has ended') for line in story) < count:
        site.bus.events.step()
        story += [line for line in site.take_story() if not line.startswith('status')]
    return story


def test_recycling_replaces_one_worker_at_a_time(rolling, looks_often):
    site = rolling(OLD)
    site.start()
    story = recycled(site, 6)
    for number in range(6):
        name = story[4 * number].removeprefix('start ')
        assert story[4 * number : 4 * number + 4] == [
            f'start {name}',
            f'{name} is ready',
            f'make_way: {name}',
            f'{name} has ended',
        ]
    assert {line for line in story if line.startswith('start')} == {*FIRST[:2]}


def test_a_successor_that_fails_is_not_tried_again_at_once(rolling, looks_often):
    site = rolling(OLD)
    site.start()
    site.script.failure = lambda worker: 'no database'
    story = recycled(site, 1)
    for _ in range(20):
        site.bus.events.step()
    story += [line for line in site.take_story() if not line.startswith('status')]
    assert [line.split()[0] for line in story] == ['start', 'worker']
    assert site.serving == ['worker 1 (1)', 'worker 2 (1)']


def test_a_worker_that_is_removed_takes_its_successor_along(rolling):
    site = rolling()
    site.start()
    old = site.supervisor.current['worker 2']
    site.script.actions['worker 2 (1)'] = lambda: None  # it is never ready
    new = site.supervisor.successors.start(old, 'is to be replaced', 'hang')
    site.supervisor.resizing.remove_worker()
    assert old.leaving and new.leaving
    site.settle()
    assert site.serving == ['worker 1 (1)']


def test_nobody_is_recycled_during_a_graceful(rolling, looks_often):
    site = rolling()
    site.start()
    site.next_plan = OLD._replace(soak=0.05)
    story = [line for line in site.renew() if not line.startswith('status')]
    assert [line for line in story if line.startswith('start')] == [
        'start worker 1 (2)',
        'start worker 2 (2)',
    ]


def test_no_worker_is_recycled_whose_server_binds_itself(rolling, looks_often):
    site = rolling(OLD, server=None)
    site.start()
    for _ in range(3):
        site.bus.events.step(0.01)
    assert site.take_story() == []
    assert sum('need a server that wspserve knows' in one for one in site.lines) == 1


# -- reloading ----------------------------------------------------------------


@pytest.fixture
def reloading(make_site, monkeypatch):
    # A machine under load may take a second for the next step of the loop.
    monkeypatch.setattr(reloading_module, 'PATIENCE', 60.0)
    shown = []

    def make(style='child', plan=PLAN, **kwargs):
        asked = ReloadPlan(style, Files(), 60, shown.append, shown.append)
        site = make_site(partial(Reloading, plan=asked), plan, **kwargs)
        site.shown = shown
        return site

    return make


def test_a_reload_stops_all_before_it_starts_any(reloading):
    site = reloading()
    assert site.start() == FIRST
    story = site.renew()
    assert story[:2] == ['restart: worker 1 (1)', 'restart: worker 2 (1)']
    assert story[2:] == [
        'worker 1 (1) has ended',
        'worker 2 (1) has ended',
        'start worker 1 (2) afresh',
        'start worker 2 (2) afresh',
        'worker 1 (2) is ready',
        'worker 2 (2) is ready',
    ]
    assert site.answers == [{'generation': 2, 'notes': []}]
    assert site.shown[0] == 'A restart was requested'
    assert site.shown[1].startswith('served in ')


def test_a_first_start_that_fails_is_shown(reloading):
    site = reloading(plan=PLAN._replace(workers=0))
    site.script.fails['site (1)'] = 'SyntaxError'
    assert site.start() == [
        'start site (1)',
        'site (1) has ended',
        'start problem as site (1)',
        'problem as site (1) is ready',
    ]
    assert site.bus.state is State.STARTED
    assert site.supervisor.current['site'].role.problem == 'the problem'
    assert site.shown == ['SyntaxError']


def test_a_reload_whose_first_worker_fails_shows_it_and_starts_the_others(reloading):
    site = reloading()
    site.start()
    site.script.fails['worker 1 (2)'] = 'SyntaxError'
    assert site.renew()[4:] == [
        'start worker 1 (2) afresh',
        'start worker 2 (2) afresh',
        'worker 1 (2) has ended',
        'worker 2 (2) is ready',
        'start problem as worker 1 (2)',
        'problem as worker 1 (2) is ready',
    ]
    (answer,) = site.answers
    assert answer['failed'] == 1 and answer['line'] == 'SyntaxError'
    assert answer['generation'] == 2 and answer['is_new']
    assert site.shown == [
        'A restart was requested',
        'SyntaxError',
        'the site cannot be served',
    ]


def test_a_reload_whose_workers_fail_alike_says_so_once(reloading):
    site = reloading()
    site.start()
    site.script.fails['worker 1 (2)'] = site.script.fails['worker 2 (2)'] = (
        'SyntaxError'
    )
    site.renew()
    assert site.serving == ['problem as worker 1 (2)', 'problem as worker 2 (2)']
    assert site.shown == [
        'A restart was requested',
        'SyntaxError',
        'the site cannot be served',
    ]


def test_a_reload_heals_what_was_shown(reloading):
    site = reloading(plan=PLAN._replace(workers=0))
    site.script.fails['site (1)'] = 'SyntaxError'
    site.start()
    assert site.renew() == [
        'restart: problem as site (1)',
        'problem as site (1) has ended',
        'start site (2) afresh',
        'site (2) is ready',
    ]
    assert site.supervisor.describe()['failure'] is None


def test_a_reload_that_is_told_to_stop_starts_nobody(reloading):
    site = reloading()
    site.start()
    site.script.actions['restart: worker 2 (1)'] = site.bus.exit
    assert site.renew() == [
        'restart: worker 1 (1)',
        'restart: worker 2 (1)',
        'stop: worker 1 (1)',
        'stop: worker 2 (1)',
        'worker 1 (1) has ended',
        'worker 2 (1) has ended',
    ]
    assert site.answers == [
        {'failed': 1, 'line': 'The site was asked to stop before that was done'}
    ]
    assert site.bus.state is State.EXITING


def test_a_reload_that_is_told_to_stop_half_way_stops_those_that_started(reloading):
    site = reloading()
    site.start()
    site.script.actions['worker 1 (2)'] = site.bus.exit
    site.renew()
    assert site.bus.state is State.EXITING
    assert site.supervisor.children.alive == []


def test_site_plugins_that_fail_leave_the_workers_alone(reloading):
    site = reloading(plan=PLAN._replace(workers=1, site_plugins=True))
    site.start()
    site.script.fails['site plugins (2)'] = 'no broker'
    site.renew()
    assert site.serving == ['worker 1 (2)']
    assert site.shown[1] == 'no broker'
    assert site.shown[2].endswith(', without its site plugins')


def test_a_worker_that_crashes_is_not_replaced_but_shown(reloading):
    site = reloading(plan=PLAN._replace(workers=0))
    site.start()
    site.supervisor.children.end(site.supervisor.current['site'], -11)
    assert site.settle() == [
        'site (1) has ended',
        'start problem as site (1)',
        'problem as site (1) is ready',
    ]
    assert 'crashed, signal SIGSEGV' in site.shown[0]


def test_a_site_that_stops_by_itself_ends_all(reloading):
    site = reloading(plan=PLAN._replace(workers=0))
    site.start()
    site.supervisor.children.end(site.supervisor.current['site'], 0)
    assert site.bus.state is State.EXITING and site.bus.exit_code == 0


@pytest.fixture(params=[1, 2], ids=['one CPU', 'two CPUs'])
def cpus(request, monkeypatch):
    """With one CPU, the packages are imported after the start; with two, beside it."""
    monkeypatch.setattr(spares, 'cpu_count', lambda: request.param)
    return request.param


def test_with_fork_a_spare_waits_and_is_what_starts_next(reloading, cpus):
    site = reloading('fork', PLAN._replace(workers=0))
    if cpus == 1:
        assert site.start() == ['start site (1)', 'site (1) is ready']
        assert site.settle() == [
            'start packages (1) afresh',
            'packages (1) is ready',
            'import: packages (1)',
            'start spare of site from packages (1)',
        ]
    else:
        assert site.start() == [
            'start packages (1)',
            'start site (1)',
            'packages (1) is ready',
            'import: packages (1)',
            'site (1) is ready',
        ]
        assert site.settle() == [
            'import: packages (1)',
            'start spare of site from packages (1)',
        ]
    assert site.renew() == [
        'restart: site (1)',
        'site (1) has ended',
        'go: spare of site',
        'site (2) is ready',
    ]
    assert site.settle() == [
        'import: packages (1)',
        'start spare of site from packages (1)',
    ]


def test_what_fails_after_a_fork_is_tried_afresh_and_forks_no_more(reloading):
    site = reloading('fork', PLAN._replace(workers=0))
    site.start()
    site.settle()
    fails = iter(['a package does not like it'])
    site.script.failure = lambda worker: next(fails, None)
    strategy = site.supervisor.strategy
    strategy._may_be_the_forks = lambda worker: True
    assert site.renew() == [
        'restart: site (1)',
        'site (1) has ended',
        'go: spare of site',
        'site (2) has ended',
        'start site (2) afresh',
        'site (2) is ready',
        'make_way: packages (1)',
    ]
    assert site.settle() == ['packages (1) has ended']
    assert any('so will each later reload' in line for line in site.lines)


def test_a_package_that_spoils_its_process_is_left_out(reloading, monkeypatch):
    monkeypatch.setattr(spares, 'cpu_count', lambda: 1)
    site = reloading('fork', PLAN._replace(workers=0))
    site.start()
    children = site.supervisor.children
    bad = iter(['eager.thing'])
    says = children.say
    children.say = lambda worker, word, value=True, **more: says(
        worker, word, next(bad, '') if word == 'imported' else value, **more
    )
    story = site.settle()
    assert story == [
        'start packages (1) afresh',
        'packages (1) is ready',
        'import: packages (1)',
        'make_way: packages (1)',
        'start packages (1) afresh',
        'packages (1) has ended',
        'packages (1) is ready',
        'import: packages (1)',
        'start spare of site from packages (1)',
    ]


def test_what_a_process_of_packages_says_that_was_let_go_is_no_news(reloading):
    site = reloading('fork', PLAN._replace(workers=0))
    site.start()
    site.bus.events.step(0)
    site.bus.events.step(0)
    (packages,) = site.supervisor.children.of_kind(PACKAGES)
    site.supervisor.strategy.spares.renounce()
    site.take_story()
    site.supervisor.children.say(packages, 'ready', [])
    assert site.take_story() == []


def test_a_stop_kills_the_packages_and_takes_its_leave_of_the_others(reloading):
    site = reloading('fork', PLAN._replace(workers=0))
    site.start()
    site.settle()
    site.bus.exit()
    assert site.take_story() == [
        'stop: site (1)',
        'stop: spare of site',
        'site (1) has ended',
        'spare of site has ended',
        'SIGKILL: packages (1)',
        'packages (1) has ended',
    ]

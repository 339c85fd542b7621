"""The supervisor's part in a cluster, with an agent and processes of the test's own."""

import json
import socket
from types import SimpleNamespace

import pytest

from paste_wspbus.bus import State
from paste_wspbus.cluster.settings import Settings
from paste_wspbus.role import CLUSTER, Role
from paste_wspbus.unix.kernel_timer import boot_clock
from paste_wspbus.workers.children import WorkerFailed
from paste_wspbus.workers.clustered import Clustered
from paste_wspbus.workers.replacing import Replacing
from paste_wspbus.workers.waiting import StopRequested

TTL = 10


class Bus:
    def __init__(self):
        self.state, self.leaving, self.lines = State.STARTED, False, []

    def subscribe(self, *_, **__):
        pass

    def log(self, text, level=20):
        self.lines.append(text)


class Supervisor:
    """What `Clustered` asks of it; ``respawned`` has the roles of processes to start."""

    def __init__(self):
        self.bus, self.generation, self.current = Bus(), 1, {}
        self.alive, self.respawned, self.crashed = [], [], []
        self.is_stopping = self.is_renewing = False
        self.plan = SimpleNamespace(cluster_plugins=True)
        self.events = self.bus.events = SimpleNamespace(
            call_later=lambda _, function: function(),
            cancel=lambda timer: None,
            before_sleep=[],
        )
        self.children = SimpleNamespace(
            of_kind=lambda kind: self.alive, hear=lambda *_, **__: None
        )
        self.exchange = None
        self.replacing = SimpleNamespace(
            respawn=self.respawned.append,
            try_again=lambda role, what, *_, **__: self.crashed.append(what),
        )
        self.crashes = SimpleNamespace(note=lambda worker: '', loop='')
        self.strategy = SimpleNamespace(replaces=True)


class Worker:
    name = title = CLUSTER
    leaving, problem, ready_for, was_ready = False, None, 1, True
    too_slow = ''

    def __init__(self, code):
        self.code, self.signals, self.role = code, [], Role(CLUSTER, fence=7)

    def kill_group(self):
        self.signals.append('group')

    def signal(self, number):
        self.signals.append(number)


@pytest.fixture
def part():
    part = made(Supervisor())
    yield part
    part.close()
    part.its.close()


def made(supervisor):
    part = Clustered(supervisor, Settings('', 'shop', 'web1', TTL), None)
    mine, part.its = socket.socketpair()
    mine.setblocking(False)
    part._connection = mine
    part.its.setblocking(False)
    return part


def said(part):
    """What it has said to the agent."""
    try:
        lines = part.its.recv(65536).splitlines()
    except BlockingIOError:
        return []
    return [json.loads(line) for line in lines]


def test_it_wants_the_lease_while_the_site_serves(part):
    part.adjust()
    part.adjust()
    assert said(part) == [['wants', True]]
    part.bus.leaving = True
    part.adjust()
    assert said(part) == [['wants', False]]


def test_a_lease_starts_the_process_once_and_each_renewal_is_heard(part):
    part.adjust()
    for until in (boot_clock() + TTL, boot_clock() + TTL + 1):
        part._is_held(7, until)
        assert said(part)[-1] == ['heard', 7, until]
    (role,) = part.supervisor.respawned
    assert (role.kind, role.generation) == (CLUSTER, 1)
    assert part.holds


def test_a_lease_that_nobody_wants_any_more_is_released(part):
    part._is_held(7, boot_clock() + TTL)
    assert said(part)[-1] == ['free', 7]
    assert part.supervisor.respawned == []
    assert not part.holds


def test_a_lost_lease_kills_the_process(part):
    part.adjust()
    part._is_held(7, boot_clock() + TTL)
    part.supervisor.alive = [worker] = [Worker(None)]
    part._is_lost(6)  # an older one
    assert worker.signals == []
    part._is_lost(7)
    assert worker.signals == [9] and worker.killed
    assert 'is lost (fence 7)' in part.bus.lines[-1]


def test_at_a_stop_the_lease_is_released_when_the_process_has_ended(part):
    part.adjust()
    part._is_held(7, boot_clock() + TTL)
    part.supervisor.alive = [worker] = [Worker(0)]
    part.bus.leaving = True
    part.adjust()
    assert said(part)[-1] == ['wants', False]  # and not released
    part.supervisor.alive = []
    part.has_ended(worker)
    assert said(part) == [['free', 7]]
    assert worker.signals == ['group']


def ends(part, code, until):
    part.adjust()
    part._is_held(7, until)
    part.supervisor.respawned.clear()
    worker = part.supervisor.current[CLUSTER] = Worker(code)
    part.has_ended(worker)
    return worker


def test_a_crash_is_counted_and_a_stop_of_its_own_is_not(part):
    ends(part, 0, boot_clock() + TTL)
    assert len(part.supervisor.respawned) == 1
    ends(part, 1, boot_clock() + TTL)
    assert part.supervisor.crashed == [f'{CLUSTER} crashed, exit code 1']


def test_in_a_crash_loop_another_machine_may_have_the_lease_before_the_next_start(part):
    supervisor, timers = part.supervisor, []
    ends(part, 1, boot_clock() + TTL)
    said(part)
    for wait, loop in ((0, 'loop'), (4, '')):  # it starts at once; or it is no loop yet
        supervisor.crashes.loop = loop
        part.rests(wait)
        assert part.holds and said(part) == []
    supervisor.crashes.loop = 'crash loop: 3 crashes'
    part.events.call_later = lambda wait, function: timers.append((wait, function))
    part.rests(4)
    assert said(part) == [['wants', False], ['free', 7]]
    assert not part.holds and supervisor.current == {}
    assert 'releases their lease, so that another machine' in part.bus.lines[-1]
    ((wait, is_over),), count = timers, len(part.bus.lines)
    assert wait == 4 and 3 < part.rest.until - boot_clock() <= 4
    is_over()
    assert said(part) == [['wants', True]]
    part._is_held(8, boot_clock() + TTL)
    assert [role.kind for role in supervisor.respawned] == [CLUSTER]
    part.rests(8)
    assert len(part.bus.lines) == count  # one line a minute says it
    supervisor.leaving = supervisor.waiting = None
    part.exchange(None)  # a graceful restart: the new code may not crash
    part.adjust()
    assert said(part)[-1] == ['wants', True]


def test_what_has_ended_with_its_lease_starts_again_at_the_next_renewal(part):
    """Until then there would be no time for it."""
    ends(part, 0, boot_clock() + 1)
    assert part.supervisor.respawned == part.supervisor.crashed == []
    assert part.supervisor.current == {}  # the status calls nothing crashed
    part._is_held(7, boot_clock() + TTL)
    assert len(part.supervisor.respawned) == 1


def test_what_could_not_start_when_the_lease_was_about_to_end_starts_later(part):
    """Else this site would hold the lease, and nobody would run the plugins."""
    supervisor = part.supervisor
    supervisor.cluster, supervisor.count = part, 1
    supervisor.singles = lambda: [CLUSTER] if part.holds else []
    part.adjust()
    part._is_held(7, boot_clock() + TTL)
    supervisor.respawned.clear()
    part._is_held(7, boot_clock() + 1)
    Replacing(supervisor).respawn(Role(CLUSTER))  # the wait after a crash is over
    part._is_held(7, boot_clock() + TTL)
    assert len(supervisor.respawned) == 1


def test_a_process_needs_a_lease(part):
    with pytest.raises(WorkerFailed, match='has no lease'):
        part.spawn(Role(CLUSTER), None, 60)
    assert part.has_lost(None)


@pytest.fixture
def requiring():
    """A part whose engine must answer; ``until`` is what its start waits for."""
    supervisor = Supervisor()
    supervisor.waiting = SimpleNamespace(until=None)
    supervisor.events.call_later = lambda *_: None
    supervisor.events.cancel = lambda timer: None
    part = made(supervisor)
    part.settings = part.settings._replace(require=True)
    part._start_agent = lambda: None
    yield part
    part.close()
    part.its.close()


def test_a_stop_ends_the_wait_for_an_engine_that_is_required(requiring):
    def until(_):
        raise StopRequested

    requiring.supervisor.waiting.until = until
    requiring.start()


def test_what_the_agent_says_waits_until_a_required_engine_has_answered(requiring):
    def until(condition):
        requiring._notes(40, 'no word')
        requiring._learns_of_engine({'away': away})
        assert condition()

    requiring.supervisor.waiting.until, away = until, 'it is full'
    with pytest.raises(
        WorkerFailed, match='require = true: this machine alone: it is full'
    ):
        requiring.start()
    assert requiring.bus.lines == []
    away = ''
    requiring.start()
    requiring._notes(20, 'it is back')
    assert requiring.bus.lines == ['no word', 'it is back']

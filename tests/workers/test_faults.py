"""What a function of the supervisor's loop raises: it is logged, and the site keeps serving."""

import os
import signal
import sys
from types import SimpleNamespace

import pytest

from paste_wspbus.bus import Bus
from paste_wspbus.control.client import NoAnswer
from paste_wspbus.role import WORKER, Role
from paste_wspbus.watching.loop import Events
from paste_wspbus.workers import faults
from paste_wspbus.workers.children import Children
from paste_wspbus.workers.faults import Faults
from paste_wspbus.workers.replacing import Replacing
from tests.kit.processes import eventually, kill
from tests.kit.sites import ask
from tests.kit.workers import Workers

#: A wspserve whose supervisor fails as long as there is a file: in the answers that come
#: later, when a worker ends, and when it looks whether one has ended.
BROKEN = """
import os
import sys

from paste_wspbus.__main__ import main
from paste_wspbus.process.answers import Answers
from paste_wspbus.workers import threads
from paste_wspbus.workers.children import Children
from paste_wspbus.workers.exchange import Exchange
from paste_wspbus.workers.history import History
from paste_wspbus.workers.rolling import Rolling
from paste_wspbus.workers.supervisor import Supervisor


def breaks(owner, name, error):
    function = getattr(owner, name)

    def broken(*args, **kwargs):
        if os.path.exists('broken'):
            raise error(f'{name} is broken')
        return function(*args, **kwargs)

    setattr(owner, name, broken)


breaks(Supervisor, 'describe', KeyError)
breaks(Answers, 'timelines', MemoryError)
breaks(threads, '_described', ValueError)
breaks(Exchange, 'forget', MemoryError)
breaks(History, 'has_ended', RuntimeError)
breaks(Rolling, 'has_ended', MemoryError)  # it would have replaced the worker
breaks(Children, '_is_reaped', OSError)  # the system reports an end once
if __name__ == '__main__':
    sys.exit(main())
"""


def test_a_supervisor_whose_functions_fail_serves_on_and_answers(tmp_path):
    (tmp_path / 'broken.py').write_text(BROKEN)
    fault = tmp_path / 'broken'
    command = [sys.executable, 'broken.py']
    with Workers(tmp_path, count=1, command=command) as site:
        (pid,) = site.pids()
        fault.touch()
        for _ in range(2):  # it is logged once
            for question, error in (
                ('status', 'describe is broken'),
                ('timeline', 'timelines is broken'),
                ('stacks', '_described is broken'),
            ):
                with pytest.raises(NoAnswer, match=error):
                    site.control(question)
        kill(pid, signal.SIGKILL)
        eventually(lambda: ask(site)['pid'] != pid)
        fault.unlink()
        (new,) = site.pids()
        assert new != pid
        assert site.control('timeline')['processes']
        assert site.stop()[0] == 0, site.report()
        log = site.err.text
        for name in ('describe', 'timelines', '_described', 'forget', '_is_reaped'):
            assert log.count(f'{name} is broken') == 1, site.report()
        assert log.count('has_ended is broken') == 2, site.report()
        assert site.has_left_nothing()


@pytest.fixture
def logged(monkeypatch):
    monkeypatch.setattr(faults, 'REST', 0)
    return []


class FakeBus(SimpleNamespace):
    """A bus of this process, or of another one; ``later`` has the timers of its loop."""

    def __init__(self, log, pid=None):
        super().__init__(log=log, pid=os.getpid() if pid is None else pid, later=[])
        self.events = SimpleNamespace(
            call_later=lambda *timer: self.later.append(timer)
        )


def note(subject, error, function=print):
    try:
        raise error
    except BaseException as caught:
        subject.note(caught, function)


def test_each_kind_is_logged_once_a_minute(logged, monkeypatch):
    def log(line, level, traceback):
        logged.append((line, level, type(sys.exc_info()[1])))

    now = [1000.0]
    monkeypatch.setattr(faults.time, 'monotonic', lambda: now[0])
    subject = Faults(FakeBus(log))
    for _ in range(3):
        note(subject, KeyError('a'))
        note(subject, MemoryError())
        note(subject, KeyError('a'), len)
    line = 'The supervisor continues, although {} has failed'
    assert logged == [
        (line.format('print'), 40, KeyError),
        (line.format('print'), 40, MemoryError),
        (line.format('len'), 40, KeyError),
    ]
    assert len(subject._bus.later) == 1  # it looks once whether a worker is missing
    now[0] += faults.MINUTE
    note(subject, MemoryError())
    assert len(logged) == 4


def test_a_log_that_fails_is_no_failure_of_the_loop(logged):
    def log(*args, **kwargs):
        logged.append(args)
        raise MemoryError

    note(Faults(FakeBus(log)), KeyError('a'))
    assert len(logged) == 1


def test_a_loop_that_fails_goes_on_but_not_for_ever(logged):
    errors = [MemoryError()]

    def block(states):
        if errors:
            raise errors.pop()

    bus = FakeBus(lambda line, *_, **__: logged.append(line))
    bus.block, bus.exit_code = block, 0
    Faults(bus).block()
    assert bus.exit_code == 0 and len(logged) == 1
    errors += [ValueError()] * faults.TRIES
    Faults(bus).block()
    assert bus.exit_code == 1 and 'too often' in logged[-1]


def test_the_look_is_tried_again_if_it_cannot_be_had(logged):
    bus = FakeBus(print)
    tries = iter([MemoryError, MemoryError])
    put = bus.later.append

    def call_later(*timer):
        for error in tries:
            raise error
        put(timer)

    bus.events.call_later = call_later
    note(Faults(bus), KeyError('a'))
    assert len(bus.later) == 1


def test_a_worker_whose_timer_is_lost_is_started_by_the_look():
    role = Role(WORKER, 1, 1)
    bus, spawned = Bus(), []
    bus.subscribe('start', lambda: None)
    bus.start()
    supervisor = SimpleNamespace(
        bus=bus,
        events=Events(),
        count=1,
        current={},
        generation=1,
        is_renewing=False,
        roles=lambda generation: [role],
        strategy=SimpleNamespace(is_prepared=lambda role: True),
        spawn=spawned.append,
        late=[],
    )
    replacing = Replacing(supervisor)
    replacing.catch_up()
    replacing.fill_up()
    assert spawned == []  # its turn comes
    supervisor.events._timers.clear()  # its function was called, and has failed
    replacing.fill_up()
    assert [one.number for one in spawned] == [1]
    supervisor.events.close()
    bus.exit()


def child(**kwargs):
    return SimpleNamespace(
        **{'ended': False, 'nonsense': None, 'pid': os.getpid(), 'guard': 0, **kwargs}
    )


def test_what_a_failure_has_hidden_of_a_process_is_dealt_with():
    told, ended, gone = [], [], 2**22 + 1  # no process has this number
    events = Events()
    children = Children(events, {}, ended.append, lambda *what: told.append(what))
    children._has_ended = lambda *what: told.append(what)
    error = MemoryError()
    lost, half, wrong = child(pid=gone), child(ended=True), child(nonsense=error)
    children.alive += [child(), lost, half, wrong, child(pid=gone, guard=1)]
    children.note_lost()
    assert told == [(lost, None), (wrong, error)] and ended == [half]
    assert half not in children.alive and wrong.nonsense is None
    events.close()


def test_a_process_whose_end_nobody_has_waited_for_is_reaped():
    told, events = [], Events()
    children = Children(events, {}, told.append, lambda *what: told.append(what))
    children._has_ended = lambda *what: told.append(what)
    pid = os.fork()
    if not pid:
        os._exit(3)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is a zombie
    ended = child(pid=pid, pidfd=-1, template=None)
    children.alive += [ended]
    children.note_lost()
    assert told[0] == (ended, 3)
    events.close()


def test_a_forked_child_does_not_run_the_loop_of_its_parent(logged):
    with pytest.raises(KeyError):
        note(Faults(FakeBus(print, os.getppid())), KeyError('a'))

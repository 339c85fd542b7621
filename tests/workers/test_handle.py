"""The stages of a process, as its supervisor sees it: each legal and each illegal move."""

import socket

import pytest

from paste_wspbus.role import PACKAGES, SITE, Role
from paste_wspbus.workers.handle import TRANSITIONS, IllegalMove, Stage, WorkerHandle

#: One way to each stage.
WAYS = {
    Stage.SPARE: [Stage.SPARE],
    Stage.COMPOSING: [],
    Stage.COMPOSED: [Stage.COMPOSED],
    Stage.READY: [Stage.READY],
    Stage.LEAVING: [Stage.LEAVING],
    Stage.ENDED: [Stage.ENDED],
}

MOVES = [(old, new) for old in Stage for new in Stage]


@pytest.fixture
def connection():
    mine, its = socket.socketpair()
    its.settimeout(5)
    with mine, its:
        yield mine, its


@pytest.fixture
def make(connection):
    def make(stage=Stage.COMPOSING, **role):
        worker = WorkerHandle(Role(**role), connection[0], None, 60)
        for step in WAYS[stage]:
            worker.move(step)
        return worker

    return make


def test_each_stage_has_its_moves():
    assert set(TRANSITIONS) == set(Stage)


@pytest.mark.parametrize(
    'old, new', [move for move in MOVES if move[1] in TRANSITIONS[move[0]]]
)
def test_a_legal_move_changes_the_stage(make, old, new):
    worker = make(old)
    worker.move(new)
    assert worker.stage is new


@pytest.mark.parametrize(
    'old, new', [move for move in MOVES if move[1] not in TRANSITIONS[move[0]]]
)
def test_an_illegal_move_raises_and_names_both(make, old, new):
    worker = make(old, number=2)
    with pytest.raises(IllegalMove, match=f'Worker 2 .*{old.name}.*{new.name}') as info:
        worker.move(new)
    assert (info.value.old, info.value.new) == (old, new)
    assert worker.stage is old


def test_nothing_follows_the_end():
    assert TRANSITIONS[Stage.ENDED] == frozenset()


# -- what it says ---------------------------------------------------------------


def test_one_that_waits_has_composed(make):
    worker = make(kind=SITE, hold=True)
    worker.waits()
    assert worker.stage is Stage.COMPOSED
    assert worker.is_composed and worker.is_held and not worker.is_ready


def test_one_that_waits_need_not_be_held(make):
    worker = make(kind=SITE)
    worker.waits()
    assert worker.is_composed and not worker.is_held


def test_a_spare_waits_before_it_composes(make):
    worker = make(spare=True, hold=True)
    assert not worker.is_held  # until it says so, it may be late
    worker.waits()
    assert worker.stage is Stage.SPARE
    assert worker.is_held and not worker.is_composed


def test_a_spare_that_goes_composes(make):
    worker = make(Stage.SPARE, spare=True, hold=True)
    worker.goes(60)
    assert worker.stage is Stage.COMPOSING
    assert not (worker.role.spare or worker.role.hold or worker.is_held)


def test_a_spare_may_go_before_it_has_said_that_it_waits(make):
    worker = make(spare=True, hold=True)
    worker.goes(60)
    worker.waits()
    assert not worker.is_held


def test_one_that_goes_has_all_its_time_again(make):
    worker = make(kind=SITE, hold=True)
    worker.waits()
    before = worker.until
    worker.goes(600)
    assert worker.until > before
    assert worker.stage is Stage.COMPOSED and not worker.is_held


@pytest.mark.parametrize('stage', [Stage.COMPOSING, Stage.COMPOSED, Stage.SPARE])
def test_it_never_was_ready_until_it_says_so(make, stage):
    worker = make(stage)
    assert not worker.was_ready and not worker.is_ready and worker.ready_for is None


@pytest.mark.parametrize('stage', [Stage.COMPOSING, Stage.COMPOSED, Stage.READY])
def test_it_is_ready_when_it_says_so(make, stage):
    worker = make(stage)
    worker.is_now_ready(['a line'])
    assert worker.stage is Stage.READY
    assert worker.is_ready and worker.lines == ['a line'] and worker.ready_for >= 0


def test_a_spare_that_was_not_told_to_go_cannot_be_ready(make):
    with pytest.raises(IllegalMove, match=r'SPARE.*READY'):
        make(Stage.SPARE).is_now_ready([])


def test_one_that_was_asked_to_leave_may_become_ready_and_leaves_all_the_same(make):
    worker = make(Stage.LEAVING)
    worker.is_now_ready([])
    assert worker.stage is Stage.LEAVING
    assert worker.is_ready and worker.leaving


def test_that_it_waits_is_no_news_of_one_that_leaves_or_serves(make):
    for stage in (Stage.LEAVING, Stage.READY, Stage.ENDED):
        worker = make(stage)
        worker.waits()
        assert worker.stage is stage


def test_it_can_be_asked_to_leave_twice(make):
    worker = make(Stage.READY)
    worker.is_asked_to_leave()
    worker.is_asked_to_leave()
    assert worker.stage is Stage.LEAVING


def test_one_that_has_ended_cannot_be_asked_to_leave(make):
    with pytest.raises(IllegalMove, match=r'ENDED.*LEAVING'):
        make(Stage.ENDED).is_asked_to_leave()


@pytest.mark.parametrize(
    'stage', [stage for stage in Stage if stage is not Stage.ENDED]
)
def test_it_may_end_at_any_time(make, stage):
    worker = make(stage)
    worker.has_ended(3)
    assert worker.ended and worker.code == 3
    assert worker.ended_as is stage
    assert worker.leaving == (stage is Stage.LEAVING)


def test_it_ends_once(make):
    worker = make(Stage.ENDED)
    with pytest.raises(IllegalMove):
        worker.has_ended(0)


def test_one_that_was_ready_was_so_when_it_has_ended(make):
    worker = make()
    worker.is_now_ready([])
    worker.has_ended(-9)
    assert worker.was_ready and not worker.is_ready and worker.ready_for >= 0


def test_what_it_said_of_its_end_holds_where_nobody_knows(make):
    worker = make()
    worker.code = 7
    assert worker.is_about_to_end and not worker.ended
    worker.has_ended(None)
    assert worker.code == 7


@pytest.mark.parametrize(
    'stage', [Stage.COMPOSING, Stage.COMPOSED, Stage.READY, Stage.LEAVING]
)
def test_one_that_replaces_itself_begins_anew(make, stage):
    worker = make(stage)
    worker.ready_since = 0.0
    worker.begins_anew(60)
    assert worker.stage is Stage.COMPOSING
    assert not worker.was_ready and not worker.leaving


@pytest.mark.parametrize('stage', [Stage.SPARE, Stage.LEAVING])
def test_that_it_was_killed_or_is_silent_has_nothing_to_do_with_its_stage(make, stage):
    worker = make(stage)
    worker.killed = worker.silent = True
    assert worker.stage is stage


# -- what `status` shows --------------------------------------------------------


@pytest.mark.parametrize(
    'stage, state',
    [
        (Stage.COMPOSING, 'starting'),
        (Stage.COMPOSED, 'starting'),
        (Stage.READY, 'ready'),
        (Stage.LEAVING, 'draining'),
        (Stage.ENDED, 'crashed'),
    ],
)
def test_status_has_a_word_for_each_stage(make, stage, state):
    assert make(stage, number=2).describe()['state'] == state


@pytest.mark.parametrize('stage', [Stage.COMPOSING, Stage.SPARE, Stage.LEAVING])
def test_status_calls_a_spare_a_spare(make, stage):
    assert make(stage, spare=True).describe()['state'] == 'spare'


def test_a_spare_that_has_ended_has_crashed(make):
    assert make(Stage.ENDED, spare=True).describe()['state'] == 'crashed'


def test_those_that_serve_nobody_have_no_requests(make):
    assert make(Stage.READY, kind=PACKAGES).describe()['requests'] == []
    assert make(Stage.READY).describe()['requests'] is None


# -- what it is told --------------------------------------------------------------


def test_an_order_is_a_line(make, connection):
    make().tell('make_way')
    assert connection[1].recv(100) == b'make_way\n'


def test_a_descriptor_comes_along(make, connection):
    worker = make()
    worker.tell('fork', 1, Role(number=2), fds=[connection[0].fileno()])
    line, fds, _, _ = socket.recv_fds(connection[1], 1000, 1)
    socket.close(fds[0])
    assert line.startswith(b'fork 1 ["worker", 2,')


def test_nobody_is_told_where_nobody_listens(make, connection):
    worker = make()
    connection[1].close()
    worker.tell('go')


def test_a_process_that_is_unknown_or_gone_gets_no_signal(make, monkeypatch):
    sent = []
    monkeypatch.setattr('os.kill', lambda *arguments: sent.append(arguments))
    unknown, silent, gone, there = (make() for _ in range(4))
    for worker in (silent, gone, there):
        worker.is_process(4711)
    silent.silent, silent.template = True, there  # the system has no such process
    gone.has_ended(0)
    for worker in (unknown, silent, gone):
        worker.signal(9)
    assert sent == []
    there.signal(9)
    there.silent = True  # the supervisor has not reaped it
    there.signal(9)
    assert sent == [(4711, 9), (4711, 9)]

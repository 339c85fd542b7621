"""When a request is slow, when it is overdue, and when to look again."""

import pytest

from paste_wspbus.ini.limits import limits_of
from paste_wspbus.ini.units import ByPath
from paste_wspbus.requests.marks import Limits, Marks
from paste_wspbus.requests.scoreboard import Entry, Phase
from paste_wspbus.requests.stacks import Frame


def entry(number=1, since=100.0, phase=Phase.COMPUTING, path='/'):
    return Entry(number, since, 1, 1, phase, 'GET', 'f00-1', path)


def marks(slow=10.0, deadline=None, **paths):
    return Marks(Limits(ByPath(slow, {}), ByPath(deadline, paths.get('paths', {}))))


def due(marks, entries, now):
    return [(one.entry.number, one.mark) for one in marks.look(entries, now)]


def test_a_request_is_due_at_its_marks_and_the_slow_one_doubles():
    watch, one = marks(10.0, 30.0), entry()
    told = {}
    for now in range(100, 200):
        if found := due(watch, [one], float(now)):
            told[now - 100] = [mark for _, mark in found]
    assert told == {
        10: ['slow'],
        20: ['slow'],
        30: ['deadline'],
        40: ['slow'],
        80: ['slow'],
    }


def test_a_look_that_comes_late_finds_a_mark_once():
    watch = marks(10.0)
    assert due(watch, [entry()], 185.0) == [(1, 'slow')]
    assert due(watch, [entry()], 190.0) == []
    assert due(watch, [entry()], 260.0) == [(1, 'slow')]


@pytest.mark.parametrize('phase', [Phase.STREAM, Phase.SENDING])
def test_what_is_on_its_way_to_the_client_does_not_count(phase):
    watch = marks(10.0, 20.0)
    assert due(watch, [entry(phase=phase)], 1000.0) == []


def test_the_next_look_is_in_time_for_each_request():
    watch = marks(10.0, 12.0)
    assert watch.next_look([], 100.0) == 10.0
    entries = [entry(1, 97.0), entry(2, 99.0)]
    watch.look(entries, 100.0)
    assert watch.next_look(entries, 100.0) == 7.0
    assert due(watch, entries, 107.0) == [(1, 'slow')]
    assert watch.next_look(entries, 107.0) == 2.0
    assert due(watch, entries, 109.0) == [(1, 'deadline'), (2, 'slow')]
    assert watch.next_look([], 109.0) == 10.0


def test_no_limits_ask_for_no_look():
    assert marks(None).next_look([], 100.0) is None
    assert marks(0.0, 0.0).next_look([], 100.0) is None


def test_the_longest_path_counts():
    watch = marks(None, 60.0, paths={'/export': 600.0, '/export/now': 0.0})
    paths = ['/', '/exports', '/export/a', '/export/now/x', '/caf\xc3\xa9']
    entries = [entry(number, path=path) for number, path in enumerate(paths)]
    assert [number for number, _ in due(watch, entries, 161.0)] == [0, 1, 4]
    assert [number for number, _ in due(watch, entries, 701.0)] == [2]
    assert watch.limits.shortest == 60.0


def test_a_path_is_decoded():
    watch = marks(None, 60.0, paths={'/caf\xe9': 600.0})
    assert due(watch, [entry(path='/caf\xc3\xa9/menu')], 161.0) == []


def test_it_is_news_where_a_request_is_only_if_it_has_moved():
    watch, here, there = marks(), Frame('a', 1, 'f'), Frame('a', 2, 'f')
    watch.look([entry()], 110.0)
    places = [here, here, there, there, None]
    assert [watch.is_news(1, place) for place in places] == [
        *(True, False, True, False, True)
    ]
    assert not watch.is_news(2, here)  # it has ended


def test_a_deadline_can_be_due_again():
    watch = marks(None, 10.0)
    assert due(watch, [entry()], 110.0) == [(1, 'deadline')]
    watch.again(1, 60.0)
    watch.again(2, 60.0)
    assert due(watch, [entry()], 159.0) == []
    assert watch.next_look([entry()], 159.0) == 1.0
    assert due(watch, [entry()], 160.0) == [(1, 'deadline')]


@pytest.mark.parametrize(
    'slow, has_workers, expected',
    [
        (None, True, 10.0),
        (None, False, None),
        (ByPath(None, {'/x': 1.0}), True, 10.0),
        (ByPath(None, {'/x': 1.0}), False, None),
        (ByPath(0.0, {}), True, 0.0),
        (ByPath(3.0, {}), False, 3.0),
    ],
)
def test_without_the_key_only_workers_are_slow_after_a_while(
    slow, has_workers, expected
):
    limits = limits_of({'slow_request': slow}, has_workers=has_workers)
    assert limits.slow.of('/') == expected
    assert limits.slow.of('/x') == (1.0 if slow and slow.paths else expected)
    assert limits.deadline.of('/') is None

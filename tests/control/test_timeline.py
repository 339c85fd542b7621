"""The timeline as data: what a process says of its calls, and what a command reads of it."""

import pytest

from paste_wspbus.bus import Bus
from paste_wspbus.control.timeline import (
    Row,
    describe_calls,
    lives,
    own_seconds,
)
from paste_wspbus.wire.checks import MAX_CALLS


def row(name, since, seconds, thread='MainThread', channel='start'):
    return Row(channel, name, since, seconds, 'ok', thread)


def test_the_time_of_a_call_inside_another_one_counts_once():
    rows = [
        row('inner', 1.0, 2.0),
        row('outer', 0.0, 4.0),
        row('innermost', 1.5, 1.0),
        row('beside', 1.0, 1.0, thread='another'),
        row('next', 4.0, 3.0),
    ]
    own = {one.name: seconds for one, seconds in own_seconds(rows)}
    assert own == {
        'outer': 2.0,
        'inner': 1.0,
        'innermost': 1.0,
        'beside': 1.0,
        'next': 3.0,
    }


def test_a_call_that_rounding_lets_end_later_is_still_inside():
    rows = [row('outer', 0.0, 1.0), row('inner', 0.5, 0.500001)]
    assert own_seconds(rows)[0][1] == pytest.approx(0.5, abs=1e-5)


def test_of_many_calls_the_longest_are_described_and_the_others_are_counted(bus):
    for number in range(10_000):
        bus.calls.record('start', f'lifespan {number}', float(number), number / 1e6)
    said = describe_calls(bus)
    assert len(said['calls']) == MAX_CALLS
    assert said['left_out'] == 10_000 - MAX_CALLS
    names = [call[1] for call in said['calls']]
    assert names == [f'lifespan {n}' for n in range(10_000 - MAX_CALLS, 10_000)]


def test_the_times_are_of_a_clock_that_is_not_set(bus, monkeypatch):
    """Not even while a listener runs."""
    bus.subscribe('start', lambda: monkeypatch.setattr('time.time', lambda: 0.0))
    bus.start()
    (life,) = lives({'processes': [describe_calls(bus)]})
    (call,) = bus.timeline
    assert life.rows[0].since == pytest.approx(call.since, abs=1e-5)
    assert 0 <= life.rows[0].seconds < 60


def test_names_have_no_control_characters(bus):
    bus.calls.record('start', 'evil\x1b[2J\n<b>', 0.0, 1.0)
    (life,) = lives({'processes': [describe_calls(bus)]})
    assert life.rows[0].name == 'evil\\x1b[2J\\n<b>'


@pytest.mark.parametrize(
    'said',
    [
        {},
        {'processes': 3},
        {'processes': [3, None]},
        {'processes': [{'calls': 3, 'left_out': 'many', 'began': True}]},
        {'processes': [{'calls': [3, [], ['start', 'x', 'soon', 1, 'ok', 'main']]}]},
        {'processes': [{'calls': [['start', 'x', 1e99, 1, 'ok', 'main']]}]},
    ],
)
def test_an_answer_of_another_kind_has_no_rows(said):
    assert [one.rows for one in lives(said)] in ([], [[]])


def test_a_bus_of_another_package_has_no_calls():
    class Other:
        pass

    assert describe_calls(Other()) == {'calls': [], 'left_out': 0}
    assert describe_calls(Bus()) == {'calls': [], 'left_out': 0}

"""The last quarter of an hour: what is added, what is estimated, what a gap is."""

import pytest

from paste_wspbus.ops import history as module
from paste_wspbus.ops.history import EVERY, POINTS, History, added, within
from paste_wspbus.ops.snapshot import Numbers
from paste_wspbus.requests.ledger import BUCKETS, Ledger


class Clock:
    """A clock that the test moves."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    time = monotonic


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, 'time', clock)
    return clock


def counted(*requests):
    """Return a ledger that has counted requests: statuses, and seconds."""
    ledger = Ledger()
    for status, seconds in requests:
        ledger.count('GET', status, '/', seconds)
    ledger.note_start('a component', 3.0)  # that is no request
    return ledger


def test_a_point_has_the_requests_since_the_reading_before(clock):
    history, ledger = History(), counted(('200', 0.2))
    numbers = Numbers(ledger.read)
    history.look(lambda: numbers)
    assert not history.points  # nobody knows in which time the first ones were
    for status in ('200', '200', '304', '500'):
        ledger.count('POST', status, '/other', 0.002)
    clock.now += EVERY / 2
    history.look(lambda: numbers)
    assert not history.points
    clock.now += EVERY / 2
    history.look(lambda: numbers)
    [point] = history.points
    assert (point.seconds, point.rate, point.failed) == (EVERY, 4 / EVERY, 1 / EVERY)
    assert 0.001 < point.half < point.most < 0.005
    clock.now += EVERY
    history.look(lambda: numbers)
    assert history.points[-1][2:] == (0, 0, None, None)
    assert history.count == 2


def test_a_site_that_counts_anew_makes_a_gap_and_no_negative_rate(clock):
    history = History()
    ledgers = [counted(('200', 1), ('200', 1)), None, counted(('200', 1)), counted()]
    for ledger in ledgers:
        numbers = None if ledger is None else Numbers(ledger.read)
        history.look(lambda numbers=numbers: numbers)
        clock.now += EVERY
    assert not history.points


def test_a_broken_file_makes_a_gap(clock):
    def broken():
        raise OSError(5, 'Input/output error')

    history, ledger = History(), counted()
    for read in (ledger.read, broken, ledger.read):
        history.look(lambda read=read: Numbers(read))
        clock.now += EVERY
    assert not history.points


def test_a_slow_reading_is_followed_by_a_longer_pause(clock):
    def slow():
        clock.now += 0.2
        return {}

    history, began = History(), clock.now
    history.look(lambda: Numbers(slow))
    assert history.due == pytest.approx(began + 0.2 * module.TIMES)


def test_the_history_has_a_limit(clock):
    history, numbers = History(), Numbers(counted().read)
    for _ in range(POINTS + 10):
        history.look(lambda: numbers)
        clock.now += EVERY
    assert len(history.points) == POINTS
    assert history.points[-1].time - history.points[0].time == (POINTS - 1) * EVERY


def test_series_are_added_without_the_starts_of_components():
    buckets, failed = added(counted(('200', 0.2), ('500', 0.2), ('503', 99)).read())
    assert (sum(buckets), buckets[-1], failed) == (3, 1, 2)


@pytest.mark.parametrize(
    'in_buckets, share, seconds',
    [
        ({}, 0.5, None),
        ({0: 10}, 0.5, 0.0005),
        ({0: 50, 5: 50}, 0.5, 0.001),
        ({0: 50, 5: 50}, 0.75, 0.075),
        ({14: 5}, 0.5, 60.0),
    ],
)
def test_a_share_is_estimated_from_the_buckets(in_buckets, share, seconds):
    buckets = [in_buckets.get(index, 0) for index in range(len(BUCKETS) + 1)]
    assert within(buckets, share) == (seconds and pytest.approx(seconds))

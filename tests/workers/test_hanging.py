"""Which workers hang: the decision, with clocks and processes that exist only here."""

import pytest

from paste_wspbus.workers.hanging import Hanging, Machine, Seen, Verdict

SHOW, EXCUSE, WAIT, REPLACE = Verdict


class Site:
    """Workers that answer or not, a machine, and what was decided: [(second, worker, …)]."""

    def __init__(self, hung_after=30.0, workers='ab'):
        self.hanging = Hanging(hung_after)
        self.now, self.boottime, self.throttled = 1000.0, 5000.0, 7
        self.seen = dict.fromkeys(workers, Seen())
        self.verdicts, self.may_replace = [], True
        self.began = self.now
        self.look()

    def hang(self, *workers, **more):
        for worker in workers:
            self.seen[worker] = Seen(self.now, **more)

    def answer(self, worker, **more):
        self.seen[worker] = Seen(**more)

    def look(self):
        machine = Machine(self.now, self.boottime, self.throttled)
        for worker, verdict in self.hanging.look(machine, self.seen, self.may_replace):
            self.verdicts.append((self.now - self.began, worker, verdict))

    def pass_time(self, seconds, step=None, slept=0.0, throttled=0):
        """Look again and again; each ``step`` is as long as a look takes, or longer."""
        step = step or self.hanging.every
        until = self.now + seconds
        while self.now < until:
            self.now += step
            self.boottime += step + slept
            self.throttled += throttled
            self.look()

    def of(self, verdict):
        return [
            (when, worker) for when, worker, what in self.verdicts if what is verdict
        ]


def test_workers_that_answer_do_not_hang():
    site = Site()
    for _ in range(20):
        site.hang('a', 'b')
        site.pass_time(5)
        site.answer('a')
        site.answer('b')
        site.pass_time(5)
    assert site.verdicts == []


def test_the_stacks_come_at_half_of_the_time_and_once_and_then_the_end():
    site = Site()
    site.hang('a')
    site.pass_time(29)
    assert site.of(SHOW) == [(15.0, 'a')]
    assert site.verdicts == [(15.0, 'a', SHOW), (30.0, 'a', REPLACE)]


def test_the_time_counts_from_the_question_not_from_a_look():
    site = Site()
    site.now += 4
    site.hang('a')
    site.now -= 4
    site.pass_time(30)
    assert site.of(REPLACE) == []
    assert site.hanging.silence('a') == 26
    site.pass_time(5)
    assert site.of(REPLACE) == [(35.0, 'a')]


def test_an_answer_begins_the_count_anew():
    site = Site()
    site.hang('a')
    site.pass_time(25)
    site.answer('a')
    site.look()
    site.hang('a')
    site.pass_time(25)
    assert site.of(REPLACE) == []
    assert len(site.of(SHOW)) == 2


def test_an_answer_between_two_looks_begins_the_count_anew():
    site = Site()
    site.hang('a')
    site.pass_time(25)
    site.hang('a')  # it has answered, and was asked again
    site.pass_time(25)
    assert site.of(REPLACE) == []


@pytest.mark.parametrize('hung_after, every', [(30, 5), (3600, 5), (6, 1), (0.1, 0.1)])
def test_the_looks_are_as_often_as_the_time_asks_for(hung_after, every):
    assert Hanging(hung_after).every == pytest.approx(every)


@pytest.mark.parametrize(
    'more, reason',
    [
        ({'is_stopped': True}, 'SIGCONT'),
        ({'tracer': 4711}, 'process 4711 traces it'),
        ({'tracer': 4711, 'is_stopped': True}, 'process 4711 traces it'),
        ({'debugger': 'pydevd'}, 'pydevd'),
    ],
)
def test_who_is_stopped_traced_or_debugged_does_not_hang(more, reason):
    site = Site()
    site.hang('a', **more)
    site.pass_time(3600)
    assert site.verdicts == [(15.0, 'a', EXCUSE)]  # once
    assert reason in site.seen['a'].excuse


def test_who_was_stopped_has_the_whole_time_when_it_continues():
    site = Site()
    site.hang('a', is_stopped=True)
    since = site.seen['a'].asked_since
    site.pass_time(100)
    site.seen['a'] = Seen(since)
    site.pass_time(25)
    assert site.of(REPLACE) == []
    site.pass_time(5)
    assert site.of(REPLACE) == [(130.0, 'a')]


def test_the_time_in_which_the_machine_slept_does_not_count():
    site = Site()
    site.hang('a')
    site.pass_time(25)
    site.pass_time(5, slept=8 * 3600)
    assert site.of(REPLACE) == []
    site.pass_time(5)
    assert site.of(REPLACE) == [(35.0, 'a')]


def test_clocks_that_are_read_one_after_the_other_are_no_sleep():
    site = Site()
    site.hang('a')
    site.pass_time(30, slept=0.1)
    assert site.of(REPLACE) == [(30.0, 'a')]


def test_the_time_in_which_the_supervisor_did_not_run_does_not_count():
    site = Site()
    site.hang('a')
    site.pass_time(600, step=600)
    assert site.verdicts == []
    site.pass_time(30)
    assert site.of(REPLACE) == [(630.0, 'a')]


def test_a_group_that_is_throttled_has_four_times_the_time():
    site = Site()
    site.hang('a')
    site.pass_time(100, throttled=3)
    assert site.of(REPLACE) == []
    site.pass_time(20, throttled=3)
    assert site.of(REPLACE) == [(120.0, 'a')]


def test_a_system_that_says_nothing_of_sleep_and_groups_is_no_excuse():
    hanging = Hanging(30)
    verdicts = []
    for second in range(0, 31, 5):
        verdicts += hanging.look(Machine(second), {'a': Seen(0.0), 'b': Seen()}, True)
    assert verdicts == [('a', SHOW), ('a', REPLACE)]


def test_if_all_hang_it_is_the_machine_and_there_is_one_more_wait():
    site = Site()
    site.hang('a', 'b')
    site.pass_time(30)
    assert site.of(WAIT) == [(30.0, 'a')]
    assert site.of(REPLACE) == []
    site.pass_time(25)
    assert site.of(REPLACE) == []
    site.pass_time(5)
    assert site.of(REPLACE)[0][0] == 60.0
    assert len(site.of(WAIT)) == 1


def test_if_all_hang_again_later_there_is_another_wait():
    site = Site()
    for number in (1, 2):
        site.hang('a', 'b')
        site.pass_time(35)
        assert len(site.of(WAIT)) == number
        site.answer('a')
        site.answer('b')
        site.pass_time(5)
    assert site.of(REPLACE) == []


def test_who_began_to_hang_later_belongs_to_all():
    site = Site()
    site.hang('a')
    site.pass_time(10)
    site.hang('b')
    site.pass_time(20)
    assert (site.of(WAIT), site.of(REPLACE)) == ([(30.0, 'a')], [])


def test_the_only_worker_of_a_site_has_no_more_time_than_others():
    site = Site(workers='a')
    site.hang('a')
    site.pass_time(30)
    assert site.of(REPLACE) == [(30.0, 'a')]


def test_one_at_a_time_is_replaced_the_longest_first():
    site = Site(workers='abc')
    site.hang('b')
    site.pass_time(5)
    site.hang('a')
    site.pass_time(25)
    assert site.of(REPLACE) == [(30.0, 'b')]
    site.may_replace = False  # until the other one is there
    site.pass_time(30)
    assert len(site.of(REPLACE)) == 1
    del site.seen['b']
    site.may_replace = True
    site.look()
    assert site.of(REPLACE)[1:] == [(60.0, 'a')]


def test_after_the_wait_for_all_the_longest_comes_first_too():
    site = Site(workers='abc')
    site.hang('b', 'c')
    site.pass_time(10)
    site.hang('a')
    site.pass_time(20)
    assert site.of(WAIT)[0][0] == 30.0
    site.pass_time(30)
    assert site.of(REPLACE) == [(60.0, 'b')]

"""What `status` prints of an answer: each part of it, 80 columns, nonsense."""

import itertools

import pytest

from paste_wspbus.command.status_text import (
    BAD,
    WIDTH,
    age_text,
    cut,
    describe,
    short_age,
    size_text,
)
from tests.kit.stand_in import worker

#: What a site of this version says of one process.
LOAD = {'served': 1234, 'in_flight': 3, 'busy': 3, 'server_threads': 4, 'queued': 1}
RSS = 45 << 20


def request(path='/report', age=3.21, **more):
    return {'method': 'GET', 'path': path, 'age': age, 'thread': 'waitress-0', **more}


def full(number, **more):
    return worker(number, **{'generation': 3, **LOAD, 'rss': RSS, **more})


def answer(**more):
    return {'pid': 4711, 'state': 'STARTED', 'age': 7300, 'generation': 3, **more}


def text(**more):
    return '\n'.join(line.text for line in describe(answer(**more), None))


def style_of(start, **more):
    (line,) = (
        one for one in describe(answer(**more), None) if one.text.startswith(start)
    )
    return line.style


# -- the whole ------------------------------------------------------------------------


def test_one_process_shows_its_urls_and_requests():
    assert text(
        **LOAD, rss=RSS, urls=['http://127.0.0.1:80'], requests=[request()]
    ) == (
        'The site is running (process 4711), for 2 hours.\n'
        'Serving on http://127.0.0.1:80\n'
        '\n'
        'SERVED  IN FLIGHT  BUSY/THREADS  QUEUED  RSS\n'
        '1234    3          3/4           1       45M\n'
        '\n'
        '3 requests in flight:\n'
        '  3.2 s  waitress-0  GET /report'
    )


def test_requests_have_their_ids_where_there_is_room():
    requests = [request(id='f00-1'), request('/x', id=None)]
    assert text(**LOAD, requests=requests).endswith(
        '  3.2 s  waitress-0  GET /report  f00-1\n  3.2 s  waitress-0  GET /x'
    )
    long = request('/' + 'x' * 50, id='f00-1')
    assert text(**LOAD, requests=[long]).endswith('GET /' + 'x' * 50)


def test_each_worker_has_a_row():
    draining = full(2, pid=4712, state='draining', served=None, in_flight=None)
    assert text(
        workers=[full(1), {**draining, 'generation': 2}],
        requests=[request(worker='worker 1')],
        serving=2,
        wanted=2,
    ) == (
        'The site is running (process 4711), for 2 hours: generation 3, 2 workers.\n'
        '\n'
        'WORKER   PROCESS STATE    GEN AGE SERVED IN FLIGHT BUSY/THREADS QUEUED RSS\n'
        'worker 1 4710    ready    3   2h  1234   3         3/4          1      45M\n'
        'worker 2 4712    draining 2   2h  -      -         3/4          1      45M\n'
        '\n'
        '1 request in flight:\n'
        '  3.2 s  worker 1  waitress-0  GET /report'
    )


def test_what_waits_for_all_workers_has_a_line():
    line, both = 'Connections that no worker has accepted yet: 5.', [full(1), full(2)]
    assert line in text(workers=both, queued=7).splitlines()
    assert 'accepted' not in text(workers=both, queued=2)
    assert 'accepted' not in text(**LOAD)


def test_the_generation_is_a_column_only_where_there_are_several():
    assert 'GEN' not in text(workers=[full(1), full(2)])


def test_those_that_serve_are_counted():
    told = text(workers=[full(1, state='crashed'), full(2)], serving=1, wanted=2)
    assert told.splitlines()[1] == '1 of 2 workers serve.'


def test_in_a_crash_loop_nobody_serves():
    last = {'age': 3.0, 'how': 'signal SIGSEGV', 'requests': []}
    crashed = full(1, state='crashed', requests=[], restarts=13, last_crash=last)
    shown = {
        'workers': [crashed],
        'serving': 0,
        'wanted': 1,
        'crash_loop': 'crash loop: 13 crashes in the last minute',
    }
    told = text(**shown)
    assert '\n0 of 1 worker serves.\n' in told
    assert 'WORKER    RESTARTS  LAST CRASH\n' in told
    assert 'worker 1  13        3 seconds ago: signal SIGSEGV\n' in told
    assert told.endswith('\nCrash loop: 13 crashes in the last minute.')
    assert style_of('0 of', **shown) == BAD
    assert style_of('Crash loop', **shown) == BAD


def test_one_process_that_is_watched_is_no_worker_but_may_not_serve():
    one = full(None, name='site')
    assert 'worker' not in text(workers=[one], serving=1, wanted=1).splitlines()[0]
    told = text(workers=[{**one, 'state': 'starting'}], serving=0, wanted=1)
    assert '0 of 1 worker serves.' in told


def test_a_crash_names_its_requests_and_the_killer():
    last = {
        'age': 130.0,
        'how': 'signal SIGKILL',
        'out_of_memory': True,
        'rss': 300 << 20,
        'rss_age': 2.0,
        'signal': 'SIGKILL',
        'requests': [request(), request('/x')],
    }
    told = text(workers=[full(1, restarts=1, last_crash=last)])
    assert (
        'worker 1  1         2 minutes ago: signal SIGKILL with 300M, perhaps'
    ) in told


def test_why_a_worker_was_recycled_is_said():
    last = {'age': 130.0, 'pid': 4711, 'why': 'uses 301M of memory (max_memory = 300M)'}
    told = text(workers=[full(1, recycled=1, last_recycling=last)])
    line = (
        'Worker 1 was recycled once, 2 minutes ago: it uses 301M of memory (max_memory'
    )
    assert line in ' '.join(told.split())
    last['why'] = 'has served 20 requests'
    told = text(workers=[full(2, recycled=3, last_recycling=last)])
    line = 'Worker 2 was recycled 3 times, the last one 2 minutes ago: it served 20 requests.'
    assert line in ' '.join(told.split())


def test_why_a_worker_was_replaced_is_said():
    last = {'age': 10.0, 'pid': 1, 'why': 'hang', 'request': 'GET /g', 'report': None}
    told = text(workers=[full(1, hung=1, last_replacement=last)])
    line = 'Worker 1 was replaced 10 seconds ago: it hung (GET /g). See the log.'
    assert line in ' '.join(told.split()) and 'times' not in told
    assert style_of('Worker 1 was', workers=[full(1, last_replacement=last)]) == BAD
    last = {'age': 190.0, 'why': 'deadline', 'request': 'GET /s', 'report': '/r/x.txt'}
    told = text(workers=[full(2, hung=3, last_replacement=last)])
    line = 'Worker 2 was replaced 3 minutes ago: it had an overdue request (GET /s). '
    assert f'{line}Its report: /r/x.txt' in ' '.join(told.split())
    last = {'why': 'hang', 'request': None}
    told = text(workers=[full(2, hung=3, last_replacement=last)])
    line = 'at an unknown time: it hung. See the log. It has hung 3 times.'
    assert line in ' '.join(told.split())


def test_slow_and_overdue_requests_are_counted_if_there_were_some():
    told = text(slow_requests=2, overdue_requests=1)
    line = '2 slow requests and 1 overdue request since the start: the log says where.'
    assert line in told
    assert '1 slow request since' in text(slow_requests=1, overdue_requests=0)
    for none in (0, None, 'x'):
        assert 'since the start' not in text(slow_requests=none)


def test_a_soak_says_who_serves_beside_whom():
    soak = {'worker': 'worker 1', 'pid': 4711, 'generation': 2, 'remaining': 1.25}
    told = ' '.join(text(workers=[full(1)], soak=soak).split())
    line = (
        'Worker 1 of generation 2 serves beside the old workers, for 1.2 s more (soak).'
    )
    assert line in told


def test_workers_that_do_not_answer_are_named_with_what_is_known():
    told = text(
        workers=[
            full(1, requests=None, is_stopped=True, why_stopped='process 9 traces it'),
            full(2, requests=None, in_flight=None),
            full(3, requests=None, is_stopped=True),  # of an earlier version
        ]
    )
    assert 'Worker 1 does not answer: process 9 traces it.' in told
    assert 'Worker 3 does not answer: a signal has stopped it.' in told
    hangs = (
        'Worker 2 does not answer: it hangs, or it is very busy. `stacks` shows where.'
    )
    assert hangs in ' '.join(told.split())
    assert 'stopped' in told and 'no answer' in told


def test_what_a_process_does_not_have_is_not_unknown():
    spare = worker(1, state='spare', requests=None)
    silent = worker(2, state='ready', requests=None)
    lines = text(workers=[spare, silent]).splitlines()
    first, second = (line for line in lines if line.startswith('worker '))
    assert first.split()[-5:] == ['-'] * 5
    assert second.split()[-5:] == ['?'] * 5


def test_only_the_oldest_requests_are_shown():
    requests = [request(f'/{number}') for number in range(100)]
    told = text(requests=requests, in_flight=1500)
    assert '1500 requests in flight, the oldest 5:' in told
    assert told.count('GET /') == 5


# -- the last reload ----------------------------------------------------------------------


def reload(**more):
    usual = {
        'age': 130.0,
        'asked_by': 'signal SIGHUP',
        'outcome': 'served',
        'took': 1.23,
    }
    return {'last_reload': {**usual, **more}}


def test_a_reload_that_has_served():
    last = text(**reload()).splitlines()[-1]
    assert (
        last == 'The last reload, 2 minutes ago, by signal SIGHUP, served after 1.2 s.'
    )


def test_a_reload_that_has_failed():
    told = reload(outcome='failed', reason='no\n database', took=0.4)
    lines = text(**told).splitlines()[-2:]
    assert ' '.join(lines) == (
        'The last reload, 2 minutes ago, by signal SIGHUP, failed after 0.4 s: no database'
    )


def test_a_reload_in_progress_says_for_how_long():
    told = text(**reload(outcome='in progress', took=None, age=3))
    last = told.splitlines()[-1]
    assert last == 'A reload by signal SIGHUP has been in progress for 3 seconds.'


def test_a_failure_of_an_earlier_version():
    assert text(failure='no database').endswith('\nThe last reload failed: no database')


# -- widths -------------------------------------------------------------------------------


def test_nothing_is_wider_than_80_columns():
    long = 'x' * 300
    workers = [
        full(
            None,
            name='site plugins',
            pid=4194304,
            state=state,
            served=10**9,
            rss=10**11,
            restarts=10**6,
            last_crash={'age': 1, 'how': long, 'requests': [request(f'/{long}')]},
            generation=generation,
        )
        for generation, state in enumerate(('starting', 'draining'))
    ]
    for line in describe(
        answer(
            workers=workers,
            requests=[request(f'/{long}', worker='site plugins')],
            **reload(outcome='failed', reason='word ' * 100),
        ),
        None,
    ):
        assert len(line.text) <= WIDTH, line.text


def test_a_table_of_large_numbers_is_whole():
    row = full(None, name='site plugins', pid=4194304, state='starting', served=999999)
    told = text(workers=[row])
    assert '999999 3         3/4          1      45M' in told


@pytest.mark.parametrize(
    'line, width, expected', [('abc', 3, 'abc'), ('abcd', 3, 'ab…'), ('', 3, '')]
)
def test_what_is_too_long_is_cut(line, width, expected):
    assert cut(line, width) == expected


# -- numbers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'seconds, long, short',
    [
        (0, '0 seconds', '0s'),
        (-5, '0 seconds', '0s'),
        (0.6, '1 second', '1s'),
        (1, '1 second', '1s'),
        (119, '119 seconds', '119s'),
        (120, '2 minutes', '2m'),
        (7200, '2 hours', '2h'),
        (86400 * 2, '2 days', '2d'),
    ],
)
def test_an_age_is_told_in_the_largest_unit_that_fits_twice(seconds, long, short):
    assert (age_text(seconds), short_age(seconds)) == (long, short)


@pytest.mark.parametrize(
    'size, expected',
    [(None, '?'), (-1, '?'), (45 << 20, '45M'), (1 << 19, '0M'), (3 << 29, '1.5G')],
)
def test_a_size_is_told_in_megabytes_or_gigabytes(size, expected):
    assert size_text(size) == expected


# -- nonsense -----------------------------------------------------------------------------

NONSENSE = [None, 'x\x1b[2J', -1, [], {}, ['x\r'], [None], [{}], [[1]], True, 1e300]

KEYS = [
    *(
        'age',
        'soak',
        'urls',
        'workers',
        'requests',
        'threads',
        'calling',
        'failure',
        'state',
    ),
    *('serving', 'wanted', 'crash_loop', 'last_reload', 'served', 'in_flight', 'rss'),
    *('busy', 'server_threads', 'queued', 'is_crashed', 'generation', 'pid'),
]
OF_WORKERS = ['name', 'last_crash', 'restarts', 'is_stopped', 'number', *KEYS]
OF_A_RELOAD = ['age', 'took', 'asked_by', 'outcome', 'reason']
OF_A_CRASH = [
    'age',
    'how',
    'rss',
    'rss_age',
    'requests',
    'out_of_memory',
]
OF_A_REQUEST = ['method', 'path', 'age', 'thread', 'worker']

ODD = [
    *({key: value} for key, value in itertools.product(KEYS, NONSENSE)),
    *(
        {'workers': [{**full(1), key: value}]}
        for key, value in itertools.product(OF_WORKERS, NONSENSE)
    ),
    *(
        reload(**{key: value, **outcome})
        for key, value in itertools.product(OF_A_RELOAD, NONSENSE)
        for outcome in ({}, {'outcome': 'failed'})
    ),
    *(
        {'workers': [full(1, last_crash={key: value})]}
        for key, value in itertools.product(OF_A_CRASH, NONSENSE)
    ),
    *(
        {'requests': [{**request(), key: value}]}
        for key, value in itertools.product(OF_A_REQUEST, NONSENSE)
    ),
]


def test_nothing_is_too_odd_to_be_shown():
    for odd in ODD:
        for line in describe(answer(**odd), None):
            assert line.text.isprintable(), (odd, line)
    assert describe({}, None)[0].text == 'The site is running (process ?).'


@pytest.mark.parametrize(
    ('state', 'line'),
    [
        ('STARTED', 'Serving on http://127.0.0.1:80'),
        ('DRAINING', 'Serving on http://127.0.0.1:80'),
        ('STARTING', 'It will serve on http://127.0.0.1:80'),
        ('STOPPING', None),
        ('EXITING', None),
    ],
)
def test_a_site_is_said_to_serve_only_while_it_does(state, line):
    told = text(state=state, urls=['http://127.0.0.1:80']).splitlines()
    assert [one for one in told if 'http://' in one] == [line] * (line is not None)

"""Stacks as data and as text: which thread has which request, and what is shown of it."""

import pytest

from paste_wspbus.control.stacks import (
    MAX_FRAMES,
    describe_threads,
    limited,
    process_lines,
    thread_lines,
)
from paste_wspbus.requests.stacks import Frame

OWN, PACKAGE = Frame('/srv/site/views.py', 12, 'slow'), Frame('<frozen os>', 3, 'wait')
SLOW = {'method': 'GET', 'path': '/slow', 'age': 3.21, 'id': 'f00-1', 'thread': None}
FAST = {**SLOW, 'path': '/fast', 'age': 0.5}


def process(threads, **more):
    return {
        'name': 'worker 1',
        'pid': 4711,
        'generation': 2,
        'state': 'ready',
        'problem': None,
        'threads': threads,
        **more,
    }


def test_threads_with_requests_come_first_the_oldest_request_first():
    stacks = {1: [PACKAGE], 2: [OWN], 3: [PACKAGE, OWN], 4: [PACKAGE]}
    threads = describe_threads(stacks, [(4, SLOW), (2, FAST)], {4: 'waitress-0'})
    assert [one['ident'] for one in threads] == [4, 2, 3, 1]
    assert threads[0]['name'] == 'waitress-0'
    assert threads[0]['request'] == {
        'method': 'GET',
        'path': '/slow',
        'age': 3.21,
        'id': 'f00-1',
    }
    assert threads[2]['frames'][1] == {
        'file': '/srv/site/views.py',
        'line': 12,
        'name': 'slow',
        'of_site': True,
    }


def test_a_request_whose_thread_has_another_one_is_there_without_a_stack():
    threads = describe_threads({1: [OWN]}, [(1, SLOW), (1, FAST)])
    assert [(one['ident'], one['request']['path']) for one in threads] == [
        (None, '/slow'),
        (1, '/fast'),
    ]
    assert thread_lines(threads) == [
        'Thread ?, GET /slow for 3.2 s (request f00-1):',
        '  (the server sends it)',
        'Thread 1, GET /fast for 0.5 s (request f00-1):',
        '  /srv/site/views.py line 12 in slow',
    ]


def test_what_is_not_of_the_site_is_hidden_unless_all_is_asked_for():
    stacks = {1: [PACKAGE, PACKAGE, OWN], 2: [PACKAGE], 3: [PACKAGE]}
    told = process(describe_threads(stacks, [(1, SLOW)]))
    assert process_lines(told, full=False) == [
        'Worker 1 (process 4711, generation 2, ready):',
        '  Thread 1, GET /slow for 3.2 s (request f00-1):',
        '    <frozen os> line 3 in wait',
        '    /srv/site/views.py line 12 in slow',
        '  2 threads have no request and no code of the site (-v shows all)',
    ]
    assert process_lines(told, full=True) == [
        'Worker 1 (process 4711, generation 2, ready):',
        '  Thread 1, GET /slow for 3.2 s (request f00-1):',
        '    <frozen os> line 3 in wait',
        '    <frozen os> line 3 in wait',
        '    /srv/site/views.py line 12 in slow',
        '  Thread 2, Thread 3:',
        '    <frozen os> line 3 in wait',
    ]


def test_a_process_without_stacks_says_why_and_has_its_requests():
    told = process(describe_threads({}, [(1, SLOW)]), problem='it is stopped')
    assert process_lines(told, full=False)[1:] == [
        '  Thread 1, GET /slow for 3.2 s (request f00-1):',
        '    (its stack is not known)',
        '  it is stopped',
    ]


def test_an_answer_has_a_limit_and_says_what_is_left_out():
    threads = describe_threads(dict.fromkeys(range(1, 40), [OWN] * 1000), [])
    first, second = limited([process(threads), process(threads[:3])])
    assert (len(first['threads']), first['left_out']) == (19, 20)
    assert sum(len(one['frames']) for one in first['threads']) <= MAX_FRAMES
    assert second['left_out'] == 3
    assert process_lines(first, full=False)[-1] == '  20 more threads are left out'


@pytest.mark.parametrize(
    'told',
    [
        {},
        {'threads': 'none', 'name': 7, 'pid': [], 'generation': 'x', 'state': {}},
        process([{}, None, 3]),
        process([{'ident': {}, 'frames': 'x', 'request': {'age': 'old'}}]),
        process([{'request': {'path': '\x1b]0;title\x07'}, 'frames': [{}, 4]}]),
        process([], left_out='many'),
    ],
)
def test_what_another_version_answers_is_shown_as_far_as_it_can_be(told):
    for full in (False, True):
        lines = process_lines(told, full)
        assert lines and not any('\x1b' in line for line in lines)

"""What `status` prints of health checks."""

import pytest

from paste_wspbus.command.health_text import failing


def row(**fields):
    return {
        'name': 'db',
        'process': 'site',
        'ok': False,
        'text': '',
        'age': 3.2,
        **fields,
    }


def test_checks_that_fail_have_a_sentence():
    rows = [
        row(text='OSError: refused'),
        row(name='cache', process='worker 2'),
        row(ok=True),
        row(ok=None),
    ]
    assert failing({'health': rows}) == [
        'The health check db fails (3 s ago): OSError: refused',
        'The health check cache fails in worker 2 (3 s ago)',
    ]


def test_not_all_are_shown():
    assert failing({'health': [row()] * 8})[-1] == '3 more health checks fail.'


@pytest.mark.parametrize('health', [None, 3, 'x', [3], [{'ok': False}], {}])
def test_nonsense_is_no_error(health):
    failing({'health': health})

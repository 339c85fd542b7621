"""What the sections for logging set up, where Python's own set-up would not do."""

import logging

import pytest

from paste_wspbus.ini.logging import Formatter


@pytest.mark.parametrize(
    ('style', 'text'),
    [
        ('%', '%(tenant)s %(asc%time)s %(message)s'),
        ('{', '{tenant} {other} {message}'),
        ('$', '$tenant ${other} $message'),
    ],
)
def test_a_field_that_a_record_does_not_have_is_a_dash(style, text):
    formatter = Formatter(text, style=style)
    record = logging.makeLogRecord({'msg': 'hello'})
    assert formatter.format(record) == '- - hello'
    record = logging.makeLogRecord({'msg': 'hello', 'tenant': 'shop'})
    assert formatter.format(record) == 'shop - hello'


def test_other_errors_of_a_format_are_raised():
    with pytest.raises(TypeError):
        Formatter('%(message)d').format(logging.makeLogRecord({'msg': 'hello'}))

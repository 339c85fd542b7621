"""Stacks as data: what is read of faulthandler's text, and what is shown of a stack."""

import os
import sys
import threading

import pytest

from paste_wspbus.requests.stacks import (
    Frame,
    frames_of,
    innermost,
    of_site,
    parse,
    text_of,
    trimmed,
)

TEXT = """\
Stack (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 320 in wait
  File "/srv/site/caf\\xe9 "x".py", line ??? in <module>
  ...
"""


def test_the_text_of_faulthandler_is_read():
    assert parse(TEXT) == [
        Frame('/usr/lib/python3.11/threading.py', 320, 'wait'),
        Frame('/srv/site/caf\\xe9 "x".py', 0, '<module>'),
    ]


@pytest.mark.parametrize('text', ['', 'x' * 1000, '\0\x1b[2J', TEXT[:77], TEXT[30:]])
def test_any_other_text_is_no_error(text):
    assert isinstance(parse(text), list)


def test_of_two_stacks_the_later_one_counts():
    again = TEXT.replace('line 320', 'line 321')
    assert [frame.line for frame in parse(TEXT + again)] == [321, 0]


def test_control_characters_are_escaped():
    assert parse('  File "/a\x1b[2J.py", line 1 in f') == [
        Frame('/a\\x1b[2J.py', 1, 'f')
    ]


OWN = [Frame('/srv/site/app.py', 12, 'view'), Frame('/srv/site/app.py', 3, 'app')]
LIBRARY = Frame(os.__file__, 1, 'f')
PACKAGE = Frame('/x/site-packages/waitress/task.py', 1, 'g')


def test_the_frames_of_the_site_are_its_own():
    frames = [LIBRARY, OWN[0], PACKAGE, OWN[1], PACKAGE]
    assert of_site(frames) == OWN
    assert innermost(frames) == OWN[0]
    assert trimmed(frames) == [LIBRARY, *OWN]
    assert trimmed(frames[1:]) == OWN
    assert text_of(OWN[:1]) == '  File "/srv/site/app.py", line 12, in view'


def test_a_stack_without_a_frame_of_the_site():
    assert innermost([LIBRARY, PACKAGE]) == LIBRARY
    assert trimmed([LIBRARY, PACKAGE]) == [LIBRARY]
    assert (innermost([]), trimmed([])) == (None, [])


def test_a_stack_of_this_process_has_the_same_form():
    frames = frames_of(sys._current_frames()[threading.get_ident()])
    assert frames[0].name == 'test_a_stack_of_this_process_has_the_same_form'
    assert frames[0].file == __file__
    assert frames_of(None) == []

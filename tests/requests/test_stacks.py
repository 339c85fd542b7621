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
Thread 0x00007f0000000001 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 320 in wait
  File "/srv/site/app.py", line 12 in view

Thread 0x00007f0000000002 [waitress-0] (most recent call first):
  <no Python frame>

Current thread 0x00007f0000000003 (most recent call first):
  File "/srv/site/caf\\xe9 "x".py", line ??? in <module>
  ...
"""


def test_the_text_of_faulthandler_is_read():
    assert parse(TEXT) == {
        0x7F0000000001: [
            Frame('/usr/lib/python3.11/threading.py', 320, 'wait'),
            Frame('/srv/site/app.py', 12, 'view'),
        ],
        0x7F0000000002: [],
        0x7F0000000003: [Frame('/srv/site/caf\\xe9 "x".py', 0, '<module>')],
    }


@pytest.mark.parametrize('text', ['', 'x' * 1000, '\0\x1b[2J', TEXT[:77], TEXT[30:]])
def test_any_other_text_is_no_error(text):
    assert isinstance(parse(text), dict)


def test_of_two_stacks_of_a_thread_the_later_one_counts():
    again = TEXT.replace('line 12', 'line 13')
    assert parse(TEXT + again)[0x7F0000000001][1].line == 13


def test_control_characters_are_escaped():
    (frames,) = parse(
        'Thread 0x1 (most recent call first):\n  File "/a\x1b[2J.py", line 1 in f'
    ).values()
    assert frames == [Frame('/a\\x1b[2J.py', 1, 'f')]


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

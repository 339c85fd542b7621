"""The format of the command's own log handler, and what it prints: no text can forge a line."""

import logging
import re

import pytest

from paste_wspbus.command.terminal import one_line, print_line
from paste_wspbus.plugins.sitelog import SafeFormatter
from paste_wspbus.requests.filter import RequestsInFlight
from paste_wspbus.values import printable
from tests.kit import Site, run
from tests.kit.sites import APP, SERVED

NASTY = 'a\x1b]0;t\x07\r\x9b2J\u202eb\u2028c\u200bd\udc80'
SHOWN = 'a\\x1b]0;t\\x07\\r\\x9b2J\\u202eb\\u2028c\\u200bd\\udc80'


def test_what_is_printable_stays_as_it_is():
    for text in ('', 'Grüße, 你好 🙂', 'C:\\new', 'a\xa0b'):
        assert printable(text) == text


def test_what_is_not_is_escaped():
    assert printable(NASTY) == SHOWN
    assert printable('a\nb\tc') == 'a\\nb\\tc'
    assert printable('a\nb\tc\x1b', lines=True) == 'a\nb\tc\\x1b'


def formatted(text, name='paste_wspbus.worker1', exc_info=None):
    record = logging.LogRecord(name, 30, 'a.py', 1, '%s', (text,), exc_info)
    return SafeFormatter('%(levelname)s [%(name)s] %(message)s').format(record)


def test_a_message_of_ours_is_one_line():
    line = formatted(f'failed: x\nERROR [paste_wspbus] forged\n{NASTY}')
    escaped = f'failed: x\\nERROR [paste_wspbus] forged\\n{SHOWN}'
    assert line == f'WARNING [paste_wspbus.worker1] {escaped}'


def test_a_line_that_is_indented_stays_and_cannot_forge_a_record():
    line = formatted(f'cuts:\n  GET /\n  POST /\n ERROR x\n  {NASTY}')
    shown = f'cuts:\n  GET /\n  POST /\\n ERROR x\n  {SHOWN}'
    assert line == f'WARNING [paste_wspbus.worker1] {shown}'


@pytest.mark.parametrize(
    'stack',
    [
        '\nTraceback (most recent call last):\n  File "a.py", line 1\nValueError: x',
        '\n  File "a.py", line 1, in f\n    f()',
        '\nThread MainThread:\n  File "a.py", line 1',
    ],
)
def test_a_stack_keeps_its_lines(stack):
    line = formatted(f'It has\nfailed.{stack}\x1b')
    assert line == f'WARNING [paste_wspbus.worker1] It has\\nfailed.{stack}\\x1b'


def test_a_record_of_the_site_keeps_its_lines_but_commands_no_terminal():
    assert formatted(f'a\nb {NASTY}', 'shop') == f'WARNING [shop] a\nb {SHOWN}'


def test_an_exception_of_the_site_commands_no_terminal():
    try:
        raise ValueError(NASTY)
    except ValueError as error:
        text = formatted('x', 'shop', (ValueError, error, error.__traceback__))
    assert text.splitlines()[-1] == f'ValueError: {SHOWN}'


def test_what_the_command_prints_is_printable(capsys):
    print_line(f'{NASTY}\nnext')
    assert capsys.readouterr().out == f'{SHOWN}\nnext\n'
    assert one_line(ValueError(f'{NASTY}\nnext')) == f'{SHOWN} next'


def test_a_path_is_cut():
    environ = {'REQUEST_METHOD': 'GET' * 99, 'PATH_INFO': '/\x1b' * 5000}
    requests = RequestsInFlight({1: (environ, 0, 0)})
    (text,) = requests.report()['requests_in_flight']
    assert text.isprintable() and len(text) < 1000
    assert text.count('/') == 100


NASTY_SITE = (
    APP
    + r"""
import logging


def fail(global_conf):
    raise ValueError('a\x1b]0;t\x07\n\x9b2J\u202eb')


def log(environ):
    logging.getLogger('site').warning('a\x1b]0;t\x07')
    bus_of(environ).log('b\x1b]0;t\x07\nERROR forged', 40)


PAGES['/nasty'] = log
"""
)

CONTROL = re.compile(r'[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e]')


@pytest.mark.parametrize('args', [[], ['--workers', '1'], ['-v'], ['--check']])
def test_an_exception_of_a_factory_commands_no_terminal(tmp_path, args):
    ini = SERVED.replace('webapp:make', 'webapp:fail')
    files = {'webapp.py': NASTY_SITE, 'site.ini': ini}
    ended = run(tmp_path, 'site.ini', *args, files=files)
    assert ended.code == (0 if '--check' in args else 1), ended.report()
    assert not CONTROL.search(ended.out.text + ended.err.text), ended.report()
    if '--check' not in args:
        assert r'\x1b]0;t\x07' in ended.err.text, ended.report()


@pytest.mark.parametrize('args', [[], ['--workers', '1']])
def test_a_log_line_commands_no_terminal(tmp_path, args):
    files = {'webapp.py': NASTY_SITE}
    with Site(tmp_path, SERVED, *args, files=files) as site:
        site.get('/nasty')
        site.expect(r'b\x1b]0;t\x07\nERROR forged')
        site.stop()
        assert r'a\x1b]0;t\x07' in site.err.text
        assert not CONTROL.search(site.err.text)

"""The log on a terminal: short lines, and colours for those who want them."""

import logging
import re

import pytest

from paste_wspbus.plugins.terminal_log import TerminalFormatter, shows_colours
from tests.kit import BIN, TIMEOUT, write
from tests.kit.daemons import Terminal
from tests.kit.sites import APP, SERVED

TIME = r'\d\d:\d\d:\d\d'


@pytest.fixture
def terminal():
    terminal = Terminal()
    yield terminal
    terminal.close()


def formatted(name, level, text, **kwargs):
    record = logging.LogRecord(name, level, __file__, 1, '%s', (text,), None)
    return TerminalFormatter(**kwargs).format(record)


@pytest.mark.parametrize(
    ('name', 'level', 'text', 'line'),
    [
        ('paste_wspbus', logging.INFO, 'Bus STARTED', 'Bus STARTED'),
        ('paste_wspbus.worker1', logging.WARNING, 'Late', 'WARNING Late'),
        ('shop', logging.WARNING, 'Sold out', r'WARNING \[shop\] Sold out'),
        ('shop', logging.INFO, 'a\x1b[2J', r'\[shop\] a\\x1b\[2J'),
    ],
)
def test_a_line_has_what_matters(name, level, text, line):
    assert re.fullmatch(f'{TIME} {line}', formatted(name, level, text))


def test_the_time_is_faint_and_warnings_are_coloured():
    line = formatted('shop', logging.INFO, 'sold', colours=True)
    assert re.fullmatch(rf'\033\[2m{TIME}\033\[0m \[shop\] sold', line)
    line = formatted('paste_wspbus', logging.ERROR, 'gone', colours=True)
    assert line.endswith(' \033[31mERROR gone\033[0m')


@pytest.mark.parametrize(
    ('environ', 'shown'),
    [
        ({'TERM': 'xterm'}, True),
        ({'TERM': 'xterm', 'NO_COLOR': ''}, True),
        ({'TERM': 'xterm', 'NO_COLOR': '1'}, False),
        ({'TERM': 'dumb'}, False),
        ({}, False),
    ],
)
def test_who_gets_colours(environ, shown):
    assert shows_colours(environ) is shown


def test_a_site_without_logging_sections_shows_its_lines_on_a_terminal(
    tmp_path, terminal
):
    write(tmp_path, {'webapp.py': APP, 'site.ini': SERVED})
    process = terminal.start(
        [BIN / 'wspserve', 'site.ini'], tmp_path, TERM='xterm', NO_COLOR='1'
    )
    try:
        assert terminal.read_until(b'Serving on'), terminal.text
        terminal.press_ctrl_c()
        assert process.wait(TIMEOUT) == 0, terminal.text
        terminal.read_until(b'never said')
    finally:
        process.kill()
        process.wait()
    lines = [re.sub(f'^{TIME} ', '', line) for line in terminal.lines]
    start, end = lines.index('Bus STARTING'), lines.index('Stopping: SIGINT (Ctrl-C)')
    assert lines[start + 1 : start + 3] == [
        'Bus STARTED',
        f'Starting server in PID {process.pid}.',
    ]
    assert lines[end + 1 :] == [
        *('Bus STOPPING', 'Bus STOPPED', 'Bus EXITING', 'Bus EXITED')
    ]


@pytest.mark.parametrize('args', [[], ['--workers', '1']], ids=str)
def test_a_start_that_fails_on_a_terminal_is_told_once(tmp_path, terminal, args):
    ini = f'[wspbus:main]\nplugins = p\n[plugin:p]\nuse = call:webapp:bad\n{SERVED}'
    bad = "\n\ndef bad(bus, global_conf):\n    raise KeyError('dsn')\n    yield\n"
    write(tmp_path, {'webapp.py': APP + bad, 'site.ini': ini})
    process = terminal.start([BIN / 'wspserve', 'site.ini', *args], tmp_path)
    try:
        terminal.read_until(b'never said')
        assert process.wait(TIMEOUT) == 1, terminal.text
    finally:
        process.kill()
        process.wait()
    assert terminal.text.count(b"KeyError: 'dsn'") == 1, terminal.text
    assert b'Traceback' not in terminal.text

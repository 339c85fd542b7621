"""What the sections for logging set up, where Python's own set-up would not do."""

import logging
import socket

import pytest

from paste_wspbus.ini.logging import Formatter
from tests.kit import Site


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


SYSLOG = """
[app:main]
use = egg:paste_wspbus#hello

[server:main]
use = egg:waitress
host = 127.0.0.1
port = 0

[wspbus:main]
workers = %d

[loggers]
keys = root

[handlers]
keys = system

[formatters]
keys =

[logger_root]
handlers = system
level = INFO

[handler_system]
class = logging.handlers.SysLogHandler
args = ('%s',)
"""


@pytest.mark.parametrize('workers', [0, 1])
def test_a_log_that_nobody_reads_is_told_in_one_line_of_each_process(tmp_path, workers):
    path = tmp_path / 'log'
    with Site(tmp_path, SYSLOG % (workers, path)) as site:
        for _ in range(3):
            assert site.get().status == 200
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
            log.settimeout(60)
            log.bind(str(path))
            assert site.stop()[0] == 0
            assert b'stopping' in log.recv(10_000).lower()
    lines = [line for line in site.err.text.splitlines() if 'lost' in line]
    assert len(lines) == 1, site.report()
    assert '[handler_system]: records that are lost: 1 (' in lines[0]
    assert f'No such file or directory at {path})' in lines[0]
    assert 'Traceback' not in site.err.text


def test_a_record_that_cannot_be_formatted_still_has_its_traceback(tmp_path):
    code = """
import logging

def make(global_conf):
    logging.getLogger('site').error('%d', 'five')
    return lambda environ, start_response: []
"""
    ini = (SYSLOG % (0, tmp_path / 'log')).replace(
        'egg:paste_wspbus#hello', 'call:formats:make'
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(tmp_path / 'log'))
        with Site(tmp_path, ini, files={'formats.py': code}) as site:
            assert site.stop()[0] == 0
    assert 'TypeError: %d format' in site.err.text

"""The lines of a supervisor go where the .ini sends those of the site."""

import configparser
import logging
import os
import re
import signal
import sys

import pytest

from paste_wspbus.workers.log_handlers import AppendHandler, usable
from tests.kit import Site, eventually, run
from tests.kit.sites import APP, SERVED
from tests.kit.supervised import LOGGING

FORMATTED = LOGGING.replace('keys =\n', 'keys = named\n', 1).replace(
    "args = ('site.log',)\n",
    "args = ('site.log',)\nformatter = named\n\n[formatter_named]\n"
    'format = %(asctime)s %(processName)s | %(name)s | %(message)s\n',
)


def sections(handler, formatter='', qualname=''):
    text = f"""
    [loggers]
    keys = root, own, wsgi
    [handlers]
    keys = one
    [formatters]
    keys = plain, json
    [logger_root]
    level = INFO
    handlers = one
    [logger_own]
    qualname = paste_wspbus
    handlers = {qualname}
    [logger_wsgi]
    qualname = wsgi
    handlers = one
    [handler_one]
    {handler}
    {formatter and f'formatter = {formatter}'}
    [formatter_plain]
    format = %(message)s
    [formatter_json]
    class = pythonjsonlogger.JsonFormatter
    """
    parser = configparser.ConfigParser()
    parser.read_string('\n'.join(line.strip() for line in text.splitlines()))
    return usable(parser)


@pytest.mark.parametrize(
    ('handler', 'path', 'encoding'),
    [
        ("class = FileHandler\nargs = ('a.log', 'w')", 'a.log', None),
        (
            "class = logging.FileHandler\nargs = ('a.log', 'a', 'cp1252')",
            'a.log',
            'cp1252',
        ),
        ("class = FileHandler\nkwargs = {'filename': 'a.log'}", 'a.log', None),
        (
            "class = handlers.RotatingFileHandler\nargs = ('a.log', 'a', 9, 2, 'utf-8')",
            'a.log',
            'utf-8',
        ),
        (
            "class = logging.handlers.TimedRotatingFileHandler\nargs = ('a.log', 'D')",
            'a.log',
            None,
        ),
        ("class = handlers.WatchedFileHandler\nargs = ('a.log',)", 'a.log', None),
    ],
)
def test_a_supervisor_appends_to_the_files_of_the_standard_handlers(
    handler, path, encoding
):
    made = sections(f'{handler}\nlevel = ERROR', 'plain')
    one = made['handler_one']
    assert one['class'] == 'paste_wspbus.workers.log_handlers.AppendHandler'
    assert one['args'] == repr((path, encoding))
    assert (one['level'], one['formatter']) == ('ERROR', 'plain')
    assert made['logger_root']['handlers'] == 'one'
    assert made['formatter_plain']['format'] == '%(message)s'


@pytest.mark.parametrize(
    ('handler', 'formatter'),
    [
        ("class = site.Handler\nargs = ('a.log',)", ''),
        ("class = handlers.SysLogHandler\nargs = ('/dev/log',)", ''),
        ("class = FileHandler\nargs = (__import__('os').devnull,)", ''),
        ("class = FileHandler\nargs = ('a.log', 'a', 'utf-8', 0, None, 1)", ''),
        ('class = FileHandler\nargs = (7,)', ''),
        ('class = FileHandler\nargs = (', ''),
        ('class = StreamHandler\nargs = (site.stream,)', ''),
        ("class = FileHandler\nargs = ('a.log',)", 'json'),
        ("class = FileHandler\nargs = ('a.log',)", 'missing'),
    ],
)
def test_what_would_run_other_code_is_replaced_by_standard_error(handler, formatter):
    made = sections(handler, formatter)
    name = made['logger_root']['handlers']
    assert made[f'handler_{name}']['args'] == '(sys.stderr,)'
    assert 'one' not in made['handlers']['keys']


def test_only_the_loggers_of_its_own_lines_are_made():
    made = sections('class = StreamHandler', qualname='one')
    assert made['loggers']['keys'] == 'root,own'
    assert made['handler_one']['args'] == '(sys.stderr,)'
    assert made['logger_own']['handlers'] == 'one'


@pytest.fixture
def handler(tmp_path):
    handler = AppendHandler(str(tmp_path / 'a.log'))
    yield handler
    handler.close()


def record(text):
    return logging.LogRecord('paste_wspbus', 30, __file__, 1, '%s', (text,), None)


def test_a_file_that_was_moved_away_is_made_anew(handler, tmp_path):
    handler.handle(record('first'))
    (tmp_path / 'a.log').rename(tmp_path / 'a.log.1')
    handler.handle(record('second'))
    handler.handle(record('third'))
    assert (tmp_path / 'a.log.1').read_text() == 'first\n'
    assert (tmp_path / 'a.log').read_text() == 'second\nthird\n'


def test_what_cannot_be_appended_goes_to_standard_error(handler, tmp_path, capsys):
    os.mkfifo(tmp_path / 'a.log')
    handler.handle(record('nobody reads'))
    reader = os.open(tmp_path / 'a.log', os.O_RDONLY | os.O_NONBLOCK)
    handler.handle(record('the reader may stop'))
    os.close(reader)
    (tmp_path / 'a.log').unlink()
    (tmp_path / 'a.log').mkdir()
    handler.handle(record('a folder'))
    said = capsys.readouterr().err
    assert said == 'nobody reads\nthe reader may stop\na folder\n'


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='this needs /dev/full')
def test_dev_stdout_is_standard_output(tmp_path):
    script = (
        'import logging\n'
        'from paste_wspbus.workers.log_handlers import AppendHandler\n'
        "logging.basicConfig(handlers=[AppendHandler('/dev/stdout')], format='%(message)s')\n"
        "logging.warning('in order')\n"
        "logging.getLogger().handlers = [AppendHandler('/dev/full')]\n"
        "logging.warning('not lost')\n"
    )
    process = run(tmp_path, '-c', script, command=[sys.executable])
    assert (process.out.text, process.err.text) == ('in order\n', 'not lost\n')


def test_the_log_of_the_site_has_the_lines_of_its_supervisor_once(tmp_path):
    ini, log = SERVED + FORMATTED, tmp_path / 'site.log'
    files = {'webapp.py': APP}
    with Site(tmp_path, ini, '--workers', '1', files=files) as site:
        with site.connect() as client:
            client.send('/kill')
        eventually(lambda: 'crashed, signal SIGKILL; restarting' in log.read_text())
        eventually(lambda: log.read_text().count('is ready') == 1)
        (tmp_path / 'webapp.py').write_text(APP + "\nraise LookupError('no licence')\n")
        asks = run(tmp_path, 'site.ini', 'graceful')
        assert asks.code == 1, asks.report()
        before = log.read_text()
        log.rename(tmp_path / 'site.log.1')
        site.send(signal.SIGUSR1)
        eventually(lambda: log.exists() and 'SIGUSR1' in log.read_text())
        code, _, err = site.stop()
        assert code == 0, site.report()
    assert err == '', err
    form = re.compile(r'\d{4}-\S+ \S+ (supervisor|worker 1) \| paste_wspbus\S* \| ')
    lines = before.splitlines()
    start = lines.index('Traceback (most recent call last):')
    end = lines.index('LookupError: no licence')
    own = [*lines[:start], *lines[end + 1 :]]
    assert all(map(form.match, own)), before
    assert len({line.partition('|')[0] + line for line in own}) == len(own)
    assert 'paste_wspbus' not in ''.join(lines[start:end])
    failed = 'supervisor | paste_wspbus | Generation 2 failed: '
    assert before.count(failed) == 1
    assert 'supervisor | paste_wspbus | Stopping: SIGTERM' in log.read_text()


def test_a_graceful_restart_changes_the_log_and_a_wrong_one_does_not(tmp_path):
    ini, log, new = SERVED + FORMATTED, tmp_path / 'site.log', tmp_path / 'new.log'
    other = ini.replace("'site.log'", "'new.log'")
    files = {'webapp.py': APP}
    with Site(tmp_path, ini, '--workers', '1', files=files) as site:
        (tmp_path / 'site.ini').write_text(other)
        assert run(tmp_path, 'site.ini', 'graceful').code == 0
        (tmp_path / 'site.ini').write_text(other.replace('FileHandler', 'FileHandlr'))
        assert run(tmp_path, 'site.ini', 'graceful').code == 2
        assert site.stop()[0] == 0, site.report()
    assert site.err.text == ''
    assert 'supervisor | paste_wspbus | Worker 1' not in log.read_text()
    assert 'supervisor | paste_wspbus | Generation 3 failed: ' in new.read_text()
    assert 'supervisor | paste_wspbus | Stopping: SIGTERM' in new.read_text()


def test_under_reload_a_crash_is_printed_once_and_logged_once(tmp_path):
    ini, log = SERVED + FORMATTED, tmp_path / 'site.log'
    with Site(tmp_path, ini, '--reload', files={'webapp.py': APP}) as site:
        with site.connect() as client:
            client.send('/kill')
        site.expect('crashed, signal SIGKILL')
        eventually(lambda: 'crashed, signal SIGKILL' in log.read_text())
        assert site.stop()[0] == 0, site.report()
    assert site.err.text.count('crashed, signal SIGKILL') == 1
    assert log.read_text().count('crashed, signal SIGKILL') == 1
    assert 'Re-spawning' not in log.read_text()

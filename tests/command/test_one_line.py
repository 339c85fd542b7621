"""What cannot be served ends in one line: no traceback, and nothing that lasts for ever."""

import os
import resource
import signal
import socket
import subprocess
import sys
import threading

import pytest

from tests.kit import BIN, Process, Site, run
from tests.kit.sites import APP, SERVED
from tests.kit.supervised import LOGGING

FILES = {'webapp.py': APP, 'site.ini': SERVED}


def the_line(process, code):
    """The one line of a command that has failed."""
    assert process.code == code, process.report()
    (line,) = process.err.text.splitlines()
    return line


# -- the command line ---------------------------------------------------------------


@pytest.mark.parametrize('number', ['9' * 20, '2147483648', '²', '-1', '1e3', 'name'])
def test_a_descriptor_that_cannot_be_one(tmp_path, number):
    listen = ['--listen', f'fd://{number}']
    line = the_line(run(tmp_path, 'site.ini', *listen, files=FILES), 1)
    assert f'cannot listen on fd://{number}: ' in line
    assert len(line) < 200


def test_a_descriptor_without_a_number(tmp_path):
    line = the_line(run(tmp_path, 'site.ini', '--listen', 'fd://', files=FILES), 2)
    assert 'fd:// takes the number of a descriptor, or the name' in line


@pytest.mark.parametrize('number', [99, 999_999_999, 2])
def test_a_descriptor_that_is_no_socket(tmp_path, number):
    listen = ['--listen', f'fd://{number}']
    line = the_line(run(tmp_path, 'site.ini', *listen, files=FILES), 1)
    assert f'cannot listen on fd://{number}: ' in line


@pytest.mark.parametrize('option', ['--help', '--version'])
@pytest.mark.parametrize('encoding', ['ascii', 'latin-1', 'utf-8'])
def test_help_where_the_terminal_has_not_each_letter(tmp_path, option, encoding):
    process = run(tmp_path, option, env={'PYTHONIOENCODING': encoding})
    assert (process.code, process.err.text) == (0, '')
    assert 'wspserve' in process.out.text or 'paste_wspbus' in process.out.text


def test_lines_about_a_name_that_the_terminal_cannot_show(tmp_path):
    ini = {'sité…→.ini': SERVED, 'webapp.py': APP}
    env = {'PYTHONIOENCODING': 'ascii:strict', 'PYTHONUTF8': '1'}
    process = run(tmp_path, 'sité…→.ini', '--check', files=ini, env=env)
    assert process.code == 0, process.report()
    assert process.out.text == 'sit\\xe9...->.ini: no mistakes found\n'
    missing = run(tmp_path, 'ü.ini', env=env)
    assert the_line(missing, 2) == '\\xfc.ini: there is no such file'


# -- the .ini -----------------------------------------------------------------------


@pytest.mark.parametrize('args', [[], ['--check'], ['--reload'], ['start']])
@pytest.mark.parametrize('path', ['/dev/zero', '/dev/null'])
def test_a_device_is_no_ini(tmp_path, path, args):
    line = the_line(run(tmp_path, path, *args), 2)
    assert line == f'{path}: it is not a file'


def test_a_socket_is_no_ini(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind('site.ini')
        assert the_line(run(tmp_path, 'site.ini'), 2).endswith('it is not a file')


def test_a_file_without_end_is_no_ini(tmp_path):
    with open(tmp_path / 'site.ini', 'wb') as file:
        file.truncate(2**40)
    line = the_line(run(tmp_path, 'site.ini'), 2)
    assert line.endswith('it has more than 10,000,000 bytes')


def test_a_pipe_without_end_is_no_ini(tmp_path):
    os.mkfifo(tmp_path / 'site.ini')

    def write():
        try:
            with open(tmp_path / 'site.ini', 'w') as pipe:
                while True:
                    pipe.write('[app:main]\n' + 'x' * 65536)
        except BrokenPipeError:
            pass

    writer = threading.Thread(target=write)
    writer.start()
    line = the_line(run(tmp_path, 'site.ini'), 2)
    writer.join()
    assert line.endswith('it has more than 10,000,000 bytes')


@pytest.mark.parametrize('way', [[], ['--workers', '1']], ids=' '.join)
@pytest.mark.parametrize('logging', ['', LOGGING], ids=['no logging', 'logging'])
def test_a_site_is_served_from_a_pipe(tmp_path, way, logging):
    (tmp_path / 'webapp.py').write_text(APP)
    os.mkfifo(tmp_path / 'site.ini')
    write, text = (tmp_path / 'site.ini').write_text, SERVED + logging
    writer = threading.Thread(target=write, args=[text])
    writer.start()
    with Site(tmp_path, None, 'site.ini', *way) as site:
        writer.join()
        assert site.get('/').status == 200
        assert site.stop()[0] == 0
    if logging:  # its sections are read as well, though a pipe is read only once
        assert 'Bus STOPPING' in (tmp_path / 'site.log').read_text()


@pytest.mark.parametrize('args', [[], ['--workers', '1'], ['--check']], ids=' '.join)
def test_no_start_waits_for_a_pipe_in_the_place_of_an_included_file(tmp_path, args):
    os.mkfifo(tmp_path / 'shop.ini')
    including = SERVED.replace('use = call:webapp:make', 'use = config:shop.ini')
    assert including != SERVED
    line = the_line(run(tmp_path, 'site.ini', *args, files={'site.ini': including}), 2)
    assert line.endswith('it is a pipe: name a file')


@pytest.mark.parametrize('subcommand', ['status', 'stop', 'graceful'])
def test_no_command_that_asks_a_site_waits_for_a_pipe(tmp_path, subcommand):
    os.mkfifo(tmp_path / 'site.ini')
    found = run(tmp_path, 'site.ini', subcommand)
    assert 'not running' in found.out.text + found.err.text, found.report()


def test_a_check_names_no_line_of_a_null_byte(tmp_path):
    files = {'site.ini': SERVED, 'webapp.py': 'make = 1\n\0\n'}
    line = the_line(run(tmp_path, 'site.ini', '--check', files=files), 1)
    assert line.endswith('null bytes, at webapp.py')


def test_lines_end_where_they_did(tmp_path):
    """str.splitlines would also end them at a form feed."""
    ini = SERVED.replace('[server', 'text = one\x0ctwo\u2028three\n[server')
    assert (
        run(tmp_path, 'site.ini', '--check', files={**FILES, 'site.ini': ini}).code == 0
    )


# -- too few descriptors ------------------------------------------------------------


@pytest.mark.parametrize('limit', [5, 7, 9, 11])
@pytest.mark.parametrize(
    'args', [[], ['--workers', '1'], ['start'], ['--check'], ['status']], ids=str
)
def test_a_limit_of_descriptors_that_is_too_low(tmp_path, args, limit):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    with Process(
        [BIN / 'wspserve', 'site.ini', *args, '--pid-file', 'site.pid'],
        cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)),
    ) as process:
        if not process.out.wait_for('\n'):
            assert process.wait() in (1, 3), process.report()
            lines = process.err.text.splitlines()
            assert any('oo many open files' in line for line in lines), process.report()
        assert 'Traceback' not in process.report()
    run(tmp_path, 'site.ini', 'stop', '--pid-file', 'site.pid')


@pytest.mark.parametrize('limit', range(5, 20))
@pytest.mark.parametrize('args', [[], ['--workers', '1'], ['start']], ids=str)
def test_a_start_without_descriptors_is_one_line_and_leaves_no_file(
    tmp_path, args, limit
):
    at_a_socket = SERVED.replace('host = 127.0.0.1\nport = 0', 'unix_socket = s')
    files = {**FILES, 'site.ini': at_a_socket}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    log = ['--log-file', 'site.log'] if args == ['start'] else []
    with Process(
        [BIN / 'wspserve', 'site.ini', *args, '--pid-file', 'site.pid', *log],
        cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)),
    ) as process:
        if process.out.wait_for('Serving on'):
            assert limit > 13, process.report()
            stopped = run(tmp_path, 'site.ini', 'stop', '--pid-file', 'site.pid')
            assert stopped.code == 0, stopped.report()
            assert process.wait() == 0, process.report()
        else:
            assert process.wait() == 1, process.report()
            lines = process.err.text.splitlines()
            assert len(lines) == 1, process.report()
            assert 'oo many open files' in lines[0]
    left = {*os.listdir(tmp_path)} - {'__pycache__', 'site.log'}
    assert left == {*files}


# -- Ctrl-C -------------------------------------------------------------------------


INTERRUPTED = """
import builtins, os, signal, sys

module = sys.argv.pop(1)
usual = builtins.__import__


def importing(name, *args):
    if name == module:
        builtins.__import__ = usual
        os.kill(os.getpid(), signal.SIGINT)
    return usual(name, *args)


builtins.__import__ = importing
from paste_wspbus.__main__ import main

sys.exit(main())
"""


@pytest.mark.parametrize(
    'module',
    [
        'paste_wspbus.command.leaving',
        'paste_wspbus.command.main',
        'paste.deploy',
        'waitress',
        'argparse',
    ],
)
def test_ctrl_c_while_the_command_is_imported(tmp_path, module):
    for name, text in {**FILES, 'start.py': INTERRUPTED}.items():
        (tmp_path / name).write_text(text)
    args = [sys.executable, 'start.py', module, 'site.ini', '-v']
    with Process(args, cwd=tmp_path) as process:
        assert process.wait() in (-signal.SIGINT, 130), process.report()
        assert len(process.err.text.splitlines()) <= 1, process.report()
        assert process.out.text == ''


def test_ctrl_c_that_is_ignored_stays_ignored(tmp_path):
    """A shell's background job: Ctrl-C is for the foreground."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / 'start.py').write_text(
        'import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n' + INTERRUPTED
    )
    args = [
        sys.executable,
        'start.py',
        'paste_wspbus.command.main',
        'site.ini',
        '--check',
    ]
    done = subprocess.run(args, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize('args', [[], ['--workers', '1']], ids=str)
def test_the_traceback_of_a_failed_start_is_in_the_log_of_the_site(tmp_path, args):
    files = {'site.ini': SERVED + LOGGING, 'webapp.py': "raise LookupError('no dsn')\n"}
    process = run(tmp_path, 'site.ini', *args, files=files)
    assert process.code == 1, process.report()
    (line,) = process.err.text.splitlines()
    assert f'(the traceback is in {tmp_path}/site.log)' in line
    trace = (tmp_path / 'site.log').read_text()
    assert f'File "{tmp_path}/webapp.py", line 1, in <module>' in trace
    assert trace.endswith('LookupError: no dsn\n')
    assert 'paste_wspbus' not in trace

"""What a command says of a site that runs elsewhere: whole paths, and where the rest is."""

import os

import pytest

from paste_wspbus.inbox import Inbox
from paste_wspbus.report import Report
from paste_wspbus.unix import daemonizing
from tests.kit import run

APP = """
def make(global_conf):
    return lambda environ, start_response: []
"""

INI = """
[app:main]
use = call:front:make

[server:main]
use = egg:waitress
host = 127.0.0.1
port = 0
"""

DAEMON = ('--daemon', '--pid-file', 'site.pid', '--log-file', 'site.log')


@pytest.mark.parametrize('args', [(), ('--workers', '1')])
def test_who_asks_from_another_folder_learns_what_has_failed_and_which_log_has_it(
    tmp_path, args
):
    files = {'front.py': APP, 'site.ini': INI}
    (elsewhere := tmp_path / 'elsewhere').mkdir()
    ini, log = tmp_path / 'site.ini', tmp_path / 'site.log'
    assert run(tmp_path, 'site.ini', *DAEMON, *args, files=files).code == 0
    try:
        (tmp_path / 'front.py').write_text(f'{APP}\nraise RuntimeError("broken?")\n')
        asked = run(elsewhere, str(ini), 'graceful')
        assert asked.code == 1
        serves = 'generation 1 keeps serving' if args else 'the old code keeps serving'
        problem = (
            f'{ini} [app:main] use: call:front:make: RuntimeError: broken?, at '
            f'{tmp_path}/front.py:5 in <module>'
        )
        where = f'(the traceback is in {log})'
        assert asked.err.text == (
            f'The graceful restart failed, {serves}: {problem} {where}\n'
        )
        assert log.read_text().count('Traceback (most recent call last):') == 1
        assert problem in log.read_text()
        assert problem in run(elsewhere, str(ini), 'status').out.text
        asked = run(tmp_path, 'site.ini', 'graceful')  # here, the paths are short
        assert f': site.ini [app:main] use: {problem.partition(" use: ")[2]}'.replace(
            f'{tmp_path}/front', 'front'
        ) in (asked.err.text)
    finally:
        assert run(elsewhere, str(ini), 'stop').code == 0


def test_each_line_of_a_failed_start_in_a_log_has_its_time(tmp_path):
    files = {'front.py': 'raise RuntimeError("broken")', 'site.ini': INI}
    started = run(tmp_path, 'site.ini', *DAEMON, files=files)
    assert started.code == 1
    lines = (tmp_path / 'site.log').read_text().splitlines()
    records = [line for line in lines if ' ERROR [paste_wspbus] ' in line]
    assert records == [lines[0], lines[-1]]
    assert records[0].endswith('] The start has failed:')
    assert records[1].partition('] ')[2] == (
        f'{tmp_path}/site.ini [app:main] use: call:front:make: RuntimeError: broken, at '
        f'{tmp_path}/front.py:1 in <module>'
    )


ENDS = {
    'os._exit(7)': (7, 'exit code 7'),
    'os.kill(os.getpid(), 9)': (1, 'signal SIGKILL'),
}


@pytest.mark.parametrize('end', ENDS)
def test_start_says_how_a_daemon_has_ended_that_says_nothing_itself(tmp_path, end):
    files = {'front.py': f'import os\n{end}', 'site.ini': INI}
    started = run(tmp_path, 'site.ini', *DAEMON, files=files)
    code, how = ENDS[end]
    assert started.code == code
    what = f'ended before it was ready, {how}: see {tmp_path}/site.log.\n'
    assert started.err.text.endswith(what)
    assert started.err.text.count('\n') == 1


def test_start_does_not_say_that_a_daemon_has_ended_which_runs(capfd, monkeypatch):
    monkeypatch.setattr(daemonizing, 'ENDED', 0)
    reader, writer = os.pipe()
    report = Report(writer)
    report.pid()
    os.close(writer)
    launch = daemonizing._Launch(Inbox(reader), None)
    launch.wait()
    os.close(reader)
    assert launch.code == 1
    assert capfd.readouterr().err == (
        f'The site (process {os.getpid()}) reports nothing more; `status` says whether it '
        'runs.\n'
    )

"""Reports: what is in them, what is never in them, and folders to which nobody can write."""

import contextlib
import json
import os
import re
import stat
import time

import pytest

from paste_wspbus.unix import report_files
from tests.kit import eventually, run
from tests.kit.processes import has_ended
from tests.kit.workers import FILES, INI, Workers, set_up

MORE = """
import re
import threading

def match_for_ever(environ):
    say(f'matching {os.getpid()}')
    re.match('(a*)*b', 'a' * 100)

def sleep_long(environ):
    threading.Event().wait()

def refuse(environ):
    raise ValueError('no access with n3wkey')

PAGES.update({'/match': match_for_ever, '/sleep': sleep_long, '/refuse': refuse})
"""

KEYS = """
hung_after = 1.5
reports = reports
smoke = /?token=qu3ry
"""

SERVER = """
[app:two]
use = call:webapp:make
db_password = p4ss
api_key = 0ldkey
"""

#: What clients send, and what is in the .ini: nobody may read it elsewhere.
SECRETS = 'qu3ry', 'h34der', 'c00kie', 'b0dy', 'p4ss', 's3cret', '3nvironment', 'n3wkey'


@pytest.fixture
def stack():
    with contextlib.ExitStack() as stack:
        yield stack


def site_of(folder, keys=KEYS, **kwargs):
    ini = INI.replace('soak = 0', f'soak = 0\n{keys}') + SERVER
    ini = ini.replace(
        'threads = 4',
        'threads = 4\nident = http://me:s3cret@host/\ntrusted_proxy = %(ENV_ADDRESS)s',
    )
    files = {'webapp.py': FILES['webapp.py'] + MORE, 'site.ini': ini}
    env = {'ADDRESS': '3nvironment'}
    return Workers(folder, files=files, env=env, **kwargs)


def send(site, stack, path):
    connection = stack.enter_context(site.connect())
    connection.socket.sendall(
        f'POST {path}?token=qu3ry HTTP/1.1\r\nHost: localhost\r\nX-Key: h34der\r\n'
        'Cookie: c00kie\r\nContent-Length: 4\r\n\r\nb0dy'.encode()
    )


def reports(folder, kind):
    return sorted((folder / 'reports').glob(f'*-{kind}-*.txt'))


def read(path):
    """The text of a report, and what its last line says as JSON."""
    text = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert report_files.NAME(path.name)
    assert not any(secret in text for secret in SECRETS)
    return text, json.loads(text.splitlines()[-1])


def test_a_hang_and_a_crash_have_a_report_each_without_secrets(tmp_path, stack):
    (tmp_path / 'reports').mkdir()
    with site_of(tmp_path) as site:
        send(site, stack, '/match')
        site.expect('matching ')
        old = int(re.search(r'matching (\d+)', site.err.text)[1])
        eventually(lambda: has_ended(old))
        site.change(
            ('api_key = 0ldkey', 'api_key = n3wkey'), ('/?token=', '/refuse?token=')
        )
        assert site.run('graceful').code == 1
        send(site, stack, '/segv')
        site.expect('crashed, signal SIGSEGV')
        site.expect('has a report: ', 2)
        assert site.stop()[0] == 0
    (hang,) = reports(tmp_path, 'hang')
    text, told = read(hang)
    assert text.startswith(
        f'{told["name"].capitalize()} (process {old}) hangs: it has '
    )
    assert re.search(r'^  POST /match for \d', text, re.M)
    assert 'in match_for_ever' in text
    assert (told['kind'], told['pid'], told['generation']) == ('hang', old, 1)
    assert told['versions']['waitress'] and told['versions']['paste_wspbus']
    assert told['settings']['wspbus:main']['smoke'] == '/?***'
    assert told['settings']['server:main'] == {
        'use': 'egg:waitress',
        'host': '127.0.0.1',
        'port': '0',
        'threads': '4',
        'ident': 'http://***@host/',
        'trusted_proxy': '%(ENV_ADDRESS)s',
    }
    events = [one['text'] for one in told['events']]
    assert sum(bool(re.search(f'process {old}.* ready', one)) for one in events) == 1
    assert not any(one.endswith(('first:', 'Stacks:')) for one in events)
    zone = time.strftime('%z')
    assert re.search(rf'^\d{{4}}-\d\d-\d\d [\d:]{{8}} {re.escape(zone)}, ', text, re.M)
    assert '  slow_request = 10 s\n  request_deadline = off\n' in text
    log = site.err.text.partition('crashed, signal SIGSEGV')
    assert log[0].count('has a report: ') == log[2].count('has a report: ') == 1
    (crash,) = reports(tmp_path, 'crash')  # not of the one that was killed
    text, told = read(crash)
    assert re.search(r'^  rss = \d+\.\d MB$', text, re.M) or told['end']['rss'] is None
    assert '  was_ready = yes\n' in text and '  out_of_memory = no\n' in text
    assert '  signal = SIGSEGV' in text and told['end']['signal'] == 'SIGSEGV'
    assert [one['path'] for one in told['requests']] == ['/segv']
    assert any('hangs' in one['text'] for one in told['errors'])
    assert any('no access with ***' in one['text'] for one in told['errors'])
    assert reports(tmp_path, 'kill') == []


def test_a_worker_that_crashes_before_it_is_ready_is_reported(tmp_path):
    (tmp_path / 'reports').mkdir()
    with site_of(tmp_path, 'reports = reports', count=1) as site:
        set_up(tmp_path, at_composition='os.kill(os.getpid(), signal.SIGSEGV)')
        told = site.run('graceful')
        assert told.code == 1
        pid = int(re.search(r'process (\d+)\) ended before', told.err.text)[1])
        assert site.stop()[0] == 0
    (crash,) = reports(tmp_path, 'crash')
    text, told = read(crash)
    assert (told['pid'], told['end']['signal']) == (pid, 'SIGSEGV')
    assert '  was_ready = no\n' in text


def test_a_worker_that_does_not_stop_is_reported_with_its_stacks(tmp_path, stack):
    (tmp_path / 'reports').mkdir()
    keys = 'stop_timeout = 2\nrequest_deadline = 0.5\nreports = reports'
    with site_of(tmp_path, keys, count=1) as site:
        (pid,) = site.pids()
        send(site, stack, '/match')
        site.expect('has a report')  # its deadline: how the process ends is another one
        assert site.stop()[0] == 70
    (deadline,), (kill,) = reports(tmp_path, 'deadline'), reports(tmp_path, 'kill')
    assert read(deadline)[1]['pid'] == pid
    text, told = read(kill)
    assert told['pid'] == pid and 'in match_for_ever' in text


def refusal(folder, reports):
    """The one line with which a site is refused that has this folder of reports."""
    ini = INI.replace('soak = 0', f'workers = 1\nreports = {reports}')
    refused = run(folder, 'site.ini', files={**FILES, 'site.ini': ini})
    assert refused.code == 2, refused.report()
    (line,) = refused.err.text.splitlines()
    return line


def test_a_folder_that_is_missing_is_refused_at_the_start(tmp_path):
    line = refusal(tmp_path, 'nowhere')
    assert line.startswith('site.ini [wspbus:main] reports: ')
    assert line.endswith('reports: there is no folder nowhere')
    assert refusal(tmp_path, 'webapp.py').endswith('reports: webapp.py is not a folder')


def test_a_folder_that_goes_away_is_told_once_and_the_site_goes_on(tmp_path, stack):
    (tmp_path / 'reports').mkdir()
    with site_of(tmp_path, 'reports = reports') as site:
        (tmp_path / 'reports').rmdir()
        for number in (1, 2):
            send(site, stack, '/segv')
            site.expect('crashed, signal SIGSEGV', number)
            eventually(lambda: site.status()['serving'] == 2)
        assert site.stop()[0] == 0
    problem = re.findall(r'reports \S+: (.*)', site.err.text)
    assert problem == ['No such file or directory. The site continues']


# -- the files --------------------------------------------------------------------------


def name(number, kind='crash'):
    return f'20260101-000000-{number:06}-{kind}-worker-1-4711.txt'


def test_the_newest_are_kept_and_nothing_else_is_touched(tmp_path):
    for number in range(25):
        report_files.write(str(tmp_path), name(number), 'text')
    (tmp_path / 'notes.txt').write_text('mine')
    (tmp_path / name(0, 'kill')).mkdir()
    os.symlink('notes.txt', tmp_path / name(1, 'kill'))
    report_files.keep_newest(str(tmp_path), 20)
    left = sorted(os.listdir(tmp_path))
    assert [one for one in left if 'crash' in one] == [name(n) for n in range(5, 25)]
    assert 'notes.txt' in left and name(0, 'kill') in left and name(1, 'kill') in left


def test_a_file_that_is_there_is_never_written_to(tmp_path):
    (tmp_path / 'mine').write_text('mine')
    os.symlink('mine', tmp_path / name(1))
    with pytest.raises(FileExistsError):
        report_files.write(str(tmp_path), name(1), 'text')
    assert (tmp_path / 'mine').read_text() == 'mine'


def test_a_report_that_cannot_be_written_whole_leaves_nothing(tmp_path, monkeypatch):
    real = os.write

    def full(fd, data):
        if len(data) < 5:
            raise OSError(28, 'No space left on device')
        return real(fd, data[:5])

    monkeypatch.setattr(os, 'write', full)
    with pytest.raises(OSError, match='No space left'):
        report_files.write(str(tmp_path), name(1), 'text of a report')
    monkeypatch.undo()
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.geteuid() != 0, reason='only root must not follow links')
def test_root_follows_no_link_of_the_sites_user(tmp_path):
    os.chmod(tmp_path, 0o755)
    (tmp_path / 'site').mkdir()
    (tmp_path / 'roots').mkdir()
    os.symlink(tmp_path / 'roots', tmp_path / 'site/reports')
    os.chown(tmp_path / 'site', 1, 1)
    with pytest.raises(OSError, match='symbolic link'):
        report_files.write(str(tmp_path / 'site/reports'), name(1), 'text')
    with pytest.raises(OSError, match='symbolic link'):
        report_files.keep_newest(str(tmp_path / 'site/reports'), 0)
    assert os.listdir(tmp_path / 'roots') == []


@pytest.mark.skipif(os.geteuid() != 0, reason='only root can give a folder away')
def test_root_writes_and_keeps_reports_in_a_folder_of_the_sites_user(tmp_path):
    os.chown(tmp_path, 1, 1)
    for number in range(5):
        path = report_files.write(str(tmp_path), name(number), 'text')
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    report_files.keep_newest(str(tmp_path), 2)
    assert sorted(os.listdir(tmp_path)) == [name(3), name(4)]


def test_without_a_supervisor_the_log_says_which_keys_do_nothing(tmp_path):
    with site_of(tmp_path, 'hung_after = 5', count=None) as site:
        site.expect('hung_after does nothing without workers or --monitor-restart')
        assert site.stop()[0] == 0


def test_check_refuses_a_folder_that_is_missing(tmp_path):
    ini = INI.replace('soak = 0', 'reports = nowhere')
    told = run(tmp_path, 'site.ini', '--check', files={**FILES, 'site.ini': ini})
    assert told.code == 2
    assert 'site.ini [wspbus:main] reports: there is no folder ' in told.err.text


def test_a_graceful_with_a_folder_that_is_missing_changes_nothing(tmp_path):
    (tmp_path / 'reports').mkdir()
    with site_of(tmp_path, 'reports = reports') as site:
        before = site.pids()
        site.change(('reports = reports', 'reports = nowhere'))
        told = site.run('graceful')
        assert told.code == 2 and 'reports: there is no folder ' in told.err.text
        assert site.pids() == before
        site.change(('reports = nowhere\n', ''))
        site.graceful()
        assert site.stop()[0] == 0


def test_the_first_overdue_request_of_a_worker_has_a_report(tmp_path, stack):
    (tmp_path / 'reports').mkdir()
    keys = 'request_deadline = 0.5\nstop_timeout = 5\nreports = reports'
    with site_of(tmp_path, keys, count=1) as site:
        (old,) = site.pids()
        for _ in range(2):
            send(site, stack, '/sleep')
        site.expect(', past its deadline', 2)
        eventually(lambda: has_ended(old))
        (last,) = (one['last_replacement'] for one in site.workers())
        assert site.stop()[0] == 0
    (deadline,) = reports(tmp_path, 'deadline')
    assert (last['why'], last['report']) == ('deadline', str(deadline))
    text, told = read(deadline)
    assert f'(process {old}) has an overdue request: POST /sleep has run for ' in text
    assert 'in sleep_long' in text and told['pid'] == old

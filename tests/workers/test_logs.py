"""The log lines of several workers."""

import contextlib
import os
import re
import signal

from tests.kit import eventually
from tests.kit.sites import ask
from tests.kit.supervised import LOGGING
from tests.kit.workers import FILES, INI, Workers


def test_each_log_line_of_a_worker_carries_its_number(tmp_path):
    with Workers(tmp_path, '-v') as site:
        eventually(
            lambda: (
                ask(site, '/log')
                and all(
                    f'[worker {number}] [site] a line of the site' in site.err.text
                    for number in (1, 2)
                )
            )
        )
        site.graceful()
        assert site.stop()[0] == 0
    own = re.compile(r'(opened|closed|draining) \d+$')
    lines = [line for line in site.err.text.splitlines() if not own.match(line)]
    for number in (1, 2):
        mine = [line for line in lines if f'[worker {number}] ' in line]
        assert sum('Bus STARTED' in line for line in mine) == 2
        assert sum('Bus EXITED' in line for line in mine) == 2
    supervisors = [line for line in lines if '[worker ' not in line]
    assert all('[paste_wspbus]' in line for line in supervisors), supervisors
    assert sum('Bus STARTED' in line for line in supervisors) == 1


NAMED_LOGGING = LOGGING.replace('keys =\n', 'keys = named\n', 1).replace(
    "args = ('site.log',)\n",
    "args = ('site.log',)\nformatter = named\n\n"
    '[formatter_named]\nformat = %%(processName)s | %%(name)s | %%(message)s\n',
)


def test_the_inis_own_format_can_name_the_worker(tmp_path):
    logging = NAMED_LOGGING.replace('%%', '%')
    with Workers(tmp_path, files={**FILES, 'site.ini': INI + logging}) as site:
        log = tmp_path / 'site.log'
        wanted = {f'worker {number} | site | a line of the site' for number in (1, 2)}
        eventually(
            lambda: ask(site, '/log') and wanted <= set(log.read_text().splitlines())
        )
        assert site.stop()[0] == 0
    text = log.read_text()
    for number in (1, 2):
        assert f'worker {number} | paste_wspbus.worker{number} | Bus STARTED' in text


def test_sigusr1_reopens_the_log_files_of_all(tmp_path):
    files = {**FILES, 'site.ini': INI + LOGGING}
    args = ['--log-file', 'out.log']
    with Workers(tmp_path, *args, files=files, wait=False) as site:
        out, log = tmp_path / 'out.log', tmp_path / 'site.log'
        eventually(lambda: out.exists() and 'Workers in PIDs' in out.read_text())
        out.rename(tmp_path / 'out.log.1')
        log.rename(tmp_path / 'site.log.1')
        site.send(signal.SIGUSR1)
        for pid in [site.pid, *site.pids()]:
            for fd in (1, 2):
                link = f'/proc/{pid}/fd/{fd}'
                eventually(lambda link=link: os.readlink(link) == str(out))
        for pid in site.pids():
            eventually(lambda pid=pid: str(log) in opened_by(pid))
            assert f'{log}.1' not in opened_by(pid)
        assert site.stop()[0] == 0


def opened_by(pid):
    found = []
    for fd in os.listdir(f'/proc/{pid}/fd'):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f'/proc/{pid}/fd/{fd}'))
    return found

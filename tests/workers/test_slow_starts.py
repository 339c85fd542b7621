"""Workers that hang before they are READY: the log says where, and they count as crashes."""

import os
import re
import signal

from tests.kit import eventually, run
from tests.kit.supervised import graceful
from tests.kit.workers import FILES, INI, Workers

#: It holds the GIL: no signal handler of Python runs meanwhile.
HANGS = "import re; re.match('(a*)*b', 'a' * 100)"
PAGE = f"""
def hang(environ):
    {HANGS}

PAGES['/warm'] = hang
"""


def impatient(folder, keys='', **kwargs):
    files = {
        'webapp.py': FILES['webapp.py'] + PAGE,
        'site.ini': INI.replace('soak = 0', f'soak = 0\nstart_timeout = 1\n{keys}'),
    }
    return Workers(folder, '--pid-file', 'site.pid', files=files, **kwargs)


def late(text):
    """Return where a worker was that was not ready in time, and the stacks: each once."""
    stacks = re.findall(
        r'Worker 1 \(process \d+\) is too slow\. Stacks:\n((?:  ?.*|Thread .*\n)*)',
        text,
    )
    where = re.findall(
        r'Worker 1 \(process \d+\) was not ready within 1 s \(start_timeout\), at '
        r'(.+?:\d+ in [^;.\s]+)',
        text,
    )
    assert len(where) == len(stacks) == 1, text
    return where[0], stacks[0]


def test_a_replacement_that_hangs_while_it_loads_is_a_crash(tmp_path):
    with impatient(tmp_path, 'reports = .', count=1) as site:
        (tmp_path / 'at_composition').write_text(HANGS)
        os.kill(site.pids()[0], signal.SIGKILL)
        site.expect('was not ready within 1 s')
        site.expect('; restarting in 1 s')
        (tmp_path / 'at_composition').unlink()
        where, stacks = late(site.err.text)
        assert 'in obey' in where or 'in <module>' in where
        assert 're/__init__.py line ' in stacks
        (worker,) = site.workers()
        assert worker['restarts'] == 2
        assert worker['last_crash']['how'].startswith('it was not ready within 1 s')
        eventually(lambda: site.workers()[0]['state'] == 'ready')
        assert list(tmp_path.glob('*-hang-worker-1-*.txt'))
        assert site.stop()[0] == 0


def test_a_first_start_that_hangs_is_told_once_also_with_v(tmp_path):
    files = {
        **FILES,
        'site.ini': INI.replace('soak = 0', 'soak = 0\nstart_timeout = 1'),
    }
    files['webapp.py'] += f'\n{HANGS}\n'
    started = run(tmp_path, 'site.ini', '-v', '--workers', '1', files=files)
    assert started.code == 1
    assert started.err.text.count('was not ready within 1 s (start_timeout)') == 1
    assert 'Traceback' not in started.err.text


def test_a_generation_that_hangs_in_warm_up_fails_and_the_log_says_where(tmp_path):
    with impatient(tmp_path, count=1) as site:
        ini = (tmp_path / 'site.ini').read_text()
        (tmp_path / 'site.ini').write_text(ini.replace('soak = 0', 'warm_up = /warm'))
        told = graceful(site, code=1)
        where, stacks = late(site.err.text)
        assert where.endswith(' in hang')
        assert where.rpartition('/')[2] in told
        assert 'GET /warm for ' in stacks
        assert not any(worker['restarts'] for worker in site.workers())
        assert site.stop()[0] == 0

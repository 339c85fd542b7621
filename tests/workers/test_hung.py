"""Workers that hang, for real: they are replaced, and nobody else loses anything."""

import contextlib
import os
import re
import signal
import threading
import time
from types import SimpleNamespace

import pytest

from paste_wspbus.requests.stacks import Frame
from paste_wspbus.workers.threads import LOGGED, stacks_text
from tests.kit import eventually
from tests.kit.clients import Clients
from tests.kit.processes import freeze, has_ended
from tests.kit.workers import FILES, INI, Workers, set_up

#: Functions of a name of their own: the stacks name them.
HANGS = """
import re
import threading

def match_for_ever(environ):
    say(f'matching {os.getpid()}')
    re.match('(a*)*b', 'a' * 100)

def trace(environ):
    threading.settrace(lambda *_: None)

PAGES.update({'/match': match_for_ever, '/trace': trace})
"""


@pytest.fixture
def stack():
    with contextlib.ExitStack() as stack:
        yield stack


def impatient(folder, keys='hung_after = 1.5', **kwargs):
    files = {
        'webapp.py': FILES['webapp.py'] + HANGS,
        'site.ini': INI.replace('soak = 0', f'soak = 0\n{keys}'),
    }
    return Workers(folder, files=files, **kwargs)


def hang(site, stack):
    """Let a worker hold the GIL in C; return its process ID."""
    stack.enter_context(site.connect()).send('/match?secret=s3cr3t', cookie='c00kie')
    site.expect('matching ')
    return int(re.search(r'matching (\d+)', site.err.text)[1])


@pytest.mark.parametrize('count', [1, 2])
def test_a_worker_that_holds_the_gil_is_replaced_and_nobody_else_loses_anything(
    tmp_path, stack, count
):
    with impatient(tmp_path, count=count) as site:
        before = set(site.pids())
        old = hang(site, stack)
        with Clients(site, count=2) as clients:
            eventually(lambda: has_ended(old))
            eventually(lambda: sum(w['hung'] for w in site.workers()) == 1)
            clients.stop()
            # The application may have had a request of each just before.
            assert len(clients.failures) <= 2, clients.failures
        told = site.run('status').out.text
        told = ' '.join(told.split())
        assert re.search(
            r'Worker \d was replaced \d+ seconds? ago: it hung \(GET /match\)\. '
            r'See the log\.',
            told,
        )
        (last,) = filter(None, (w['last_replacement'] for w in site.workers()))
        assert (last['why'], last['pid']) == ('hang', old)
        for shown in (told, site.run('status', '--json').out.text):
            assert 's3cr3t' not in shown and 'c00kie' not in shown
        after = set(site.pids())
        assert len(after) == count and before - after == {old}
        text = site.err.text
        assert f'(process {old}) has not answered for ' in text
        assert f'(process {old}) hangs: it has not answered for ' in text
        assert f'(process {old}) hangs: a new process takes its place' in text
        stacks = text.partition('hangs: ')[2]
        assert re.search(r'GET /match for \d+\.\d s \(request [\w-]+\):\n', stacks)
        assert re.search(r'webapp\.py line \d+ in match_for_ever', stacks)
        assert site.stop()[0] == 0
    assert 's3cr3t' not in site.err.text and 'c00kie' not in site.err.text
    assert site.err.text.count('takes its place') == 1
    assert 'crashed' not in site.err.text


def test_a_worker_that_a_signal_has_stopped_is_not_replaced(tmp_path):
    with impatient(tmp_path) as site:
        pids = site.pids()
        freeze(pids[0])
        site.expect(f'(process {pids[0]}) does not answer: a signal has stopped it')
        stopped = time.monotonic()
        eventually(lambda: time.monotonic() - stopped > 2)  # longer than hung_after
        os.kill(pids[0], signal.SIGCONT)
        eventually(lambda: site.workers()[0]['requests'] is not None)
        assert site.pids() == pids
        assert site.stop()[0] == 0
    assert 'takes its place' not in site.err.text


def test_a_worker_in_which_a_debugger_runs_is_not_replaced(tmp_path, stack):
    with impatient(tmp_path, count=1) as site:
        (pid,) = site.pids()
        site.get('/trace')
        site.status()  # its answer names the debugger
        assert hang(site, stack) == pid
        site.expect('does not answer: a debugger runs in it (sys.settrace)')
        assert site.pids() == [pid]
        os.kill(pid, signal.SIGKILL)
        site.expect('crashed, signal SIGKILL')
        assert site.stop()[0] == 0


def test_if_the_successor_fails_the_worker_stays_and_the_log_does_not_say_it_serves(
    tmp_path, stack
):
    with impatient(tmp_path, 'hung_after = 1.5\nstop_timeout = 2', count=1) as site:
        set_up(tmp_path, at_composition='raise RuntimeError("broken now")')
        pid = hang(site, stack)
        site.expect('broken now')
        site.expect('; worker 1 stays, and does not answer')
        assert site.pids() == [pid]
        assert site.stop()[0] == 70
    assert site.err.text.count('takes its place') == 1  # the next try is a minute later


def test_a_log_of_a_thousand_threads_has_an_end():
    frames = [Frame('/srv/views.py', line, 'view') for line in range(100)]
    stacks = {ident: [*frames, Frame('x', ident, 'f')] for ident in range(1, 1001)}
    worker = SimpleNamespace(requests_of_threads=list)
    lines = stacks_text(worker, stacks).splitlines()
    assert len(lines) <= LOGGED + 3
    assert lines[-1] == f'  ({1000 - LOGGED // 102} more threads are left out)'


def test_the_log_shows_the_site_s_threads_if_others_are_shown_elsewhere():
    idle = Frame(threading.__file__, 359, 'wait')
    request = {'method': 'GET', 'path': '/gil', 'age': 4.4, 'id': 'i-1'}
    worker = SimpleNamespace(requests_of_threads=lambda: [(2, request)])
    site = [Frame('/srv/views.py', 3, 'view'), Frame('/srv/app.py', 4, 'app')]
    stacks = {1: [idle], 2: [idle, *site[:1], idle, *site[1:]], 3: [idle]}
    assert stacks_text(worker, stacks, 'X').splitlines() == [
        'Stacks:',
        'Thread 2, GET /gil for 4.4 s (request i-1):',
        f'  {threading.__file__} line 359 in wait',
        '  /srv/views.py line 3 in view',
        '  /srv/app.py line 4 in app',
        '  (2 threads have no request and no code of the site: X)',
    ]
    for others in ('', 'X'):  # what holds the lock may be no code of the site
        only = {1: stacks[1]} if others else stacks
        worker = SimpleNamespace(requests_of_threads=list)
        assert 'line 359 in wait' in stacks_text(worker, only, others)
        assert 'no request' not in stacks_text(worker, only, others)

"""One worker more, one less; and a supervisor that may not start any more."""

import os
import resource
import signal
import subprocess

import pytest

from paste_wspbus.control.client import NoAnswer
from paste_wspbus.control.client import ask as ask_control
from tests.kit import eventually
from tests.kit.clients import Clients
from tests.kit.processes import children
from tests.kit.sites import ask
from tests.kit.supervised import has_cleaned_up
from tests.kit.workers import FILES, INI, Workers, clients_of, impatient, set_up


def test_one_worker_more_and_one_less(tmp_path):
    with Workers(tmp_path) as site, Clients(site, count=2) as clients:
        first = site.pids()
        site.send(signal.SIGTTIN)
        eventually(lambda: [w['state'] for w in site.workers()] == ['ready'] * 3)
        assert site.pids()[:2] == first
        third = site.pids()[2]
        eventually(lambda: third in clients.answers)
        site.graceful()
        assert len(site.pids()) == 3
        site.send(signal.SIGTTOU)
        eventually(lambda: len(children(site.pid)) == 2)
        site.graceful()
        assert len(site.pids()) == 2
        site.send(signal.SIGTTOU)
        site.expect('One worker stops: the site has 1 now\n')
        site.send(signal.SIGTTOU)
        site.expect('There is only one worker: it is not removed')
        eventually(lambda: len(children(site.pid)) == 1)
        ask(site)
        clients.stop()
        assert clients.failures == []
        assert site.stop()[0] == 0
        assert has_cleaned_up(site)
    assert 'crashed' not in site.err.text


def test_workers_of_a_changed_ini_go_before_those_of_signals(tmp_path):
    ini = INI.replace('[wspbus:main]', '[wspbus:main]\nworkers = 1')
    with Workers(tmp_path, count=None, files={**FILES, 'site.ini': ini}) as site:
        for _ in range(2):
            site.send(signal.SIGTTIN)
            site.expect('One more worker starts', 1 + _)
        site.change(('workers = 1', 'workers = 2'))
        site.graceful()
        eventually(lambda: len(children(site.pid)) == 2)
        assert site.stop()[0] == 0


def test_a_worker_more_that_fails_is_tried_again(tmp_path):
    with impatient(tmp_path, backoff=(0, 0.1)) as site:
        set_up(tmp_path, at_composition="raise RuntimeError('it is broken')")
        site.send(signal.SIGTTIN)
        site.expect('Worker 3 (process ')
        assert 'it is broken' in site.err.text
        ask(site)
        (tmp_path / 'at_composition').unlink()
        eventually(lambda: [w['state'] for w in site.workers()] == ['ready'] * 3)
        assert site.stop()[0] == 0


def limit(pid, what, number):
    """The soft limit alone, so that it can be raised again."""
    hard = resource.prlimit(pid, what)[1]
    resource.prlimit(pid, what, (number, hard))


def test_a_worker_more_without_descriptors_is_logged_and_comes_later(tmp_path):
    with impatient(tmp_path, backoff=(0, 0.1)) as site:
        usual = resource.prlimit(site.pid, resource.RLIMIT_NOFILE)[0]
        highest = max(map(int, os.listdir(f'/proc/{site.pid}/fd')))
        limit(site.pid, resource.RLIMIT_NOFILE, highest + 1)
        site.send(signal.SIGTTIN)
        site.expect('Worker 3 cannot be started: Too many open files')
        ask(site)
        limit(site.pid, resource.RLIMIT_NOFILE, usual)
        eventually(lambda: [w['state'] for w in site.workers()] == ['ready'] * 3)
        assert site.stop()[0] == 0
    assert 'Traceback' not in site.err.text


def test_a_graceful_without_descriptors_fails_with_a_line(tmp_path):
    with Workers(tmp_path) as site:
        old = site.pids()
        eventually(lambda: clients_of(site) == 0)  # of the question for its workers
        usual = resource.prlimit(site.pid, resource.RLIMIT_NOFILE)[0]
        used = {int(fd) for fd in os.listdir(f'/proc/{site.pid}/fd')}
        free = next(fd for fd in range(99) if fd not in used)
        # One is for whoever asks on the control socket.
        limit(site.pid, resource.RLIMIT_NOFILE, free + 2)
        told = site.run('graceful')
        limit(site.pid, resource.RLIMIT_NOFILE, free + 1)
        asked = site.run('timeline')
        limit(site.pid, resource.RLIMIT_NOFILE, usual)
        assert asked.code == 0, asked.report() + site.report()
        assert told.code == 1, told.report()
        assert 'Too many open files' in told.err.text
        assert len(told.err.text.splitlines()) == 1
        assert site.pids() == old
        site.graceful()
        assert site.stop()[0] == 0


#: A user who has no processes but the test's.
LONELY = 54399


LIMIT_PROCESSES = """
import resource
import sys

pid, number = map(int, sys.argv[1:])
hard = resource.prlimit(pid, resource.RLIMIT_NPROC)[1]
resource.prlimit(pid, resource.RLIMIT_NPROC, (hard if number < 0 else number, hard))
"""


def limit_processes(program, pid, number):
    """-1: as many as there may be. In a container, only its own user may say so."""
    args = [program, '-c', LIMIT_PROCESSES, str(pid), str(number)]
    subprocess.run(args, user=LONELY, group=LONELY, extra_groups=[], check=True)


def test_a_worker_more_without_processes_is_logged(public):
    with public.serve('--user', str(LONELY), '--group', str(LONELY)) as site:
        limit_processes(public.python, site.pid, 1)
        site.send(signal.SIGTTIN)
        site.expect('Worker 3 cannot be started: the system starts no more processes')
        told = public.graceful()
        assert told.code == 1, told.report()
        assert 'the system starts no more processes' in told.err.text
        ask(site)
        limit_processes(public.python, site.pid, -1)
        eventually(lambda: len(children(site.pid)) == 3)
        assert site.stop()[0] == 0, site.report()
        assert site.has_left_nothing()


def test_the_control_socket_changes_the_number_within_its_limits(tmp_path):
    with Workers(tmp_path, count=1) as site:
        path = str(tmp_path / 'site.pid.sock')
        with pytest.raises(NoAnswer, match='only one worker'):
            ask_control(path, 'remove_worker')
        assert ask_control(path, 'add_worker')['workers'] == 2
        eventually(lambda: site.status()['serving'] == 2)
        assert ask_control(path, 'remove_worker')['workers'] == 1
        eventually(lambda: len(site.pids()) == 1)
        assert site.stop()[0] == 0

"""Workers whose supervisor was killed: they notice it and stop."""

import contextlib
import json
import os
import signal
from pathlib import Path

from tests.kit import Site, eventually, free_port, is_free, run
from tests.kit.processes import children, freeze, has_ended, processes_of_session
from tests.kit.sites import ask
from tests.kit.supervised import Daemon, imported
from tests.kit.workers import AT_GATE, FILES, INI, Workers, set_up


def kill_supervisor(site):
    site.send(signal.SIGKILL)
    assert site.process.wait() == -signal.SIGKILL


def test_workers_whose_supervisor_was_killed_stop(tmp_path):
    with (
        Workers(tmp_path) as site,
        contextlib.ExitStack() as stack,
    ):
        busy, idle = site.pids()
        client = site.wait_in(busy, stack)
        kill_supervisor(site)
        site.expect(f'closed {idle}\n')
        site.expect('The supervisor is gone: the site stops', 2)
        site.release()
        assert json.loads(client.receive().body)['pid'] == busy
        site.wait()
        eventually(site.has_left_nothing)
    if isinstance(site.address, tuple):
        assert is_free(site.port)
    with Workers(tmp_path) as again:
        assert ask(again)['ppid'] == again.pid
        assert again.stop()[0] == 0


def sleeps(folder):
    """How often the processes that work in a folder have gone to sleep, together."""
    count = 0
    for process in Path('/proc').glob('[0-9]*'):
        with contextlib.suppress(OSError):
            if process.joinpath('cwd').readlink() == folder:
                status = process.joinpath('status').read_text()
                found = status.partition('\nvoluntary_ctxt_switches:')[2]
                count += int(found.split()[0])
    return count


def test_a_start_waits_for_the_workers_of_a_supervisor_that_was_killed(tmp_path):
    port = free_port()
    files = {**FILES, 'site.ini': INI.replace('port = 0', f'port = {port}')}
    with Daemon(tmp_path, '--workers', '2', files=files) as site:
        held = children(site.pid)
        for pid in held:
            freeze(pid)  # they would be gone too soon
        os.kill(site.pid, signal.SIGKILL)
        eventually(lambda: has_ended(site.pid))
        with Site(tmp_path, None, 'site.ini', 'start', wait=False) as again:
            eventually(lambda: not (tmp_path / 'paster.pid.sock').exists())
            slept = sleeps(tmp_path)
            eventually(lambda: sleeps(tmp_path) > slept + 9 or has_ended(again.pid))
            for pid in held:
                os.kill(pid, signal.SIGCONT)
            assert again.wait() == 0, again.report()
        assert run(tmp_path, 'site.ini', 'stop').code == 0


def test_all_kinds_of_workers_notice_that_their_supervisor_was_killed(tmp_path):
    with Workers(tmp_path) as site, contextlib.ExitStack() as stack:
        clients = site.wait_in_all(stack)
        site.send(signal.SIGHUP)
        site.expect('draining')
        set_up(tmp_path, at_composition=AT_GATE)
        site.send(signal.SIGTTIN)  # it waits until the other restart is over
        third = imported(tmp_path)[2]
        os.kill(third, signal.SIGKILL)
        kill_supervisor(site)
        site.release()
        assert {client.receive().status for client in clients.values()} == {200}
        site.wait()
        eventually(site.has_left_nothing)
        assert is_free(site.port)


def test_a_worker_that_composes_notices_that_its_supervisor_was_killed(tmp_path):
    with Workers(tmp_path) as site:
        set_up(tmp_path, at_composition=AT_GATE)
        site.send(signal.SIGHUP)
        site.expect('composing')
        kill_supervisor(site)
        eventually(site.has_left_nothing)  # though the gate is closed still
        site.wait()
        assert is_free(site.port)
        assert len(site.says('opened')) == len(site.says('closed')) == 2


def test_workers_of_the_first_start_notice_that_their_supervisor_was_killed(tmp_path):
    set_up(tmp_path, at_composition=AT_GATE)
    with Workers(tmp_path, wait=False) as site:
        site.expect('composing', 2)
        kill_supervisor(site)
        eventually(site.has_left_nothing)
        site.wait()
    assert site.out.text == ''


FORKS = """
import subprocess

subprocess.Popen(['sleep', '100'])
if not os.fork():
    time.sleep(100)
    os._exit(0)
"""


def test_children_of_the_site_do_not_keep_workers_from_noticing(tmp_path):
    set_up(tmp_path, at_start=FORKS)
    with Workers(tmp_path) as site:
        pids = site.pids()
        kill_supervisor(site)
        for pid in pids:
            eventually(lambda pid=pid: has_ended(pid))
        assert not has_ended(min(processes_of_session(site.pid)))

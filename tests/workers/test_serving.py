"""Several workers: each serves on a bus of its own, from one socket."""

import os
import re
import threading
from pathlib import Path

import pytest

from tests.kit import eventually, is_free, run
from tests.kit.clients import Clients
from tests.kit.processes import children, processes_of_session
from tests.kit.sites import ask
from tests.kit.supervised import Daemon, crash, has_cleaned_up, imported
from tests.kit.users import AS_NOBODY, NOBODY, identity
from tests.kit.workers import FILES, INI, Workers, each_server, files_for

# -- serving ------------------------------------------------------------------------


@each_server
def test_each_worker_serves_on_a_bus_of_its_own(tmp_path, server):
    with Workers(tmp_path, files=files_for(server)) as site:
        pids = site.pids()
        answers = {}
        eventually(
            lambda: (
                answers.update({(one := ask(site))['pid']: one}) or len(answers) == 2
            )
        )
        assert sorted(answers) == sorted(pids) == sorted(children(site.pid))
        assert {one['ppid'] for one in answers.values()} == {site.pid}
        assert {one['name'] for one in answers.values()} == {
            'paste_wspbus.worker1',
            'paste_wspbus.worker2',
        }
        assert sorted(site.says('opened')) == sorted(pids)
        code, out, _ = site.stop()
        assert code == 0, site.report()
        assert sorted(site.says('closed')) == sorted(pids)
        assert has_cleaned_up(site)
    assert out == (
        f'Starting server in PID {site.pid}.\n'
        f'Serving on {site.url}\n'
        f'Workers in PIDs {pids[0]}, {pids[1]}.\n'
    )


def test_the_supervisor_imports_nothing_of_the_site_and_has_one_thread(tmp_path):
    with Workers(tmp_path) as site:
        assert len(os.listdir(f'/proc/{site.pid}/task')) == 1
        site.graceful()
        crash(site)
        eventually(lambda: len(imported(tmp_path)) == 5)
        assert len(os.listdir(f'/proc/{site.pid}/task')) == 1
        assert site.stop()[0] == 0
    assert len(set(imported(tmp_path))) == 5
    assert site.pid not in imported(tmp_path)


@pytest.mark.parametrize(
    'setting, args, count',
    [
        ('workers = 2', [], 2),
        ('workers = auto', [], 'auto'),
        ('workers = 2', ['--workers', '1'], 1),
        ('workers = 1', ['--workers=3'], 3),
        ('', ['--workers', 'auto'], 'auto'),
    ],
)
def test_how_many_workers_there_are(tmp_path, setting, args, count):
    ini = INI.replace('[wspbus:main]', f'[wspbus:main]\n{setting}')
    files = {**FILES, 'site.ini': ini}
    with Workers(tmp_path, *args, count=None, files=files) as site:
        wanted = len(os.sched_getaffinity(0)) if count == 'auto' else count
        assert site.out.wait_for('Workers in PIDs')
        # A container's quota may be less than its processors.
        found = len(children(site.pid))
        assert found == wanted or (count == 'auto' and 1 <= found < wanted)
        assert [one['number'] for one in site.workers()] == list(range(1, found + 1))
        assert site.stop()[0] == 0


def test_workers_0_on_the_command_line_is_one_process(tmp_path):
    ini = INI.replace('[wspbus:main]', '[wspbus:main]\nworkers = 2')
    with Workers(tmp_path, count=0, files={**FILES, 'site.ini': ini}) as site:
        assert ask(site)['pid'] == site.pid
        assert site.status()['workers'] == []
        code, out, _ = site.stop()
    assert code == 0
    assert 'Workers' not in out


def test_a_quiet_site_prints_nothing(tmp_path):
    with Workers(tmp_path, '-q', wait=False) as site:
        eventually(lambda: len(site.says('opened')) == 2)
        site.run('graceful')  # waits until it is started
        code, out, _ = site.stop()
    assert (code, out) == (0, '')


def test_one_worker_with_a_number_is_replaced_like_others(tmp_path):
    with Workers(tmp_path, count=1) as site:
        (old,) = site.pids()
        site.graceful()
        (new,) = site.pids()
        crash(site)
        eventually(lambda: len(imported(tmp_path)) == 3)
        assert ask(site)['pid'] not in (old, new)
        assert site.stop()[0] == 0


def test_a_daemon_of_several_workers(tmp_path):
    with Daemon(tmp_path, '--workers', '2', files=FILES) as site:
        pids = children(site.pid)
        assert sorted(processes_of_session(site.session)) == sorted([site.pid, *pids])
        numbers = re.findall(r'Workers in PIDs (\d+), (\d+)\.', site.started.out.text)
        assert sorted(map(int, *numbers)) == sorted(pids)
        assert ask(site)['pid'] in pids
        told = run(tmp_path, 'site.ini', 'graceful')
        assert told.code == 0, told.report()
        assert not set(pids) & set(children(site.pid))
        assert int((tmp_path / 'paster.pid').read_text()) == site.pid
        again = run(tmp_path, 'site.ini', 'start', '--workers', '2')
        assert f'running already (process {site.pid})' in again.out.text
        stop = run(tmp_path, 'site.ini', 'stop')
        assert (stop.code, stop.out.text) == (0, 'The site has stopped.\n')
        assert processes_of_session(site.session) == []
    assert is_free(site.port)
    assert {'paster.pid', 'paster.pid.sock'} & set(os.listdir(tmp_path)) == set()


def test_restart_replaces_supervisor_and_workers_and_refuses_nobody(tmp_path):
    with (
        Daemon(tmp_path, '--workers', '2', files=FILES) as site,
        Clients(site) as clients,
    ):
        eventually(lambda: clients.answers)
        again = run(tmp_path, 'site.ini', 'restart', '--workers', '2')
        pid = int((tmp_path / 'paster.pid').read_text())
        try:
            assert again.code == 0, again.report()
            assert pid != site.pid
            fresh = set(children(pid))
            eventually(lambda: fresh & set(clients.answers) or clients.failures)
            clients.stop()
            assert clients.failures == []
        finally:
            stop = run(tmp_path, 'site.ini', 'stop')
        assert stop.code == 0, stop.report()
        assert processes_of_session(site.session) == []


def test_workers_are_another_user_and_stay_so(public):
    with public.serve(*AS_NOBODY) as site:
        first = children(site.pid)
        for _ in range(2):
            for pid in [site.pid, *children(site.pid)]:
                assert identity(pid)[0] == {NOBODY.pw_uid}
            assert ask(site)['uid'] == NOBODY.pw_uid
            told = public.graceful()
            assert told.code == 0, told.report()
        crash(site)
        site.expect('crashed')  # else a stop could come first, and be ended by force
        eventually(lambda: len(children(site.pid)) == 2)
        assert not set(first) & set(children(site.pid))
        assert ask(site)['uid'] == NOBODY.pw_uid
        assert site.stop()[0] == 0, site.report()
        assert site.has_left_nothing()


# -- idle ------------------------------------------------------------------------------------


def switches(pid):
    """{thread's name: voluntary context switches} of ours: main, and 'supervisor'."""
    found = {}
    for task in Path(f'/proc/{pid}/task').iterdir():
        lines = (task / 'status').read_text().splitlines()
        fields = dict(line.split(':', 1) for line in lines)
        is_main = int(task.name) == pid
        found[task.name, is_main] = int(fields['voluntary_ctxt_switches'])
    return found


def test_who_has_nothing_to_do_sleeps(tmp_path):
    with Workers(tmp_path) as site:
        site.graceful()
        site.pids()  # its answer's time limit runs out, too
        pids = [site.pid, *site.pids()]

        def looks():
            return {pid: switches(pid) for pid in pids}

        def nothing_happens():
            before = looks()
            threading.Event().wait(2)
            after = looks()
            for pid in pids:
                changed = [k for k, v in after[pid].items() if before[pid].get(k) != v]
                # One thread of each worker is the server library's loop.
                if any(is_main for _, is_main in changed):
                    return False
                if len(changed) > (pid != site.pid):
                    return False
            return True

        eventually(nothing_happens)
        assert site.stop()[0] == 0

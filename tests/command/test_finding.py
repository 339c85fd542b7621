"""A site without a PID file: how the commands find it, and whom they believe."""

import os
import signal
import subprocess
import sys

import pytest

from paste_wspbus.control.paths import runtime_paths
from tests.kit import TIMEOUT, Process, eventually, run, write
from tests.kit.stand_in import StandIn, begun, status_json


def test_status_finds_a_site_without_a_pid_file(folder, unlisted):
    told = run(folder, 'site.ini', 'status')
    assert told.code == 0, told.report()
    assert f'The site is running (process {unlisted.pid})' in told.out.text
    assert status_json(folder)[1]['pid'] == unlisted.pid


@pytest.mark.parametrize('config', ['site.ini', './site.ini#other', 'config:site.ini'])
def test_a_site_without_a_pid_file_is_found_by_each_name_of_its_ini(
    folder, unlisted, config
):
    assert run(folder, config, 'status').code == 0


def test_a_site_without_a_pid_file_is_found_from_elsewhere_and_by_links(
    folder, unlisted, tmp_path
):
    (tmp_path / 'link.ini').symlink_to(folder / 'site.ini')
    told = run(tmp_path, 'link.ini', 'status')
    assert told.code == 0, told.report()


def test_another_ini_of_the_same_name_is_another_site(folder, unlisted, tmp_path):
    write(tmp_path, {'other/site.ini': '[app:main]\n'})
    assert run(tmp_path / 'other', 'site.ini', 'status').code == 3


def test_a_pid_file_goes_before_a_site_without_one(folder, unlisted):
    assert run(folder, 'site.ini', 'status', '--pid-file=x.pid').code == 3
    with StandIn(folder) as listed:
        assert status_json(folder)[1]['pid'] == listed.pid
        listed.release()
        listed.wait()
    assert status_json(folder)[1]['pid'] == unlisted.pid


def test_graceful_restarts_a_site_without_a_pid_file(folder, unlisted):
    unlisted.tell(replies={'graceful': {'generation': 5}})
    told = run(folder, 'site.ini', 'graceful')
    assert told.code == 0, told.report()
    assert told.out.text == f'Generation 5 serves (process {unlisted.pid}).\n'


def test_stop_stops_a_site_without_a_pid_file(folder, unlisted):
    with begun(folder, 'site.ini', 'stop') as command:
        unlisted.wait_for_request('stop')
        unlisted.tell(answer={'exit_code': 0})
        unlisted.release()
        assert command.wait() == 0, command.report()
        assert command.out.text == 'The site has stopped.\n'
    assert run(folder, 'site.ini', 'status').code == 3


def test_stop_ends_a_site_without_a_pid_file_that_ignores_its_deadline(
    folder, unlisted
):
    unlisted.tell(status={'deadline': -4.5})
    told = run(folder, 'site.ini', 'stop')
    assert unlisted.process.wait(TIMEOUT) == -signal.SIGKILL
    assert told.code == 1
    assert f'Process {unlisted.pid} did not stop' in told.err.text
    assert run(folder, 'site.ini', 'status').code == 3


def test_stop_of_a_site_without_a_pid_file_that_does_not_answer(folder):
    with StandIn(folder, '--runtime', '--silent') as silent:
        told = run(folder, 'site.ini', 'stop')
        assert silent.process.poll() is None
    assert told.code == 1
    assert told.err.text.count('\n') == 1
    assert 'does not answer' in told.err.text


def test_status_of_a_site_without_a_pid_file_that_does_not_answer(folder):
    with StandIn(folder, '--runtime', '--silent'):
        code, told = status_json(folder)
    assert (code, told['state'], told['pid']) == (0, 'NO ANSWER', None)


#: A process that listens, and a child that outlives it and answers there.
LEFT = """
import json, os, socket
from paste_wspbus.control.paths import address_of, runtime_path
sock = socket.socket(socket.AF_UNIX)
with address_of(runtime_path('site.ini')) as address:
    sock.bind(address)
sock.listen()
parent = os.getpid()
if os.fork():
    os._exit(0)
print(os.getpid(), flush=True)
while True:
    client, _ = sock.accept()
    client.recv(1000)
    client.sendall(json.dumps({'version': 1, 'pid': parent}).encode() + b'\\n')
    client.close()
"""


def test_a_folder_that_others_may_write_to_is_not_believed(folder, unlisted):
    (path,) = [
        path for path in runtime_paths(str(folder / 'site.ini')) if os.path.exists(path)
    ]
    os.chmod(os.path.dirname(path), 0o722)
    for subcommand in ('status', 'stop', 'graceful'):
        told = run(folder, 'site.ini', subcommand)
        assert told.code == 4, told.report()
        (line,) = (told.out.text + told.err.text).splitlines()
        assert 'others can write to it (its mode is 0722)' in line
    assert unlisted.process.poll() is None


def test_a_folder_that_another_user_has_made_leaves_it_unknown_whether_a_site_runs(
    folder, tmp_path
):
    made = tmp_path / 'runtime' / 'paste_wspbus'
    made.mkdir(0o700)
    os.chown(made, 65534, -1)
    told = run(folder, 'site.ini', 'status')
    assert told.code == 4
    assert told.out.text == (
        f'It is not known whether the site runs: {made} cannot have control sockets: '
        'it belongs to another user (UID 65534, not 0)\n'
    )
    assert status_json(folder)[1]['state'] == 'UNKNOWN'
    # Of a site with a PID file, it is known.
    assert run(folder, 'site.ini', 'status', '--pid-file=x.pid').code == 3


def test_stop_asks_the_system_and_not_the_site_which_process_it_is(folder, unlisted):
    """The site may have been broken into, and root would kill any process."""
    victim = subprocess.Popen(['sleep', '1000'])
    try:
        unlisted.tell(status={'pid': victim.pid, 'deadline': -4.5})
        told = run(folder, 'site.ini', 'stop')
        assert unlisted.process.wait(TIMEOUT) == -signal.SIGKILL
        assert f'Process {unlisted.pid} did not stop' in told.err.text
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


def test_stop_signals_nobody_where_only_a_child_of_the_site_is_left(folder):
    """Another process may have the number of the one that listened."""
    write(folder, {'left.py': LEFT})
    with Process([sys.executable, 'left.py'], folder) as left:
        eventually(lambda: left.out.text.count('\n') == 1)
        told = run(folder, 'site.ini', 'stop')
        assert told.code == 1
        assert 'the system does not name its process' in told.err.text
        os.kill(int(left.out.text), signal.SIGKILL)


def test_what_only_looks_makes_no_folder(folder, tmp_path):
    for subcommand in ('status', 'stop', 'graceful'):
        run(folder, 'site.ini', subcommand)
    assert os.listdir(tmp_path / 'runtime') == []
    assert sorted(os.listdir(tmp_path)) == ['runtime', 'site']

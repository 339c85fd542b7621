"""`status`: what it asks, prints and exits with."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading

import pytest

from paste_wspbus.command import status as command_status
from paste_wspbus.command.finding import RUNNING, Found
from paste_wspbus.control import client
from paste_wspbus.process.options import Options
from tests.kit import BIN, TIMEOUT, Process, run
from tests.kit.processes import eventually, kill
from tests.kit.stand_in import StandIn, status_json, worker

# -- of a daemon --------------------------------------------------------------


def test_status_of_a_running_site_tells_process_and_url(ground):
    ground.start()
    code, text = ground.status()
    assert code == 0
    first, second, blank, *table = text.splitlines()
    assert re.fullmatch(
        rf'The site is running \(process {ground.pid}\), for \d+ seconds?\.', first
    )
    assert (second, blank) == (f'Serving on {ground.url}', '')
    assert table[0].split() == [
        'SERVED',
        'IN',
        'FLIGHT',
        'BUSY/THREADS',
        'QUEUED',
        'RSS',
    ]
    assert re.fullmatch(r'0 +0 +0/4 +0 +\d+M', table[1])


def test_status_of_a_site_that_does_not_run(ground):
    code, text = ground.status()
    assert code == 3
    assert text == 'The site is not running (there is no paster.pid).\n'
    assert not ground.pid_file.exists()


def test_a_site_is_found_before_it_says_that_it_serves(ground):
    """Its standard output is full, so it waits in the line that says it."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    command = [BIN / 'wspserve', 'site.ini']
    site = subprocess.Popen(command, cwd=ground.folder, stdout=writer)
    try:
        eventually(lambda: run(ground.folder, 'site.ini', 'status').code == 0)
    finally:
        site.kill()
        site.wait()
        os.close(reader)
        os.close(writer)


def test_a_killed_site_is_dead_and_can_be_started_again(ground):
    ground.start()
    first = ground.pid
    kill(first)
    code, text = ground.status()
    assert code == 1
    assert str(first) in text
    assert 'paster.pid' in text
    ground.start()
    assert ground.pid != first
    assert ground.get() == f'hello {ground.pid}'
    assert (
        f'process {first}, which wrote it, is gone; this site uses the file now'
        in ground.log
    )
    ground.stop()
    assert ground.has_left_nothing()


def test_stop_tidies_up_after_a_killed_site(ground):
    ground.start()
    kill(ground.pid)
    process = ground.stop()
    assert 'not running' in process.out.text
    assert ground.has_left_nothing()


def test_the_option_status_is_the_subcommand(ground):
    ground.start()
    for words in (['--status', 'site.ini'], ['site.ini', '--status'], ['--status']):
        process = ground.run(*words)
        assert process.code == 0
        assert f'process {ground.pid}' in process.out.text
    ground.stop()
    assert ground.run('--status').code == 3


def test_status_of_a_site_that_is_composed(ground):
    ground.change(app='make_at_gate')
    with ground.begin('site.ini', 'start') as process:
        ground.gate.wait()
        code, text = ground.status()
        assert code == 0
        assert f'process {ground.pid}' in text
        ground.gate.open()
        assert process.wait() == 0, ground.report(process)


def test_status_names_the_requests_in_flight(ground):
    ground.start()
    with ground.request_at_gate('/Gate/To/X') as connection:
        code, text = ground.status()
        assert code == 0
        assert '1 request in flight' in text
        assert '/Gate/To/X' in text
        ground.gate.open()
        assert connection.receive().text == f'hello {ground.pid}'


# -- of a site that the test speaks for ---------------------------------------


def test_status_prints_what_the_site_answers(folder, site):
    site.tell(status={'age': 3 * 86400 + 100, 'workers': [worker(1), worker(2)]})
    told = run(folder, 'site.ini', 'status')
    assert told.code == 0, told.report()
    first, blank, heading, *rows = told.out.text.splitlines()
    assert first == (
        f'The site is running (process {site.pid}), for 3 days: generation 1, 2 workers.'
    )
    assert (blank, heading.split()[0], len(rows)) == ('', 'WORKER', 2)


def test_status_makes_do_with_what_an_older_site_tells(folder, site):
    keys = ('since', 'age', 'urls', 'generation', 'workers', 'requests', 'threads')
    site.tell(without=[*keys, 'calling', 'deadline', 'is_crashed', 'failure'])
    told = run(folder, 'site.ini', 'status')
    assert (told.code, told.err.text) == (0, ''), told.report()
    assert told.out.text == f'The site is running (process {site.pid}).\n'


NONSENSE = [None, 'x', -1, [], {}, ['x'], [None], [{}], True, 1e300]


def test_no_answer_is_too_odd_for_status(folder, site):
    """One process asks for all: the ways to be odd are many."""
    code = (
        'import sys; from paste_wspbus.command.main import main\n'
        'for _ in sys.stdin: print(main(["site.ini", "status"]), flush=True)'
    )
    keys = ('since', 'age', 'urls', 'generation', 'workers', 'requests', 'threads')
    with Process([sys.executable, '-c', code], folder) as asking:
        count = 0
        for key in (*keys, 'calling', 'deadline', 'is_crashed', 'failure', 'state'):
            for value in NONSENSE:
                site.tell(status={key: value})
                count += 1
                asking.process.stdin.write('\n')
                asking.process.stdin.flush()
                assert asking.out.wait_for('\n0\n', count), (key, value)
            site.tell(status={key: None})
        asking.release()
        assert asking.wait() == 0, asking.report()
        assert asking.err.text == ''


def test_status_prints_to_a_terminal_that_has_not_each_letter(folder, site):
    site.tell(status={'failure': 'kein Café…', 'requests': ['é'] * 5})
    env = {'PYTHONIOENCODING': 'ascii'}
    told = run(folder, 'site.ini', 'status', env=env)
    assert (told.code, told.err.text) == (0, '')
    assert r'kein Caf\xe9...' in told.out.text


def test_status_is_0_where_nobody_reads_what_it_prints(folder, site):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        told = subprocess.run(
            [BIN / 'wspserve', 'site.ini', 'status'],
            cwd=folder,
            stdout=writer,
            stderr=subprocess.PIPE,
            timeout=TIMEOUT,
        )
    finally:
        os.close(writer)
    assert (told.returncode, told.stderr) == (0, b'')


# -- of what is no site ---------------------------------------------------------


def send_for_ever(sock):
    while True:
        sock.sendall(b'[' * 65536)


@pytest.mark.parametrize(
    'speak',
    [
        lambda sock: sock.sendall(b'\x1b[2J\xff\n'),
        lambda sock: sock.sendall(b'[1, 2]\n'),
        lambda sock: sock.sendall(b'{"pid":' * 10_000 + b'\n'),
        lambda sock: sock.sendall(b'{"state": "STARTED"'),
        lambda sock: sock.sendall(b'{"error": "\\u001b[2J"}\n'),
        send_for_ever,
    ],
    ids=['binary', 'a list', 'deep', 'half', 'an error', 'without end'],
)
def test_garbage_is_no_answer_and_nothing_of_it_is_printed(
    tmp_path, monkeypatch, speak
):
    path, listening = str(tmp_path / 'sock'), socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen(1)

    def answer():
        with contextlib.suppress(OSError):
            sock, _ = listening.accept()
            with sock:
                sock.recv(1000)
                speak(sock)

    monkeypatch.setattr(client, 'MAX_ANSWER', 1 << 20)
    found = Found(RUNNING, path, os.getpid())
    monkeypatch.setattr(command_status, 'find', lambda options: found)
    thread = threading.Thread(target=answer)
    thread.start()
    try:
        seen, told = command_status.look(Options())
        assert told == {}
        text = command_status.without_answer(seen)
        assert text.isprintable() and 'does not answer' in text
    finally:
        thread.join(TIMEOUT)
        listening.close()


# -- as JSON ------------------------------------------------------------------


def test_json_is_the_sites_whole_answer(folder, site):
    workers = [worker(1), worker(2)]
    site.tell(status={'workers': workers, 'generation': 7, 'tomorrow': [1]})
    code, told = status_json(folder)
    assert code == 0
    assert (told['version'], told['pid'], told['state']) == (1, site.pid, 'STARTED')
    assert (told['workers'], told['generation']) == (workers, 7)
    assert told['tomorrow'] == [1], 'what a later version adds is passed on'


def test_json_of_a_site_that_does_not_run(folder):
    assert status_json(folder) == (
        3,
        {
            'state': 'NOT RUNNING',
            'pid': None,
            'problem': 'there is no paster.pid',
        },
    )


def test_json_of_a_site_that_died(folder):
    with Process(['true'], folder) as gone:
        gone.wait()
    (folder / 'paster.pid').write_text(f'{gone.pid}\n')
    code, told = status_json(folder)
    assert (code, told['state'], told['pid']) == (1, 'DEAD', gone.pid)
    assert 'is gone' in told['problem']


def test_json_of_a_pid_file_that_cannot_be_read(folder):
    (folder / 'paster.pid').write_text('twelve\n')
    code, told = status_json(folder)
    assert (code, told['state'], told['pid']) == (4, 'UNKNOWN', None)
    assert 'does not contain a process ID' in told['problem']


def test_json_of_a_site_that_does_not_answer(folder):
    with StandIn(folder, '--silent') as site:
        code, told = status_json(folder)
    assert (code, told['state'], told['pid']) == (0, 'NO ANSWER', site.pid)
    assert told['problem'] == 'it is still starting, or it hangs'


def test_json_without_an_end_of_the_deadline_is_json(folder, site):
    site.process.stdin.write('{"status": {"deadline": Infinity}}\n')
    site.process.stdin.flush()
    assert site.out.wait_for('done\n')
    assert status_json(folder)[1]['deadline'] is None


@pytest.mark.parametrize('args', [('--json',), ('stop', '--json'), ('--json', 'start')])
def test_json_is_for_the_subcommands_that_print_it(folder, args):
    told = run(folder, 'site.ini', *args)
    assert told.code == 2
    assert (
        told.err.text
        == '--json works only with status, stacks, plan, blame, timeline\n'
    )


def test_status_as_an_option_takes_json(folder):
    told = run(folder, '--status', '--json')
    assert (told.code, json.loads(told.out.text)['state']) == (3, 'NOT RUNNING')

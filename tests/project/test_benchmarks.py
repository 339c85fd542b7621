"""The benchmarks run, and say of each target what is so; how fast anything is, is theirs."""

import contextlib
import itertools
import multiprocessing
import os
import re
import signal
import socket
import struct
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from tests.kit import TIMEOUT, Process
from tests.kit.places import ROOT

BENCHMARKS = ROOT / 'benchmarks'

TARGET = re.compile(
    r'^  target: (.+) at (most|least) (\S+): (\S+), (met|missed)$', re.M
)


@pytest.fixture
def benchmark():
    """Runs one to its end; what it printed, on standard output alone."""
    # Not tmp_path, which may be longer than a Unix socket's path can be.
    with tempfile.TemporaryDirectory() as folder:

        def run(name, *args):
            command = [sys.executable, '-W', 'error', BENCHMARKS / f'{name}.py', *args]
            with Process(command, BENCHMARKS, {'TMPDIR': folder}) as process:
                process.release()
                # It computes for as long as the machine takes.
                assert process.wait(5 * TIMEOUT) == 0, process.report()
                assert process.err.text == '', process.report()
                assert process.has_left_nothing(), process.report()
            # The folder of control sockets stays, empty.
            left = [one for one in Path(folder).rglob('*') if not one.is_dir()]
            assert left == []
            return process.out.text

        yield run
        for pid_file in Path(folder).rglob('*.pid'):  # of a daemon that was not stopped
            os.kill(int(pid_file.read_text()), signal.SIGKILL)


def targets(output):
    """{what: value} of the targets; each was measured, and judged by its value."""
    found = TARGET.findall(output)
    assert len(found) == output.count('target:') > 0, output
    for _, bound, limit, value, verdict in found:
        over = float(value) - float(limit)
        if over:  # a value that was rounded to its limit can be either
            is_met = over < 0 if bound == 'most' else over > 0
            assert verdict == ('met' if is_met else 'missed'), output
    return {what: float(value) for what, _, _, value, _ in found}


def test_start_compares_a_daemons_start_with_one_in_the_foreground(benchmark):
    output = benchmark('start', '--rounds', '2')
    assert list(targets(output)) == ['milliseconds more than in the foreground']
    assert 'left out' not in output


def test_cron_counts_lost_runs_over_a_year_and_over_graceful_restarts(benchmark):
    output = benchmark('cron', '--lines', '3', '--graceful', '2')
    assert set(targets(output).values()) == {0.0}
    rows = re.findall(r'^  (?:Europe|America)/\S+ .* {2,}(\d+) +0 +0 +0$', output, re.M)
    assert rows == ['365', '365', '2918'] * 2, output


def test_records_are_a_page_of_targets_peers_and_outputs(benchmark, tmp_path):
    page = tmp_path / 'records.md'
    benchmark('records', '--quick', '--only', 'publish', '--output', str(page))
    text = page.read_text()
    target = r'^\| The bus \| publish to 1 listener: times as fast as CherryPy \| at least 3 \| \S+ (met|missed) \|$'
    assert re.search(target, text, re.M), text
    assert '`python benchmarks/publish.py --rounds 2`' in text
    assert '- paste_wspbus ' in text


def test_records_keep_what_is_not_measured_again(benchmark, tmp_path):
    page = tmp_path / 'records.md'
    kept = '`python benchmarks/memory.py --rounds 5` (2026-01-31, 9 s, load 0.2)'
    figures = '  target: MB over a ten-line script at most 3: 0.371, met'
    old = '`python benchmarks/publish.py --rounds 9` (2026-01-31, 9 s, load 0.2)'
    page.write_text(
        f'## Starts and memory\n\n{kept}\n\n```text\n{figures}\n```\n\n'
        f'## The bus\n\n{old}\n\n```text\nfew\n```\n'
    )
    benchmark('records', '--quick', '--only', 'publish', '--output', str(page))
    text = page.read_text()
    assert f'{kept}\n\n```text\n{figures}\n```' in text
    row = '| Starts and memory | MB over a ten-line script | at most 3 | 0.371, met |'
    assert row in text
    assert old not in text
    assert '`python benchmarks/publish.py --rounds 2`' in text


def test_both_forms_of_the_records_have_all_peers_and_the_soak(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import records

    for form in (1, 2):
        commands = [
            f'{one[0]} {one[form]}' for *_, all_of in records.RECORDS for one in all_of
        ]
        assert any(one.startswith('throughput.py peers') for one in commands)
        assert any(one.startswith('soak.py') for one in commands)


def test_faults_counts_the_starts_of_a_crash_loop(benchmark):
    found = targets(
        benchmark('faults', 'crashes', '--seconds', '3', '--servers', 'wsp')
    )
    assert all(0 < starts < 12 for starts in found.values())


def test_scaling_has_a_table_for_each_step(benchmark):
    output = benchmark('scaling', '--rounds', '2', '--most', '1')
    assert list(targets(output)) == [
        'a graceful restart of 1 preloaded workers, in compositions'
    ]
    assert 'plugins: start to first response' in output


def test_timeline_says_what_recording_a_start_costs(benchmark):
    found = targets(benchmark('timeline', '--rounds', '2'))
    assert found['calls of Python for a later request'] == 0
    assert 0 < found['percent of a start'] < 5


def test_stop_counts_what_clients_lose_under_load(benchmark):
    output = benchmark('stop', '--rounds', '2', '--stops', '2')
    found = targets(output)
    for server in ('waitress', 'cheroot', 'paste'):
        row = rf'^  wspserve, {server} +(\d+) +(\d+) \(\d\) +\d+ \(\d\) +(\d+) \(\d\)'
        rows = re.findall(row, output, re.M)
        assert len(rows) == 2, output  # one for each application
        for answered, fresh, truncated in rows:
            # Each of the 16 clients was answered before each of the two stops.
            assert int(answered) >= 32, output
            assert int(fresh) == int(truncated) == 0, output
        assert found[f'requests reset on fresh connections, wspserve, {server}'] == 0
        assert found[f'truncated responses, wspserve, {server}'] == 0


RESPONSE = (
    b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nHello'
)
RESET = None


@pytest.fixture
def count(monkeypatch):
    """What stop.py's client counts, given what each connection replies to each request."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import stop

    def count(*connections, keeps_alive):
        stop.set_up(threading.Semaphore(0), threading.Event())
        listener = socket.create_server(('127.0.0.1', 0))
        client = stop.Client(listener.getsockname()[1], keeps_alive)
        thread = threading.Thread(target=reply, args=(listener, connections))
        thread.start()
        client.run()
        thread.join(TIMEOUT)
        return dict(client.counts)

    return count


def reply(listener, connections):
    """Refuse whoever comes after the last connection."""
    for number, replies in enumerate(connections, 1):
        connection, _ = listener.accept()
        if number == len(connections):
            listener.close()
        with connection:
            for response in replies:
                connection.recv(65536)
                if response is RESET:
                    linger = struct.pack('ii', 1, 0)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    break
                connection.sendall(response)


def test_stops_client_tells_a_reset_from_a_truncated_response(count):
    found = count(
        [RESPONSE], [RESET], [RESPONSE[:-1]], [RESPONSE[:20]], [b''], keeps_alive=False
    )
    assert found == {'answered': 1, 'fresh': 2, 'truncated': 2}


def test_stops_client_tells_a_reset_on_a_connection_that_was_kept_alive(count):
    found = count(
        [RESPONSE, RESPONSE, RESET], [RESPONSE, b''], [RESPONSE[:-1]], keeps_alive=True
    )
    assert found == {'answered': 3, 'kept': 2, 'truncated': 1}


def test_stops_client_does_not_use_a_connection_that_the_server_closed(count):
    closing = RESPONSE.replace(b'keep-alive', b'close')
    found = count([closing], [RESPONSE, closing], [closing], keeps_alive=True)
    assert found == {'answered': 4}


@pytest.mark.parametrize('server', ['waitress', 'cheroot', 'paste', 'wsgiref'])
def test_cycles_leave_no_threads_files_and_listeners_behind(benchmark, server):
    found = targets(benchmark('cycles', '--rounds', '30', '--server', server))
    memory = found.pop('MB of memory more than before')
    assert found.pop('Python objects more than before') < 500  # some caches fill
    assert found == {
        'threads more than before': 0,
        'file descriptors more than before': 0,
        'listeners more than before': 0,
        'logging handlers more than before': 0,
    }
    assert memory < 10


def test_spread_counts_the_requests_that_wait(benchmark):
    found = targets(benchmark('spread', '--rounds=2', '--seconds=0.2'))
    assert found.keys() == {
        f'requests that waited, wspserve, {server}'
        for server in ('waitress', 'cheroot', 'Paste#http')
    }


def test_restart_finds_no_request_lost_by_workers(benchmark):
    output = benchmark(
        *('restart', 'graceful', 'broken', 'kill', 'idle', '--servers=wspserve, w'),
        *('--restarts=1', '--requests=100', '--seconds=1', '--idle-seconds=1'),
    )
    found = targets(output)
    slow = [found.pop(what) for what in list(found) if what.startswith('ms of')]
    assert len(slow) == 2  # for 1 and for 2 workers
    assert len(found) == 8, output
    assert not any(found.values()), output
    assert 'left out' not in output
    assert 'note:' not in output  # one did not stop, or gave up


def test_restart_finds_no_request_lost_by_one_process(benchmark):
    output = benchmark('restart', 'alone', '--servers=wspserve, w', '--alone=1')
    found = targets(output)
    assert found.pop('requests failed, restart, wspserve, waitress') == 0
    assert found.pop('requests failed, graceful, wspserve, waitress') == 0
    assert len(found) == 2, output
    assert 'left out' not in output


def accept(listener, reply):
    """Send each connection ``reply(number)`` for each of its requests, None: a reset."""
    with listener:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # it was shut down
            with contextlib.suppress(ConnectionError), connection:
                for number in itertools.count():
                    response = connection.recv(65536) and reply(number)
                    if not response:
                        linger = struct.pack('ii', 1, 0)
                        connection.setsockopt(
                            socket.SOL_SOCKET, socket.SO_LINGER, linger
                        )
                        break
                    connection.sendall(response)
                    if response != PAGE:
                        break


PAGE = b'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n1 77'


@pytest.fixture
def ask(monkeypatch):
    """The failures that restart_load.py's clients count, by what they are replied."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import restart_load

    def ask(reply):
        listener = socket.create_server(('127.0.0.1', 0))
        mine, its = multiprocessing.Pipe()
        clients = restart_load.Clients(listener.getsockname()[1], its)
        server = threading.Thread(target=accept, args=(listener, reply))
        load = threading.Thread(target=clients.run)
        server.start()
        load.start()
        try:
            ended = False
            while not ended:
                mine.send('tell')
                result = mine.recv()
                ended = result.fresh.total() + result.kept.total() >= 50
        finally:
            mine.send('end')
            load.join(TIMEOUT)
            for client in clients.clients:
                client.close()
            clients.selector.close()
            listener.shutdown(socket.SHUT_RDWR)
            server.join(TIMEOUT)
            mine.close()
            its.close()
        return set(result.fresh), set(result.kept)

    return ask


def test_restarts_clients_tell_how_a_request_failed(ask):
    assert ask(lambda number: RESET) == ({'reset'}, set())
    assert ask(lambda number: PAGE[:-1]) == ({'truncated'}, set())
    failed = b'HTTP/1.1 500 Failed\r\nContent-Length: 0\r\n\r\n'
    assert ask(lambda number: failed) == ({'5xx'}, set())


def test_restarts_clients_tell_a_reset_on_a_connection_that_was_kept_alive(ask):
    found = ask(lambda number: PAGE if number == 0 else RESET)
    assert found == ({'answered'}, {'repeatable'})


def test_restarts_clients_tell_a_connection_that_is_refused(ask, monkeypatch):
    import restart_load

    with socket.create_server(('127.0.0.1', 0)) as closed:
        port = closed.getsockname()[1]
    start = restart_load.Clients.__init__
    monkeypatch.setattr(
        restart_load.Clients, '__init__', lambda self, _, its: start(self, port, its)
    )
    assert ask(lambda number: PAGE) == ({'refused'}, set())


def test_reload_serves_each_edit_without_a_failed_poll(benchmark):
    # 'first' and 'stale' take two minutes; for old answers there is workers/test_old_code.py.
    quick = ['edits', 'idle', 'growth', '--rounds=2', '--idle-seconds=1']
    output = benchmark(
        'reload',
        *quick,
        '--reloads=4',
        '--starts=4',
        '--settle-seconds=0',
        '--sites=small',
        '--servers=wspserve',
    )
    found = targets(output)
    assert 'left out' not in output, output
    for what in ('polls failed, small', 'polls refused, wspserve, child, small'):
        assert found[what] == 0, output
    for style in ('wspserve', 'wspserve, child', 'wspserve, execv'):
        assert f'wake-ups of ours, {style}, edited' in found, output
    growths = [what for what in found if what.startswith(('threads more', 'fds more'))]
    assert len(growths) == 8, output
    assert not any(found[what] > 0 for what in growths), output


@pytest.mark.parametrize(
    'response, kind',
    [
        (b'', 'reset'),
        (b'HTTP/1.1 200 OK\r\n\r\nversi', 'truncated'),
        (b'HTTP/1.1 500 Oops\r\n\r\nOops', '5xx'),
        (b'HTTP/1.1 200 OK\r\n\r\nversion 1\n', 'answered'),
    ],
)
def test_reloads_client_tells_what_came_of_a_poll(response, kind, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import reload_servers

    def answer():
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(response)

    with socket.create_server(('127.0.0.1', 0)) as listening:
        thread = threading.Thread(target=answer)
        thread.start()
        assert reload_servers.poll(listening.getsockname()[1])[0] == kind
        thread.join(TIMEOUT)


def test_frameworks_measures_each_site_and_each_framework(benchmark):
    output = benchmark('frameworks', '--rounds', '2', '--turns', '11')
    found = targets(output)
    assert found.pop('milliseconds for the largest') < 50  # the machine is busy
    named = [what.rpartition(', ')[2] for what in found]
    assert named == ['Pyramid', 'Flask', 'Django', 'CherryPy']
    for site in ('cherrypy', 'django', 'flask', 'pyramid'):
        assert re.search(rf'^  {site} +[\d.]+ ', output, re.M), output


def test_cluster_broadcast_measures_a_message_in_round_trips(benchmark):
    words = '--times=3', '--machines=2', '--workers=1', '--burst=200'
    output = benchmark('cluster_broadcast', *words)
    assert targets(output)['round trips of a message'] > 0
    for distance in (0, 1):
        assert re.search(rf'^ +{distance} ms +[\d,]+ +200 +[\d,]+$', output, re.M)


def test_cluster_measures_how_long_a_plugin_stands_still(benchmark):
    output = benchmark('cluster', '--ttl=1', '--times=1', '--seconds=1', '--machines=1')
    found = targets(output)
    assert found['failover after SIGKILL, s'] > 0
    assert len(found) == 3


def test_cluster_size_says_on_paper_where_an_engine_is_full(benchmark):
    words = '--ttl=1', '--most=1', '--seconds=0.5', '--times=2', '--largest=10'
    output = benchmark('cluster_size', *words)
    assert len(targets(output)) == 1
    row = re.search(r'^ +10( +[\d.]+){9} +160$', output, re.M)
    assert row, output
    assert re.search(r'^ +[\d,]+ broadcasts a second to 10 machines$', output, re.M)


def test_recycling_counts_the_requests_that_fail(benchmark):
    found = targets(benchmark('recycling', '--times', '1'))
    for preload in ('true', 'false'):
        assert found[f'requests failed, preload {preload}'] == 0
        assert f'slowest ÷ usual, preload {preload}' in found


def test_metrics_agree_with_clients_and_the_folder_stays_small(benchmark):
    figures = 'cost', 'agree', 'deaths'
    sizes = '--rounds=2', '--requests=1500', '--restarts=2', '--kills=1', '--deaths=20'
    found = targets(benchmark('metrics', *figures, *sizes))
    assert found.pop('microseconds more for a request') < 100  # the machine is busy
    assert found.pop('folder after all ÷ after 10') <= 1
    assert set(found.values()) == {0}, found


def test_status_is_measured_while_every_thread_is_busy(benchmark):
    output = benchmark('status', '--rounds', '2')
    assert targets(output)['milliseconds'] > 0
    assert 'one process, 4 threads sleeping' in output
    assert 'one process, 4 threads computing' in output
    assert 'one of them stopped' in output
    assert output.count('milliseconds at most 50') == 5


def test_ops_probes_a_site_without_work_and_a_busy_one(benchmark):
    output = benchmark('ops', 'sleeping', '--seconds', '0.3')
    assert output.count('times as long') == 2
    assert output.count('milliseconds of the loop at once') == 1
    assert min(targets(output).values()) > 0


def test_versus_compares_two_checkouts(benchmark):
    output = benchmark('versus', sys.executable, 'start', 'publish', '--rounds', '2')
    assert len(targets(output)) == 1  # all five have one name
    assert output.count('this checkout ÷ the other one at most') == 5

"""A supervisor whose processes hang, or report what is no report: it goes on, and stops in time."""

import contextlib
import json
import os
import random
import signal
import socket
import time

import pytest

from paste_wspbus.control.client import ask as ask_control
from paste_wspbus.role import Role
from paste_wspbus.watching.loop import Events
from paste_wspbus.wire import checks, lines
from paste_wspbus.workers.children import Children
from paste_wspbus.workers.handle import WorkerHandle
from tests.kit import Site, eventually, run
from tests.kit.processes import children, freeze, has_ended
from tests.kit.sites import APP, SERVED, ask

STRAY = {
    'binary': bytes(range(11, 256)) + b'\n',
    'no JSON': b'hello\n',
    'nothing': b'\n',
    'a list': b'[1, 2]\n',
    'a number': b'1e999\n',
    'deep': b'[' * 200_000 + b'\n',
    'deep objects': b'{"status":' * 100_000 + b'\n',
    'a huge number': b'{"exits": ' + b'9' * 10_000 + b'}\n',
    'infinity': b'{"exits": Infinity}\n',
    'too large': b'{"exits": 1e999}\n',
    'a truth': b'{"exits": true}\n',
    'a wrong type': b'{"ready": 3}\n',
    'wrong items': b'{"ready": [3, null]}\n',
    'a part': b'{"failed": 1}\n',
    'no status': b'{"status": 7}\n',
    'a wrong status': b'{"status": {"requests": "x", "calling": 5}}\n',
    'a request as text': b'{"status": {"requests": ["x"], "calling": null}}\n',
    'half a request': b'{"status": {"requests": [{"path": "/"}]}}\n',
    'a wrong age': b'{"status": {"requests": [{"method": "", "path": "", "age": 1e999, '
    b'"thread": null, "id": null}]}}\n',
    'a wrong number': b'{"status": {"requests": [], "served": -1}}\n',
    'a wrong time': b'{"status": {"requests": [], "calling": ["a", "b", 1e999]}}\n',
    'a wrong process': b'{"pid": -1}\n',
    'process 1': b'{"pid": 1}\n',
    'a wrong end': b'{"ended": "x", "code": {}}\n',
    'a wrong restart': b'{"restarts": ["execv"]}\n',
    'a wrong file': b'{"learnt": [["file", "\\u0000", null]], "modules": []}\n',
    'a wrong glob': b'{"learnt": [["glob", "a", 3]], "modules": []}\n',
    'too long': b'x' * (lines.MAX_REPORT + 100_000),
}

#: A listener that makes no sense of a report that is one.
NONSENSE = b'{"ready": []}\n'


class Heard:
    """A `Children` with one process, whose end of the connection the test has."""

    def __init__(self):
        self.events, self.nonsense, self.told = Events(), [], []
        self.children = Children(
            self.events,
            {
                'ready': self._fail,
                'status': lambda _, message: self.told.append(message),
            },
            lambda worker: None,
            lambda worker, error: self.nonsense.append(str(error)),
        )
        self.mine, self.its = socket.socketpair()
        self.mine.setblocking(False)
        self.worker = WorkerHandle(Role(), self.mine, None, 60)
        self.children.alive.append(self.worker)

    def _fail(self, worker, message):
        raise KeyError('a listener')

    def send(self, what):
        self.its.setblocking(False)
        rest = memoryview(what)
        while rest:
            with contextlib.suppress(BlockingIOError):
                rest = rest[self.its.send(rest) :]
            self.children._hear(self.worker)
        self.children._hear(self.worker)

    def close(self):
        self.its.close()
        self.worker.close()
        self.events.close()


@pytest.fixture
def heard():
    heard = Heard()
    yield heard
    heard.close()


STATUS = b'{"status": {"requests": [], "calling": null}}\n'


@pytest.mark.parametrize('what', [*STRAY.values(), NONSENSE], ids=[*STRAY, 'nonsense'])
def test_a_process_that_sends_what_is_no_report_is_told_of_once(heard, what):
    heard.send(STATUS)
    assert len(heard.told) == 1
    heard.send(what)
    heard.send(what + STATUS)
    assert len(heard.nonsense) == 1
    assert '\n' not in heard.nonsense[0] and len(heard.nonsense[0]) < 200
    assert len(heard.told) == 1


def test_half_a_line_and_silence_is_nothing(heard):
    heard.send(STATUS[:20])
    assert (heard.nonsense, heard.told) == ([], [])
    heard.send(STATUS[20:])
    assert (heard.nonsense, len(heard.told)) == ([], 1)


def test_a_word_of_another_version_is_nothing(heard):
    heard.send(b'{"tomorrow": 1}\n{}\n' + STATUS)
    assert (heard.nonsense, len(heard.told)) == ([], 1)


def test_no_process_can_end_another_or_take_its_number(heard):
    other = WorkerHandle(Role(), heard.mine, heard.worker, 60)
    stranger = WorkerHandle(Role(), heard.mine, None, 60)
    heard.children._ordered[1] = other
    heard.children._has_forked(stranger, {'forked': 1, 'process': 4711})
    heard.children._reports_an_end(stranger, {'ended': 1, 'code': 0})
    assert (other.pid, other.ended) == (0, False)


def test_a_process_that_another_has_forked_is_signalled_only_if_it_is_its_child(heard):
    template = heard.worker
    template.is_process(os.getppid())
    forged = WorkerHandle(Role(), heard.mine, template, 60)
    forged.is_process(os.getppid())
    forged.signal(signal.SIGKILL)  # would end this test
    true = WorkerHandle(Role(), heard.mine, template, 60)
    true.is_process(os.getpid())
    assert true._is_its_own and not forged._is_its_own
    true.is_process(1)
    assert true.pid == os.getpid()


def test_random_lines_break_nothing(heard):
    randomly = random.Random(13)
    keys = [*checks.VALUES, 'tomorrow']
    values = [None, True, 0, -1, 1 << 40, 1.5, '', 'x', [], [[]], {}, ['execv'], [1, 2]]
    for _ in range(5000):
        heard.worker.sends_nonsense = False
        message = {
            randomly.choice(keys): randomly.choice(values)
            for _ in range(randomly.randint(0, 4))
        }
        line = json.dumps(message).encode()
        if randomly.random() < 0.3:
            cut = randomly.randrange(len(line))
            line = line[:cut] + randomly.randbytes(3) + line[cut:]
        heard.send(line + b'\n')


# -- real processes -----------------------------------------------------------------

#: A site whose processes write what the test wants on the connection to the supervisor.
RAW = (
    APP
    + """
import gc
import socket

from paste_wspbus.report import Report


def babble(environ=None):
    '''Send what is in a file as if it were a report.'''
    for report in gc.get_objects():
        if isinstance(report, Report) and report.fd is not None:
            with open('stray', 'rb') as file:
                os.write(report.fd, file.read())


def close(environ, how=socket.SHUT_WR):
    '''End this side of the connection.'''
    for report in gc.get_objects():
        if isinstance(report, Report) and report.fd is not None:
            with socket.socket(fileno=os.dup(report.fd)) as connection:
                connection.shutdown(how)


PAGES['/babble'] = babble
PAGES['/close'] = close
PAGES['/deaf'] = lambda environ: close(environ, socket.SHUT_RD)
note('imported')
obey('when_imported')
"""
)

SETTINGS = {
    'workers': 'workers = 2',
    'preload': 'workers = 2\npreload = true',
    'one process': 'restart = child',
}

#: Seconds after which the stop of a site with INI has failed.
LATE = 20

INI = SERVED + '\n[wspbus:main]\nstop_timeout = 4\n'


def start(folder, settings='workers = 2', stray=b'', **kwargs):
    (folder / 'stray').write_bytes(stray)
    kwargs = {'files': {'webapp.py': RAW}, **kwargs}
    return Site(folder, f'{INI}{settings}\n', '--pid-file', 'site.pid', **kwargs)


def status(site):
    return ask_control(str(site.folder / 'site.pid.sock'), 'status')


def all_answer(site):
    workers = [one for one in status(site)['workers'] if one['name'] != 'preload']
    states = {(one['state'], one['requests'] is None) for one in workers}
    return states == {('ready', False)}


@pytest.mark.parametrize('settings', SETTINGS.values(), ids=SETTINGS)
def test_a_worker_whose_connection_is_of_no_use_is_replaced(tmp_path, settings):
    with start(tmp_path, settings, STRAY['deep']) as site:
        pid = ask(site, '/babble')['pid']
        site.expect('has sent something that is not a report (no JSON: RecursionError)')
        eventually(lambda: has_ended(pid))
        eventually(lambda: all_answer(site))
        assert ask(site)['pid'] != pid
        code, _, err = site.stop()
        assert (code, 'Traceback' in err) == (0, False), site.report()


def test_reports_that_are_not_true_do_no_harm(tmp_path):
    forged = (
        b'{"pid": 2}\n{"ready": []}\n{"composed": true}\n{"imported": "a", "why": "b"}\n'
        b'{"ended": 1, "code": 0, "dumped": true}\n{"forked": 1, "process": 2}\n{"exits": 3}\n'
    )
    with start(tmp_path, 'workers = 2', forged) as site:
        ask(site, '/babble')
        before = sorted(children(site.pid))
        assert all_answer(site)
        assert {one['pid'] for one in status(site)['workers']} == set(before)
        assert site.stop()[0] in (0, 3), site.report()
        assert 'Traceback' not in site.err.text


def test_a_process_that_babbles_while_it_composes_has_failed_to_start(tmp_path):
    (tmp_path / 'stray').write_bytes(b'[1]\n')
    (tmp_path / 'when_imported').write_text('babble()\nhold()\n')
    ini = INI + 'workers = 2\n'
    ended = run(tmp_path, 'site.ini', files={'site.ini': ini, 'webapp.py': RAW})
    assert ended.code == 1, ended.report()
    assert 'has sent something that is not a report (no JSON object)' in ended.err.text
    assert 'Traceback' not in ended.err.text, ended.report()


def ask_often(site, count):
    for _ in range(count):
        answer = status(site)
    return answer


def test_a_worker_that_is_stopped_costs_status_nothing_and_the_stop_no_time(tmp_path):
    with start(tmp_path) as site:
        frozen, answers = sorted(children(site.pid))
        freeze(frozen)
        began = time.monotonic()
        answer = ask_often(site, 1)
        assert time.monotonic() - began < 5
        shown = {one['pid']: one['requests'] for one in answer['workers']}
        assert shown == {frozen: None, answers: []}
        shown = ask_often(site, 2000)['workers']
        assert {one['pid']: one['requests'] for one in shown} == {
            frozen: None,
            answers: [],
        }
        os.kill(frozen, signal.SIGCONT)
        eventually(lambda: all_answer(site))
        freeze(frozen)
        ask_often(site, 2)
        began = time.monotonic()
        site.stop()
        assert time.monotonic() - began < LATE, site.report()
        assert site.has_left_nothing()


def test_orders_that_nobody_reads_do_not_block_the_supervisor(tmp_path):
    with start(tmp_path, 'workers = 1\npreload = true') as site:
        template = next(
            one['pid'] for one in status(site)['workers'] if one['name'] == 'preload'
        )
        freeze(template)
        for _ in range(3000):
            site.send(signal.SIGUSR1)
            if not _ % 300:
                status(site)
        assert status(site)['state'] == 'STARTED'
        began = time.monotonic()
        site.stop()
        assert time.monotonic() - began < LATE, site.report()


def test_a_worker_that_closes_its_connection_is_replaced(tmp_path):
    with start(tmp_path, 'workers = 1') as site:
        pid = ask(site, '/close')['pid']
        site.expect('has closed its connection to the supervisor: code of the site')
        eventually(lambda: children(site.pid) != [pid])
        eventually(lambda: has_ended(pid))
        eventually(lambda: all_answer(site))
        assert site.stop()[0] in (0, 70), site.report()
        assert site.has_left_nothing()


@pytest.mark.parametrize('count', [1, 2])
def test_a_worker_that_hears_its_supervisor_no_more_does_not_end_the_sockets(
    tmp_path, count
):
    with start(tmp_path, f'workers = {count}') as site:
        pid = ask(site, '/deaf')['pid']
        site.expect('The connection to the supervisor is closed: this process stops')
        eventually(lambda: has_ended(pid))
        eventually(lambda: all_answer(site) and pid not in children(site.pid))
        for _ in range(5):
            assert ask(site)['pid'] != pid
        assert site.stop()[0] == 0, site.report()
        assert site.has_left_nothing()


def test_a_stop_ends_a_worker_that_has_closed_its_connection(tmp_path):
    with start(tmp_path, 'workers = 1') as site:
        ask(site, '/close')
        began = time.monotonic()
        site.stop()
        assert time.monotonic() - began < LATE, site.report()
        assert site.has_left_nothing()


def test_a_worker_that_asks_for_a_thousand_successors_gets_one(tmp_path):
    with start(tmp_path, 'workers = 1', b'{"succeed": true}\n' * 1000) as site:
        pid = ask(site, '/babble')['pid']
        eventually(lambda: has_ended(pid))
        eventually(lambda: all_answer(site))
        assert len(children(site.pid)) == 1
        assert site.err.text.count('a new process takes its place') == 1
        assert site.stop()[0] == 0, site.report()

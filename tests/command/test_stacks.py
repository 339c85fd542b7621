"""`wspserve stacks`: where the threads of a site are, also if its workers hold the GIL."""

import contextlib
import json
import os
import re
import signal

import pytest

from tests.kit import Site, eventually, run
from tests.kit.processes import freeze
from tests.kit.workers import FILES, INI, Workers

HANGS = """
import re

def match_for_ever(environ):
    say(f'matching {os.getpid()}')
    re.match('(a*)*b', 'a' * 100)

def sleep_long(environ):
    say(f'sleeping {os.getpid()}')
    secret = environ['wsgi.input'].read(9)
    threading.Event().wait()

PAGES.update({'/match': match_for_ever, '/sleep': sleep_long})
"""

#: What a client sends, and nobody may read elsewhere.
SECRETS = ('qu3ry', 'h34der', 'c00kie', 'b0dy')


@pytest.fixture
def stack():
    with contextlib.ExitStack() as stack:
        yield stack


def site_of(folder, **kwargs):
    files = {'webapp.py': FILES['webapp.py'] + HANGS, 'site.ini': INI}
    return Workers(folder, files=files, **kwargs)


def send(site, stack, path):
    connection = stack.enter_context(site.connect())
    head = (
        f'POST {path}?token=qu3ry HTTP/1.1\r\nHost: localhost\r\nX-Key: h34der\r\n'
        'Cookie: c00kie\r\nContent-Length: 9\r\n\r\nb0dy'
    )
    connection.socket.sendall(f'{head:<{len(head) + 5}}'.encode())


def show(site, *args):
    told = site.run('stacks', *args)
    assert told.code == 0, told.report()
    assert told.err.text == ''
    assert not any(secret in told.out.text for secret in SECRETS)
    return told.out.text


def test_a_worker_that_holds_the_gil_shows_its_request_and_where_it_is(tmp_path, stack):
    with site_of(tmp_path, count=1) as site:
        (pid,) = site.pids()
        send(site, stack, '/sleep')
        site.expect('sleeping')
        send(site, stack, '/match')
        site.expect('matching')
        text = show(site)
        lines = text.splitlines()
        assert lines[0] == f'Worker 1 (process {pid}, generation 1, ready):'
        match = r'  Thread \d+, POST /match for \d+\.\d s \(request [\w-]+\):\n'
        frames = r'    .*line \d+ in \w+\n(    .*\n)*?'
        own = r'    \S*webapp\.py line \d+ in match_for_ever\n'
        eventually(lambda: re.search(match + frames + own, show(site)))
        assert re.search(r'POST /sleep for .*\n(    .*\n)*    .* in sleep_long\n', text)
        assert '-v shows all' in text and '/waitress/' not in text
        assert '/waitress/' in show(site, '-v')
        (told,) = json.loads(show(site, '--json'))
        assert (told['name'], told['pid'], told['generation']) == ('worker 1', pid, 1)
        assert {
            one['request']['path'] for one in told['threads'] if one['request']
        } == {'/match', '/sleep'}
        assert site.err.text.count('Stacks') == 0  # nothing is logged
        site.send(signal.SIGQUIT)
        site.expect('Stacks of process')
        os.kill(pid, signal.SIGKILL)
        site.expect('crashed')
        assert site.stop()[0] == 0


def test_one_process_shows_the_names_of_its_threads(tmp_path, stack):
    with site_of(tmp_path, count=None) as site:
        send(site, stack, '/sleep')
        site.expect('sleeping')
        text = show(site)
        assert text.startswith(
            f'The site (process {site.pid}, generation 1, STARTED):\n'
        )
        assert re.search(r'  Thread waitress-\d, POST /sleep for .*:\n', text)
        assert 'in sleep_long' in text
        site.send(signal.SIGQUIT)
        site.expect('Stacks of process')
        site.expect('Thread MainThread:')
        assert re.search(r'Thread waitress-\d, POST /sleep for \d', site.err.text)
        site.send(signal.SIGKILL)
        site.wait()
    assert not any(secret in site.err.text for secret in SECRETS)


def test_a_site_and_a_worker_that_are_stopped_say_so(tmp_path):
    with site_of(tmp_path, count=1) as site:
        (pid,) = site.pids()
        freeze(pid)
        assert 'not known: a signal has stopped it' in show(site)
        os.kill(pid, signal.SIGCONT)
        freeze(site.pid)
        told = site.run('stacks')
        assert (told.code, told.out.text) == (1, '')
        assert 'a signal has stopped it; SIGCONT lets it continue' in told.err.text
        site.send(signal.SIGCONT)
        assert site.stop()[0] == 0


def test_a_site_that_does_not_run_has_no_stacks(tmp_path):
    with Site(tmp_path, INI, '--check', files=FILES, wait=False) as site:
        site.wait()
    told = run(tmp_path, 'site.ini', 'stacks')
    assert told.code == 3
    (line,) = told.err.text.splitlines()
    assert line.startswith('The site is not running')

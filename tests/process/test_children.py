"""Child processes of a site's own: what becomes of them, and a hangup at the wrong moment."""

import os
import re
import signal
import socket
import sys

import pytest

from tests.kit import TIMEOUT, Site, eventually, run
from tests.kit.processes import has_ended

INI = """
[wspbus:main]
plugins = part

[plugin:part]
use = call:rough:part

[app:main]
use = call:rough:make

[server:main]
use = egg:waitress
host = 127.0.0.1
port = 0
"""

ROUGH = """
import os
import sys
import time


def say(text):
    os.write(2, f'{text}\\n'.encode())


def part(bus, global_conf):
    bus.stop_timeout = 60
    if os.path.exists('slow_start'):
        @bus.subscribe('start')
        def starting():
            say('starting')
            sys.stdin.read() if not os.path.exists('gate') else open('gate').read()
    if os.path.exists('forks_at_start'):
        @bus.subscribe('start')
        def fork():
            if not os.fork():
                time.sleep(%d)
                os._exit(0)
    @bus.subscribe('stop')
    def stopping():
        say('stopping')
        if os.path.exists('slow_stop'):
            sys.stdin.read()


def make(global_conf):
    def app(environ, start_response):
        start_response('200 OK', [('Content-Type', 'text/plain')])
        return [b'ok']

    if os.path.exists('forks') and not os.fork():
        time.sleep(%d)
        os._exit(0)
    if os.path.exists('lingers'):
        import multiprocessing
        context = multiprocessing.get_context('fork')
        context.Process(target=time.sleep, args=(%d,), name='digger').start()
    if os.path.exists('helped'):
        import multiprocessing
        context = multiprocessing.get_context('fork')
        helper = context.Process(target=time.sleep, args=(%d,), daemon=True)
        helper.start()
        say(f'helper {helper.pid}')
    return app
""" % (TIMEOUT, TIMEOUT, TIMEOUT, TIMEOUT)

FILES = {'rough.py': ROUGH}

IMPATIENT = """
import sys
from paste_wspbus.command import leaving
from paste_wspbus.command.main import main
leaving.LINGER = 0.5
sys.exit(leaving.finish(main()))
"""


@pytest.mark.parametrize('when', ['forks', 'forks_at_start'])
def test_a_child_that_the_site_forked_does_not_keep_the_port(tmp_path, when):
    with Site(tmp_path, INI, files={**FILES, when: ''}) as site:
        assert site.get().text == 'ok'
        site.send(signal.SIGTERM)
        assert site.process.wait(TIMEOUT) == 0  # its child has stderr still
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(site.address)


def test_a_child_that_the_site_forked_does_not_keep_the_port_of_a_killed_one(tmp_path):
    with Site(tmp_path, INI, files={**FILES, 'forks': ''}) as site:
        site.send(signal.SIGKILL)
        site.process.wait(TIMEOUT)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(site.address)


def test_a_child_process_that_does_not_end_is_named_and_left_behind(tmp_path):
    files = {**FILES, 'lingers': '', 'impatient.py': IMPATIENT}
    command = [sys.executable, 'impatient.py']
    with Site(tmp_path, INI, files=files, command=command) as site:
        site.send(signal.SIGTERM)
        assert site.process.wait(TIMEOUT) == 70
        site.expect('child processes do not end: digger (process ')


def test_a_hangup_while_the_site_stops_does_not_bring_it_back(tmp_path):
    with Site(tmp_path, INI, files={**FILES, 'slow_stop': ''}) as site:
        site.send(signal.SIGTERM)
        site.expect('stopping')
        site.send(signal.SIGHUP)
        site.release()
        assert site.wait() == 0, site.report()
    assert site.out.text.count('Serving on ') == 1


def test_a_hangup_ends_the_child_processes_that_the_end_of_the_site_would_end(tmp_path):
    with Site(tmp_path, INI, files={**FILES, 'helped': ''}) as site:
        site.send(signal.SIGHUP)
        site.wait_until_served(2)
        site.expect('helper ', 3)
        # Another process has loaded the new code in between.
        first, trial, last = map(int, re.findall(r'helper (\d+)', site.err.text))
        for gone in first, trial:
            eventually(lambda gone=gone: has_ended(gone))
        os.kill(last, 0)
        site.send(signal.SIGTERM)
        assert site.wait() == 0


def test_a_hangup_while_components_start_does_not_end_the_wait_for_the_start(tmp_path):
    os.mkfifo(tmp_path / 'gate')
    files = {**FILES, 'slow_start': ''}
    with Site(tmp_path, INI, 'start', files=files, wait=False) as command:
        try:
            gate = os.open(tmp_path / 'gate', os.O_WRONLY)  # it is in its start
            daemon = int((tmp_path / 'paster.pid').read_text())
            os.kill(daemon, signal.SIGHUP)
            log = tmp_path / 'paster.log'
            os.close(gate)
            eventually(lambda: log.read_text().count('starting') == 2)
            again = os.open(tmp_path / 'gate', os.O_WRONLY)  # the new program
            os.close(again)
            assert command.wait() == 0, command.report()
            assert 'Serving on ' in command.out.text
        finally:
            assert run(tmp_path, 'site.ini', 'stop').code == 0

"""A site for which the system does not start as many threads as it asks for."""

import os
import resource
import signal

import pytest

from tests.kit import Site, eventually, run

SERVERS = {
    'waitress': 'egg:waitress\nthreads = 100000',
    'paste': 'egg:Paste#http\nthreadpool_workers = 100000',
    'cheroot': 'egg:paste_wspbus#cheroot\nnumthreads = 100000',
    'cherrypy': 'egg:paste_wspbus#cherrypy\nthread_pool = 100000',
}
MODES = {
    'one process': (),
    'workers': ('--workers', '2'),
    'daemon': ('start', '--pid-file', 'site.pid'),
}

INI = """\
[app:main]
use = call:webapp:make
[server:main]
use = {server}
host = 127.0.0.1
port = 0
"""

#: The application counts its threads that are acquired and not released.
WEBAPP = """
import os
import threading

from paste_wspbus import get_bus

threads = set()
released = threading.Event()


def fill():
    try:
        while True:
            threading.Thread(target=released.wait, daemon=True).start()
    except RuntimeError:
        pass


def make(global_conf):
    bus = get_bus(global_conf)
    bus.subscribe('acquire_thread', threads.add)
    bus.subscribe('release_thread', threads.discard)
    bus.subscribe('exit', lambda: os.write(2, b'%d threads\\n' % len(threads)))
    if 'FILL' in os.environ:
        bus.subscribe('start', fill, priority=90)  # the server runs, block() does not

    def app(environ, start_response):
        if environ['PATH_INFO'] == '/fill':
            fill()
        start_response('200 OK', [])
        return []
    return app
"""


def limit_memory():
    """Leave room for a few hundred threads: the stack of each takes 8 MB of addresses."""
    resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('server', SERVERS)
def test_threads_that_the_system_does_not_start_are_one_line(tmp_path, server, mode):
    files = {
        'webapp.py': WEBAPP,
        'site.ini': INI.format(server=SERVERS[server]),
    }
    site = run(tmp_path, 'site.ini', *MODES[mode], files=files, preexec_fn=limit_memory)
    assert site.code == 1, site.report()
    lines = [line for line in site.err.text.splitlines() if ' threads' in line]
    assert lines[-1].startswith('site.ini [server:main]: '), site.report()
    assert 'the system starts no more threads' in lines[-1]
    assert 'Traceback' not in site.err.text
    if mode != 'daemon':
        assert '0 threads' in lines, site.report()
    eventually(site.has_left_nothing)
    assert not [name for name in os.listdir(tmp_path) if name.startswith('site.pid')]


@pytest.mark.parametrize('args', [(), ('--workers', '1')], ids=['one', 'workers'])
def test_a_site_that_has_used_all_threads_stops_in_order(tmp_path, args):
    ini, files = INI.format(server='egg:waitress'), {'webapp.py': WEBAPP}
    with Site(tmp_path, ini, *args, files=files, preexec_fn=limit_memory) as site:
        assert site.get('/fill').status == 200
        site.send(signal.SIGQUIT)
        site.expect('Stacks of process', 1 + len(args) // 2)
        site.send(signal.SIGTERM)
        assert site.wait() == 0, site.report()
    assert '0 threads' in site.err.text


def test_a_site_whose_threads_are_all_used_before_it_waits_serves_and_stops(tmp_path):
    ini, files = INI.format(server='egg:waitress'), {'webapp.py': WEBAPP}
    env = {'FILL': '1'}
    with Site(tmp_path, ini, files=files, env=env, preexec_fn=limit_memory) as site:
        assert site.get('/').status == 200
        site.expect('the site answers no command')
        site.send(signal.SIGTERM)
        assert site.wait() == 0, site.report()
    assert '0 threads' in site.err.text

"""uWSGI with --ini-paste and the bus filter alone, for real."""

import contextlib
import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.environments import environment
from tests.hosts import promises as hosts
from tests.hosts.hosted_uwsgi import UWSGI, Threads
from tests.hosts.watched import Watched
from tests.kit import eventually, write
from tests.kit.places import DOCS
from tests.kit.typed import steps

MASTER = ('--master', '--processes', '1')

#: The ways of uWSGI to run a worker.
MODES = {
    'forked': MASTER,
    'threads': (*MASTER, '--threads', '4'),
    'lazy': (*MASTER, '--lazy-apps'),
    'lazy threads': (*MASTER, '--lazy-apps', '--threads', '4'),
    'no master': (),
    'no master, lazy': ('--lazy-apps',),
    'no master, threads': ('--threads', '4'),
}


@pytest.fixture
def folder(tmp_path):
    left = shutil.ignore_patterns('events')  # of who ran it where it is
    return shutil.copytree(hosts.SITE, tmp_path / 'site', ignore=left)


class Watching(Watched, UWSGI):
    """``with Watching(folder, '--master') as uwsgi``; ``graceful=False``: as it comes."""

    def __init__(self, folder, *options, graceful=True, wait=True):
        super().__init__(folder)
        self.options, self.graceful, self.wait = options, graceful, wait

    def command(self):
        words = super().command()
        if self.graceful:
            return words
        start = words.index('--die-on-term')
        end = words.index('unix_signal:15 gracefully_kill') + 1
        return [*words[:start], *words[end:]]

    def kill(self, signum=signal.SIGINT):
        self.process.send(signum)
        return self.process.wait()

    def children(self):
        """Of the master: the workers and the router."""
        pid = self.process.pid
        text = Path(f'/proc/{pid}/task/{pid}/children').read_text()
        return [int(one) for one in text.split()]

    def log(self):
        return self.process.out.text + self.process.err.text


def ini(**plugin):
    """The hosted site's, with more in [plugin:events]."""
    more = ''.join(f'{key} = {value}\n' for key, value in plugin.items())
    text = (hosts.SITE / 'site.ini').read_text()
    return text.replace('[server:main]', f'{more}\n[server:main]')


# -- one start, one stop -----------------------------------------------------------------


@pytest.mark.parametrize('mode', MODES)
def test_a_worker_starts_once_and_stops_after_its_last_request(folder, mode):
    with Watching(folder, *MODES[mode]) as uwsgi:
        pid = uwsgi.serving()
        with uwsgi.ask('/?seconds=0.3') as connection:
            uwsgi.process.send(signal.SIGTERM)
            assert connection.receive().status == 200
        uwsgi.process.wait()
        events = uwsgi.events(pid)
        assert events[0] == 'start'
        assert events[-2:] == ['response', 'stop process exit'], uwsgi.log()
        assert events.count('start') == 1


@pytest.mark.parametrize('mode', ['forked', 'threads', 'lazy'])
def test_a_reload_stops_the_old_worker_after_its_last_request(folder, mode):
    with Watching(folder, *MODES[mode]) as uwsgi:
        old = uwsgi.serving()
        with uwsgi.ask('/?seconds=0.3') as connection:
            uwsgi.reload()
            assert connection.receive().status == 200
        uwsgi.serving(but=old)
        assert uwsgi.events(old)[-2:] == ['response', 'stop process exit']
        assert uwsgi.events(uwsgi.serving())[0] == 'start'


def test_under_load_no_worker_loses_its_stop(tmp_path):
    report = hosts.conform(Threads, 1, tmp_path)
    for promise in ('started once', 'stopped once', 'stopped last'):
        assert report.held[promise] == report.processes[promise] >= 4


@pytest.mark.parametrize('mode', ['forked', 'lazy', 'no master, lazy'])
def test_the_site_starts_before_the_first_request(folder, mode):
    with Watching(folder, *MODES[mode], wait=False) as uwsgi:
        eventually(lambda: uwsgi.events() == ['start'])


class Printed(Watching):
    """With the uwsgi.ini of docs/uwsgi.md; HTTP in the place of uWSGI's own protocol."""

    def command(self):
        page = steps((DOCS / 'uwsgi.md').read_text())
        text = next(step.text for step in page if step.name == 'uwsgi.ini')
        socket = f'http-socket = 127.0.0.1:{self.port}'
        text = text.replace('socket = 127.0.0.1:3031', socket)
        (self.folder / 'uwsgi.ini').write_text(text)
        home = environment(self.environment)
        return [self.bin('uwsgi'), '--ini', 'uwsgi.ini', '--home', home]


def test_the_configuration_of_the_page_starts_and_stops_each_worker(folder):
    with Printed(folder) as uwsgi:
        (warning,) = warnings(uwsgi)
        assert 'on its http-socket' in warning
        eventually(lambda: uwsgi.events().count('start') == 4)
        uwsgi.process.send(signal.SIGTERM)
        assert uwsgi.process.wait() == 0
        assert uwsgi.stops() == 4


def test_nothing_starts_in_the_master_nor_in_a_mule(folder):
    with Watching(folder, *MASTER, '--mule') as uwsgi:
        pid = uwsgi.serving()
        uwsgi.stop()
        assert {process for process, event, _ in uwsgi.lines() if event == 'start'} == {
            pid
        }


def test_workers_that_are_recycled_stop(folder):
    options = ('--max-requests', '3', '--min-worker-lifetime', '0')
    with Watching(folder, *MASTER, *options) as uwsgi:
        old = uwsgi.serving()
        uwsgi.serving(but=old)
        eventually(lambda: uwsgi.events(old)[-1] == 'stop process exit')
        assert uwsgi.events(old).count('request') == 3


def test_a_component_that_exits_has_its_worker_replaced(folder):
    with Watching(folder, *MASTER) as uwsgi:
        old = uwsgi.serving()
        assert uwsgi.get('/?do=exit').status == 200
        uwsgi.serving(but=old)
        assert uwsgi.events(old)[-2:] == ['response', 'stop process exit']


SLOTS = """
import os
import uwsgi
from hosted import make_app, events


def write(what):
    with open(os.environ['SLOTS'], 'a') as file:
        file.write(what + '\\n')


uwsgi.post_fork_hook = lambda: write('forked')
uwsgi.atexit = lambda: write('ended')
"""


@pytest.mark.parametrize('mode', ['forked', 'lazy'])
def test_what_the_site_put_into_the_slots_of_uwsgi_is_called_too(folder, mode):
    write(folder, {'slots.py': SLOTS})
    text = (folder / 'site.ini').read_text().replace('call:hosted:', 'call:slots:')
    (folder / 'site.ini').write_text(text)
    with Watching(folder, *MODES[mode], '--env', f'SLOTS={folder}/slots') as uwsgi:
        uwsgi.stop()
        assert uwsgi.events()[-1] == 'stop process exit'
    forked = [] if mode == 'lazy' else ['forked']  # uWSGI's own: the fork was before
    assert (folder / 'slots').read_text().split() == [*forked, 'ended']


# -- what uWSGI does not promise -----------------------------------------------------------


def capabilities(uwsgi):
    return next(more for _, event, more in uwsgi.lines() if event == 'composed')


def warnings(uwsgi):
    return [line for line in uwsgi.log().splitlines() if line.startswith('uWSGI: ')]


@pytest.mark.parametrize(
    ('options', 'graceful', 'said'),
    [
        (MASTER, False, '"hook-accepting = unix_signal:2 gracefully_kill"'),
        (MODES['lazy'], False, '"hook-accepting = unix_signal:15 gracefully_kill"'),
        (MASTER, True, 'the rest of a request on its http-socket'),
        ((*MASTER, '--skip-atexit'), True, 'do not run with skip-atexit'),
    ],
)
def test_a_mode_that_cannot_be_sure_to_stop_is_one_warning(
    folder, options, graceful, said
):
    with Watching(folder, *options, graceful=graceful) as uwsgi:
        eventually(lambda: warnings(uwsgi))  # its log may be later than its answer
        (warning,) = warnings(uwsgi)
        assert said in warning
        assert uwsgi.get().status == 200
        assert capabilities(uwsgi) == 'uWSGI main-thread,per-worker,start'


class Routed(Watching):
    """Behind uWSGI's own HTTP router."""

    def command(self):
        words = super().command()
        words[words.index('--http-socket')] = '--http'
        return words


def test_behind_a_router_the_stop_is_sure(folder):
    with Routed(folder, *MASTER) as uwsgi:
        assert not warnings(uwsgi)
        assert capabilities(uwsgi) == 'uWSGI drain,main-thread,per-worker,start,stop'


#: What a slow client has sent so far.
HALF = b'GET /?half HT'


def sockets(pid):
    """Those that a process has: that of an earlier request may be about to be closed."""
    links = set()
    for fd in os.scandir(f'/proc/{pid}/fd'):
        with contextlib.suppress(FileNotFoundError):
            links.add(os.readlink(fd.path))
    return {link for link in links if link.startswith('socket:')}


def test_half_a_request_on_http_socket_loses_the_stop_as_the_warning_says(folder):
    with Watching(folder, *MASTER) as uwsgi:
        old = uwsgi.serving()
        before = sockets(old)
        with uwsgi.connect() as connection:
            connection.socket.sendall(HALF)
            eventually(lambda: sockets(old) - before)
            uwsgi.reload()
            eventually(lambda: 'Gracefully killing worker' in uwsgi.log())
        uwsgi.serving(but=old)
        assert 'stop' not in ' '.join(uwsgi.events(old))


def test_half_a_request_behind_a_router_does_not_lose_the_stop(folder):
    with Routed(folder, *MODES['threads']) as uwsgi:
        old = uwsgi.serving()
        (router,) = {process for process in uwsgi.children() if process != old}
        before = sockets(router)
        with uwsgi.connect() as connection:
            connection.socket.sendall(HALF)
            eventually(lambda: sockets(router) - before)
            uwsgi.reload()
            eventually(lambda: uwsgi.events(old)[-1] == 'stop process exit')


def test_a_signal_that_kills_at_once_loses_the_stop_of_a_busy_worker_alone(folder):
    """As uWSGI has it; the warning says so, and how to mend it."""
    options = ('--master', '--processes', '2')
    with Watching(folder, *options, graceful=False) as uwsgi:
        eventually(lambda: uwsgi.events().count('start') == 2)
        with uwsgi.ask('/?seconds=30'):
            uwsgi.kill()
        assert uwsgi.stops() == 1


# -- sites that do not start -----------------------------------------------------------------


FAILED = 'site.ini [plugin:events]: broken failed: RuntimeError: no database, at '


@pytest.mark.parametrize('mode', ['forked', 'threads', 'lazy'])
def test_a_worker_whose_site_does_not_start_exits_and_the_next_tries(folder, mode):
    (folder / 'site.ini').write_text(ini(fail='yes'))
    with Watching(folder, *MODES[mode], wait=False) as uwsgi:
        eventually(lambda: uwsgi.log().count('OOPS ! failed loading app') >= 2)
        assert uwsgi.log().count(f'\n{folder}/{FAILED}') >= 2
        events = uwsgi.events()
        assert events[:4] == ['start', 'stop', 'start', 'stop']
        (folder / 'site.ini').write_text(ini())
        if mode == 'lazy':  # which reads it anew
            assert uwsgi.get().status == 200


SLOW = """
import time
from hosted import make_app
from hosted import events as opened


def events(bus, global_conf, **settings):
    bus.subscribe('start', lambda: time.sleep(60), priority=90)
    return opened(bus, global_conf, **settings)
"""


@pytest.mark.parametrize('mode', ['forked', 'lazy'])
def test_a_stop_that_interrupts_the_start_of_a_worker_ends_it(folder, mode):
    write(folder, {'slow.py': SLOW})
    text = (folder / 'site.ini').read_text().replace('call:hosted:', 'call:slow:')
    (folder / 'site.ini').write_text(text)
    with Watching(folder, *MODES[mode], wait=False) as uwsgi:
        eventually(lambda: 'start' in uwsgi.events())
        assert uwsgi.kill(signal.SIGTERM) == 0
        events = uwsgi.events()
        assert events.count('start') == sum(one.startswith('stop') for one in events)


@pytest.mark.parametrize(
    'options', [(), (*MODES['lazy'], '--need-app')], ids=['no master', 'need-app']
)
def test_a_site_that_does_not_start_ends_uwsgi(folder, options):
    (folder / 'site.ini').write_text(ini(fail='yes'))
    with Watching(folder, *options, wait=False) as uwsgi:
        assert uwsgi.process.wait() == 22, uwsgi.log()
        assert f'\n{folder}/{FAILED}' in uwsgi.log()
        assert uwsgi.events() == ['start', 'stop']

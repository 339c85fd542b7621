"""gunicorn, with --paste and as the .ini's server, for real."""

import os
import shutil
import signal
import textwrap
from pathlib import Path

import pytest

from tests.environments import environment, is_for_this_python
from tests.hosts import promises as hosts
from tests.kit import Connection, Process, eventually, free_port, write

#: The worker classes, and a master that composes.
MODES = {
    'sync': ['--workers', '1'],
    'gthread': ['--workers', '1', '--threads', '4'],
    'preload': ['--workers', '1', '--threads', '4', '--preload'],
}


@pytest.fixture
def folder(tmp_path):
    ignore = shutil.ignore_patterns('events')  # of a run in place
    return shutil.copytree(hosts.SITE, tmp_path / 'site', ignore=ignore)


class Gunicorn(hosts.Gunicorn):
    """One in the foreground: ``with Gunicorn(folder, '--workers', '1') as gunicorn``."""

    config = 'python:paste_wspbus.hosts.gunicorn'

    def __init__(
        self, folder, *options, app=('--paste', 'site.ini'), wait=True, env=()
    ):
        super().__init__(folder)
        self.options, self.app, self._wait, self.env = options, app, wait, dict(env)

    def command(self):
        config = ['-c', self.config] if self.config else []
        where = ['--bind', f'127.0.0.1:{self.port}', '--no-control-socket']
        return [self.bin('gunicorn'), *self.app, *config, *where, *self.options]

    def __enter__(self):
        if not self._wait:
            self.process = Process(self.command(), self.folder, self.env)
            return self
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def get(self, path='/'):
        with Connection(('127.0.0.1', self.port)) as connection:
            return connection.get(path, connection='close')

    def ask(self, path):
        """Send a request and wait until the site works on it: the connection."""
        connection = Connection(('127.0.0.1', self.port))
        before = self.events().count('request')
        connection.send(path, connection='close')
        eventually(lambda: self.events().count('request') > before)
        return connection

    def events(self):
        """All that happened, in order; 'stop' with the reason."""
        return [
            f'{event} {more}' if event == 'stop' else event
            for _, event, more in self.lines()
            if event != 'composed'
        ]

    def lines(self):
        """(process ID, event, more) of each line."""
        file = self.folder / 'events'
        for line in file.read_text().splitlines() if file.exists() else ():
            process, event, *more = line.split()
            yield int(process.partition('.')[0]), event, ' '.join(more)


class Custom(Gunicorn):
    """With the site's own gunicorn.conf.py, which gunicorn finds by itself."""

    config = None


@pytest.mark.parametrize('mode', MODES)
def test_a_request_in_flight_is_answered_before_the_stop(folder, mode):
    with Gunicorn(folder, *MODES[mode]) as gunicorn:
        with gunicorn.ask('/?seconds=0.3') as connection:
            gunicorn.process.send(signal.SIGTERM)
            assert connection.receive().status == 200
        assert gunicorn.process.wait() == 0, gunicorn.log()
        events = gunicorn.events()
        assert events[0] == 'start'
        assert events[-2:] == ['response', 'stop shutdown']


def test_a_site_that_the_master_composed_starts_in_the_worker(folder):
    with Gunicorn(folder, *MODES['preload']) as gunicorn:
        assert gunicorn.stop() == 0
        lines = list(gunicorn.lines())
    master = gunicorn.process.pid
    assert [event for pid, event, _ in lines if pid == master] == ['composed']
    assert [event for pid, event, _ in lines if pid != master].count('start') == 1


def test_the_site_is_told_of_a_reload_and_of_nothing_else(folder):
    with Gunicorn(folder, *MODES['sync']) as gunicorn:
        gunicorn.reload()
        eventually(lambda: 'stop reload' in gunicorn.events())
        assert gunicorn.get().status == 200
        gunicorn.stop()
        events = gunicorn.events()
    told = [one for one in events if one not in ('request', 'response')]
    assert sorted(told[:-1]) == ['graceful', 'start', 'start', 'stop reload']
    assert told.index('graceful') < told.index('stop reload')
    assert told[-1] == 'stop shutdown'


def test_workers_that_are_recycled_stop(folder):
    with Gunicorn(folder, *MODES['sync'], '--max-requests', '3') as gunicorn:
        eventually(lambda: gunicorn.get() and gunicorn.events().count('start') == 3)
        gunicorn.stop()
        events = gunicorn.events()
    assert events.count('start') == 3
    assert events.count('stop max_requests') == 2
    assert events.count('stop shutdown') == 1
    assert 'graceful' not in events


def test_a_quick_shutdown_of_threads_waits_for_their_requests(folder):
    with Gunicorn(folder, *MODES['gthread']) as gunicorn:
        with gunicorn.ask('/?seconds=0.5') as connection:
            gunicorn.process.send(signal.SIGQUIT)
            assert connection.receive().status == 200
            assert gunicorn.process.wait() == 0
        assert gunicorn.events()[-2:] == ['response', 'stop shutdown']


def test_the_end_of_the_terminal_stops_the_workers_in_order(folder):
    with Gunicorn(folder, *MODES['gthread']) as gunicorn:
        os.killpg(gunicorn.process.pid, signal.SIGHUP)
        eventually(lambda: gunicorn.events().count('start') >= 2)
        gunicorn.stop()
        events = gunicorn.events()
    assert events.count('start') == len([one for one in events if 'stop' in one])


def test_a_component_that_exits_has_its_worker_replaced(folder):
    with Gunicorn(folder, *MODES['gthread']) as gunicorn:
        assert gunicorn.get('/?do=exit').status == 200
        eventually(lambda: gunicorn.events().count('start') == 2)
        assert gunicorn.get('/').status == 200
        assert gunicorn.events().count('stop shutdown') == 1


def test_a_component_that_restarts_has_its_worker_replaced(folder):
    with Gunicorn(folder, *MODES['sync']) as gunicorn:
        assert gunicorn.get('/?do=restart').status == 200
        eventually(lambda: gunicorn.events().count('start') == 2)


def test_vars_and_the_name_of_the_application_hold(folder):
    ini = folder / 'site.ini'
    text = ini.read_text().replace('[pipeline:main]', '[pipeline:other]')
    ini.write_text(text.replace('%(here)s/events', '%(where)s'))
    options = *MODES['sync'], '--paste-global', f'where={folder}/events'
    with Gunicorn(folder, *options, app=('--paste', 'site.ini#other')) as gunicorn:
        gunicorn.stop()
        assert gunicorn.events()[0] == 'start'


# -- the site's own settings and hooks ------------------------------------------------

CONF = """
    import os
    from hosted import Events

    workers = 1
    threads = 3
    events = Events('events')

    def post_worker_init(worker):
        events.write('own-post_worker_init', worker.cfg.threads)

    def worker_exit(server, worker):
        events.write('own-worker_exit')

    def pre_fork(server, worker):
        events.write('own-pre_fork')

    def on_reload(server):
        events.write('own-on_reload')
"""


@pytest.mark.parametrize('how', ['found', 'named'])
def test_the_sites_own_hooks_run(folder, how):
    conf = textwrap.dedent(CONF)
    if how == 'named':
        conf += 'from paste_wspbus.hosts.gunicorn import nworkers_changed\n'
    write(folder, {'gunicorn.conf.py': conf})
    kind = Gunicorn if how == 'found' else Custom
    env = {'PYTHONPATH': str(folder)}
    with kind(folder, wait=False, env=env) as gunicorn:
        eventually(gunicorn.answers)
        gunicorn.reload()
        eventually(lambda: 'stop reload' in gunicorn.events())
        gunicorn.stop()
        events = [one for one in gunicorn.events() if one[:3] != 'req']
        settings = {more for _, event, more in gunicorn.lines() if 'init' in event}
    assert settings == {'3'}
    first = ['own-pre_fork', 'own-post_worker_init', 'start']
    assert events[:3] == first
    assert events.count('own-on_reload') == 1
    assert events[-2:] == ['stop shutdown', 'own-worker_exit']
    for one in first:
        assert events.count(one) == 2


def test_the_command_line_beats_the_sites_own_settings(folder):
    write(folder, {'gunicorn.conf.py': CONF})
    env = {'PYTHONPATH': str(folder)}
    with Gunicorn(folder, '--threads', '2', wait=False, env=env) as gunicorn:
        eventually(gunicorn.answers)
        assert ('own-post_worker_init', '2') in [line[1:] for line in gunicorn.lines()]


def test_of_our_module_gunicorn_takes_one_name(folder):
    script = (
        'from gunicorn.config import Config\n'
        'from paste_wspbus.hosts import gunicorn\n'
        'print(*set(vars(gunicorn)) & set(Config().settings))\n'
    )
    python = environment('gunicorn') / 'bin' / 'python'
    with Process([python, '-c', script], folder) as process:
        assert process.wait() == 0, process.report()
        assert process.out.text == 'nworkers_changed\n'


# -- what goes wrong --------------------------------------------------------------------


def fail(folder, section='plugin:events', line='fail = 1'):
    """Have the site's lifespan fail to start, or another line in its .ini."""
    file = folder / 'site.ini'
    file.write_text(file.read_text().replace(f'[{section}]', f'[{section}]\n{line}'))


@pytest.mark.parametrize('mode', MODES)
def test_a_site_that_does_not_start_ends_gunicorn(folder, mode):
    fail(folder)
    with Gunicorn(folder, *MODES[mode], wait=False) as gunicorn:
        assert gunicorn.process.wait() == 3  # gunicorn's "Worker failed to boot."
        assert (
            'site.ini [plugin:events]: broken failed: RuntimeError: no database, at '
            in gunicorn.process.err.text
        )
        assert gunicorn.events() == ['start', 'stop ']


@pytest.mark.parametrize('mode', ['sync', 'preload'])
def test_an_ini_that_is_wrong_is_one_line(folder, mode):
    fail(folder, 'wspbus:main', 'stop_timeuot = 3')
    with Gunicorn(folder, *MODES[mode], wait=False) as gunicorn:
        assert gunicorn.process.wait() == 4  # gunicorn's "App failed to load."
        text = gunicorn.process.err.text
        assert 'site.ini [wspbus:main] stop_timeuot: unknown key' in text
        assert 'Traceback' not in text


def test_a_stop_that_hangs_is_told_of_before_gunicorn_kills_it(folder):
    fail(folder, 'plugin:events', 'slow_stop = 60')
    with Gunicorn(folder, *MODES['sync'], '--graceful-timeout', '3') as gunicorn:
        gunicorn.stop()
        assert 'The site did not stop within 2 s' in gunicorn.process.err.text
        assert 'time.sleep(self.slow_stop)' in gunicorn.process.err.text


def test_a_worker_class_that_is_not_known_is_one_warning(folder):
    write(
        folder,
        {
            'own.py': """
                from gunicorn.workers.sync import SyncWorker

                class Worker(SyncWorker):
                    pass
            """
        },
    )
    options = '--worker-class', 'own.Worker', '--pythonpath', str(folder)
    env = {'PYTHONPATH': str(folder)}
    with Gunicorn(folder, *options, wait=False, env=env) as gunicorn:
        eventually(gunicorn.answers)
        gunicorn.stop()
        assert gunicorn.process.err.text.count('[WARNING]') == 1
        assert 'with the worker class own.Worker' in gunicorn.process.err.text
        composed = next(
            more for _, event, more in gunicorn.lines() if event == 'composed'
        )
    assert composed == 'gunicorn per-worker,reload,start,stop'


if is_for_this_python('gunicorn-19'):

    def test_a_gunicorn_that_is_too_old_is_one_warning_and_serves(folder):
        class Old(Gunicorn):
            environment = 'gunicorn-19'

            def command(self):
                return [one for one in super().command() if 'control' not in str(one)]

        with Old(folder, '--workers', '1') as gunicorn:
            gunicorn.stop()
            text = gunicorn.process.err.text
            assert text.count('[WARNING]') == 1
            assert 'gunicorn 19.10.0 is too old' in text
            events = gunicorn.events()
            assert (events[0], events[-1]) == ('start', 'stop shutdown')


def test_what_there_is_once_per_site_is_one_warning(folder):
    fail(folder, 'wspbus:main', 'site_plugins = cron')
    with open(folder / 'site.ini', 'a') as ini:
        ini.write('\n[plugin:cron]\nuse = call:nowhere:cron\n')
    with Gunicorn(folder, *MODES['sync']) as gunicorn:
        gunicorn.stop()
        assert gunicorn.process.err.text.count('[WARNING]') == 1
        assert 'site_plugins = cron' in gunicorn.process.err.text


def test_a_bus_that_another_thread_has_the_turn_of_stops_all_the_same(folder):
    """A 'graceful' that a component asked for is under way when the worker leaves."""
    write(
        folder,
        {
            'slow.py': """
                import threading, time

                def plugin(bus, global_conf):
                    bus.subscribe('graceful', lambda: time.sleep(1))
                    bus.subscribe('before_request', lambda environ: threading.Thread(
                        target=bus.graceful, daemon=True).start())
                    yield
            """
        },
    )
    with open(folder / 'site.ini', 'a') as ini:
        ini.write('\n[plugin:slow]\nuse = call:slow:plugin\n')
    file = folder / 'site.ini'
    file.write_text(
        file.read_text().replace('plugins = events', 'plugins = events slow')
    )
    with Gunicorn(folder, *MODES['sync']) as gunicorn:
        gunicorn.get()
        gunicorn.stop()
        assert gunicorn.events()[-1] == 'stop shutdown'


# -- an application that gunicorn loads by itself ------------------------------------------


def test_an_application_without_an_ini_has_a_bus_that_starts_in_the_worker(folder):
    write(
        folder,
        {
            'own.py': """
                import hosted
                from paste_wspbus.handoff import get_bus
                from paste_wspbus.requests.filter import BusFilter

                bus = get_bus()
                hosted.events(bus, {}, 'events').subscribe()
                app = BusFilter(hosted.make_app({}, 'events'), bus)
            """
        },
    )
    with Gunicorn(folder, app=['own:app']) as gunicorn:
        gunicorn.stop()
        events = gunicorn.events()
        composed = next(
            more for _, event, more in gunicorn.lines() if event == 'composed'
        )
    assert events[0] == 'start'
    assert events[-1] == 'stop shutdown'
    assert composed == 'gunicorn cluster,drain,main-thread,per-worker,reload,start,stop'


# -- [server:main] use = egg:gunicorn#main ---------------------------------------------------


class Server(Gunicorn):
    """wspserve with gunicorn.ini."""

    def command(self):
        listen = () if self.options else (f'port={self.port}',)
        return [self.bin('wspserve'), 'gunicorn.ini', *listen, *self.options]


def run(folder, *words):
    """A subcommand of wspserve: (exit code, what it prints)."""
    wspserve = environment('gunicorn') / 'bin' / 'wspserve'
    with Process([wspserve, 'gunicorn.ini', *words], folder) as process:
        code = process.wait()
        return code, process.out.text + process.err.text


def test_as_the_inis_server_its_own_settings_hold(folder):
    with Server(folder) as gunicorn:
        eventually(lambda: gunicorn.events().count('start') == 2)  # workers = 2
        code = gunicorn.stop()
        text = gunicorn.process.err.text
        assert code == 0, gunicorn.log()
        assert 'Using worker: gthread' in text  # threads = 2
        assert gunicorn.process.out.text == (
            f'Starting server in PID {gunicorn.process.pid}.\n'
            f'Serving on http://127.0.0.1:{gunicorn.port}\n'
        )
        assert sorted(gunicorn.events()[-2:]) == ['stop shutdown', 'stop shutdown']


def change(folder, setting):
    """Add a line to [server:main] of gunicorn.ini."""
    ini = folder / 'gunicorn.ini'
    ini.write_text(ini.read_text() + f'\n{setting}\n')


def test_the_addresses_are_those_of_the_master_whatever_sockets_a_worker_has(folder):
    write(
        folder,
        {
            'own.py': """
                import socket

                from gunicorn.workers.sync import SyncWorker

                class Worker(SyncWorker):
                    def init_process(self):
                        # As the workers of gevent and eventlet do.
                        own = [socket.socket(fileno=s.detach()) for s in self.sockets]
                        self.sockets = own
                        super().init_process()
            """
        },
    )
    change(folder, 'worker_class = own.Worker')
    with Server(folder, env={'PYTHONPATH': str(folder)}) as gunicorn:
        gunicorn.stop()
        serving = gunicorn.process.out.text.splitlines()[1]
    assert serving == f'Serving on http://127.0.0.1:{gunicorn.port}'


@pytest.mark.parametrize(
    ('setting', 'problem'),
    [
        (
            'worker-connections = 9',
            'worker-connections: gunicorn has no such setting; '
            "did you mean 'worker_connections'?",
        ),
        (
            'timeout = soon',
            "timeout: 'soon' is not valid: invalid literal for int() with base 0: 'soon'",
        ),
    ],
)
@pytest.mark.parametrize('words', [(), ('--check',), ('start',)])
def test_a_setting_that_gunicorn_refuses_is_named(folder, setting, problem, words):
    change(folder, setting)
    code, said = run(folder, 'port=1', *words)
    assert (code, said) == (2, f'gunicorn.ini [server:main] {problem}\n')


def test_a_key_that_resembles_no_setting_of_gunicorn_is_ignored(folder):
    change(folder, 'memory_max_usage = 2147483648')
    warning = (
        'gunicorn.ini: warning: [server:main] memory_max_usage is ignored: gunicorn has no '
        'such setting\n'
    )
    said = f'{warning}gunicorn.ini: can be served\n'
    assert run(folder, 'port=1', '--check') == (0, said)
    with Server(folder) as gunicorn:
        assert gunicorn.get().status == 200
        assert gunicorn.stop() == 0
        assert gunicorn.process.err.text.startswith(warning)


def test_the_check_imports_no_hook_of_the_site(folder):
    change(folder, 'on_starting = nowhere.hook')
    assert run(folder, 'port=1', '--check')[0] == 0


def test_as_the_inis_server_it_does_what_the_command_line_says(folder):
    port = free_port()
    options = '--workers', '1', '--listen', f'127.0.0.1:{port}', 'port=1'
    with Server(folder, *options, wait=False) as gunicorn:
        gunicorn.port = port
        eventually(gunicorn.answers)
        gunicorn.stop()
    assert gunicorn.events().count('start') == 1


def test_a_site_of_gunicorn_in_the_foreground_is_found_by_its_entry(folder):
    with Server(folder) as gunicorn:
        pid, vars = gunicorn.process.pid, f'port={gunicorn.port}'
        line = f'The site is running (process {pid}): gunicorn reports nothing else.\n'
        assert run(folder, 'status', vars) == (0, line)
        line = f'The site is running already (process {pid}).\n'
        assert run(folder, 'start', vars) == (0, line)
        assert run(folder, 'stop', vars) == (0, 'The site has stopped.\n')
        assert gunicorn.process.wait() == 0
    assert run(folder, 'status', vars)[0] == 3


def test_a_daemon_whose_server_is_gunicorn(folder):
    port = free_port()
    try:
        code, said = run(folder, 'start', f'port={port}')
        assert (code, said.splitlines()[1:]) == (
            0,
            [f'Serving on http://127.0.0.1:{port}'],
        )
        pid = int((folder / 'paster.pid').read_text())
        assert run(folder, 'start', f'port={port}') == (
            0,
            f'The site is running already (process {pid}).\n',
        )
        assert run(folder, 'status') == (
            0,
            f'The site is running (process {pid}): gunicorn reports nothing else.\n',
        )
        assert run(folder, 'graceful')[0] == 0
        log = folder / 'paster.log'
        eventually(lambda: 'Hang up' in log.read_text())
        assert run(folder, 'stop')[0] == 0
        assert not (folder / 'paster.pid').exists()
        eventually(lambda: not Path(f'/proc/{pid}').exists())
    finally:
        if (folder / 'paster.pid').exists():
            os.kill(int((folder / 'paster.pid').read_text()), signal.SIGKILL)


def test_a_daemon_whose_server_is_gunicorn_says_that_it_failed(folder):
    ini = folder / 'gunicorn.ini'
    text = ini.read_text()
    ini.write_text(text.replace('[plugin:events]', '[plugin:events]\nfail = 1'))
    code, said = run(folder, 'start', f'port={free_port()}')
    assert code == 1
    assert 'The site did not start' in said
    assert (
        'broken failed: RuntimeError: no database'
        in (folder / 'paster.log').read_text()
    )
    assert not (folder / 'paster.pid').exists()

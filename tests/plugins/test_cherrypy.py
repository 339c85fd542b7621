"""CherryPy's plugins, cheroot's server and CherryPy itself ride our bus unmodified."""

import ast
import contextlib
import errno
import http.client
import importlib
import os
import queue
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import warnings
import xml.etree.ElementTree
import zipapp
from pathlib import Path

import pytest

from paste_wspbus.bus import Bus, ChannelFailures, State
from tests.kit.places import ROOT

with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # of CherryPy's and its dependencies' imports
    cherrypy = importlib.import_module('cherrypy')
    plugins = importlib.import_module('cherrypy.process.plugins')
    servers = importlib.import_module('cherrypy.process.servers')
    wspbus = importlib.import_module('cherrypy.process.wspbus')
    cheroot_wsgi = importlib.import_module('cheroot.wsgi')

posix = pytest.mark.skipif(os.name != 'posix', reason='signals and forks of POSIX')

PATIENCE = 60  # seconds; reached only by what is broken
SCRIPTS = Path(__file__).resolve().parent / 'cherrypy_scripts'
CHERRYPYS_TESTS = Path(cherrypy.__file__).parent / 'test'


# -- child processes ------------------------------------------------------------


class Lines:
    """The lines that come out of a pipe, and its end, each waited for with patience."""

    def __init__(self, pipe):
        self.said = []  # what was listened to
        self.all = []  # what came
        self.over = threading.Event()
        self._pipe = pipe
        self._coming = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        with self._pipe:
            for line in self._pipe:
                self.all.append(line.decode(errors='replace').rstrip('\n'))
                self._coming.put(self.all[-1])
        self.over.set()
        self._coming.put(None)

    def _next(self, wanted):
        try:
            line = self._coming.get(timeout=PATIENCE)
        except queue.Empty:
            pytest.fail(f'waited for {wanted!r}, heard only {self.said}')
        if line is not None:
            self.said.append(line)
        return line

    def hear(self, wanted):
        """What follows ``wanted`` in the next line that begins with it."""
        while (line := self._next(wanted)) is not None:
            if line.startswith(wanted):
                return line[len(wanted) :].strip()
        pytest.fail(f'it ended before {wanted!r}: {self.said}')

    def rest(self):
        """Everything said, once nobody can say more."""
        while self._next('the end') is not None:
            pass
        return self.said


def environment(**more):
    """Of a child process: without what was set for this process alone."""
    alone = {'PYTHONWARNINGS', 'PYTEST_ADDOPTS', 'LISTEN_PID', 'SITE_PORT', 'REPORT_FD'}
    return {
        **{name: value for name, value in os.environ.items() if name not in alone},
        'PYTHONPATH': os.pathsep.join([str(ROOT), str(SCRIPTS)]),
        'PYTHONDONTWRITEBYTECODE': '1',
        **more,
    }


class Child(Lines):
    """A process of ours and what it says on stdout and stderr."""

    def __init__(self, argv, cwd, env, pass_fds):
        self.process = subprocess.Popen(
            [sys.executable, *map(str, argv)],
            cwd=cwd,
            env=environment(**env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=pass_fds,
        )
        self.pid = self.process.pid
        super().__init__(self.process.stdout)

    def send(self, signum):
        self.process.send_signal(signum)

    def ends(self):
        """Its exit code."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            pytest.fail(f'it does not end: {self.said}')

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)
        self.over.wait(PATIENCE)


@pytest.fixture
def spawn(tmp_path):
    """Start ``python *argv`` in tmp_path, as often as you like."""
    children = []

    def spawn(*argv, pass_fds=(), **env):
        child = Child(argv, tmp_path, env, pass_fds)
        children.append(child)
        return child

    yield spawn
    for child in children:
        child.kill()


@pytest.fixture
def site(spawn, tmp_path):
    """Start a child that makes a bus and plugins and does what the source says."""

    def site(source, *argv, **options):
        script = tmp_path / 'site_script.py'
        script.write_text(program(source))
        return spawn('site_script.py', *argv, **options)

    return site


def program(source):
    return textwrap.dedent("""\
            import os, signal, sys, threading
            from riding import say, say_when_blocking, talking_bus
            from cherrypy.process import plugins, servers
            bus = talking_bus()
        """) + textwrap.dedent(source)


# -- HTTP -------------------------------------------------------------------------


def get(port, path='/'):
    """Status and body of one request on a connection of its own."""
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request('GET', path)
        with connection.getresponse() as response:
            return response.status, response.read().decode()


def is_free(port):
    """Whether nobody listens there."""
    with socket.socket() as client:
        client.settimeout(PATIENCE)
        return client.connect_ex(('127.0.0.1', port)) == errno.ECONNREFUSED


def free_port():
    """A port to give a server that has to come back to it.

    One that the system chose is of no use to cheroot then: it binds those
    without SO_REUSEADDR, and the connections it closed hold them for a minute.
    """
    with socket.create_server(('127.0.0.1', 0)) as server:
        return server.getsockname()[1]


def hello(environ, start_response):
    body = b'hello from cheroot'
    start_response('200 OK', [('Content-Length', str(len(body)))])
    return [body]


# -- a bus in this process ----------------------------------------------------------


class Recorder(plugins.SimplePlugin):
    """A plugin as a site writes it."""

    def __init__(self, bus):
        super().__init__(bus)
        self.calls = []

    def start(self):
        self.calls.append('start')

    def stop(self):
        self.calls.append('stop')

    def exit(self):
        self.calls.append('exit')

    def graceful(self):
        self.calls.append('graceful')

    def main(self):
        self.calls.append('main')

    def log(self, msg, level):
        self.calls.append(msg)

    def reindex(self, what):
        self.calls.append(f'reindex {what}')
        return what


# -- CherryPy's own tests ---------------------------------------------------------


def functions_of(module, *classes):
    """Names of a test module's tests, without importing it."""
    tree = ast.parse((CHERRYPYS_TESTS / module).read_text())
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name in classes:
            yield from (f.name for f in node.body if isinstance(f, ast.FunctionDef))
        elif isinstance(node, ast.FunctionDef) and not classes:
            yield node.name


def verdicts(tmp_path, *selection):
    """What becomes of CherryPy's tests on our bus: name → failure or ''."""
    report = tmp_path / 'report.xml'
    (tmp_path / 'pytest.ini').write_text('[pytest]\n')
    options = ['-q', '-p', 'no:cacheprovider', '-p', 'on_our_bus']
    options += ['-c', 'pytest.ini', '--junitxml', report]
    done = subprocess.run(
        [sys.executable, '-m', 'pytest', *map(str, options), *selection],
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=4 * PATIENCE,
    )
    assert report.exists(), done.stdout.decode() + done.stderr.decode()
    return {
        case.get('name'): ''.join(
            ''.join(problem.itertext())
            for problem in case
            if problem.tag in ('failure', 'error')
        )
        for case in xml.etree.ElementTree.parse(report).iter('testcase')
    }


@pytest.fixture(scope='module')
def verdicts_on_the_bus(tmp_path_factory):
    # Theirs allow tens of milliseconds for what a busy machine needs more for: what
    # fails gets two more tries.
    file = str(CHERRYPYS_TESTS / 'test_bus.py')
    told = verdicts(tmp_path_factory.mktemp('bus'), file)
    for _ in range(2):
        failed = [f'{file}::{name}' for name, problem in told.items() if problem]
        if failed:
            told |= verdicts(tmp_path_factory.mktemp('bus'), *failed)
    return told


@pytest.mark.parametrize(
    'name', [n for n in functions_of('test_bus.py') if n.startswith('test_')]
)
def test_cherrypys_own_bus_tests_hold_for_our_bus(verdicts_on_the_bus, name):
    assert verdicts_on_the_bus.get(name, 'was not run') == ''


#: Those that touch files of the installed package or spawn cherryd are not run.
STATE_TESTS = ('test_0_NormalStateFlow', 'test_1_Restart', 'test_2_KeyboardInterrupt')


@pytest.fixture(scope='module')
def verdicts_on_states(tmp_path_factory):
    selection = [
        f'{CHERRYPYS_TESTS / "test_states.py"}::ServerStateTests::{name}'
        for name in STATE_TESTS
    ]
    return verdicts(tmp_path_factory.mktemp('states'), *selection)


@pytest.mark.parametrize('name', STATE_TESTS)
def test_cherrypys_own_state_tests_hold_for_our_bus(verdicts_on_states, name):
    assert verdicts_on_states.get(name, 'was not run') == ''


# -- the same on both buses -----------------------------------------------------


def scene_stop_of_a_fresh_bus(bus, note):
    bus.subscribe('stop', lambda: note('stop'))
    bus.stop()


def scene_exit_of_a_fresh_bus(bus, note):
    bus.subscribe('stop', lambda: note('stop'))
    bus.subscribe('exit', lambda: note('exit'))
    bus.exit()


def scene_two_cycles(bus, note):
    for channel in ('start', 'stop', 'exit'):
        bus.subscribe(channel, lambda channel=channel: note(channel))
    for command in (bus.start, bus.stop, bus.start, bus.exit, bus.start, bus.exit):
        command()
        note(bus.state)


def scene_priorities(bus, note):
    def by_attribute():
        note('by attribute')

    by_attribute.priority = 20
    bus.subscribe('any', lambda: note('default is 50'))
    bus.subscribe('any', by_attribute)
    bus.subscribe('any', lambda: note('positional'), 10)
    bus.subscribe('any', lambda: note('keyword'), priority=49.5)
    bus.subscribe('any')(lambda: note('decorated, before it was ready'))
    bus.listeners['any'].clear()
    bus.subscribe('any', lambda: note('late'), priority=51)
    bus.subscribe('any', by_attribute, priority=None)
    bus.subscribe('any', priority=1)(lambda: note('decorated'))
    bus.publish('any')


def scene_subscribed_twice(bus, note):
    def first():
        note('first')

    bus.subscribe('any', first, priority=10)
    bus.subscribe('any', lambda: note('second'), priority=20)
    bus.subscribe('any', first, priority=30)
    bus.publish('any')
    bus.unsubscribe('any', first)
    bus.unsubscribe('any', first)
    bus.unsubscribe('never heard of', first)
    bus.publish('any')


def scene_results_and_arguments(bus, note):
    note(bus.publish('nobody listens', 1, two=2))
    bus.subscribe('sum', lambda a, b=1: a + b, priority=1)
    bus.subscribe('sum', lambda a, b=1: a * b, priority=2)
    note(bus.publish('sum', 5))
    note(bus.publish('sum', 5, b=3))


def scene_failures_are_collected(bus, note):
    def fail(error):
        raise error

    bus.subscribe('any', lambda: fail(ValueError('one')), priority=1)
    bus.subscribe('any', lambda: note('between'), priority=2)
    bus.subscribe('any', lambda: fail(KeyError('two')), priority=3)
    try:
        bus.publish('any')
    except Exception as failures:
        note(type(failures).__name__, bool(failures), str(failures), repr(failures))
        note(failures.get_instances(), failures.delimiter, failures.args)


def scene_a_failing_log_listener_does_not_log_that(bus, note):
    def fail(msg, level):
        raise OSError(msg)

    bus.subscribe('log', fail, priority=1)
    try:
        bus.publish('log', 'disk full', 20)
    except Exception as failures:
        note(str(failures))


def scene_system_exit_ends_a_publish_at_once(bus, note):
    def leave(code):
        sys.exit(code)

    bus.subscribe('any', lambda: leave(0), priority=2)
    bus.subscribe('any', lambda: note('never called'), priority=3)
    with pytest.raises(SystemExit) as left:
        bus.publish('any')
    note(left.value.code)
    bus.subscribe('any', lambda: 1 / 0, priority=1)
    with pytest.raises(SystemExit) as left:
        bus.publish('any')
    note(left.value.code)


def scene_keyboard_interrupt_ends_a_publish_at_once(bus, note):
    def interrupt():
        raise KeyboardInterrupt

    bus.subscribe('any', interrupt, priority=1)
    bus.subscribe('any', lambda: note('never called'), priority=2)
    with pytest.raises(KeyboardInterrupt):
        bus.publish('any')


def scene_block_traps_what_main_listeners_raise(bus, note):
    def interrupt():
        raise KeyboardInterrupt

    def leave():
        sys.exit(3)

    for raiser in (interrupt, leave):
        bus.subscribe('main', raiser)
        bus.start()
        try:
            bus.block(interval=0.01)
            note('returned', bus.state)
        except SystemExit as left:
            note('raised', left.code, bus.state)
        bus.unsubscribe('main', raiser)


def scene_wait_takes_one_state_or_several(bus, note):
    bus.start()
    bus.wait(bus.states.STARTED)
    bus.wait([bus.states.STOPPED, bus.states.STARTED], interval=0.01, channel='main')
    bus.wait(state=bus.states.STARTED)
    bus.exit()
    bus.block()


def scene_a_log_line_with_its_traceback(bus, note):
    try:
        raise LookupError('gone')
    except LookupError:
        bus.log('It failed', level=40, traceback=True)
    bus.log()


def scene_foreign_code_writes_to_listeners(bus, note):
    note(sorted(bus.listeners))
    bus.listeners['before_request'] = set()
    bus.listeners.setdefault('acquire_thread', set())
    bus.subscribe('before_request', lambda: note('request'))
    bus.subscribe('acquire_thread', lambda: note('thread'))
    bus.publish('before_request')
    bus.publish('acquire_thread')
    note(len(bus.listeners['before_request']))
    bus.anything = 'goes'
    note(bus.anything)


SCENES = {
    name.removeprefix('scene_'): value
    for name, value in list(globals().items())
    if name.startswith('scene_')
}


def transcript(bus, scene):
    """All that a scene notes and the bus logs, without file names and addresses."""
    lines = []

    def note(*words):
        lines.append(' '.join(map(str, words)))

    def listen(msg, level):
        text, *traceback = msg.split('\n')
        # Which listener it was is told in another way by each bus.
        text = text.partition(' listener ')[0] if text.startswith('Error in') else text
        last = next((line for line in reversed(traceback) if line), '')
        lines.append(f'LOG {level} {text} {last}'.strip())

    bus.subscribe('log', listen, priority=99)
    scene(bus, note)
    lines.append(str(bus.state))
    return [line.replace('State.', 'states.') for line in lines]


@pytest.mark.parametrize('scene', SCENES.values(), ids=SCENES.keys())
def test_our_bus_does_and_says_what_cherrypys_does(scene):
    ours = transcript(Bus(), scene)
    assert ours == transcript(wspbus.Bus(), scene)


# -- SimplePlugin ---------------------------------------------------------------


def test_a_simple_plugin_hears_every_channel_that_it_has_a_method_for(bus):
    bus.listeners['reindex'] = set()
    plugin = Recorder(bus)
    plugin.subscribe()
    assert bus.publish('reindex', 'all') == ['all']
    bus.start()
    bus.graceful()
    bus.publish('main')
    bus.exit()
    assert plugin.calls == [
        'reindex all',
        'Bus STARTING',
        'start',
        'Bus STARTED',
        'Bus graceful',
        'graceful',
        'main',
        'Bus STOPPING',
        'stop',
        'Bus STOPPED',
        'Bus EXITING',
        'exit',
        'Bus EXITED',
    ]


def test_a_channel_made_after_a_simple_plugin_subscribed_is_not_its(bus):
    plugin = Recorder(bus)
    plugin.subscribe()
    bus.listeners['reindex'] = set()
    assert bus.publish('reindex', 'all') == []


def test_a_simple_plugin_that_unsubscribed_hears_nothing(bus):
    bus.listeners['reindex'] = set()
    plugin = Recorder(bus)
    plugin.subscribe()
    plugin.unsubscribe()
    bus.start()
    bus.graceful()
    bus.publish('reindex', 'all')
    bus.exit()
    assert plugin.calls == []


def test_a_simple_plugin_subscribes_again_from_a_listener_of_its_own(bus):
    plugin = Recorder(bus)

    @bus.subscribe('start')
    def plug_in():
        plugin.subscribe()

    bus.start()
    bus.stop()
    assert plugin.calls[-2:] == ['stop', 'Bus STOPPED']


def test_cherrypys_plugins_start_and_stop_in_the_order_of_their_priorities(
    bus, tmp_path, site
):
    child = site("""
        from cheroot.wsgi import Server
        server = Server(('127.0.0.1', 0), None)
        servers.ServerAdapter(bus, server, ('127.0.0.1', 0)).subscribe()
        plugins.DropPrivileges(bus, umask=0o027).subscribe()
        plugins.PIDFile(bus, 'site.pid').subscribe()
        plugins.ThreadManager(bus).subscribe()
        bus.start()
        bus.exit()
        for call in bus.timeline:
            say('called', call.channel, call.name.split('.', 3)[-1])
    """)
    assert child.ends() == 0
    assert [line for line in child.rest() if line.startswith('called')] == [
        'called start PIDFile.start',
        'called start ServerAdapter.start',
        'called start DropPrivileges.start',
        'called stop ServerAdapter.stop',
        'called stop ThreadManager.stop',
        'called exit PIDFile.exit',
    ]


# -- SignalHandler ----------------------------------------------------------------

SIGNALLED = """
    handler = plugins.SignalHandler(bus)
    handler.subscribe()
    bus.subscribe('graceful', lambda: say_when_blocking(bus, 'reloaded'))
    say_when_blocking(bus, 'blocking')
    bus.start()
    bus.block()
    say('block returned')
"""


@posix
def test_sigterm_stops_a_site_that_blocks(site):
    child = site(SIGNALLED)
    child.hear('blocking')
    child.send(signal.SIGTERM)
    assert child.ends() == 0
    assert child.rest()[-7:] == [
        'Caught signal SIGTERM.',
        'Bus STOPPING',
        'Bus STOPPED',
        'Bus EXITING',
        'Bus EXITED',
        'Waiting for child threads to terminate...',
        'block returned',
    ]


@posix
@pytest.mark.parametrize('waits', ['block()', 'wait(bus.states.EXITING)'])
def test_sigterm_ends_a_wait_during_which_nobody_listens_to_main(site, waits):
    child = site(f"""
        plugins.SignalHandler(bus).subscribe()
        bus.start()
        say('waiting')
        bus.{waits}
        say('returned')
    """)
    child.hear('waiting')
    child.send(signal.SIGTERM)
    assert child.ends() == 0
    assert child.rest()[-1] == 'returned'
    assert child.said.count('Bus EXITED') == 1


@posix
def test_sighup_of_a_site_that_is_no_daemon_exits(site):
    child = site(SIGNALLED)
    child.hear('blocking')
    child.send(signal.SIGHUP)
    assert child.ends() == 0
    assert 'SIGHUP caught but not daemonized. Exiting.' in child.rest()
    assert 'Bus EXITED' in child.said


@posix
def test_sigusr1_is_graceful_and_the_site_goes_on(site):
    child = site(SIGNALLED)
    child.hear('blocking')
    for _ in range(2):
        child.send(signal.SIGUSR1)
        child.hear('Bus graceful')
        child.hear('reloaded')
    assert 'Bus STOPPING' not in child.said
    child.send(signal.SIGTERM)
    assert child.ends() == 0
    assert 'block returned' in child.rest()


def test_a_graceful_asked_for_during_a_graceful_is_not_lost(bus):
    # What it is about may have changed after the listeners looked.
    told = []

    @bus.subscribe('graceful')
    def reload():
        told.append('reloaded')
        if len(told) == 1:
            in_a_thread(bus.graceful)

    bus.start()
    bus.graceful()
    assert told == ['reloaded', 'reloaded']


@posix
def test_a_signal_handler_that_unsubscribed_gives_the_signals_back(site):
    child = site("""
        handler = plugins.SignalHandler(bus)
        handler.subscribe()
        say_when_blocking(bus, 'blocking')
        bus.start()
        handler.unsubscribe()
        bus.block()
    """)
    child.hear('Restoring SIGTERM handler')
    child.hear('blocking')
    child.send(signal.SIGTERM)
    assert child.ends() == -signal.SIGTERM
    assert 'Bus STOPPING' not in child.rest()


@posix
def test_a_signal_handler_takes_signals_and_listeners_of_the_sites_choice(site):
    child = site("""
        handler = plugins.SignalHandler(bus)
        handler.handlers['SIGUSR2'] = lambda: say('rotated')
        handler.handlers['SIGNONSENSE'] = bus.exit
        del handler.handlers['SIGHUP']
        handler.subscribe()
        handler.set_handler('SIGHUP', lambda: say('hung up'))
        handler.set_handler(signal.SIGWINCH, lambda: say('resized'))
        say_when_blocking(bus, 'blocking')
        bus.start()
        bus.block()
    """)
    child.hear('blocking')
    for name, answer in [
        ('SIGUSR2', 'rotated'),
        ('SIGHUP', 'hung up'),
        ('SIGWINCH', 'resized'),
    ]:
        child.send(getattr(signal, name))
        child.hear(f'Caught signal {name}.')
        child.hear(answer)
    child.send(signal.SIGTERM)
    assert child.ends() == 0


@posix
def test_sigterm_during_start_is_obeyed_before_the_next_listener(site):
    child = site("""
        plugins.SignalHandler(bus).subscribe()
        wait_for_signal = threading.Event()
        bus.subscribe('SIGTERM', wait_for_signal.set)

        @bus.subscribe('start', priority=10)
        def slow():
            say('starting slowly')
            wait_for_signal.wait(60)

        bus.subscribe('start', lambda: say('too late'), priority=20)
        bus.subscribe('exit', lambda: say('tidied up'))
        bus.start()
        bus.block()
        say('block returned')
    """)
    child.hear('starting slowly')
    child.send(signal.SIGTERM)
    assert child.ends() == 0
    said = child.rest()
    assert 'too late' not in said
    assert 'Bus STARTED' not in said
    assert said.index('tidied up') < said.index('block returned')


@posix
def test_signals_during_stop_do_not_stop_twice(site):
    child = site("""
        plugins.SignalHandler(bus).subscribe()
        # Not a Semaphore: the handler could meet the lock that it interrupts.
        seen, sees = os.pipe()
        bus.subscribe('SIGTERM', lambda: os.write(sees, b'.'))

        @bus.subscribe('stop')
        def slow():
            say('stopping slowly')
            os.read(seen, 1)
            os.read(seen, 1)
            say('stopped slowly')

        say_when_blocking(bus, 'blocking')
        bus.start()
        bus.block()
    """)
    child.hear('blocking')
    child.send(signal.SIGTERM)
    child.hear('stopping slowly')
    child.send(signal.SIGTERM)
    assert child.ends() == 0
    said = child.rest()
    assert said.count('stopping slowly') == said.count('stopped slowly') == 1
    assert said.count('Bus EXITED') == 1


@posix
def test_sigterm_stops_a_site_that_does_not_block(site):
    child = site("""
        plugins.SignalHandler(bus).subscribe()
        left = threading.Event()
        bus.subscribe('exit', left.set)
        bus.start()
        say('working')
        left.wait(60)
        say(bus.state.name)
    """)
    child.hear('working')
    child.send(signal.SIGTERM)
    assert child.ends() == 0
    assert child.rest()[-1] == 'EXITING'


@posix
def test_ctrl_c_ends_a_site_that_blocks(site):
    child = site("""
        bus.subscribe('exit', lambda: say('tidied up'))
        say_when_blocking(bus, 'blocking')
        bus.start()
        bus.block()
        say('block returned')
    """)
    child.hear('blocking')
    child.send(signal.SIGINT)
    assert child.ends() == 0
    said = child.rest()
    assert said.index('Keyboard Interrupt: shutting down bus') < said.index('tidied up')
    assert said[-1] == 'block returned'


# -- DropPrivileges, PIDFile -------------------------------------------------------


@posix
def test_drop_privileges_sets_the_umask_once(site, tmp_path):
    child = site("""
        os.umask(0o022)
        plugins.DropPrivileges(bus, umask=0o077).subscribe()
        bus.start()
        open('secret', 'w').close()
        bus.stop()
        bus.start()
        bus.exit()
    """)
    assert child.ends() == 0
    said = child.rest()
    assert 'umask old: 022, new: 077' in said
    assert 'umask already set to: 077' in said
    assert (tmp_path / 'secret').stat().st_mode & 0o777 == 0o600


def test_a_pid_file_is_written_at_the_first_start_and_removed_at_exit(
    bus, log, tmp_path
):
    path = tmp_path / 'site.pid'
    plugins.PIDFile(bus, str(path)).subscribe()
    bus.start()
    assert path.read_text() == f'{os.getpid()}\n'
    bus.stop()
    assert path.exists()
    bus.start()
    assert f'PID {os.getpid()} already written to {str(path)!r}.' in log
    bus.exit()
    assert not path.exists()
    assert f'PID file removed: {str(path)!r}.' in log


def test_a_pid_file_that_somebody_removed_does_not_disturb_the_exit(bus, tmp_path):
    path = tmp_path / 'site.pid'
    plugins.PIDFile(bus, str(path)).subscribe()
    bus.start()
    path.unlink()
    bus.exit()
    assert bus.state is State.EXITING
    assert bus.exit_code == 0


def test_a_site_that_fails_to_start_leaves_no_pid_file(site, tmp_path):
    child = site("""
        plugins.PIDFile(bus, 'site.pid').subscribe()
        bus.subscribe('start', lambda: 1 / 0, priority=90)
        bus.subscribe('start', lambda: say('written', os.path.exists('site.pid')), 80)
        bus.start()
        bus.block()
    """)
    assert child.ends() == 1
    assert 'written True' in child.rest()
    assert not (tmp_path / 'site.pid').exists()


# -- PerpetualTimer, BackgroundTask, Monitor ------------------------------------


class Beat:
    """A callback whose calls can be waited for."""

    def __init__(self):
        self._calls = threading.Semaphore(0)

    def __call__(self):
        self._calls.release()

    def happens(self, times=1):
        return all(self._calls.acquire(timeout=PATIENCE) for _ in range(times))


def ended(thread):
    thread.join(PATIENCE)
    return not thread.is_alive()


def boom():
    raise RuntimeError('boom')


# CherryPy 18.10 says isSet() where Python has is_set().
@pytest.mark.filterwarnings('ignore:isSet:DeprecationWarning')
def test_a_perpetual_timer_of_a_site_runs_between_start_and_stop(bus):
    beat = Beat()
    timer = plugins.PerpetualTimer(0.01, beat, bus=bus)
    bus.subscribe('start', timer.start)
    bus.subscribe('stop', timer.cancel)
    bus.start()
    assert beat.happens(times=3)
    bus.stop()
    assert ended(timer)


@pytest.mark.filterwarnings('ignore:isSet:DeprecationWarning')
@pytest.mark.filterwarnings('ignore::pytest.PytestUnhandledThreadExceptionWarning')
def test_a_perpetual_timer_logs_on_the_bus_why_it_ended(bus, log):
    timer = plugins.PerpetualTimer(0.01, boom, bus=bus)
    timer.start()
    assert ended(timer)
    assert log[0].startswith('Error in perpetual timer thread function')
    assert 'RuntimeError: boom' in log[0]


def test_a_background_task_runs_until_it_is_cancelled(bus):
    beat = Beat()
    task = plugins.BackgroundTask(0.01, beat, bus=bus)
    task.start()
    assert beat.happens(times=3)
    task.cancel()
    assert ended(task)


@pytest.mark.filterwarnings('ignore::pytest.PytestUnhandledThreadExceptionWarning')
def test_a_background_task_logs_on_the_bus_why_it_ended(bus, log):
    task = plugins.BackgroundTask(0.01, boom, bus=bus)
    task.start()
    assert ended(task)
    assert log[0].startswith('Error in background task thread function')
    assert 'RuntimeError: boom' in log[0]


def test_a_monitor_runs_between_start_and_stop_and_starts_again(bus, log):
    beat = Beat()
    monitor = plugins.Monitor(bus, beat, frequency=0.01, name='Heart')
    monitor.subscribe()
    for _ in range(2):
        bus.start()
        thread = monitor.thread
        assert thread.name == 'Heart'
        assert beat.happens(times=2)
        bus.stop()
        assert monitor.thread is None
        assert ended(thread)
    assert log.count("Started monitor thread 'Heart'.") == 2
    assert log.count("Stopped thread 'Heart'.") == 2


def test_graceful_restarts_a_monitor(bus):
    beat = Beat()
    monitor = plugins.Monitor(bus, beat, frequency=0.01)
    monitor.subscribe()
    bus.start()
    assert beat.happens()
    old = monitor.thread
    bus.graceful()
    assert ended(old)
    assert monitor.thread is not old
    assert beat.happens(times=2)


def test_a_monitor_stops_the_bus_from_its_own_thread(bus):
    stopping = threading.Event()

    def stop():
        stopping.set()
        bus.exit()

    monitor = plugins.Monitor(bus, stop, frequency=0.01)
    monitor.subscribe()
    bus.start()
    assert stopping.wait(PATIENCE)
    bus.wait(State.EXITING)
    assert monitor.thread is None


# -- Autoreloader and re-execution ---------------------------------------------------

RELOADING = """
    watched = os.environ['WATCHED']
    reloader = plugins.Autoreloader(bus, frequency=0.05, match='^nothing$')
    reloader.files.add(watched)
    reloader.subscribe()
    plugins.SignalHandler(bus).subscribe()

    @bus.subscribe('main')
    def once_it_watches():
        if watched in reloader.mtimes:
            bus.unsubscribe('main', once_it_watches)
            package = __package__ or None
            say('up', os.getpid(), sys.flags.optimize, package, *sys.argv[1:])

    bus.start()
    os.chdir('/')  # a site may go elsewhere; the command line was given there
    bus.block()
"""


def touch(path):
    """Make the file look new: its mtime goes up, however fast we are."""
    later = path.stat().st_mtime + 10
    os.utime(path, (later, later))


@posix
@pytest.mark.parametrize(
    'invocation, told',
    [
        (['site.py'], '0 None'),
        (['site.py', 'two words', '-O', '-m'], '0 None two words -O -m'),
        (['-O', 'site.py', 'x'], '1 None x'),
        (['-m', 'site_package', 'x'], '0 site_package x'),
        (['-OO', '-u', '-m', 'site_package.inner', '-m', 'x'], '2 site_package -m x'),
        (['-c', program(RELOADING), 'x'], '0 None x'),
        (['site_package', 'x'], '0 None x'),
        (['site.pyz', 'x'], '0 None x'),
    ],
    ids=[
        'script',
        'arguments',
        'optimized',
        'package',
        'module',
        'command',
        'directory',
        'zip',
    ],
)
def test_a_change_of_a_watched_file_executes_the_same_command_line_again(
    spawn, tmp_path, invocation, told
):
    package = tmp_path / 'site_package'
    package.mkdir()
    (package / '__init__.py').touch()
    for script in ('site.py', 'site_package/__main__.py', 'site_package/inner.py'):
        (tmp_path / script).write_text(program(RELOADING))
    zipapp.create_archive(package, tmp_path / 'site.pyz')
    watched = tmp_path / 'watched.conf'
    watched.touch()
    child = spawn(*invocation, WATCHED=str(watched))
    assert child.hear('up') == f'{child.pid} {told}'
    for _ in range(2):
        touch(watched)
        assert child.hear('Restarting because') == f'{watched} changed.'
        child.hear('Bus EXITED')
        child.hear('Re-spawning')
        assert child.hear('up') == f'{child.pid} {told}'
    child.send(signal.SIGTERM)
    assert child.ends() == 0


@posix
def test_an_autoreloader_runs_the_new_code_of_the_site_itself(spawn, tmp_path):
    script = tmp_path / 'site.py'
    source = program("""
        reloader = plugins.Autoreloader(bus, frequency=0.05, match='^__main__$')
        reloader.subscribe()

        @bus.subscribe('main')
        def once_it_watches():
            if __file__ in reloader.mtimes:
                bus.unsubscribe('main', once_it_watches)
                say('this is version ONE')

        plugins.SignalHandler(bus).subscribe()
        bus.start()
        bus.block()
    """)
    script.write_text(source)
    child = spawn('site.py')
    assert child.hear('this is version') == 'ONE'
    mtime = script.stat().st_mtime
    script.write_text(source.replace('ONE', 'TWO'))
    os.utime(script, (mtime + 10, mtime + 10))
    assert child.hear('this is version') == 'TWO'
    child.send(signal.SIGTERM)
    assert child.ends() == 0


@posix
def test_an_autoreloader_that_unsubscribed_watches_no_more(bus, tmp_path):
    watched = tmp_path / 'watched.conf'
    watched.touch()
    reloader = plugins.Autoreloader(bus, frequency=0.01, match='^nothing$')
    reloader.files.add(str(watched))
    reloader.subscribe()
    reloader.unsubscribe()
    bus.start()
    assert reloader.thread is None
    assert bus.state is State.STARTED


@posix
@pytest.mark.parametrize('keep', [False, True], ids=['closed', 'kept'])
def test_open_files_are_closed_by_a_restart_unless_the_site_says_otherwise(site, keep):
    child = site(
        """
        inherited = os.environ.get('INHERITED')
        if inherited:
            try:
                os.fstat(int(inherited))
                say('file is open')
            except OSError:
                say('file is closed')
            sys.exit()
        read, write = os.pipe()
        os.set_inheritable(read, True)
        os.environ['INHERITED'] = str(read)
        if len(sys.argv) > 1:
            bus.max_cloexec_files = 0
        bus.start()
        threading.Thread(target=bus.restart).start()
        bus.block()
        """,
        *(['keep'] if keep else []),
    )
    assert child.hear('file is') == ('open' if keep else 'closed')
    assert child.ends() == 0


# -- ThreadManager -----------------------------------------------------------------


@pytest.fixture
def threads(bus):
    """What a ThreadManager on the bus tells, as a list that grows."""
    told = []
    plugins.ThreadManager(bus).subscribe()
    bus.subscribe('start_thread', lambda index: told.append(('start', index)))
    bus.subscribe('stop_thread', lambda index: told.append(('stop', index)))
    return told


def in_a_thread(*calls):
    """Call each in one new thread; return when it ended."""
    thread = threading.Thread(target=lambda: [call() for call in calls])
    thread.start()
    assert ended(thread)


def test_a_thread_is_started_once_and_stopped_when_it_is_released(bus, threads):
    def acquire():
        bus.publish('acquire_thread')

    def release():
        bus.publish('release_thread')

    bus.start()
    in_a_thread(acquire, acquire, release, release)
    assert threads == [('start', 1), ('stop', 1)]


@pytest.mark.parametrize('command', ['stop', 'graceful'])
def test_stop_and_graceful_release_all_threads(bus, threads, command):
    bus.start()
    here, done = threading.Semaphore(0), threading.Event()

    def request():
        bus.publish('acquire_thread')
        here.release()
        done.wait(PATIENCE)

    workers = [threading.Thread(target=request) for _ in range(3)]
    for worker in workers:
        worker.start()
        assert here.acquire(timeout=PATIENCE)
    getattr(bus, command)()
    done.set()
    assert all(ended(worker) for worker in workers)
    assert threads[:3] == [('start', 1), ('start', 2), ('start', 3)]
    assert sorted(threads[3:]) == [('stop', 1), ('stop', 2), ('stop', 3)]


# -- ServerAdapter with cheroot's server ---------------------------------------------


@pytest.fixture
def server(bus):
    """An adapter of a cheroot server."""
    address = ('127.0.0.1', free_port())
    server = cheroot_wsgi.Server(address, hello, numthreads=2, shutdown_timeout=30)
    adapter = servers.ServerAdapter(bus, server, address)
    adapter.subscribe()
    return adapter


def test_a_cheroot_server_serves_from_start_to_stop_and_starts_again(bus, log, server):
    for _ in range(2):
        bus.start()
        port = server.bound_addr[1]
        assert f'Serving on http://127.0.0.1:{port}' in log
        assert get(port) == (200, 'hello from cheroot')
        bus.stop()
        assert is_free(port)
    bus.exit()
    assert sum(line.endswith(' shut down') for line in log) == 2


def test_a_cheroot_server_is_restarted_on_a_started_bus(bus, server):
    bus.start()
    port = server.bound_addr[1]
    assert get(port)[0] == 200
    server.restart()
    assert get(server.bound_addr[1])[0] == 200
    assert bus.state is State.STARTED


def test_two_servers_ride_on_one_bus(bus, server):
    address = ('127.0.0.1', 0)
    other = servers.ServerAdapter(bus, cheroot_wsgi.Server(address, hello), address)
    other.subscribe()
    bus.start()
    ports = [server.bound_addr[1], other.bound_addr[1]]
    assert [get(port)[0] for port in ports] == [200, 200]
    bus.stop()
    assert all(is_free(port) for port in ports)


def test_an_adapter_that_unsubscribed_starts_no_server(bus, server):
    server.unsubscribe()
    bus.start()
    assert not server.running


def test_a_request_in_flight_is_answered_by_a_stop(bus):
    reached, finish = threading.Event(), threading.Event()

    def slow(environ, start_response):
        reached.set()
        finish.wait(PATIENCE)
        return hello(environ, start_response)

    address = ('127.0.0.1', 0)
    server = cheroot_wsgi.Server(address, slow, numthreads=2, shutdown_timeout=30)
    adapter = servers.ServerAdapter(bus, server, address)
    adapter.subscribe()
    bus.subscribe('stop', finish.set, priority=1)
    bus.start()
    answers = []
    port = adapter.bound_addr[1]
    client = threading.Thread(target=lambda: answers.append(get(port)))
    client.start()
    assert reached.wait(PATIENCE)
    bus.stop()
    assert ended(client)
    assert answers == [(200, 'hello from cheroot')]


def test_a_taken_port_fails_the_start_and_stops_what_was_started(bus, log, server):
    told = []
    bus.subscribe('start', lambda: told.append('start'), priority=10)
    bus.subscribe('stop', lambda: told.append('stop'), priority=90)
    with socket.create_server(('127.0.0.1', 0)) as taken:
        # As ServerAdapter sees it: it looks whether anybody answers there.
        server.bind_addr = taken.getsockname()
        with pytest.raises(ChannelFailures) as failed:
            bus.start()
    assert isinstance(failed.value.__cause__, OSError)
    assert told == ['start', 'stop']
    assert bus.state is State.STOPPED
    assert not server.running
    server.bind_addr = server.httpserver.bind_addr
    bus.start()
    assert get(server.bound_addr[1])[0] == 200


@pytest.mark.filterwarnings('ignore::pytest.PytestUnhandledThreadExceptionWarning')
def test_a_server_that_cannot_start_takes_the_bus_down(bus, log):
    class Broken:
        ready = False

        def start(self):
            self.thread = threading.current_thread()
            raise RuntimeError('no server today')

        def stop(self):
            raise AssertionError('it never started')

    broken = Broken()
    servers.ServerAdapter(bus, broken, None).subscribe()
    with pytest.raises(ChannelFailures) as failed:
        bus.start()
    assert str(failed.value.__cause__) == 'no server today'
    # The server's own thread asks for an exit; who is last carries it out.
    bus.wait(State.EXITING)
    assert ended(broken.thread)
    assert any(line.startswith('Error in HTTP server: shutting down') for line in log)


def test_a_site_that_forgets_to_block_is_stopped_when_its_main_thread_ends(
    site, tmp_path
):
    child = site("""
        from cheroot.wsgi import Server
        address = ('127.0.0.1', 0)
        servers.ServerAdapter(bus, Server(address, None), address).subscribe()
        plugins.PIDFile(bus, 'site.pid').subscribe()
        bus.start()
    """)
    assert child.ends() == 0
    said = child.rest()
    assert any('RuntimeWarning: The main thread is exiting' in line for line in said)
    assert 'Bus EXITED' in said
    assert not (tmp_path / 'site.pid').exists()


# -- CherryPy itself -----------------------------------------------------------------

ENGINES = pytest.mark.parametrize('when', ['before', 'after'])


@pytest.fixture
def app(spawn):
    """Start cherrypy_scripts/app.py; return it and its port once it blocks."""

    def app(when, how='block', port=0):
        child = spawn(SCRIPTS / 'app.py', when, how, SITE_PORT=str(port))
        port = int(child.hear('Serving on').rpartition(':')[2])
        child.hear('blocking')
        return child, port

    return app


@ENGINES
def test_a_cherrypy_site_answers_with_our_bus_as_its_engine(app, when):
    child, port = app(when)
    assert get(port) == (200, 'hello')
    assert get(port, '/pid') == (200, str(child.pid))
    assert get(port, '/state') == (200, 'STARTED')
    assert get(port, '/nothing/here')[0] == 404


@ENGINES
def test_a_cherrypy_site_publishes_before_and_after_each_request(app, when):
    child, port = app(when)
    for path in ('/', '/pid', '/nothing/here'):
        get(port, path)
        child.hear('before_request')
        child.hear('after_request')


@ENGINES
def test_the_code_of_a_cherrypy_site_subscribes_and_publishes(app, when):
    _, port = app(when)
    assert get(port, '/publish?channel=news&word=hi') == (200, '')
    assert get(port, '/listen?channel=news') == (200, 'listening')
    assert get(port, '/publish?channel=news&word=hi') == (200, 'HI')


@ENGINES
def test_a_request_that_calls_engine_exit_ends_the_process_cleanly(app, when):
    child, port = app(when)
    assert get(port, '/exit') == (200, 'leaving')
    assert child.ends() == 0
    said = child.rest()
    assert said.count('Bus EXITED') == 1
    assert 'start_thread 1' in said
    assert said.index('stop_thread 1') < said.index('Bus STOPPED')
    assert said[-1] == 'block returned'
    assert is_free(port)


@ENGINES
def test_a_request_that_calls_engine_graceful_leaves_the_site_up(app, when):
    child, port = app(when)
    assert get(port, '/graceful') == (200, 'told')
    child.hear('graceful was heard')
    assert get(port) == (200, 'hello')


@posix
@ENGINES
def test_a_request_that_calls_engine_restart_brings_the_same_process_up_again(
    app, when
):
    child, port = app(when, port=free_port())
    for _ in range(2):
        assert get(port, '/restart') == (200, 'coming back')
        child.hear('Re-spawning')
        assert int(child.hear('Serving on').rpartition(':')[2]) == port
        child.hear('blocking')
        assert get(port, '/pid') == (200, str(child.pid))
    child.send(signal.SIGTERM)
    assert child.ends() == 0


@posix
@ENGINES
@pytest.mark.parametrize('how', ['block', 'quickstart'])
@pytest.mark.parametrize('name', ['SIGINT', 'SIGTERM', 'SIGHUP'])
def test_a_signal_ends_a_cherrypy_site_cleanly(app, when, how, name):
    child, port = app(when, how)
    assert get(port) == (200, 'hello')
    child.send(getattr(signal, name))
    assert child.ends() == 0
    assert child.rest().count('Bus EXITED') == 1
    assert 'stop_thread 1' in child.said
    assert is_free(port)


@ENGINES
def test_a_keyboard_interrupt_in_a_request_ends_a_cherrypy_site(app, when):
    child, port = app(when)
    with pytest.raises((http.client.HTTPException, OSError)):
        get(port, '/interrupt')
    assert child.ends() == 0
    assert '<Ctrl-C> hit: shutting down HTTP server' in child.rest()
    assert 'Bus EXITED' in child.said


@posix
def test_sigusr1_is_graceful_for_a_cherrypy_site(app):
    child, port = app('before')
    assert get(port) == (200, 'hello')
    child.hear('start_thread 1')
    child.send(signal.SIGUSR1)
    child.hear('Bus graceful')
    child.hear('stop_thread 1')
    assert get(port) == (200, 'hello')


def test_a_cherrypy_site_that_forgets_to_block_is_stopped(spawn):
    child = spawn(SCRIPTS / 'app.py', 'before', 'start')
    assert child.ends() == 0
    assert 'Bus EXITED' in child.rest()
    assert is_free(int(next(x for x in child.said if x.startswith('port')).split()[1]))


def test_cherryd_fails_with_one_and_without_a_pid_file_if_the_site_cannot_start(
    spawn, tmp_path
):
    (tmp_path / 'cherryd.py').write_text(
        textwrap.dedent("""\
            from riding import replace_wspbus, talking_bus
            bus = talking_bus()
            replace_wspbus(bus)
            bus.subscribe('start', lambda: 1 / 0, priority=90)
            import cherrypy.daemon
            cherrypy.config.update({'log.screen': False, 'server.socket_port': 0})
            cherrypy.daemon.start(pidfile='site.pid')
        """)
    )
    child = spawn('cherryd.py')
    assert child.ends() == 1
    said = child.rest()
    assert any(line.startswith('PID ') and ' written to ' in line for line in said)
    assert any('ZeroDivisionError' in line for line in said)
    assert not (tmp_path / 'site.pid').exists()


# -- Daemonizer ------------------------------------------------------------------


class Daemon(Lines):
    """What a daemon says through a pipe that ends with the last process that has it."""

    def comes_up(self):
        """PID and port, once it blocks."""
        pid, port = self.hear('up').split()
        return int(pid), int(port)

    def kill(self):
        """Kill whoever said last that it is the daemon, until none is left."""
        for _ in range(PATIENCE):
            if self.over.is_set():
                return
            said = [line for line in self.all if line.startswith('Daemonized to PID:')]
            if said:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(said[-1].rpartition(':')[2]), signal.SIGKILL)
            self.over.wait(1)


@pytest.fixture
def daemonize(site):
    """Start a daemon; return the process that the shell sees, and the daemon."""
    started = []

    def daemonize(source):
        read, write = os.pipe()
        daemon = Daemon(os.fdopen(read, 'rb'))
        try:
            child = site(source, pass_fds=[write], REPORT_FD=str(write))
        finally:
            os.close(write)
        started.append((child, daemon))
        return child, daemon

    yield daemonize
    for child, daemon in started:
        child.kill()
        daemon.kill()


DAEMON = """
    from cheroot.wsgi import Server

    def whoami(environ, start_response):
        start_response('200 OK', [('Content-Type', 'text/plain')])
        return [b'daemon %d' % os.getpid()]

    bus.max_cloexec_files = 0  # the pipe that we report on survives a restart
    plugins.Daemonizer(bus, stdout='daemon.log', stderr='daemon.log').subscribe()
    plugins.PIDFile(bus, os.path.abspath('daemon.pid')).subscribe()
    plugins.DropPrivileges(bus, umask=0o027).subscribe()
    plugins.SignalHandler(bus).subscribe()
    address = ('127.0.0.1', 0)
    server = servers.ServerAdapter(bus, Server(address, whoami), address)
    server.subscribe()

    @bus.subscribe('main')
    def once():
        bus.unsubscribe('main', once)
        open('made_by_daemon', 'w').close()
        say('up', os.getpid(), server.bound_addr[1])

    bus.start()
    bus.block()
    say('block returned')
"""


@posix
def test_a_daemonizer_moves_the_bus_to_the_daemon(daemonize, tmp_path):
    child, daemon = daemonize(DAEMON)
    assert child.ends() == 0
    pid, port = daemon.comes_up()
    assert pid != child.pid
    assert os.getsid(pid) not in (os.getsid(0), child.pid)
    assert (tmp_path / 'daemon.pid').read_text() == f'{pid}\n'
    assert get(port) == (200, f'daemon {pid}')
    assert (tmp_path / 'made_by_daemon').stat().st_mode & 0o777 == 0o640
    os.kill(pid, signal.SIGTERM)
    said = daemon.rest()
    assert said.count('Bus EXITED') == 1
    assert said[-1] == 'block returned'
    assert not (tmp_path / 'daemon.pid').exists()
    assert is_free(port)
    assert child.rest() == []


@posix
def test_sighup_restarts_a_daemon(daemonize, tmp_path):
    child, daemon = daemonize(DAEMON)
    assert child.ends() == 0
    first, port = daemon.comes_up()
    os.kill(first, signal.SIGHUP)
    daemon.hear('SIGHUP caught while daemonized. Restarting.')
    daemon.hear('PID file removed')
    second, port = daemon.comes_up()
    assert second != first
    assert (tmp_path / 'daemon.pid').read_text() == f'{second}\n'
    assert get(port) == (200, f'daemon {second}')
    os.kill(second, signal.SIGTERM)
    assert daemon.rest()[-1] == 'block returned'
    assert not (tmp_path / 'daemon.pid').exists()


@posix
def test_a_daemon_that_fails_to_start_leaves_neither_process_nor_pid_file(
    daemonize, tmp_path
):
    child, daemon = daemonize("""
        plugins.Daemonizer(bus).subscribe()
        plugins.PIDFile(bus, os.path.abspath('daemon.pid')).subscribe()
        bus.subscribe('start', lambda: 1 / 0, priority=90)
        bus.start()
        bus.block()
    """)
    # CherryPy documents that of its Daemonizer: the first fork went well.
    assert child.ends() == 0
    said = daemon.rest()
    assert any(line.startswith('PID ') and ' written to ' in line for line in said)
    assert 'Bus EXITED' in said
    assert not (tmp_path / 'daemon.pid').exists()


@posix
def test_a_daemon_that_forgets_to_block_tidies_up_once(daemonize, tmp_path):
    child, daemon = daemonize("""
        plugins.Daemonizer(bus).subscribe()
        plugins.PIDFile(bus, os.path.abspath('daemon.pid')).subscribe()
        bus.subscribe('stop', lambda: say('stopped in', os.getpid()))
        bus.start()
        say('started in', os.getpid())
    """)
    assert child.ends() == 0
    pid = daemon.hear('started in')
    assert int(pid) != child.pid
    said = daemon.rest()
    assert [x for x in said if x.startswith('stopped in')] == [f'stopped in {pid}']
    assert not (tmp_path / 'daemon.pid').exists()

"""systemd: what it is told, what it passes on, and the files that it reads."""

import configparser
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from queue import SimpleQueue

import pytest

from paste_wspbus.bus import Bus, ChannelFailures, State
from paste_wspbus.command.arguments import parse
from paste_wspbus.ini.config import Config
from paste_wspbus.plugins.systemd import SystemdNotifier
from tests.kit import BIN, TIMEOUT, Process, Site, eventually, run
from tests.kit.places import SAMPLES
from tests.kit.systemd import PLUG, SITE, Manager, states, tool

UNITS = SAMPLES / 'systemd'


@pytest.fixture
def bus(manager):
    bus = Bus()
    bus.said = []
    bus.subscribe('log', lambda msg, level: bus.said.append((level, msg)))
    bus.notifier = SystemdNotifier(bus, manager.address)
    bus.notifier.subscribe()
    assert manager.pending() == [{'STATUS': 'Loading the site'}]
    yield bus
    bus.exit()


def helpers():
    """The threads of transitions and of the watchdog; not the one that looks at STATUS=."""
    return [
        one
        for one in threading.enumerate()
        if one.name.startswith('systemd') and one.name != 'systemd status'
    ]


# -- ready --------------------------------------------------------------------


def test_ready_is_told_when_the_site_is_started_and_not_before(bus, manager):
    before = []

    @bus.subscribe('start', priority=1000)
    def last():
        before.extend(manager.pending())

    bus.subscribe('start', last, priority=float('inf'))
    bus.start()
    assert before and states(before) == []
    (ready,) = manager.pending()
    assert ready == {'READY': '1', 'MAINPID': str(os.getpid()), 'STATUS': 'Started'}


def test_the_status_says_where_the_site_is_served(bus, manager):
    class Server:
        urls = ['http://127.0.0.1:80', 'unix:/run/x']

    bus.plugins['server'] = Server()
    bus.start()
    ready = manager.until(READY='1')[-1]
    assert ready['STATUS'] == 'Serving on http://127.0.0.1:80, unix:/run/x'


def test_an_abstract_socket_is_told(tmp_path):
    manager = Manager(f'@{tmp_path.name}-{os.getpid()}')
    bus = Bus()
    SystemdNotifier(bus, environ={'NOTIFY_SOCKET': manager.address}).subscribe()
    bus.start()
    assert states(manager.until(READY='1')) == ['READY']
    bus.exit()
    manager.close()


def test_a_start_that_fails_is_never_ready(bus, manager):
    @bus.subscribe('start')
    def fail():
        raise OSError('no database')

    with pytest.raises(ChannelFailures):
        bus.start()
    bus.exit()
    messages = manager.pending()
    assert states(messages) == ['STOPPING']
    assert messages[-1]['STATUS'] == 'The site did not start'


def test_a_start_that_fails_in_the_very_last_listener_is_never_ready(bus, manager):
    @bus.subscribe('start', priority=float('inf'))
    def fail():
        raise OSError('no database')

    with pytest.raises(ChannelFailures):
        bus.start()
    assert states(manager.pending()) == ['STOPPING']


@pytest.mark.parametrize('priority', [50, float('inf')])
def test_a_start_that_is_stopped_meanwhile_is_never_ready(bus, manager, priority):
    bus.subscribe('start', bus.stop, priority=priority)
    bus.start()
    assert bus.state is State.STOPPED
    assert states(manager.pending()) == ['STOPPING']


def test_a_site_that_is_started_already_is_ready_at_once(manager):
    bus = Bus()
    bus.start()
    SystemdNotifier(bus, manager.address).subscribe()
    assert states(manager.pending()) == ['READY']
    bus.exit()


def test_a_server_that_blocks_is_ready_before_it_returns(bus, manager):
    seen = []

    def server():
        seen.extend(manager.until(READY='1'))

    bus.subscribe('start', server, blocking=True)
    bus.start()  # returns when the site has stopped
    assert states(seen) == ['READY']
    assert states(manager.pending()) == ['STOPPING']


def test_a_server_that_blocks_is_not_ready_if_a_stop_was_faster(bus, manager):
    called = []
    bus.subscribe('start', bus.exit)
    bus.subscribe('start', lambda: called.append(1), blocking=True)
    bus.start()
    assert (called, states(manager.pending())) == ([], ['STOPPING'])


# -- reload and stop ----------------------------------------------------------


def test_a_reload_is_told_with_its_time_and_ends_with_ready(bus, manager):
    bus.start()
    manager.pending()
    during = []
    bus.subscribe('graceful', lambda: during.extend(manager.pending()))
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    bus.graceful()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    (reloading,) = during
    assert reloading['RELOADING'] == '1'
    assert before <= int(reloading['MONOTONIC_USEC']) <= after
    assert states(manager.pending()) == ['READY']


def test_a_reload_that_fails_ends_with_ready_and_its_status_says_so(bus, manager):
    bus.start()
    manager.pending()

    def broken():
        raise LookupError

    bus.subscribe('graceful', broken)
    with pytest.raises(ChannelFailures):
        bus.graceful()
    reloading, ready = manager.pending()
    assert states([reloading, ready]) == ['RELOADING', 'READY']
    assert 'the last reload failed: ' in ready['STATUS']
    assert "broken, a listener of 'graceful'" in ready['STATUS']
    bus.unsubscribe('graceful', broken)
    bus.graceful()
    assert manager.pending()[-1]['STATUS'] == 'Started'


def test_a_reload_that_is_refused_is_a_whole_exchange(bus, manager):
    """With Type=notify-reload, systemd waits for it after its SIGHUP."""
    bus.start()
    manager.pending()
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    bus.publish('reload_failed', 'site.ini is\x1b[2J gone')
    reloading, ready = manager.pending()
    assert states([reloading, ready]) == ['RELOADING', 'READY']
    assert int(reloading['MONOTONIC_USEC']) >= before
    assert ready['STATUS'] == (
        'Started; the last reload failed: site.ini is\\x1b[2J gone'
    )


def test_a_refusal_while_the_site_does_not_serve_is_no_reload(bus, manager):
    bus.publish('reload_failed', 'too early')
    assert manager.pending() == []


def test_a_status_is_never_too_long_for_systemd(bus, manager):
    bus.start()
    manager.pending()
    bus.publish('reload_failed', '\u20ac' * 5000)
    ready = manager.until(READY='1')[-1]
    assert len(ready['STATUS'].encode()) < 3000


# -- STATUS= while the site serves ------------------------------------------------


def test_the_status_is_sent_again_only_if_it_has_changed(bus, manager):
    bus.notifier.status_every = 0.01
    bus.plugins['requests'] = requests = []
    bus.start()
    manager.until(READY='1')
    requests.append('one')
    changed = manager.receive()
    assert changed == {'STATUS': 'Started; requests in flight: 1'}
    with pytest.raises(TimeoutError):  # thirty times the interval
        manager.receive(0.3)
    requests.clear()
    assert manager.receive() == {'STATUS': 'Started'}


def test_what_the_site_itself_has_sent_stays_until_there_is_something_new(bus, manager):
    bus.notifier.status_every = 0.01
    bus.plugins['requests'] = requests = []
    bus.start()
    manager.until(READY='1')
    bus.notifier.notify(STATUS='Warming the cache')
    assert manager.receive() == {'STATUS': 'Warming the cache'}
    with pytest.raises(TimeoutError):  # twenty times the interval
        manager.receive(0.2)
    requests.append('one')
    assert 'in flight: 1' in manager.receive()['STATUS']


def test_the_status_is_sent_only_once_in_its_interval(bus, manager):
    bus.notifier.status_every = 0.2
    bus.plugins['requests'] = requests = []
    bus.start()
    manager.until(READY='1')
    began = time.monotonic()
    messages = []
    while time.monotonic() - began < 1:
        requests.append('one')
        messages += manager.pending()
        time.sleep(0.002)
    assert 1 <= len(messages) <= 6


def test_in_greenlets_it_sleeps_in_the_queue_of_the_bus(bus, manager):
    made = []

    class Queue(SimpleQueue):
        def __init__(self):
            made.append(self)

    bus.queue_class = Queue
    bus.start()
    assert made


def test_a_reload_of_what_is_not_started_does_not_make_it_ready(bus, manager):
    bus.graceful()
    assert manager.pending() == []


def test_the_stop_is_told_before_anything_is_stopped(bus, manager):
    bus.start()
    manager.pending()
    seen = {}
    for channel in ('drain', 'stop', 'exit'):
        bus.subscribe(
            channel,
            lambda channel=channel: seen.update({channel: manager.pending()}),
            priority=-1000,
        )
    bus.plugins['requests'] = range(3)
    bus.exit()
    assert states(seen['drain']) == ['STOPPING']
    assert 'requests in flight: 3' in seen['drain'][-1]['STATUS']
    assert seen['stop'][-1]['STATUS'].startswith('Stopping, ')
    assert states(seen['stop'] + seen['exit']) == []
    assert manager.pending()[-1] == {'STATUS': 'Stopped'}


def test_it_starts_again_after_a_stop(bus, manager):
    for _ in range(2):
        bus.start()
        bus.stop()
        assert states(manager.pending()) == ['READY', 'STOPPING']


# -- time -----------------------------------------------------------------------


@pytest.mark.parametrize('channel', ['start', 'drain', 'stop', 'exit'])
def test_time_is_asked_for_while_a_transition_lasts(bus, manager, channel):
    bus.start_timeout = bus.stop_timeout = 100
    bus.notifier.extend_every = 0.01
    asked = []

    @bus.subscribe(channel)
    def slow():
        while len(asked) < 4:
            message = manager.receive()
            if 'EXTEND_TIMEOUT_USEC' in message:
                asked.append(int(message['EXTEND_TIMEOUT_USEC']))

    bus.start()
    bus.exit()
    assert asked == [15_000_000] * 4


def test_no_more_time_is_asked_for_than_the_bus_has_itself(bus, manager):
    bus.start_timeout = bus.stop_timeout = 10
    bus.notifier.extend_every = 0.01
    asked = {'start': [], 'drain': [], 'stop': []}
    for channel, values in asked.items():

        @bus.subscribe(channel)
        def slow(values=values):
            while len(values) < 3:
                message = manager.receive()
                if 'EXTEND_TIMEOUT_USEC' in message:
                    values.append(int(message['EXTEND_TIMEOUT_USEC']))

    bus.start()
    manager.until(READY='1')
    bus.exit()
    stopping = asked['drain'] + asked['stop']  # one limit for both
    for values in (asked['start'], stopping):
        assert values[0] <= 10_000_000
        assert values == sorted(values, reverse=True)
        assert len(set(values)) == len(values)


def test_the_asking_ends_with_the_bus_s_own_time(bus, manager):
    """The listener hangs where Python cannot cut it: systemd is to end it."""
    bus.start_timeout = 0.2
    bus.notifier.extend_every = 0.01
    release = threading.Event()
    bus.subscribe('start', release.wait)

    def start():
        with contextlib.suppress(ChannelFailures):
            bus.start()

    thread = threading.Thread(target=start)
    thread.start()
    for _ in range(2):  # the second is the helper's
        manager.until(STATUS='Starting')
    for helper in helpers():
        helper.join(TIMEOUT)
    assert helpers() == [] and thread.is_alive()
    release.set()
    thread.join(TIMEOUT)


def test_where_the_bus_has_no_limit_systemd_s_own_holds(bus, manager):
    assert bus.start_timeout is None and bus.stop_timeout is None
    bus.notifier.extend_every = 0
    bus.start()
    bus.exit()
    assert not any('EXTEND_TIMEOUT_USEC' in message for message in manager.pending())


def test_between_transitions_no_thread_and_no_descriptor_is_left(manager):
    bus = Bus()
    bus.start_timeout = bus.stop_timeout = 100
    before = len(os.listdir('/dev/fd'))
    notifier = SystemdNotifier(bus, manager.address)
    notifier.subscribe()
    during = []
    bus.subscribe('start', lambda: during.extend(helpers()))
    bus.start()
    assert during and helpers() == []
    bus.exit()
    assert not any('systemd' in one.name for one in threading.enumerate())
    assert len(os.listdir('/dev/fd')) == before
    notifier.unsubscribe()
    manager.pending()
    bus.start()
    bus.exit()
    assert manager.pending() == []


# -- a site in a process of its own ---------------------------------------------

SCRIPT = """
import os, subprocess, sys, threading
from paste_wspbus.bus import Bus
from paste_wspbus.plugins.signals import SignalHandler
from paste_wspbus.plugins.systemd import SystemdNotifier
bus = Bus()
bus.start_timeout = bus.stop_timeout = 50
bus.subscribe('log', lambda msg, level: print(msg, file=sys.stderr, flush=True))
SignalHandler(bus).subscribe()
SystemdNotifier(bus).subscribe()
"""

#: Half of it is the interval of the WATCHDOG=1, in the tests.
WATCHDOG_USEC = 100_000


@contextlib.contextmanager
def script(tmp_path, manager, text, **env):
    (tmp_path / 'site.py').write_text(SCRIPT + text)
    env = {'NOTIFY_SOCKET': manager.address, **env}
    with Process([sys.executable, 'site.py'], tmp_path, env) as process:
        yield process


def test_the_watchdog_is_answered_by_the_main_loop_alone(tmp_path, manager):
    with script(
        tmp_path,
        manager,
        """
def hang():
    print('hangs', file=sys.stderr, flush=True)
    sys.stdin.readline()
    print('questions waiting:', bus.turn.commands.qsize(), file=sys.stderr, flush=True)
bus.subscribe('hang', hang)
def listen():
    sys.stdin.readline()
    bus.post('hang')
threading.Thread(target=listen, daemon=True).start()
bus.start()
bus.block()
""",
        WATCHDOG_USEC=str(WATCHDOG_USEC),
    ) as process:
        manager.until(READY='1')
        for _ in range(3):
            assert manager.receive() == {'WATCHDOG': '1'}
        process.process.stdin.write('hang\n')
        process.process.stdin.flush()
        process.expect('hangs')
        manager.pending()
        with pytest.raises(TimeoutError):  # twenty times the interval
            manager.receive(20 * WATCHDOG_USEC / 2e6)
        process.process.stdin.write('go on\n')
        process.process.stdin.flush()
        assert manager.receive() == {'WATCHDOG': '1'}
        process.expect('questions waiting: 1\n')
        process.send(signal.SIGTERM)
        assert process.wait() == 0
        rest = manager.pending()
        assert states(rest) == ['STOPPING']
        leaving = next(i for i, one in enumerate(rest) if 'STOPPING' in one)
        assert not any('WATCHDOG' in one for one in rest[leaving:])


def test_the_watchdog_of_a_server_that_blocks_shows_that_the_process_lives(
    bus, manager
):
    bus.notifier.watchdog_usec = WATCHDOG_USEC
    bus.subscribe('start', lambda: manager.until(WATCHDOG='1'), blocking=True)
    bus.start()
    assert helpers() == []


def test_the_watchdog_of_a_server_that_blocks_does_not_stop_the_site_itself(
    bus, manager
):
    bus.notifier.watchdog_usec = WATCHDOG_USEC
    stopped_in = []
    bus.subscribe('stop', lambda: stopped_in.append(threading.current_thread()))

    def server():
        threading.Thread(target=bus.exit).start()
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait(TIMEOUT)
        for _ in range(3):  # it takes its time to end
            manager.until(WATCHDOG='1')

    bus.subscribe('start', server, blocking=True)
    bus.start()
    assert stopped_in == [threading.main_thread()]


@pytest.mark.parametrize(
    'environ',
    [
        {},
        {'WATCHDOG_USEC': '0'},
        {'WATCHDOG_USEC': '100000', 'WATCHDOG_PID': '1'},
        {'WATCHDOG_USEC': 'soon'},
    ],
    ids=str,
)
def test_there_is_no_watchdog_where_systemd_waits_for_none(manager, environ):
    bus = Bus()
    environ = {'NOTIFY_SOCKET': manager.address, **environ}
    SystemdNotifier(bus, environ=environ).subscribe()
    bus.start()
    assert helpers() == []
    bus.exit()


def test_a_watchdog_for_this_process_is_one(manager):
    bus = Bus()
    SystemdNotifier(
        bus,
        environ={
            'NOTIFY_SOCKET': manager.address,
            'WATCHDOG_USEC': '60000000',
            'WATCHDOG_PID': str(os.getpid()),
        },
    ).subscribe()
    bus.start()
    assert [one.name for one in helpers()] == ['systemd watchdog']
    bus.exit()
    assert helpers() == []


def test_the_site_s_own_children_do_not_speak_for_it(tmp_path, manager):
    with script(
        tmp_path,
        manager,
        """
code = 'import os; print([name for name in os.environ if "NOTIFY" in name or "WATCHDOG" in name])'
bus.subscribe('start', lambda: subprocess.run([sys.executable, '-c', code]))
bus.start()
bus.exit()
""",
        WATCHDOG_USEC='60000000',
    ) as process:
        assert process.wait() == 0
        assert process.out.text == '[]\n'


def test_unsubscribe_puts_the_variables_back(manager):
    environ = {'NOTIFY_SOCKET': manager.address, 'WATCHDOG_USEC': '1', 'HOME': '/'}
    before = dict(environ)
    notifier = SystemdNotifier(Bus(), environ=environ)
    notifier.subscribe()
    assert environ == {'HOME': '/'}
    notifier.unsubscribe()
    assert environ == before


def test_a_restart_is_a_reload_in_the_same_process(tmp_path, manager):
    with script(
        tmp_path,
        manager,
        """
print(len(os.listdir('/dev/fd')), flush=True)
bus.start()
bus.block()
""",
        WATCHDOG_USEC='60000000',
    ) as process:
        first = manager.until(READY='1')
        process.send(signal.SIGHUP)
        second = manager.until(READY='1')
        assert states(second) == ['RELOADING', 'READY']
        assert first[-1]['MAINPID'] == second[-1]['MAINPID'] == str(process.pid)
        # The watchdog goes on over a reload: the new program has time to begin.
        begins = next(one for one in second if 'new program' in one['STATUS'])
        assert begins['EXTEND_TIMEOUT_USEC'] == '50000000'
        process.send(signal.SIGTERM)
        assert process.wait() == 0
        assert states(manager.pending()) == ['STOPPING']
        before, after = process.out.text.split()
        assert before == after  # descriptors


def test_a_restart_before_the_main_thread_blocks_is_one_reload(tmp_path, manager):
    text = """
import signal
bus.start()
if not os.path.exists('again'):
    open('again', 'w').close()
    os.kill(os.getpid(), signal.SIGHUP)
bus.block()
"""
    with script(tmp_path, manager, text) as process:
        manager.until(READY='1')
        told = manager.until(READY='1')
        assert states(told) == ['RELOADING', 'READY']
        assert any('new program' in one['STATUS'] for one in told)
        process.send(signal.SIGTERM)
        assert process.wait() == 0


def gone(path):
    return path, 'No such file or directory'


def closed(path):
    Manager(path).close()
    return path, 'Connection refused'


def another_kind(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen()
    return path, 'Protocol wrong type for socket|Connection refused'


@pytest.mark.parametrize('make', [gone, closed, another_kind])
def test_a_socket_that_does_not_answer_is_one_line_in_the_log(tmp_path, make):
    path, reason = make(str(tmp_path / 'other'))
    bus, said = Bus(), []
    bus.subscribe('log', lambda msg, level: said.append((level, msg)))
    SystemdNotifier(bus, path).subscribe()
    bus.start()
    assert bus.state is State.STARTED
    bus.exit()
    ((level, line),) = [one for one in said if not one[1].startswith('Bus ')]
    assert level == 30
    assert re.fullmatch(f'Cannot notify systemd at {re.escape(path)}: ({reason})', line)


def test_a_socket_that_may_not_be_written_to_is_one_line_in_the_log(tmp_path):
    locked = tmp_path / 'locked'
    locked.mkdir()
    manager = Manager(str(locked / 'notify'))
    locked.chmod(0)
    with script(
        tmp_path,
        manager,
        """
if not os.getuid():
    os.seteuid(65534)  # whom permissions concern
bus.start()
bus.exit()
""",
    ) as process:
        assert process.wait() == 0
        lines = [one for one in process.err.text.splitlines() if 'systemd' in one]
        assert lines == [
            f'Cannot notify systemd at {manager.address}: Permission denied'
        ]
    locked.chmod(0o700)
    manager.close()


@pytest.mark.parametrize('address', ['vsock:2:1234', 'notify'])
def test_an_address_of_another_family_is_refused_in_one_line(address):
    bus, said = Bus(), []
    bus.subscribe('log', lambda msg, level: said.append(msg))
    environ = {'NOTIFY_SOCKET': address}
    SystemdNotifier(bus, environ=environ).subscribe()
    (line,) = said
    assert address in line
    bus.start()
    bus.exit()
    assert [one for one in said if 'systemd' in one] == [line]


def test_without_systemd_nothing_is_subscribed():
    bus = Bus()
    before = {name: set(channel) for name, channel in bus.listeners.items()}
    notifier = SystemdNotifier(bus, environ={})
    notifier.subscribe()
    assert bus.listeners == before
    bus.subscribe('log', lambda msg, level: pytest.fail(msg))
    notifier.notify(STATUS='to nobody')


def test_a_status_of_the_site_s_own_is_one_line(bus, manager):
    bus.notifier.notify(STATUS='Warming\nREADY=1')
    assert manager.pending() == [{'STATUS': 'Warming READY=1'}]


def test_a_reload_is_over_when_the_new_code_has_failed(tmp_path, manager):
    env = {'NOTIFY_SOCKET': manager.address}
    with Site(tmp_path, SITE, files={'plug.py': PLUG}, env=env) as site:
        ready = manager.until(READY='1')[-1]
        (tmp_path / 'plug.py').write_text('raise RuntimeError("broken")')
        site.send(signal.SIGHUP)
        told = manager.until(READY='1')
        assert states(told) == ['RELOADING', 'READY']
        assert told[0]['STATUS'] == 'Loading the new code'
        failed = f'{ready["STATUS"]}; the last reload failed: '
        assert told[-1]['STATUS'].startswith(failed)
        assert 'RuntimeError: broken' in told[-1]['STATUS']
        site.expect('RuntimeError: broken')
        (tmp_path / 'plug.py').write_text(PLUG)
        site.send(signal.SIGHUP)
        assert states(manager.until(READY='1')) == ['RELOADING', 'READY']
        assert site.stop()[0] == 0, site.report()
        assert states(manager.pending()) == ['STOPPING']


def test_a_served_site_tells_all_of_its_life(tmp_path, manager):
    env = {'NOTIFY_SOCKET': manager.address}
    with Site(tmp_path, SITE, files={'plug.py': PLUG}, env=env, wait=False) as site:
        messages = manager.until(READY='1')
        assert messages[0] == {'STATUS': 'Loading the site'}
        assert states(messages) == ['READY']
        ready = messages[-1]
        url = ready['STATUS'].removeprefix('Serving on ')
        host, port = url.removeprefix('http://').split(':')
        with socket.create_connection((host, int(port)), TIMEOUT):
            pass  # ready means that it accepts
        site.wait_until_served()
        site.send(signal.SIGHUP)
        restarted = manager.until(READY='1')
        assert states(restarted) == ['RELOADING', 'READY']
        assert restarted[-1]['MAINPID'] == ready['MAINPID'] == str(site.pid)
        site.wait_until_served(2)
        with site.connect() as connection:
            connection.send('/slow')
            site.expect('in flight')
            site.send(signal.SIGTERM)
            assert manager.until(STOPPING='1')
            statuses = [manager.receive()['STATUS'] for _ in range(3)]
            assert all(one.endswith('requests in flight: 1') for one in statuses)
            site.process.stdin.write('\n')
            site.process.stdin.flush()
            assert connection.receive().body == b'ok'
        assert site.wait() == 0
        assert manager.pending()[-1] == {'STATUS': 'Stopped'}


def life_of_a_site(folder, env):
    """What a site says on standard error while it is started and stopped."""
    with Site(folder, SITE, files={'plug.py': PLUG}, env=env) as site:
        code, _, err = site.stop()
    assert code == 0
    return err


def test_what_is_worth_a_warning_is_told_while_a_site_starts_too(tmp_path):
    err = life_of_a_site(tmp_path, {'NOTIFY_SOCKET': '/nonexistent'})
    line, stop = err.splitlines()
    assert 'Cannot notify systemd at /nonexistent: No such file or directory' in line
    assert 'Stopping: ' in stop


def test_a_watchdog_that_no_clock_can_measure_does_no_harm(tmp_path):
    env = {'NOTIFY_SOCKET': '/nonexistent', 'WATCHDOG_USEC': '9' * 20}
    assert 'Traceback' not in life_of_a_site(tmp_path, env)


# -- the samples --------------------------------------------------------------------


def settings_of(unit):
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str
    parser.read(UNITS / unit)
    return parser


def test_systemd_finds_no_mistake_in_the_units(tmp_path):
    analyze = tool('systemd-analyze')
    for unit in UNITS.iterdir():
        text = unit.read_text().replace('/srv/site/venv/bin', str(BIN))
        (tmp_path / unit.name).write_text(text)
    done = subprocess.run(
        [analyze, 'verify', '--man=no', *tmp_path.iterdir()],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env={**os.environ, 'SYSTEMD_LOG_LEVEL': 'warning'},
    )
    assert done.returncode == 0, done.stderr
    version = int(
        re.search(
            r'systemd (\d+)',
            subprocess.run(
                [analyze, '--version'], capture_output=True, text=True
            ).stdout,
        )[1]
    )
    mine = [one for one in done.stderr.splitlines() if str(tmp_path) in one]
    if version < 253:  # the unit's comment says what such a systemd takes
        mine = [one for one in mine if not one.endswith('ignoring: notify-reload')]
    assert mine == []


def test_the_unit_s_command_line_is_one():
    service = settings_of('wspbus-site.service')['Service']
    program, *argv = service['ExecStart'].split()
    assert Path(program).name == 'wspserve'
    options = parse(argv, 'wspserve')
    assert Path(options.config).name in os.listdir(SAMPLES)


def test_the_unit_leaves_the_site_the_time_that_its_ini_allows():
    service = settings_of('wspbus-site.service')['Service']
    ini = Config(str(SAMPLES / 'production.ini'), {}, os.getcwd()).settings
    assert float(service['TimeoutStopSec']) > ini['stop_timeout'] + Bus.join_timeout
    assert float(service['TimeoutStartSec']) > ini['start_timeout']
    assert service['Type'] == 'notify-reload'


def test_the_units_belong_together():
    service = settings_of('wspbus-site.service')['Unit']
    assert service['Requires'] == 'wspbus-site.socket'
    listens = settings_of('wspbus-site.socket')['Socket']['ListenStream']
    server = configparser.RawConfigParser()
    server.read(SAMPLES / 'production.ini')
    assert listens == '{host}:{port}'.format_map(server['server:main'])


def rotation(tmp_path, pid):
    """The sample, with this user and folder; and a systemctl that knows one unit."""
    import grp
    import pwd

    user = f'{pwd.getpwuid(os.getuid())[0]} {grp.getgrgid(os.getgid())[0]}'
    text = (SAMPLES / 'logrotate.d/wspbus-site').read_text()
    text = text.replace('/var/log/wspbus-site', str(tmp_path / 'log'))
    text = text.replace('www-data www-data', user)
    (tmp_path / 'rotation').write_text(text)
    (tmp_path / 'rotation').chmod(0o600)
    systemctl = tmp_path / 'bin/systemctl'
    systemctl.parent.mkdir()
    systemctl.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\nkill -USR1 {pid}\n')
    systemctl.chmod(0o755)
    return [
        tool('logrotate'),
        '--force',
        f'--state={tmp_path}/state',
        tmp_path / 'rotation',
    ]


def test_logrotate_takes_the_logs_of_a_site_that_serves_and_loses_no_line(tmp_path):
    (tmp_path / 'log').mkdir()
    old, new = tmp_path / 'log/access.log.1', tmp_path / 'log/access.log'
    arguments = [
        SAMPLES / 'production.ini',
        'logs=files',
        f'log_dir={tmp_path}/log',
        '--listen',
        '127.0.0.1:0',
    ]
    with Site(tmp_path, None, *arguments) as site:
        command = rotation(tmp_path, site.pid)
        path = f'{tmp_path}/bin{os.pathsep}{os.environ["PATH"]}'
        requested = 0

        def request():
            nonlocal requested
            assert site.get(f'/{requested}').status == 200
            requested += 1
            return 'GET' in new.read_text()

        for _ in range(5):
            request()
        done = subprocess.run(
            command,
            env={**os.environ, 'PATH': path},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        assert (done.returncode, done.stderr) == (0, '')
        eventually(request)  # the signal has come
        size = old.stat().st_size
        for _ in range(5):
            request()
        assert old.stat().st_size == size
        lines = (old.read_text() + new.read_text()).splitlines()
        # The sample also asks itself for its pages when it starts (smoke, warm_up).
        asked = [re.search(r'GET /(\d+) ', one) for one in lines]
        assert [one[1] for one in asked if one] == [
            str(number) for number in range(requested)
        ]
        assert len(new.read_text().splitlines()) >= 6
        assert 'Caught signal SIGUSR1' in (tmp_path / 'log/site.log.1').read_text()
        assert site.stop()[0] == 0
    assert 'Bus EXITED' in (tmp_path / 'log/site.log').read_text()
    assert (tmp_path / 'asked').read_text().split() == [
        'kill',
        '--kill-whom=main',
        '--signal=USR1',
        'wspbus-site.service',
    ]


def test_the_production_sample_logs_to_the_journal_unless_told_otherwise(tmp_path):
    process = run(
        tmp_path, SAMPLES / 'production.ini', 'logs=files', f'log_dir={tmp_path}/none'
    )
    assert process.code == 2
    arguments = [SAMPLES / 'production.ini', '--listen', '127.0.0.1:0']
    with Site(tmp_path, None, *arguments) as site:
        response = site.get('/', x_forwarded_for='192.0.2.7')
        assert 'server' not in response.headers
        site.expect('192.0.2.7')  # the proxy is believed
        site.expect('INFO  [paste_wspbus] [-] Bus STARTED')
        assert site.stop()[0] == 0
    assert os.listdir(tmp_path) == []

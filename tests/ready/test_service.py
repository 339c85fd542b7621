"""ready/service.py and ready/alone.py: a function that runs for ever."""

import os
import re
import signal
import sys
import threading
import time

import pytest

from paste_wspbus.errors import ConfigError
from paste_wspbus.ready.alone import Alone, _call, python
from paste_wspbus.ready.part import Unhealthy
from paste_wspbus.ready.service import LONGEST, Service, wait_after
from tests.kit import Site, eventually
from tests.kit.processes import TIMEOUT, has_ended
from tests.kit.sites import SERVED

HERE = __name__

began = threading.Event()
goes_on = threading.Event()


def good(stop):
    began.set()
    assert stop.wait(TIMEOUT)


def with_bus(stop, bus):
    bus.seen = True
    good(stop)


def dies():
    began.set()
    raise ValueError('at once')


def dies_at_length():
    raise ValueError('x' * 2000)


def returns():
    pass


def exits():
    sys.exit('no licence')


def hangs():
    began.set()
    goes_on.wait(TIMEOUT)


def of_three(a, b, c):
    pass


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    monkeypatch.setenv('RUNTIME_DIRECTORY', str(tmp_path))
    began.clear()
    goes_on.clear()
    yield
    goes_on.set()


def service(bus, name, **settings):
    plugin = Service(bus, {}, f'{HERE}:{name}', **settings)
    plugin.name = 'mail'
    plugin.subscribe()
    bus.start()
    return bus.resources['mail']


@pytest.mark.parametrize('seconds', [3600, -3600])
def test_a_clock_that_is_set_changes_no_age(bus, monkeypatch, seconds):
    keeper = service(bus, 'with_bus')
    assert began.wait(TIMEOUT)
    now = time.time
    monkeypatch.setattr(time, 'time', lambda: now() + seconds)
    assert re.fullmatch(r'it has run for \d s', keeper.wspbus_status()['text'])
    bus.stop()
    assert not keeper.thread.is_alive()


def test_it_runs_until_the_site_stops(bus, log):
    keeper = service(bus, 'with_bus')
    assert began.wait(TIMEOUT)
    assert bus.seen
    status = keeper.wspbus_status()
    assert keeper.health().startswith('it has run for ')
    assert status['ok'] and status['text'].startswith('it has run for ')
    bus.stop()
    assert not keeper.thread.is_alive()
    assert 'mail' not in bus.resources
    assert log == ['Bus STARTING', 'Bus STARTED', 'Bus STOPPING', 'Bus STOPPED']


def test_it_runs_again_at_the_next_start(bus):
    service(bus, 'good')
    for _ in range(2):
        assert began.wait(TIMEOUT)
        began.clear()
        bus.stop()
        bus.start()


def test_one_that_dies_at_once_is_tried_again_and_again_and_said_to_be_ill(bus, log):
    keeper = service(bus, 'dies', backoff=0.01)
    eventually(lambda: keeper.failures >= 3)
    eventually(lambda: not keeper.wspbus_status()['ok'])
    with pytest.raises(
        Unhealthy, match=r'it has failed .* times, .*ValueError: at once'
    ):
        keeper.health()
    bus.stop()
    told = [line for line in log if ' runs again in ' in line]
    assert [line.rpartition(' in ')[2] for line in told[:3]] == [
        '0.01 s',
        '0.02 s',
        '0.04 s',
    ]
    assert 'Traceback' in next(line for line in log if 'failed:' in line)


def test_the_waits_grow_to_a_minute_for_ever():
    assert [wait_after(count, 1) for count in (1, 2, 3, 6, 7)] == [1, 2, 4, 32, 60]
    assert wait_after(10**9, 1) == LONGEST
    assert wait_after(3, 300) == 300
    assert [wait_after(count, 0) for count in (1, 2, 3, 8)] == [0, 1, 2, 60]


@pytest.mark.parametrize(
    'name, why',
    [
        ('returns', 'it returned'),
        ('exits', "it called sys.exit('no licence')"),
        ('dies', 'ValueError: at once'),
        # Cut, it could keep the beginning of a secret, which is not masked then.
        ('dies_at_length', 'ValueError, with a long text'),
    ],
)
def test_its_end_may_be_ignored(bus, log, name, why):
    keeper = service(bus, name, on_failure='ignore')
    keeper.thread.join(TIMEOUT)
    assert f'[mail] {HERE}:{name} ended: {why}. It is not started again' in log
    assert keeper.wspbus_status()['last_failure'] == why
    with pytest.raises(Unhealthy, match='it has ended'):
        keeper.health()


def test_a_stop_does_not_wait_longer_than_its_deadline(bus, log):
    bus.stop_timeout = bus.stop_reserve = TIMEOUT
    service(bus, 'hangs')
    assert began.wait(TIMEOUT)
    threading.Timer(0.2, bus.hurry).start()
    bus.stop()
    assert '[mail] It does not end within the stop' in log[-2]
    assert 'in hangs' in log[-2]


def test_a_function_of_three_is_refused(bus):
    with pytest.raises(ConfigError) as caught:
        service(bus, 'of_three')
    assert 'takes (a, b, c): it may take the event, and the bus' in str(caught.value)


# -- a process of its own ----------------------------------------------------------------

ALONE = """
import os, signal, sys, threading, time

def note(text):
    with open('notes', 'a') as file:
        file.write(f'{text} {os.getpid()}\\n')

def good(stop):
    note('begins')
    stop.wait()
    note('ends')

def hangs():
    note('begins')
    while True:
        time.sleep(0.05)

def dies():
    raise ValueError('at once')

def make(conf):
    return lambda environ, start_response: (start_response('200 OK', []), [b''])[1]
"""

INI = """
[wspbus:main]
stop_timeout = 3
site_plugins = mail

[plugin:mail]
use = egg:paste_wspbus#service
run = webapp:{name}
runs_in = process
on_failure = {on_failure}
backoff = 0.1
"""


def site(folder, name, on_failure='restart', *args):
    ini = INI.format(name=name, on_failure=on_failure) + SERVED
    return Site(folder, ini, *args, files={'webapp.py': ALONE})


def notes(folder):
    path = folder / 'notes'
    lines = path.read_text().splitlines() if path.exists() else []
    return [(word, int(pid)) for word, pid in map(str.split, lines)]


@pytest.mark.parametrize(
    ('kind', 'why'),
    [
        ('async def run(stop): pass', 'an async function, which nothing would run'),
        ('def run(stop): yield', 'a generator function, which nothing would run'),
        ('run = 3', 'int, no function'),
    ],
)
def test_a_process_of_its_own_says_what_it_cannot_run(
    tmp_path, monkeypatch, caplog, kind, why
):
    (tmp_path / 'service_of_a_test.py').write_text(kind)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'service_of_a_test', raising=False)
    assert _call('service_of_a_test:run', threading.Event()) == 1
    assert caplog.messages == [f'service_of_a_test:run is {why}']


def test_a_process_of_its_own_is_started_again_and_ends_with_the_site(tmp_path):
    with site(tmp_path, 'good', 'restart', '--workers', '1') as served:
        eventually(lambda: notes(tmp_path))
        (_, first) = notes(tmp_path)[0]
        os.kill(first, signal.SIGKILL)
        served.expect('webapp:good ended: its process ended by SIGKILL')
        eventually(lambda: len(notes(tmp_path)) == 2)
        assert served.stop()[0] == 0, served.report()
    (_, second) = notes(tmp_path)[1]
    assert notes(tmp_path) == [('begins', first), ('begins', second), ('ends', second)]


def test_a_process_that_does_not_end_is_killed_within_the_stop(tmp_path):
    with site(tmp_path, 'hangs') as served:
        eventually(lambda: notes(tmp_path))
        ((_, pid),) = notes(tmp_path)
        assert served.stop()[0] == 0, served.report()
        assert (
            '[mail] Its process does not end within the stop: killed' in served.err.text
        )
        eventually(lambda: has_ended(pid))


def test_it_can_stop_the_site_with_a_failure(tmp_path):
    with site(tmp_path, 'dies', 'stop') as served:
        assert served.wait() == 1, served.report()
    assert 'ValueError: at once' in served.err.text
    line = 'webapp:dies ended: its process ended with exit code 1. The site stops'
    assert line in served.err.text


def test_it_ends_when_its_parent_is_killed(tmp_path):
    with site(tmp_path, 'good') as served:
        eventually(lambda: notes(tmp_path))
        served.send(signal.SIGKILL)
        eventually(lambda: notes(tmp_path)[-1][0] == 'ends')


def test_a_process_that_is_asked_to_end_before_it_has_read_anything_ends():
    process = Alone('os:getpid', None, {})
    process.start()
    process.ask_to_end()
    assert process.wait() == 'its process ended with exit code 0'
    process.ask_to_end()
    process.kill()


def test_under_another_program_python_is_found_beside_its_library(monkeypatch):
    assert python() == sys.executable
    monkeypatch.setattr(sys, 'executable', '/usr/bin/uwsgi')
    assert os.path.exists(python())

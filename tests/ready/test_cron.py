"""ready/cron.py: a job in a site: who runs it, what its section may have, how it stops."""

import json
import os
import signal
import threading
import time

import pytest

from paste_wspbus.bus import Bus, ChannelFailures
from paste_wspbus.errors import ConfigError
from paste_wspbus.ini.typed import convert, settings_of
from paste_wspbus.ready import cron as cron_module
from paste_wspbus.ready.cron import Cron
from paste_wspbus.ready.job import Run
from paste_wspbus.ready.part import Unhealthy
from tests.kit import Site, eventually, run
from tests.kit.processes import TIMEOUT
from tests.kit.sites import SERVED

HERE = __name__
SECOND = '* * * * * *'

ran = threading.Event()
goes_on = threading.Event()


def job():
    ran.set()


def job_of_bus(bus):
    bus.seen = True
    ran.set()


def job_that_waits():
    ran.set()
    goes_on.wait(TIMEOUT)


def job_that_fails():
    ran.set()
    raise ValueError('no disk')


async def coroutine():
    pass


def generator():
    yield


def job_of_two(bus, other):
    pass


no_function = 3


@pytest.fixture(autouse=True)
def fresh():
    ran.clear()
    goes_on.clear()
    yield
    goes_on.set()


def cron(bus, tmp_path, name='job', **settings):
    state = tmp_path / 'state.json'
    plugin = Cron(bus, {}, SECOND, f'{HERE}:{name}', state=state, **settings)
    plugin.name = 'nightly'
    plugin.subscribe()
    return plugin


# -- the section ---------------------------------------------------------------------


def problem_of(**conf):
    conf = {'when': SECOND, 'run': f'{HERE}:job', **conf}
    with pytest.raises(ConfigError) as caught:
        convert(settings_of(Cron), conf, 'site.ini', 'plugin:nightly')
    return str(caught.value).removeprefix('site.ini [plugin:nightly] ')


@pytest.mark.parametrize(
    'key, value, problem',
    [
        (
            'when',
            '0 0 30 2 *',
            "'0 0 30 2 *' never comes: no such month has such a day",
        ),
        ('timezone', 'Mars/Base', "there is no time zone 'Mars/Base'"),
        (
            'run',
            'jobs.nightly',
            "'jobs.nightly' is not a function: write MODULE:FUNCTION",
        ),
        ('run', ':x', "':x' is not a function: write MODULE:FUNCTION"),
        ('run', 'nowhere.x:y', "nowhere.x:y: there is no module 'nowhere.x'"),
        ('misfire', 'never', "'never' is not once, all or skip"),
        ('overlap', 'kill', "'kill' is not skip, wait or allow"),
        ('grace', 'soon', "'soon' is not "),
        ('once_per', 'worker', "'worker' is not site or process"),
    ],
)
def test_a_mistake_is_one_line(key, value, problem):
    assert problem_of(**{key: value}).startswith(f'{key}: {problem}')


def test_a_function_that_is_misspelt_has_a_hint():
    problem = problem_of(run=f'{HERE}:job_that_wait')
    assert problem.endswith("has no 'job_that_wait'; did you mean 'job_that_waits'?")


@pytest.mark.parametrize(
    'name, problem',
    [
        ('no_function', 'is int, no function'),
        ('coroutine', 'is an async function, which nothing would run'),
        ('generator', 'is a generator function, which nothing would run'),
        ('job_of_two', 'takes (bus, other): it may take the bus, or nothing'),
        ('missing', 'AttributeError: '),
    ],
)
def test_what_is_no_job_is_refused_when_the_site_is_loaded(
    bus, tmp_path, name, problem
):
    with pytest.raises(ConfigError) as caught:
        cron(bus, tmp_path, name)
    assert problem in str(caught.value)


def test_a_module_that_cannot_be_imported_is_named_with_the_line(
    bus, tmp_path, monkeypatch
):
    (tmp_path / 'jobs_with_a_bug.py').write_text('def job(): pass\n1 / 0\n')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError) as caught:
        Cron(bus, {}, SECOND, 'jobs_with_a_bug:job')
    assert 'ZeroDivisionError: division by zero, at ' in str(caught.value)
    assert 'jobs_with_a_bug.py:2' in str(caught.value)


def test_a_state_without_a_folder_is_refused(bus, tmp_path):
    with pytest.raises(ConfigError, match='state: there is no folder'):
        cron(bus, tmp_path / 'no')


def test_a_state_that_is_a_folder_is_refused(bus, tmp_path):
    (tmp_path / 'state.json').mkdir()
    with pytest.raises(ConfigError, match=r'state: .*state\.json is a folder: name a'):
        cron(bus, tmp_path)


def test_two_jobs_of_one_state_are_refused(bus, tmp_path):
    bus.plugins['hourly'] = cron(bus, tmp_path)
    with pytest.raises(
        ConfigError, match=r'state: \[plugin:hourly\] has the same file'
    ):
        cron(bus, tmp_path)


def test_a_state_that_cannot_be_written_fails_the_start(bus, tmp_path):
    (tmp_path / 'state.json.lock').mkdir()
    cron(bus, tmp_path)
    with pytest.raises(ChannelFailures) as caught:
        bus.start()
    assert 'state: cannot write' in str(caught.value.__cause__)
    assert 'is a directory' in str(caught.value.__cause__)


# -- one process ---------------------------------------------------------------------


def test_it_runs_the_function_with_the_bus_and_says_so(bus, log, tmp_path):
    cron(bus, tmp_path, 'job_of_bus')
    bus.start()
    assert ran.wait(TIMEOUT)
    assert bus.seen
    keeper = bus.resources['nightly']
    eventually(lambda: any(' took ' in line for line in log))
    status = keeper.wspbus_status()
    assert status['ok'] and status['runs_here'] and status['runs'] >= 1
    assert status['text'].startswith('last run 20') and 'next run 20' in status['text']
    assert keeper.health().startswith('last run 20')
    bus.stop()
    assert 'nightly' not in bus.resources
    assert not keeper.thread.is_alive()
    state = json.loads((tmp_path / 'state.json').read_text())
    assert state['run']['outcome'] == 'ok'


def test_a_job_that_fails_is_told_and_runs_again(bus, log, tmp_path):
    cron(bus, tmp_path, 'job_that_fails')
    bus.start()
    for _ in range(2):
        assert ran.wait(TIMEOUT)
        ran.clear()
    keeper = bus.resources['nightly']
    eventually(lambda: not keeper.wspbus_status()['ok'])
    with pytest.raises(Unhealthy, match=r'failed.*ValueError: no disk'):
        keeper.health()


def test_its_health_is_shown_and_decides_nothing(bus, tmp_path):
    checks = bus.make_checks()
    cron(bus, tmp_path)
    for _ in range(2):  # each start has a new object
        bus.start()
        (check,) = checks.describe()
        assert (check['name'], check['group']) == ('nightly', 'health')
        eventually(lambda: checks.describe()[0]['ok'])
        bus.stop()


def test_a_name_that_another_check_has_is_told(bus, log, tmp_path):
    bus.health('nightly')(lambda: True)
    cron(bus, tmp_path)
    bus.start()
    assert any('another check has this name' in line for line in log)


def test_a_stop_waits_for_the_run_in_progress(bus, log, tmp_path):
    cron(bus, tmp_path, 'job_that_waits')
    bus.start()
    assert ran.wait(TIMEOUT)
    threading.Timer(0.3, goes_on.set).start()
    bus.stop()
    state = json.loads((tmp_path / 'state.json').read_text())
    assert state['run']['outcome'] == 'ok'


def test_runs_may_overlap_and_a_stop_waits_for_all_of_them(bus, tmp_path, monkeypatch):
    monkeypatch.setattr(cron_module, 'MOST', 2)
    cron(bus, tmp_path, 'job_that_waits', overlap='allow', misfire='all')
    bus.start()
    keeper = bus.resources['nightly']
    eventually(lambda: len(keeper._runs) == 2)
    assert keeper.diary.seconds_to_next(time.time() + 9) == 0
    assert keeper._begin() is None  # two overlap at most
    assert '; 2 runs are in progress' in keeper.wspbus_status()['text']
    threading.Timer(0.2, goes_on.set).start()
    bus.stop()
    assert keeper._runs == []
    counts = keeper.diary.counts
    assert counts['runs'] >= 2 and not counts['failed'] and not counts['overlapped']
    state = json.loads((tmp_path / 'state.json').read_text())
    assert state['run']['outcome'] == 'ok'
    assert state['run']['for'] == state['last']


def test_runs_that_overlap_are_not_well_if_one_has_failed(bus, tmp_path):
    cron(bus, tmp_path, 'job_that_fails', overlap='allow')
    bus.start()
    keeper = bus.resources['nightly']
    eventually(lambda: keeper._ended is not None)
    keeper.run = Run(keeper.cron, job, keeper.run.time + 1, None)  # it has not ended
    status = keeper.wspbus_status()
    assert not status['ok']
    assert 'the run that ended last: failed; ValueError: no disk' in status['text']


def test_a_stop_does_not_wait_longer_than_its_deadline(bus, log, tmp_path):
    cron(bus, tmp_path, 'job_that_waits')
    bus.stop_timeout = TIMEOUT
    bus.stop_reserve = TIMEOUT  # it begins at once
    bus.start()
    assert ran.wait(TIMEOUT)
    threading.Timer(0.2, bus.hurry).start()
    bus.stop()
    assert 'The run does not end within the stop' in log[-2]
    assert 'in job_that_waits' in log[-2]
    goes_on.set()


def test_two_buses_do_not_run_it_twice(bus, tmp_path):
    other = Bus()
    for one in (bus, other):
        cron(one, tmp_path)
        one.start()
    assert ran.wait(TIMEOUT)
    first, second = (one.resources['nightly'] for one in (bus, other))
    eventually(lambda: first.is_keeper or second.is_keeper)
    states = [one.wspbus_status() for one in (first, second)]
    assert [one['runs_here'] for one in states].count(False) == 1
    assert all(one['ok'] for one in states)
    waits, keeps = (second, bus) if first.is_keeper else (first, other)
    keeps.stop()
    eventually(lambda: waits.is_keeper)
    other.exit()


def test_once_per_process_needs_no_state(bus, tmp_path):
    cron(bus, tmp_path, once_per='process')
    bus.start()
    assert ran.wait(TIMEOUT)
    assert os.listdir(tmp_path) == []


def test_a_jitter_is_the_same_after_a_restart_and_shorter_than_it_may_be(bus, tmp_path):
    plugin = cron(bus, tmp_path, jitter=30)
    bus.start()
    keeper = bus.resources['nightly']
    delays = [keeper._delay(time) for time in range(100)]
    assert delays == [keeper._delay(time) for time in range(100)]
    assert 0 <= min(delays) < 10 < 20 < max(delays) <= 30
    assert plugin.jitter == 30


# -- processes ------------------------------------------------------------------------

NOTES = """
import os

def tick(bus):
    with open('runs', 'a') as file:
        file.write(f'{bus.resources["tick"].run.time} {os.getpid()}\\n')

def hang():
    os.write(2, b'hangs\\n')
    while True:
        __import__('time').sleep(0.05)

def make(conf):
    return lambda environ, start_response: (start_response('200 OK', []), [b''])[1]
"""

INI = f"""
[wspbus:main]
stop_timeout = 3
soak = 0
{{key}} = tick

[plugin:tick]
use = egg:paste_wspbus#cron
when = {SECOND}
run = webapp:{{name}}
state = state.json
{SERVED}
"""


def runs(folder):
    path = folder / 'runs'
    lines = path.read_text().splitlines() if path.exists() else []
    return [tuple(map(int, line.split())) for line in lines]


def test_my_job_ran_once_with_three_workers_and_goes_on_when_its_worker_dies(tmp_path):
    ini, files = INI.format(key='plugins', name='tick'), {'webapp.py': NOTES}
    with Site(tmp_path, ini, '--workers', '3', files=files) as site:
        eventually(lambda: len(runs(tmp_path)) >= 2)
        status = run(tmp_path, 'site.ini', 'status').out.text
        (pid,) = {pid for _, pid in runs(tmp_path)}
        lines = [
            line for line in status.splitlines() if line.startswith('tick (worker')
        ]
        assert len(lines) == 1 and 'next run' in lines[0], status
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: len({pid for _, pid in runs(tmp_path)}) == 2)
        assert site.stop()[0] == 0, site.report()
    times = [time for time, _ in runs(tmp_path)]
    assert times == [*range(times[0], times[-1] + 1)]


def test_a_job_that_hangs_at_the_stop_is_told_and_does_not_hold_it_up(tmp_path):
    ini, files = INI.format(key='site_plugins', name='hang'), {'webapp.py': NOTES}
    with Site(tmp_path, ini, files=files) as site:
        site.expect('hangs')
        assert site.stop()[0] == 0, site.report()
        assert '[tick] The run does not end within the stop' in site.err.text
        assert 'in hang' in site.err.text
    state = json.loads((tmp_path / 'state.json').read_text())
    # The next process says that it was interrupted.
    assert state['run']['ended'] is None


def test_check_says_what_the_start_would_say(tmp_path):
    ini = INI.format(key='plugins', name='tick').replace(SECOND, '0 0 30 2 *')
    line = "site.ini [plugin:tick] when: '0 0 30 2 *' never comes"
    files = {'site.ini': ini, 'webapp.py': NOTES}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    for words in (['--check', 'site.ini'], ['site.ini']):
        process = run(tmp_path, *words)
        assert process.code == 2, process.report()
        assert process.err.text.count('\n') == 1
        assert line in process.err.text

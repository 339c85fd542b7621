"""preload = true: a process composes the site once, and forks the workers that serve it."""

import collections
import contextlib
import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests.kit import Site, eventually, is_free, run
from tests.kit.clients import Clients
from tests.kit.places import SITES
from tests.kit.processes import asleep, children, has_ended, processes_of_session
from tests.kit.sites import APP, SERVED, ask
from tests.kit.supervised import (
    LOGGING,
    UNKNOWN_SERVER,
    Daemon,
    crash,
    graceful,
    has_cleaned_up,
    impatient_command,
    life,
    stop,
    wait_for,
    workers,
)

PARTS = """
import gc
import random
import sys

from paste_wspbus.plugins.threads import acquired


note('imported')
with open('version') as file:
    VERSION = file.read()


def wait_for_release(environ):
    say('waiting')
    with open('released') as released:
        released.read()


def log_and_say(environ):
    log(environ)
    bus_of(environ).log('a line of the bus', 30)
    say('a line on standard error')


def thread(environ):
    bus, told = bus_of(environ), []
    bus.subscribe('start_thread', told.append)

    def run():
        with acquired(bus):
            pass

    one = threading.Thread(target=run)
    one.start()
    one.join()
    return {'threads': told, 'plugins': sorted(bus.plugins)}


PAGES.update({
    '/wait': wait_for_release,
    '/log': log_and_say,
    '/thread': thread,
    '/restart': lambda environ: bus_of(environ).restart(),
    '/facts': lambda environ: {
        'enabled': gc.isenabled(),
        'frozen': gc.get_freeze_count(),
        'random': random.random(),
        'state': bus_of(environ).state.name,
        'resource': bus_of(environ).resources['resource'],
        'sigchld': signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL,
        'sigio': signal.getsignal(signal.SIGIO).__name__,
    },
})


def about(environ):
    return {'pid': os.getpid(), 'ppid': os.getppid(), 'version': VERSION}


def make(global_conf):
    if os.path.exists('gate'):
        say('composing')
        with open('gate') as gate:
            gate.read()
    obey('at_composition')
    return app


def lifespan(bus, global_conf):
    bus.subscribe('resized', lambda: say(f'resized {os.getpid()}'))
    obey('at_start')
    note('opened')
    yield os.getpid()
    obey('at_stop')
    note('closed')
"""

INI = (
    SERVED
    + """
[wspbus:main]
soak = 0
workers = 2
preload = true
plugins = resource
signal.SIGWINCH = resized

[plugin:resource]
use = call:webapp:lifespan
"""
)

FILES = {'webapp.py': APP + PARTS, 'site.ini': INI, 'version': 'one'}

UNIX = INI.replace('host = 127.0.0.1\nport = 0', 'unix_socket = site.sock')
SLOW_START = INI.replace('workers = 2', 'workers = 2\nstart_timeout = 1')
SLOW_STOP = INI.replace('workers = 2', 'workers = 2\nstop_timeout = 1')
#: Without the process of its own.
PLAIN = INI.replace('preload = true', 'preload = false')

each_group_signal = pytest.mark.parametrize(
    'signum', [signal.SIGTERM, signal.SIGINT], ids=lambda one: one.name
)


def preloaded(folder, *args, ini=INI, files=None, **kwargs):
    """A site whose workers are forked by the process that has composed it."""
    files = {**FILES, 'site.ini': ini, **(files or {})}
    args = ['site.ini', '--pid-file', 'site.pid', *args]
    return Site(folder, None, *args, files=files, **kwargs)


def impatient(folder, *args, backoff=(0, 0.1), healthy=60, **kwargs):
    """The same, which does not wait so long before a restart."""
    return preloaded(
        folder, *args, command=impatient_command(folder, backoff, healthy), **kwargs
    )


def composer(site):
    """The one process that the supervisor has forked."""
    (pid,) = children(site.pid)
    return pid


def ask_all(site, path='/', count=2):
    """What each worker says, by its process."""
    told = {}

    def is_complete():
        answer = ask(site, path)
        told[answer['pid']] = answer
        return len(told) == count

    eventually(is_complete)
    return told


# -- composed once ---------------------------------------------------------------------


def test_the_site_is_composed_once_for_all_workers(tmp_path):
    with preloaded(tmp_path, '--workers', '3') as site:
        one = composer(site)
        assert life(tmp_path, 'imported') == [one]
        assert sorted(children(one)) == sorted(workers(site))
        assert len(ask_all(site, count=3)) == 3
        stop(site)
    assert life(tmp_path, 'imported') == [one]
    assert sorted(life(tmp_path, 'opened')) == sorted(workers(site))
    assert sorted(life(tmp_path, 'closed')) == sorted(workers(site))
    assert 'crashed' not in site.err.text


def test_one_worker_is_preloaded_too(tmp_path):
    with preloaded(tmp_path, '--workers', '1') as site:
        (worker,) = workers(site)
        told = ask(site)
        assert (told['pid'], told['ppid']) == (worker, composer(site))
        graceful(site)
        assert ask(site)['pid'] != worker
        stop(site)


def test_the_process_that_composed_sleeps_and_does_not_serve(tmp_path):
    def switches():
        status = Path(f'/proc/{one}/status').read_text()
        return int(status.split('\nvoluntary_ctxt_switches:')[1].split()[0])

    with preloaded(tmp_path) as site:
        one = composer(site)
        assert len(os.listdir(f'/proc/{one}/task')) == 1
        eventually(lambda: asleep(one))
        before = switches()
        assert one not in {ask(site)['pid'] for _ in range(30)}
        assert switches() == before
        stop(site)


def test_what_is_composed_is_frozen_for_the_garbage_collector(tmp_path):
    with (
        preloaded(tmp_path) as site,
        preloaded(make(tmp_path / 'plain'), ini=PLAIN) as plain,
    ):
        for told in ask_all(site, '/facts').values():
            assert told['enabled'] is True
            assert told['frozen'] > ask(plain, '/facts')['frozen'] > 0


def make(folder):
    folder.mkdir()
    return folder


def test_each_worker_has_random_numbers_of_its_own(tmp_path):
    with preloaded(tmp_path) as site:
        numbers = [ask(site, '/facts')['random'] for _ in range(10)]
        numbers += [told['random'] for told in ask_all(site, '/facts').values()]
        assert len(set(numbers)) == len(numbers)


def test_each_worker_has_the_resources_and_dispositions_of_a_process_of_its_own(
    tmp_path,
):
    with preloaded(tmp_path) as site:
        for pid, told in ask_all(site, '/facts').items():
            assert told['resource'] == pid
            assert told['state'] == 'STARTED'
            assert told['sigchld'] and told['sigio'] == '_ignore'
        stop(site)


# -- the bus of a worker ---------------------------------------------------------------------


def test_a_default_timeout_of_the_sites_sockets_is_for_the_site_alone(tmp_path):
    code = APP + '\nimport socket\nsocket.setdefaulttimeout(0.2)\n'
    ini = SERVED + '[wspbus:main]\nworkers = 2\npreload = true\n'
    with Site(
        tmp_path, ini, '--pid-file', 'site.pid', files={'webapp.py': code}
    ) as site:
        first = ask(site)['pid']
        time.sleep(0.5)  # longer than the timeout
        assert run(tmp_path, 'site.ini', 'graceful', '--pid-file', 'site.pid').code == 0
        assert ask(site)['pid'] != first
        assert site.stop()[0] == 0, site.report()
    assert 'crashed' not in site.err.text
    assert 'imeout' not in site.err.text


def test_the_bus_of_a_request_is_its_workers(tmp_path):
    with preloaded(tmp_path) as site:
        ask_all(site, '/log')
        for name in ('worker 1', 'worker 2'):
            logger = f'paste_wspbus.{name.replace(" ", "")}'
            site.expect(f'[{name}] [{logger}] a line of the bus')
            site.expect(f'[{name}] [site] a line of the site')
        assert '[preload]' not in site.err.text
        stop(site)


def test_a_bus_that_a_worker_exits_ends_the_site(tmp_path):
    with preloaded(tmp_path) as site:
        ask(site, '/bus_exit')
        assert site.wait() == 0
    assert has_cleaned_up(site, zombies=True)
    assert len(life(tmp_path, 'closed')) == 2


def test_a_worker_that_restarts_its_bus_has_the_site_composed_anew(tmp_path):
    with preloaded(tmp_path) as site:
        deploy(tmp_path, 'two')
        ask(site, '/bus_restart')
        assert site.out.wait_for('Generation 2 serves'), site.report()
        assert versions(site) == {'two'}
        eventually(lambda: len(processes_of_session(site.pid)) == 4)
        assert len(life(tmp_path, 'imported')) == 2
        stop(site)
    assert 'crashed' not in site.err.text


def test_a_signal_of_the_inis_reaches_each_worker(tmp_path):
    with preloaded(tmp_path) as site:
        site.send(signal.SIGWINCH)
        for pid in workers(site):
            site.expect(f'resized {pid}\n')
        stop(site)
    assert site.err.text.count('resized') == 2


def test_a_worker_knows_its_threads_and_plugins(tmp_path):
    with preloaded(tmp_path) as site:
        told = ask(site, '/thread')
        assert len(told['threads']) == 1
        assert {'sitelog', 'signals', 'threads', 'resource'} <= set(told['plugins'])
        stop(site)


@pytest.mark.parametrize('signum', [signal.SIGUSR1, signal.SIGUSR2])
def test_the_log_files_of_all_processes_are_reopened(tmp_path, signum):
    out, log = tmp_path / 'out.log', tmp_path / 'site.log'
    with preloaded(
        tmp_path, '--log-file', 'out.log', ini=INI + LOGGING, wait=False
    ) as site:
        eventually(lambda: out.exists() and 'PIDs' in out.read_text())
        site.url = out.read_text().split('Serving on ')[1].split()[0]
        one, (first, second) = composer(site), life(tmp_path, 'opened')
        out.rename(tmp_path / 'out.log.1')
        log.rename(tmp_path / 'site.log.1')
        site.send(signum)
        for pid in (site.pid, one, first, second):
            eventually(lambda pid=pid: writes_to(pid, out))
        for pid in (one, first, second):  # the supervisor has no log of the site's
            eventually(lambda pid=pid: writes_to(pid, log))
        os.kill(first, signal.SIGKILL)
        os.kill(second, signal.SIGKILL)
        wait_for(tmp_path, 'opened', 4)
        ask_all(site, '/log')
        assert log.read_text().count('a line of the site') >= 2
        assert out.read_text().count('a line on standard error') >= 2
        assert composer(site) == one
        assert 'a line' not in (tmp_path / 'site.log.1').read_text()
        stop(site)


def writes_to(pid, path):
    """Whether a process has a file open, and not the one that was moved away."""
    files = []
    for fd in os.listdir(f'/proc/{pid}/fd'):
        with contextlib.suppress(OSError):
            files.append(os.readlink(f'/proc/{pid}/fd/{fd}'))
    return str(path) in files and f'{path}.1' not in files


# -- a graceful restart ----------------------------------------------------------------------


def deploy(folder, version):
    (folder / 'version').write_text(version)


def versions(site):
    return {told['version'] for told in ask_all(site).values()}


def test_a_graceful_restart_composes_anew_in_a_new_process(tmp_path):
    with preloaded(tmp_path) as site:
        old, workers_of_old = composer(site), workers(site)
        for count, version in enumerate(['two', 'three'], 2):
            deploy(tmp_path, version)
            assert 'Generation' in graceful(site)
            assert versions(site) == {version}
            assert len(life(tmp_path, 'imported')) == count
        eventually(lambda: len(children(site.pid)) == 1)
        assert composer(site) == life(tmp_path, 'imported')[-1]
        eventually(lambda: len(processes_of_session(site.pid)) == 4)
        assert has_ended(old)
        assert all(map(has_ended, workers_of_old))
        stop(site)
    assert sorted(life(tmp_path, 'opened')) == sorted(life(tmp_path, 'closed'))
    assert 'crashed' not in site.err.text


def test_a_preloaded_worker_that_asks_for_a_restart_gets_a_graceful_one(tmp_path):
    ini = INI.replace('workers = 2', 'workers = 1')
    with preloaded(tmp_path, ini=ini) as site:
        deploy(tmp_path, 'two')
        ask(site, '/restart')
        eventually(lambda: ask(site)['version'] == 'two')
        stop(site)


@pytest.mark.parametrize('ini', [INI, UNIX], ids=['tcp', 'unix'])
def test_nobody_is_refused_while_the_generations_change(tmp_path, ini):
    with preloaded(tmp_path, ini=ini) as site, Clients(site) as clients:
        for count in (2, 3):
            graceful(site)
            seen = life(tmp_path, 'opened')[-1]
            eventually(lambda seen=seen: seen in clients.answers or clients.failures)
            eventually(lambda: len(children(site.pid)) == 1)
            assert len(life(tmp_path, 'imported')) == count
        eventually(lambda: len(processes_of_session(site.pid)) == 4)
        for _ in range(10):
            ask(site)
        clients.stop()
        assert clients.failures == []
        stop(site)


def test_sighup_to_all_processes_replaces_the_generation(tmp_path):
    with preloaded(tmp_path) as site:
        deploy(tmp_path, 'two')
        os.killpg(site.pid, signal.SIGHUP)
        site.out.wait_for('Generation 2 serves')
        assert versions(site) == {'two'}
        stop(site)
    assert len(life(tmp_path, 'imported')) == 2
    assert 'crashed' not in site.err.text


def test_a_broken_deploy_leaves_the_old_code_to_serve_and_to_be_forked(tmp_path):
    with preloaded(tmp_path) as site:
        old = composer(site)
        deploy(tmp_path, 'two')
        (tmp_path / 'at_composition').write_text("raise RuntimeError('it is broken')")
        assert 'it is broken' in graceful(site, code=1)
        assert composer(site) == old
        assert versions(site) == {'one'}
        os.kill(workers(site)[0], signal.SIGKILL)
        wait_for(tmp_path, 'opened', 3)
        assert versions(site) == {'one'}
        assert composer(site) == old
        assert len(life(tmp_path, 'imported')) == 2
        (tmp_path / 'at_composition').unlink()
        graceful(site)
        assert versions(site) == {'two'}
        eventually(lambda: len(processes_of_session(site.pid)) == 4)
        stop(site)


def test_a_generation_whose_second_worker_fails_is_replaced_by_the_old_code(tmp_path):
    with preloaded(tmp_path) as site:
        old = composer(site)
        deploy(tmp_path, 'two')
        (tmp_path / 'at_start').write_text(
            "if VERSION == 'two':\n    open('held', 'x').close()\n"
        )
        assert 'held' in graceful(site, code=1)
        assert versions(site) == {'one'}
        eventually(lambda: len(processes_of_session(site.pid)) == 4)
        assert composer(site) == old
        deploy(tmp_path, 'three')
        graceful(site)
        assert versions(site) == {'three'}
        eventually(lambda: len(processes_of_session(site.pid)) == 4)
        stop(site)
    assert sorted(life(tmp_path, 'opened')) == sorted(life(tmp_path, 'closed'))


def test_a_generation_that_is_too_slow_to_compose_is_dropped(tmp_path):
    with preloaded(tmp_path) as site:
        os.mkfifo(tmp_path / 'gate')
        (tmp_path / 'site.ini').write_text(SLOW_START)
        assert 'was not ready within 1 s' in graceful(site, code=1)
        assert versions(site) == {'one'}
        eventually(lambda: len(processes_of_session(site.pid)) == 4)
        (tmp_path / 'gate').unlink()
        (tmp_path / 'site.ini').write_text(INI)
        graceful(site)
        stop(site)


def test_a_new_generation_whose_composer_dies_never_serves_old_code(tmp_path):
    os.mkfifo(tmp_path / 'start_gate')
    with preloaded(tmp_path) as site:
        old = composer(site)
        deploy(tmp_path, 'two')
        (tmp_path / 'at_start').write_text(
            "if VERSION == 'two':\n"
            "    say('starting')\n"
            "    with open('start_gate') as gate:\n"
            '        gate.read()\n'
        )
        site.send(signal.SIGHUP)
        site.expect('starting')
        (new,) = set(children(site.pid)) - {old}
        os.kill(new, signal.SIGKILL)
        eventually(lambda: children(site.pid) == [old])
        (tmp_path / 'at_start').unlink()
        with open(tmp_path / 'start_gate', 'w'):
            pass
        said = site.err.wait_for('Generation 2 failed')
        assert said, site.report()
        assert versions(site) == {'one'}
        stop(site)


def test_preload_is_switched_on_and_off_by_a_graceful_restart(tmp_path):
    with preloaded(tmp_path, ini=PLAIN) as site:
        assert sorted(children(site.pid)) == sorted(workers(site))
        (tmp_path / 'site.ini').write_text(INI)
        graceful(site)
        eventually(lambda: len(children(site.pid)) == 1)
        assert sorted(children(composer(site))) == sorted(ask_all(site))
        (tmp_path / 'site.ini').write_text(PLAIN)
        graceful(site)
        eventually(lambda: sorted(children(site.pid)) == sorted(workers(site)))
        stop(site)


UNKNOWN = INI.replace('egg:waitress', 'call:server:make').replace(
    'workers = 2', 'workers = 1'
)


def test_a_server_that_is_not_known_is_preloaded_too(tmp_path):
    ini = UNKNOWN.replace('port = 0', 'port = %(http_port)s')
    ini += '[DEFAULT]\nhttp_port = 0\n'
    files = {'server.py': UNKNOWN_SERVER}
    with preloaded(tmp_path, ini=ini, files=files) as site:
        port, old = site.port, ask(site)['pid']
    with preloaded(tmp_path, f'http_port={port}', ini=ini, files=files) as site:
        old = ask(site)['pid']
        deploy(tmp_path, 'two')
        graceful(site)
        told = ask(site)
        assert told['version'] == 'two'
        assert told['pid'] != old
        stop(site)


# -- what dies -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'page, how',
    [
        ('/kill', 'signal SIGKILL'),
        ('/segv', 'signal SIGSEGV'),
        ('/exit3', 'exit code 3'),
    ],
)
def test_a_worker_that_dies_is_forked_anew_and_not_composed(tmp_path, page, how):
    with preloaded(tmp_path) as site:
        one = composer(site)
        os.mkfifo(tmp_path / 'gate')  # whoever composes waits there for ever
        crash(site, page)
        new = wait_for(tmp_path, 'opened', 3)
        assert new in ask_all(site)
        assert composer(site) == one
        assert life(tmp_path, 'imported') == [one]
        stop(site)
    assert re.search(
        rf'Worker \d \(process \d+\) crashed, {how}; restarting\n', site.err.text
    )


def test_workers_go_on_without_the_process_that_composed_them(tmp_path):
    with preloaded(tmp_path) as site:
        one = composer(site)
        os.kill(one, signal.SIGKILL)
        eventually(lambda: children(site.pid) == [])
        site.expect(f'(process {one}) has ended, signal SIGKILL')
        assert set(ask_all(site)) == set(workers(site))
        os.kill(workers(site)[0], signal.SIGKILL)
        new = wait_for(tmp_path, 'opened', 3)
        assert set(ask_all(site)) == {workers(site)[1], new}
        two = composer(site)
        assert life(tmp_path, 'imported') == [one, two]
        assert children(two) == [new]
        os.kill(new, signal.SIGKILL)
        wait_for(tmp_path, 'opened', 4)
        assert composer(site) == two
        stop(site)


def test_the_process_that_composed_dies_together_with_its_workers(tmp_path):
    with preloaded(tmp_path) as site:
        one = composer(site)
        for pid in (one, *workers(site)):
            os.kill(pid, signal.SIGKILL)
        wait_for(tmp_path, 'opened', 4)
        assert len(ask_all(site)) == 2
        assert len(life(tmp_path, 'imported')) == 2
        stop(site)


def test_a_site_whose_composing_process_died_stops_cleanly(tmp_path):
    with preloaded(tmp_path) as site:
        os.kill(composer(site), signal.SIGKILL)
        eventually(lambda: children(site.pid) == [])
        stop(site)
    assert len(life(tmp_path, 'closed')) == 2


def test_a_site_whose_composing_process_died_restarts_gracefully(tmp_path):
    with preloaded(tmp_path) as site:
        os.kill(composer(site), signal.SIGKILL)
        eventually(lambda: children(site.pid) == [])
        deploy(tmp_path, 'two')
        graceful(site)
        assert versions(site) == {'two'}
        eventually(lambda: len(processes_of_session(site.pid)) == 4)
        stop(site)


def test_a_site_that_cannot_be_composed_anew_goes_on_with_the_workers_it_has(tmp_path):
    with impatient(tmp_path) as site:
        (tmp_path / 'at_composition').write_text(
            "raise RuntimeError('broken meanwhile')"
        )
        os.kill(composer(site), signal.SIGKILL)
        eventually(lambda: children(site.pid) == [])
        os.kill(workers(site)[0], signal.SIGKILL)
        site.expect('broken meanwhile', 3)
        assert ask(site)['pid'] == workers(site)[1]
        (tmp_path / 'at_composition').unlink()
        wait_for(tmp_path, 'opened', 3)
        assert len(ask_all(site)) == 2
        stop(site)


def test_a_site_whose_composing_process_hangs_stops_all_the_same(tmp_path):
    ini = INI.replace('workers = 2', 'workers = 2\nstop_timeout = 0.01')
    with preloaded(tmp_path, ini=ini) as site:
        one = composer(site)
        os.kill(one, signal.SIGSTOP)
        os.kill(workers(site)[0], signal.SIGKILL)
        eventually(lambda: has_ended(workers(site)[0]))
        site.send(signal.SIGTERM)
        site.wait()
    eventually(lambda: has_cleaned_up(site, zombies=True))


def test_a_worker_that_is_ready_before_its_parent_goes_on_is_known_by_its_number(
    tmp_path,
):
    slow = 'import time\nos.register_at_fork(after_in_parent=lambda: time.sleep(0.5))\n'
    with preloaded(tmp_path, files={'at_composition': slow}) as site:
        assert sorted(workers(site)) == sorted(life(tmp_path, 'opened'))
        stop(site)


def test_sigterm_to_one_worker_is_followed_by_a_fork(tmp_path):
    with preloaded(tmp_path) as site:
        one, old = composer(site), workers(site)[0]
        os.kill(old, signal.SIGTERM)
        new = wait_for(tmp_path, 'opened', 3)
        eventually(lambda: has_ended(old))
        assert set(ask_all(site)) == {new, workers(site)[1]}
        assert composer(site) == one
        stop(site)


def test_sigterm_to_the_process_that_composed_changes_nothing(tmp_path):
    with preloaded(tmp_path) as site:
        one = composer(site)
        os.kill(one, signal.SIGTERM)
        os.kill(workers(site)[0], signal.SIGKILL)
        wait_for(tmp_path, 'opened', 3)
        assert composer(site) == one
        stop(site)


# -- the end ---------------------------------------------------------------------------------


@pytest.mark.parametrize('ini', [INI, UNIX], ids=['tcp', 'unix'])
def test_all_processes_of_a_supervisor_that_was_killed_stop(tmp_path, ini):
    with preloaded(tmp_path, ini=ini) as site:
        site.send(signal.SIGKILL)
        assert site.wait() == -signal.SIGKILL
        eventually(lambda: not processes_of_session(site.pid))
        assert isinstance(site.address, str) or is_free(site.port)
    assert len(life(tmp_path, 'closed')) == 2
    assert site.err.text.count('The supervisor is gone: the site stops') == 2


def test_a_site_that_composes_while_its_supervisor_is_killed_ends(tmp_path):
    os.mkfifo(tmp_path / 'gate')
    with preloaded(tmp_path, wait=False) as site:
        site.expect('composing')
        site.send(signal.SIGKILL)
        site.process.wait()
        # They end, although the gate is still closed.
        eventually(lambda: not processes_of_session(site.pid))
    assert life(tmp_path, 'opened') == []


@each_group_signal
def test_a_signal_to_all_processes_stops_the_site(tmp_path, signum):
    with preloaded(tmp_path) as site:
        os.killpg(site.pid, signum)
        assert site.wait() == 0, site.report()
    assert has_cleaned_up(site, zombies=True)
    assert len(life(tmp_path, 'opened')) == len(life(tmp_path, 'closed')) == 2
    assert 'Traceback' not in site.err.text
    assert 'crashed' not in site.err.text


@each_group_signal
def test_a_signal_to_all_processes_while_it_composes_stops_it(tmp_path, signum):
    os.mkfifo(tmp_path / 'gate')
    with preloaded(tmp_path, wait=False) as site:
        site.expect('composing')
        os.killpg(site.pid, signum)
        assert site.wait() == (130 if signum == signal.SIGINT else 143)
        assert processes_of_session(site.pid) == []
    assert 'Traceback' not in site.err.text


def test_a_stop_lets_the_request_in_flight_end(tmp_path):
    os.mkfifo(tmp_path / 'released')
    with preloaded(tmp_path) as site, site.connect() as client:
        client.send('/wait')
        site.expect('waiting')
        site.send(signal.SIGTERM)
        with open(tmp_path / 'released', 'w'):
            pass
        assert client.receive().status == 200
        assert site.wait() == 0
        assert has_cleaned_up(site, zombies=True)


def test_a_worker_that_hangs_at_its_stop_is_forced_out(tmp_path):
    with preloaded(tmp_path, ini=SLOW_STOP) as site:
        (tmp_path / 'at_stop').write_text('threading.Event().wait()')
        assert site.stop()[0] == 70
        assert has_cleaned_up(site, zombies=True)
    assert life(tmp_path, 'closed') == []


# -- a composition in trouble ----------------------------------------------------------------


@pytest.mark.parametrize('daemon', [True, False], ids=['daemon', 'not a daemon'])
def test_a_thread_that_the_composition_starts_is_named_in_the_log(tmp_path, daemon):
    thread = (
        'threading.Thread('
        f"target=threading.Event().wait, name='poller', daemon={daemon}).start()\n"
    )
    with preloaded(tmp_path, files={'at_composition': thread}) as site:
        site.expect('preload: the site started threads while it was loaded, ')
        site.expect('which its workers will not have: poller\n')
        graceful(site)
        # It is not kept by its thread.
        eventually(lambda: len(processes_of_session(site.pid)) == 4)
        stop(site)
    assert 'killed' not in site.err.text
    assert site.err.text.count('poller') >= 2


def test_a_child_that_the_composition_forks_is_left_alone(tmp_path):
    child = """
reader, writer = os.pipe()
if not os.fork():
    os.close(writer)
    os.read(reader, 1)  # until nobody has the other end any more
    note('ended')
    os._exit(0)
os.close(reader)
"""
    with preloaded(tmp_path, files={'at_composition': child}) as site:
        one = composer(site)
        (child,) = set(children(one)) - set(workers(site))
        os.kill(child, signal.SIGKILL)
        crash(site, '/segv')
        wait_for(tmp_path, 'opened', 3)
        assert len(ask_all(site)) == 2
        assert composer(site) == one
        stop(site)
    assert site.err.text.count('crashed') == 1


TROUBLE = {
    'raises': "raise RuntimeError('it is broken')",
    'exits': "sys.exit('it does not like it here')",
    'exits with a number': 'sys.exit(5)',
    'is killed': 'os.kill(os.getpid(), signal.SIGKILL)',
    'leaves': 'os._exit(4)',
}
each_trouble = pytest.mark.parametrize('trouble', TROUBLE)


def attempt(folder, ini, files):
    """A start that fails: exit code, what it says without its processes' numbers."""
    with preloaded(make(folder), ini=ini, files=files, wait=False) as site:
        code = site.wait()
        assert processes_of_session(site.pid) == []
        left = {'site.pid', 'site.pid.sock'} & set(os.listdir(folder))
        assert not left
    assert site.out.text == ''
    return code, re.sub(r'process \d+', 'process N', site.err.text)


@each_trouble
def test_a_composition_in_trouble_is_told_as_without_preload(tmp_path, trouble):
    files = {'at_composition': TROUBLE[trouble]}
    ini = INI.replace('workers = 2', 'workers = 1')
    plain = attempt(tmp_path / 'plain', ini.replace('preload = true', ''), files)
    code, text = attempt(tmp_path / 'preloaded', ini, files)
    assert code == plain[0] != 0
    text = text.replace('The process that loads the site', 'Worker 1')
    assert text == plain[1]
    assert len(text.splitlines()) == 1


@each_trouble
def test_trouble_at_the_start_of_a_worker_is_told_as_without_preload(tmp_path, trouble):
    files = {'at_start': TROUBLE[trouble]}
    ini = INI.replace('workers = 2', 'workers = 1')
    plain = attempt(tmp_path / 'plain', ini.replace('preload = true', ''), files)
    code, text = attempt(tmp_path / 'preloaded', ini, files)
    assert (code, text) == plain
    assert code != 0
    said = text.replace('it does not like it here\n', '')  # as sys.exit says it
    assert len(said.splitlines()) == 1


def test_a_start_that_fails_in_all_workers_is_told_once(tmp_path):
    files = {'at_start': TROUBLE['raises']}
    code, text = attempt(tmp_path / 'site', INI, files)
    assert code == 1
    assert text.count('it is broken') == 1
    assert len(text.splitlines()) == 1


def test_a_composition_that_hangs_is_given_up(tmp_path):
    os.mkfifo(tmp_path / 'gate')
    with preloaded(tmp_path, ini=SLOW_START, wait=False) as site:
        assert site.wait() == 1
        assert processes_of_session(site.pid) == []
    assert 'was not ready within 1 s (start_timeout)' in site.err.text
    assert re.search(r'Stacks:\nThread \d+:\n.*webapp\.py line \d+ in ', site.err.text)


# -- servers ---------------------------------------------------------------------------------

SERVERS = {
    'waitress': INI,
    'cheroot': INI.replace('egg:waitress', 'egg:paste_wspbus#cheroot'),
    'paste': INI.replace('egg:waitress', 'egg:Paste#http'),
    'wsgiref': INI.replace('egg:waitress', 'egg:paste_wspbus#wsgiref'),
}
each_server = pytest.mark.parametrize('server', SERVERS)


@each_server
def test_each_server_serves_restarts_and_stops(tmp_path, server):
    with preloaded(tmp_path, ini=SERVERS[server]) as site:
        assert set(ask_all(site)) == set(workers(site))
        deploy(tmp_path, 'two')
        graceful(site)
        assert versions(site) == {'two'}
        os.kill(workers(site)[1], signal.SIGKILL)
        wait_for(tmp_path, 'opened', 5)
        assert len(ask_all(site)) == 2
        stop(site)


@pytest.mark.parametrize('server', ['waitress', 'cheroot'])
def test_a_unix_socket_is_there_until_the_site_stops(tmp_path, server):
    where = 'unix_socket = site.sock'
    ini = SERVERS[server].replace('host = 127.0.0.1\nport = 0', where)
    with preloaded(tmp_path, ini=ini) as site:
        old = composer(site)
        for _ in range(2):
            graceful(site)
            eventually(lambda: len(children(site.pid)) == 1)
            assert has_ended(old)
            assert (tmp_path / 'site.sock').exists()
            assert len(ask_all(site)) == 2
            old = composer(site)
        os.kill(workers(site)[0], signal.SIGKILL)
        wait_for(tmp_path, 'opened', 7)
        assert len(ask_all(site)) == 2
        stop(site)


# -- more and less ---------------------------------------------------------------------------


def test_one_worker_more_and_one_less(tmp_path):
    with preloaded(tmp_path) as site:
        one = composer(site)
        site.send(signal.SIGTTIN)
        third = wait_for(tmp_path, 'opened', 3)
        assert third in ask_all(site, count=3)
        site.send(signal.SIGTTOU)
        eventually(lambda: has_ended(third))
        assert life(tmp_path, 'closed') == [third]
        site.send(signal.SIGTTOU)
        wait_for(tmp_path, 'closed', 2)
        graceful(site)
        eventually(lambda: len(processes_of_session(site.pid)) == 3)
        assert life(tmp_path, 'imported')[0] == one
        assert len(life(tmp_path, 'imported')) == 2
        stop(site)


def test_status_tells_of_the_workers(tmp_path):
    with preloaded(tmp_path) as site:
        status = run(tmp_path, 'site.ini', 'status', '--pid-file', 'site.pid')
        assert status.code == 0
        for number, pid in enumerate(workers(site), 1):
            assert re.search(rf'worker {number}\b.*\b{pid}\b', status.out.text, re.I)
        assert re.search(rf'preload +{composer(site)}\b', status.out.text)
        stop(site)


def test_a_daemon_preloads(tmp_path):
    with Daemon(tmp_path, '--monitor-restart', files=FILES) as daemon:
        first = wait_for(tmp_path, 'opened', 2)
        assert len(processes_of_session(daemon.session)) == 4
        deploy(tmp_path, 'two')
        told = run(tmp_path, 'site.ini', 'graceful', '--pid-file', 'paster.pid')
        assert told.code == 0, told.report()
        assert ask(daemon)['version'] == 'two'
        assert int((tmp_path / 'paster.pid').read_text()) == daemon.pid
        assert has_ended(first)
        stopped = run(tmp_path, 'site.ini', 'stop', '--pid-file', 'paster.pid')
        assert stopped.code == 0, stopped.report()
        assert processes_of_session(daemon.session) == []
        assert is_free(daemon.port)
    assert not (tmp_path / 'paster.pid').exists()


def test_a_daemon_that_cannot_compose_tells_the_shell(tmp_path):
    files = {**FILES, 'at_composition': TROUBLE['raises']}
    told = run(tmp_path, 'site.ini', 'start', files=files)
    assert told.code == 1
    assert told.err.text.count('it is broken') == 1
    assert not (tmp_path / 'paster.pid').exists()


# -- frameworks ------------------------------------------------------------------------------


@pytest.mark.parametrize('app', ['main', 'plain'])
def test_a_pyramid_site_is_preloaded(tmp_path, app):
    ini = (SITES / 'pyramid' / 'site.ini').read_text()
    module = (SITES / 'pyramid' / 'guestbook.py').read_text()
    ini = ini.replace('[wspbus:main]', '[wspbus:main]\nworkers = 2\npreload = true')
    files = {'site.ini': ini, 'guestbook.py': module}
    with Site(tmp_path, None, 'site.ini', '-n', app, files=files) as site:
        told = ask(site)
        assert told['same'] and told['in environ']
        assert told['state'] == 'STARTED'
        assert 'database' in told['resources']
        assert site.stop()[0] == 0
        assert processes_of_session(site.pid) == []
    lines = collections.Counter(site.err.text.splitlines())
    assert lines['STOPPED while it is composed'] <= 1
    assert lines['database opened'] == lines['database closed'] == 2

"""A restart of one process: another process tries the new code first."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from tests.kit import Site, eventually, is_free
from tests.kit.daemons import Clients, ini
from tests.kit.processes import TIMEOUT, children, has_ended, kill, pending
from tests.kit.stand_in import status_json

#: What a test adds to the webapp.py of a `Ground`; each is a factory.
MORE = """
def make_noted(global_conf, **conf):
    is_trial = global_conf['wspbus'].bus.trial
    say(f'loaded by {os.getpid()}, {"on trial" if is_trial else "in earnest"}')
    return make(global_conf)


def in_main(global_conf, port, **conf):
    from wsgiref.simple_server import make_server

    def serve(app):
        make_server('127.0.0.1', int(port), app).serve_forever()
    return serve


def make_at_gate_on_trial(global_conf, **conf):
    say(f'at the gate: {os.getpid()}')
    if global_conf['wspbus'].bus.trial:
        pass_gate()
    return make(global_conf, 'later')


def exits(global_conf, **conf):
    sys.exit('no licence')


def ends(global_conf, **conf):
    os._exit(3)


def hangs(global_conf, **conf):
    time.sleep(1000)


def make_with_lock(global_conf, **conf):
    import zc.lockfile

    global_conf['wspbus'].bus.lock = zc.lockfile.LockFile('data.lock')
    return make(global_conf, 'locked')


def make_with_flock(global_conf, **conf):
    import fcntl

    file = global_conf['wspbus'].bus.file = open('data.flock', 'w')
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return make(global_conf, 'locked')


def make_with_port(global_conf, **conf):
    import socket

    site = global_conf['wspbus'].bus.site = socket.create_server(('127.0.0.1', PORT))
    return make(global_conf, 'bound')


def make_noisy(global_conf, **conf):
    import logging

    logging.getLogger('noisy').warning('noise')
    logging.getLogger().warning('loud')
    raise ValueError('out of order')


def lifespan(bus, global_conf):
    say(f'started in {os.getpid()}')
    yield


def make_with_daemon(global_conf, **conf):
    reader, writer = os.pipe()
    if not os.fork():
        os.setsid()
        if os.fork():
            os._exit(0)  # the daemon has another parent now
        say(f'child {os.getpid()}')
        os.close(writer)
        os.close(reader)
        time.sleep(1000)
    os.close(writer)
    os.read(reader, 1)
    os.close(reader)
    return make(global_conf)


def make_with_exit_handler(global_conf, **conf):
    import atexit

    atexit.register(say, f'exit handler of {os.getpid()}')
    return make(global_conf)
"""

LOGGING = """
[loggers]
keys = root, noisy
[handlers]
keys = w, rotating
[formatters]
keys =
[logger_root]
level = INFO
handlers = w
[logger_noisy]
qualname = noisy
propagate = 0
handlers = rotating
[handler_w]
class = FileHandler
args = ('w.log', 'w')
[handler_rotating]
class = handlers.RotatingFileHandler
args = ('rotating.log', 'a', 1, 3)
"""


def add(ground, text=MORE):
    path = ground.folder / 'webapp.py'
    path.write_text(path.read_text() + text)


def graceful(ground, code):
    told = ground.run('site.ini', 'graceful')
    assert told.code == code, ground.report(told)
    return told


@pytest.fixture
def started(ground):
    add(ground)
    ground.start()
    return ground


FAILING = {
    'an error': ('make_broken', {}, 1, 'ValueError: out of order, at webapp.py:'),
    'sys.exit': ('exits', {}, 1, "called sys.exit('no licence')"),
    'os._exit': ('ends', {}, 1, 'ended before the site was loaded, exit code 3'),
    'the .ini': ('make', {'stop_timeot': 3}, 2, 'stop_timeot'),
    'no factory': ('nobody', {}, 2, "no attribute 'nobody'"),
}


@pytest.mark.parametrize('app, more, code, words', FAILING.values(), ids=FAILING)
def test_new_code_that_fails_is_not_used(started, app, more, code, words):
    pid = started.pid
    started.change(app=app, **more)
    told = graceful(started, code)
    (line,) = told.err.text.splitlines()
    assert line.startswith(
        'The graceful restart failed, the old code keeps serving: site.ini '
        if app != 'ends'
        else 'The graceful restart failed, the old code keeps serving: the process'
    )
    assert words in line
    has_trace = line.endswith(f'(the traceback is in {started.folder}/paster.log)')
    assert has_trace == (app in ('make_broken', 'exits'))
    assert started.get() == f'hello {pid}'
    what = words.partition(', at ')[0]
    assert what in started.log
    shows = app in ('make_broken', 'exits')
    assert started.log.count('Traceback') == shows
    assert 'paste_wspbus/' not in started.log
    assert what in started.status()[1]
    assert started.processes() == [pid]
    started.change(text='mended')
    graceful(started, 0)
    assert started.pid == pid
    assert status_json(started.folder)[1]['failure'] is None
    started.url = status_json(started.folder)[1]['urls'][0]
    assert started.get() == f'mended {pid}'


def test_what_is_shown_of_new_code_that_fails_has_no_secret_of_the_ini(started):
    started.change(app='make_broken')
    with open(started.folder / 'site.ini', 'a') as ini:
        ini.write('\n[app:other]\nuse = call:webapp:make\npassword = out of order\n')
    told = graceful(started, 1)
    for shown in told.err.text, *started.status(), repr(status_json(started.folder)):
        assert 'out of order' not in str(shown)
    assert 'make_broken failed: ValueError: ***, at ' in told.err.text
    assert 'ValueError: out of order' in started.log


def test_a_pipe_in_the_place_of_the_ini_does_not_hold_up_the_trial(started):
    ini, aside = started.folder / 'site.ini', started.folder / 'aside.ini'
    ini.rename(aside)
    os.mkfifo(ini)
    assert 'it is a pipe' in graceful(started, 2).err.text
    aside.replace(ini)
    graceful(started, 0)


def test_hup_with_new_code_that_fails_keeps_the_old_code_in_the_foreground(ground):
    with Site(ground.folder, None, 'site.ini') as site:
        ground.change(app='make_broken')
        site.send(signal.SIGHUP)
        site.expect('The new code fails, and the old code keeps serving: /')
        site.expect('ValueError: out of order\n')
        assert site.get().text == f'hello {site.pid}'
        ground.change(stop_timeot=3)
        site.send(signal.SIGHUP)
        site.expect('stop_timeot')
        assert site.get().text == f'hello {site.pid}'
        assert site.stop()[0] == 0, site.report()
        assert site.has_left_nothing()


def test_a_server_in_the_main_thread_keeps_the_old_code_with_the_traceback(ground):
    add(ground)
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]
    path = ground.folder / 'site.ini'

    def change(**kwargs):
        ground.change(port=port, **kwargs)
        path.write_text(path.read_text().replace('egg:waitress', 'call:webapp:in_main'))

    change()
    with Site(ground.folder, None, 'site.ini', wait=False) as site:
        site.url = f'http://127.0.0.1:{port}'
        eventually(lambda: not is_free(port))
        change(app='make_broken')
        site.send(signal.SIGHUP)
        site.expect('The new code fails, and the old code keeps serving: /')
        site.expect('Traceback')
        assert site.get().text == f'hello {site.pid}'
        change(text='changed')
        site.send(signal.SIGHUP)
        eventually(lambda: _text(site) == f'changed {site.pid}')
        assert site.stop()[0] == 0, site.report()


def _text(site):
    with contextlib.suppress(OSError):
        return site.get().text


def test_code_that_hangs_is_killed_after_start_timeout(ground):
    add(ground)
    ground.change(start_timeout=4)
    ground.start()
    ground.change(app='hangs')
    told = graceful(ground, 1)
    assert 'it was not loaded within 4 s, at webapp.py:' in told.err.text
    assert ' in hangs (the traceback is in ' in told.err.text
    assert ground.processes() == [ground.pid]
    assert ground.get() == f'hello {ground.pid}'


def test_the_trial_loads_and_starts_nothing_and_the_site_stays_the_same_process(
    started,
):
    pid, inode = started.pid, started.pid_file.stat().st_ino
    entries = started.control.stat().st_ino
    started.change(app='make_noted', plugin='lifespan')
    graceful(started, 0)
    first, second = re.findall(r'^loaded by (\d+), (.*)$', started.log, re.M)
    assert first[1] == 'on trial' and int(first[0]) != pid
    assert second == (str(pid), 'in earnest')
    assert re.findall(r'^started in (\d+)$', started.log, re.M) == [str(pid)]
    assert started.pid == pid
    assert started.pid_file.stat().st_ino == inode
    assert started.control.stat().st_ino == entries
    assert 'PID' not in started.log.partition('on trial')[2].partition('loaded')[0]


def test_what_a_factory_forks_in_a_trial_is_ended_with_it(started):
    started.change(app='make_with_child')
    graceful(started, 0)
    first, second = map(int, re.findall(r'^child (\d+)$', started.log, re.M))
    eventually(lambda: has_ended(first))
    assert not has_ended(second)
    assert set(started.processes()) == {started.pid, second}
    started.stop()
    kill(second)


def test_a_daemon_of_a_trial_is_ended_with_it(started):
    started.change(app='make_with_daemon')
    graceful(started, 0)
    first, second = map(int, re.findall(r'^child (\d+)$', started.log, re.M))
    assert has_ended(first)
    assert not has_ended(second)
    started.stop()
    kill(second)


def test_the_exit_handlers_of_the_trial_are_called_in_the_trial(started):
    started.change(app='make_with_exit_handler')
    graceful(started, 0)
    (process,) = re.findall(r'^exit handler of (\d+)$', started.log, re.M)
    assert int(process) != started.pid


@pytest.mark.parametrize('app', ['make_with_lock', 'make_with_flock', 'make_with_port'])
def test_a_lock_or_an_address_that_only_one_process_can_have_cannot_be_tried(
    ground, app
):
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]
    add(ground, MORE.replace('PORT', str(port)))
    ground.change(app=app)
    ground.start()
    pid = ground.pid
    graceful(ground, 0)
    assert ground.log.count('The new code cannot be tried beside the site') == 1
    assert 'Traceback' not in ground.log
    assert ground.pid == pid
    ground.change(app=app, trial='true')
    told = graceful(ground, 1)
    assert 'trial = auto in [wspbus:main] restarts' not in told.err.text
    hint = '; with trial = auto in [wspbus:main] the site restarts without a trial '
    assert hint in told.err.text
    assert status_json(ground.folder)[1]['pid'] == pid


def test_with_trial_false_the_code_is_not_tried(ground):
    add(ground)
    ground.change(trial='false', app='make_noted')
    ground.start()
    graceful(ground, 0)
    assert ground.log.count('in earnest') == 2
    ground.change(trial='false', app='make_broken')
    graceful(ground, 1)
    assert ground.has_left_nothing()


def test_the_trial_setting_of_the_new_ini_counts(started):
    started.change(trial='false', app='make_noted')
    graceful(started, 0)
    assert 'on trial' not in started.log
    assert 'cannot be tried' not in started.log


def test_a_wrong_trial_setting_is_refused(ground):
    ground.change(trial='maybe')
    told = ground.run('site.ini')
    assert told.code == 2, ground.report(told)
    words = "site.ini [wspbus:main] trial: 'maybe' is not auto, true or false"
    assert words in told.err.text


def test_a_stop_during_a_trial_ends_the_trial_and_the_site_in_order(started):
    pid = started.pid
    started.change(app='make_at_gate_on_trial')
    kill(pid, signal.SIGHUP)
    started.gate.wait()
    (trial,) = map(int, re.findall(r'at the gate: (\d+)', started.log))
    assert children(pid) == [trial]
    kill(pid, signal.SIGTERM)
    eventually(lambda: has_ended(pid))
    eventually(lambda: has_ended(trial))
    assert 'Traceback' not in started.log
    assert 'keeps serving' not in started.log
    assert started.has_left_nothing()


def test_a_signal_that_ends_only_the_trial_is_a_failure(started):
    started.change(app='make_at_gate_on_trial')
    with started.begin('site.ini', 'graceful') as command:
        started.gate.wait()
        (trial,) = children(started.pid)
        kill(trial, signal.SIGTERM)
        assert command.wait() == 1, command.report()
        assert 'a signal ended the process that loaded it, at ' in command.err.text
    assert started.get() == f'hello {started.pid}'


def test_a_trial_ends_with_a_site_that_is_killed(started):
    pid = started.pid
    started.change(app='make_at_gate_on_trial')
    kill(pid, signal.SIGHUP)
    started.gate.wait()
    (trial,) = map(int, re.findall(r'at the gate: (\d+)', started.log))
    kill(pid)
    eventually(lambda: has_ended(trial))


def test_restarts_during_a_trial_are_one_more_trial(started):
    pid = started.pid
    started.change(app='make_at_gate_on_trial')
    with started.begin('site.ini', 'graceful') as command:
        started.gate.wait()
        assert status_json(started.folder)[1]['trial'] >= 0
        assert 'Another process loads the new code' in started.status()[1]
        for _ in range(3):
            kill(pid, signal.SIGHUP)
            eventually(lambda: not pending(pid))
        started.change(app='make_noted')
        started.gate.open()
        assert command.wait() == 0, command.report()
    found = re.findall(r'loaded by \d+, (.*)', started.log)
    assert found == ['on trial', 'in earnest'], started.log
    assert started.pid == pid


def test_requests_wait_for_one_load_at_most_and_none_is_lost(started):
    pid = started.pid
    with Clients(started) as clients:
        assert clients.have_seen(f'hello {pid}')
        started.change(app='make_broken', port=started.port)
        graceful(started, 1)
        started.change(text='changed', port=started.port)
        graceful(started, 0)
        assert clients.have_seen(f'changed {pid}')
    assert clients.errors == []


def test_the_trial_neither_empties_nor_rotates_the_files_of_logging(ground):
    add(ground)
    path = ground.folder / 'site.ini'
    path.write_text(path.read_text() + LOGGING)
    ground.start()
    path.write_text(path.read_text().replace('webapp:make', 'webapp:make_noisy'))
    emptied, rotating = ground.folder / 'w.log', ground.folder / 'rotating.log'
    before = emptied.read_text()
    rotating.write_text('a line\n')
    graceful(ground, 1)
    assert before and emptied.read_text().startswith(before)
    assert 'The new code fails' in emptied.read_text()
    assert 'loud' not in emptied.read_text()
    assert 'loud' in ground.log
    assert rotating.read_text() == 'a line\nnoise\n'


def test_graceful_without_waiting_also_tries_the_new_code(started):
    started.change(app='make_broken')
    told = started.run('site.ini', 'graceful', '--no-wait')
    assert told.code == 0, told.report()
    eventually(lambda: 'The new code fails' in started.log)
    assert started.get() == f'hello {started.pid}'


def test_a_process_that_has_the_variable_by_accident_runs_the_site(ground):
    order = json.dumps({'fd': 0, 'parent': 1, 'log_file': None})
    ground.start(env={'WSPSERVE_TRIAL': order})
    assert ground.get() == f'hello {ground.pid}'


#: Starts a command as the trial of a site that has ended before the command begins.
ORPHAN = """
import json, os, socket, sys, time

ours, theirs = socket.socketpair()
parent = os.getpid()
if not os.fork():
    ours.close()
    while os.getppid() == parent:
        time.sleep(0.01)
    order = {'fd': theirs.fileno(), 'parent': parent, 'log_file': None}
    order |= {'user': None, 'group': None, 'began': time.monotonic(), 'limit': None}
    os.environ['WSPSERVE_TRIAL'] = json.dumps(order | {'logs': False})
    theirs.set_inheritable(True)
    if not (pid := os.fork()):
        os.execv(sys.executable, [sys.executable, '-m', 'paste_wspbus', *sys.argv[1:]])
    print('exit code', os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.mark.skipif(not hasattr(socket, 'SO_PEERCRED'), reason='Linux')
def test_a_trial_whose_site_ends_before_it_begins_does_not_serve(ground):
    (ground.folder / 'site.ini').write_text(ini())
    with subprocess.Popen(
        [sys.executable, '-c', ORPHAN, 'site.ini', '-v'],
        cwd=ground.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as started:
        try:
            assert started.communicate(timeout=TIMEOUT)[0] == 'exit code 143\n'
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)


def test_no_descriptor_of_the_site_reaches_the_trial(started):
    pid = started.pid
    started.change(app='make_at_gate_on_trial')
    kill(pid, signal.SIGHUP)
    started.gate.wait()
    (trial,) = children(pid)
    folder = f'/proc/{trial}/fd'
    names = [os.readlink(f'{folder}/{fd}') for fd in os.listdir(folder)]
    assert len([name for name in names if name.startswith('socket:')]) <= 2
    assert not [name for name in names if name.endswith('.lock')]
    started.gate.open()
    eventually(lambda: has_ended(trial))
    eventually(lambda: started.processes() == [pid])

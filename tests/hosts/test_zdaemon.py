"""zdaemon owns the process: as `program`, and with a manager that knows the bus."""

import ast
import contextlib
import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from tests.environments import environment
from tests.hosts.hosted_zdaemon import ZDRUN, Zdaemon
from tests.kit import TIMEOUT, Connection, eventually, free_port, write
from tests.kit.places import ROOT

FILES = {
    'site.ini': """
        [wspbus:main]
        plugins = journal
        stop_timeout = {stop_timeout}

        [plugin:journal]
        use = call:site_code:journal

        [app:main]
        use = call:site_code:make_app

        [server:main]
        use = egg:waitress#main
        host = 127.0.0.1
        port = {port}

        [loggers]
        keys = root
        [handlers]
        keys = file
        [formatters]
        keys =
        [logger_root]
        level = INFO
        handlers = file
        [handler_file]
        class = FileHandler
        args = ('site.log', 'a')
        """,
    'site_code.py': """
        import os
        import time

        from paste_wspbus.handoff import get_bus


        def say(text):
            with open('journal', 'a') as file:
                file.write(f'{text}\\n')


        def journal(bus, global_conf):
            say('opened')
            yield 'journal'
            say('closed')


        def wait(name):
            # A FIFO's reader waits until somebody opens it to write.
            say(f'waiting for {name}')
            with open(name) as fifo:
                return fifo.read()


        def make_app(global_conf):
            bus = get_bus(global_conf)
            say(f'composed under {bus.host}')
            if os.path.exists('slow'):
                wait('slow')
            bus.subscribe('status', lambda: {'orders': 3, 'two\\nlines': 'a\\nb'})
            bus.subscribe('status', lambda: {'version': 7, 'error': None})

            def app(environ, start_response):
                path = environ['PATH_INFO']
                text = 'hello'
                if path == '/exit':
                    bus.exit()
                elif path == '/crash':
                    os._exit(9)
                elif path == '/wait':
                    text = wait('fifo')
                start_response('200 OK', [('Content-Type', 'text/plain')])
                return [text.encode()]

            return app
        """,
    'zdaemon.conf': """
        <runner>
          program {bin}/wspserve site.ini
          directory {folder}
          socket-name {folder}/zdsock
          transcript {folder}/transcript
          stop-timeout {seconds}
          {extra}
        </runner>
        <eventlog>
          level debug
          <logfile>
            path {folder}/zdaemon.log
          </logfile>
        </eventlog>
        """,
    'answers.py': """
        import os
        import socket
        import sys
        import time

        manager = os.getppid()
        with open('tests', 'a') as file:
            file.write('asked\\n')
        while os.getppid() == manager:
            try:
                socket.create_connection(('127.0.0.1', int(sys.argv[1]))).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.02)  # zdaemon asks again a second later
        """,
}


@pytest.fixture(scope='session')
def programs():
    """The folder of the programs of an environment with zdaemon and Zope."""
    return environment('zope') / 'bin'


def zdaemon_of(programs, folder, ours, *extra, seconds=30, stop_timeout=25):
    port = free_port()
    if ours:
        extra += (f'zdrun {ZDRUN}',)
    else:
        extra += (f'start-test-program {programs}/python answers.py {port}',)
    values = {
        'bin': programs,
        'folder': folder,
        'port': port,
        'extra': '\n          '.join(extra),
        'seconds': seconds,
        'stop_timeout': stop_timeout,
    }
    # The module's braces are Python's.
    files = {
        name: text if name.endswith('.py') else text.format(**values)
        for name, text in FILES.items()
    }
    write(folder, files)
    os.mkfifo(folder / 'fifo')
    zdaemon = Zdaemon(programs, folder)
    zdaemon.address = '127.0.0.1', port
    return zdaemon


def get(zdaemon, path='/'):
    with Connection(zdaemon.address) as connection:
        return connection.get(path, connection='close').text


BOTH = pytest.mark.parametrize('ours', [False, True], ids=['program', 'runner'])


@BOTH
def test_start_is_over_when_the_site_answers_and_restart_and_stop_close_what_it_opened(
    programs, tmp_path, ours
):
    with zdaemon_of(programs, tmp_path, ours) as zdaemon:
        assert 'daemon process started' in zdaemon('start'), zdaemon.report()
        assert get(zdaemon) == 'hello'
        first = zdaemon.pid
        assert f'program running; pid={first}\n' in zdaemon('status')
        assert 'daemon process restarted' in zdaemon('restart')
        assert zdaemon.pid not in (first, 0)
        assert get(zdaemon) == 'hello'
        assert 'daemon process stopped' in zdaemon('stop')
        eventually(zdaemon.is_gone)
        name = 'zdaemon 5' if ours else 'wspserve'
        assert re.match(f'composed under {name}', zdaemon.text('journal'))
        lines = re.sub('composed.*', 'composed', zdaemon.text('journal')).split()
        assert lines == ['composed', 'opened', 'closed'] * 2
        assert 'exit status 0' in zdaemon.text('zdaemon.log')
        assert bool(zdaemon.text('tests')) is not ours


@BOTH
def test_logreopen_reopens_the_transcript_and_the_sites_log_files(
    programs, tmp_path, ours
):
    with zdaemon_of(programs, tmp_path, ours) as zdaemon:
        zdaemon('start')
        pid = zdaemon.pid
        for command in ('logreopen', 'kill USR1', 'kill HUP'):
            (tmp_path / 'site.log').rename(tmp_path / 'site.log.1')
            (tmp_path / 'transcript').rename(tmp_path / 'transcript.1')
            if command != 'logreopen':
                zdaemon('reopen_transcript')
            zdaemon(*command.split())
            eventually((tmp_path / 'site.log').exists)
            eventually((tmp_path / 'transcript').exists)
        # HUP: the process goes on as another program, and tells the transcript.
        eventually(lambda: 'Serving on' in zdaemon.text('transcript'))
        assert zdaemon.pid == pid
        assert get(zdaemon) == 'hello'


@BOTH
def test_a_request_in_flight_is_answered_before_stop_is_over(programs, tmp_path, ours):
    with zdaemon_of(programs, tmp_path, ours) as zdaemon:
        zdaemon('start')
        with Connection(zdaemon.address) as connection:
            connection.send('/wait', connection='close')
            eventually(lambda: 'waiting' in zdaemon.text('journal'))
            with zdaemon.popen('stop') as stop:
                eventually(lambda: 'Bus STOPPING' in zdaemon.text('site.log'))
                (tmp_path / 'fifo').write_text('the end')
                assert connection.receive().text == 'the end'
                assert 'daemon process stopped' in stop.communicate(timeout=TIMEOUT)[0]
        assert zdaemon.text('journal').split()[-1] == 'closed'
        eventually(zdaemon.is_gone)


@BOTH
def test_what_does_not_end_within_the_stop_timeout_is_killed(programs, tmp_path, ours):
    with zdaemon_of(programs, tmp_path, ours, seconds=1, stop_timeout=50) as zdaemon:
        zdaemon('start')
        with Connection(zdaemon.address) as connection:
            connection.send('/wait', connection='close')
            eventually(lambda: 'waiting' in zdaemon.text('journal'))
            zdaemon('stop')
        eventually(zdaemon.is_gone)
        assert 'terminated by SIGKILL' in zdaemon.text('zdaemon.log')
        assert 'closed' not in zdaemon.text('journal')


@BOTH
def test_a_mistake_in_the_ini_is_not_started_again(programs, tmp_path, ours):
    with zdaemon_of(programs, tmp_path, ours) as zdaemon:
        ini = tmp_path / 'site.ini'
        ini.write_text(ini.read_text().replace('stop_timeout', 'stop_timeoot'))
        with zdaemon.popen('start') as start:
            eventually(lambda: 'exiting now' in zdaemon.text('zdaemon.log'))
            start.kill()  # it would wait for some seconds more
        eventually(zdaemon.is_gone)
        log = zdaemon.text('zdaemon.log')
        assert 'exit status 2; exiting now' in log
        assert log.count('spawned process') == 1
        assert 'stop_timeoot' in zdaemon.text('transcript')


@BOTH
def test_a_site_that_crashes_is_started_again_and_one_that_ends_itself_is_not(
    programs, tmp_path, ours
):
    with zdaemon_of(programs, tmp_path, ours) as zdaemon:
        zdaemon('start')
        with pytest.raises(ConnectionError):
            get(zdaemon, '/crash')
        eventually(lambda: zdaemon.text('site.log').count('Bus STARTED') == 2)
        assert get(zdaemon, '/exit') == 'hello'
        eventually(zdaemon.is_gone)
        log = zdaemon.text('zdaemon.log')
        assert 'exit status 9\n' in log
        assert 'exit status 0; exiting now' in log
        assert log.count('spawned process') == 2


@BOTH
def test_a_site_has_no_descriptor_of_the_managers(programs, tmp_path, ours):
    with zdaemon_of(programs, tmp_path, ours) as zdaemon:
        with open(tmp_path / 'leak', 'w') as leak:
            zdaemon('start', pass_fds=[leak.fileno()])
        status = zdaemon.status()
        assert str(tmp_path / 'leak') in files_of(status['manager'])
        assert str(tmp_path / 'leak') not in files_of(status['application'])


def files_of(pid):
    found = set()
    for one in Path('/proc', pid, 'fd').iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.add(os.readlink(one))
    return found


# -- the runner alone --------------------------------------------------------------


def test_status_has_what_the_listeners_of_status_say(programs, tmp_path):
    with zdaemon_of(programs, tmp_path, ours=True) as zdaemon:
        zdaemon('start')
        status = zdaemon.status()
        assert status['status'] == 'running'
        assert ast.literal_eval(status['site.state']) == 'STARTED'
        assert ast.literal_eval(status['site.orders']) == 3
        text = zdaemon('status', module=True)
        assert text.splitlines() == [
            f'program running; pid={zdaemon.pid}',
            "state='STARTED'",
            'orders=3',
            "two lines='a\\nb'",
            'version=7',
            'error=None',
            'requests_in_flight=[]',
        ]
        assert zdaemon.code == 0


def test_zdaemon_of_this_package_needs_no_zdrun_in_the_configuration(
    programs, tmp_path
):
    with zdaemon_of(programs, tmp_path, ours=False) as zdaemon:
        assert 'daemon manager not running' in zdaemon('status', module=True)
        assert zdaemon.code == 3
        assert 'daemon process started' in zdaemon('start', module=True)
        assert "state='STARTED'\n" in zdaemon('status', module=True)


def test_start_waits_for_a_site_that_is_composed_and_status_tells(programs, tmp_path):
    with zdaemon_of(programs, tmp_path, ours=True) as zdaemon:
        os.mkfifo(tmp_path / 'slow')
        with zdaemon.popen('start') as start:
            eventually(lambda: 'waiting for slow' in zdaemon.text('journal'))
            status = zdaemon.status()
            assert 'no answer' in status['site.problem']
            assert status['testing'] == '1'
            assert start.poll() is None
            (tmp_path / 'slow').write_text('go on')
            output, _ = start.communicate(timeout=TIMEOUT)
        assert 'daemon process started' in output
        assert 'opened' in zdaemon.text('journal')


def test_sigterm_while_the_site_is_composed_stops_it(programs, tmp_path):
    with zdaemon_of(programs, tmp_path, ours=True) as zdaemon:
        os.mkfifo(tmp_path / 'slow')
        with zdaemon.popen('start') as start:
            eventually(lambda: 'waiting for slow' in zdaemon.text('journal'))
            zdaemon('stop')
            start.kill()  # it would wait for some seconds more
        eventually(zdaemon.is_gone)
        assert 'exit status 143' in zdaemon.text('zdaemon.log')


def test_the_status_is_answered_while_a_request_is_in_flight_and_the_site_stops(
    programs, tmp_path
):
    with zdaemon_of(programs, tmp_path, ours=True) as zdaemon:
        zdaemon('start')
        with Connection(zdaemon.address) as connection:
            connection.send('/wait', connection='close')
            eventually(lambda: 'waiting' in zdaemon.text('journal'))
            os.kill(zdaemon.pid, signal.SIGTERM)
            eventually(lambda: zdaemon.status()['site.state'] == "'STOPPING'")
            [request] = ast.literal_eval(zdaemon.status()['site.requests_in_flight'])
            assert request.startswith("'GET' '/wait'")
            (tmp_path / 'fifo').write_text('the end')
            assert connection.receive().text == 'the end'


def test_a_site_with_workers_is_asked_at_its_supervisor(programs, tmp_path):
    with zdaemon_of(programs, tmp_path, ours=True) as zdaemon:
        conf = tmp_path / 'zdaemon.conf'
        text = conf.read_text()
        conf.write_text(text.replace('site.ini', 'site.ini --workers 2'))
        assert 'daemon process started' in zdaemon('start'), zdaemon.report()
        assert get(zdaemon) == 'hello'
        assert zdaemon.status()['site.state'] == "'STARTED'"
        zdaemon('stop')
        eventually(zdaemon.is_gone)
        assert zdaemon.text('journal').count('closed') == 2


# -- Zope --------------------------------------------------------------------------


@BOTH
def test_the_sample_with_zope_is_started_restarted_and_stopped(
    programs, tmp_path, ours
):
    shutil.copytree(ROOT / 'sample_ini' / 'zope', tmp_path, dirs_exist_ok=True)
    port = free_port()
    change(tmp_path / 'zope.ini', 'port = 8080', f'port = {port}')
    if ours:
        change(tmp_path / 'zdaemon.conf', r'# zdrun \S+', f'zdrun {ZDRUN}')
    else:
        write(tmp_path, {'answers.py': FILES['answers.py']})
        test = f'start-test-program {programs}/python answers.py {port}'
        change(tmp_path / 'zdaemon.conf', '# start-test-program .*', test)
    for name in ('log', 'cache'):
        (tmp_path / 'var' / name).mkdir(parents=True)
    with Zdaemon(programs, tmp_path) as zdaemon:
        zdaemon.address = '127.0.0.1', port
        assert 'daemon process started' in zdaemon('start')
        assert 'Zope' in get(zdaemon)
        assert str(tmp_path / 'var' / 'Data.fs') in files_of(str(zdaemon.pid))
        assert 'daemon process restarted' in zdaemon('restart')
        assert 'Zope' in get(zdaemon)
        assert 'daemon process stopped' in zdaemon('stop')
        eventually(zdaemon.is_gone)
        log = zdaemon.text('var/log/event.log')
        assert log.count('Bus STARTED') == log.count('Bus EXITED') == 2
        assert 'Traceback' not in log


def change(path, pattern, text):
    changed, count = re.subn(pattern, text, path.read_text())
    assert count == 1
    path.write_text(changed)

"""The command: its options, messages, exit codes, and what signals do to it."""

import os
import shutil
import signal
import socket
from importlib.metadata import version

import pytest

from paste_wspbus.command.arguments import SUBCOMMANDS
from tests.kit import COMMANDS, Site, eventually, free_port, is_free, run
from tests.kit.processes import pending
from tests.kit.sites import APP, ask

#: The line of a site that gets SIGTERM, in a log that has only warnings otherwise.
STOPS = 'INFO  [paste_wspbus] Stopping: SIGTERM\n'

PARTS = """
import sys


def make(global_conf, name='main', **conf):
    def app(environ, start_response):
        start_response('200 OK', [('Content-Type', 'application/json')])
        if environ['PATH_INFO'] == '/wait':
            wait(environ)
        return [json.dumps({
            'name': name,
            'vars': {k: v for k, v in global_conf.items()
                     if k not in ('here', '__file__', 'wspbus')},
            'modules': sorted({'paste.script', 'pkg_resources'} & set(sys.modules)),
            'pid': os.getpid(),
            'argv': sys.argv,
            'cwd': os.getcwd(),
            'environ': {k: v for k, v in environ.items() if k.startswith('wsgi.')
                        and isinstance(v, (str, bool))},
            'state': bus_of(environ).state.name,
        }).encode()]
    return app


def lifespan(bus, global_conf):
    say('opened')
    yield
    say('closed')


def make_slowly(global_conf):
    try:
        say('composing')
        hold()
    finally:
        say('composition ended')


def signal_itself(bus, global_conf, signum):
    os.kill(os.getpid(), int(signum))
    say('signaled')
    yield
    say('signaled closed')


def never(bus, global_conf):
    say('never')
    yield
"""

INI = """
[app:main]
use = call:webapp:make

[app:other]
use = call:webapp:make
name = other

[server:main]
use = egg:waitress
host = 127.0.0.1
port = %(http_port)s
threads = 2

[server:second]
use = egg:paste_wspbus#wsgiref
port = %(http_port)s

[wspbus:main]
plugins = resource

[plugin:resource]
use = call:webapp:lifespan

[DEFAULT]
http_port = 0
"""
FILES = {'webapp.py': APP + PARTS, 'site.ini': INI}

each_command = pytest.mark.parametrize('command', COMMANDS)


def served(tmp_path, *args, files=FILES, **kwargs):
    return Site(tmp_path, None, *args, files=files, **kwargs)


def facts(site):
    """What the application says; then a clean stop."""
    answer = ask(site)
    assert site.stop()[0] == 0, site.report()
    return answer


# -- messages and exit codes ----------------------------------------------------


@each_command
def test_what_it_prints_in_a_life_without_incidents(tmp_path, command):
    with served(tmp_path, 'site.ini', command=command) as site:
        assert ask(site)['name'] == 'main'
        code, out, err = site.stop()
    assert code == 0
    assert out == f'Starting server in PID {site.pid}.\nServing on {site.url}\n'
    assert err == f'opened\n{STOPS}closed\n'
    assert is_free(site.port)


@each_command
def test_its_lines_for_wrong_usage_name_it(tmp_path, command):
    process = run(tmp_path, '--nonsense', 'site.ini', files=FILES, command=command)
    assert process.code == 2
    (line,) = process.err.text.splitlines()
    name = 'paster wspserve' if command == 'paster' else 'wspserve'
    assert line.startswith(f'{name}: ')
    assert '--nonsense' in line


@each_command
def test_its_exit_code_and_line_for_a_missing_file(tmp_path, command):
    process = run(tmp_path, 'nowhere.ini', command=command)
    assert process.code == 2
    assert process.err.text == 'nowhere.ini: there is no such file\n'
    assert process.out.text == ''


@each_command
def test_its_exit_code_and_line_for_a_port_that_is_taken(tmp_path, command):
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        process = run(
            tmp_path, 'site.ini', f'http_port={port}', files=FILES, command=command
        )
    assert process.code == 1
    (line,) = process.err.text.splitlines()
    assert f'127.0.0.1:{port}' in line


@each_command
def test_the_version_is_printed(tmp_path, command):
    process = run(tmp_path, '--version', command=command)
    assert process.code == 0
    assert version('paste_wspbus') in process.out.text
    assert process.err.text == ''


@each_command
def test_help_names_options_and_subcommands(tmp_path, command):
    process = run(tmp_path, '--help', command=command)
    assert process.code == 0
    assert 'CONFIG_FILE' in process.out.text
    for option in ('--app-name', '--server-name', '--log-file', '--listen', '--check'):
        assert option in process.out.text
    for subcommand in SUBCOMMANDS:
        assert f'\n  {subcommand} ' in process.out.text


def test_paster_lists_it(tmp_path):
    process = run(tmp_path, 'help', command=COMMANDS['paster'][:1])
    assert 'wspserve' in process.out.text
    assert 'on a Web Site Process Bus' in ' '.join(process.out.text.split())


@each_command
def test_check_serves_and_composes_nothing(tmp_path, command):
    webapp = 'raise SystemExit("imported")\nmake = lifespan = None'
    files = {**FILES, 'webapp.py': webapp}
    process = run(tmp_path, '--check', 'site.ini', files=files, command=command)
    assert (process.code, process.err.text) == (0, ''), process.report()
    assert process.out.text == 'site.ini: no mistakes found\n'


def test_check_finds_mistakes(tmp_path):
    files = {'site.ini': INI.replace('resource', 'resorce', 1)}
    process = run(tmp_path, '--check', 'site.ini', files=files)
    assert process.code == 2
    assert 'resorce' in process.err.text
    assert len(process.err.text.splitlines()) == 1


# -- options ------------------------------------------------------------------------

ORDERS = {
    'options first': '-v -n other --server-name second site.ini color=red size=2',
    'options last': 'site.ini color=red size=2 -n other --server-name second -v',
    'mixed': '--server-name=second site.ini -nother color=red -v size=2',
    'long': 'site.ini --app-name other color=red --server-name second --verbose size=2',
    'between vars': 'site.ini color=red --app-name=other size=2 --server-name second -v',
}


@each_command
@pytest.mark.parametrize('order', ORDERS)
def test_options_and_vars_come_in_any_order(tmp_path, order, command):
    with served(tmp_path, *ORDERS[order].split(), command=command) as site:
        answer = facts(site)
    assert answer['name'] == 'other'
    assert answer['vars'] == {'color': 'red', 'size': '2', 'http_port': '0'}
    assert 'Bus STARTED' in site.err.text


@pytest.mark.parametrize(
    'args',
    [
        ['site.ini#other'],
        ['config:site.ini#other'],
        ['config:site.ini', '-n', 'other'],
        ['-n', 'other', 'site.ini#main'],
    ],
)
def test_the_application_can_be_named(tmp_path, args):
    with served(tmp_path, *args) as site:
        assert facts(site)['name'] == 'other'


def test_an_absolute_path_from_another_folder(tmp_path):
    (tmp_path / 'elsewhere').mkdir()
    with served(tmp_path, tmp_path / 'site.ini', cwd=tmp_path / 'elsewhere') as site:
        assert facts(site)['cwd'] == str(tmp_path / 'elsewhere')


def test_a_relative_path_from_another_folder(tmp_path):
    (tmp_path / 'elsewhere').mkdir()
    with served(tmp_path, '../site.ini', cwd=tmp_path / 'elsewhere') as site:
        assert facts(site)['name'] == 'main'


def test_an_egg_is_served_where_listen_says(tmp_path):
    app = 'egg:Paste#test'
    with served(tmp_path, app, '--listen', '127.0.0.1:0') as site:
        assert site.get().status == 200
        assert site.stop()[0] == 0


def test_an_egg_without_listen_is_told_to_say_it(tmp_path):
    process = run(tmp_path, 'egg:Paste#test')
    assert process.code == 2
    (line,) = process.err.text.splitlines()
    assert '--listen' in line


def test_a_server_of_pastescript(tmp_path):
    ini = INI.replace('egg:waitress', 'egg:nonsense')
    port = free_port()
    process = run(
        tmp_path, '-s', 'nonsense', 'site.ini', files={**FILES, 'site.ini': ini}
    )
    assert process.code == 2
    (line,) = process.err.text.splitlines()
    assert 'PasteScript' in line
    assert 'nonsense' in line
    assert 'wsgiutils' in line  # what it does have
    assert is_free(port)


def test_the_file_can_come_from_the_environment(tmp_path):
    env = {'PASTE_CONFIG_FILE': 'site.ini'}
    with served(tmp_path, 'color=red', env=env) as site:
        assert facts(site)['vars']['color'] == 'red'
    with served(tmp_path, env=env) as site:
        assert facts(site)['name'] == 'main'


def test_a_file_that_is_given_beats_the_environment(tmp_path):
    with served(tmp_path, 'site.ini', env={'PASTE_CONFIG_FILE': 'nowhere.ini'}) as site:
        assert facts(site)['name'] == 'main'


def test_no_file_at_all_is_wrong_usage(tmp_path):
    process = run(tmp_path)
    assert process.code == 2
    (line,) = process.err.text.splitlines()
    assert 'CONFIG_FILE' in line


QUIET = {
    '-q': (['-q'], {}),
    '--quiet': (['--quiet'], {}),
    'PASTE_DEFAULT_QUIET': ([], {'PASTE_DEFAULT_QUIET': '1'}),
}


def answers(site):
    try:
        site.connect().close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.parametrize('how', QUIET)
def test_quiet_prints_nothing(tmp_path, how):
    args, env = QUIET[how]
    port = free_port()
    with served(
        tmp_path, *args, 'site.ini', f'http_port={port}', env=env, wait=False
    ) as site:
        site.expect('opened')
        site.url = f'http://127.0.0.1:{port}'
        eventually(lambda: answers(site))
        assert facts(site)['name'] == 'main'
    assert site.out.text == ''
    assert site.err.text == 'opened\nclosed\n'


def test_verbose_logs_what_the_bus_does(tmp_path):
    with served(tmp_path, '-v', 'site.ini') as site:
        facts(site)
    lines = site.err.text.splitlines()
    assert [line.partition('] ')[2] for line in lines if 'paste_wspbus]' in line] == [
        *('Bus STARTING', 'Bus STARTED', 'Stopping: SIGTERM'),
        *('Bus STOPPING', 'Bus STOPPED', 'Bus EXITING', 'Bus EXITED'),
    ]


def test_log_file_takes_everything_and_is_appended_to(tmp_path):
    log = tmp_path / 'out.log'
    log.write_text('before\n')
    port = free_port()
    args = ['--log-file', 'out.log', '-v', 'site.ini', f'http_port={port}']
    with served(tmp_path, *args, wait=False) as site:
        eventually(lambda: 'Serving on' in log.read_text())
        site.url = f'http://127.0.0.1:{port}'
        facts(site)
    assert (site.out.text, site.err.text) == ('', '')
    text = log.read_text()
    assert text.startswith('before\n')
    for line in ('opened', f'Serving on {site.url}', 'closed', 'Bus EXITED'):
        assert line in text


def test_a_log_file_is_made_for_all_to_read(tmp_path):
    args = ['--log-file', 'out.log', 'site.ini', 'http_port=nonsense']
    process = run(tmp_path, *args, files=FILES)
    assert process.code == 2
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / 'out.log').stat().st_mode & 0o777 == 0o644 & ~mask
    assert 'nonsense' in (tmp_path / 'out.log').read_text()


def test_the_port_that_0_became_is_told_and_vars_reach_the_server(tmp_path):
    with served(tmp_path, 'site.ini') as site:
        assert site.port > 0
        facts(site)
    with served(tmp_path, 'site.ini', f'http_port={site.port}') as again:
        assert again.port == site.port
        facts(again)


# -- executed .ini files ----------------------------------------------------------------

needs_bash = pytest.mark.skipif(not shutil.which('bash'), reason='needs bash')


def executed(tmp_path, head, *args, exe=''):
    """The .ini is run as a command: only the shell sets $_ to its path."""
    write = {**FILES, 'site.ini': f'{head}\n{exe}\n{INI}'}
    for name, text in write.items():
        (tmp_path / name).write_text(text)
    (tmp_path / 'site.ini').chmod(0o755)
    line = ' '.join(['./site.ini', *args]) + '\nexit $?'
    return Site(tmp_path, None, '-c', line, command=['bash'])


def stop_executed(site):
    """The shell waits for it: the signal goes to the site itself."""
    answer = ask(site)
    os.kill(answer['pid'], signal.SIGTERM)
    assert site.wait() == 0, site.report()
    return answer


@needs_bash
def test_an_executed_ini_serves_itself(tmp_path):
    with executed(tmp_path, '#!/usr/bin/env wspserve', 'color=red') as site:
        answer = stop_executed(site)
    assert answer['vars']['color'] == 'red'


@needs_bash
def test_an_executed_ini_takes_options_from_its_exe_section(tmp_path):
    exe = (
        '[exe]\ncommand = wspserve\napp_name = other\nserver-name = second\nadd = -v\n'
    )
    with executed(tmp_path, '#!/usr/bin/env wspserve', exe=exe) as site:
        answer = stop_executed(site)
    assert answer['name'] == 'other'
    assert site.err.text.count('Bus STARTED') == 1


@needs_bash
def test_the_command_line_beats_the_exe_section(tmp_path):
    exe = '[exe]\napp_name = other\nlog_file = %(here)s/exe.log\n'
    args = ['-n', 'main', '--log-file', '/dev/stdout']
    with executed(tmp_path, '#!/usr/bin/env wspserve', *args, exe=exe) as site:
        assert stop_executed(site)['name'] == 'main'
    assert not (tmp_path / 'exe.log').exists()


@needs_bash
def test_an_ini_executed_by_paster(tmp_path):
    exe = '[exe]\ncommand = wspserve\n'
    with executed(tmp_path, '#!/usr/bin/env paster', 'color=red', exe=exe) as site:
        answer = stop_executed(site)
    assert answer['vars']['color'] == 'red'
    assert site.err.text == f'opened\n{STOPS}closed\n'


@needs_bash
def test_an_ini_executed_by_paster_with_options(tmp_path):
    exe = '[exe]\ncommand = wspserve -v\napp_name = other\n'
    with executed(tmp_path, '#!/usr/bin/env paster', exe=exe) as site:
        assert stop_executed(site)['name'] == 'other'
    assert 'Bus STARTED' in site.err.text


# -- what it imports ------------------------------------------------------------------------


@pytest.mark.parametrize('command', ['wspserve', 'module'])
@pytest.mark.parametrize('server', ['main', 'second'])
def test_it_imports_neither_paste_script_nor_pkg_resources(tmp_path, command, server):
    with served(tmp_path, 'site.ini', '--server-name', server, command=command) as site:
        assert facts(site)['modules'] == []


def test_wsgiref_says_that_it_has_threads(tmp_path):
    with served(tmp_path, 'site.ini', '--server-name', 'second') as site:
        assert facts(site)['environ']['wsgi.multithread'] is True


def test_the_environ_is_right(tmp_path):
    with served(tmp_path, 'site.ini') as site:
        answer = facts(site)
    assert answer['environ']['wsgi.url_scheme'] == 'http'
    assert answer['environ']['wsgi.multithread'] is True
    assert answer['environ']['wsgi.multiprocess'] is False
    assert answer['state'] == 'STARTED'
    assert answer['pid'] == site.pid


# -- signals ------------------------------------------------------------------------------------

each_ending = pytest.mark.parametrize('signum', [signal.SIGINT, signal.SIGTERM])


@each_command
@each_ending
def test_the_first_signal_stops_gracefully(tmp_path, signum, command):
    with (
        served(tmp_path, '-v', 'site.ini', command=command) as site,
        site.connect() as client,
    ):
        client.send('/wait')
        site.expect('waiting')
        site.send(signum)
        site.expect('Bus STOPPING')
        site.release()
        assert client.receive().status == 200
        assert site.wait() == 0
        assert 'closed' in site.err.text


@each_ending
@pytest.mark.parametrize('server', ['main', 'second'])
def test_the_second_signal_skips_the_wait_for_requests(tmp_path, signum, server):
    with (
        served(tmp_path, '-v', 'site.ini', '--server-name', server) as site,
        site.connect() as client,
    ):
        client.send('/wait')
        site.expect('waiting')
        site.send(signum)
        site.expect('Bus STOPPING')
        site.send_again(signum)
        code = site.wait()  # though the request was not released
        assert 'closed' in site.err.text
        assert 'Bus EXITED' in site.err.text
        assert code == 0, site.report()
        assert is_free(site.port)


@pytest.mark.parametrize('args', [(), ('--workers', '1'), ('--monitor-restart',)])
def test_a_launcher_s_signal_beside_the_terminal_s_is_the_same_wish(tmp_path, args):
    with (
        served(tmp_path, '-v', 'site.ini', *args) as site,
        site.connect() as client,
    ):
        client.send('/wait')
        site.expect('waiting')
        site.send(signal.SIGINT)
        site.send(signal.SIGTERM)
        site.expect('Bus STOPPING')
        eventually(lambda: not pending(site.pid))
        site.release()
        assert client.receive().status == 200
        assert site.wait() == 0


def test_the_third_signal_leaves_at_once_with_the_stacks(tmp_path):
    hang = FILES['webapp.py'].replace("say('closed')", "say('closing'); hold()")
    files = {**FILES, 'webapp.py': hang}
    with served(tmp_path, '-v', 'site.ini', files=files) as site:
        site.send(signal.SIGTERM)
        site.expect('closing')
        site.send_again(signal.SIGTERM)
        site.send_again(signal.SIGINT)
        assert site.wait() == 70
    assert 'Thread MainThread' in site.err.text
    assert f'{tmp_path}/webapp.py", line ' in site.err.text
    assert is_free(site.port)


def test_the_requests_in_flight_are_named_when_it_is_forced_out(tmp_path):
    hang = FILES['webapp.py'].replace("say('closed')", "say('closing'); hold()")
    ini = INI.replace('[wspbus:main]', '[wspbus:main]\nstop_timeout = 0.5')
    files = {**FILES, 'site.ini': ini, 'webapp.py': hang}
    with (
        served(tmp_path, 'site.ini', files=files) as site,
        site.connect() as client,
    ):
        client.send('/wait')
        site.expect('waiting')
        code, _, err = site.stop()
    assert code == 70
    assert 'GET /wait, in flight for' in err
    assert 'did not stop within 0.5 s' in err
    assert "'GET' '/wait'" in err
    assert 'Thread MainThread' in err


def test_sigterm_while_the_site_is_composed(tmp_path):
    ini = INI.replace('call:webapp:make\n', 'call:webapp:make_slowly\n', 1)
    port = free_port()
    args = ['site.ini', f'http_port={port}']
    files = {**FILES, 'site.ini': ini}
    with served(tmp_path, *args, files=files, wait=False) as site:
        site.expect('composing')
        code, out, err = site.stop()
    assert code == 143
    assert out == ''
    assert err == 'composing\ncomposition ended\n'
    assert is_free(port)


def test_sigint_while_the_site_is_composed(tmp_path):
    ini = INI.replace('call:webapp:make\n', 'call:webapp:make_slowly\n', 1)
    with served(
        tmp_path, 'site.ini', files={**FILES, 'site.ini': ini}, wait=False
    ) as site:
        site.expect('composing')
        code, _, err = site.stop(signal.SIGINT)
    assert code == 130
    assert err == 'composing\ncomposition ended\nInterrupted.\n'


@each_ending
def test_a_signal_while_the_site_starts_takes_effect_before_the_next_listener(
    tmp_path, signum
):
    ini = INI.replace('plugins = resource', 'plugins = resource signaled never')
    ini += f"""
[plugin:signaled]
use = call:webapp:signal_itself
signum = {int(signum)}

[plugin:never]
use = call:webapp:never
"""
    process = run(tmp_path, '-v', 'site.ini', files={**FILES, 'site.ini': ini})
    assert process.code == 0, process.report()
    said = [line for line in process.err.text.splitlines() if '[' not in line]
    assert said == ['opened', 'signaled', 'signaled closed', 'closed']
    assert process.out.text == ''


@each_command
def test_sighup_without_a_terminal_restarts_the_process_in_its_place(tmp_path, command):
    with served(tmp_path, '-v', 'site.ini', 'color=red', command=command) as site:
        first = ask(site)
        site.send(signal.SIGHUP)
        site.wait_until_served(2)
        again = ask(site)
        assert again['pid'] == first['pid'] == site.pid
        assert again['argv'] == first['argv']
        assert again['vars'] == first['vars']
        assert again['cwd'] == first['cwd']
        site.expect('opened', 2)
        assert site.err.text.count('closed') == 1
        assert site.stop()[0] == 0, site.report()
        assert site.err.text.count('closed') == 2


def test_sighup_restarts_on_the_same_port_with_a_request_in_flight(tmp_path):
    port = free_port()
    with (
        served(tmp_path, '-v', 'site.ini', f'http_port={port}') as site,
        site.connect() as client,
    ):
        client.send('/wait')
        site.expect('waiting')
        site.send(signal.SIGHUP)
        site.expect('Bus STOPPING')
        site.release()
        assert client.receive().status == 200
        site.wait_until_served(2)
        assert site.port == port
        assert ask(site)['pid'] == site.pid
        assert site.stop()[0] == 0


def test_a_site_with_sighup_ignored_or_changed(tmp_path):
    ini = INI.replace('[wspbus:main]', '[wspbus:main]\nsignal.SIGHUP = exit')
    with served(tmp_path, 'site.ini', files={**FILES, 'site.ini': ini}) as site:
        assert site.stop(signal.SIGHUP)[0] == 0


def test_sigusr1_and_sigusr2_do_not_end_the_site(tmp_path):
    with served(tmp_path, '-v', 'site.ini') as site:
        for signum in (signal.SIGUSR1, signal.SIGUSR2):
            site.send(signum)
            site.expect(f'Caught signal {signum.name}.')
        assert facts(site)['name'] == 'main'

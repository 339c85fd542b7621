"""Deployments by a link: the code and the working directory are those of the new release."""

import json
import os
import re
import shutil
import signal
import sys

import pytest

from tests.kit import Site, eventually, run, write

WEBAPP = """
import json
import os
import sys

VERSION = {version!r}

def make(global_conf, read=''):
    with open('data') as file:
        at_start = file.read()
    with open(read) as file:
        of_ini = file.read()

    def app(environ, start_response):
        start_response('200 OK', [('Content-Type', 'text/plain')])
        with open('data') as file:
            found = [VERSION, at_start, of_ini, file.read(), os.path.basename(os.getcwd())]
        return [json.dumps([*found, [one for one in sys.path if '/releases/' in one]]).encode()]
    return app
"""

INI = """
[app:main]
use = call:webapp:make
read = %(here)s/data

[server:main]
use = egg:waitress
host = 127.0.0.1
port = 0

[wspbus:main]
soak = 0
"""


def deploy(folder, version, more='', link='current'):
    release = folder / 'releases' / version
    write(
        release,
        {
            'site.ini': INI + more,
            'webapp.py': WEBAPP.format(version=version),
            'data': version,
        },
    )
    os.symlink(f'releases/{version}', folder / 'new')
    os.replace(folder / 'new', folder / link)


def remove(folder, version):
    shutil.rmtree(folder / 'releases' / version)


def is_served(site, version):
    """Whether code, files and working directory are all of that release."""
    response = site.get()
    if response.status == 500:  # a worker whose release is gone
        return False
    *found, paths = json.loads(response.text)
    assert len(set(found)) == 1, found
    wrong = [one for one in paths if f'/releases/{version}' not in one]
    assert not wrong or found[0] != version, paths
    return found[0] == version


def site_in(folder, *words, named='PWD', link='current', **kwargs):
    """A site that is started in the folder of the link.

    ``named``: how it may know the link: by $PWD, by the path of the .ini, or because
    it has the usual name.
    """
    place = folder / link
    ini = f'{place}/site.ini' if named == 'path' else 'site.ini'
    env = {'PWD': str(place) if named == 'PWD' else ''}
    return Site(folder, None, ini, *words, cwd=place, env=env, **kwargs)


MODES = {
    'one process': ([], ''),
    'workers': (['--workers', '2'], ''),
    'fresh workers': (['--workers', '1'], 'restart = child\n'),
    'preload': (['--workers', '1'], 'preload = true\n'),
    'monitor': (['--monitor-restart'], ''),
}


@pytest.mark.parametrize('gone', [False, True], ids=['kept', 'gone'])
@pytest.mark.parametrize('named', ['PWD', 'path', 'usual'])
@pytest.mark.parametrize('mode', MODES)
def test_hup_serves_the_release_to_which_the_link_leads(tmp_path, mode, named, gone):
    words, more = MODES[mode]
    if mode == 'workers':
        # The second worker may still load a release while the link moves on.
        words = ['--workers', '1']
    link = 'current' if named == 'usual' else 'live'
    deploy(tmp_path, '1', more, link)
    with site_in(tmp_path, *words, named=named, link=link) as site:
        assert is_served(site, '1')
        for version in ('2', '3'):
            deploy(tmp_path, version, more, link)
            if gone:
                remove(tmp_path, str(int(version) - 1))
            site.send(signal.SIGHUP)
            if mode == 'one process':
                site.wait_until_served(int(version))
            eventually(lambda version=version: is_served(site, version))
        assert site.stop()[0] == 0, site.report()


@pytest.mark.parametrize('command', ['module', 'wspserve'])
@pytest.mark.parametrize('gone', [False, True], ids=['kept', 'gone'])
@pytest.mark.parametrize('mode', ['workers', 'fresh workers', 'preload'])
def test_graceful_by_the_link_finds_the_site_without_pwd(tmp_path, mode, gone, command):
    words, more = MODES[mode]
    deploy(tmp_path, '1', more)
    with site_in(tmp_path, *words, named='usual', command=command) as site:
        for version in ('2', '3'):
            deploy(tmp_path, version, more)
            if gone:
                remove(tmp_path, str(int(version) - 1))
            for place, ini in ((tmp_path, 'current/site.ini'), ('/', 'site.ini')):
                where = tmp_path / 'current' if ini == 'site.ini' else place
                status = run(where, ini, 'status', env={'PWD': ''})
                assert status.code == 0, status.report()
            told = run(tmp_path, 'current/site.ini', 'graceful', env={'PWD': ''})
            assert told.code == 0, told.report()
            assert is_served(site, version)
        stopped = run(tmp_path / 'current', 'site.ini', 'stop', env={'PWD': ''})
        assert stopped.out.text == 'The site has stopped.\n', stopped.report()
        assert site.wait() == 0


def pid_files(folder):
    return [*folder.rglob('*.pid*')]


@pytest.mark.parametrize('pid_file', ['site.pid', 'run/site.pid', '{link}/site.pid'])
@pytest.mark.parametrize('args', [[], ['--workers', '2']], ids=['one', 'workers'])
@pytest.mark.parametrize('daemon', [False, True], ids=['foreground', 'daemon'])
def test_a_site_with_its_pid_file_in_the_release_is_found_by_the_link(
    tmp_path, args, daemon, pid_file
):
    link, env = tmp_path / 'current', {'PWD': ''}
    more = ['--pid-file', pid_file.format(link=link)]
    for version in ('3', '2', '1'):
        deploy(tmp_path, version)
        (tmp_path / 'releases' / version / 'run').mkdir()
    words = [*args, *more, *(['start'] if daemon else [])]
    with site_in(tmp_path, *words, named='usual') as site:
        for version in ('2', '3'):
            deploy(tmp_path, version)
            for name in ('status', 'graceful', 'status'):
                asked = run(link, 'site.ini', name, *more, env=env)
                assert asked.code == 0, asked.report()
            assert is_served(site, version)
        stopped = run(link, 'site.ini', 'stop', *more, env=env)
        assert stopped.out.text == 'The site has stopped.\n', stopped.report()
        assert site.wait() == 0, site.report()
    assert not pid_files(tmp_path)


@pytest.mark.parametrize('where', ['option', 'ini'])
@pytest.mark.parametrize('workers', ['0', '1'])
def test_start_and_restart_find_the_site_with_its_pid_file_in_the_old_release(
    tmp_path, workers, where
):
    link, env, log = tmp_path / 'current', {'PWD': ''}, tmp_path / 'log'
    more = f'workers = {workers}\n'
    more += 'pid_file = %(here)s/site.pid\n' if where == 'ini' else ''
    words = ['--pid-file', link / 'site.pid'] if where == 'option' else []
    words += ['--log-file', log]
    pid_file = tmp_path / 'releases' / '1' / 'site.pid'
    deploy(tmp_path, '1', more)

    def told(name, **kwargs):
        return run(link, 'site.ini', name, *words, env=env, **kwargs)

    try:
        started = told('start')
        assert started.code == 0, started.report()
        for version in ('2', '3'):
            pid = pid_file.read_text().strip()
            deploy(tmp_path, version, more)
            again = told('start')
            line = f'The site is running already (process {pid}).\n'
            assert (again.code, again.out.text) == (0, line), again.report()
            restarted = told('restart')
            assert restarted.code == 0, restarted.report()
            assert pid_file.read_text().strip() != pid
            with Site(tmp_path, None, '--version', wait=False) as site:
                (site.url,) = set(
                    re.findall(r'^Serving on (\S+)$', started.out.text, re.M)
                )
                assert is_served(site, version)
            for name in ('status', 'graceful'):
                asked = told(name)
                assert asked.code == 0, asked.report()
        assert 'takes a restart' not in log.read_text()
    finally:
        stopped = told('stop')
    assert stopped.out.text == 'The site has stopped.\n', stopped.report()
    assert not pid_files(tmp_path)


@pytest.mark.parametrize('args', [[], ['--workers', '1']], ids=['one', 'workers'])
def test_a_site_whose_pid_file_went_with_the_old_release_is_found(tmp_path, args):
    link, env = tmp_path / 'current', {'PWD': ''}
    deploy(tmp_path, '1')
    words = ['--pid-file', 'site.pid', *args]
    with site_in(tmp_path, *words, named='usual') as site:
        deploy(tmp_path, '2')
        remove(tmp_path, '1')
        for name, code in (
            ('status', 0),
            ('graceful', 1),
            ('start', 1),
            ('restart', 1),
        ):
            asked = run(link, 'site.ini', name, *words[:2], env=env)
            assert asked.code == code, asked.report()
            assert f'is running (process {site.pid}), but' in asked.report()
            assert 'were removed: stop it, and start it again' in asked.report()
        stopped = run(link, 'site.ini', 'stop', *words[:2], env=env)
        assert stopped.out.text == 'The site has stopped.\n', stopped.report()
        assert site.wait() == 0, site.report()
    assert run(link, 'site.ini', 'status', *words[:2], env=env).code == 3


def test_a_copy_of_the_pid_file_in_the_new_release_hides_nothing(tmp_path):
    """As after cp -a of the old release."""
    deploy(tmp_path, '1')
    words = '--pid-file', tmp_path / 'current' / 'site.pid'
    with site_in(tmp_path, *words) as site:
        copy = (tmp_path / 'releases' / '1' / 'site.pid').read_text()
        deploy(tmp_path, '2')
        write(tmp_path / 'releases' / '2', {'site.pid': copy})
        status = run(tmp_path / 'current', 'site.ini', 'status', *words)
        assert status.code == 0, status.report()
        assert site.stop()[0] == 0, site.report()


def test_the_site_of_another_release_is_not_taken_for_that_of_the_link(tmp_path):
    more = ['--pid-file', 'site.pid']
    for version in ('1', '2'):
        deploy(tmp_path, version)
    folder = tmp_path / 'releases' / '1'
    # It was not started by the link, but in its own folder.
    with Site(folder, None, 'site.ini', *more, env={'PWD': str(folder)}) as site:
        for name, code in (('status', 3), ('graceful', 1), ('stop', 0)):
            asked = run(tmp_path / 'current', 'site.ini', name, *more)
            assert asked.code == code, asked.report()
            assert 'not running' in asked.report()
        assert is_served(site, '1')
        assert site.stop()[0] == 0, site.report()
    assert not pid_files(tmp_path)


@pytest.mark.parametrize('path', ['/no.pid', '//no.pid', '//no/such/no.pid', 'no.pid'])
def test_a_site_that_is_nowhere_is_not_looked_for_without_end(tmp_path, path):
    deploy(tmp_path, '1')
    asked = run(tmp_path / 'current', 'site.ini', 'status', '--pid-file', path)
    assert asked.code == 3, asked.report()


@pytest.mark.parametrize('style', ['fork', 'child', 'execv'])
@pytest.mark.parametrize('named', ['PWD', 'usual'])
def test_a_reload_serves_the_release_to_which_the_link_leads(tmp_path, style, named):
    deploy(tmp_path, '1')
    with site_in(tmp_path, '--reload', '--reloader', style, named=named) as site:
        assert is_served(site, '1')
        for version in ('2', '3'):
            deploy(tmp_path, version)
            eventually(lambda version=version: is_served(site, version))
        assert site.stop()[0] == 0, site.report()


#: The first program that takes over from another one waits before it begins.
WAITING = """
import os, time

if 'WSPSERVE_INHERITANCE' in os.environ:
    folder = os.path.dirname(__file__)
    try:
        os.close(os.open(f'{folder}/waits', os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        pass
    else:
        while not os.path.exists(f'{folder}/go'):
            time.sleep(0.01)
"""


@pytest.mark.parametrize('how', ['child', 'execv', 'hup'])
def test_a_link_that_changes_while_a_program_begins_is_followed_later(tmp_path, how):
    args = {
        'child': ['--reload', '--reloader=child'],
        'execv': ['--reload', '--reloader=execv'],
        'hup': [],
    }[how]
    folder = tmp_path / 'site'
    write(tmp_path / 'customize', {'sitecustomize.py': WAITING})
    env = {'PWD': '', 'PYTHONPATH': str(tmp_path / 'customize')}
    deploy(folder, '1')
    words = 'site.ini', *args, '--pid-file', tmp_path / 'pid'
    with Site(folder, None, *words, cwd=folder / 'current', env=env) as site:

        def deployed(version):
            deploy(folder, version)
            if how == 'hup':
                site.send(signal.SIGHUP)

        deployed('2')
        eventually((tmp_path / 'customize' / 'waits').exists)
        deploy(folder, '3')
        write(tmp_path / 'customize', {'go': ''})
        eventually(lambda: is_served(site, '3'))
        deployed('4')
        eventually(lambda: is_served(site, '4'))
        assert site.stop()[0] == 0, site.report()


@pytest.mark.parametrize('gone', [False, True], ids=['kept', 'gone'])
def test_restart_of_a_daemon_serves_the_release_to_which_the_link_leads(tmp_path, gone):
    files = '--pid-file', tmp_path / 'pid', '--log-file', tmp_path / 'log'
    port_file = tmp_path / 'port'
    deploy(tmp_path, '1')
    started = run(tmp_path / 'current', 'site.ini', 'start', *files, env={'PWD': ''})
    try:
        assert started.code == 0, started.report()
        port_file.write_text(started.out.text.rpartition(':')[2])
        for version, how in (('2', 'graceful'), ('3', 'restart')):
            deploy(tmp_path, version)
            if gone:
                remove(tmp_path, str(int(version) - 1))
            told = run(tmp_path / 'current', 'site.ini', how, *files, env={'PWD': ''})
            assert told.code == 0, told.report()
            with Site(tmp_path, None, '--version', wait=False) as site:
                site.url = f'http://127.0.0.1:{int(port_file.read_text())}'
                eventually(lambda version=version: is_served(site, version))
    finally:
        stopped = run(tmp_path / 'current', 'site.ini', 'stop', *files)
    assert stopped.code == 0, stopped.report()


def test_a_virtual_environment_in_the_release_moves_along(tmp_path):
    for version in ('1', '2'):
        deploy(tmp_path, version)
        interpreter = tmp_path / 'releases' / version / 'python'
        write(
            interpreter.parent, {'python': f'#!/bin/sh\nexec {sys.executable} "$@"\n'}
        )
        interpreter.chmod(0o755)
    os.remove(tmp_path / 'current')
    os.symlink('releases/1', tmp_path / 'current')
    code = f"""
import sys
sys.executable = {str(tmp_path / 'releases/1/python')!r}
from paste_wspbus.__main__ import main
sys.exit(main())
"""
    write(tmp_path, {'start.py': code})
    command = [sys.executable, tmp_path / 'start.py']
    with site_in(tmp_path, '-v', command=command) as site:
        deploy(tmp_path, '2')
        remove(tmp_path, '1')
        site.send(signal.SIGHUP)
        site.wait_until_served(2)
        assert is_served(site, '2')
        assert f'Re-spawning {tmp_path}/current/python' in site.err.text
        assert site.stop()[0] == 0


def test_a_shell_whose_folder_was_removed_finds_the_site(tmp_path):
    deploy(tmp_path, '1')
    with site_in(tmp_path, '--workers', '1') as site:
        shell = tmp_path / 'current'
        deploy(tmp_path, '2')
        gone = (
            'import os, shutil, sys; os.chdir(sys.argv[1]); shutil.rmtree(sys.argv[1]);'
            'os.execvp("wspserve", ["wspserve", "site.ini", *sys.argv[2:]])'
        )
        command = [sys.executable, '-c', gone, tmp_path / 'releases/1']
        told = run(tmp_path, 'graceful', command=command, env={'PWD': str(shell)})
        assert told.code == 0, told.report()
        assert is_served(site, '2')
        write(tmp_path / 'elsewhere', {})
        os.mkdir(tmp_path / 'elsewhere')
        command[-1] = tmp_path / 'elsewhere'
        told = run(tmp_path, 'status', command=command, env={'PWD': ''})
        assert told.code == 2, told.report()
        assert told.err.text.count('\n') == 1
        assert 'the working directory is gone' in told.err.text
        assert site.stop()[0] == 0


def test_a_link_that_nobody_named_is_not_followed(tmp_path):
    deploy(tmp_path, '1', link='live')
    with site_in(tmp_path, named='usual', link='live') as site:
        deploy(tmp_path, '2', link='live')
        site.send(signal.SIGHUP)
        site.wait_until_served(2)
        assert is_served(site, '1')
        assert site.stop()[0] == 0


@pytest.mark.parametrize('workers', ['0', '1'])
def test_a_pid_file_stays_where_it_is(tmp_path, workers):
    deploy(tmp_path, '1')
    pid_file = tmp_path / 'releases' / '1' / 'site.pid'
    words = '--pid-file', 'site.pid', '--workers', workers
    with site_in(tmp_path, *words) as site:
        for version in ('2', '3'):
            deploy(tmp_path, version)
            site.send(signal.SIGHUP)
            eventually(lambda version=version: is_served(site, version))
            asked = run(tmp_path, 'x', 'status', '--pid-file', pid_file)
            assert asked.code == 0, asked.report()
        assert site.stop()[0] == 0
    assert not pid_file.exists()

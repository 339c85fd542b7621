"""Workers under rough operators: deployments by link or by half, thieves, daemons."""

import json
import os

import pytest

from tests.kit import Site, eventually, run, write
from tests.kit.processes import has_ended
from tests.kit.sites import SERVED

WEBAPP = """
import os

VERSION = {version!r}
{more}

def make(global_conf):
    def app(environ, start_response):
        start_response('200 OK', [('Content-Type', 'text/plain')])
        return [f'{{VERSION}} {{os.getpid()}}'.encode()]
    return app
"""

INI = (
    SERVED
    + """
[wspbus:main]
soak = 0
workers = {workers}
preload = {preload}
stop_timeout = 10
"""
)

#: A licence for so many processes: the next one fails at import.
LICENCE = """
held = [name for name in os.listdir() if name.startswith('licence')]
if len(held) >= {count}:
    raise RuntimeError('no more licences')
open(f'licence{{os.getpid()}}', 'w').close()
"""

#: A daemon by itself, as programs of old.
DAEMON = """
for _ in range(2):
    if os.fork():
        os._exit(0)
"""

#: Takes note of the end of any child, whoever's it is.
THIEF = """
import threading

def reap():
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            threading.Event().wait(0.01)

threading.Thread(target=reap, daemon=True).start()
"""


def files(version='1', more='', workers=2, preload=False):
    return {
        'webapp.py': WEBAPP.format(version=version, more=more),
        'site.ini': INI.format(workers=workers, preload=str(preload).lower()),
    }


def links(folder, version):
    """Deploy a release as many do: a folder of its own, and a link to it."""
    write(folder / f'release{version}', files(version))
    os.symlink(f'release{version}', folder / 'new')
    os.replace(folder / 'new', folder / 'current')


def status(folder):
    return json.loads(run(folder, 'site.ini', 'status', '--json').out.text)


@pytest.mark.parametrize('gone', [False, True])
def test_a_site_is_found_by_the_name_it_was_started_by_when_a_link_has_moved(
    tmp_path, gone
):
    links(tmp_path, '1')
    with Site(tmp_path, None, 'current/site.ini') as site:
        assert site.get().text.startswith('1 ')
        links(tmp_path, '2')
        if gone:
            for name in ('site.ini', 'webapp.py'):
                os.remove(tmp_path / 'release1' / name)
        told = run(tmp_path, 'current/site.ini', 'graceful')
        assert told.code == 0, told.report()
        assert site.get().text.startswith('2 ')
        assert run(tmp_path, 'current/site.ini', 'status').code == 0
        stopped = run(tmp_path, 'current/site.ini', 'stop')
        assert stopped.out.text == 'The site has stopped.\n', stopped.report()
        assert site.wait() == 0
    assert run(tmp_path, 'current/site.ini', 'status').code == 3


def test_of_two_sites_that_have_one_name_neither_is_taken_for_the_other(tmp_path):
    links(tmp_path, '1')
    with Site(tmp_path, None, 'current/site.ini') as first:
        links(tmp_path, '2')
        with Site(tmp_path, None, 'current/site.ini') as second:
            named = run(tmp_path, 'current/site.ini', 'stop')
            assert named.code == 4, named.report()
            assert f'process {first.pid}' in named.err.text
            real = run(tmp_path, 'release2/site.ini', 'status')
            assert f'(process {second.pid})' in real.out.text, real.report()
            assert second.stop()[0] == 0
        assert run(tmp_path, 'current/site.ini', 'status').code == 0
        assert first.stop()[0] == 0


def test_a_generation_that_fails_half_way_is_told_as_it_is(tmp_path):
    with Site(tmp_path, None, 'site.ini', files=files()) as site:
        write(tmp_path, files('2', LICENCE.format(count=1)))
        told = run(tmp_path, 'site.ini', 'graceful')
        assert told.code == 1, told.report()
        half = '(1 of 2 workers serve generation 2, the others generation 1): '
        assert f'The graceful restart failed half-way {half}' in told.err.text
        assert 'no more licences' in told.err.text
        assert [one['generation'] for one in status(tmp_path)['workers']] == [2, 1]
        write(tmp_path, files('3'))
        assert run(tmp_path, 'site.ini', 'graceful').code == 0
        assert site.stop()[0] == 0


def test_a_generation_of_which_nobody_of_the_old_one_is_left_is_the_sites(tmp_path):
    with Site(tmp_path, None, 'site.ini', files=files(workers=1)) as site:
        write(tmp_path, files('2', LICENCE.format(count=1), workers=2))
        told = run(tmp_path, 'site.ini', 'graceful')
        assert told.code == 1, told.report()
        assert 'Generation 2 serves, but a part of it failed: ' in told.err.text
        assert status(tmp_path)['generation'] == 2
        assert site.get().text.startswith('2 ')
        assert site.stop()[0] == 0


def test_a_preloaded_site_that_becomes_a_daemon_is_told_without_a_traceback(tmp_path):
    daemon = files(more=DAEMON, preload=True)
    with Site(tmp_path, None, 'site.ini', files=daemon, wait=False) as refused:
        assert refused.wait() == 1, refused.report()
    told = 'a site that becomes a daemon by itself cannot be supervised'
    assert told in refused.err.text
    assert 'Traceback' not in refused.err.text


def test_a_preloaded_site_that_takes_note_of_any_childs_end_stops_at_once(tmp_path):
    thief = files(more=THIEF, preload=True)
    with Site(tmp_path, None, 'site.ini', files=thief) as site:
        before = [one['pid'] for one in status(tmp_path)['workers']]
        code, _, err = site.stop()
        assert code == 0, site.report()
        assert 'killed' not in err
        eventually(lambda: all(map(has_ended, before)))


RELEASE = """
def make(global_conf):
    def app(environ, start_response):
        start_response('200 OK', [('Content-Type', 'text/plain')])
        return [b'%d ' + global_conf['__file__'].encode()]

    return app
"""


@pytest.mark.parametrize('pid_file', [(), ('--pid-file', 'site.pid')])
@pytest.mark.parametrize('named', ['site.ini', '../current/site.ini'])
def test_graceful_serves_the_release_that_a_link_leads_to_now(
    tmp_path, named, pid_file
):
    current, runtime = tmp_path / 'current', tmp_path / 'runtime'
    runtime.mkdir(mode=0o700)
    env = {'PWD': str(current), 'XDG_RUNTIME_DIR': str(runtime)}
    for number in (1, 2):
        ini = SERVED.replace('webapp', 'release')
        files = {'release.py': RELEASE % number, 'site.ini': ini}
        write(tmp_path / f'release{number}', files)
    current.symlink_to('release1')
    pid_file = [str(tmp_path / one) if '.' in one else one for one in pid_file]
    args = [named, '--workers', '2', *pid_file]
    with Site(current, None, *args, env=env) as site:
        assert site.get().body == f'1 {current}/site.ini'.encode()
        current.unlink()
        current.symlink_to('release2')
        told = run(current, named, 'graceful', *pid_file, env=env)
        assert told.code == 0, told.report()
        assert site.get().body == f'2 {current}/site.ini'.encode()
        assert run(current, named, 'stop', *pid_file, env=env).code == 0
        assert site.wait() == 0
        assert site.has_left_nothing()


SELF_MADE = """
import os


def make(global_conf):
    return lambda environ, start_response: []


def make_in_a_child(global_conf):
    if os.fork():
        os._exit(0)
    os.setsid()
    with open('child', 'w') as file:
        file.write(str(os.getpid()))
    return make(global_conf)


def ours(bus, global_conf):
    from paste_wspbus.plugins.daemon import Daemonizer

    return Daemonizer(bus)


def cherrypys(bus, global_conf):
    from cherrypy.process.plugins import Daemonizer

    return Daemonizer(bus)
"""


@pytest.mark.parametrize(
    'app, plugin, said',
    [
        ('make_in_a_child', None, 'Worker 1 (process '),
        ('make', 'ours', 'site.ini [plugin:daemon]: a site that has a supervisor'),
        ('make', 'cherrypys', 'Worker 1 (process '),
    ],
    ids=['at its composition', 'Daemonizer', "CherryPy's Daemonizer"],
)
def test_a_site_with_workers_cannot_become_a_daemon_by_itself(
    tmp_path, app, plugin, said
):
    ini = f"""
    [app:main]
    use = call:webapp:{app}
    [server:main]
    use = egg:waitress
    port = 0
    [wspbus:main]
    plugins = {'daemon' if plugin else ''}
    workers = 1
    [plugin:daemon]
    use = call:webapp:{plugin or 'ours'}
    """
    with Site(tmp_path, ini, files={'webapp.py': SELF_MADE}, wait=False) as site:
        assert site.wait() == 1, site.report()
        lines = site.err.text.splitlines()
        told = [line for line in lines if line.startswith(said)]
        assert told and 'daemon by itself' in told[0], site.report()
        eventually(site.has_left_nothing)
        child = tmp_path / 'child'
        if child.exists():
            eventually(lambda: has_ended(int(child.read_text())))
    assert site.out.text == ''

"""A site without a PID file: how the commands find it, and whom they believe."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from errno import ENOENT
from pathlib import Path

import pytest

from paste_wspbus.command import finding
from paste_wspbus.control.client import NoAnswer
from tests.kit import BIN, TIMEOUT, Process, Site, eventually, run, write
from tests.kit.daemons import WEBAPP, ini
from tests.kit.processes import has_ended, kill
from tests.kit.stand_in import StandIn, begun, status_json
from tests.kit.users import AS_NOBODY, NOBODY, python_for_all

#: Two sites of one .ini.
TWO = """
[app:main]
use = call:webapp:make

[server:web0]
use = egg:waitress
listen = 127.0.0.1:0

[server:web1]
use = egg:waitress
listen = 127.0.0.1:0
"""


class Place:
    """A folder that everybody may enter, with a site; commands run there as nobody."""

    def __enter__(self):
        self._made = tempfile.TemporaryDirectory(dir='/tmp')
        self.folder = Path(self._made.name)
        self.folder.chmod(0o755)
        runtime = self.folder / 'runtime'
        runtime.mkdir(0o700)
        os.chown(runtime, NOBODY.pw_uid, NOBODY.pw_gid)
        write(self.folder, {'site.ini': ini(), 'webapp.py': WEBAPP})
        return self

    def __exit__(self, *_):
        self._made.cleanup()

    def _words(self):
        python, path = python_for_all()
        env = {
            'XDG_RUNTIME_DIR': str(self.folder / 'runtime'),
            'TMPDIR': str(self.folder),
            'RUNTIME_DIRECTORY': '',
            'PYTHONPATH': path,
        }
        user = {'user': NOBODY.pw_uid, 'group': NOBODY.pw_gid, 'extra_groups': []}
        return {'command': [python, '-m', 'paste_wspbus'], 'env': env, **user}

    def run(self, *args):
        return run(self.folder, 'site.ini', *args, **self._words())


def test_status_finds_a_site_without_a_pid_file(folder, unlisted):
    told = run(folder, 'site.ini', 'status')
    assert told.code == 0, told.report()
    assert f'The site is running (process {unlisted.pid})' in told.out.text
    assert status_json(folder)[1]['pid'] == unlisted.pid


@pytest.mark.parametrize('config', ['site.ini', './site.ini#main', 'config:site.ini'])
def test_a_site_without_a_pid_file_is_found_by_each_name_of_its_ini(
    folder, unlisted, config
):
    assert run(folder, config, 'status').code == 0


def test_a_site_without_a_pid_file_is_found_from_elsewhere_and_by_links(
    folder, unlisted, tmp_path
):
    (tmp_path / 'link.ini').symlink_to(folder / 'site.ini')
    told = run(tmp_path, 'link.ini', 'status')
    assert told.code == 0, told.report()


def test_another_ini_of_the_same_name_is_another_site(folder, unlisted, tmp_path):
    write(tmp_path, {'other/site.ini': '[app:main]\n'})
    assert run(tmp_path / 'other', 'site.ini', 'status').code == 3


def test_a_pid_file_goes_before_a_site_without_one(folder, unlisted):
    assert run(folder, 'site.ini', 'status', '--pid-file=x.pid').code == 3
    with StandIn(folder) as listed:
        assert status_json(folder)[1]['pid'] == listed.pid
        listed.release()
        listed.wait()
    assert status_json(folder)[1]['pid'] == unlisted.pid


def test_graceful_restarts_a_site_without_a_pid_file(folder, unlisted):
    unlisted.tell(replies={'graceful': {'generation': 5}})
    told = run(folder, 'site.ini', 'graceful')
    assert told.code == 0, told.report()
    assert told.out.text == f'Generation 5 serves (process {unlisted.pid}).\n'


def test_stop_stops_a_site_without_a_pid_file(folder, unlisted):
    with begun(folder, 'site.ini', 'stop') as command:
        unlisted.wait_for_request('stop')
        unlisted.tell(answer={'exit_code': 0})
        unlisted.release()
        assert command.wait() == 0, command.report()
        assert command.out.text == 'The site has stopped.\n'
    assert run(folder, 'site.ini', 'status').code == 3


def test_stop_ends_a_site_without_a_pid_file_that_ignores_its_deadline(
    folder, unlisted
):
    unlisted.tell(status={'deadline': -4.5})
    told = run(folder, 'site.ini', 'stop')
    assert unlisted.process.wait(TIMEOUT) == -signal.SIGKILL
    assert told.code == 1
    assert f'Process {unlisted.pid} did not stop' in told.err.text
    assert run(folder, 'site.ini', 'status').code == 3


def test_stop_of_a_site_without_a_pid_file_that_does_not_answer(folder):
    with StandIn(folder, '--runtime', '--silent') as silent:
        told = run(folder, 'site.ini', 'stop')
        assert silent.process.wait(TIMEOUT) == -signal.SIGTERM
    assert (told.code, told.out.text) == (0, 'The site has stopped.\n')


def test_status_of_a_site_without_a_pid_file_that_does_not_answer(folder):
    with StandIn(folder, '--runtime', '--silent') as silent:
        code, told = status_json(folder)
    assert (code, told['state'], told['pid']) == (0, 'NO ANSWER', silent.pid)


#: A process that listens, and a child that outlives it and answers there.
LEFT = """
import json, os, socket
from paste_wspbus.unix.paths import address_of, runtime_folder
from paste_wspbus.control.register import Registration
entry = Registration(runtime_folder(), os.path.realpath('site.ini'))
entry.write(
    ini=os.path.abspath('site.ini'), file='', server='main', app='main',
    control=entry.control,
)
sock = socket.socket(socket.AF_UNIX)
with address_of(entry.control) as address:
    sock.bind(address)
sock.listen()
parent = os.getpid()
if os.fork():
    os._exit(0)
print(os.getpid(), flush=True)
while True:
    client, _ = sock.accept()
    if client.recv(1000):
        client.sendall(json.dumps({'version': 1, 'pid': parent}).encode() + b'\\n')
    client.close()
"""


def test_a_folder_that_others_may_write_to_is_not_believed(folder, unlisted, tmp_path):
    (tmp_path / 'runtime').chmod(0o722)
    for subcommand in ('status', 'stop', 'graceful'):
        told = run(folder, 'site.ini', subcommand)
        assert told.code == 4, told.report()
        (line,) = (told.out.text + told.err.text).splitlines()
        assert 'others can write to it (its mode is 0722)' in line
    assert unlisted.process.poll() is None


def test_a_folder_that_another_user_has_made_leaves_it_unknown_whether_a_site_runs():
    with Place() as place:
        made = place.folder / 'runtime' / 'paste_wspbus'
        made.mkdir(0o700)
        told = place.run('status')
        assert told.code == 4, told.report()
        assert told.out.text == (
            'It is not known whether the site runs: runtime/paste_wspbus cannot have control sockets: '
            'it belongs to another user (UID 0, not 65534)\n'
        )
        # Of a site with a PID file, it is known.
        assert place.run('status', '--pid-file=x.pid').code == 3


def test_stop_asks_the_system_and_not_the_site_which_process_it_is(folder, unlisted):
    """The site may have been broken into, and root would kill any process."""
    victim = subprocess.Popen(['sleep', '1000'])
    try:
        unlisted.tell(status={'pid': victim.pid, 'deadline': -4.5})
        told = run(folder, 'site.ini', 'stop')
        assert unlisted.process.wait(TIMEOUT) == -signal.SIGKILL
        assert f'Process {unlisted.pid} did not stop' in told.err.text
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


def test_stop_signals_nobody_where_only_a_child_of_the_site_is_left(folder):
    """Another process may have the number of the one that listened."""
    write(folder, {'left.py': LEFT})
    with Process([sys.executable, 'left.py'], folder) as left:
        eventually(lambda: left.out.text.count('\n') == 1)
        told = run(folder, 'site.ini', 'stop')
        assert told.code == 1
        assert 'the system does not name its process' in told.err.text
        os.kill(int(left.out.text), signal.SIGKILL)


def test_what_only_looks_makes_no_folder(folder, tmp_path):
    for subcommand in ('status', 'stop', 'graceful'):
        run(folder, 'site.ini', subcommand)
    assert os.listdir(tmp_path / 'runtime') == []
    assert sorted(os.listdir(tmp_path)) == ['runtime', 'site']


# -- sites that run -------------------------------------------------------------------

WAYS = [(), ('--workers=1',), ('--reload', '--reloader=execv'), ('--pid-file=x.pid',)]


@pytest.mark.parametrize('way', WAYS)
def test_a_site_in_the_foreground_is_found_from_elsewhere(ground, tmp_path, way):
    (tmp_path / 'elsewhere').mkdir()
    config = str(ground.folder / 'site.ini')
    with ground.begin('site.ini', *way) as site:
        site.wait_until_served()
        told = run(tmp_path / 'elsewhere', config, 'status')
        assert told.code == 0, told.report()
        assert f'The site is running (process {site.pid})' in told.out.text
        assert run(tmp_path / 'elsewhere', config, 'graceful').code == 0
        assert run(tmp_path / 'elsewhere', config, 'status').code == 0
        assert run(tmp_path / 'elsewhere', config, 'stop').code == 0
        assert site.wait() == 0, site.report()
    assert run(tmp_path / 'elsewhere', config, 'status').code == 3


def test_a_daemon_is_found_from_elsewhere_and_has_one_pid_file(ground, tmp_path):
    (tmp_path / 'elsewhere').mkdir()
    config = str(ground.folder / 'site.ini')
    ground.start()
    first = ground.pid
    assert f'process {first}' in run(tmp_path / 'elsewhere', config, 'start').out.text
    told = run(tmp_path / 'elsewhere', config, 'restart')
    assert told.code == 0, told.report()
    eventually(lambda: has_ended(first))
    assert ground.pid != first  # it has the same PID file, and the same log
    os.kill(ground.pid, signal.SIGHUP)
    ground.find_url(told)
    eventually(lambda: ground.log.count('Serving on') == 3)
    assert run(tmp_path / 'elsewhere', config, 'stop').code == 0
    assert os.listdir(tmp_path / 'elsewhere') == []
    assert ground.has_left_nothing()


def test_a_killed_daemon_is_dead_from_elsewhere_too(ground, tmp_path):
    (tmp_path / 'elsewhere').mkdir()
    ground.start()
    kill(ground.pid)
    told = run(tmp_path / 'elsewhere', ground.folder / 'site.ini', 'status')
    assert (told.code, 'is gone' in told.out.text) == (1, True), told.report()


def test_a_pid_file_that_another_site_has_now_says_nothing_of_the_first(
    ground, tmp_path
):
    (tmp_path / 'elsewhere').mkdir()
    ground.start()
    kill(ground.pid)
    write(ground.folder, {'other.ini': ini()})
    assert ground.run('other.ini', 'start').code == 0
    for name, code in (('site.ini', 3), ('other.ini', 0)):
        told = run(tmp_path / 'elsewhere', ground.folder / name, 'status')
        assert told.code == code, told.report()


def test_a_killed_site_without_a_pid_file_does_not_run(ground):
    with ground.begin('site.ini') as site:
        site.wait_until_served()
        kill(site.pid)
    assert ground.run('site.ini', 'status').code == 3
    with ground.begin('site.ini') as again:
        again.wait_until_served()
        assert status_json(ground.folder)[1]['pid'] == again.pid


def test_of_two_sites_of_one_ini_the_named_one_is_stopped(ground):
    write(ground.folder, {'site.ini': TWO})
    names = ['--server-name=web0'], ['--server-name=web1']
    with ground.begin('site.ini', *names[0]) as web0:
        with ground.begin('site.ini', *names[1]) as web1:
            web0.wait_until_served()
            web1.wait_until_served()
            for site, name in ((web0, names[0]), (web1, names[1])):
                told = ground.run('site.ini', 'status', *name)
                assert f'process {site.pid}' in told.out.text, told.report()
            told = ground.run('site.ini', 'stop')
            assert told.code == 4, told.report()
            assert '--server-name' in told.err.text
            told = ground.run('site.ini', 'status')
            start = 'It is not known which site is meant: process '
            assert told.code == 4 and told.out.text.startswith(start)
            assert ' and process ' in told.out.text, told.report()
            assert ' run site.ini: say by --server-name or' in told.out.text
            assert ground.run('site.ini', 'stop', *names[1]).code == 0
            assert web1.wait() == 0
        told = ground.run('site.ini', 'status', *names[1])
        assert told.code == 3
        assert f'process {web0.pid} [server:web0]' in told.out.text
        assert ground.run('site.ini', 'stop', *names[1]).code == 0
        assert web0.process.poll() is None


def test_of_two_sites_of_one_ini_the_one_with_its_pid_file_is_meant(ground):
    """Whoever starts it with n=2 says n=2 to a subcommand, too."""
    ini = f'[DEFAULT]\nn = 1\n[wspbus:main]\npid_file = %(n)s.pid\n{TWO}'
    ini = ini.replace('server:web0', 'server:main')
    write(ground.folder, {'site.ini': ini})
    with ground.begin('site.ini') as one, ground.begin('site.ini', 'n=2') as two:
        one.wait_until_served()
        two.wait_until_served()
        for words, site in ([], one), (['n=2'], two):
            told = ground.run('site.ini', 'status', *words)
            assert f'process {site.pid}' in told.out.text, told.report()
        told = ground.run('site.ini', 'status', 'n=3')
        assert 'not known which site is meant: ' in told.out.text, told.report()
        assert ground.run('site.ini', 'stop', 'n=2').code == 0
        assert two.wait() == 0
        assert one.process.poll() is None


def test_a_daemon_of_another_section_keeps_its_pid_file(ground):
    write(ground.folder, {'site.ini': TWO})
    assert ground.run('site.ini', 'start', '--server-name=web0').code == 0
    first = ground.pid
    for subcommand in ('start', 'restart'):
        for file in ((), ('--pid-file=paster.pid',)):
            told = ground.run('site.ini', subcommand, '--server-name=web1', *file)
            assert told.code != 0, told.report()
            assert 'paster.pid is that of [server:web0]' in told.err.text
    assert ground.pid == first
    assert ground.run('site.ini', 'status', '--server-name=web1').code == 3
    assert ground.run('site.ini', 'stop').code == 0


def test_a_daemon_of_another_ini_is_not_stopped(ground):
    ground.start()
    write(ground.folder, {'other.ini': ini()})
    told = ground.run('other.ini', 'stop')
    assert (told.code, 'paster.pid is that of site.ini' in told.out.text) == (0, True)
    assert ground.run('other.ini', 'restart').code == 1
    assert ground.get() == f'hello {ground.pid}'


def test_start_of_a_site_that_runs_in_the_foreground_says_so(ground):
    with ground.begin('site.ini') as site:
        site.wait_until_served()
        told = ground.run('site.ini', 'start')
        line = f'The site is running already (process {site.pid}).\n'
        assert (told.code, told.out.text) == (0, line)
        told = ground.run('site.ini', 'restart')
        assert told.code == 1
        assert 'without a PID file' in told.err.text
    assert not ground.pid_file.exists()


def test_a_site_that_is_found_by_the_link_of_a_deployment(ground, tmp_path):
    releases = [tmp_path / '1', tmp_path / '2']
    for release in releases:
        write(release, {'site.ini': ini(), 'webapp.py': WEBAPP})
    link = tmp_path / 'current'
    link.symlink_to(releases[0])
    with Site(tmp_path, None, link / 'site.ini') as site:
        link.unlink()
        link.symlink_to(releases[1])
        for config in (link / 'site.ini', *(one / 'site.ini' for one in releases)):
            told = run(tmp_path, config, 'status')
            assert f'process {site.pid}' in told.out.text, told.report()


# -- several users --------------------------------------------------------------------


def test_root_finds_the_site_that_it_has_started_as_another_user():
    with Place() as place:
        python, path = python_for_all()
        where = {'command': [python, '-m', 'paste_wspbus'], 'env': {'PYTHONPATH': path}}
        with Site(place.folder, None, 'site.ini', *AS_NOBODY, **where) as site:
            told = run(place.folder, 'site.ini', 'status')
            assert f'process {site.pid}' in told.out.text, told.report()
            assert run(place.folder, 'site.ini', 'stop').code == 0
            assert site.wait() == 0
        assert run(place.folder, 'site.ini', 'status').code == 3


UNSHARED = """
import ctypes, os, sys
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x00020000, 16384, 1 << 18
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(CLONE_NEWNS):
    sys.exit(99)
assert not libc.mount(None, b'/', None, MS_REC | MS_PRIVATE, None)
assert not libc.mount(b'none', b'/run', b'tmpfs', 0, None)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_a_site_in_another_mount_namespace_is_not_said_not_to_run():
    """As with PrivateTmp=yes."""
    with Place() as place:
        env = {'env': {'RUNTIME_DIRECTORY': ''}}
        words = [sys.executable, '-c', UNSHARED, BIN / 'wspserve']
        with Site(place.folder, None, 'site.ini', command=words, **env) as site:
            for subcommand in ('status', 'stop', 'graceful'):
                told = run(place.folder, 'site.ini', subcommand, **env)
                assert told.code == 4, told.report()
                assert 'cannot see it' in told.out.text + told.err.text
            write(place.folder, {'other/site.ini': ini()})
            assert run(place.folder, 'other/site.ini', 'status', **env).code == 3
            assert site.stop()[0] == 0
        assert run(place.folder, 'site.ini', 'status', **env).code == 3


def test_a_site_that_can_have_no_entry_is_not_said_not_to_run():
    """Its user may write nowhere where entries are."""
    with Place() as place:
        words = place._words()
        # The TMPDIR is root's, and so is that of the commands, which differs.
        words['env'].update(XDG_RUNTIME_DIR='')
        for mode in ([], ['--workers=1']):
            with Site(place.folder, None, 'site.ini', *mode, **words) as site:
                eventually(lambda site=site: 'only with --pid-file' in site.err.text)
                for subcommand, code in (('status', 4), ('stop', 4)):
                    for told in (
                        place.run(subcommand),
                        run(place.folder, 'site.ini', subcommand),
                    ):
                        assert told.code == code, told.report()
                        text = told.out.text + told.err.text
                        assert 'has no folder for its entry' in text
                assert site.stop()[0] == 0
        assert place.run('status').code == 3


def test_a_site_whose_control_socket_has_no_folder_is_not_said_to_be_starting(tmp_path):
    found = finding.why(
        NoAnswer(f'{tmp_path}/no/x.sock', 'it is not there', ENOENT), None
    )
    assert found == f'there is no folder {tmp_path}/no for its control socket'
    found = finding.why(NoAnswer(f'{tmp_path}/x.sock', 'it is not there', ENOENT), None)
    assert found == 'it is still starting, or it hangs'


@pytest.mark.parametrize(
    ('mode', 'files'),
    [
        ([], []),
        ([], ['--pid-file=x.pid']),
        (['--workers', '1'], ['--pid-file=x.pid']),
        (['--reload'], []),
    ],
)
def test_a_site_whose_control_socket_was_removed_is_not_said_to_be_starting(
    folder, mode, files
):
    write(folder, {'site.ini': ini(), 'webapp.py': WEBAPP})
    with Site(folder, None, 'site.ini', *files, *mode) as site:
        path = control_of(folder, *files)
        path.unlink()
        why = f'{path.name} is missing: send it SIGHUP, or stop it'
        for subcommand, code in (
            ('status', 0),
            ('graceful', 1),
            ('drain', 1),
            ('timeline', 1),
            ('start', 1),
        ):
            told = run(folder, 'site.ini', subcommand, *files)
            text = told.out.text + told.err.text
            assert f'The site is running (process {site.process.pid}), but' in text
            assert why in text, text
            assert told.code == code, told.report()
        site.send(signal.SIGHUP)
        eventually(path.exists)
        assert site.err.wait_for(f'{path.name} was missing: it is bound again')
        assert path.stat().st_mode & 0o777 == 0o600
        site.out.wait_for('Serving on', 2 if mode == [] else 1)
        for subcommand in ('status', 'drain', 'graceful', 'stop'):
            told = run(folder, 'site.ini', subcommand, *files)
            assert told.code == 0, told.report()
        assert site.wait() == 0, site.report()
        assert not path.exists()


def link_to_nothing(path):
    path.symlink_to('nothing')


@pytest.mark.parametrize('replace', [os.mkfifo, os.mkdir, link_to_nothing, Path.touch])
@pytest.mark.parametrize('files', [[], ['--pid-file=x.pid']])
def test_a_site_whose_control_socket_was_replaced_is_not_said_to_be_starting(
    folder, replace, files
):
    write(folder, {'site.ini': ini(), 'webapp.py': WEBAPP})
    with Site(folder, None, 'site.ini', *files) as site:
        path = control_of(folder, *files)
        path.unlink()
        replace(path)
        why = f'{path.name}: remove that file, then send it SIGHUP, or stop it'
        for subcommand, code in (('status', 0), ('graceful', 1), ('start', 1)):
            told = run(folder, 'site.ini', subcommand, *files)
            assert why in told.out.text + told.err.text, told.report()
            assert told.code == code, told.report()
        assert site.get().status == 200
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
        site.send(signal.SIGHUP)
        assert site.err.wait_for(f'{path.name} was missing: it is bound again')
        site.out.wait_for('Serving on', 2)
        assert run(folder, 'site.ini', 'stop', *files).code == 0
        assert site.wait() == 0, site.report()


def control_of(folder, *files):
    answer = status_json(folder, *files)[1]
    assert answer['state'] == 'STARTED'
    listed = json.loads(run(folder, 'ps', '--json').out.text)
    (control,) = [one['control'] for one in listed if one['pid'] == answer['pid']]
    return Path(control)


def replace_by_link(path):
    path.with_name('other').touch()
    path.symlink_to('other')


def test_a_command_without_descriptors_does_not_say_that_the_site_does_not_run(folder):
    """It finds the site by its entry alone, and cannot open that."""
    write(folder, {'site.ini': ini(), 'webapp.py': WEBAPP})
    with Site(folder, None, 'site.ini') as site:
        codes = set()
        for number in range(5, 16):
            limited = f'ulimit -n {number}; exec "$0" "$@"'
            words = ['bash', '-c', limited, BIN / 'wspserve']
            told = run(folder, 'site.ini', 'status', command=words)
            codes.add(told.code)
            assert told.code != 4 or 'too many open files' in str(told.report())
        assert codes == {0, 4}
        assert site.stop()[0] == 0, site.report()


@pytest.mark.parametrize(
    ('replace', 'files'),
    [
        (lambda path: None, ['--pid-file=x.pid']),
        (lambda path: None, []),
        (replace_by_link, ['--pid-file=x.pid']),
        (os.mkdir, []),
        (os.mkfifo, []),
        (lambda path: path.write_text('secret'), ['--pid-file=x.pid']),
    ],
)
def test_a_site_whose_lock_was_removed_or_replaced_is_found(folder, replace, files):
    write(folder, {'site.ini': ini(), 'webapp.py': WEBAPP})
    lock = folder / ('x.pid.lock' if files else 'paster.pid.lock')
    start = ['site.ini', '--daemon', f'--pid-file={lock.stem}', '--log-file=x.log']
    assert run(folder, *start).code == 0
    pid = int(lock.with_suffix('').read_text())
    try:
        lock.unlink()
        replace(lock)
        is_there = os.path.lexists(lock)
        told = run(folder, 'site.ini', 'status', *files)
        assert told.code == 0, told.report()
        assert f'The site is running (process {pid}), for' in told.out.text
        told = run(folder, 'site.ini', 'start', *files)
        assert told.code == 0, told.report()
        assert told.out.text == f'The site is running already (process {pid}).\n'
        told = run(folder, 'site.ini', 'restart', *files)
        assert told.code == 1, told.report()
        assert f'{lock.name} is not its lock any more: stop it' in told.err.text
        assert run(folder, 'site.ini', 'graceful', *files).code == 0
        assert run(folder, 'site.ini', 'stop', *files).code == 0
        assert has_ended(pid)
    finally:
        if not has_ended(pid):
            kill(pid)
    told = run(folder, 'site.ini', 'status', *files)
    assert told.code == (4 if is_there else 3), told.report()
    assert ('if nothing uses it, remove it' in told.out.text) is is_there


def test_stop_does_not_stop_who_listens_in_the_place_of_a_site_without_its_lock(
    folder, tmp_path
):
    with StandIn(folder) as site, StandIn(tmp_path, '--runtime') as other:
        (folder / 'paster.pid.lock').unlink()
        (folder / 'paster.pid.sock').unlink()
        (control,) = {
            one['control']
            for one in json.loads(run(folder, 'ps', '--json').out.text)
            if one['pid'] == other.pid
        }
        os.link(control, folder / 'paster.pid.sock')
        other.tell(status={'deadline': -4.5})
        run(folder, 'site.ini', 'stop')
        assert has_ended(site.pid)
        assert not has_ended(other.pid)


def test_a_site_with_another_runtime_folder_is_not_said_not_to_run(folder, tmp_path):
    elsewhere = tmp_path / 'elsewhere'
    elsewhere.mkdir(0o700)
    write(folder, {'site.ini': ini(), 'webapp.py': WEBAPP})
    env = {'env': {'RUNTIME_DIRECTORY': str(elsewhere)}}
    with Site(folder, None, 'site.ini', **env) as site:
        told = run(folder, 'site.ini', 'stop')
        assert told.code == 4, told.report()
        assert told.err.text.startswith('It is not known whether the site runs: a proc')
        assert 'where this command does not look' in told.err.text
        for subcommand, what in (('start', ''), ('restart', ', and stops no other')):
            told = run(folder, 'site.ini', subcommand)
            assert told.code == 0, told.report()
            assert told.err.text.startswith('It is not known whether the site runs: ')
            assert f'. `{subcommand}` starts it now{what}' in told.err.text
            assert run(folder, 'site.ini', 'stop').code == 0
        assert run(folder, 'site.ini', 'stop', **env).code == 0
        assert site.wait() == 0


def test_another_user_is_not_told_that_the_site_of_root_does_not_run():
    with Place() as place:
        with Site(
            place.folder, None, 'site.ini', env={'RUNTIME_DIRECTORY': ''}
        ) as site:
            for subcommand, code in (('status', 0), ('stop', 4), ('graceful', 1)):
                told = place.run(subcommand)
                assert told.code == code, told.report()
                assert f'process {site.pid}' in told.out.text + told.err.text
        assert place.run('status').code == 3


def test_during_a_restart_there_is_always_one_site(ground, tmp_path):
    (tmp_path / 'elsewhere').mkdir()
    ground.start()
    answers = []
    with ground.begin('site.ini', 'restart') as restart:
        while restart.process.poll() is None:
            answers.append(
                run(tmp_path / 'elsewhere', ground.folder / 'site.ini', 'status')
            )
        assert restart.wait() == 0, restart.report()
    assert {one.code for one in answers} == {0}, [one.report() for one in answers]
    ground.stop()


@pytest.mark.parametrize(
    ('holders', 'states', 'expected'),
    [
        # The process before has ended, and the next one has registered meanwhile.
        ([1, 2, 2], ['NOT RUNNING', 'RUNNING'], 'RUNNING'),
        ([1, 1], ['NOT RUNNING'], 'NOT RUNNING'),
        ([1], ['RUNNING'], 'RUNNING'),
        ([*range(10)], ['NOT RUNNING'] * 5, 'NOT RUNNING'),  # it does not look for ever
    ],
)
def test_that_nothing_runs_counts_if_no_process_has_taken_over_meanwhile(
    holders, states, expected, monkeypatch
):
    holders, states = iter(holders), iter(states)
    monkeypatch.setattr(finding, '_holders', lambda options: next(holders))
    monkeypatch.setattr(
        finding, '_find_now', lambda *args: finding.Found(next(states), '', None)
    )
    assert finding.find(None).state == expected
    assert next(states, None) is None


@pytest.mark.parametrize('what', ['nothing', 'folder', 'FIFO'])
def test_whether_a_site_runs_is_not_known_while_its_lock_is_held_without_an_entry(
    tmp_path, monkeypatch, what
):
    (tmp_path / 'xdg').mkdir(mode=0o700)
    monkeypatch.setenv('RUNTIME_DIRECTORY', str(tmp_path / 'xdg'))
    args = ('--pid-file', str(tmp_path / 'own.pid'))
    with Site(tmp_path, ini(), *args, files={'webapp.py': WEBAPP}) as site:
        eventually(lambda: [*(tmp_path / 'xdg').glob('*.json')])
        for path in (tmp_path / 'xdg').glob('*.json'):
            path.unlink()
            if what == 'folder':
                path.mkdir()
            elif what == 'FIFO':
                os.mkfifo(path)
        told = run(tmp_path, 'site.ini', 'status')
        assert told.code == 4, told.report()
        assert 'its entry beside it is gone' in told.out.text + told.err.text
        assert site.stop()[0] == 0, site.report()
    assert run(tmp_path, 'site.ini', 'status').code == 3

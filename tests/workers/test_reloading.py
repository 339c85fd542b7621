"""--reload: an edit is served at once, or its traceback is; no request is refused."""

import json
import os
import re
import shutil
import signal
import sys
import time

import pytest

from paste_wspbus.unix.cpus import cpu_count
from paste_wspbus.workers.reloading import QUIET
from tests.kit import Site, eventually, free_port, is_free, run, write
from tests.kit.processes import processes_of_session
from tests.kit.reloading import INI, Edited, Polls, each_reloader, reloads, stop, webapp
from tests.kit.supervised import UNKNOWN_SERVER, said

# -- an edit ---------------------------------------------------------------------------

SERVERS = {
    'waitress': INI,
    'cheroot': INI.replace('egg:waitress', 'egg:paste_wspbus#cheroot'),
    'paste': INI.replace('egg:waitress', 'egg:Paste#http'),
    'wsgiref': INI.replace('egg:waitress', 'egg:paste_wspbus#wsgiref'),
}


@each_reloader
@pytest.mark.parametrize('server', SERVERS)
def test_an_edit_is_served_and_nobody_is_refused_meanwhile(tmp_path, server, reloader):
    args = ['--reloader', reloader]
    with Edited(tmp_path, *args, ini=SERVERS[server]) as site:
        first = site.ask()
        with Polls(site) as polls:
            second = site.edit('the second')
            # Before that, another edit belongs to this reload; and whoever has connected
            # before an edit may get the code after it.
            site.expect('served in')
            eventually(lambda: polls.texts[-1] == 'the second')
            third = site.edit('the third version')
            eventually(lambda: polls.texts[-1] == 'the third version')
        assert polls.failures == []
        assert polls.texts == ['one', 'the second', 'the third version']
        site.expect('served in', 2)
        assert len(reloads(site)) == len(said(site.err.text).splitlines()) / 2 == 2
        pids = {answer['pid'] for answer in polls.answers}
        if reloader == 'execv':
            assert pids == {site.pid}
        else:
            assert pids == {first['pid'], second['pid'], third['pid']}
            assert len(pids) == 3
        stop(site)


@each_reloader
def test_all_workers_get_an_edit_and_nobody_is_refused_meanwhile(tmp_path, reloader):
    with Edited(tmp_path, '--reloader', reloader, '--workers', '2') as site:
        before = pids_of(site)
        with Polls(site) as polls:
            site.edit('the second')
            eventually(lambda: len(pids_of(site, 'the second')) == 2)
        assert polls.failures == []
        site.expect('served in')
        assert polls.texts == ['one', 'the second']
        after = pids_of(site)
        assert after == before if reloader == 'execv' else not after & before
        assert len(reloads(site)) == len(said(site.err.text).splitlines()) / 2 == 1
        stop(site)


def pids_of(site, text=None):
    """The processes of both workers, those that answer with ``text``."""
    found = {}
    for _ in range(1000):
        answer = site.ask()
        found[answer['pid']] = answer['text']
        if len(found) == 2:
            break
    return {pid for pid, said in found.items() if text in (None, said)}


@each_reloader
def test_an_edit_is_served_by_a_server_that_binds_by_itself(tmp_path, reloader):
    ini = INI.replace('egg:waitress', 'call:server:make')
    ini = ini.replace('port = 0', f'port = {free_port()}')
    files = {'server.py': UNKNOWN_SERVER}
    with Edited(tmp_path, '--reloader', reloader, ini=ini, files=files) as site:
        assert site.ask()['text'] == 'one'
        for count, text in enumerate(['the second', 'the third version'], 2):
            # Before, its failure to bind would be one to start.
            site.save(webapp(text))
            site.wait_until_served(count)
            assert site.ask()['text'] == text
            site.expect('served in', count - 1)  # an edit before would be the same's
        stop(site)


def test_two_saves_in_one_second_are_both_served(tmp_path):
    with Edited(tmp_path) as site:
        for text in ('two', 'six', 'ten', 'six'):
            site.edit(text)
        stop(site)


def test_the_terminal_says_which_file_and_how_long_it_took(tmp_path):
    files = {'other.py': '', 'webapp.py': webapp('one', top='import other')}
    with Edited(tmp_path, files=files) as site:
        site.edit('the second', top='import other')
        site.expect('served in')
        took = int(re.search(r'served in (\d+) ms', site.err.text)[1])
        assert 0 < took < 60_000
        site.save('X = 1', 'other.py')
        site.expect('other.py has changed\nserved in')
        err = stop(site)
    assert [re.sub(r'\d+', 'N', line) for line in err.splitlines()] == [
        'webapp.py has changed',
        'served in N ms',
        'other.py has changed',
        'served in N ms',
    ]


@each_reloader
def test_quiet_says_nothing_of_a_reload(tmp_path, reloader):
    ini = INI.replace('port = 0', f'port = {free_port()}')
    args = ['--quiet', '--reloader', reloader]
    with Edited(tmp_path, *args, ini=ini, wait=False) as site:
        site.url = f'http://127.0.0.1:{port_of(ini)}'
        eventually(lambda: not is_free(site.port))
        site.edit('the second')
        assert stop(site) == ''
        assert site.out.text == ''


def port_of(ini):
    return re.search(r'^port = (\d+)$', ini, re.M)[1]


def test_a_burst_of_500_files_is_one_reload(tmp_path):
    (tmp_path / 'many').mkdir()
    names = [f'many/m{number}.py' for number in range(500)]
    files = dict.fromkeys(names, 'X = 1\n')
    files['many/__init__.py'] = """
        import importlib
        for number in range(500):
            importlib.import_module(f'many.m{number}')
    """
    files['webapp.py'] = webapp('one', top='import many')
    with Edited(tmp_path, files=files) as site:
        site.settle()
        pauses, before = 0, time.monotonic()
        with Polls(site) as polls:
            for name in names:  # in place, as git writes them
                (tmp_path / name).write_text('X = 22\n')
                pauses += time.monotonic() - before > QUIET
                before = time.monotonic()
            site.edit('the second', top='import many')
            pauses += time.monotonic() - before > QUIET
            site.expect('served in')
        assert polls.failures == []
        assert polls.texts == ['one', 'the second']
        err = stop(site)
    # One burst, and one more for each time that this process was kept from writing.
    assert len(err.splitlines()) <= 2 + pauses
    assert re.search(r'\S+\.py and \d+ others have changed\nserved in', err)


@pytest.mark.parametrize('reloader', ['fork', 'execv'])
def test_a_save_every_20_ms_is_served_in_the_end_and_nobody_is_refused(
    tmp_path, reloader
):
    with Edited(tmp_path, '--reloader', reloader) as site:
        with Polls(site) as polls:
            until, count = time.monotonic() + 2, 0
            while time.monotonic() < until:
                count += 1
                site.save(webapp(f'version {count}'))
                time.sleep(0.02)
            site.until(f'version {count}')
        assert polls.failures == []
        assert len(polls.texts) > 1
        stop(site)


def gated(text, name='gate'):
    """A version whose import waits until the test opens the gate."""
    lines = f"""
os.write(2, b'composing\\n')
with open({name!r}) as gate:
    gate.read()
"""
    return webapp(text, top=lines)


def open_gate(folder, name='gate'):
    with open(folder / name, 'w'):
        pass


def test_an_edit_during_a_reload_is_served_and_the_slow_one_is_abandoned(tmp_path):
    os.mkfifo(tmp_path / 'gate')
    with Edited(tmp_path) as site:
        site.save(gated('the second'))  # its gate stays shut
        site.expect('composing')
        site.edit('the third version')
        site.expect('served in')
        assert len(reloads(site)) == 1
        site.settle()
        stop(site)


@each_reloader
def test_an_edit_while_the_site_starts_is_served(tmp_path, reloader):
    os.mkfifo(tmp_path / 'gate')
    files = {'webapp.py': gated('one')}
    with Edited(tmp_path, '--reloader', reloader, files=files, wait=False) as site:
        site.expect('composing')
        site.save(webapp('the second'))
        open_gate(tmp_path)
        site.wait_until_served()
        site.until('the second')
        stop(site)


WAITS = """
def wait(environ):
    os.write(2, b'waiting\\n')
    open('gate').close()


PAGES['/wait'] = wait
"""
TELLS = "bus.subscribe('drain', lambda: os.write(2, b'draining\\n'))"


def test_a_request_in_flight_gets_its_answer_from_the_old_code(tmp_path):
    os.mkfifo(tmp_path / 'gate')
    files = {'webapp.py': webapp('one', body=TELLS) + WAITS}
    with Edited(tmp_path, files=files) as site:
        with site.connect() as slow:
            slow.send('/wait', connection='close')
            site.expect('waiting')
            site.save(webapp('the second'))
            site.expect('draining')
            open_gate(tmp_path)
            assert json.loads(slow.receive().body)['text'] == 'one'
        site.until('the second')
        stop(site)


def test_what_does_not_stop_is_killed_and_the_edit_is_served(tmp_path):
    body = "bus.subscribe('stop', lambda: __import__('time').sleep(60))"
    with Edited(tmp_path, files={'webapp.py': webapp('one', body=body)}) as site:
        site.edit('the second')
        stop(site)


# -- what is watched -------------------------------------------------------------------

WATCHED = {
    'webapp.py': webapp(
        'one',
        top='import hupper\nfrom paste import reloader\n',
        body="""
    bus.publish('watch', 'templates')
    hupper.get_reloader().watch_files(['hupper.txt'])
    reloader.watch_file('paste.txt')
""",
    ),
    'site.ini': INI.replace('call:webapp:make', 'config:parts/other.ini')
    + """
[pserve]
watch_files =
    conf/limits.yaml
    conf/*.log
ignore_files = *.log
""",
    'parts/other.ini': """
[app:main]
use = call:webapp:make
""",
    'late.py': '',
    'hupper.txt': '',
    'paste.txt': '',
    'conf/limits.yaml': '',
    'conf/site.log': '',
    'templates/page.pt': '',
}


@pytest.mark.parametrize('reloader', ['fork', 'execv'])
def test_all_that_a_site_is_made_of_is_watched(tmp_path, reloader):
    args = ['--reloader', reloader]
    with Edited(tmp_path, *args, ini=WATCHED['site.ini'], files=WATCHED) as site:
        names = ['late.py', 'early.txt', 'site.ini', 'hupper.txt', 'paste.txt']
        names += ['conf/limits.yaml', 'parts/other.ini', 'templates/page.pt']
        names += ['templates/new.pt', 'brand_new.py']
        for name in names:
            (tmp_path / 'conf/site.log').write_text(name)  # this one is not
            site.get('/import?late')
            site.get('/watch?early.txt')
            path = tmp_path / name
            path.write_text((path.read_text() if path.exists() else '') + '\n#\n')
            site.expect(f'{path.name} has changed\nserved in')
        count = site.err.text.count('served in')
        assert count == len(names)
        shutil.rmtree(tmp_path / 'templates')
        site.expect('served in', count + 1)
        site.until('one')
        seen = len(site.err.text)
        write(tmp_path, {'templates/page.pt': 'again'})
        eventually(lambda: 'templates' in site.err.text[seen:])
        site.until('one')
        assert 'site.log' not in stop(site)


@each_reloader
def test_the_ini_is_read_anew_with_what_it_includes(tmp_path, reloader):
    files = {**WATCHED, 'webapp.py': webapp('one')}
    files['second.py'] = webapp('the second')
    args = ['--reloader', reloader]
    with Edited(tmp_path, *args, ini=files['site.ini'], files=files) as site:
        site.save(
            files['parts/other.ini'].replace('webapp', 'second'), 'parts/other.ini'
        )
        site.until('the second')
        site.save(INI, 'site.ini')
        site.until('one')
        stop(site)


@pytest.mark.parametrize('reloader', ['fork', 'child'])
def test_a_typo_of_the_server_is_told_as_what_it_is(tmp_path, reloader):
    with Edited(tmp_path, '--reloader', reloader) as site:
        site.until('one')
        site.save(INI.replace('egg:waitress', 'egg:waitres'), 'site.ini')
        line = "[server:main] use: egg:waitres: the distribution 'waitres' is not installed"
        site.expect(f'site.ini {line}')
        site.save(INI, 'site.ini')
        site.edit('two')
        stop(site)


def test_an_ini_is_read_anew_without_a_spare(tmp_path):
    files = {'second.py': webapp('the second')}
    with Edited(tmp_path, files=files) as site:
        site.settle()
        spare = site.workers('spare')[0]
        os.kill(spare, signal.SIGKILL)
        eventually(lambda: spare not in site.processes())
        site.save(INI.replace('webapp', 'second'), 'site.ini')
        site.until('the second')
        stop(site)


# -- what does not start ------------------------------------------------------------------

BROKEN = {
    'syntax': ('def (:\n', 'SyntaxError'),
    'module': (webapp('two', top='import not_there'), 'ModuleNotFoundError'),
    'factory': (webapp('two', body='1 / 0'), 'ZeroDivisionError'),
    'start': (
        webapp('two', body="bus.subscribe('start', lambda: 1 / 0)"),
        'ZeroDivisionError',
    ),
    'exit': (webapp('two', top='sys.exit(3)'), '3'),
    'dies': (webapp('two', top='os._exit(3)'), 'exit code 3'),
    'killed': (webapp('two', top='os.kill(os.getpid(), 9)'), 'SIGKILL'),
    'daemon': (webapp('two', top='if os.fork(): os._exit(0)'), 'daemon'),
}
each_mistake = pytest.mark.parametrize('mistake', BROKEN)


@each_mistake
def test_what_does_not_start_shows_why_and_heals_at_the_next_save(tmp_path, mistake):
    broken, word = BROKEN[mistake]
    with Edited(tmp_path) as site:
        site.save(broken)
        page = site.until_broken(word)
        assert page.headers['content-type'].startswith('text/html')
        site.expect('webapp.py has changed\n')
        site.expect('the site cannot be served')
        assert word in site.err.text
        site.edit('the second')
        site.expect('served in')
        site.settle()
        eventually(lambda: len(site.processes()) == 4)
        code = site.stop(signal.SIGINT)[0]
        assert (code, processes_of_session(site.pid)) == (0, [])


@pytest.mark.parametrize('reloader', ['child', 'execv'])
def test_mistakes_in_a_row_are_shown_and_mended(tmp_path, reloader):
    names = ['syntax', 'module', 'factory', 'start', 'exit']
    names += ['dies'] if reloader == 'child' else []
    with Edited(tmp_path, '--reloader', reloader) as site:
        with Polls(site) as polls:
            for name in names:
                broken, word = BROKEN[name]
                site.save(broken)
                site.until_broken(word)
            assert site.edit('mended')['pid'] == site.pid or reloader == 'child'
        assert all(isinstance(one, AssertionError) for one in polls.failures)
        assert site.stop(signal.SIGINT)[0] == 0
        assert processes_of_session(site.pid) == []


@each_reloader
@pytest.mark.parametrize('mistake', ['syntax', 'start'])
def test_a_first_start_that_fails_shows_why_and_heals(tmp_path, mistake, reloader):
    broken, word = BROKEN[mistake]
    files = {'webapp.py': broken}
    with Edited(tmp_path, '--reloader', reloader, files=files) as site:
        assert word in site.until_broken(word).text
        assert word in site.err.text
        site.edit('mended')
        assert site.stop(signal.SIGINT)[0] == 0
        assert processes_of_session(site.pid) == []


MISTAKES = [
    (INI.replace('call:webapp', 'call:not_there'), 'not_there'),
    (INI + '[wspbus:main]\nworkesr = 1\n', 'workesr'),
    (INI + '[wspbus:main]\nplugins = nothing\n', 'nothing'),
    ('this is no ini\n' + INI, 'this is no ini'),
]


@pytest.mark.parametrize('reloader', ['fork', 'child'])
def test_a_mistake_in_the_ini_is_shown_and_heals(tmp_path, reloader):
    with Edited(tmp_path, '--reloader', reloader) as site:
        for mistake, word in MISTAKES:
            site.save(mistake, 'site.ini')
            site.until_broken(word)
            assert word in site.err.text
            site.save(INI, 'site.ini')
            site.until('one')
        assert site.stop(signal.SIGINT)[0] == 0
        assert processes_of_session(site.pid) == []


@each_reloader
def test_a_first_start_with_a_mistake_in_the_ini_is_refused(tmp_path, reloader):
    mistake, word = MISTAKES[1]
    args = ['site.ini', '--reload', '--reloader', reloader]
    process = run(tmp_path, *args, files={'site.ini': mistake})
    assert process.code == 2
    assert word in process.err.text


def test_sockets_stay_where_they_are_and_the_terminal_says_so(tmp_path):
    with Edited(tmp_path) as site:
        site.settle()
        port = free_port()
        site.save(INI.replace('port = 0', f'port = {port}'), 'site.ini')
        site.expect(f'start it again; until then {site.url} stays')
        site.expect('served in')
        site.edit('the second')
        assert is_free(port)
        assert site.stop(signal.SIGINT)[0] == 0


def test_a_mistake_in_the_ini_does_not_end_a_site_that_replaces_itself(tmp_path):
    with Edited(tmp_path, '--reloader', 'execv') as site:
        for count, (mistake, word) in enumerate(MISTAKES, 1):
            site.save(mistake, 'site.ini')
            site.expect(word)
            site.save(INI + f'# {word}\n', 'site.ini')
            site.expect('served in', count)  # by the new program, which has read it
        assert site.stop(signal.SIGINT)[0] == 0


def test_a_site_that_crashes_shows_how_and_heals(tmp_path):
    with Edited(tmp_path) as site:
        for count in (1, 2):
            with pytest.raises(ConnectionError):
                site.get('/exit3')
            site.until_broken('exit code 3')
            site.edit('mended')
            site.expect('served in', count)  # the supervisor knows that it is ready
        assert site.err.text.count('crashed, exit code 3') >= 2
        stop(site)


#: A wspserve whose supervisor can start no process as long as there is a file.
POOR = """
import os
import sys

from paste_wspbus.__main__ import main
from paste_wspbus.workers import children

socketpair = children.socket.socketpair


def poor(*args):
    if os.path.exists('poor'):
        raise OSError(12, os.strerror(12))
    return socketpair(*args)


children.socket.socketpair = poor
if __name__ == '__main__':
    sys.exit(main())
"""


def poor(folder, *args):
    """A site under --reload for which there is no process while the file 'poor' exists."""
    (folder / 'command.py').write_text(POOR)
    return Edited(folder, *args, command=[sys.executable, 'command.py'])


def test_a_crash_is_shown_as_soon_as_the_system_has_a_process_for_it(tmp_path):
    with poor(tmp_path) as site:
        (tmp_path / 'poor').touch()
        with pytest.raises(ConnectionError):
            site.get('/exit3')
        site.expect('cannot be started: Cannot allocate memory; restarting in 1 s')
        (tmp_path / 'poor').unlink()
        site.until_broken('exit code 3')
        eventually(lambda: len(site.workers('ready')) == 1)
        (shows,) = site.workers('ready')
        os.kill(shows, signal.SIGKILL)  # what shows it is shown again, too
        eventually(lambda: site.workers('ready') not in ([shows], []))
        site.until_broken('exit code 3')
        site.edit('mended')
        stop(site)


@pytest.mark.parametrize('reloader', ['fork', 'child'])
def test_a_reload_for_which_there_is_no_process_is_tried_again(tmp_path, reloader):
    with poor(tmp_path, '--reloader', reloader) as site:
        (tmp_path / 'poor').touch()
        with pytest.raises(ConnectionError):
            site.get('/exit3')
        site.expect('cannot be started: Cannot allocate memory; restarting')
        site.save(webapp('two'))
        site.expect('Generation 2 failed: ')
        (tmp_path / 'poor').unlink()
        site.until('two')
        stop(site)


@pytest.mark.parametrize('mistake', [name for name in BROKEN if name != 'daemon'])
def test_without_reload_a_site_that_fails_fails(tmp_path, mistake):
    files = {'webapp.py': BROKEN[mistake][0]}
    with Site(tmp_path, INI, files=files, wait=False) as site:
        assert site.wait() != 0


# -- the packages --------------------------------------------------------------------------

NOTE = """
import os
with open(__name__ + '.imported', 'a') as file:
    file.write(f'{os.getpid()}\\n')
"""
PACKAGES = {
    'third': NOTE,
    'threaded': NOTE
    + 'import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n',
    'connected': NOTE + 'import socket\nmine = socket.socket()\n',
    'importer': NOTE + 'import own\n',
    'forkshy': NOTE
    + """
ME = os.getpid()

def use():
    if os.getpid() != ME:
        raise RuntimeError('this is another process')
""",
}


def with_packages(folder, *args, packages=('third',), use='pass', **kwargs):
    """A site that imports third-party packages."""
    files = {f'site-packages/{name}.py': PACKAGES[name] for name in packages}
    top = f'import {", ".join(packages)}'
    files |= {'own.py': '', 'webapp.py': webapp('one', top=top, body=use)}
    env = {'PYTHONPATH': str(folder / 'site-packages')}
    return Edited(folder, *args, files=files, env=env, **kwargs), top


def imports(folder, name):
    """The processes that have imported a package."""
    return [int(pid) for pid in (folder / f'{name}.imported').read_text().split()]


def test_a_package_is_imported_once_however_often_the_site_is_reloaded(tmp_path):
    site, top = with_packages(tmp_path)
    with site:
        first = site.ask()
        for count in range(4):
            site.settle()
            last = site.edit(f'version {count}', top=top)
        assert imports(tmp_path, 'third') == [first['pid'], last['ppid']]
        assert last['ppid'] != site.pid
        stop(site)


def test_the_first_edit_after_a_start_imports_no_package_again(tmp_path):
    """It is forked from a process that has imported them while the site was loaded."""
    if cpu_count() < 2:
        pytest.skip('with one CPU, the packages are imported after the start')
    site, top = with_packages(tmp_path)
    with site:
        first = site.ask()
        last = site.edit('the second', top=top)
        found = imports(tmp_path, 'third')
        assert set(found) == {first['pid'], last['ppid']} and len(found) == 2
        assert last['ppid'] != site.pid
        stop(site)


def test_packages_that_a_fork_would_break_are_left_to_the_site(tmp_path):
    packages = ['threaded', 'third', 'connected', 'importer']
    site, top = with_packages(tmp_path, '-v', packages=packages)
    with site:
        for line in (
            'threaded starts a thread when it is imported: it is imported only when the site is loaded',
            'connected opens a socket when it is imported: it is imported only when the site is loaded',
            "importer imports own, which is the site's own: it is imported only when the site is loaded",
        ):
            site.expect(line)
        site.settle()
        before = imports(tmp_path, 'third')
        for count in range(3):
            site.settle()
            pid = site.edit(f'version {count}', top=top)['pid']
            for name in ('threaded', 'connected', 'importer'):
                assert imports(tmp_path, name)[-1] == pid
        assert imports(tmp_path, 'third') == before
        assert site.err.text.count('imported only when the site is loaded') == 3
        assert site.stop(signal.SIGINT)[0] == 0
        assert processes_of_session(site.pid) == []


def test_a_package_that_fails_after_a_fork_gets_a_fresh_interpreter(tmp_path):
    use = 'forkshy.use()'
    site, top = with_packages(tmp_path, packages=['third', 'forkshy'], use=use)
    with site:
        for count in range(3):
            if not count:
                site.settle()
            with Polls(site) as polls:
                answer = site.edit(f'version {count}', top=top, body=use)
            assert polls.failures == []
            assert answer['ppid'] == site.pid
            assert imports(tmp_path, 'forkshy')[-1] == answer['pid']
            site.expect('served in', count + 1)
        err = stop(site)
    assert err.count('so will each later reload') == 1
    assert 'it starts in a fresh interpreter' in err
    assert len(err.splitlines()) == 7


def test_a_package_that_changes_is_imported_anew(tmp_path):
    use = "globals()['TEXT'] = getattr(third, 'TEXT', TEXT)"
    site, top = with_packages(tmp_path, use=use)
    with site:
        site.settle()
        site.edit('the second', top=top, body=use)
        for text in ('theirs', 'their second'):
            site.settle()
            site.save(NOTE + f'TEXT = {text!r}\n', 'site-packages/third.py')
            site.until(text)
        site.expect('third.py has changed\nserved in', 2)
        site.settle()
        assert site.ask()['ppid'] == site.pid
        stop(site)


# -- processes -------------------------------------------------------------------------------


def sizes(pids):
    """Of processes: threads and open files of each."""
    return [
        (len(os.listdir(f'/proc/{pid}/task')), len(os.listdir(f'/proc/{pid}/fd')))
        for pid in pids
    ]


def steady_sizes(pids):
    """The same, when the connection that was asked for a status is closed."""
    seen = []

    def are_steady():
        seen.append(sizes(pids))
        return len(seen) > 10 and seen[-10:] == [seen[-1]] * 10

    eventually(are_steady)
    return seen[-1]


@pytest.mark.parametrize('settles', [True, False], ids=['slowly', 'fast'])
def test_thirty_reloads_leave_no_more_than_five(tmp_path, settles):
    with Edited(tmp_path) as site:
        site.settle()
        for count in range(30):
            if settles:
                site.settle()
            site.edit(f'version {count:02}')
            if count == 4:
                pids = long_lived(site)
                before = steady_sizes(pids)
        assert long_lived(site) == pids
        eventually(lambda: sizes(pids) == before)
        stop(site)


def long_lived(site):
    """The supervisor and the process of the packages, when they have no more to do."""
    site.settle()
    eventually(lambda: len(site.processes()) == 4)
    return [site.pid, site.ask()['ppid']]


def while_it_reloads(site):
    os.mkfifo(site.folder / 'gate')
    site.save(gated('the second'))
    site.expect('composing')


def while_packages_are_imported(site):
    site.expect('importing')


SLOW_PACKAGE = """
import os
if os.path.exists('slow.imported'):
    os.mkfifo('gate')
    os.write(2, b'importing\\n')
    open('gate').close()
open('slow.imported', 'w').close()
"""


MOMENTS = {
    'when it serves': lambda site: None,
    'when it is ready to reload': lambda site: site.settle(),
    'while packages are imported': while_packages_are_imported,
    'while it reloads': while_it_reloads,
    'after a save': lambda site: site.save(webapp('the second')),
    'when it shows a mistake': lambda site: (
        site.save('def (:'),
        site.until_broken('SyntaxError'),
    ),
}


@pytest.mark.parametrize('how', ['SIGTERM', 'Ctrl-C'])
@pytest.mark.parametrize('moment', MOMENTS)
def test_it_stops_at_any_moment(tmp_path, moment, how):
    files = {'webapp.py': webapp('one')}
    if moment == 'while packages are imported':
        files = {
            'webapp.py': webapp('one', top='import slow'),
            'site-packages/slow.py': SLOW_PACKAGE,
        }
    env = {'PYTHONPATH': str(tmp_path / 'site-packages')}
    with Edited(tmp_path, files=files, env=env) as site:
        MOMENTS[moment](site)
        if how == 'SIGTERM':
            site.send(signal.SIGTERM)
        else:
            os.killpg(site.pid, signal.SIGINT)
        assert site.wait() == 0, site.report()
        assert processes_of_session(site.pid) == []
        assert is_free(site.port)
        assert not (tmp_path / 'site.pid').exists()
        assert 'Traceback' not in site.err.text  # a SyntaxError has none


@pytest.mark.parametrize('moment', ['when it is ready to reload', 'while it reloads'])
def test_a_supervisor_that_is_killed_takes_all_with_it(tmp_path, moment):
    with Edited(tmp_path) as site:
        MOMENTS[moment](site)
        site.send(signal.SIGKILL)
        assert site.process.wait(60) == -signal.SIGKILL
        eventually(lambda: not processes_of_session(site.pid))
        # A thread of a process that is a zombie may hold the socket a moment longer.
        eventually(lambda: is_free(site.port))


@pytest.mark.parametrize('who', ['packages', 'spare', 'worker'])
def test_a_process_that_is_killed_does_not_end_the_site(tmp_path, who):
    with Edited(tmp_path) as site:
        site.settle()
        site.edit('the second')
        site.settle()
        answer = site.ask()
        pids = {'packages': answer['ppid'], 'worker': answer['pid']}
        pids['spare'] = site.workers('spare')[0]
        os.kill(pids[who], signal.SIGKILL)
        if who == 'worker':
            site.until_broken('SIGKILL')
        else:
            eventually(lambda: pids[who] not in site.processes())
            assert site.ask()['pid'] == answer['pid']
        for text in ('the third version', 'the fourth and last'):
            site.edit(text)
            site.settle()
        eventually(lambda: len(site.processes()) == 4)
        stop(site)


# -- bad input ---------------------------------------------------------------------------------

POLLING = """
import errno
import sys

from paste_wspbus.watching import inotify as watching
from paste_wspbus.command.main import main


def refuse(*args):
    raise OSError(errno.EMFILE, 'Too many open files')


watching.Inotify.__init__ = refuse
sys.exit(main())
"""


@each_reloader
def test_where_the_kernel_tells_nothing_it_looks_from_time_to_time(tmp_path, reloader):
    args = ['--reloader', reloader, '--reload-interval', '0.05']
    command = [sys.executable, 'polling.py']
    files = {'polling.py': POLLING}
    with Edited(tmp_path, *args, files=files, command=command) as site:
        site.edit('the second')
        site.expect('served in')  # before that, another edit belongs to the same reload
        site.edit('the third version')
        site.expect('served in', 2)
        err = stop(site)
    told = 'Looking for changes every 0.05 s: Too many open files'
    assert err.count(told) == 1


FORKS = """
if not os.fork():
    while os.read(0, 1):
        pass
    os._exit(0)
"""
STARTS_A_THREAD = """
import threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
"""


@pytest.mark.parametrize('top', [FORKS, STARTS_A_THREAD], ids=['fork', 'thread'])
@each_reloader
def test_a_site_that_forks_or_starts_threads_at_import_is_reloaded(
    tmp_path, top, reloader
):
    files = {'webapp.py': webapp('one', top=top)}
    with Edited(tmp_path, '--reloader', reloader, files=files) as site:
        with Polls(site) as polls:
            for count in range(3):
                site.edit(f'version {count}', top=top)
        assert polls.failures == []
        site.send(signal.SIGINT)
        assert site.process.wait(60) == 0
        site.release()
        eventually(lambda: processes_of_session(site.pid) == [])
        assert is_free(site.port)


BROWSER = """\
#!/bin/sh
echo "$1" > opened.new
mv opened.new opened
"""


@each_reloader
@pytest.mark.parametrize('said', [True, False], ids=['open_url', 'the site'])
def test_a_browser_is_shown_the_site_once(tmp_path, said, reloader):
    ini = INI + '[pserve]\nopen_url = http://localhost:1/admin\n' * said
    script = tmp_path / 'browser'
    script.write_text(BROWSER)
    script.chmod(0o755)
    args = ['--browser', '--reloader', reloader]
    with Edited(tmp_path, *args, ini=ini, env={'BROWSER': str(script)}) as site:
        eventually((tmp_path / 'opened').exists)
        url = 'http://localhost:1/admin' if said else site.url
        assert (tmp_path / 'opened').read_text().strip() == url
        (tmp_path / 'opened').unlink()
        site.edit('the second')
        site.expect('served in')
        assert not (tmp_path / 'opened').exists()
        stop(site)


def test_reload_and_daemon_exclude_each_other(tmp_path):
    for args in (['--daemon'], ['start']):
        process = run(tmp_path, 'site.ini', *args, '--reload', files={'site.ini': INI})
        assert process.code == 2
        assert '--reload is for development' in process.err.text

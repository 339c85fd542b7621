"""How a site is restarted: each restarter, and what a site puts in its place."""

import json
import shutil
import signal
import sys

import pytest

from paste_wspbus.bus import Bus
from paste_wspbus.bus.supervised import supervised
from paste_wspbus.errors import RestartImpossible
from paste_wspbus.plugins.restart import ChildRestarter, ExecvRestarter, ForkRestarter
from tests.kit import Site, eventually, run
from tests.kit.places import SAMPLES
from tests.kit.processes import children, processes_of_session
from tests.kit.reloading import INI, Edited, Polls, each_reloader, stop, webapp
from tests.kit.supervised import Daemon

# -- chosen by the site ----------------------------------------------------------------


@pytest.mark.parametrize('workers', [0, 2])
def test_the_sample_unplugs_the_reloader_and_keeps_its_pid_by_execv(tmp_path, workers):
    for name in ('own_restart.ini', 'own_restart.py'):
        shutil.copy(SAMPLES / name, tmp_path / name)
    args = ['own_restart.ini', '--listen', '127.0.0.1:0', '--workers', str(workers)]
    with Edited(tmp_path, *args, ini=None) as site:
        # It may serve before its supervisor has read that it is READY.
        eventually(lambda: len(site.workers('ready')) == max(workers, 1))
        before = sorted(site.workers('ready'))
        assert site.pid not in before
        with OkPolls(site) as polls:
            for count, name in enumerate(['own_restart.py', 'own_restart.ini'], 1):
                path = tmp_path / name
                text = path.read_text().replace('Restarted', 'Again restarted')
                site.save(f'{text}\n# an edit\n', name)
                site.expect('served in', count)
            assert 'Again restarted by execv' in site.get().text
            eventually(lambda: sorted(site.workers('ready')) == before)
        assert polls.failures == []
        site.save('def (:', 'own_restart.py')
        site.until_broken('SyntaxError')
        shutil.copy(SAMPLES / 'own_restart.py', tmp_path)
        eventually(lambda: site.get().status == 200)
        assert site.stop(signal.SIGINT)[0] == 0
        assert processes_of_session(site.pid) == []


class OkPolls(Polls):
    """Of a site that says nothing of itself."""

    def read(self, response):
        return response.text


NOTES = """
    bus.plugins['restart'].unsubscribe()
    bus.subscribe('restart', lambda: os.write(2, b'asked to restart\\n'))
"""


@pytest.mark.parametrize('reloader', ['fork', 'child'])
def test_under_a_supervisor_a_listener_of_the_sites_need_do_nothing(tmp_path, reloader):
    files = {'webapp.py': webapp('one', body=NOTES)}
    with Edited(tmp_path, '--reloader', reloader, files=files) as site:
        first = site.ask()
        with Polls(site) as polls:
            second = site.edit('the second', body=NOTES)
        assert polls.failures == []
        site.expect('served in')
        assert first['pid'] != second['pid']
        assert site.err.text.count('asked to restart\n') == 1
        stop(site)


def test_alone_a_listener_that_does_nothing_is_the_end_of_the_process(tmp_path):
    files = {'webapp.py': webapp('one', body=NOTES)}
    with Edited(tmp_path, '--reloader', 'execv', files=files) as site:
        site.save(webapp('the second'))
        assert site.wait() == 0, site.report()
        assert site.err.text == 'webapp.py has changed\nasked to restart\n'
        assert processes_of_session(site.pid) == []


NOBODY = "bus.plugins['restart'].unsubscribe()"


@each_reloader
def test_where_nobody_listens_the_site_is_restarted_all_the_same(tmp_path, reloader):
    files = {'webapp.py': webapp('one', body=NOBODY)}
    with Edited(tmp_path, '--reloader', reloader, files=files) as site:
        with Polls(site) as polls:
            for text in ('the second', 'the third version'):
                answer = site.edit(text, body=NOBODY)
        assert polls.failures == []
        assert reloader != 'execv' or answer['pid'] == site.pid
        stop(site)


REPLACED = """
    from paste_wspbus.plugins import restart
    bus.plugins['restart'].unsubscribe()
    restart.{}(bus).subscribe()
"""


def test_a_child_restarter_in_the_place_of_fork_makes_fresh_interpreters(tmp_path):
    body = REPLACED.format('ChildRestarter')
    files = {'webapp.py': webapp('one', body=body)}
    with Edited(tmp_path, files=files) as site:
        site.settle()
        with Polls(site) as polls:
            for count, text in enumerate(('the second', 'the third version'), 1):
                assert site.edit(text, body=body)['ppid'] == site.pid
                site.expect('served in', count)
        assert polls.failures == []
        eventually(lambda: len(site.processes()) == 2)
        stop(site)


def test_a_site_may_change_its_restarter_by_an_edit(tmp_path):
    with Edited(tmp_path) as site:
        site.settle()
        before = site.edit('execv from now on', body=REPLACED.format('ExecvRestarter'))
        assert before['ppid'] != site.pid
        site.settle()
        after = site.edit('fork from now on', body=REPLACED.format('ForkRestarter'))
        assert after['pid'] == before['pid']
        site.settle()
        last = site.edit('the last')
        assert last['pid'] != after['pid']
        stop(site)


@each_reloader
def test_a_restart_that_the_site_asks_for_is_one(tmp_path, reloader):
    with Edited(tmp_path, '--reloader', reloader) as site:
        first = site.ask()
        with Polls(site) as polls:
            site.get('/bus_restart')
            polls.until(lambda answer: answer['since'] > first['since'])
        assert polls.failures == []
        pids = {first['pid'], *(answer['pid'] for answer in polls.answers)}
        assert pids == {site.pid} if reloader == 'execv' else len(pids) == 2
        if reloader != 'execv':
            site.expect('A restart was requested\nserved in')
        site.edit('the second')
        stop(site)


@pytest.mark.parametrize('name', ['child', 'fork'])
def test_a_restarter_that_takes_a_supervisor_is_refused_without_one(tmp_path, name):
    body = REPLACED.format(f'{name.title()}Restarter')
    files = {'webapp.py': webapp('one', body=body)}
    with Edited(tmp_path, '--reloader', 'execv', files=files) as site:
        refused = (
            f'Restart refused, the site keeps running: restart = {name} needs a supervisor: '
            'start the site with --reload, or write that line into [wspbus:main]'
        )
        site.save(webapp('the second'))
        site.expect(refused)
        site.get('/bus_restart')
        site.expect(refused, 2)
        assert site.ask()['text'] == 'one'
        assert site.stop(signal.SIGINT)[0] == 0


CHERRYPY = """
    from cherrypy.process.plugins import Autoreloader
    reloader = Autoreloader(bus, frequency=0.05, match='webapp')
    reloader.subscribe()
    RELOADERS.append(reloader)
"""


@pytest.mark.parametrize('args', [(), ('--reload',)], ids=['execv', 'fork'])
def test_cherrypys_autoreloader_restarts_the_site(tmp_path, args):
    files = {'webapp.py': webapp('one', body=CHERRYPY)}
    with Watched(tmp_path, *args, files=files) as site:
        first = site.ask()
        with Polls(site) as polls:
            for text in ('the second', 'the third version'):
                # It knows a file when it has looked at it once.
                site.ask('/watched')
                answer = site.edit(text, body=CHERRYPY)
        assert polls.failures == []
        assert args or answer['pid'] == first['pid'] == site.pid
        assert site.stop(signal.SIGINT)[0] == 0
        assert processes_of_session(site.pid) == []


class Watched(Edited):
    """A site that is reloaded only if the arguments say so."""

    def __init__(self, folder, *args, files):
        Site.__init__(self, folder, INI, *args, files=files)


# -- what stays -----------------------------------------------------------------------------

FLAGS = ['-X', 'dev', '-W', 'error', '-I', '-m', 'paste_wspbus']


@each_reloader
def test_flags_arguments_and_folder_stay(tmp_path, reloader):
    command = [sys.executable, *FLAGS]
    args = ['--reloader', reloader, 'greeting=a b']
    with Edited(tmp_path, *args, command=command) as site:
        before = site.ask('/program')
        with Polls(site) as polls:
            for text in ('the second', 'the third version'):
                site.edit(text)
                site.expect('served in', len(polls.texts) - 1)
                after = site.ask('/program')
                for what in ('argv', 'orig_argv', 'flags', 'folder'):
                    assert after[what] == before[what]
        assert polls.failures == []
        assert after['orig_argv'][1 : len(FLAGS) + 1] == FLAGS
        assert 'dev_mode=True' in after['flags'] and 'isolated=1' in after['flags']
        stop(site)


# -- graceful, status, HUP ----------------------------------------------------------------


@each_reloader
@pytest.mark.parametrize('how', ['graceful', 'HUP'])
def test_graceful_and_hup_begin_the_site_anew(tmp_path, how, reloader):
    with Edited(tmp_path, '--reloader', reloader) as site:
        first = site.ask()
        with Polls(site) as polls:
            if how == 'HUP':
                site.send(signal.SIGHUP)
            else:
                assert command(site, 'graceful').code == 0
            polls.until(lambda answer: answer['since'] > first['since'])
        assert polls.failures == []
        if reloader != 'execv':
            site.expect('A restart was requested\nserved in')
        site.edit('the second')
        stop(site)


def command(site, name):
    return run(site.folder, 'site.ini', name, '--pid-file', 'site.pid')


def test_status_tells_of_the_spare_and_of_what_does_not_start(tmp_path):
    with Edited(tmp_path) as site:
        site.settle()
        told = command(site, 'status')
        assert told.code == 0
        assert 'spare' in told.out.text
        site.save('def (:')
        site.until_broken('SyntaxError')
        site.expect('the site cannot be served')
        assert 'SyntaxError' in command(site, 'status').out.text
        assert command(site, 'graceful').code != 0
        site.edit('mended')
        assert command(site, 'status').code == 0
        site.stop(signal.SIGINT)


RESTARTS = INI + '[wspbus:main]\nrestart = child\n'


@pytest.mark.parametrize('workers', [0, 2])
def test_a_daemon_that_restarts_by_children_gets_fresh_interpreters(tmp_path, workers):
    files = {'webapp.py': webapp('one'), 'site.ini': RESTARTS}
    args = ['--monitor-restart', '--workers', str(workers)]
    with Daemon(tmp_path, *args, files=files) as daemon:
        before = set(children(daemon.pid))
        assert len(before) == max(workers, 1)
        (tmp_path / 'webapp.py').write_text(webapp('the second'))
        with OkPolls(daemon) as polls:
            done = run(tmp_path, 'site.ini', 'graceful')
        assert done.code == 0, done.report()
        assert polls.failures == []
        assert 'the second' in daemon.get().text
        eventually(lambda: len(children(daemon.pid)) == max(workers, 1))
        after = set(children(daemon.pid))
        assert not after & before
        # A process that is forked has what the supervisor has imported.
        assert not json.loads(daemon.get('/program').body)['supervises']
        assert run(tmp_path, 'site.ini', 'stop').code == 0
        daemon.wait_until_gone()


# -- on a bus alone --------------------------------------------------------------------------


@pytest.mark.parametrize(
    'make, style', [(ChildRestarter, 'child'), (ForkRestarter, 'fork')]
)
def test_a_succession_is_for_the_supervisor_to_make(make, style):
    bus, told = Bus(), []
    restarter = make(bus)
    restarter.subscribe()
    with pytest.raises(
        RestartImpossible, match=f'restart = {style} needs a supervisor'
    ):
        bus.restart()
    supervised(bus).tell_style = told.append
    bus.publish('restart')
    assert told == [style]
    restarter.unsubscribe()
    bus.publish('restart')
    assert told == [style]
    assert bus.restart_checks == []


def test_an_execv_restarter_checks_what_it_would_run_only_while_it_is_plugged_in(
    monkeypatch,
):
    monkeypatch.setattr(sys, 'executable', '/not/there')
    bus = Bus()
    restarter = ExecvRestarter(bus)
    restarter.subscribe()
    with pytest.raises(RestartImpossible):
        bus.restart()
    restarter.unsubscribe()
    assert bus.restart_checks == []
    assert bus.publish('restart') == []

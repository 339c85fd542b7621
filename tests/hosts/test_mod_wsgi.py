"""Apache's mod_wsgi, Debian's and PyPI's, for real."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.hosts import promises as hosts
from tests.hosts.hosted_mod_wsgi import EMBEDDED, Apache, Newest
from tests.hosts.watched import Watched
from tests.kit import eventually, write

VERSIONS = {'debian': Apache, 'pypi': Newest}

#: What ends a daemon process, and what 'stop' listeners get to know of it: 4.9.4 tells
#: of SIGUSR1 alone, 6.1 of all.
ENDS = {
    'SIGTERM to the process': 'shutdown_signal',
    'SIGUSR1 to the process': 'graceful_signal',
    'touch': 'script_reload',
    'graceful': 'shutdown_signal',
    'restart': 'shutdown_signal',
}


@pytest.fixture
def folder(tmp_path):
    left = shutil.ignore_patterns('events')  # of who ran it where it is
    return shutil.copytree(hosts.SITE, tmp_path / 'site', ignore=left)


class Watching(Watched):
    """One daemon process, to know which answers, unless ``site`` says otherwise."""

    site = Apache.site.replace('processes=2', 'processes=1')

    def end(self, how, pid):
        """Have something end the process ``pid``."""
        if how.endswith('to the process'):
            os.kill(pid, getattr(signal, how.partition(' ')[0]))
        elif how == 'touch':
            self.touch()
        else:
            self.process.send(
                {'graceful': signal.SIGUSR1, 'restart': signal.SIGHUP}[how]
            )

    def touch(self):
        """Make the script another than it was; mod_wsgi looks with the next request."""
        later = time.time() + 10
        os.utime(self.home / 'site.wsgi', (later, later))


class Debian(Watching, Apache):
    pass


class PyPI(Watching, Newest):
    pass


class Embedded(Watching, Apache):
    site = EMBEDDED


RUNNING = {'debian': Debian, 'pypi': PyPI}
each_version = pytest.mark.parametrize('version', RUNNING)


# -- one start, one stop -------------------------------------------------------------------


@each_version
def test_the_site_starts_with_its_process_and_stops_with_apache(folder, version):
    with RUNNING[version](folder) as apache:
        (pid,) = {process for process, _, _ in apache.lines()}
        apache.process.send(signal.SIGTERM)
        assert apache.process.wait() == 0, apache.log()
        assert apache.events()[0] == 'start'
        assert [one for one in apache.events(pid) if one.startswith('stop')] == [
            'stop shutdown_signal' if version == 'pypi' else 'stop'
        ]


@each_version
def test_nothing_waits_for_the_first_request(folder, version):
    class Waiting(RUNNING[version]):
        def answers(self):
            return self.events() == ['start']

    with Waiting(folder):
        pass


@pytest.mark.parametrize('how', ENDS)
@each_version
def test_whatever_ends_a_process_stops_its_site_once(folder, version, how):
    with RUNNING[version](folder) as apache:
        old = apache.serving()
        apache.end(how, old)
        new = apache.serving(but=old)
        reason = ENDS[how] if version == 'pypi' or 'USR1' in how else ''
        assert apache.events(old)[-1] == f'stop {reason}'.strip()
        assert apache.events(old).count('start') == 1
        apache.stop()
        assert apache.stops() == 2
        assert apache.events(new)[0] == 'start'


@pytest.mark.parametrize('how', ENDS)
def test_a_request_in_flight_is_answered_before_the_stop(folder, how):
    with PyPI(folder) as apache:
        old = apache.serving()
        with apache.ask('/?seconds=0.5') as connection:
            apache.end(how, old)
            if how == 'touch':
                apache.status()
            if how == 'restart':  # Apache's own children do not wait
                eventually(lambda: apache.stops())
            else:
                assert connection.receive().status == 200
        apache.serving(but=old)
        assert apache.events(old)[-2] == 'response'
        assert apache.events(old)[-1] == f'stop {ENDS[how]}'


#: What makes the end of Python's interpreter another, or none.
INTERPRETERS = {
    'sub-interpreter': Watching.site.replace('%{GLOBAL}', 'mine'),
    'never ended': f'WSGIDestroyInterpreter Off\n{Watching.site}',
}


@pytest.mark.parametrize('interpreter', INTERPRETERS)
@each_version
def test_the_stop_does_not_need_the_end_of_the_interpreter(
    folder, version, interpreter
):
    class Other(RUNNING[version]):
        site = INTERPRETERS[interpreter]

    with Other(folder) as apache:
        old = apache.serving()
        apache.end('SIGTERM to the process', old)
        apache.serving(but=old)
        assert apache.events(old)[-1].startswith('stop')
        assert apache.stop() == 0
        assert apache.stops() == 2


def in_flight(events):
    """A client may have its response before the end of that is in the file."""
    return events.count('request') - events.count('response')


@each_version
def test_a_request_that_takes_too_long_does_not_cost_the_stop(folder, version):
    with RUNNING[version](folder) as apache:
        old = apache.serving()
        eventually(lambda: not in_flight(apache.events(old)))
        with apache.ask('/?seconds=60'):
            eventually(lambda: in_flight(apache.events(old)) == 1)
            apache.reload()
            eventually(apache.stops)
        assert in_flight(apache.events(old)) == 1


@each_version
def test_a_stop_that_apache_kills_is_told_of(folder, version):
    (folder / 'site.ini').write_text(ini(slow_stop='60'))
    with RUNNING[version](folder) as apache:
        old = apache.serving()
        apache.reload()
        eventually(lambda: "events ('stop') still runs 2 s after" in apache.log())
        apache.serving(but=old)
        assert apache.stops() == 0


@each_version
def test_a_component_that_exits_has_its_process_replaced(folder, version):
    with RUNNING[version](folder) as apache:
        old = apache.serving()
        assert apache.get('/?do=exit').status == 200
        apache.serving(but=old)
        assert apache.events(old)[-2:] == ['response', 'stop graceful_signal']


@each_version
def test_signals_are_apaches(folder, version):
    """mod_wsgi logs whoever asks Python for one, and kills a process that gets SIGALRM."""
    text = ini().replace('[wspbus:main]', '[wspbus:main]\nsignal.SIGUSR1 = exit')
    (folder / 'site.ini').write_text(text)
    with RUNNING[version](folder) as apache:
        assert apache.get().status == 200
        assert 'signal' not in apache.log().replace('signal handler', '').lower()


# -- embedded mode -------------------------------------------------------------------------


def test_in_embedded_mode_a_touched_script_replaces_the_site(folder):
    with Embedded(folder) as apache:
        pid = apache.serving()
        with apache.ask('/?seconds=1') as connection:
            apache.touch()
            assert apache.serving() == pid
            assert connection.receive().status == 200
        came = ['stop script_reload', 'start', 'request', 'response']
        eventually(lambda: apache.events()[-4:] == came)
        before = apache.events()[:-4]
        assert before.count('request') == before.count('response') > 1
        apache.stop()
        assert apache.events()[-1] == 'stop'
        assert apache.events().count('start') == apache.stops() == 2


def test_in_embedded_mode_a_script_that_is_wrong_leaves_the_site_that_was(folder):
    with Embedded(folder) as apache:
        pid = apache.serving()
        right = (apache.home / 'site.ini').read_text()
        (apache.home / 'site.ini').write_text(right.replace('plugins =', 'plugin ='))
        apache.touch()
        assert apache.get().status == 500
        assert apache.stops() == 0
        (apache.home / 'site.ini').write_text(right)
        assert apache.serving() == pid
        assert [one for one in apache.events() if 's' in one[:1]] == [
            'start',
            'stop script_reload',
            'start',
        ]


def test_embedded_mode_is_one_warning_and_asked_to_exit_it_goes_on(folder):
    with Embedded(folder) as apache:
        assert apache.get('/?do=exit').status == 200
        assert apache.get().status == 200
        log = apache.log()
        assert log.count('in embedded mode') == 1
        assert log.count('was asked to stop or exit') == 1
        assert apache.stops() == 0


# -- a host that cannot, and sites that do not start ---------------------------------------


#: A mod_wsgi from before 4.8.
OLD = """
import mod_wsgi
del mod_wsgi.subscribe_shutdown
from paste_wspbus.hosts.mod_wsgi import application_from
application = application_from('site.ini')
"""


@each_version
def test_a_mod_wsgi_that_tells_of_no_end_is_one_warning_and_stops(folder, version):
    write(folder, {'site.wsgi': OLD})
    with RUNNING[version](folder) as apache:
        assert apache.get().status == 200
        assert apache.log().count('does not announce the end of its process') == 1
        capabilities = next(m for _, e, m in apache.lines() if e == 'composed')
        assert capabilities == 'mod_wsgi cluster,per-worker,start,stop'
        apache.stop()
        assert apache.events()[-1] == 'stop process exit'


#: Without application_from: the filter makes the embedded bus.
PLAIN = """
import os
from paste.deploy import loadapp
application = loadapp('config:site.ini', relative_to=os.path.dirname(__file__))
"""


def test_a_script_that_knows_nothing_of_us_has_the_filters_bus(folder):
    write(folder, {'site.wsgi': PLAIN})
    with Debian(folder) as apache:
        old = apache.serving()
        with apache.ask('/?seconds=0.5') as connection:
            apache.reload()
            assert connection.receive().status == 200
        apache.serving(but=old)
        assert apache.events(old)[0] == 'start'
        assert apache.events(old)[-2:] == ['response', 'stop']


@each_version
def test_a_site_that_does_not_start_answers_500_with_a_line_in_the_log(folder, version):
    (folder / 'site.ini').write_text(ini(fail='yes'))

    class Failing(RUNNING[version]):
        def answers(self):
            return self.status() == 500

    with Failing(folder) as apache:
        assert 'site.ini [plugin:events]: broken failed: RuntimeError' in apache.log()
        events = apache.events()
        assert set(zip(events[::2], events[1::2], strict=True)) == {('start', 'stop')}
        # What it could not find is there now; the script is run for each request.
        shutil.copy(hosts.SITE / 'site.ini', apache.home)
        assert apache.get().status == 200


def test_an_ini_that_is_wrong_is_a_line_in_the_log(folder):
    (folder / 'site.ini').write_text(ini().replace('plugins =', 'plugin ='))

    class Failing(Debian):
        def answers(self):
            return self.status() == 500

    with Failing(folder) as apache:
        assert 'site.ini [wspbus:main] plugin: unknown key' in apache.log()
        assert not apache.events()


def test_outside_of_apache_the_script_says_what_it_is_for(tmp_path):
    script = 'from paste_wspbus.hosts.mod_wsgi import application_from as make\nmake("x.ini")'
    ended = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, cwd=tmp_path
    )
    assert ended.stderr.splitlines()[-1].endswith(
        'application_from() works only in a .wsgi script that mod_wsgi runs; '
        'use wspserve to serve the .ini itself'
    )


def ini(**plugin):
    """The hosted site's, with more in [plugin:events]."""
    more = ''.join(f'{key} = {value}\n' for key, value in plugin.items())
    text = (hosts.SITE / 'site.ini').read_text()
    return text.replace('[server:main]', f'{more}\n[server:main]')

"""--reload: who connects after a save gets the new code, however early."""

import contextlib
import json
import os
import re
import time

import pytest

from tests.kit import eventually
from tests.kit.reloading import Edited, each_reloader, stop, webapp
from tests.workers.test_reloading import SERVERS, WAITS, gated, open_gate

each_server = pytest.mark.parametrize('server', SERVERS)

SLOW = 'time.sleep(0.4)'


def in_place(site, text):
    (site.folder / 'webapp.py').write_text(text)


SAVES = {'in place': in_place, 'rename': Edited.save}


@each_server
@each_reloader
def test_a_connection_after_a_save_gets_the_new_code(tmp_path, server, reloader):
    args = '--reloader', reloader
    with Edited(tmp_path, *args, ini=SERVERS[server]) as site:
        for pause in (0, 0.002, 0.01):
            for name, save in SAVES.items():
                text = f'{name}, {pause}'
                save(site, webapp(text))
                time.sleep(pause)
                assert site.ask()['text'] == text
        stop(site)


def test_with_several_workers_none_of_them_answers_with_the_old_code(tmp_path):
    with Edited(tmp_path, '--workers', '2') as site:
        for number, save in enumerate(SAVES.values()):
            site.settle(2)
            save(site, webapp(f'saved {number}'))
            for _ in range(8):
                assert site.ask()['text'] == f'saved {number}'
        stop(site)


@each_server
def test_a_kept_alive_connection_is_closed_after_its_response(tmp_path, server):
    os.mkfifo(tmp_path / 'gate')
    files = {'webapp.py': webapp('one') + WAITS}
    with (
        Edited(tmp_path, ini=SERVERS[server], files=files) as site,
        site.connect() as kept,
    ):
        kept.send('/wait')
        site.expect('waiting')
        site.save(webapp('two'))
        open_gate(tmp_path)
        assert json.loads(kept.receive().body)['text'] == 'one'
        assert kept.is_ended()
        assert site.ask()['text'] == 'two'
        stop(site)


@each_reloader
def test_the_page_of_a_mistake_is_not_shown_after_the_save_that_mends_it(
    tmp_path, reloader
):
    with Edited(tmp_path, '--reloader', reloader) as site:
        for text in ('two', 'three'):
            site.save('syntax error')
            assert site.get().status == 500
            site.save(webapp(text))
            assert site.ask()['text'] == text
        stop(site)


@each_reloader
def test_a_save_while_the_site_is_loaded_is_served(tmp_path, reloader):
    with Edited(tmp_path, '--reloader', reloader) as site:
        site.save(webapp('two', body=SLOW))
        with site.connect() as early:
            early.send('/', connection='close')
            time.sleep(0.25)  # the module has been read
            site.save(webapp('three'))
            assert site.ask()['text'] == 'three'
            assert json.loads(early.receive().body)['text'] == 'three'
        stop(site)


def test_a_file_that_is_as_it_was_does_not_leave_the_site_without_a_server(tmp_path):
    with Edited(tmp_path) as site:
        site.settle()
        (tmp_path / 'webapp.py').rename(tmp_path / 'away')
        with site.connect() as client:  # has the gate look
            client.send('/', connection='close')
            time.sleep(0.002)
            (tmp_path / 'away').rename(tmp_path / 'webapp.py')
            assert json.loads(client.receive().body)['text'] == 'one'
        assert site.ask()['text'] == 'one'
        stop(site)


def test_an_ini_that_cannot_be_read_is_shown_in_the_place_of_the_site(tmp_path):
    with Edited(tmp_path, '--reloader', 'execv') as site:
        ini = (tmp_path / 'site.ini').read_text()
        (tmp_path / 'site.ini').write_text('[')
        site.until_broken('has no closing bracket')
        site.expect('the site cannot be served')
        (tmp_path / 'site.ini').write_text(ini + '\n')
        site.expect('served in')
        stop(site)


@pytest.mark.parametrize('reloader', ['fork', 'execv'])
def test_who_saves_all_the_time_sees_the_site(tmp_path, reloader):
    """Each save would keep the next process from accepting, without end."""
    files = {'webapp.py': webapp('one', body=SLOW)}
    with (
        Edited(tmp_path, '--reloader', reloader, files=files) as site,
        site.connect() as client,
    ):
        client.send('/', connection='close')
        client.receive()
        for number in range(100):
            site.save(webapp(f'saved {number}', body=SLOW))
            if not number:
                late = site.connect()
                late.send('/', connection='close')
            time.sleep(0.1)
            late.socket.settimeout(0.0001)
            try:
                if late.socket.recv(1):
                    break
            except TimeoutError:
                continue
        else:
            raise AssertionError(site.report())
        late.close()
        eventually(lambda: site.ask()['text'] == f'saved {number}')
        stop(site)


def test_ctrl_c_while_the_gate_is_shut_answers_who_waits(tmp_path):
    with Edited(tmp_path, '--reloader', 'execv') as site:
        site.save(webapp('two'))
        with site.connect() as client:
            client.send('/', connection='close')
            time.sleep(0.003)
            stop(site)
            client.file.read()


@pytest.mark.parametrize('reloader', ['fork', 'execv'])
def test_a_request_that_a_reload_cuts_is_named_in_one_line(tmp_path, reloader):
    os.mkfifo(tmp_path / 'gate')
    files = {'webapp.py': webapp('one') + WAITS}
    ini = SERVERS['waitress' if reloader == 'fork' else 'cheroot']
    args = '--reloader', reloader
    with Edited(tmp_path, *args, ini=ini, files=files) as site:
        with site.connect() as slow:
            slow.send('/wait?secret=1')
            site.expect('waiting')
            site.save(webapp('two'))
            assert site.ask()['text'] == 'two'
        (line,) = [one for one in site.err.text.splitlines() if 'cuts' in one]
        assert re.search(r'The reload cuts GET /wait after \d+\.\d s$', line)
        assert 'File "' not in site.err.text
        stop(site)


@pytest.mark.parametrize(
    ('args', 'warns'),
    [
        (['--listen', '0.0.0.0:0'], True),
        (['--listen', '[::1]:0'], False),
        (['--listen', '0.0.0.0:0', '--reloader', 'execv'], True),
        ([], False),
    ],
    ids=['all', 'IPv6 loopback', 'execv', 'loopback'],
)
def test_an_address_that_others_reach_is_warned_of_once(tmp_path, args, warns):
    with Edited(tmp_path, *args) as site:
        site.save(webapp('two'))
        site.expect('served in')
        err = stop(site) if not warns else site.err.text
        assert err.count('the sources of the site') == warns


POLLS = {
    'option': (['--reload-poll'], '', {}, '--reload-poll'),
    'key': ([], '[pserve]\npoll = true\n', {}, '[pserve] poll'),
    'variable': (
        [],
        '',
        {'HUPPER_DEFAULT_MONITOR': 'hupper.polling.PollingFileMonitor'},
        'HUPPER_DEFAULT_MONITOR=hupper.polling.PollingFileMonitor',
    ),
}


def open_files(pid):
    for fd in os.listdir(f'/proc/{pid}/fd'):
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            yield os.readlink(f'/proc/{pid}/fd/{fd}')


@pytest.mark.parametrize('reloader', ['fork', 'execv'])
@pytest.mark.parametrize('how', POLLS)
def test_it_polls_if_it_is_told_to_and_says_why_once(tmp_path, how, reloader):
    args, more, env, why = POLLS[how]
    args = [*args, '--reload-interval', '0.05', '--reloader', reloader]
    ini = f'{SERVERS["waitress"]}\n{more}'
    with Edited(tmp_path, *args, ini=ini, env=env) as site:
        site.expect(f'Looking for changes every 0.05 s: {why}')
        site.edit('two')
        site.expect('served in')
        assert site.err.text.count('Looking for changes') == 1
        for pid in site.processes():
            assert not any('inotify' in one for one in open_files(pid))
        stop(site)


def test_a_load_that_takes_long_is_told_of(tmp_path):
    os.mkfifo(tmp_path / 'gate')
    with Edited(tmp_path) as site:
        site.save(gated('two'))
        site.expect('The site has been loading for 2 s, and is at ')
        open_gate(tmp_path)
        site.until('two')
        assert site.err.text.count('has been loading') == 1
        stop(site)

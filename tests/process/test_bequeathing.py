"""What a process leaves to its next program, if the site has closed the standard descriptors."""

import contextlib
import os
import signal

import pytest

from tests.kit import Site, eventually, run
from tests.kit.clients import free_port
from tests.kit.daemons import ini
from tests.kit.stand_in import status_json

#: What each server is in an .ini.
SERVERS = {
    'waitress': 'egg:waitress',
    'cheroot': 'egg:paste_wspbus#cheroot',
    'Paste': 'egg:Paste#http',
    'wsgiref': 'egg:paste_wspbus#wsgiref',
    'CherryPy': 'egg:paste_wspbus#cherrypy',
}

#: Closes the descriptors that the path names, and prints to them, whatever they are then.
CLOSING = """
import os


def make(global_conf, **conf):
    def app(environ, start_response):
        numbers = [int(digit) for digit in environ['PATH_INFO'][1:]]
        for number in numbers:
            os.close(number)
        start_response('200 OK', [('Content-Length', '2')])
        return [b'ok']

    return app
"""

WEBAPP = """
import os

{at_import}


def make(global_conf, **conf):
    {in_make}
    return app


def app(environ, start_response):
    for number in environ['QUERY_STRING']:
        os.close(int(number))
    start_response('200 OK', [])
    return []


def closing(bus, global_conf):
    # This runs when the server accepts, and before commands find the site.
    bus.subscribe('start', lambda: [os.close(1), os.close(2)], priority=90)
"""


def site_that(code):
    return {'webapp.py': WEBAPP.format(**{'at_import': '', 'in_make': '', **code})}


@pytest.mark.parametrize('log', [[], ['--log-file=site.log']], ids=['', 'log file'])
@pytest.mark.parametrize('where', ['at_import', 'in_make'])
def test_a_site_that_closes_1_and_2_restarts_with_its_sockets(tmp_path, where, log):
    files = site_that({where: 'os.close(1); os.close(2)'})
    # The port is fixed: a program that lost its socket could not bind it again.
    text = ini(port=free_port())
    with Site(tmp_path, text, *log, files=files, wait=False) as site:
        eventually(lambda: status_json(tmp_path)[1].get('state') == 'STARTED')
        for _ in range(2):
            told = run(tmp_path, 'site.ini', 'graceful')
            assert told.code == 0, told.report()
            assert status_json(tmp_path)[1]['pid'] == site.process.pid
        assert site.stop()[0] == 0, site.report()


def test_a_site_that_closes_1_and_2_before_it_is_registered_restarts(tmp_path):
    text = ini(port=free_port(), plugins='closing', trial='false')
    text += '\n[plugin:closing]\nuse = call:webapp:closing\n'
    with Site(tmp_path, text, files=site_that({}), wait=False) as site:
        eventually(lambda: status_json(tmp_path)[1].get('state') == 'STARTED')
        for _ in range(2):
            told = run(tmp_path, 'site.ini', 'graceful')
            assert told.code == 0, told.report()
        assert site.stop()[0] == 0, site.report()


@pytest.mark.parametrize('numbers', ['1', '2', '12', '012'])
@pytest.mark.parametrize('lost', [False, True], ids=['', 'entry removed'])
def test_a_request_that_closes_them_does_not_break_a_restart(
    tmp_path, monkeypatch, numbers, lost
):
    (tmp_path / 'xdg').mkdir(mode=0o700)
    monkeypatch.setenv('RUNTIME_DIRECTORY', str(tmp_path / 'xdg'))
    with Site(tmp_path, ini(port=free_port()), files=site_that({})) as site:
        eventually(lambda: status_json(tmp_path)[1].get('state') == 'STARTED')
        assert site.get(f'/?{numbers}').status == 200
        if lost:
            for path in (tmp_path / 'xdg').glob('*.sock'):
                path.unlink()
            (tmp_path / 'webapp.py').rename(tmp_path / 'moved.py')
            site.send(signal.SIGHUP)  # the trial fails, and the socket is bound again
            eventually(lambda: status_json(tmp_path)[1].get('last_reload'))
            eventually(
                lambda: status_json(tmp_path)[1]['last_reload']['outcome'] == 'failed'
            )
            (tmp_path / 'moved.py').rename(tmp_path / 'webapp.py')
        told = run(tmp_path, 'site.ini', 'graceful')
        assert told.code == 0, told.report()
        assert site.get('/').status == 200
        assert site.stop()[0] == 0, site.report()


@pytest.mark.parametrize(
    ('server', 'numbers'),
    [('waitress', '0'), ('waitress', '1'), *((server, '12') for server in SERVERS)],
)
def test_a_request_that_closes_0_1_or_2_takes_no_socket_from_the_next_program(
    tmp_path, server, numbers
):
    text = ini(port=free_port()).replace('egg:waitress', SERVERS[server])
    text = '\n'.join(line for line in text.splitlines() if 'threads' not in line)
    files = {'webapp.py': CLOSING}
    with Site(tmp_path, text, files=files) as site:
        for _ in range(2):
            assert site.get(f'/{numbers}').body == b'ok'
            told = run(tmp_path, 'site.ini', 'graceful')
            assert told.code == 0, told.report()
            assert status_json(tmp_path)[1]['pid'] == site.process.pid
            assert site.get('/').body == b'ok'
        assert site.stop()[0] == 0, site.report()


def own_pipes(pid):
    """The pipes of which a process has both ends."""
    folder, links = f'/proc/{pid}/fd', []
    for number in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):  # it is closed at this moment
            links.append(os.readlink(f'{folder}/{number}'))
    return {one for one in links if one.startswith('pipe:') and links.count(one) > 1}


def test_what_a_site_prints_goes_to_no_client_if_a_request_has_closed_2(tmp_path):
    writes = "numbers or os.write(2, b'!'); return [b'ok']"
    webapp = CLOSING.replace("return [b'ok']", writes)
    with Site(tmp_path, ini(), files={'webapp.py': webapp}) as site:
        # The second is that of the main thread, which opens nothing more when it sleeps.
        eventually(lambda: len(own_pipes(site.process.pid)) == 2)
        assert site.get('/2').body == b'ok'
        for _ in range(3):
            assert site.get('/').body == b'ok'
        status = run(tmp_path, 'site.ini', 'status')
        assert status.code == 0, status.report()
        assert site.stop()[0] == 0, site.report()

"""A load that takes long, under --reload: browsers see where it is, other requests wait."""

import os
import re
import signal
import sys
import threading

import pytest

from paste_wspbus.workers.loading_page import closing, wants_page
from tests.kit import Process, eventually, free_port, write
from tests.kit.reloading import INI, Edited, stop, webapp

BROWSER = 'text/html,application/xhtml+xml,*/*;q=0.8'


def head(*fields, method='GET'):
    return '\r\n'.join([f'{method} / HTTP/1.1', 'Host: a', *fields, '', '']).encode()


@pytest.mark.parametrize(
    'text, wanted',
    [
        (head(f'Accept: {BROWSER}'), True),
        (head(f'accept: {BROWSER}', 'Sec-Fetch-Dest: document'), True),
        (head(f'Accept: {BROWSER}', method='HEAD'), True),  # an error's page asks so
        (head(f'Accept: {BROWSER}', method='POST'), False),
        (head(f'Accept: {BROWSER}', 'Sec-Fetch-Dest: empty'), False),
        (head('Accept: */*'), False),
        (head('Accept: image/png'), False),
        (head(), False),
        (head(f'Accept: {BROWSER}')[:-2], False),
        (b'', False),
        (b'\x16\x03\x01\x02\x00\x01\r\n\r\n', False),
    ],
)
def test_a_browser_that_opens_a_page_is_known_by_its_request(text, wanted):
    assert wants_page(text) == wanted


def test_a_request_that_has_waited_asks_for_the_end_of_its_connection():
    kept = head('Connection: keep-alive', 'Keep-Alive: 5', 'A: b') + b'the body'
    assert closing(kept) == head('A: b', 'Connection: close') + b'the body'
    for other in (head('Upgrade: websocket', 'Connection: Upgrade'), b'\x16\x03', b''):
        assert closing(other) == other


GATED = """
os.write(2, b'composing\\n')
with open('gate') as gate:
    gate.read()
"""


class Asked(threading.Thread):
    """A request in the background, whose response comes some time."""

    def __init__(self, site, **how):
        super().__init__(daemon=True)
        self.site, self.how, self.response = site, how, None
        self.start()

    def run(self):
        self.response = self.site.get(**self.how)


@pytest.mark.parametrize('reloader', ['fork', 'child'])
def test_a_browser_is_shown_where_the_load_is_and_other_requests_wait(
    tmp_path, reloader
):
    os.mkfifo(tmp_path / 'gate')
    with Edited(tmp_path, '--reloader', reloader) as site:
        site.save(webapp('two', top=GATED))
        site.expect('composing')
        waits = Asked(site)
        page = site.get(accept=BROWSER)
        assert page.status == 503
        eventually(lambda: 'webapp.py, line' in site.get(accept=BROWSER).text)
        assert re.search(r'loading for \d+ s', page.text)
        assert 'http-equiv="refresh"' in page.text
        site.expect('has been loading for 2 s')
        assert site.err.text.count('has been loading for 2 s') == 1
        assert waits.response is None
        with open(tmp_path / 'gate', 'w'):
            pass
        waits.join(20)
        assert waits.response.status == 200 and '"two"' in waits.response.text
        site.until('two')
        # The next reload is fast: nobody sees the page.
        site.save(webapp('three'))
        assert site.get(accept=BROWSER).status == 200
        eventually(lambda: not any('loading' in name for name in names(site)))
        stop(site)


def test_a_process_that_reloads_itself_says_that_its_load_takes_long(tmp_path):
    """Nobody else does: it has no supervisor, and serves nothing meanwhile."""
    os.mkfifo(tmp_path / 'gate')
    with Edited(tmp_path, '--reloader=execv') as site:
        site.save(webapp('two', top=GATED))
        site.expect('has been loading for 2 s, and is at ')
        with open(tmp_path / 'gate', 'w'):
            pass
        site.until('two')
        assert 'webapp.py' in site.err.text.rpartition('and is at ')[2]
        site.save(webapp('three'))
        site.until('three')
        assert site.err.text.count('has been loading') == 1
        stop(site)


def names(site):
    from paste_wspbus.control.client import ask

    told = ask(str(site.folder / 'site.pid.sock'), 'status')
    return [one['name'] for one in told['workers']]


def test_a_first_load_that_takes_long_is_shown_and_can_be_stopped(tmp_path):
    os.mkfifo(tmp_path / 'gate')
    port = free_port()
    files = {'webapp.py': webapp('one', top=GATED)}
    ini = INI.replace('port = 0', f'port = {port}')
    with Edited(tmp_path, ini=ini, files=files, wait=False) as site:
        site.expect('has been loading for 2 s, and is at ')
        site.url = f'http://127.0.0.1:{port}'
        page = site.get(accept=BROWSER)
        assert page.status == 503 and 'loading for' in page.text
        site.send(signal.SIGINT)
        assert site.wait() == 130
        assert site.processes() == []


def test_where_an_installed_site_is_whatever_script_has_started_it(tmp_path):
    """Neither the script, nor the code that Python makes, is where the site waits."""
    os.mkfifo(tmp_path / 'gate')
    made = """exec("def wait(): open('gate').close()")\nwait()\n"""
    script = 'import sys\nfrom paste_wspbus.__main__ import main\nsys.exit(main())\n'
    files = {
        'site.ini': INI,
        'site-packages/webapp.py': made,
        'elsewhere/wspserve': script,
    }
    write(tmp_path, files)
    command = [sys.executable, 'elsewhere/wspserve', 'site.ini', '--reload']
    env = {'PYTHONPATH': str(tmp_path / 'site-packages')}
    with Process(command, tmp_path, env=env) as site:
        site.expect('has been loading for 2 s, and is at ')
        assert '/site-packages/webapp.py:2 in <module>. ' in site.err.text
        site.send(signal.SIGINT)
        assert site.wait() == 130

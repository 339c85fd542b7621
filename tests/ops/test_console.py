"""The console in a real browser: what it shows, what it does not, and a stream that breaks."""

import os
import signal
import socket

import pytest

from paste_wspbus.ops.pages import PAGES
from tests.kit import Site, free_port, ops
from tests.kit.browser import DRIVER, Browser
from tests.kit.clients import Connection
from tests.kit.processes import eventually, freeze
from tests.kit.sites import APP, SERVED

#: What no page may show: in the query, a header, the body and deep in the path of a request,
#: and in the .ini.
PLANTED = [f'planted-{place}-x7' for place in ('query', 'head', 'body', 'path', 'ini')]
QUERY, HEAD, BODY, PATH, KEY = PLANTED

MARKUP = '<img src=x onerror=alert(1)>'

FILES = {
    'webapp.py': f"""{APP}
def parts(bus, global_conf, password):
    @bus.health({MARKUP!r}, group='health')
    def works():
        raise ConnectionError('<b>refused</b> with ' + password)

def held(environ):
    say('held')
    threading.Event().wait()
PAGES['/<b>/held/{PATH}'] = held
"""
}


def ini(port, workers):
    return f"""
[wspbus:main]
workers = {workers}
soak = 0
stop_timeout = 1
plugins = parts
ops = 127.0.0.1:{port} unix:ops.sock
ops_pages = true

[plugin:parts]
use = call:webapp:parts
password = {KEY}

[cluster:main]
machine = web1
{SERVED}"""


@pytest.fixture(params=[1])
def site(request, tmp_path):
    port = free_port()
    with Site(tmp_path, ini(port, request.param), files=FILES) as site:
        site.ops = '127.0.0.1', port
        yield site


@pytest.fixture
def browser(tmp_path):
    if DRIVER is None:
        pytest.skip('chromedriver is not installed: see .ci/system-packages')
    with Browser(tmp_path / 'browser') as browser:
        yield browser


def process_of_ops(site):
    rows = ops.told(site.ops, '/status')[1]['status']['workers']
    return next(row['pid'] for row in rows if row['name'] == 'ops')


def begin_request(client):
    client.sendall(
        f'POST /%3Cb%3E/held/{PATH}?a={QUERY} HTTP/1.1\r\nHost: x\r\nX-A: {HEAD}\r\n'
        f'Content-Length: {len(BODY)}\r\n\r\n{BODY}'.encode()
    )


def first_event(address):
    """Return what a stream sends until its first news are complete."""
    with Connection(address) as client:
        client.send('/events')
        came = b''
        while b'event: news' not in came or not came.endswith(b'\n\n'):
            came += client.file.readline()
        return came


@pytest.mark.parametrize('site', [0, 1], indirect=True, ids=['alone', 'workers'])
def test_nothing_secret_is_on_any_page(site):
    with socket.create_connection(site.address) as client:
        begin_request(client)
        site.expect('held')
        shown = {
            path: ops.get(site.ops, path).body for path in PAGES if path != '/events'
        }
        shown['/events'] = first_event(site.ops)
        for path in ('/status', '/events'):
            assert '/<b>/…'.encode() in shown[path] or b'/<b>/\\u2026' in shown[path]
        for path, body in shown.items():
            assert not any(planted.encode() in body for planted in PLANTED), path
    site.stop()


def test_the_console_in_a_browser(site, browser):
    with socket.create_connection(site.address) as client:
        begin_request(client)
        site.expect('held')
        browser.open('http://{}:{}/'.format(*site.ops))
        browser.shows('POST /<b>/…', '#requests')
        browser.shows(MARKUP, '#checks')
        browser.shows('<b>refused</b> with', '#checks')
        assert 'Started' in browser.text('#tiles')
        assert 'worker 1' in browser.text('#workers')
        browser.shows('web1', '#machines')
        browser.shows('The engine is this machine alone', '#lease')
        eventually(
            lambda: (
                browser.run('return document.querySelector("#timeline").naturalWidth')
                > 300
            )
        )
        eventually(
            lambda: browser.run('return document.querySelectorAll("#rate path").length')
        )

        # Nothing of the site is markup, and nothing secret is anywhere.
        markup = browser.run(
            'return document.querySelectorAll("main b, main img").length'
        )
        assert markup == 2  # the method, and the timeline
        html = browser.run('return document.documentElement.outerHTML').encode()
        for planted in PLANTED:
            assert planted.encode() not in html

    # On a phone the page is as wide as the screen; only its tables scroll.
    light = browser.run('return getComputedStyle(document.body).backgroundColor')
    browser.resize(360, 700)
    assert browser.run('return document.documentElement.scrollWidth') == 360
    browser.prefer('dark')
    dark = browser.run('return getComputedStyle(document.body).backgroundColor')
    assert dark != light

    site.send(signal.SIGHUP)
    browser.shows('served', '#reloads')

    # A listener that does not answer, and one that is started again.
    pid = process_of_ops(site)
    freeze(pid)
    browser.shows('No news since', '#live')
    browser.shows('The ops listener has not answered since', '#notice')
    os.kill(pid, signal.SIGCONT)
    browser.shows('Live', '#live')
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: process_of_ops_or_none(site) not in (None, pid))
    browser.shows(str(process_of_ops(site)), '#workers')
    unexpected = [one for one in browser.logs() if 'net::ERR_' not in one]
    assert unexpected == []
    assert site.stop()[0] == 0
    browser.shows('The ops listener has ended', '#notice')


def test_the_console_says_that_cluster_plugins_crash_again_and_again(tmp_path, browser):
    port = free_port()
    text = ini(port, 1).replace('soak = 0', 'soak = 0\ncluster_plugins = job')
    text = text.replace('machine = web1', 'machine = web1\nttl = 1')
    text += '\n[plugin:job]\nuse = call:webapp:job\n'
    code = 'def job(bus, global_conf):\n    import os\n    os._exit(3)\n    yield\n'
    files = {'webapp.py': FILES['webapp.py'] + code}
    with Site(tmp_path, text, files=files) as site:
        browser.open(f'http://127.0.0.1:{port}/')
        line = (
            'The cluster plugins (job) crash again and again here. This machine wants'
        )
        browser.shows(line, '#lease')
        # At first the page may know the lease from the moment before the crash.
        browser.shows('nobody has it now', '#lease')
        assert browser.run('return document.querySelector("#lease").className') == 'bad'
        site.stop()


def process_of_ops_or_none(site):
    try:
        return process_of_ops(site)
    except (OSError, KeyError, StopIteration):
        return None

"""The search of the documentation's site, in a browser: what it finds for questions."""

import contextlib
import functools
import http.server
import threading
from urllib.parse import quote_plus

import pytest

from tests.kit import eventually
from tests.kit.browser import Browser
from tests.kit.places import ROOT

SITE = ROOT / 'build/docs'

#: How a user asks, and the pages or sections of which one must be among the first results.
#: Most questions have a word that no page has, or that the right page does not have.
QUESTIONS = {
    'how do I limit how much memory a worker may use': {'workers'},
    'how do I share a cache between workers': {'messages'},
    'how do I make the site listen on a unix socket': {'listening'},
    "how do I log the client's IP address behind nginx": {'proxy'},
    'how do I stop a runaway query': {'requests'},
    'how do I send mail in the background': {'ready/service'},
    'how do I run database migrations': {'command'},
    'how do I close a database pool at shutdown': {'bus#lifespans', 'plugins'},
    'why does my site exit with code 70': {'reference/exit-codes', 'command'},
    'how do I run a job every night': {'ready/cron'},
    'how do I run a job once a night': {'ready/cron'},
    'how do I reload when a template changes': {'reload#what-is-watched'},
    'how do I put it behind nginx': {'proxy'},
    'how do I see why a request is slow': {'requests#slow-requests'},
    'how do I deploy without losing requests': {'workers#deploying-graceful'},
    'how do I close my database pool': {'bus#lifespans'},
    'how do I run two sites on a machine': {'production#several-sites-on-one-machine'},
    'how do I write an access log': {'logging#the-access-log'},
    'how do I use it under gunicorn': {'gunicorn'},
    'how do I change the port': {'listening#change-the-port'},
    'how do I rotate logs': {'production', 'logging'},
    'kubernetes preStop hook': {'production'},
    'Address already in use': {'troubleshooting'},
    'hot reload': {'reload'},
    'zero downtime': {'workers#deploying-graceful'},
    'cronjob': {'ready/cron'},
    'kill stuck request': {'requests#a-deadline', 'requests#slow-requests'},
    'memory leak': {'workers#recycling'},
    'healthcheck': {'ops', 'ops#health-checks'},
    'multiple workers': {'workers'},
    'prometheus': {'metrics', 'metrics#prometheus'},
    'ctrl-c': {'signals#sigint-and-sigterm', 'start-here#serve-it-and-press-ctrl-c'},
    'systemd': {'production#systemd'},
    'rolling restart': {'workers#deploying-graceful'},
    'max requests': {'workers#recycling'},
    'breakpoint': {'reload#pdb'},
    'run as www-data': {'command#options'},
    'profiling': {'profiling'},
    'cpu usage 100%': {'profiling'},
    'memory usage': {'profiling', 'workers#recycling'},
    'how do I measure code coverage': {'testing#coverage'},
    'upload size limit': {'limits#the-size-of-an-upload'},
    '413 Request Entity Too Large': {'limits#the-size-of-an-upload'},
    'too many open files': {'limits'},
    'ulimit': {'limits'},
    'max connections': {'limits'},
    '502 bad gateway': {'proxy#when-the-proxy-answers-itself'},
    '504 gateway timeout': {'proxy#when-the-proxy-answers-itself'},
    'request timeout': {'requests#a-deadline', 'requests#slow-requests'},
    'worker timeout': {'workers'},
    'environment variables': {'ini#variables-the-environment-and-secrets'},
    '.env file': {'ini#variables-the-environment-and-secrets'},
    'secrets': {'ini#variables-the-environment-and-secrets'},
    'gzip compression': {'proxy'},
    'static files': {'proxy'},
    'rate limit': {'proxy', 'limits'},
    'basic auth': {'proxy'},
    'maintenance mode': {'proxy'},
    'mount under a subpath': {'proxy#below-a-path'},
    'traefik': {'proxy'},
    'supervisord': {'production#supervisord'},
    'debug mode': {'reload'},
    'healthz': {'ops', 'ops#health-checks'},
    'celery': {'ready/service'},
    'canary': {'workers#the-soak'},
    'segfault': {'workers#reports', 'status'},
    'autocomplete': {'command#completion'},
    'server-sent events': {'requests'},
    'jinja templates reload': {'reload#what-is-watched'},
    'where is my log': {'production#logs', 'logging'},
    'restart after crash': {'workers#what-happens-to-a-worker', 'workers#crash-loops'},
    'connection refused': {'listening#addresses'},
    'mysql has gone away': {'ready/sqlalchemy'},
    'global variable shared between workers': {'messages'},
    'symlink release': {'workers#a-link-to-the-release'},
    'old version still served': {'workers#a-link-to-the-release'},
    'different settings for production': {'ini#several-ini-files'},
    'include another ini': {'ini#several-ini-files'},
    'run code at startup': {'bus#lifespans'},
    'run code at shutdown': {'bus#lifespans'},
    'thread pool size': {'ini#the-number-of-threads'},
    'migrate from gunicorn': {'workers#coming-from-gunicorn-and-uwsgi'},
    'fastapi': {'README'},
    'how do I install it': {'README#install', 'start-here#install'},
    'htop': {'status'},
}

#: So many results are seen at once.
FIRST = 5


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def search(tmp_path):
    """Asks the search; returns the places that it finds, the best first."""
    if not (SITE / 'searchindex.js').exists():
        pytest.skip('make docs builds the site, in build/docs')
    handler = functools.partial(Quiet, directory=SITE)
    with contextlib.ExitStack() as undo:
        server = undo.enter_context(
            http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
        )
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        undo.callback(thread.join)
        undo.callback(server.shutdown)
        browser = undo.enter_context(Browser(tmp_path))

        def ask(question):
            url = f'http://127.0.0.1:{server.server_port}/search.html?q='
            browser.open(url + quote_plus(question))
            eventually(lambda: browser.text('p.search-summary'))
            eventually(lambda: browser.run(ARE_ALL))
            assert [one for one in browser.logs() if 'favicon.ico' not in one] == []
            return browser.run(PLACES)

        yield ask


#: Whether the results are complete: Sphinx shows one after the other.
ARE_ALL = """
const shown = document.querySelectorAll("#search-results ul.search > li").length;
const said = document.querySelector("p.search-summary").innerText.match(/\\d+/);
return shown >= Math.min(said ? Number(said[0]) : 0, 5);
"""

PLACES = """
const links = document.querySelectorAll("#search-results ul.search > li > a");
return [...links].map((one) => one.getAttribute("href").replace(/^docs\\/|\\.html/g, ""));
"""


def test_a_question_finds_its_page_among_the_first(search):
    missed = {}
    for question, wanted in QUESTIONS.items():
        places = search(question)[:FIRST]
        found = {*places, *(one.partition('#')[0] for one in places)}
        if not wanted & found:
            missed[question] = places
    assert missed == {}


def test_words_that_no_page_has_find_nothing(search):
    assert search('zyzzyva quux') == []

"""Draws docs/console.png, docs/watch.png and docs/errorpage.png from two real sites.

    python docs/pictures.py

serves a site with workers and one under --reload whose code is broken. Chromium shows a
page of each, and what `status --watch` has written to a terminal.
"""

import contextlib
import html
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

from paste_wspbus.command.screen import (  # noqa: E402
    BELOW,
    COLOURS,
    END_OF_LINE,
    HOME,
    NO_COLOUR,
)
from tests.kit.browser import Browser  # noqa: E402
from tests.kit.screens import Screen  # noqa: E402

WSPSERVE = Path(sys.executable).with_name('wspserve')

SITE = """
[wspbus:main]
plugins = db
workers = {workers}
ops = 127.0.0.1:{ops}
ops_pages = true

[plugin:db]
use = call:shop:db

[app:main]
paste.app_factory = shop:app

[server:main]
use = egg:waitress
listen = 127.0.0.1:{port}
"""

CODE = """import time


def db(bus, global_conf):
    bus.make_checks().add('db', lambda: 'it answers')
    yield 'the database'


def app(global_conf):
    price = {price}

    def answer(environ, start_response):
        time.sleep(12 if environ['PATH_INFO'] == '/report' else 0.02)
        start_response('200 OK', [('Content-Type', 'text/plain')])
        return [str(price).encode()]

    return answer
"""


#: A terminal as a page, its width and height.
TERMINAL = """<!doctype html><meta charset="utf-8"><style>
body { margin: 0; padding: 14px 18px; background: #14171c; color: #d6dae0;
  font: 14px/1.35 "DejaVu Sans Mono", monospace }
pre { margin: 0; font: inherit }
.heading { color: #fff; font-weight: bold } .good { color: #6cc76c }
.busy { color: #e0b050 } .bad { color: #f07070 }
</style><pre>%s</pre>"""
SIZE = 800, 380


@contextlib.contextmanager
def site(port, price, *options, workers=2):
    """Serve a site; yield its folder, its URL and that of its ops listener when it answers."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, 'shop')
        folder.mkdir()
        ini = SITE.format(port=port, ops=port + 1, workers=workers)
        Path(folder, 'shop.ini').write_text(ini)
        Path(folder, 'shop.py').write_text(CODE.format(price=price))
        process = subprocess.Popen([WSPSERVE, 'shop.ini', *options], cwd=folder)
        try:
            url = f'http://127.0.0.1:{port}/'
            wait_for(url)
            yield folder, url, f'http://127.0.0.1:{port + 1}/'
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()


def wait_for(url):
    """Wait until a site answers, with whatever status.

    :raises TimeoutError: if it does not.
    """
    for _ in range(200):
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError(url)


def main():
    """Draw the pictures."""
    with tempfile.TemporaryDirectory() as profile, Browser(profile) as browser:
        browser.prefer('light')
        with site(18770, "{'tea': 3}") as (folder, url, ops):
            asked = threading.Thread(target=fetch, args=(f'{url}report',))
            asked.start()
            browser.resize(1000, 900)
            browser.open(ops)
            browser.shows('Live')
            for number in range(150):
                fetch(f'{url}item/{number % 3}')
            time.sleep(3)  # the page gets a sample of the numbers each two seconds
            (DOCS / 'console.png').write_bytes(browser.picture())
            page = folder / 'watch.html'
            page.write_text(TERMINAL % as_html(watched(folder)), encoding='utf-8')
            browser.resize(*SIZE)
            browser.open(page.as_uri())
            (DOCS / 'watch.png').write_bytes(browser.picture())
            asked.join()
        with site(18772, "prices['tea']", '--reload', workers=0) as (_, url, _):
            browser.resize(1000, 560)
            browser.open(url)
            browser.shows('prices')
            (DOCS / 'errorpage.png').write_bytes(browser.picture())


def watched(folder):
    """Return what `status --watch` shows on a terminal when a request is in flight."""
    with Screen(folder, 'shop.ini', 'status', '--watch', size=(88, 18)) as screen:
        screen.shows('/report')
        screen.press('g')
        screen.shows('generation 2')
        screen.press('q')
        screen.ends(0)
        frames = screen.text.split(HOME)
    frame = next(one for one in frames if 'generation 2' in one)
    return frame.partition(BELOW)[0]


def as_html(frame):
    """Return the lines of a frame, with an element for each style."""
    text = html.escape(frame.replace('\r', '').replace(END_OF_LINE, ''))
    text = text.replace(NO_COLOUR, '</span>')
    for name, sequence in COLOURS.items():
        text = text.replace(sequence, f'<span class="{name}">')
    return re.sub(r'\x1b\[[?0-9;]*[a-zA-Z]', '', text)


def fetch(url):
    """Ask for a page, and drop what comes."""
    with contextlib.suppress(OSError):
        urllib.request.urlopen(url, timeout=60).close()


if __name__ == '__main__':
    main()

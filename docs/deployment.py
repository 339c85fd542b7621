"""Draws docs/deployment.svg: a deployment that breaks and one that works, under load.

    make deployment         or: python docs/deployment.py [FILE.svg]

serves a site by two workers, has four clients ask for its page without a pause, deploys
code that cannot be imported, deploys code that can, and draws what each client got.
"""

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

from timeline import BAR, STYLE, WIDTH, Panel, _bar, _text

PICTURE = Path(__file__).resolve().with_suffix('.svg')
WSPSERVE = Path(sys.executable).with_name('wspserve')

INI = """
[wspbus:main]
workers = 2
soak = 1
[app:main]
use = call:shop:make_app
[server:main]
use = egg:waitress
listen = 127.0.0.1:0
"""

#: It answers with its version and its process, after as long as a page may take.
APP = """
import os, time

def make_app(global_conf):
    def app(environ, start_response):
        time.sleep(0.05)
        start_response('200 OK', [('Content-Type', 'text/plain')])
        return [f'VERSION {os.getpid()}'.encode()]
    return app
"""

CLIENTS = 4


class Answer(NamedTuple):
    """What a client got: times of `time.monotonic()`, in seconds."""

    begun: float
    ended: float
    #: The version and the process, as in 'v1 4711'; the error of a request that failed.
    by: str
    failed: bool


class Command(NamedTuple):
    """A deployment: what was typed, when, and how it ended."""

    begun: float
    ended: float
    code: int
    says: str


# -- a run -------------------------------------------------------------------------


def record(folder):
    """Run the site in a folder; return the answers and the commands, in their order."""

    def run(*words):
        words = [str(WSPSERVE), 'site.ini', *words]
        return subprocess.run(words, cwd=folder, capture_output=True, text=True)

    def deploy(app):
        (folder / 'shop.py').write_text(app)
        begun = time.monotonic()
        done = run('graceful')
        says = (done.stdout + done.stderr).strip()
        return Command(begun, time.monotonic(), done.returncode, says)

    (folder / 'site.ini').write_text(INI)
    (folder / 'shop.py').write_text(APP.replace('VERSION', 'v1'))
    started = run('start').stdout
    url = started.partition('Serving on ')[2].split()[0]
    answers, ended = [], threading.Event()
    clients = [
        threading.Thread(target=ask, args=[url, answers, ended]) for _ in range(CLIENTS)
    ]
    try:
        for client in clients:
            client.start()
        time.sleep(0.5)
        commands = [deploy('import cheesecake\n')]
        time.sleep(0.5)
        commands.append(deploy(APP.replace('VERSION', 'v2')))
        time.sleep(0.5)
    finally:
        ended.set()
        for client in clients:
            client.join()
        run('stop')
    return sorted(answers), commands


def ask(url, answers, ended):
    """Ask for a page again and again."""
    while not ended.is_set():
        begun = time.monotonic()
        try:
            with urllib.request.urlopen(url, timeout=20) as page:
                by, failed = page.read().decode(), False
        except OSError as error:
            by, failed = str(error), True
        answers.append(Answer(begun, time.monotonic(), by, failed))


# -- its picture -------------------------------------------------------------------

TOP, ROW, LEFT = 64, 30, 150

COLOURS = {'v1': '#6f42c1', 'v2': '#0b7068', 'failed': '#cf222e'}


def draw(answers, commands):
    """The picture, as text of SVG."""
    rows = list(dict.fromkeys('failed' if one.failed else one.by for one in answers))
    height = TOP + ROW * (len(rows) + len(commands)) + 30
    first, last = answers[0].begun, max(one.ended for one in answers)
    panel = Panel('', LEFT, WIDTH - 16, first, last, first)
    failed = sum(one.failed for one in answers)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img">',
        '<title>A deployment that fails changes nothing</title>',
        f'<style>{STYLE}</style>',
        f'<rect class="paper" x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1}" rx="6"/>',
        _text(
            'title',
            16,
            24,
            f'{len(answers)} requests of {CLIENTS} clients, {failed} failed',
        ),
    ]
    for second in range(int(last - first) + 1):
        x = panel.x(first + second)
        lines.append(f'<path class="grid" d="M{x:.1f} {TOP - 18}V{height - 26}"/>')
        lines.append(_text('number', x, height - 10, f'{second} s', 'middle'))
    y = TOP
    for command in commands:
        colour = '#57606a' if command.code else '#1a7f37'
        code = 'broken code' if command.code else 'good code'
        lines.append(_text('part', 16, y + 14, code))
        lines.append(_bar(panel, command.begun, command.ended, y, colour, 'open'))
        says = re.split(r': | \(|\.$', command.says)[0]
        text = f'graceful, exit code {command.code}: {says}'
        lines.append(_text('name', panel.x(command.begun) + 4, y + 14, text))
        y += ROW
    for row in rows:
        lines += _row(panel, row, answers, y)
        y += ROW
    lines.append('</svg>')
    return '\n'.join(lines) + '\n'


def _row(panel, row, answers, y):
    """A process, and each request that it has answered; or the requests that failed."""
    mine = [one for one in answers if ('failed' if one.failed else one.by) == row]
    colour = COLOURS[row.partition(' ')[0]]
    yield _text('part', 16, y + 14, row.replace(' ', ', process '))
    yield _bar(panel, mine[0].begun, mine[-1].ended, y, colour, 'open')
    ticks = ''.join(f'M{panel.x(one.ended):.1f} {y}v{BAR}' for one in mine)
    yield f'<path d="{ticks}" stroke="{colour}" stroke-width="1.5"/>'


if __name__ == '__main__':
    os.environ.pop('PORT', None)
    picture = Path(*sys.argv[1:] or [PICTURE])
    with tempfile.TemporaryDirectory() as folder:
        picture.write_text(draw(*record(Path(folder))))

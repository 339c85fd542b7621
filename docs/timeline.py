"""Draws docs/timeline.svg: a start and a stop of sample_ini/mixed, as they were.

    make timeline           or: python docs/timeline.py [FILE.svg]

serves the sample by `wspserve`, has each of its four frameworks answer a slow request,
sends one SIGINT meanwhile, and draws what `bus.timeline` told.
"""

import json
import math
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

SAMPLE = Path(__file__).resolve().parent.parent / 'sample_ini' / 'mixed'
PICTURE = Path(__file__).resolve().with_suffix('.svg')

PLUGIN = """
[wspbus:main]
plugins = recorder

[plugin:recorder]
use = call:timeline:recorder
path = %(here)s/run.json
"""

#: What is asked of the four before the SIGINT, a quarter of a second apart.
PATHS = '/report', '/api/report', '/old/report', '/shop/report'
APART = 0.25


# -- a run -------------------------------------------------------------------------


def recorder(bus, global_conf, path):
    """``[plugin:recorder]``: at exit, one line of JSON is appended to the file ``path``.

    ``calls`` of listeners, ``requests``, and the bus's ``log``; times are seconds since
    the epoch, durations seconds.
    """
    requests, log = [], []

    def begin(environ):
        path = environ['SCRIPT_NAME'] + environ['PATH_INFO']
        environ['recorder.request'] = {'path': path, 'start': time.time()}

    def end(environ):
        requests.append({**environ['recorder.request'], 'end': time.time()})

    def write():
        names = 'channel', 'name', 'start', 'duration', 'outcome'
        calls = [{name: getattr(call, name) for name in names} for call in bus.timeline]
        with open(path, 'a') as file:
            run = {'calls': calls, 'requests': requests, 'log': log}
            file.write(json.dumps(run) + '\n')

    bus.subscribe('before_request', begin)
    bus.subscribe('after_request', end)
    bus.subscribe('log', lambda message, level: log.append([time.time(), message]))
    bus.subscribe('exit', write, priority=float('inf'))


def copy_with_recorder(folder):
    """The sample, in a new folder, with the plugin that records its runs in run.json."""
    shutil.copytree(SAMPLE, folder, ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copy(__file__, folder)
    with open(folder / 'site.ini', 'a') as ini:
        ini.write(PLUGIN)


def record(folder):
    """Serve the sample, stop it by one SIGINT, return what was recorded."""
    copy_with_recorder(folder)
    words = ['-m', 'paste_wspbus', folder / 'site.ini', '--listen', '127.0.0.1:0']
    with (
        ThreadPoolExecutor(len(PATHS)) as clients,
        subprocess.Popen(
            [sys.executable, *words], stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        try:
            url = next(line for line in process.stdout if 'Serving' in line).split()[-1]
            answers = []
            for path in PATHS:
                answers.append(clients.submit(ask, url + path))
                time.sleep(APART)
            process.send_signal(signal.SIGINT)
            for answer in answers:
                print(answer.result(), end='')
            if process.wait(60) != 0:
                raise SystemExit('The site did not stop as it should')
        finally:
            process.kill()
    return json.loads((folder / 'run.json').read_text())


def ask(url):
    """The text of a response; :raises OSError: if it is not whole, or not 200."""
    with urllib.request.urlopen(url, timeout=60) as response:
        return response.read().decode()


# -- its picture -------------------------------------------------------------------


class Part(NamedTuple):
    """Something that was started and stopped: a row of the picture."""

    name: str
    start: dict
    stop: dict


class Panel(NamedTuple):
    """A stretch of time, linear: from ``first`` to ``last``, ``left`` to ``right``."""

    title: str
    left: float
    right: float
    first: float
    last: float
    zero: float

    def x(self, moment):
        """Where it is, in the panel or at its nearer edge."""
        share = (moment - self.first) / (self.last - self.first)
        return self.left + min(max(share, 0), 1) * (self.right - self.left)

    def ticks(self):
        """Milliseconds since ``zero``, at round distances: two to five of them."""
        first, last = ((one - self.zero) * 1000 for one in (self.first, self.last))
        power = 10 ** math.floor(math.log10(last - first))
        step = next(
            step
            for step in (0.2 * power, 0.5 * power, power, 2 * power, 5 * power)
            if (last - first) / step < 5
        )
        return [
            number * step
            for number in range(math.ceil(first / step), math.floor(last / step) + 1)
        ]


#: By the names in the timeline: who it is of, where that is, and its colour.
OF = {
    'guests': ('Pyramid', '/api', '#a34a00'),
    'letters': ('Pylons', '/old', '#6f42c1'),
    'clerks': ('Flask', '/shop', '#0b7068'),
    'Uploads': ('CherryPy', '/', '#b32d3a'),
    'WaitressServer': ('HTTP server', '', '#4a5a6a'),
}

WIDTH, TOP, ROW, BAR = 880, 56, 36, 20

STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #1f2328 }
  .paper { fill: #fff; stroke: #d1d9e0 }
  .name, .number { font: 11px ui-monospace, monospace; fill: #57606a }
  .title, .part { font-weight: 600 }
  .inside { font-size: 11px; fill: #fff }
  .open { opacity: .2 }
  .grid { stroke: #d1d9e0 }
  .signal { stroke: #1f2328; stroke-width: 1.5; stroke-dasharray: 4 3 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .paper { fill: #0d1117; stroke: #3d444d }
    .name, .number { fill: #9aa5b1 }
    .inside { fill: #fff }
    .open { opacity: .45 }
    .grid { stroke: #3d444d }
    .signal { stroke: #e6edf3 }
  }
"""


def parts(run):
    """In the order of their start; of listeners that have nothing to stop, none."""
    stops = {name_of(call): call for call in run['calls'] if call['channel'] == 'stop'}
    return [
        Part(name_of(call), call, stops[name_of(call)])
        for call in run['calls']
        if call['channel'] == 'start' and name_of(call) in stops
    ]


def name_of(call):
    """Of a part, without the module and the channel of its listener."""
    name = call['name'].removesuffix('.start').removesuffix('.stop')
    return name.rpartition('.')[2]


def _end(call):
    return call['start'] + call['duration']


def draw(run):
    """The picture, as text of SVG."""
    rows = parts(run)
    height = TOP + ROW * len(rows) + 34
    panels = _panels(run, rows)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img">',
        '<title>A start and a stop of four frameworks on one bus</title>',
        f'<style>{STYLE}</style>',
        f'<rect class="paper" x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1}" rx="6"/>',
    ]
    for panel in panels:
        lines += _frame(panel, height)
    x = panels[1].x(panels[1].zero)
    lines += [
        f'<path class="signal" d="M{x:.1f} {TOP - 8}V{height - 30}"/>',
        _text('name', x, TOP - 12, 'SIGINT', 'middle'),
    ]
    for number, part in enumerate(rows):
        lines += _row(part, TOP + ROW * number, panels, run['requests'])
    lines.append('</svg>')
    return '\n'.join(lines) + '\n'


def _panels(run, rows):
    server = rows[-1]
    signalled = next(at for at, message in run['log'] if 'SIGINT' in message)
    began = min(one['start'] for one in run['requests'])
    opened, answered = rows[0].start['start'], _end(server.stop)
    return (
        Panel('start (ms)', 170, 350, opened, _end(server.start), opened),
        Panel(
            'requests in flight, and Ctrl-C (ms)', 372, 650, began, answered, signalled
        ),
        Panel(
            'stop, in reverse (ms)', 672, 862, answered, _end(rows[0].stop), answered
        ),
    )


def _frame(panel, height):
    yield _text('title', panel.left, 24, panel.title)
    for tick in panel.ticks():
        x = panel.x(panel.zero + tick / 1000)
        yield f'<path class="grid" d="M{x:.1f} {TOP - 8}V{height - 30}"/>'
        yield _text('number', x, height - 16, f'{tick:g}', 'middle')


def _row(part, y, panels, requests):
    start, ctrl_c, stop = panels
    of, path, colour = OF.get(part.name, ('', '', '#57606a'))
    yield _text('part', 16, y + 9, f'{of} {path}')
    yield _text('name', 16, y + 23, part.name)
    opened, closed = _end(part.start), part.stop['start']
    for panel in panels:
        if panel.first < closed and opened < panel.last:
            yield _bar(panel, opened, closed, y, colour, 'open')
    for one in requests:
        if path and one['path'] == f'{path.rstrip("/")}/report':
            yield _bar(ctrl_c, one['start'], one['end'], y, colour)
            yield _text('inside', ctrl_c.x(one['start']) + 6, y + 14, one['path'])
            yield _text('inside', ctrl_c.x(one['end']) - 6, y + 14, 'answered', 'end')
    for panel, call in ((start, part.start), (ctrl_c, part.stop), (stop, part.stop)):
        if panel.first <= call['start'] < panel.last:
            yield _bar(panel, call['start'], _end(call), y, colour)
            yield _took(panel, call, y + 14)


def _bar(panel, first, last, y, colour, kind='bar'):
    x = panel.x(first)
    width = max(panel.x(last) - x, 1.5)
    return (
        f'<rect class="{kind}" x="{x:.1f}" y="{y}" width="{width:.1f}" '
        f'height="{BAR}" rx="2" fill="{colour}"/>'
    )


def _took(panel, call, y):
    """How long it took: in the bar, or beside it where there is more room."""
    left, right = panel.x(call['start']), panel.x(_end(call))
    took = call['duration'] * 1000
    text = f'{took:.0f} ms' if took >= 10 else f'{took:.2g} ms'
    if right - left > 60:
        return _text('inside', (left + right) / 2, y, text, 'middle')
    if left < (panel.left + panel.right) / 2:
        return _text('number', right + 4, y, text)
    return _text('number', left - 4, y, text, 'end')


def _text(kind, x, y, text, anchor='start'):
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y}" text-anchor="{anchor}">'
        f'{escape(text)}</text>'
    )


if __name__ == '__main__':
    picture = Path(*sys.argv[1:] or [PICTURE])
    with tempfile.TemporaryDirectory() as folder:
        picture.write_text(draw(record(Path(folder) / 'site')))

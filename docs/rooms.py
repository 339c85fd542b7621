"""Draws docs/rooms.svg: the rooms of the package, and which room may import which.

    python docs/rooms.py [FILE.svg]

reads the rooms from the contracts of import-linter in pyproject.toml.
"""

import sys
import tomllib
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / 'paste_wspbus'
PICTURE = Path(__file__).resolve().with_suffix('.svg')

#: What stands in the box of each room, below its name.
NOTES = {
    'testing': 'sites in tests',
    'hello': 'the sample application',
    'command': 'wspserve: parse, choose a runner, run, exit code',
    'workers': 'the supervisor, and the processes that it starts',
    'process': 'what a process holds: PID file, log file, sockets',
    'ops': 'the ops listener: probes, health, what the site does',
    'control': 'the control socket: status, stop, graceful',
    'metrics': 'what Prometheus reads',
    'handoff': 'how a component finds its bus: get_bus',
    'hosts': 'gunicorn, uWSGI, mod_wsgi, zdaemon',
    'cluster': 'several machines',
    'ini': 'from an .ini to a site that is loaded',
    'ready': 'ready-made plugins for the .ini',
    'requests': 'the WSGI filter around the application',
    'frameworks': 'Pyramid, Zope, CherryPy and others',
    'servers': 'waitress, cheroot, Paste and others',
    'plugins': 'signals, log, PID file, threads',
    'errorpage': 'the traceback in the browser',
    'listening': 'sockets',
    'watching': 'changed files',
    'unix': 'users, processes',
    'reference': 'a bus as a string',
    'templates': 'new packages',
    'migration': 'from uWSGI',
    'bus': 'the state machine',
    'errors': 'all errors',
    'exits': 'exit codes',
    'forks': 'what a fork closes',
    'streams': 'stdout and stderr, whatever is there',
    'unreadable': 'folders of modules that cannot be read',
    'inbox': 'reads messages',
    'report': 'sends messages',
    'role': 'a worker’s task',
    'wire': 'all messages',
    'values': 'texts to values',
}

WIDTH, LEFT, RIGHT, TOP, ROW, BOX, GAP = 880, 64, 864, 24, 48, 40, 8

STYLE = """
  text { font: 11px system-ui, sans-serif; fill: #57606a; text-anchor: middle }
  .name { font: 600 13px ui-monospace, monospace; fill: #1f2328 }
  .paper { fill: #fff; stroke: #d1d9e0 }
  .folder { fill: #ddeaf8; stroke: #7fa6d0 }
  .file { fill: #fff; stroke: #7fa6d0 }
  .entry { fill: none; stroke: #8c959f; stroke-dasharray: 4 3 }
  .arrow { fill: none; stroke: #57606a; stroke-width: 1.5 }
  .head { fill: #57606a }
  @media (prefers-color-scheme: dark) {
    text { fill: #9aa5b1 }
    .name { fill: #e6edf3 }
    .paper { fill: #0d1117; stroke: #3d444d }
    .folder { fill: #1b3350; stroke: #4f7cac }
    .file { fill: #0d1117; stroke: #4f7cac }
    .entry { stroke: #6e7681 }
    .arrow { stroke: #9aa5b1 }
    .head { fill: #9aa5b1 }
  }
"""


class Rooms(NamedTuple):
    """``rows``: each a list of names, the highest first; ``entries``: entry points."""

    rows: list[list[str]]
    entries: list[str]

    @property
    def names(self):
        """The rooms, from the highest row to the lowest."""
        return [name for row in self.rows for name in row]


def rooms():
    """What pyproject.toml says."""
    text = (ROOT / 'pyproject.toml').read_text()
    contracts = tomllib.loads(text)['tool']['importlinter']['contracts']
    layers = next(one for one in contracts if one['type'] == 'layers')
    entries = next(one for one in contracts if one['type'] == 'protected')
    return Rooms(
        [row.split(' : ') for row in layers['layers']],
        [name.partition('.')[2] for name in entries['protected_modules']],
    )


def file_of(name):
    """The file or folder of a room or module, such as 'bus/' or 'hosts/zdrun.py'."""
    path = name.replace('.', '/')
    return f'{path}/' if (PACKAGE / path).is_dir() else f'{path}.py'


def draw(rooms):
    """The picture, as text of SVG."""
    rows = [rooms.entries, *rooms.rows]
    height = TOP + ROW * len(rows) + 16
    first, last = TOP + ROW, TOP + ROW * len(rows) - GAP
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img">',
        '<title>The rooms of paste_wspbus: each imports only from rows below it</title>',
        f'<style>{STYLE}</style>',
        f'<rect class="paper" x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1}" rx="6"/>',
        f'<path class="arrow" d="M44 {first}V{last - 8}"/>',
        f'<path class="head" d="M39 {last - 9}h10l-5 9z"/>',
        f'<text transform="translate(30 {(first + last) // 2}) rotate(-90)">'
        'a room imports only from the rows below it</text>',
    ]
    for number, row in enumerate(rows):
        lines += _row(row, TOP + ROW * number, is_entry=number == 0)
    lines.append('</svg>')
    return '\n'.join(lines) + '\n'


def _row(names, y, is_entry):
    files = [file_of(name) for name in names]
    # The names of entry points differ much in length.
    shares = [len(file) + 4 if is_entry else 1 for file in files]
    room, x = RIGHT - LEFT - GAP * (len(names) - 1), LEFT
    for name, file, share in zip(names, files, shares, strict=True):
        width = room * share / sum(shares)
        kind = 'entry' if is_entry else 'folder' if file.endswith('/') else 'file'
        note = 'nobody imports it' if is_entry else NOTES[name]
        yield (
            f'<rect class="{kind}" x="{x:.1f}" y="{y}" width="{width:.1f}" '
            f'height="{BOX}" rx="4"/>'
        )
        middle = x + width / 2
        yield f'<text class="name" x="{middle:.1f}" y="{y + 17}">{escape(file)}</text>'
        yield f'<text x="{middle:.1f}" y="{y + 32}">{escape(note)}</text>'
        x += width + GAP


if __name__ == '__main__':
    Path(*sys.argv[1:] or [PICTURE]).write_text(draw(rooms()))

"""Run the benchmarks, and write what they print as docs/records.md."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

#: (the section, the question that it answers, [(benchmark, options, quick options)]).
RECORDS = [
    (
        'Reload',
        'How long is it from an edit to its first response?',
        [
            (
                'reload.py',
                'edits first stale --rounds 10',
                'edits first stale --rounds 2 --starts-edited 1 --saves 1',
            ),
        ],
    ),
    (
        'Restarts and faults',
        'What do clients lose?',
        [
            (
                'restart.py',
                'graceful broken alone',
                'graceful broken alone --restarts 2 --requests 200 --alone 1',
            ),
            ('restart.py', 'kill --seconds 15', 'kill --seconds 3'),
            ('stop.py', '--rounds 5 --stops 10', '--rounds 2 --stops 2'),
            ('faults.py', '', '--seconds 5'),
            ('watched.py', '', 'waitress --requests 500'),
            ('recycling.py', '', '--times 1'),
        ],
    ),
    (
        'Requests',
        'How many requests a second, and what does each cost?',
        [
            (
                'throughput.py',
                'waitress others --rounds 6',
                'waitress --rounds 2 --seconds 1',
            ),
            ('throughput.py', 'peers --rounds 6', 'peers --rounds 2 --seconds 1'),
            ('accesslog.py', '--rounds 5', '--rounds 2 --seconds 1'),
            ('spread.py', '', '--seconds 2'),
        ],
    ),
    (
        'Starts and memory',
        'What does a start take, and what does it hold?',
        [
            ('startup.py', '--rounds 10', '--rounds 2'),
            ('memory.py', '--rounds 5', '--rounds 2'),
            ('restart.py', 'memory', 'memory --servers wspserve'),
        ],
    ),
    (
        'Size',
        'How does it grow?',
        [
            ('scaling.py', '', '--rounds 2 --most 10'),
            ('growth.py', '', 'listeners --rounds 2 --most 1000'),
        ],
    ),
    (
        'The bus',
        'What does a call cost?',
        [
            ('publish.py', '', '--rounds 2'),
            ('wakeup.py', '--rounds 5', '--rounds 2 --idle-seconds 1'),
            ('status.py', '--rounds 5', '--rounds 2'),
        ],
    ),
    (
        'Seen',
        'What do metrics and probes cost, and are they right?',
        [
            (
                'metrics.py',
                '',
                '--rounds 2 --seconds 1 --requests 500 --restarts 2 --kills 1 --deaths 20',
            ),
            ('ops.py', '', '--seconds 1'),
        ],
    ),
    (
        'Endurance',
        'What remains of many starts, and of an hour?',
        [
            ('cycles.py', '--rounds 10000', '--rounds 200'),
            ('soak.py', '--minutes 60', '--minutes 1'),
        ],
    ),
]

#: The peers, as in the tables.
PEERS = [
    'CherryPy',
    'cheroot',
    'granian',
    'gunicorn',
    'magicbus',
    'Paste',
    'PasteScript',
    'pyramid',
    'uvicorn',
    'uWSGI',
    'waitress',
    'werkzeug',
]

#: Why a peer is better: (the beginning of the figure, a part of the peer's name, the reason).
WHY = [
    ('SIGTERM', '', 'The signal ends it at once: it stops nothing.'),
    (
        '',
        'the floor',
        'It is Python, PasteDeploy and waitress alone, as any start has them.',
    ),
    ('', 'no .ini', 'It reads no .ini and composes nothing.'),
    ('', 'magicbus', 'Its bus is smaller: no deadlines, no timeline.'),
    ('', 'uWSGI', 'uWSGI is written in C: Python runs only the application.'),
    (
        '',
        'granian',
        "granian's server is written in Rust: Python runs only the application.",
    ),
    (
        '',
        'ten',
        'The script starts a server and nothing else: no log, no signals, no bus.',
    ),
    ('', 'blinker', 'blinker calls its receivers and collects no exceptions.'),
    ('', 'plain loop', 'A loop over functions is what any bus adds its promises to.'),
    (
        '',
        'waitress',
        'It keeps no record of its requests: nobody can ask it what it does.',
    ),
]

#: What an earlier page has of one benchmark.
BLOCK = re.compile(
    r'^`python benchmarks/(?P<command>(?P<script>\S+\.py)[^`]*)` \((?P<how>[^)]*)\)\n\n'
    r'```text\n(?P<text>.*?)^```$',
    re.M | re.S,
)

TARGET = re.compile(r'^  target: (.+?) (at (?:most|least) \S+): (.+)$')
TITLE = re.compile(r'^(\S.*?)(?:, (\S*))?, \d+ rounds$')
ROW = re.compile(
    r'^  (?P<name>.{26}) *(?P<median>[\d.e+-]+) +\S+ – \S+ +(?P<compared>[\d.e+-]+)  '
)


class Output(NamedTuple):
    """What one benchmark has printed."""

    #: Without `python benchmarks/`.
    command: str
    #: When it was run, how long that took, and the load average at its beginning.
    how: str
    lines: list[str]


def earlier(path: Path) -> dict[tuple[str, str, int], Output]:
    """Return what a page has: by the section, the script, and its number in that section."""
    found = dict[tuple[str, str, int], Output]()
    text = path.read_text() if path.exists() else ''
    for section in re.split(r'^## ', text, flags=re.M)[1:]:
        title, _, body = section.partition('\n')
        for block in BLOCK.finditer(body):
            number = sum(key[:2] == (title, block['script']) for key in found)
            lines = block['text'].splitlines()
            output = Output(block['command'], block['how'], lines)
            found[title, block['script'], number] = output
    return found


def run(script: str, words: str) -> Output:
    """Run one benchmark and show its output."""
    command = [
        sys.executable,
        '-u',
        str(Path(__file__).with_name(script)),
        *words.split(),
    ]
    print(f'\n$ python benchmarks/{script} {words}'.rstrip(), flush=True)
    load, begun, lines = os.getloadavg()[0], time.monotonic(), []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent
    ) as process:
        for line in process.stdout:
            print(line, end='', flush=True)
            if not line.startswith('round '):
                lines.append(line.rstrip())
    today = f'{datetime.datetime.now(datetime.UTC):%Y-%m-%d}'
    how = f'{today}, {time.monotonic() - begun:.0f} s, load {load:.1f}'
    if process.returncode:
        how += f'; it failed with exit code {process.returncode}'
    return Output(f'{script} {words}'.rstrip(), how, lines)


def targets(lines: list[str]) -> list[tuple[str, str, str]]:
    """Return (what, the target, the value and whether it was met) of an output.

    What is judged in several tables has the title of the table, too.
    """
    found, title = [], ''
    for line in lines:
        if heading := TITLE.match(line):
            title = heading[1]
        elif target := TARGET.match(line):
            found.append((title, *target.groups()))
    names = [what for _, what, *_ in found]
    return [
        (f'{title}: {what}' if names.count(what) > 1 else what, *values)
        for title, what, *values in found
    ]


def better_peers(lines: list[str]) -> list[tuple[str, str, str]]:
    """Return (the figure, the peer, how much) for each peer that was better in a table."""
    found, title, is_rate, ratio = [], '', False, ''
    for line in lines:
        if heading := TITLE.match(line):
            title, is_rate = heading[1], heading[2] == '1/s'
        elif 'median' in line and '95 %' in line:
            ratio = next((r for r in ('ours ÷ peer', 'peer ÷ ours') if r in line), '')
        elif ratio and (row := ROW.match(line)):
            value = float(row['compared'])
            ours = value if ratio == 'ours ÷ peer' else 1 / value if value else 0
            is_better = ours < 0.98 if is_rate else ours > 1.02
            if is_better and not row['name'].startswith('paste_wspbus'):
                found.append((title, row['name'].strip().strip('()'), f'{ours:.2f}'))
    return found


def machine() -> list[str]:
    """Return lines about the machine and the versions."""
    model = re.search(r'^model name\s*: (.+)', Path('/proc/cpuinfo').read_text(), re.M)
    memory = re.search(r'^MemTotal: *(\d+)', Path('/proc/meminfo').read_text(), re.M)
    versions = []
    for peer in PEERS:
        try:
            versions.append(f'{peer} {importlib.metadata.version(peer)}')
        except importlib.metadata.PackageNotFoundError:
            versions.append(f'{peer}: not installed')
    if shutil.which('wrk') is None:
        versions.append('wrk: not installed')
    ours = importlib.metadata.version('paste_wspbus')
    processors = (
        os.process_cpu_count() if sys.version_info >= (3, 13) else os.cpu_count()
    )
    return [
        f'- Machine: {processors} processors ({model[1] if model else "unknown"}), '
        f'{int(memory[1]) / 1e6:.0f} GB, Linux {platform.release().partition("-")[0]}',
        f'- paste_wspbus {ours}, Python {platform.python_version()}',
        f'- Peers: {", ".join(versions)}',
    ]


def row(*cells: str) -> str:
    """Return a row of a table in Markdown."""
    return f'| {" | ".join(cell.replace("|", "/") for cell in cells)} |'


def measured(
    options: argparse.Namespace,
) -> Iterator[tuple[str, str, list[Output]]]:
    """Run the benchmarks that were asked for; yield each section with their outputs.

    If not all were asked for, the others are those of the page that is there.
    """
    known = earlier(options.output) if options.only else {}
    for section, question, commands in RECORDS:
        found, seen = list[Output](), list[str]()
        for script, full, quick in commands:
            key = section, script, seen.count(script)
            seen.append(script)
            if not options.only or script.removesuffix('.py') in options.only:
                words = quick if options.quick else full
                if options.rounds and '--rounds' in words:
                    words = re.sub(r'--rounds \d+', f'--rounds {options.rounds}', words)
                found.append(run(script, words))
            elif key in known:
                found.append(known[key])
        if found:
            yield section, question, found


def page(options: argparse.Namespace) -> str:
    """Run the benchmarks; return docs/records.md."""
    text = [
        '# Records',
        '',
        'This page is the output of `make records`. Each benchmark measures paste_wspbus and',
        'its peers in the same run, in turn. What counts is the ratio in a run, not the times:',
        'they depend on the machine. [How the benchmarks measure](../benchmarks/README.md).',
        '',
        *machine(),
    ]
    text += [
        '',
        'Each command has the date, the seconds that it took, and the load average when it began.',
        'A command with few rounds is of the quick form: its intervals are wide.',
    ]
    judged, outputs, better = [], [], []
    for section, question, found in measured(options):
        outputs += ['', f'## {section}', '', question]
        for output in found:
            judged += [(section, *target) for target in targets(output.lines)]
            better += better_peers(output.lines)
            title = f'`python benchmarks/{output.command}` ({output.how})'
            outputs += ['', title, '', '```text', *output.lines, '```']
    text += ['', '## Targets', '', row('', 'figure', 'target', 'measured')]
    text += [row(*'----')] + [row(*line) for line in judged]
    text += ['', '## Where a peer is better', '']
    text += [row('figure', 'peer', 'ours ÷ peer', 'why'), row(*'----')]
    text += [
        row(figure, peer, ours, why(figure, peer)) for figure, peer, ours in better
    ]
    if not better:
        text[-2:] = ['In no table of this run.']
    return '\n'.join(text + outputs) + '\n'


def why(figure: str, peer: str) -> str:
    """Return why this peer is better in a figure, or nothing if nobody has looked."""
    return next(
        (
            text
            for begin, part, text in WHY
            if figure.startswith(begin) and part in peer
        ),
        '',
    )


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--quick', action='store_true', help='few rounds of the smallest'
    )
    parser.add_argument(
        '--rounds', type=int, help='instead of the default of each benchmark'
    )
    parser.add_argument(
        '--only',
        default='',
        help='names of benchmarks, by commas: the page keeps what it has of the others',
    )
    default = Path(__file__).parents[1] / 'docs' / 'records.md'
    parser.add_argument('-o', '--output', type=Path, default=default)
    options = parser.parse_args()
    options.only = [name for name in options.only.split(',') if name]
    known = {
        script.removesuffix('.py') for *_, all_of in RECORDS for script, *_ in all_of
    }
    if wrong := [name for name in options.only if name not in known]:
        parser.error(f'no benchmark {wrong[0]}: there are {", ".join(sorted(known))}')
    options.output.write_text(page(options))
    print(f'\nWritten: {options.output}')


if __name__ == '__main__':
    main()

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
from pathlib import Path

#: (the section, the question that it answers, [(benchmark, options, quick options)]).
RECORDS = [
    (
        'Reload',
        'How long is it from an edit to its first response?',
        [
            (
                'reload.py',
                'edits first stale --rounds 10',
                'edits --sites small --rounds 2',
            ),
        ],
    ),
    (
        'Restarts and faults',
        'What do clients lose?',
        [
            (
                'restart.py',
                'graceful broken alone --seconds 10',
                'broken --servers wspserve',
            ),
            ('restart.py', 'kill --seconds 15', 'kill --seconds 3'),
            ('stop.py', '--rounds 5 --stops 10', '--rounds 2 --stops 2'),
            ('faults.py', '', 'crashes --seconds 5'),
            ('watched.py', '', 'waitress --requests 500'),
            ('recycling.py', '', '--times 1'),
        ],
    ),
    (
        'Requests',
        'How many requests a second, and what does each cost?',
        [
            ('throughput.py', '--rounds 6', 'waitress --rounds 2 --seconds 1'),
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

#: Why a peer is better, by the beginning of its name in a table.
WHY = {
    'the floor': 'It is Python, PasteDeploy and waitress alone, as any start has them.',
    'no .ini': 'It reads no .ini and composes nothing.',
    'magicbus': 'Its bus is smaller: no deadlines, no timeline.',
    'uWSGI': 'uWSGI is written in C: Python runs only the application.',
    'granian': "granian's server is written in Rust: Python runs only the application.",
    'ten': 'The script starts a server and nothing else: no log, no signals, no bus.',
    'blinker': 'blinker calls its receivers and collects no exceptions.',
    'plain loop': 'A loop over functions is what any bus adds its promises to.',
    'waitress': 'It keeps no record of its requests: nobody can ask it what it does.',
}

TARGET = re.compile(r'^  target: (.+?) (at (?:most|least) \S+): (.+)$')
TITLE = re.compile(r'^(\S.*?)(?:, (\S*))?, \d+ rounds$')
ROW = re.compile(
    r'^  (?P<name>.{26}) *(?P<median>[\d.e+-]+) +\S+ – \S+ +(?P<compared>[\d.e+-]+)  '
)


def run(script: str, words: str) -> tuple[list[str], float, int]:
    """Run one benchmark and show its output; return the lines, the seconds and the exit code."""
    command = [
        sys.executable,
        '-u',
        str(Path(__file__).with_name(script)),
        *words.split(),
    ]
    print(f'\n$ python benchmarks/{script} {words}'.rstrip(), flush=True)
    begun, lines = time.monotonic(), []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent
    ) as process:
        for line in process.stdout:
            print(line, end='', flush=True)
            lines.append(line.rstrip())
    return lines, time.monotonic() - begun, process.returncode


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
    """Return lines about the machine, the date and the versions."""
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
        f'- Date: {datetime.datetime.now(datetime.UTC):%Y-%m-%d}',
        f'- Machine: {processors} processors ({model[1] if model else "unknown"}), '
        f'{int(memory[1]) / 1e6:.0f} GB, Linux {platform.release().partition("-")[0]}',
        f'- Load when it began: {os.getloadavg()[0]:.1f}',
        f'- paste_wspbus {ours}, Python {platform.python_version()}',
        f'- Peers: {", ".join(versions)}',
    ]


def row(*cells: str) -> str:
    """Return a row of a table in Markdown."""
    return f'| {" | ".join(cell.replace("|", "/") for cell in cells)} |'


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
    if options.quick:
        text.append('- This is the quick form: few rounds. Its intervals are wide.')
    if options.only:
        text.append(f'- These benchmarks alone: {", ".join(options.only)}.')
    judged, outputs, better = [], [], []
    for section, question, commands in RECORDS:
        chosen = [
            one
            for one in commands
            if not options.only or one[0].removesuffix('.py') in options.only
        ]
        if chosen:
            outputs += ['', f'## {section}', '', question]
        for script, full, quick in chosen:
            words = quick if options.quick else full
            if options.rounds and '--rounds' in words:
                words = re.sub(r'--rounds \d+', f'--rounds {options.rounds}', words)
            lines, took, code = run(script, words)
            judged += [(section, *target) for target in targets(lines)]
            better += better_peers(lines)
            title = f'python benchmarks/{script} {words}'.rstrip()
            outputs += ['', f'`{title}` ({took:.0f} s)', '', '```text']
            outputs += [line for line in lines if not line.startswith('round ')]
            outputs += ['```']
            if code:
                outputs += ['', f'The command failed: exit code {code}.']
    text += ['', '## Targets', '', row('', 'figure', 'target', 'measured')]
    text += [row(*'----')] + [row(*line) for line in judged]
    text += ['', '## Where a peer is better', '']
    text += [row('figure', 'peer', 'ours ÷ peer', 'why'), row(*'----')]
    text += [row(figure, peer, ours, why(peer)) for figure, peer, ours in better]
    if not better:
        text[-2:] = ['In no table of this run.']
    return '\n'.join(text + outputs) + '\n'


def why(peer: str) -> str:
    """Return why this peer is better, or nothing if nobody has looked."""
    return next((WHY[name] for name in WHY if name in peer), '')


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--quick', action='store_true', help='few rounds of the smallest'
    )
    parser.add_argument(
        '--rounds', type=int, help='instead of the default of each benchmark'
    )
    parser.add_argument('--only', default='', help='names of benchmarks, by commas')
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

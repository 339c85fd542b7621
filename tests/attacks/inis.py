"""Mutated .ini files: ``python -m tests.attacks.inis --count 3000``.

`wspserve --check` checks each file, and then the site is started. Whatever is in the file, the
command must print what is wrong in a few lines, without a traceback, and must end itself or at
SIGTERM.
"""

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.kit.places import ROOT

#: Seconds within which a command must end.
LIMIT = 60

INI = """\
[DEFAULT]
name = value
[app:main]
use = egg:paste_wspbus#hello
filter-with = bus
[filter:bus]
use = egg:paste_wspbus#bus
[app:other]
use = call:webapp:make
set name = other
text = %(here)s/%(name)s
[composite:site]
use = egg:Paste#urlmap
/ = main
/other = other
[pipeline:long]
pipeline = bus main
[server:main]
use = egg:waitress
listen = 127.0.0.1:0
threads = 2
[wspbus:main]
use = egg:paste_wspbus#bus
plugins = db
workers = 0
stop_timeout = 20
drain_delay = 0
signal.SIGUSR1 = reopen_logs
[plugin:db]
use = call:webapp:db
url = %(ENV_HOME)s/db
[loggers]
keys = root
[handlers]
keys = console
[formatters]
keys = plain
[logger_root]
level = INFO
handlers = console
[handler_console]
class = StreamHandler
args = (sys.stderr,)
formatter = plain
[formatter_plain]
format = %(asctime)s %(message)s
"""

WEBAPP = """
def make(global_conf, **conf):
    def app(environ, start_response):
        start_response('200 OK', [('Content-Length', '2')])
        return [b'hi']
    return app


def db(bus, global_conf, url='', **conf):
    yield url
"""

VALUES = (
    *(
        '',
        '0',
        '-1',
        '1e999',
        'nan',
        '9' * 30,
        'true',
        '%',
        '%(',
        '%(name)s',
        '%(none)s',
    ),
    *(
        'egg:',
        'egg:paste_wspbus',
        'egg:none#x',
        'call:',
        'call:webapp',
        'call:webapp:none',
    ),
    *(
        'config:',
        'config:site.ini',
        'config:none.ini',
        '127.0.0.1:0',
        'unix:',
        'fd://9',
    ),
    *(
        '::1',
        '256.1.1.1:1',
        'main',
        'bus',
        'db db',
        'a, b',
        '\u202e',
        '\x00',
        '\x1b[31m',
        '…',
    ),
    *('x' * 5000, '500ms', '5s', 'auto', 'none', '${HOME}', '(', '"', "'", 'site'),
)

PIECES = (
    '[',
    ']',
    '=',
    ':',
    '#',
    ';',
    '%',
    '%(',
    ')s',
    '\n',
    '\n ',
    '\x00',
    '\ufeff',
    'é',
    '\t',
    '\r',
)


def mutated(seed):
    """Return an .ini with one to four random changes; a seed always makes the same ones."""
    dice = random.Random(seed)
    lines = INI.splitlines()
    for _ in range(dice.randint(1, 4)):
        change = dice.choice(CHANGES)
        change(lines, dice)
    text = '\n'.join(lines) + '\n'
    # More than 2 workers would only slow the machine down.
    return re.sub(r'(?m)^(\s*workers\s*[=:]).*\d\d.*$', r'\1 2', text)


def _drop(lines, dice):
    if lines:
        del lines[dice.randrange(len(lines))]


def _repeat(lines, dice):
    if lines:
        lines.insert(dice.randrange(len(lines)), dice.choice(lines))


def _swap(lines, dice):
    if lines:
        here, there = dice.randrange(len(lines)), dice.randrange(len(lines))
        lines[here], lines[there] = lines[there], lines[here]


def _set(lines, dice):
    keys = [number for number, line in enumerate(lines) if '=' in line]
    if keys:
        number = dice.choice(keys)
        lines[number] = f'{lines[number].partition("=")[0]}= {dice.choice(VALUES)}'


def _insert(lines, dice):
    if lines:
        number = dice.randrange(len(lines))
        at = dice.randint(0, len(lines[number]))
        piece = dice.choice(PIECES)
        lines[number] = lines[number][:at] + piece + lines[number][at:]


def _erase(lines, dice):
    if lines:
        number = dice.randrange(len(lines))
        at = dice.randint(0, len(lines[number]))
        lines[number] = lines[number][:at] + lines[number][at + dice.randint(1, 3) :]


def _cut(lines, dice):
    del lines[dice.randint(1, len(lines) + 1) :]


CHANGES = (_drop, _repeat, _swap, _set, _set, _set, _insert, _insert, _erase, _cut)


def _command(folder, *args):
    return subprocess.Popen(
        [sys.executable, '-m', 'paste_wspbus', 'site.ini', *args],
        cwd=folder,
        env={**os.environ, 'PYTHONPATH': f'{ROOT}{os.pathsep}{folder}', 'HOME': '/'},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _judge(process, what, seed, codes, stop=False):
    """Wait for the end of a command; return what is wrong with it, or ''."""
    out, is_late = b'', False
    try:
        if stop:
            for line in process.stdout:
                out += line
                if line.startswith(b'Serving on '):
                    process.send_signal(signal.SIGTERM)
        rest, err = process.communicate(timeout=LIMIT)
        out += rest
    except subprocess.TimeoutExpired:
        process.kill()
        err, is_late = process.communicate()[1], True
    text = err.decode(errors='replace')
    if is_late:
        return f'{what} {seed}: does not end\n{text}'
    if process.returncode not in codes:
        return f'{what} {seed}: exit code {process.returncode}\n{text}'
    if 'Traceback' in text:
        return f'{what} {seed}: traceback\n{text}'
    if process.returncode and not text.strip():
        return f'{what} {seed}: exit code {process.returncode}, and not a word'
    if any(ord(char) < 32 and char not in '\n\t' for char in text):
        return f'{what} {seed}: control characters\n{text!r}'
    return ''


def trial(seed):
    """Check and start one mutated file; return what is wrong, or ''."""
    with tempfile.TemporaryDirectory() as folder:
        text = mutated(seed)
        Path(folder, 'site.ini').write_text(text, newline='')
        Path(folder, 'webapp.py').write_text(WEBAPP)
        wrong = _judge(_command(folder, '--check'), '--check', seed, {0, 2})
        wrong = wrong or _judge(_command(folder), 'start', seed, {0, 1, 2}, stop=True)
        return wrong and f'{wrong}\n--- site.ini\n{text}'


def attack(count, first=0, jobs=2):
    """Try ``count`` files; return a text for each failure."""
    with ThreadPoolExecutor(jobs) as pool:
        return [one for one in pool.map(trial, range(first, first + count)) if one]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--count', type=int, default=100)
    parser.add_argument('--first', type=int, default=0, help='the first seed')
    parser.add_argument('--jobs', type=int, default=2)
    options = parser.parse_args()
    began = time.monotonic()
    wrong = attack(options.count, options.first, options.jobs)
    seconds = time.monotonic() - began
    print(
        f'{options.count} files, {len(wrong)} wrong, {seconds:.0f} s', *wrong, sep='\n'
    )
    return bool(wrong)


if __name__ == '__main__':
    sys.exit(main())

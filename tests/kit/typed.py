"""A page of the documentation, typed as it is printed: its files, and its commands."""

import os
import re
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement

from tests.kit.places import ROOT
from tests.kit.processes import BIN, PASTER_WARNINGS, PROGRESS, TIMEOUT

#: A fenced block; it may be indented, as in a list.
BLOCK = re.compile(r'^( *)```(\w*)\n(.*?)^\1```$', re.M | re.S)

#: The first line of a block that is a file.
NAME = re.compile(r'^# ([\w./-]+\.\w+|Dockerfile)$', re.M)

#: A line that stands for any number of lines, and a character that stands for any text.
ANY, SOME = '...', '…'


class File(NamedTuple):
    """A file that the reader writes."""

    name: str
    text: str


class Command(NamedTuple):
    """A command that the reader types, and the lines that it prints."""

    text: str
    lines: list[str]


def steps(page):
    """Yield what the reader of a page writes and types, in its order."""
    for block in BLOCK.finditer(page):
        text = re.sub(f'(?m)^{block[1]}', '', block[3])
        if name := NAME.match(text):
            yield File(name[1], text)
        elif text.startswith('$ '):
            for typed in re.split(r'(?m)^\$ ', text)[1:]:
                command, *lines = typed.splitlines()
                yield Command(command, lines)


def plain(line):
    """Return a line without its numbers, plurals, and the widths of its columns.

    A number alone is an exit code, which echo prints, and stays.
    """
    if line.strip().isdigit():
        return line.strip()
    line = re.sub(r'\d[\d.:,-]*', 'N', line).replace('N seconds', 'N second')
    return re.sub(r' +', ' ', line).strip()


def is_printed(wanted, printed):
    """Whether lines are those that a page shows; `...` there is any number of lines."""
    pattern = [
        r'(?:.*\n)*'
        if line == ANY
        else '.*'.join(map(re.escape, f'{plain(line)}\n'.split(SOME)))
        for line in wanted
    ]
    lines = [plain(line) for line in printed if not line.startswith(PROGRESS)]
    text = ''.join(f'{line}\n' for line in lines)
    return re.fullmatch(''.join(pattern), text) is not None


class Reader:
    """Somebody who types a page, in a folder of their own, with other ports.

    :param ports: those of the page, as texts, and others that are free.
    """

    def __init__(self, folder, ports):
        self.folder, self._ports = Path(folder), ports
        self._env = {
            **os.environ,
            'PATH': f'{BIN}{os.pathsep}{os.environ["PATH"]}',
            'PYTHONWARNINGS': PASTER_WARNINGS,
            'NO_COLOR': '1',
            # An edit of the same length in the same second has the same bytecode for Python.
            'PYTHONDONTWRITEBYTECODE': '1',
        }

    def type(self, step):
        """Write a file, or run a command and compare what it prints."""
        if isinstance(step, File):
            path = self.folder / step.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self._at_ports(step.text))
        elif step.text.startswith('cd '):
            self.folder /= step.text.removeprefix('cd ')
        elif step.text.startswith('pip install '):
            check_installed(step.text.removeprefix('pip install '))
        elif not step.text.startswith(('python3 -m venv ', '. ')):
            self._run(step)

    def _at_ports(self, text):
        for port, free in self._ports.items():
            text = text.replace(port, free)
        return text

    def _run(self, step):
        wanted = [self._at_ports(line) for line in step.lines]
        printed = self._output(step)
        if ':9100/' in step.text:  # a health check may not have run yet
            until = time.monotonic() + TIMEOUT
            while not is_printed(wanted, printed) and time.monotonic() < until:
                time.sleep(0.1)
                printed = self._output(step)
        lines = '\n'.join(printed)
        assert is_printed(wanted, printed), f'$ {step.text}\n{lines}'
        for ini in self.folder.rglob('*.ini'):  # a copy of a sample
            ini.write_text(self._at_ports(ini.read_text()))

    def _output(self, step):
        # Without a terminal, curl shows how far it is.
        words = re.sub(r'^curl ', 'curl -sS ', self._at_ports(step.text))
        done = subprocess.run(
            ['bash', '-c', words],
            cwd=self.folder,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT,
        )
        return done.stdout.splitlines()


def check_installed(words):
    """Check that this environment has what a page installs: the test does not install it."""
    for word in re.sub('[\'"]', '', words).split():
        asked = Requirement(word)
        if asked.name.replace('-', '_') != 'paste_wspbus':
            assert metadata.version(asked.name) in asked.specifier
        known = metadata.metadata(asked.name).get_all('Provides-Extra') or []
        assert asked.extras <= set(known), word


def page(name):
    """Return the text of a page of the repository."""
    return (ROOT / name).read_text()

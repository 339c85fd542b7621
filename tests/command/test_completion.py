"""The scripts of `--completion`, in the shells themselves."""

import os
import pty
import re
import select
import subprocess
import time

import pytest

from paste_wspbus.command import completion
from paste_wspbus.command.arguments import parse
from paste_wspbus.command.parser import make_parser
from paste_wspbus.errors import UsageError
from tests.kit import TIMEOUT, run
from tests.kit.systemd import tool

#: What is typed behind the name of the command, and what the last word becomes.
COMPLETED = {
    'dev': 'development.ini',
    'my': 'my site.ini',
    'conf/': 'conf/prod.ini',
    'pl': 'plugins',
    'new si': 'site',
    '-v --no-so': '--no-soak',
    'development.ini graceful --no-s': '--no-soak',
    'development.ini start --mon': '--monitor-restart',
    'ps --js': '--json',
    # Options of others are not offered.
    'development.ini graceful --mon': None,
    'development.ini status --rel': None,
    'new ini --wat': None,
    '--workers 2 dev': 'development.ini',
    '--reloader ex': 'execv',
    'development.ini und': 'undrain',
    'development.ini a=1 stat': 'status',
    'development.ini --log-file no': 'notes.txt',
    'development.ini timeline no': 'notes.txt',
    'new ini --from sho': 'shop',
    'new ini --from=sho': '--from=shop',
    'new ini mine.ini --from no': None,
    '--from no': 'notes.txt',
    'development.ini stop und': None,
    'ps stat': None,
}

#: How each shell is started without files of the user, and takes the script.
INTERACTIVE = {
    'bash': (
        ['--norc', '--noprofile', '-i'],
        "bind 'set enable-bracketed-paste off'; source ./script",
    ),
    'zsh': (['-f', '-i'], 'autoload -U compinit; compinit -u -D; source ./script'),
}


@pytest.fixture
def folder(tmp_path):
    for name in ('development.ini', 'my site.ini', 'notes.txt'):
        (tmp_path / name).touch()
    (tmp_path / 'conf').mkdir()
    (tmp_path / 'conf/prod.ini').touch()
    return tmp_path


class Terminal:
    """A shell at a terminal, in which somebody types."""

    def __init__(self, shell, folder):
        args, self.set_up = INTERACTIVE[shell]
        self.fd, inner = pty.openpty()
        self.process = subprocess.Popen(
            [tool(shell), *args],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            cwd=folder,
            env={**os.environ, 'TERM': 'dumb', 'HOME': str(folder), 'PS1': '% '},
            start_new_session=True,
        )
        os.close(inner)

    def __enter__(self):
        # The command shows its words; the mark is not in the line that is typed.
        shows = "wspserve() { printf '<%s>' \"$@\"; echo EN''D; }"
        self.words(f'{self.set_up}; {shows}; wspserve ready')
        return self

    def __exit__(self, *_):
        os.close(self.fd)  # the terminal hangs up
        self.process.kill()
        self.process.wait()

    def words(self, typed):
        os.write(self.fd, f'{typed}\n'.encode())
        seen, end = b'', time.monotonic() + TIMEOUT
        while b'>END' not in seen:
            assert select.select([self.fd], [], [], end - time.monotonic())[0], seen
            seen += os.read(self.fd, 4096)
        shown = seen.decode().split('>END')[0].replace('\r', '').splitlines()[-1]
        return re.sub('^.*?<', '', shown).split('><')


@pytest.mark.parametrize('shell', INTERACTIVE)
def test_a_shell_completes_what_is_typed(folder, shell):
    (folder / 'script').write_text(completion.SCRIPTS[shell]())
    with Terminal(shell, folder) as terminal:
        for typed, completed in COMPLETED.items():
            last = terminal.words(f'wspserve {typed}\t')[-1]
            assert last == (completed or typed.split()[-1]), typed


def test_fish_completes_what_is_typed(folder):
    asked = '; '.join(f"complete -C 'wspserve {typed}'; echo" for typed in COMPLETED)
    (folder / 'script').write_text(completion.fish())
    done = subprocess.run(
        [tool('fish'), '--no-config', '-c', f'source ./script; {asked}'],
        cwd=folder,
        env={**os.environ, 'HOME': str(folder)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.stderr == ''
    found, answers = [], []
    for line in done.stdout.splitlines():
        if line:
            found.append(line.split('\t')[0])
        else:
            answers.append(found)
            found = []
    expected = [[one] if one else [] for one in COMPLETED.values()]
    assert answers == expected


def test_bash_knows_each_option_of_the_parser(folder):
    (folder / 'script').write_text(completion.bash())
    asks = 'COMP_WORDS=(wspserve -); COMP_CWORD=1; _wspserve; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(
        [tool('bash'), '-c', f'source ./script; {asks}'],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    known = make_parser('wspserve')._option_string_actions
    assert (sorted(done.stdout.split()), done.stderr) == (sorted(known), '')


@pytest.mark.parametrize('shell', completion.SCRIPTS)
def test_nothing_is_unfilled(shell):
    assert re.findall(r'@[A-Z_]+@', completion.SCRIPTS[shell]()) == []


def test_the_command_prints_the_script(tmp_path):
    process = run(tmp_path, '--completion', 'fish')
    assert (process.code, process.err.text) == (0, '')
    assert process.out.text == completion.fish()


@pytest.mark.parametrize(
    ('line', 'problem'),
    [
        ('--completion', 'expected one argument'),
        ('--completion tcsh', "invalid choice: 'tcsh'"),
        (
            '--completion bash site.ini',
            'prints a script for a shell, and serves nothing',
        ),
    ],
)
def test_a_call_that_cannot_be_meant_is_refused(line, problem, monkeypatch):
    monkeypatch.delenv('_', raising=False)
    with pytest.raises(UsageError) as refused:
        parse(line.split(), 'wspserve')
    assert problem in str(refused.value)


def test_each_option_of_a_file_completes_files():
    options = [one for one in completion.known_options() if 'FILE' in one.metavar]
    kinds = {name: one.kind for one in options for name in one.names}
    assert kinds.pop('--from') == 'sample'
    assert set(kinds.values()) == {'file'}

"""pdb at its prompt: Ctrl-C ends the site, a save restarts it, the terminal is as it was."""

import contextlib
import fcntl
import os
import pty
import re
import select
import subprocess
import termios
import threading
import urllib.request
from pathlib import Path

import pytest

from tests.kit import eventually
from tests.kit.processes import BIN, TIMEOUT
from tests.kit.reloading import INI, webapp
from tests.kit.sites import write

PROMPT = """

def debug(environ):
    import pdb
    pdb.set_trace()


PAGES['/debug'] = debug
"""
#: Without the debugger, a stop would wait for the request, longer than a test.
PATIENT = f'{INI}\n[wspbus:main]\nstop_timeout = 600\nstop_reserve = 1\n'


class Terminal:
    """``wspserve`` on a terminal, until its ``with`` block ends."""

    def __init__(self, folder, *args):
        self.ours, self.theirs = pty.openpty()
        self.before, self.text = termios.tcgetattr(self.theirs), b''
        self.process = subprocess.Popen(
            [BIN / 'wspserve', 'site.ini', *args],
            cwd=folder,
            env={**os.environ, 'TERM': 'dumb', 'NO_COLOR': '1'},
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self._timer = threading.Timer(TIMEOUT, self.process.kill)

    def until(self, pattern):
        while not (found := re.search(pattern, self.text)):
            assert self.process.poll() is None, self.text.decode()
            self.text += os.read(self.ours, 4096)
        return found

    def press(self, keys):
        os.write(self.ours, keys)

    def ends(self):
        """Wait for the end; return the exit code."""
        while self.process.poll() is None:  # the timer kills it
            if select.select([self.ours], [], [], 0.05)[0]:
                self.text += os.read(self.ours, 4096)
        return self.process.returncode

    @property
    def is_asleep(self):
        """Whether each of its processes sleeps: then readline waits for a key.

        A signal that comes between its prompt and that sleep is noticed with the next key.
        """
        states = set()
        for stat in Path('/proc').glob('[0-9]*/stat'):
            with contextlib.suppress(OSError):
                state, _, _, session = stat.read_text().rpartition(')')[2].split()[:4]
                if int(session) == self.process.pid:
                    states.add(state)
        return states == {'S'}

    @property
    def is_restored(self):
        return termios.tcgetattr(self.theirs) == self.before

    def __enter__(self):
        self._timer.start()
        return self

    def __exit__(self, *_):
        self._timer.cancel()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.theirs)
        os.close(self.ours)


def debug(url):
    """Send the request that ends at the prompt; its connection is closed some time."""

    def get():
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f'{url}/debug', timeout=TIMEOUT).close()

    threading.Thread(target=get, daemon=True).start()


def at_prompt(terminal):
    url = terminal.until(rb'Serving on (http://\S+)\r')[1].decode()
    debug(url)
    terminal.until(rb'\(Pdb\) ')
    assert not terminal.is_restored  # readline reads each key by itself


MODES = {
    'one process': [],
    'workers': ['--workers', '1'],
    'fork': ['--reload'],
    'execv': ['--reload', '--reloader', 'execv'],
}


@pytest.mark.parametrize('mode', MODES)
def test_ctrl_c_at_the_prompt_ends_the_site(tmp_path, mode):
    write(tmp_path, {'site.ini': PATIENT, 'webapp.py': webapp('one') + PROMPT})
    with Terminal(tmp_path, *MODES[mode]) as terminal:
        at_prompt(terminal)
        terminal.press(b'\x03')
        assert terminal.ends() == 0, terminal.text.decode()
        assert terminal.is_restored
        said = terminal.text.decode()
        assert re.search(r'A debugger waits at its prompt, at .*webapp.py:\d+', said)
        assert 'a debugger waits at its prompt: 1' in said
        assert 'Traceback' not in said and 'does not end' not in said


@pytest.mark.parametrize('mode', ['fork', 'execv'])
def test_a_save_at_the_prompt_restarts_the_site(tmp_path, mode):
    write(tmp_path, {'site.ini': PATIENT, 'webapp.py': webapp('one') + PROMPT})
    with Terminal(tmp_path, *MODES[mode]) as terminal:
        at_prompt(terminal)
        (tmp_path / 'webapp.py').write_text(webapp('two') + PROMPT)
        terminal.until(rb'served in')
        assert terminal.is_restored
        terminal.press(b'\x03')
        assert terminal.ends() == 0, terminal.text.decode()
        assert terminal.is_restored


@pytest.mark.parametrize('answer', ['', 'c'])
@pytest.mark.parametrize('mode', ['one process', 'execv', 'fork'])
def test_ctrl_c_ends_a_site_that_was_debugged_while_it_was_loaded(
    tmp_path, mode, answer
):
    stops = webapp('one', top='import pdb; pdb.set_trace()')
    write(tmp_path, {'site.ini': PATIENT, 'webapp.py': stops})
    with Terminal(tmp_path, *MODES[mode]) as terminal:
        terminal.until(rb'\(Pdb\) ')
        eventually(lambda: terminal.is_asleep)
        if answer:  # from now on, pdb handles SIGINT, if nobody takes that back
            terminal.press(b'c\n')
            terminal.until(rb'Serving on \S+\r')
        terminal.press(b'\x03')
        code = terminal.ends()
        assert code == 0 if answer else code in (130, 143), terminal.text.decode()
        assert terminal.is_restored
        assert 'Program interrupted' not in terminal.text.decode()

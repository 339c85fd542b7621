"""The terminal is as it was before pdb, after a reload and at the end."""

import os
import pty
import signal
import subprocess
import sys
import termios
import time

from tests.kit.reloading import INI, webapp
from tests.kit.sites import write

RAW = """
def raw(environ):
    '''Leave the terminal as readline does at the prompt of pdb.'''
    import termios
    mode = termios.tcgetattr(0)
    mode[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(0, termios.TCSANOW, mode)
    os.write(1, b'it is raw\\n')


def make(global_conf):
    raw(None)
    return app
"""


def read_until(master, text, seconds=30):
    came, until = b'', time.monotonic() + seconds
    while text not in came:
        assert time.monotonic() < until, came
        came += os.read(master, 4096)
    return came


def is_usual(fd, seconds=10):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        flags = termios.tcgetattr(fd)[3]
        if flags & termios.ECHO and flags & termios.ICANON:
            return True
        time.sleep(0.01)
    return False


def test_the_terminal_is_restored_after_a_reload_and_at_the_end(tmp_path):
    write(tmp_path, {'site.ini': INI, 'webapp.py': webapp('one') + RAW})
    master, slave = pty.openpty()
    site = subprocess.Popen(
        [sys.executable, '-m', 'paste_wspbus', 'site.ini', '--reload'],
        cwd=tmp_path,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        preexec_fn=lambda: (os.setsid(), os.close(os.open(os.ttyname(0), os.O_RDWR))),
    )
    try:
        read_until(master, b'Serving on')
        assert not termios.tcgetattr(slave)[3] & termios.ECHO
        (tmp_path / 'webapp.py').write_text(webapp('two'))
        read_until(master, b'served in')
        assert is_usual(slave)
        (tmp_path / 'webapp.py').write_text(webapp('three') + RAW)
        read_until(master, b'served in')
        assert not termios.tcgetattr(slave)[3] & termios.ECHO
        site.send_signal(signal.SIGINT)
        site.wait(30)
        assert is_usual(slave)
    finally:
        site.kill()
        site.wait()
        os.close(master)
        os.close(slave)

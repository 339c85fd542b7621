"""Child processes, and facts from /proc about any process."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from paste_wspbus.plugins.signals import WINDOW
from tests.kit.places import ROOT

#: Seconds that a wait takes at most before its test fails; a busy machine is slow.
TIMEOUT = 60

BIN = Path(sys.executable).parent

#: The variables that would change the command's behaviour, and that children do not get.
_UNSET = (
    'PASTE_CONFIG_FILE',
    'PASTE_DEFAULT_QUIET',
    'PORT',
    'PYTHONUNBUFFERED',
    '_',
)

#: paster imports pkg_resources before our code; setuptools 80.9 and 81 warn of that.
PASTER_WARNINGS = 'ignore:pkg_resources is deprecated as an API:UserWarning'


class Output:
    """The text that a child writes to one of its pipes; a thread reads it at once."""

    def __init__(self, pipe):
        self.text, self.ended = '', False
        self._pipe, self._came = pipe, threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        for line in self._pipe:
            with self._came:
                self.text += line
                self._came.notify_all()
        with self._came:
            self.ended = True
            self._came.notify_all()

    def wait_for(self, text, count=1, timeout=TIMEOUT):
        """Wait until ``text`` came ``count`` times; return False if the child ends before."""
        with self._came:
            self._came.wait_for(
                lambda: self.ended or self.text.count(text) >= count, timeout
            )
            return self.text.count(text) >= count

    def close(self):
        self._thread.join(TIMEOUT)
        self._pipe.close()


class Process:
    """A child process that always ends with its ``with`` block."""

    def __init__(self, args, cwd, env=None, pass_fds=(), **kwargs):
        environ = {k: v for k, v in os.environ.items() if k not in _UNSET}
        environ['PYTHONWARNINGS'] = PASTER_WARNINGS
        environ['PATH'] = os.pathsep.join([str(BIN), environ.get('PATH', os.defpath)])
        environ.update(env or {})
        self.process = subprocess.Popen(
            [str(arg) for arg in args],
            cwd=cwd,
            env=environ,
            pass_fds=pass_fds,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **kwargs,
        )
        self.pid = self.process.pid
        self.out, self.err = Output(self.process.stdout), Output(self.process.stderr)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(2)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # its children may still run
        self.process.wait(TIMEOUT)
        self.release()
        self.out.close()
        self.err.close()

    def send(self, signum):
        self.process.send_signal(signum)

    def send_again(self, signum):
        """Send another signal to stop, late enough to count."""
        time.sleep(2 * WINDOW)
        self.send(signum)

    def release(self):
        """Close its standard input; sites in the tests wait for that."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def expect(self, text, count=1):
        """Wait for a line on standard error."""
        assert self.err.wait_for(text, count), self.report()

    def wait(self, timeout=TIMEOUT):
        """Wait for its end; return its exit code."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f'It does not end. {self.report()}') from None
        self.out._thread.join(TIMEOUT)
        self.err._thread.join(TIMEOUT)
        return code

    def has_left_nothing(self):
        """Whether no process of its session runs; call this after `wait`."""
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return True
        return False

    def report(self):
        return (
            f'exit code: {self.process.poll()}\n'
            f'stdout:\n{self.out.text}\nstderr:\n{self.err.text}'
        )


def eventually(condition):
    """Wait until a condition is true that another process makes true."""
    until = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < until, 'It does not come about'
        threading.Event().wait(0.01)


def pending(pid):
    """Return the names of the signals that are pending for a process."""
    lines = Path(f'/proc/{pid}/status').read_text().splitlines()
    bits = sum(int(line.split()[1], 16) for line in lines if line.startswith('ShdPnd'))
    return {one.name for one in signal.Signals if bits >> (one - 1) & 1}


def processes():
    """Yield (process, parent, session, state) for each process of the system."""
    for stat in Path('/proc').glob('[0-9]*/stat'):
        with contextlib.suppress(OSError):
            head, _, tail = stat.read_text().rpartition(')')
            state, parent, _, session, *_ = tail.split()
            yield int(head.split()[0]), int(parent), int(session), state


def processes_of_session(session):
    return [
        pid for pid, _, its, state in processes() if its == session and state != 'Z'
    ]


def children(pid):
    return [child for child, parent, _, _ in processes() if parent == pid]


def agents(pid):
    """The processes of a supervisor that talk to the engine of its cluster, by their titles."""
    return [child for child in children(pid) if 'cluster agent' in title(child)]


def title(pid):
    try:
        return Path(f'/proc/{pid}/cmdline').read_text().replace('\0', ' ')
    except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        return ''


def asleep(pid):
    return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] == 'S'


def state(pid):
    try:
        stat = Path(f'/proc/{pid}/stat').read_text()
    except (FileNotFoundError, ProcessLookupError):  # it may end between open and read
        return 'gone'
    return stat.rpartition(')')[2].split()[0]


def freeze(pid):
    """Stop a process; one with threads goes on until the thread that gets the signal runs."""
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: state(pid) in 'Tt')


def has_ended(pid):
    """Whether a process has ended; it may be a zombie that its parent must reap."""
    try:
        stat = Path(f'/proc/{pid}/stat').read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(')')[2].split()[0] == 'Z'


def kill(pid, signum=signal.SIGKILL):
    os.kill(pid, signum)
    if signum == signal.SIGKILL:
        eventually(lambda: has_ended(pid))


def status_field(pid, name):
    text = Path(f'/proc/{pid}/status').read_text()
    return re.search(rf'^{name}:\s*(.*)$', text, re.M)[1]


@contextlib.contextmanager
def python(*args, **kwargs):
    """Run a Python that is killed at the end of the ``with`` block, or after TIMEOUT."""
    process = subprocess.Popen(
        [sys.executable, *args],
        text=True,
        **{
            'env': {**os.environ, 'PYTHONPATH': str(ROOT), 'PYTHONUNBUFFERED': '1'},
            'stdin': subprocess.PIPE,
            'stdout': subprocess.PIPE,
            'stderr': subprocess.PIPE,
            **kwargs,
        },
    )
    watchdog = threading.Timer(TIMEOUT, process.kill)
    watchdog.start()
    with process:
        try:
            yield process
        finally:
            process.kill()
            watchdog.cancel()
            watchdog.join()


def read_until(process, line):
    """The lines that a script from `python` prints, up to this one."""
    lines = []
    for got in process.stdout:
        lines.append(got.rstrip('\n'))
        if lines[-1] == line:
            return lines
    raise AssertionError(f'{line!r} never came: {lines[-20:]}')


def sockets_that_listen(pid):
    """Return the addresses on which a process listens, without control sockets.

    An address is '127.0.0.1:8080', a path, or '@name'.
    """
    inodes = set()
    for number in os.listdir(f'/proc/{pid}/fd'):
        with contextlib.suppress(OSError):
            found = re.match(
                r'socket:\[(\d+)\]', os.readlink(f'/proc/{pid}/fd/{number}')
            )
            inodes |= {found[1]} if found else set()
    there = set()
    for line in Path('/proc/net/tcp').read_text().splitlines()[1:]:
        _, local, _, state, *_, inode = line.split()[:10]
        if state == '0A' and inode in inodes:
            host, _, port = local.partition(':')
            numbers = reversed(bytes.fromhex(host))
            there.add(f'{".".join(map(str, numbers))}:{int(port, 16)}')
    for line in Path('/proc/net/unix').read_text().splitlines()[1:]:
        _, _, _, flags, _, _, inode, *name = line.split(None, 7)
        if flags == '00010000' and inode in inodes and 'wspbus-' not in str(name):
            there |= set(name)
    return there


#: How the lines begin that a command prints if it takes long, as on a slow machine.
PROGRESS = (
    'Stopping process ',
    'Graceful restart, ',
    'The site has been starting for ',
)


def lines_beside_progress(told):
    """The lines on stderr of a command, without those that say that it takes long."""
    lines = told.err.text.splitlines()
    return [line for line in lines if not line.startswith(PROGRESS)]

"""Measures how soon `wspserve site.ini start` returns: it returns when the site is STARTED."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import rounds

OURS = 'start'
FOREGROUND = 'in the foreground'


def wait_for_announcement(process):
    """Wait until the process prints where it serves."""
    until, said = time.monotonic() + rounds.PATIENCE, b''
    while b'Serving on' not in said:
        left = max(0, until - time.monotonic())
        if not select.select([process.stdout], [], [], left)[0]:
            raise rounds.Unavailable(f'it prints nothing within {rounds.PATIENCE:g} s')
        came = os.read(process.stdout.fileno(), 65536)
        if not came:
            raise rounds.Unavailable('it ended before it served')
        said += came


def milliseconds_in_the_foreground():
    arguments = rounds.wspserve(rounds.free_port())
    began = time.perf_counter()
    with rounds.child(arguments, stdout=subprocess.PIPE) as process:
        wait_for_announcement(process)
        took = time.perf_counter() - began
        process.stdout.close()
    return took * 1000


def run(arguments):
    """Run a command to its end; it must succeed."""
    with rounds.child(arguments) as process:
        rounds.wait_for_end(process)
        if process.returncode:
            raise rounds.Unavailable(f'it exited with {process.returncode}')


@contextlib.contextmanager
def files_of_a_daemon():
    """Yield the options for the daemon's files; stop the daemon at the end of the block."""
    with tempfile.TemporaryDirectory() as folder:
        pid_file, log_file = Path(folder, 'site.pid'), Path(folder, 'site.log')
        options = [f'--pid-file={pid_file}', f'--log-file={log_file}']
        try:
            yield options
        finally:
            pid = number_in(pid_file)
            try:
                run([rounds.command('wspserve'), rounds.SITE, 'stop', *options])
            finally:
                if pid is not None and pid == number_in(pid_file):
                    os.kill(pid, signal.SIGKILL)  # stop would have removed the file


def number_in(pid_file):
    with contextlib.suppress(FileNotFoundError, ValueError):
        return int(pid_file.read_text())
    return None


def milliseconds_to_start(*more):
    def measure():
        port = rounds.free_port()
        with files_of_a_daemon() as files:
            arguments = [*rounds.wspserve(port), 'start', *more, *files]
            began = time.perf_counter()
            run(arguments)
            return (time.perf_counter() - began) * 1000

    return measure


def main():
    options = rounds.options(__doc__)
    samples = rounds.alternate(
        {
            OURS: milliseconds_to_start(),
            FOREGROUND: milliseconds_in_the_foreground,
            '(start --monitor-restart)': milliseconds_to_start('--monitor-restart'),
        },
        options.rounds,
    )
    title = "from exec to start's end, or to the line 'Serving on'"
    more = rounds.table(title, 'ms', samples, OURS, rounds.DIFFERENCE)
    rounds.judge(
        f'milliseconds more than {FOREGROUND}', more.get(FOREGROUND), at_most=100
    )


if __name__ == '__main__':
    main()

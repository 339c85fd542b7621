"""Measures requests a second on kept-alive connections: wspserve and waitress-serve."""

from __future__ import annotations

import re
import shutil
import subprocess

import rounds

#: The number of connections is that of waitress's threads, so that none has to wait.
CONNECTIONS = 4


def wrk(port, seconds):
    done = subprocess.run(
        [
            'wrk',
            '-t1',
            f'-c{CONNECTIONS}',
            f'-d{seconds:.0f}s',
            f'http://127.0.0.1:{port}/',
        ],
        capture_output=True,
        text=True,
        timeout=seconds + rounds.PATIENCE,
    )
    found = re.search(r'Requests/sec: *([\d.]+)', done.stdout)
    if not found or re.search('Non-2xx|Socket errors', done.stdout):
        raise rounds.Unavailable((done.stdout + done.stderr).strip())
    return float(found[1])


def requests_a_second(serve, seconds):
    def measure():
        port = rounds.free_port()
        with rounds.child(serve(port)) as server:
            rounds.wait_for_response(port, server)
            wrk(port, 1)  # the first requests import and allocate more
            return wrk(port, seconds)

    return measure


def main():
    options = rounds.options(__doc__, seconds=3)
    if shutil.which('wrk') is None:
        print('wrk is not installed: nothing is measured')
        return
    print(
        'Each round starts each server afresh, one at a time: the luck that a process '
        'has with its memory counts once, not in every round.'
    )
    samples = rounds.alternate(
        {
            'wspserve': requests_a_second(rounds.wspserve, options.seconds),
            'waitress-serve': requests_a_second(rounds.waitress_serve, options.seconds),
        },
        options.rounds,
    )
    ratios = rounds.table('requests a second', '1/s', samples, 'wspserve')
    rounds.judge(
        'wspserve ÷ waitress-serve', ratios.get('waitress-serve'), at_least=0.97
    )


if __name__ == '__main__':
    main()

"""Measures the private memory of a server after 100 requests."""

from __future__ import annotations

import re
from pathlib import Path

import rounds

REQUESTS = 100


def private_megabytes(pid):
    """Return the sum of Private_Clean and Private_Dirty, see proc(5)."""
    rollup = Path(f'/proc/{pid}/smaps_rollup').read_text()
    return (
        sum(map(int, re.findall(r'Private_(?:Clean|Dirty): +(\d+) kB', rollup))) / 1024
    )


def megabytes_when_idle(serve):
    def measure():
        port = rounds.free_port()
        with rounds.child(serve(port)) as server:
            for _ in range(REQUESTS):
                rounds.wait_for_response(port, server)
            return private_megabytes(server.pid)

    return measure


def main():
    options = rounds.options(__doc__)
    if not Path('/proc/self/smaps_rollup').exists():
        print('/proc has no smaps_rollup: nothing is measured')
        return
    script = 'a ten-line script'
    samples = rounds.alternate(
        {
            'wspserve': megabytes_when_idle(rounds.wspserve),
            script: megabytes_when_idle(rounds.ten_lines),
            '(waitress-serve, no .ini)': megabytes_when_idle(rounds.waitress_serve),
            '(paster serve)': megabytes_when_idle(rounds.paster_serve),
        },
        options.rounds,
    )
    more = rounds.table('private memory', 'MB', samples, 'wspserve', rounds.DIFFERENCE)
    rounds.judge(f'MB over {script}', more.get(script), at_most=3)


if __name__ == '__main__':
    main()

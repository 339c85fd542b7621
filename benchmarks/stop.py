"""From SIGTERM to the end of the process, with nothing in flight."""

from __future__ import annotations

import functools
import random
import time

import rounds

OURS = 'wspserve, waitress'


def milliseconds_to_end(serve, codes):
    def measure():
        port = rounds.free_port()
        with rounds.child(serve(port)) as server:
            rounds.wait_for_response(port, server)
            time.sleep(0.1 + random.random() / 10)  # no phase of a loop is favoured
            began = time.perf_counter()
            server.terminate()
            rounds.wait_for_end(server)
            took = time.perf_counter() - began
        codes.add(server.returncode)
        return took * 1000

    return measure


def main():
    options = rounds.options(__doc__)
    servers = {OURS: rounds.wspserve}
    for name in ('paste', 'cheroot', 'wsgiref'):
        servers[f'wspserve, {name}'] = functools.partial(rounds.wspserve, server=name)
    servers['(waitress-serve)'] = rounds.waitress_serve
    servers['(paster serve)'] = rounds.paster_serve
    codes = {name: set() for name in servers}
    samples = rounds.alternate(
        {name: milliseconds_to_end(servers[name], codes[name]) for name in servers},
        options.rounds,
    )
    rounds.table('SIGTERM to the end of the process', 'ms', samples, OURS)
    rounds.judge(f'milliseconds of {OURS}', rounds.median(samples, OURS), at_most=50)
    for name in samples:
        if any(code < 0 for code in codes[name]):
            print(f'  note: {name} dies of the signal at once and stops nothing')
        elif codes[name] != {0}:
            print(f'  note: {name} exits with {sorted(codes[name])}')


if __name__ == '__main__':
    main()

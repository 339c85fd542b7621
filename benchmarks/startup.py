"""Measures the time from exec to a server's first response, and the time to import the bus."""

from __future__ import annotations

import statistics
import time

import rounds

#: Python, PasteDeploy and waitress: each start of the site needs these.
FLOOR = '(the floor)'

IMPORT = """
import time
began = time.perf_counter()
import {module}
print(time.perf_counter() - began)
"""


def milliseconds_to_response(serve):
    def measure():
        port = rounds.free_port()
        command = serve(port)
        began = time.perf_counter()
        with rounds.child(command) as server:
            rounds.wait_for_response(port, server)
            return (time.perf_counter() - began) * 1000

    return measure


def milliseconds_to_import(module):
    program = IMPORT.format(module=module)
    return lambda: float(rounds.output_of(program)) * 1000


def main():
    options = rounds.options(__doc__)
    script, pserve, gunicorn = 'a ten-line script', 'pserve', 'gunicorn --paste'
    samples = rounds.alternate(
        {
            'wspserve': milliseconds_to_response(rounds.wspserve),
            script: milliseconds_to_response(rounds.ten_lines),
            pserve: milliseconds_to_response(rounds.pserve),
            gunicorn: milliseconds_to_response(rounds.gunicorn_paste),
            'paster serve': milliseconds_to_response(rounds.paster_serve),
            FLOOR: milliseconds_to_response(rounds.floor),
            '(waitress-serve, no .ini)': milliseconds_to_response(
                rounds.waitress_serve
            ),
        },
        options.rounds,
    )
    ratios = rounds.table('from exec to the first response', 'ms', samples, 'wspserve')
    for peer, most in (
        (script, 1.1),
        (pserve, 0.9),
        (gunicorn, 0.5),
        ('paster serve', 0.35),
    ):
        rounds.judge(f'wspserve ÷ {peer}', ratios.get(peer), at_most=most)
    if FLOOR in samples and gunicorn in samples:
        pairs = zip(samples[FLOOR], samples[gunicorn], strict=True)
        least = statistics.median(low / high for low, high in pairs)
        print(f'  the least that is possible: {FLOOR} ÷ {gunicorn}: {least:.3g}')

    samples = rounds.alternate(
        {
            'wspserve': milliseconds_to_response(rounds.wspserve_with_logging),
            script: milliseconds_to_response(rounds.ten_lines_with_logging),
        },
        options.rounds,
    )
    ratios = rounds.table(
        'the same, with logging sections and a plugin', 'ms', samples, 'wspserve'
    )
    rounds.judge(f'wspserve ÷ {script}', ratios.get(script), at_most=1.1)

    ours, peers = 'paste_wspbus.bus', ('cherrypy.process.wspbus', 'magicbus.base')
    modules = filter(rounds.has, (ours, 'paste_wspbus', *peers))
    samples = rounds.alternate(
        {module: milliseconds_to_import(module) for module in modules}, options.rounds
    )
    rounds.table('import', 'ms', samples, ours)
    rounds.judge('milliseconds', rounds.median(samples, ours), at_most=10)
    alone = rounds.median(samples, 'paste_wspbus')
    rounds.judge('milliseconds of the package alone', alone, at_most=1)


if __name__ == '__main__':
    main()

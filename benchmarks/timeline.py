"""Measures what recording the timeline costs: a start, a request, and the end of a worker."""

from __future__ import annotations

import json
import re
import subprocess
import time
import timeit

import rounds

LOOPS = 5_000

#: Runs a site, and prints how many rows its timeline has when it serves.
COUNT = """
import sys
from paste_wspbus.bus import Bus
from paste_wspbus.command.main import main

def start_and_count(self, start=Bus.start):
    start(self)
    print('rows', len(self.timeline), flush=True)
    self.exit()

Bus.start = start_and_count
sys.exit(main(sys.argv[1:]))
"""


def rows_of_a_start():
    arguments = ['-c', COUNT, rounds.SITE, f'http_port={rounds.free_port()}']
    command = [rounds.sys.executable, *arguments]
    with rounds.child(command, stdout=subprocess.PIPE) as process:
        said, _ = process.communicate(timeout=rounds.PATIENCE)
    return int(re.search(rb'rows (\d+)', said)[1])


def microseconds(function):
    return lambda: min(timeit.repeat(function, number=LOOPS, repeat=3)) / LOOPS * 1e6


def a_step():
    """The import or the factory of a section."""
    from paste_wspbus.bus import Bus
    from paste_wspbus.ini import factories

    bus = Bus()

    def step():
        with factories.measured('app:main', 'factory'):
            pass
        bus.calls.record(*factories.steps.pop())

    return step


def a_row():
    """The record of a listener's call, which is timed in any case for its time limit."""
    from paste_wspbus.bus import Bus

    bus, now = Bus(), time.monotonic()
    return lambda: bus.calls.record('start', 'a listener', now, 0.1, 'ok', 1.0)


def a_report():
    """What a worker with 50 rows reports at its end."""
    from paste_wspbus.bus import Bus
    from paste_wspbus.control.timeline import describe_calls

    bus = Bus()
    for number in range(50):
        bus.calls.record('start', f'listener {number}', float(number), 0.1)
    return lambda: json.dumps(describe_calls(bus))


def first_and_later_requests():
    """Whether the application of the filter is its own again after the first request."""
    from paste_wspbus.bus import Bus
    from paste_wspbus.requests.filter import BusFilter

    def app(environ, start_response):
        return []

    wrapped = BusFilter(app, Bus())
    wrapped.record_first()
    wrapped.app({'REQUEST_METHOD': 'GET'}, None)
    return wrapped.app is app


def milliseconds_to_response():
    port = rounds.free_port()
    began = time.perf_counter()
    with rounds.child(rounds.wspserve(port)) as server:
        rounds.wait_for_response(port, server)
        return (time.perf_counter() - began) * 1000


def main():
    options = rounds.options(__doc__)
    each = rounds.alternate(
        {
            'a section': microseconds(a_step()),
            'a listener': microseconds(a_row()),
            'the report of a worker': microseconds(a_report()),
        },
        options.rounds,
    )
    rounds.table('recording', 'µs', each, 'a section')
    start = rounds.alternate({'a start': milliseconds_to_response}, options.rounds)
    rounds.table('from exec to the first response', 'ms', start, 'a start')
    rows, whole = rows_of_a_start(), rounds.median(start, 'a start')
    dearest = max(rounds.median(each, name) for name in ('a section', 'a listener'))
    print(f'\n  {rows} rows, each at most {dearest:.2f} µs, of {whole:.1f} ms')
    percent = rows * dearest / 1000 / whole * 100
    rounds.judge('percent of a start', percent, at_most=1)
    later = 0 if first_and_later_requests() else 1
    rounds.judge('calls of Python for a later request', later, at_most=0)


if __name__ == '__main__':
    main()

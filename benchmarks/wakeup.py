"""Measures the time from exit() in another thread to block()'s return, and idle wake-ups."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path

import rounds

# A bus exits only once, so this measures one exit in each of many processes. The exit
# comes at a random moment, because some buses poll ten times a second.
ONE_EXIT = """
import random, threading, time
from {module} import Bus

def leave():
    global called
    time.sleep(0.2 + random.random() / 10)
    called = time.perf_counter()
    bus.exit()

bus = Bus()
bus.start()
threading.Thread(target=leave, daemon=True).start()
bus.block()
print(time.perf_counter() - called)
"""

IDLE_CHERRYPY = """
import cherrypy
cherrypy.config.update({{
    'server.socket_host': '127.0.0.1',
    'server.socket_port': {port},
    'engine.autoreload.on': False,
    'log.screen': False,
}})
cherrypy.engine.start()
cherrypy.engine.block()
"""


def milliseconds(module):
    program = ONE_EXIT.format(module=module)
    return lambda: float(rounds.output_of(program)) * 1000


def measure_exit(options):
    ours, cherrypy = 'paste_wspbus', 'CherryPy'
    contenders = {ours: milliseconds('paste_wspbus.bus')}
    if rounds.has('cherrypy'):
        contenders[cherrypy] = milliseconds('cherrypy.process.wspbus')
    samples = rounds.alternate(contenders, options.rounds)
    rounds.table("exit() in another thread to block()'s return", 'ms', samples, ours)
    rounds.judge('milliseconds', rounds.median(samples, ours), at_most=1)


def voluntary_switches(pid):
    """Return how often the main thread of a process went to sleep, see proc(5)."""
    status = Path(f'/proc/{pid}/task/{pid}/status').read_text()
    return int(status.partition('\nvoluntary_ctxt_switches:')[2].split()[0])


def idle_servers(stack):
    commands = {'wspserve': rounds.wspserve}
    if rounds.has('cherrypy'):
        commands['CherryPy'] = lambda port: [
            sys.executable,
            '-P',
            '-c',
            IDLE_CHERRYPY.format(port=port),
        ]
    for name, command in commands.items():
        port = rounds.free_port()
        try:
            server = stack.enter_context(rounds.child(command(port)))
            rounds.wait_for_response(port, server)
        except rounds.Unavailable as why:
            print(f'{name} is left out: {why}')
        else:
            yield name, server.pid


def measure_idle(options):
    """Measure all servers at the same time."""
    seconds = options.idle_seconds
    with contextlib.ExitStack() as stack:
        servers = dict(idle_servers(stack))
        if not servers:
            return
        samples = {name: [] for name in servers}
        time.sleep(1)  # a start may have more to do
        for _ in range(options.rounds):
            before = {name: voluntary_switches(servers[name]) for name in servers}
            time.sleep(seconds)
            for name, pid in servers.items():
                samples[name].append(voluntary_switches(pid) - before[name])
    title = f'voluntary context switches of the idle main thread in {seconds:g} s'
    rounds.table(title, 'count', samples, 'wspserve')
    rounds.judge('wake-ups', rounds.median(samples, 'wspserve'), at_most=0)


def main():
    options = rounds.options(__doc__, idle_seconds=10)
    measure_exit(options)
    if Path('/proc/self/task').exists():
        measure_idle(options)
    else:
        print('Wake-ups of an idle process: needs /proc')


if __name__ == '__main__':
    main()

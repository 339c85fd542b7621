"""Measures what 1,000 starts and stops of one bus, with every plugin, leave in the process."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import re
import signal
import socket
import tempfile
import threading
import time
from pathlib import Path

import rounds
import small_site

from paste_wspbus.bus import Bus, State
from paste_wspbus.control.client import ask
from paste_wspbus.control.server import Control
from paste_wspbus.plugins.daemon import Daemonizer, DropPrivileges
from paste_wspbus.plugins.pidfile import PIDFile
from paste_wspbus.plugins.signals import SignalHandler
from paste_wspbus.plugins.sitelog import SiteLog
from paste_wspbus.plugins.systemd import SystemdNotifier
from paste_wspbus.plugins.threads import (
    BackgroundTask,
    Monitor,
    PerpetualTimer,
    ThreadManager,
)
from paste_wspbus.requests.filter import BusFilter
from paste_wspbus.servers.registry import find_adapter

#: Seconds between two calls of a function that a thread repeats.
INTERVAL = 0.01

#: The microseconds of WATCHDOG_USEC; the watchdog's interval is half of them.
WATCHDOG = 20_000

#: Seconds that threads have to end before they are counted.
MOMENT = 5

#: The threads that exist as long as the process.
LASTING = ('systemd', 'control socket')

SERVERS = {
    'waitress': 'waitress:serve_paste',
    'cheroot': 'paste_wspbus.servers:cheroot_server',
    'paste': 'paste.httpserver:server_runner',
    'wsgiref': 'paste_wspbus.servers:wsgiref_server',
}

#: From each figure to the number by which it may grow.
FIGURES = {
    'Python objects': 50,
    'threads': 0,
    'file descriptors': 0,
    'listeners': 0,
    'logging handlers': 0,
    'MB of memory': 1,
}


# -- the figures of a process ---------------------------------------------------


def figures(bus):
    """Return the figures of this process and of its bus, which is stopped."""
    wait_for_threads_that_end()
    gc.collect()
    status = Path('/proc/self/status').read_text()
    return {
        'Python objects': len(gc.get_objects()) - len(bus.timeline),
        'threads': len(os.listdir('/proc/self/task')),
        'file descriptors': len(os.listdir('/proc/self/fd')),
        'listeners': sum(map(len, bus.listeners.values())),
        'logging handlers': logging_handlers(),
        'MB of memory': int(re.findall(r'VmRSS:\s+(\d+) kB', status)[0]) / 1024,
    }


def wait_for_threads_that_end():
    """Wait: a thread that was cancelled, or whose pipe was closed, ends a moment later."""
    until = time.monotonic() + MOMENT
    for thread in threading.enumerate():
        if thread.name not in LASTING and thread is not threading.current_thread():
            thread.join(max(0, until - time.monotonic()))
    # A joined thread may still run a few instructions.
    while len(os.listdir('/proc/self/task')) > threading.active_count():
        if time.monotonic() > until:
            return
        time.sleep(0.001)


def logging_handlers():
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    attached = sum(len(getattr(logger, 'handlers', ())) for logger in loggers)
    return attached + len(logging._handlerList)


# -- a site with all plugins ------------------------------------------------------


class Systemd:
    """The other end of NOTIFY_SOCKET: after `armed`, it answers WATCHDOG=1 with SIGTERM."""

    def __init__(self, folder):
        self.path, self.armed = f'{folder}/notify', threading.Event()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        threading.Thread(target=self._listen, name='systemd', daemon=True).start()

    def _listen(self):
        while message := self._socket.recv(4096):
            if message == b'WATCHDOG=1' and self.armed.is_set():
                self.armed.clear()
                os.kill(os.getpid(), signal.SIGTERM)


class TimersThatRide:
    """A timer and a task that the site starts and stops itself."""

    def __init__(self, bus):
        self.bus = bus

    def __enter__(self):
        self.timers = [
            kind(INTERVAL, gc.get_count, bus=self.bus)
            for kind in (PerpetualTimer, BackgroundTask)
        ]
        for timer in self.timers:
            timer.start()
        return self

    def __exit__(self, *_):
        for timer in self.timers:
            timer.cancel()
        for timer in self.timers:
            timer.join()


class Site:
    """A bus with every plugin that the command gives one, and a server."""

    def __init__(self, folder, server):
        self.folder, self.answered = folder, 0
        bus = self.bus = Bus()
        bus.turn.keep_for(threading.get_ident())
        bus.start_timeout = bus.stop_timeout = rounds.PATIENCE
        self.signals = SignalHandler(bus)
        self._add_log()
        self._add_plugins()
        self._add_lifespans()
        self._add_control()
        self._add_server(SERVERS[server])

    def _add_log(self):
        logging.root.addHandler(logging.FileHandler(f'{self.folder}/site.log'))
        logging.getLogger('paste_wspbus').setLevel(logging.INFO)
        sitelog = SiteLog(self.bus)
        spare = os.open(os.devnull, os.O_WRONLY)
        sitelog.redirect(f'{self.folder}/output.log', spare)
        sitelog.subscribe()

    def _add_plugins(self):
        bus = self.bus
        daemonizer = Daemonizer(bus)
        daemonizer.finalized = True
        self.systemd = Systemd(self.folder)
        for plugin in (
            PIDFile(bus, f'{self.folder}/site.pid'),
            daemonizer,
            DropPrivileges(bus),
            Monitor(bus, gc.get_count, INTERVAL, 'monitor'),
            ThreadManager(bus),
            SystemdNotifier(bus, self.systemd.path, WATCHDOG, {}),
        ):
            plugin.subscribe()

    def _add_lifespans(self):
        @self.bus.lifespan(priority=40)
        def pool():
            yield object()

        self.bus.enter(TimersThatRide(self.bus), priority=60)

    def _add_control(self):
        """Open the control socket; it and its thread stay until the process ends."""
        answer = {'state': 'known'}
        self.control = Control(f'{self.folder}/control', {'status': lambda _: answer})
        self.control.open()
        self.control.serve(self.bus)

    def _add_server(self, name):
        adapter = find_adapter(name)
        self.server = adapter({'host': '127.0.0.1', 'port': '0'}, {})
        self.server.plug_in(self.bus)
        self.bus.subscribe('start', self.server, BusFilter(self._app, self.bus))

    def _app(self, environ, start_response):
        self.answered += 1
        return small_site.app(environ, start_response)

    def cycle(self):
        """Start and stop the site as the command does."""
        self.signals.subscribe()
        self.bus.start()
        self._use()
        self.systemd.armed.set()
        self.bus.block(states=State.STOPPED)
        self.bus.exit()
        self.signals.unsubscribe()

    def _use(self):
        with socket.create_connection(self.server.sockets[0].sock.getsockname()) as one:
            one.sendall(b'GET / HTTP/1.0\r\n\r\n')
            while one.recv(65536):
                pass
        ask(self.control.path, 'status', rounds.PATIENCE)
        self.bus.graceful()
        os.kill(os.getpid(), signal.SIGUSR1)
        self.bus.lifespan(_late)
        self.bus.lifespans['_late'].unsubscribe()

    def check(self, cycles):
        """Check that the site answered each request, and stopped without failures."""
        if self.bus.exit_code or self.answered != cycles:
            raise SystemExit(
                f'after {cycles} cycles: exit code {self.bus.exit_code}, '
                f'{self.answered} requests answered; see the log:\n'
                + Path(self.folder, 'site.log').read_text()[-2000:]
            )


def _late():
    """A lifespan that is added when the site already runs."""
    yield


# -- the comparison ---------------------------------------------------------------


def options():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--rounds', type=int, default=1000, help='cycles, default 1000')
    parser.add_argument(
        '--server', choices=SERVERS, default='waitress', help='default waitress'
    )
    chosen = parser.parse_args()
    chosen.rounds = max(10, chosen.rounds)
    return chosen


def main():
    chosen = options()
    cycles, server = chosen.rounds, chosen.server
    if not Path('/proc/self/task').exists():
        print('/proc has no self/task: nothing is measured')
        return
    with tempfile.TemporaryDirectory() as folder:
        site = Site(folder, server)
        first = cycles // 5
        began = time.perf_counter()
        before = run(site, first)
        after = run(site, cycles - first)
        took = time.perf_counter() - began
        site.check(cycles)
        site.control.close()
    print(f'\n{server}: {cycles} cycles of {took / cycles * 1000:.3g} ms')
    print(f'  {"":<26}{f"after {first}":>12}{f"after {cycles}":>12}')
    for name in FIGURES:
        print(f'  {name:<26}{before[name]:>12.4g}{after[name]:>12.4g}')
    for name, at_most in FIGURES.items():
        more = after[name] - before[name]
        rounds.judge(f'{name} more than before', more, at_most=at_most)


def run(site, cycles):
    for _ in range(cycles):
        site.cycle()
    return figures(site.bus)


if __name__ == '__main__':
    main()

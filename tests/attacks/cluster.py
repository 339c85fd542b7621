"""Never two at once: ``python -m tests.attacks.cluster --rounds 200``.

Five supervisors share one real redis-server, each through a proxy of its own. One of them runs
the cluster plugin: it locks a file, and writes to a store that refuses old fences. Each round
kills or stops the plugin's process, its guard, its supervisor, the agent or the engine, or
empties the engine, sets its clock, or cuts, delays or half-opens the network. Then the plugin
must run again somewhere. With ``--pairs``, another fault begins during the first. With ``--sentinel``, there are two servers and a Sentinel instead, without
proxies, and a round may kill the master. It is an overlap if the plugin starts while the file is locked.
"""

import argparse
import contextlib
import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.kit.clients import free_port
from tests.kit.places import ROOT
from tests.kit.processes import agents
from tests.kit.redis_servers import RedisServer, Sentinel

#: Seconds after which a lease that nobody takes fails the run.
PATIENCE = 60

INI = """\
[app:main]
use = egg:paste_wspbus#hello
[server:main]
use = egg:waitress
listen = 127.0.0.1:0
[wspbus:main]
workers = 1
soak = 0
stop_timeout = 5
cluster_plugins = job
[cluster:main]
use = {url}
name = shop
machine = web{number}
ttl = {ttl}
[plugin:job]
use = call:job:run
folder = {folder}
machine = web{number}
"""

JOB = '''\
import fcntl
import json
import os
import socket
import threading


def run(bus, global_conf, folder, machine):
    """Lock a file, and write to the store all the time; a store says which fence counts."""
    def note(what):
        line = json.dumps([what, machine, bus.lease.fence, os.getpid()]) + '\\n'
        with open(f'{folder}/notes', 'a') as notes:
            notes.write(line)

    lock = open(f'{folder}/locked', 'w')
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        note('overlap')
        raise
    os.set_inheritable(lock.fileno(), True)
    ended = threading.Event()

    def write():
        line = json.dumps([machine, bus.lease.fence, os.getpid(), os.getppid()]) + '\\n'
        while not ended.wait(0.02):
            with socket.socket(socket.AF_UNIX) as store:
                store.settimeout(5)
                store.connect(f'{folder}/store')
                store.sendall(line.encode())
                if store.recv(10) == b'refused':
                    note('refused')

    note('starts')
    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    yield
    ended.set()
    thread.join()
    note('stops')
    lock.close()
'''


#: A library that adds the seconds in a file to the clock of a program, as whoever sets it.
CLOCK = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long added(void) {
  char text[32] = {0};
  int fd = open(getenv("CLOCK"), O_RDONLY);
  if (fd < 0) return 0;
  long got = read(fd, text, sizeof text - 1);
  close(fd);
  return got > 0 ? atol(text) : 0;
}

int clock_gettime(clockid_t which, struct timespec *now) {
  int failed = syscall(SYS_clock_gettime, which, now);
  if (!failed && which == CLOCK_REALTIME) now->tv_sec += added();
  return failed;
}

int gettimeofday(struct timeval *now, void *zone) {
  struct timespec exact;
  if (clock_gettime(CLOCK_REALTIME, &exact)) return -1;
  now->tv_sec = exact.tv_sec;
  now->tv_usec = exact.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *into) {
  struct timespec exact;
  clock_gettime(CLOCK_REALTIME, &exact);
  if (into) *into = exact.tv_sec;
  return exact.tv_sec;
}
"""


class Store:
    """A store that keeps the highest fence that it has seen, and refuses lower ones.

    ``last`` is the last write: machine, fence, process, its parent, and the time. ``wrong``
    has writes of two processes with one fence, and writes with an old fence that it took.
    """

    def __init__(self, path):
        self.last, self.wrong, self.refused, self.count = None, [], 0, 0
        self._owners = {}
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen(100)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            client, _ = self._listening.accept()
            with client, contextlib.suppress(OSError, ValueError):
                client.settimeout(5)
                line = client.makefile().readline()
                client.sendall(
                    b'taken' if self._take(*json.loads(line)) else b'refused'
                )

    def _take(self, machine, fence, pid, parent):
        self.count += 1
        highest = self.last[1] if self.last else 0
        if fence < highest:
            self.refused += 1
            return False
        if self._owners.setdefault(fence, machine) != machine:
            self.wrong.append((fence, machine))
        self.last = machine, fence, pid, parent, time.monotonic()
        return True


class Proxy:
    """Between one supervisor and the engine: it cuts, delays, and half-opens."""

    def __init__(self, port):
        self.engine, self.port = port, free_port()
        self.mode, self.delay = 'pass', 0.0
        self._pairs = []
        self._listening = socket.create_server(('127.0.0.1', self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            near, _ = self._listening.accept()
            if self.mode == 'cut':
                near.close()
                continue
            try:
                far = socket.create_connection(('127.0.0.1', self.engine), 5)
            except OSError:
                near.close()
                continue
            self._pairs.append((near, far))
            for one, other in ((near, far), (far, near)):
                threading.Thread(
                    target=self._pass, args=(one, other), daemon=True
                ).start()

    def _pass(self, one, other):
        with one, contextlib.suppress(OSError):
            while data := one.recv(65536):
                time.sleep(self.delay)
                while self.mode == 'half-open':  # it is accepted, and arrives late
                    time.sleep(0.01)
                other.sendall(data)
        with contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_RDWR)

    def cut(self):
        self.mode = 'cut'
        for pair in self._pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()


class Machine:
    """One supervisor with its proxy."""

    def __init__(self, folder, number, engine, ttl):
        self.folder, self.name = folder / f'web{number}', f'web{number}'
        self.folder.mkdir()
        url = engine.url
        if isinstance(engine, RedisServer):
            self.proxy = Proxy(engine.port)
            url = f'redis://127.0.0.1:{self.proxy.port}/0'
        text = INI.format(url=url, number=number, ttl=ttl, folder=folder)
        (self.folder / 'site.ini').write_text(text)
        (self.folder / 'job.py').write_text(JOB)
        self.log = open(self.folder / 'log', 'ab')  # noqa: SIM115
        self.process = None

    def start(self):
        if self.process is None or self.process.poll() is not None:
            words = [sys.executable, '-m', 'paste_wspbus', 'site.ini', '-v']
            environ = {**os.environ, 'PYTHONPATH': str(ROOT)}
            self.process = subprocess.Popen(
                words,
                cwd=self.folder,
                stdout=self.log,
                stderr=self.log,
                env=environ,
                start_new_session=True,
            )

    @property
    def agent(self):
        """The process that talks to the engine; 0 if another fault has killed it."""
        return next(iter(agents(self.process.pid)), 0)

    def end(self):
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGCONT)
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.log.close()


class Attack:
    """The rounds; ``wrong`` has what must not be."""

    def __init__(
        self,
        folder,
        *,
        ttl=1,
        machines=5,
        seed=0,
        out=None,
        sentinel=False,
        pairs=False,
    ):
        self.folder, self.ttl, self.out, self.pairs = Path(folder), ttl, out, pairs
        self.random = random.Random(seed)
        self.wrong, self.took = [], {}
        self.clock = self.folder / 'clock'
        self.clock.write_text('+0')
        self.store = Store(self.folder / 'store')
        (self.folder / 'engine').mkdir()
        if sentinel:
            self.engine = Sentinel(self.folder / 'engine')
        else:
            program = self._engine_program()
            self.engine = RedisServer(self.folder / 'engine', program=program)
        self.machines = [
            Machine(self.folder, number, self.engine, ttl)
            for number in range(1, machines + 1)
        ]

    def _engine_program(self):
        """Return redis-server; with a C compiler, one whose clock a file sets."""
        program, compiler = shutil.which('redis-server'), shutil.which('cc')
        self.sets_clock = compiler is not None
        if compiler is None or program is None:
            return program or 'redis-server'
        source, library = self.folder / 'clock.c', self.folder / 'clock.so'
        source.write_text(CLOCK)
        words = [compiler, '-shared', '-fPIC', '-O1', '-o', library, source]
        subprocess.run(words, check=True)
        script = self.folder / 'redis-with-a-clock'
        script.write_text(
            f'#!/bin/sh\nexport LD_PRELOAD={library} CLOCK={self.clock}\n'
            f'exec {program} "$@"\n'
        )
        script.chmod(0o700)
        return str(script)

    # -- what happens -------------------------------------------------------------------

    def faults(self):
        names = [
            *(f'{how} {what}' for how in ('kill', 'stop') for what in _PROCESSES),
            *('leave leader', 'graceful leader'),
        ]
        if isinstance(self.engine, Sentinel):
            return names + ['failover'] * 6
        names += [
            *('kill engine', 'stop engine', 'empty engine', 'flush engine'),
            *(f'{how} {who}' for how in _NETWORK for who in ('leader', 'all')),
        ]
        return names + ['clock'] * (2 * self.sets_clock)

    def run(self, rounds, faults=None):
        with self.engine:
            try:
                for machine in self.machines:
                    machine.start()
                self._wait_for_job('start', time.monotonic())
                names = faults or self.faults()
                queue = []
                for number in range(rounds):
                    queue = queue or self.random.sample(names, len(names))
                    self._round(number + 1, queue.pop())
            finally:
                for machine in self.machines:
                    machine.end()
        self._read_notes()

    def _round(self, number, fault):
        began = time.monotonic()
        faults = [fault, self._second(fault)] if self.pairs else [fault]
        threads = [threading.Thread(target=self._inflict, args=[one]) for one in faults]
        for thread in threads:
            thread.start()
            time.sleep(self.ttl * self.random.random() * self.pairs)
        for thread in threads:
            thread.join()
        if self.pairs or fault.partition(' ')[0] not in ('leave', 'kill'):
            began = time.monotonic()
        self._wait_for_job(fault, began)
        for one in self.machines:
            one.start()
        if self.out:
            took = self.took[fault][-1]
            print(f'{number:4} {" + ".join(faults):38} {took:6.2f} s', file=self.out)
            self.out.flush()

    def _second(self, fault):
        """Return another fault; the engine has one at a time."""
        names = [one for one in self.faults() if one not in (fault, 'failover')]
        return self.random.choice(
            [one for one in names if not ('engine' in fault and 'engine' in one)]
        )

    def _inflict(self, fault):
        machine, _, pid, guard, _ = self.store.last
        leader = next(one for one in self.machines if one.name == machine)
        how, _, what = fault.partition(' ')
        pids = {
            'job': pid,
            'guard': guard,
            'supervisor': leader.process.pid,
            'agent': leader.agent,
        }
        longer = self.ttl * (1 + self.random.random())
        if what in pids:
            self._signal(pids[what], how, longer, leader)
        elif how == 'clock':
            self.clock.write_text(f'{self.random.choice([-3600, -3, 3, 3600]):+d}')
            time.sleep(self.ttl)
        elif how == 'failover':
            self.engine.fail_over()
        elif what == 'engine':
            self._engine(how, longer)
        elif how in _NETWORK:
            machines = [leader] if what == 'leader' else self.machines
            self._network(how, machines, longer)
        elif how == 'leave':
            leader.process.terminate()
            leader.process.wait()
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(leader.process.pid, signal.SIGHUP)
            time.sleep(self.ttl)

    def _signal(self, pid, how, longer, leader):
        if not pid:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL if how == 'kill' else signal.SIGSTOP)
            if how == 'stop':
                time.sleep(longer)
                os.kill(pid, signal.SIGCONT)
        if how == 'kill' and pid == leader.process.pid:
            leader.process.wait()

    def _engine(self, how, longer):
        if how == 'stop':
            self.engine.signal(signal.SIGSTOP)
            time.sleep(longer)
            self.engine.signal(signal.SIGCONT)
        elif how == 'flush':
            self.engine.client().flushall()
            time.sleep(longer)
        else:
            self.engine.kill()
            time.sleep(longer if how == 'kill' else 0)
            self.engine.start()

    def _network(self, how, machines, longer):
        for machine in machines:
            if how == 'cut':
                machine.proxy.cut()
            elif how == 'half-open':
                machine.proxy.mode = 'half-open'
            else:
                machine.proxy.delay = self.ttl * self.random.choice([0.05, 0.3, 1.5])
        time.sleep(longer)
        for machine in machines:
            machine.proxy.mode, machine.proxy.delay = 'pass', 0.0

    def _wait_for_job(self, fault, began):
        """Wait until a job writes that began after the fault, or that still runs after it."""
        until = time.monotonic() + PATIENCE
        while self.store.last is None or self.store.last[4] < began + 0.1:
            if time.monotonic() > until:
                self.wrong.append(f'{fault}: no job for {PATIENCE} s')
                raise AssertionError(self.wrong[-1])
            select.select([], [], [], 0.01)
        self.took.setdefault(fault, []).append(self.store.last[4] - began)

    def _read_notes(self):
        lines = (self.folder / 'notes').read_text().splitlines()
        notes = [json.loads(line) for line in lines]
        self.starts = sum(what == 'starts' for what, *_ in notes)
        self.overlaps = [note for note in notes if note[0] == 'overlap']
        self.wrong += [f'overlap: {note}' for note in self.overlaps]
        fences = [fence for what, _, fence, _ in notes if what == 'starts']
        if fences != sorted(fences):
            self.wrong.append(f'fences that fall: {fences}')
        self.wrong += [
            f'two machines with one fence: {one}' for one in self.store.wrong
        ]
        if self.store.refused:
            self.wrong.append(f'{self.store.refused} writes with an old fence')

    def summary(self):
        taken = len(self.store.wrong)
        return (
            f'{sum(map(len, self.took.values()))} rounds, {self.starts} starts of the plugin, '
            f'{len(self.overlaps)} overlaps, {self.store.count} writes, {self.store.refused} '
            f'with an old fence refused, {taken} with one of another machine taken'
        )


_PROCESSES = 'job', 'guard', 'supervisor', 'agent'
_NETWORK = 'cut', 'delay', 'half-open'


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=200)
    parser.add_argument('--ttl', type=float, default=1)
    parser.add_argument('--machines', type=int, default=5)
    parser.add_argument('--seed', type=int, default=time.time_ns() % 10**6)
    parser.add_argument('--sentinel', action='store_true')
    parser.add_argument('--pairs', action='store_true')
    args = parser.parse_args()
    print(f'seed {args.seed}')
    with tempfile.TemporaryDirectory() as folder:
        attack = Attack(
            folder,
            ttl=args.ttl,
            machines=args.machines,
            seed=args.seed,
            out=sys.stdout,
            sentinel=args.sentinel,
            pairs=args.pairs,
        )
        try:
            attack.run(args.rounds)
        finally:
            print('\n'.join(attack.wrong))
            for name, times in sorted(attack.took.items()):
                print(f'{name:18} {max(times):6.2f} s at most, of {len(times)}')
            if attack.wrong:
                if args.sentinel:
                    print(f'--- sentinel\n{attack.engine.log.read_text()}')
                for machine in attack.machines:
                    print(f'--- {machine.name}')
                    print((machine.folder / 'log').read_text()[-6000:])
        print(attack.summary())
    sys.exit(bool(attack.wrong))


if __name__ == '__main__':
    main()

"""Wrong requests on the control socket: ``python -m tests.attacks.control --count 10000``.

Each input is bytes, half of a request, a request with other values, or a client that leaves. No
input is a request to stop, so the site must serve on, answer `status` in time and in order, and
not grow. At the end SIGTERM must stop it with exit code 0, and without a traceback.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time

from paste_wspbus.control import VERSION
from paste_wspbus.control.client import ask
from tests.kit.processes import eventually, status_field
from tests.kit.sites import APP, SERVED, Site

MODES = {
    'single': [],
    'workers': ['--workers', '2'],
    'monitor': ['--monitor-restart'],
    'reload': ['--reload'],
}

#: Descriptors that a site may have more at the end: under --reload a process may have been
#: started since the first count, and has a connection and a scoreboard.
SPARE = 3

#: Seconds that an answer may take on a busy machine.
LIMIT = 20

#: The number of inputs between two checks.
BATCH = 100

#: The kilobytes by which the process may grow in the second half of an attack.
GROWTH = 1024

ODD = [None, True, 0, -1, 1.5, 2**70, '', 'x' * 3000, [], [[]], {}, {'a': 1}, '\x1b[2J']


class Inputs:
    """Sends one input after the other; ``dice`` decides which."""

    def __init__(self, path, dice):
        self.path, self.dice, self.silent = path, dice, []

    def send_one(self):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(LIMIT)
        # The site may close the connection at any moment.
        with contextlib.suppress(ConnectionError, BlockingIOError):
            sock.connect(self.path)
            for piece in self.pieces():
                sock.sendall(piece)
            self.leave(sock)
            return
        sock.close()

    def pieces(self):
        dice = self.dice
        data = dice.choice([self.noise, self.request, self.mutated, self.nested])()
        if dice.random() < 0.2:
            data *= dice.randrange(2, 200)
        at = dice.randrange(len(data) + 1)
        return [data[:at], data[at:]] if dice.random() < 0.3 else [data]

    def leave(self, sock):
        """Read the answer, or leave at once, or hold the connection, and read nothing."""
        way = self.dice.random()
        if way < 0.5:
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(1 << 16):
                pass
        if 0.5 <= way < 0.6:
            self.silent.append(sock)
            if len(self.silent) > 50:
                self.silent.pop(0).close()
        else:
            sock.close()

    def noise(self):
        return self.dice.randbytes(self.dice.choice([0, 1, 10, 5000, 100_000]))

    def request(self):
        """Return a request whose fields have other values. It is none to stop or to replace."""
        dice, fields = self.dice, {'version': VERSION, 'command': 'status'}
        for name in dice.sample(['version', 'wait', 'x', 'command', 'pid'], 2):
            fields[name] = dice.choice(ODD)
        if dice.random() < 0.3:
            fields['version'], fields['command'] = VERSION, 'status'
        if dice.random() < 0.1:
            del fields[dice.choice(list(fields))]
        return json.dumps(fields).encode() + dice.choice([b'\n', b'\n', b'', b'\r\n'])

    def mutated(self):
        data = bytearray(self.request())
        for _ in range(self.dice.randrange(1, 5)):
            data[self.dice.randrange(len(data))] = self.dice.randrange(256)
        return bytes(data)

    def nested(self):
        return self.dice.choice([b'[', b'{"a":', b'"\\u']) * 4000 + b'\n'


def attack(folder, mode, count, seed=0):
    """Send ``count`` inputs to a site; return a text for each failure."""
    wrong, sizes = [], []
    args = [*MODES[mode], '--pid-file', 'site.pid']
    with Site(folder, SERVED, *args, files={'webapp.py': APP}) as site:
        path = f'{folder}/site.pid.sock'
        assert ask(path, 'status', LIMIT)['pid'] == site.pid
        assert site.get().status == 200
        descriptors = _descriptors(site.pid)
        inputs = Inputs(path, random.Random(f'{mode} {seed}'))
        for number in range(count):
            inputs.send_one()
            if number % BATCH == BATCH - 1:
                began = time.monotonic()
                status = ask(path, 'status', LIMIT)
                if status['pid'] != site.pid or status['state'] != 'STARTED':
                    wrong.append(f'after {number}: {status}')
                if site.get().status != 200:
                    wrong.append(f'after {number}: the site does not serve')
                if (took := time.monotonic() - began) > LIMIT / 2:
                    wrong.append(f'after {number}: {took:.1f} s for two answers')
                sizes.append(int(status_field(site.pid, 'VmRSS').split()[0]))
        for sock in inputs.silent:
            sock.close()
        with contextlib.suppress(AssertionError):
            eventually(lambda: _descriptors(site.pid) <= descriptors + SPARE)
        if _descriptors(site.pid) > descriptors + SPARE:
            wrong.append(f'descriptors: {descriptors}, then {_descriptors(site.pid)}')
        half = sizes[len(sizes) // 2 :]
        if len(half) > 10 and half[-1] - half[0] > GROWTH:
            wrong.append(f'it has grown from {half[0]} to {half[-1]} kB')
        code, out, err = site.stop(signal.SIGTERM)
        if code != 0 or 'Traceback' in out + err:
            wrong.append(f'exit code {code}\n{err[-4000:]}')
    return wrong


def _descriptors(pid):
    return len(os.listdir(f'/proc/{pid}/fd'))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--count', type=int, default=1000, help='inputs in each mode')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--mode', choices=MODES, action='append')
    options = parser.parse_args()
    failed = 0
    for mode in options.mode or MODES:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            wrong = attack(folder, mode, options.count, options.seed)
        failed += len(wrong)
        took = time.monotonic() - began
        print(
            f'{mode}: {options.count} inputs in {took:.0f} s, {len(wrong)} wrong',
            *wrong,
            sep='\n',
            flush=True,
        )
    return bool(failed)


if __name__ == '__main__':
    sys.exit(main())

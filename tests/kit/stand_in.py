"""What the commands take for a site: it answers what the test tells it to."""

import contextlib
import json
import sys

from tests.kit import BIN, Process, run

#: A supervisor that answers what the test tells it to, by lines of JSON.
STAND_IN = """
import json, os, selectors, sys, time
from paste_wspbus.unix.paths import runtime_folder
from paste_wspbus.control.register import Registration
from paste_wspbus.control.server import Control
from paste_wspbus.plugins.pidfile import PIDLock

waiting, replies = [], {}
status = {
    'pid': os.getpid(), 'state': 'STARTED', 'since': time.time(), 'age': 0, 'urls': [],
    'generation': 1, 'workers': [], 'requests': [], 'threads': [], 'calling': None,
    'deadline': 25, 'is_crashed': False, 'failure': None,
}


def heed(command):
    def handler(connection):
        print(json.dumps(connection.request), flush=True)
        waiting.append(connection)
        if command in replies:
            answer(replies[command])
    return handler


def answer(message):
    for connection in waiting:
        connection.close() if message is None else connection.answer(message)
    waiting.clear()


def do(order):
    status.update(order.get('status', {}))
    for key in order.get('without', ()):
        del status[key]
    replies.update(order.get('replies', {}))
    if 'answer' in order:
        answer(order['answer'])
    if order.get('open'):
        control.register(selector)
    if order.get('leave'):
        leave()


def leave():
    entry.close()
    control.close()
    if lock is not None:
        lock.release()
    os._exit(0)


def hear():
    global came
    part = os.read(0, 65536)
    if not part:
        leave()
    *lines, came = (came + part).split(b'\\n')
    for line in lines:
        do(json.loads(line))
        print('done', flush=True)


def tell_status(connection):
    print('status', flush=True)
    return status


commands = {
    'status': tell_status,
    'graceful': heed('graceful'),
    'stop': heed('stop'),
}
came, lock, selector = b'', None, selectors.DefaultSelector()
entry = Registration(runtime_folder(), os.path.realpath('site.ini'))
if '--runtime' in sys.argv:
    control = Control(entry.control, commands)
else:
    lock = PIDLock('paster.pid')
    lock.acquire()
    lock.write()
    control = Control(lock.control, commands)
control.open()
ini, file = os.path.abspath('site.ini'), os.path.realpath('site.ini')
entry.write(
    ini=ini, file=file, server='main', app='main', control=control.path,
    pid_file=lock and lock.path,
)
if '--silent' not in sys.argv:
    control.register(selector)
selector.register(0, selectors.EVENT_READ, hear)
print('there', flush=True)
while True:
    for key, _ in selector.select():
        key.data()
"""


class StandIn(Process):
    """What the commands take for a site, in a child process."""

    def __init__(self, folder, *args):
        super().__init__([sys.executable, '-c', STAND_IN, *args], folder)
        self._told = 0

    def __enter__(self):
        super().__enter__()
        assert self.out.wait_for('there\n'), self.report()
        return self

    def tell(self, **order):
        self._told += 1
        self.process.stdin.write(json.dumps(order) + '\n')
        self.process.stdin.flush()
        assert self.out.wait_for('done\n', self._told), self.report()

    def wait_for_request(self, command):
        assert self.out.wait_for(f'"command": "{command}"'), self.report()

    @property
    def requests(self):
        lines = self.out.text.splitlines()
        return [json.loads(line) for line in lines if line.startswith('{')]


@contextlib.contextmanager
def begun(folder, *args, **kwargs):
    """A command that goes on while the test does."""
    with Process([BIN / 'wspserve', *args], folder, **kwargs) as command:
        yield command


def worker(number, **more):
    told = {'name': f'worker {number}', 'number': number, 'pid': 4710}
    told |= {'state': 'ready', 'generation': 2, 'age': 7300, 'requests': []}
    return {**told, **more}


def status_json(folder, *args):
    told = run(folder, 'site.ini', 'status', '--json', *args)
    assert told.err.text == ''
    assert told.out.text.startswith('{\n  "')
    return told.code, json.loads(told.out.text)

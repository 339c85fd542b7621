"""A Redis server of a test's own: a port or a socket, no data on the disk."""

import shutil
import signal
import subprocess
import time

import pytest

from paste_wspbus.cluster.engine import Member, Wish
from tests.kit.clients import free_port

PROGRAM = 'redis-server'


class RedisServer:
    """Runs in a ``with`` block: on a free port of the loopback, and on a Unix socket.

    :param options: more words of its command line.
    """

    def __init__(self, folder, *options, program=PROGRAM):
        if shutil.which(PROGRAM) is None:
            pytest.skip(f'{PROGRAM} is not installed: see .ci/system-packages')
        self.folder, self.options, self.program = folder, options, program
        self.port, self.socket = free_port(), folder / 'redis.sock'
        self.url = f'redis://127.0.0.1:{self.port}/0'
        self.process = None

    def start(self):
        words = [self.program, '--port', str(self.port), '--bind', '127.0.0.1']
        words += ['--unixsocket', str(self.socket), '--save', '', '--appendonly', 'no']
        words += ['--dir', str(self.folder), '--loglevel', 'warning', *self.options]
        self.process = subprocess.Popen(
            words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        client, until = self.client(), time.monotonic() + 20
        while True:
            try:
                client.ping()
                return self
            except Exception:
                assert time.monotonic() < until, 'redis-server does not answer'
                assert self.process.poll() is None, 'redis-server has ended'
                time.sleep(0.02)

    def client(self, **more):
        import redis

        return redis.Redis(port=self.port, socket_timeout=5, **more)

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def restart(self):
        """Kill it, and start it again: empty, for it has saved nothing."""
        self.kill()
        self.start()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGCONT)
        self.kill()


class Sentinel:
    """A master, a replica, and a sentinel that watches them; in a ``with`` block.

    ``log`` is the file of the sentinel's log.
    """

    def __init__(self, folder):
        self.folder, self.port = folder, free_port()
        self.log = folder / 'sentinel.log'
        self.url = f'sentinel://127.0.0.1:{self.port}/shop/0'
        at_once = '--repl-diskless-sync-delay', '0'
        folders = [folder / name for name in ('first', 'second')]
        for one in folders:
            one.mkdir()
        self.master, self.replica = (RedisServer(one, *at_once) for one in folders)
        self.process = None

    def __enter__(self):
        self.master.start()
        self.replica.start()
        self._follow()
        conf = self.folder / 'sentinel.conf'
        conf.write_text(
            f'port {self.port}\nbind 127.0.0.1\ndir {self.folder}\n'
            f'sentinel monitor shop 127.0.0.1 {self.master.port} 1\n'
            'sentinel down-after-milliseconds shop 500\n'
            'sentinel failover-timeout shop 3000\n'
        )
        words = [shutil.which(PROGRAM), str(conf), '--sentinel']
        with self.log.open('w') as log:
            self.process = subprocess.Popen(words, stdout=log)
        return self

    def _follow(self):
        self.replica.client().replicaof('127.0.0.1', self.master.port)
        self._until(self.replica, 'master_link_status', 'up')

    def _until(self, server, key, value):
        client, until = server.client(), time.monotonic() + 30
        while client.info('replication').get(key) != value:
            assert time.monotonic() < until, f'{key} is not {value}'
            time.sleep(0.02)

    def _named_master(self):
        """Return the port of the master, as the sentinel says."""
        import redis

        asked = redis.Redis(port=self.port, socket_timeout=5)
        return asked.sentinel_get_master_addr_by_name('shop')[1]

    def fail_over(self):
        """Kill the master, and wait until the replica is the master; then it has a replica again.

        It is over when the sentinel, too, calls it the master. Another failover before that would
        leave two masters for seconds.
        """
        self.master.kill()
        self._until(self.replica, 'role', 'master')
        self.master, self.replica = self.replica, self.master
        until = time.monotonic() + 30
        while self._named_master() != self.master.port:
            assert time.monotonic() < until, 'the sentinel knows no new master'
            time.sleep(0.02)
        self.replica.start()
        self._follow()

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        for server in (self.master, self.replica):
            server.__exit__()


def certified(folder, name):
    """Make a key and a certificate that it has signed itself, for 127.0.0.1.

    :returns: the paths of the certificate and of the key.
    """
    if shutil.which('openssl') is None:
        pytest.skip('openssl is not installed: see .ci/system-packages')
    certificate, key = folder / f'{name}.pem', folder / f'{name}.key'
    words = ['openssl', 'req', '-x509', '-nodes', '-days', '2', '-newkey', 'ec']
    words += ['-pkeyopt', 'ec_paramgen_curve:prime256v1', '-subj', f'/CN={name}']
    words += ['-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', key, '-out']
    subprocess.run([*words, certificate], check=True, capture_output=True)
    return certificate, key


def released(engine, name='plugins'):
    """Take a lease and release it: who comes next need not wait for a ttl."""
    nobody = Member('nobody', 'nobody')
    seen = engine.lease(name, nobody, Wish())
    taken = engine.lease(name, nobody, Wish('take', seen.version))
    engine.lease(name, nobody, Wish('free', '', taken.record.fence))
    engine.close()

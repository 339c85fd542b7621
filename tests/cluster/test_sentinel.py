"""The engine behind Redis Sentinel: who asks it finds the master, also after a failover."""

import contextlib
import shutil
import subprocess
import time

import pytest

from paste_wspbus.cluster.engine import EngineAway, Member, Wish
from paste_wspbus.cluster.redis import RedisEngine
from paste_wspbus.cluster.settings import Settings
from tests.kit import eventually, free_port
from tests.kit.redis_servers import RedisServer

ONE = Member('one-1', 'one')


@pytest.fixture
def pair(tmp_path):
    """A master, a replica, and the port of a sentinel that watches them."""
    folders = [tmp_path / name for name in ('master', 'replica')]
    for folder in folders:
        folder.mkdir()
    port, conf = free_port(), tmp_path / 'sentinel.conf'
    at_once = '--repl-diskless-sync-delay', '0'
    with (
        RedisServer(folders[0], *at_once) as master,
        RedisServer(folders[1]) as replica,
    ):
        replica.client().replicaof('127.0.0.1', master.port)
        conf.write_text(
            f'port {port}\nbind 127.0.0.1\ndir {tmp_path}\n'
            f'sentinel monitor shop 127.0.0.1 {master.port} 1\n'
            'sentinel down-after-milliseconds shop 500\n'
            'sentinel failover-timeout shop 3000\n'
        )
        words = [shutil.which('redis-server'), str(conf), '--sentinel']
        sentinel = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        try:
            link = 'master_link_status'
            eventually(lambda: replica.client().info().get(link) == 'up')
            yield master, replica, port
        finally:
            sentinel.kill()
            sentinel.wait()


def test_a_failover_is_another_run_of_the_engine(pair):
    master, replica, port = pair
    url = f'sentinel://127.0.0.1:{port}/shop/0'
    engine = RedisEngine(Settings(url, 'shop', 'one', ttl=5))
    until = time.monotonic() + 20
    while True:  # the sentinel starts
        try:
            before = engine.lease('plugins', ONE, Wish())
            break
        except EngineAway:
            assert time.monotonic() < until
            time.sleep(0.05)
    taken = engine.lease('plugins', ONE, Wish('take', before.version))
    assert taken.granted
    eventually(lambda: replica.client().exists('wspbus:{shop}:lease:plugins'))
    master.kill()
    answers = []
    eventually(lambda: _answers_of_another_run(engine, taken.epoch, answers))
    (after,) = answers
    assert after.record.holder == 'one-1'
    assert after.version != taken.version
    renewed = engine.lease('plugins', ONE, Wish('renew', '', taken.record.fence))
    assert renewed.granted
    engine.close()


def _answers_of_another_run(engine, epoch, answers):
    with contextlib.suppress(EngineAway):
        answer = engine.lease('plugins', ONE, Wish())
        if answer.epoch != epoch:
            answers.append(answer)
    return bool(answers)

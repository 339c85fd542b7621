"""cluster_plugins in the workers of gunicorn, for real: which of them runs them, and when."""

import os
import re
import shutil
import signal

import pytest

from paste_wspbus.cluster.engine import Member, Wish
from paste_wspbus.cluster.local import LocalEngine
from paste_wspbus.cluster.settings import Settings
from tests.environments import environment
from tests.hosts import promises as hosts
from tests.hosts.test_gunicorn import Gunicorn
from tests.kit import Process, write
from tests.kit.redis_servers import released
from tests.workers.test_cluster_plugins import JOB, notes, wait_for_job

TTL = 1.5

INI = """
[plugin:job]
use = call:job:run
folder = %(here)s

[cluster:main]
name = shop
ttl = {ttl}
"""


@pytest.fixture
def folder(tmp_path):
    ignore = shutil.ignore_patterns('events')
    site = shutil.copytree(hosts.SITE, tmp_path / 'site', ignore=ignore)
    text = (site / 'site.ini').read_text()
    text = text.replace('[wspbus:main]', '[wspbus:main]\ncluster_plugins = job')
    write(site, {'site.ini': text + INI.format(ttl=TTL), 'job.py': JOB})
    (site / 'run').mkdir(0o700)
    return site


def engine(folder):
    return LocalEngine(Settings('', 'shop', 'test', TTL), str(folder / 'run'))


def test_one_worker_runs_them_and_another_takes_over(folder):
    released(engine(folder))
    env = {'RUNTIME_DIRECTORY': str(folder / 'run')}
    with Gunicorn(folder, '--workers', '2', wait=False, env=env) as gunicorn:
        _, first, parent, fence, remaining = wait_for_job(folder, 1)
        assert parent == gunicorn.process.pid
        assert 0 < remaining <= TTL
        os.kill(first, signal.SIGKILL)
        _, second, _, higher, _ = wait_for_job(folder, 2)
        assert second != first and higher > fence
        assert gunicorn.get().status == 200
        # A worker that ends in order releases the lease: the other one need not wait for it.
        os.kill(second, signal.SIGTERM)
        _, third, _, highest, _ = wait_for_job(folder, 3)
        assert third != second and highest > higher
        assert gunicorn.stop() == 0
        # A worker that gets its signal later than the other one may run them for a moment.
        stops = [note[3] for note in notes(folder, 'stops')]
        assert stops[:2] == [higher, highest]
        assert stops == [note[3] for note in notes(folder)][1:]
        text = gunicorn.process.err.text
    seen = engine(folder).lease('plugins', Member('nobody', 'nobody'), Wish())
    assert (seen.record.holder, seen.record.fence) == ('', stops[-1])
    assert f'The cluster plugins run here now (fence {fence})' in text
    assert 'only bus.lease.fence keeps two apart' in text
    assert 'Traceback' not in text and '[ERROR] The' not in text


def test_a_worker_class_of_another_kind_says_that_they_do_not_run(folder):
    write(folder, {'own.py': OWN})
    options = '--worker-class', 'own.Worker', '--pythonpath', str(folder)
    with Gunicorn(folder, *options) as gunicorn:
        gunicorn.stop()
        said = r'do not run, because gunicorn [\d.]+ cannot hold their lease here'
        assert re.search(said, gunicorn.process.err.text)
    assert notes(folder) == []


def test_gunicorn_as_the_inis_server_has_workers_for_them(folder):
    text = (folder / 'site.ini').read_text()
    text = text.replace('use = egg:waitress', 'use = egg:gunicorn#main')
    write(folder, {'site.ini': text.replace('listen = 127.0.0.1:0', 'workers = 2')})
    wspserve = environment('gunicorn') / 'bin' / 'wspserve'
    with Process([wspserve, 'site.ini', '--check'], folder) as process:
        assert process.wait() == 0, process.report()
        assert process.out.text == 'site.ini: no mistakes found\n'


OWN = """
from gunicorn.workers.sync import SyncWorker

class Worker(SyncWorker):
    pass
"""

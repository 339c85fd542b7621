"""cluster_plugins: what runs once for all machines of a site, while a lease is renewed."""

import json
import os
import signal
import time

import pytest

from paste_wspbus.cluster.local import LocalEngine
from paste_wspbus.cluster.redis import RedisEngine
from paste_wspbus.cluster.settings import Settings
from tests.kit import Site, eventually, run
from tests.kit.processes import has_ended, processes_of_session
from tests.kit.redis_servers import RedisServer, released
from tests.kit.supervised import graceful, stop

#: Seconds that nothing here waits for.
TTL = 60

INI = """
[app:main]
use = egg:paste_wspbus#hello

[server:main]
use = egg:waitress
listen = 127.0.0.1:0

[wspbus:main]
workers = 1
soak = 0
cluster_plugins = job

[plugin:job]
use = call:job:run
folder = {folder}
"""

CLUSTER = """
[cluster:main]
use = {url}
name = shop
machine = {machine}
ttl = {ttl}
"""

JOB = """
import fcntl
import json
import os


def run(bus, global_conf, folder):
    def note(what):
        lease = bus.lease.fence, bus.lease.remaining
        line = json.dumps([what, os.getcwd(), os.getpid(), os.getppid(), *lease])
        with open(f'{folder}/notes', 'a') as notes:
            notes.write(line + '\\n')

    lock = open(f'{folder}/locked', 'w')
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    note('starts')
    yield
    note('stops')
    lock.close()
"""


def machine(folder, name, url='', at=None, ttl=5, more=(), job=JOB, **kwargs):
    """A site in a folder of its own: one of several machines, or alone."""
    alone = f'[cluster:main]\nname = alone\nttl = {ttl}\n'
    given = CLUSTER.format(url=url, machine=name, ttl=ttl) if url else alone
    text = INI.replace('{folder}', str(folder)) + given
    own = (at or folder) / name
    own.mkdir(exist_ok=True)
    words = ['--pid-file', 'site.pid', '-v', *more]
    env = {'RUNTIME_DIRECTORY': str(folder)}
    return Site(own, text, *words, files={'job.py': job}, env=env, **kwargs)


@pytest.fixture
def engine(tmp_path):
    folder = tmp_path / 'engine'
    folder.mkdir()
    with RedisServer(folder) as server:
        released(RedisEngine(Settings(server.url, 'shop', 'nobody')))
        yield server


# -- what the tests ask ------------------------------------------------------------------


def notes(folder, what='starts'):
    """Return the notes of the jobs: folder, process, parent, fence, remaining seconds."""
    path = folder / 'notes'
    lines = path.read_text().splitlines() if path.exists() else []
    return [note[1:] for note in map(json.loads, lines) if note[0] == what]


def wait_for_job(folder, count):
    eventually(lambda: len(notes(folder)) >= count)
    return notes(folder)[count - 1]


# -- once --------------------------------------------------------------------------------


def test_it_runs_on_one_machine_and_moves_at_once_when_that_stops(tmp_path, engine):
    with machine(tmp_path, 'one', engine.url, ttl=TTL) as one:
        folder, job, guard, fence, remaining = wait_for_job(tmp_path, 1)
        assert folder.endswith('/one')
        assert 0 < remaining <= TTL
        one.expect(f'The cluster plugins run here now (fence {fence})')
        (tmp_path / 'more').mkdir()
        other = tmp_path / 'more'
        with machine(tmp_path, 'one', engine.url, other, ttl=TTL) as two:
            two.expect('Another member of the cluster has the name one, too')
            assert engine.client().zcard('wspbus:{shop}:seen') == 2
            began = time.monotonic()
            stop(one)
            assert has_ended(job) and has_ended(guard)
            folder, _, _, second, _ = wait_for_job(tmp_path, 2)
            # It does not wait for the end of the lease.
            assert time.monotonic() - began < TTL
            assert folder.endswith('/more/one')
            assert second > fence
            stop(two)
    assert len(notes(tmp_path, 'stops')) == 2
    assert engine.client().zcard('wspbus:{shop}:seen') == 0


def test_alone_it_needs_no_server(tmp_path):
    released(LocalEngine(Settings('', 'alone', 'nobody'), str(tmp_path)))
    with machine(tmp_path, 'one') as site:
        _, job, _, fence, _ = wait_for_job(tmp_path, 1)
        assert job in processes_of_session(site.pid)
        # The old one stops before the new one starts, or the lock is taken.
        graceful(site)
        _, new, _, same, _ = wait_for_job(tmp_path, 2)
        assert new != job and same == fence
        assert has_ended(job)
        ini = tmp_path / 'one' / 'site.ini'
        ini.write_text(ini.read_text().replace('ttl = 5', 'ttl = 50'))
        assert '[cluster:main] has changed, which takes a restart' in graceful(site)
        _, new, *_ = wait_for_job(tmp_path, 3)
        (tmp_path / 'one' / 'job.py').write_text('import nothing_like_this\n')
        assert 'nothing_like_this' in graceful(site, code=1)
        assert not has_ended(new)
        stop(site)
    # It was released: the next start need not wait.
    with machine(tmp_path, 'one') as site:
        assert wait_for_job(tmp_path, 4)[3] > fence
        stop(site)


# -- what crashes ------------------------------------------------------------------------

CRASHES = JOB.replace(
    "    note('starts')\n",
    "    note('starts')\n    if os.path.exists('broken'):\n        os._exit(3)\n",
)


def test_what_crashes_again_and_again_on_one_machine_runs_on_another(tmp_path, engine):
    """Nobody waits for the ttl: the machine releases the lease before it tries again."""
    (tmp_path / 'one').mkdir()
    (tmp_path / 'one' / 'broken').touch()
    with machine(tmp_path, 'one', engine.url, ttl=TTL, job=CRASHES) as one:
        # Alone, it goes on by itself.
        wait_for_job(tmp_path, 4)
        one.expect(
            'crash again and again here: before each new start, this site releases'
        )
        assert len({fence for _, _, _, fence, _ in notes(tmp_path)}) >= 2
        words = 'site.ini', 'status', '--pid-file', 'site.pid'
        line = (
            'The cluster plugins (job) crash again and again here. This machine wants'
        )
        eventually(lambda: line in run(one.folder, *words).out.text)
        with machine(tmp_path, 'two', engine.url, ttl=TTL) as two:
            eventually(lambda: notes(tmp_path)[-1][0].endswith('/two'))
            two.expect('The cluster plugins run here now')
            count = len(notes(tmp_path))
            (tmp_path / 'one' / 'broken').unlink()
            stop(two)
        # When that stops, this one has the lease again.
        assert wait_for_job(tmp_path, count + 1)[0].endswith('/one')
        stop(one)


# -- the end in time ---------------------------------------------------------------------


def test_a_stopped_supervisor_and_a_stopped_guard_lose_the_lease(tmp_path, engine):
    """SIGSTOP: nothing of the process runs, and the kernel ends the job all the same."""
    with machine(tmp_path, 'one', engine.url, ttl=3) as one:
        _, job, guard, *_ = wait_for_job(tmp_path, 1)
        os.kill(guard, signal.SIGSTOP)
        eventually(lambda: has_ended(job) and has_ended(guard))
        _, job, guard, fence, _ = wait_for_job(tmp_path, 2)
        with machine(tmp_path, 'two', engine.url, ttl=3) as two:
            one.send(signal.SIGSTOP)
            folder, _, _, second, _ = wait_for_job(tmp_path, 3)
            assert folder.endswith('/two')
            assert second > fence
            assert has_ended(job) and has_ended(guard)
            one.send(signal.SIGCONT)
            stop(two)
        stop(one)


# -- the engine --------------------------------------------------------------------------


def test_while_the_engine_is_away_the_site_serves_and_the_job_stops_in_time(
    tmp_path, engine
):
    with machine(tmp_path, 'one', engine.url, ttl=2) as site:
        _, job, _, fence, _ = wait_for_job(tmp_path, 1)
        engine.kill()
        site.expect('The lease was not renewed: this process stops')
        eventually(lambda: has_ended(job))
        assert len(notes(tmp_path, 'stops')) == 1  # before it would have been killed
        assert site.get('/').status == 200
        site.expect('cluster: no word from redis://127.0.0.1:')
        ok, text = health(site)
        assert ok is False
        assert text.startswith('no word for ') and 'there is no connection' in text
        engine.start()  # empty
        assert wait_for_job(tmp_path, 2)[3] >= fence
        site.expect('is back after')
        assert health(site) == (True, '1 member, one has the lease')
        stop(site)
    # Once a minute. On a busy machine, the engine may have been late before that, too.
    assert 1 <= site.err.text.count('no word from') <= 3


def health(site):
    said = run(site.folder, 'site.ini', 'status', '--json', '--pid-file', 'site.pid')
    (row,) = json.loads(said.out.text)['health']
    assert (row['name'], row['process'], row['group']) == (
        'cluster',
        'supervisor',
        'health',
    )
    return row['ok'], row['text']


def test_a_start_without_the_engine_works_unless_it_is_required(tmp_path, engine):
    engine.kill()
    with machine(tmp_path, 'one', engine.url, ttl=2) as site:
        site.expect('there is no connection')
        stop(site)
    url = f'{engine.url}\nrequire = true'
    with machine(tmp_path, 'two', url, ttl=2, more=['-q'], wait=False) as site:
        assert site.wait() == 1
    (line,) = site.err.text.splitlines()
    assert line.startswith('[cluster:main] require = true: redis://127.0.0.1:')


# -- what is refused ---------------------------------------------------------------------


@pytest.mark.parametrize('args', [[], ['--check']], ids=['serve', 'check'])
def test_one_process_is_refused(tmp_path, args):
    text = INI.replace('workers = 1', 'workers = 0').replace('{folder}', str(tmp_path))
    files = {'site.ini': text, 'job.py': JOB}
    refused = run(tmp_path, 'site.ini', *args, files=files)
    assert refused.code == 2, refused.report()
    (line,) = (refused.out.text + refused.err.text).splitlines()
    assert (
        'site.ini [wspbus:main] cluster_plugins: these plugins need a process' in line
    )
    assert line.endswith('set workers = 1')


def test_a_wrong_section_ends_the_start_with_one_line(tmp_path):
    text = INI.replace('{folder}', str(tmp_path)) + '[cluster:main]\nttl = 10ms\n'
    refused = run(tmp_path, 'site.ini', files={'site.ini': text, 'job.py': JOB})
    assert refused.code == 2
    (line,) = refused.err.text.splitlines()
    assert 'site.ini [cluster:main] ttl: 0.01 s is not from 1 s to 1 h' in line

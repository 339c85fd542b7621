"""The cluster plugins in a worker: what its thread decides, with an engine of the test's own."""

import threading
from types import SimpleNamespace

import pytest

from paste_wspbus.bus import Bus
from paste_wspbus.cluster.claim import Held
from paste_wspbus.cluster.engine import (
    Answer,
    EngineAway,
    Member,
    Record,
)
from paste_wspbus.cluster.settings import Settings
from paste_wspbus.hosts import Host, HostCannot, leased, require
from paste_wspbus.hosts.leased import HeldLease, Holder, Job
from paste_wspbus.hosts.site import compose
from paste_wspbus.ini.config import Site, StartFailed
from paste_wspbus.unix.kernel_timer import boot_clock
from tests.kit import free_port

TTL = 10.0
ONE = Member('one-1', 'one')


class Engine:
    """It grants what it is asked for, and notes that; ``away`` is why it does not answer."""

    def __init__(self):
        self.acts, self.away, self.holder, self.fence = [], '', '', 7

    def lease(self, name, member, wish):
        if self.away:
            raise EngineAway(self.away)
        self.acts.append(wish.act)
        granted = wish.act != 'look' and self.holder in ('', member.id)
        if granted:
            self.fence += wish.act == 'take'
            self.holder = '' if wish.act == 'free' else member.id
        record = Record(self.holder, self.fence, len(self.acts), 'run', 0, 0, 'm', TTL)
        return Answer(granted, record, 'run', boot_clock())

    def send(self, message):
        self.acts.append(message.kind)

    def warnings(self):
        return ['it is too small']


class Told:
    """A holder, whose plugins are those of the test."""

    def __init__(self):
        self.engine, self.said, self.jobs = Engine(), [], []
        settings = Settings('redis://h/0', 'shop', 'one', TTL, 'sesame')
        log = lambda text, level: self.said.append(text)  # noqa: E731
        self.holder = Holder(settings, ONE, self.engine, self.start, log)

    def start(self, lease):
        job = SimpleNamespace(lease=lease, is_over=False, failed=False, asked=0)
        job.ask = lambda: setattr(job, 'asked', job.asked + 1)
        self.jobs.append(job)
        return job

    def beat(self):
        """Let it decide once; return what it has asked for."""
        self.engine.acts.clear()
        self.seconds = self.holder.beat()
        return self.engine.acts

    def leads(self):
        assert self.beat() == ['look']
        assert self.beat() == ['take']
        return self.jobs[-1]


def test_who_gets_the_lease_starts_the_plugins_and_renews_it():
    one = Told()
    job = one.leads()
    assert job.lease.fence == 8 and TTL - 1 < job.lease.remaining <= TTL
    assert one.said == [
        'cluster: redis://h/0: it is too small',
        'The cluster plugins run here now (fence 8)',
    ]
    assert one.seconds <= TTL / 3
    until = job.lease.held.until
    assert one.beat() == ['renew']
    assert job.lease.held.until > until
    assert not job.asked and len(one.jobs) == 1


def test_who_has_not_got_it_looks_again_and_starts_nothing():
    one = Told()
    one.engine.holder = 'two-2'
    one.beat()
    assert 0 < one.seconds <= TTL / 2
    assert one.beat() == ['look']
    assert not one.jobs


def test_a_lease_that_another_one_has_stops_the_plugins_at_once():
    one = Told()
    job = one.leads()
    one.engine.holder = 'two-2'
    one.beat()
    assert job.asked
    assert 'The lease of the cluster plugins is lost (fence 8): they stop' in one.said
    one.engine.holder = ''
    assert one.beat() == ['look']  # they run still
    job.is_over = True
    one.beat()
    assert len(one.jobs) == 2


def test_a_lease_is_released_when_the_plugins_have_stopped_and_not_before():
    one = Told()
    job = one.leads()
    one.holder.leaves = True
    assert one.beat() == ['renew'] and job.asked
    assert not one.holder.is_done
    job.is_over = True
    assert one.beat() == ['free', 'freed']
    assert one.holder.is_done
    assert one.beat() == []  # it asks for nothing any more


def test_who_leaves_does_not_wait_for_an_engine_that_is_away():
    one = Told()
    job = one.leads()
    one.holder.leaves = job.is_over = True
    one.engine.away = 'it is full'
    one.beat()
    assert one.holder.is_done


def test_plugins_that_fail_release_the_lease_and_wait_longer_each_time(monkeypatch):
    now = boot_clock()
    monkeypatch.setattr(leased, 'clock', lambda: now)
    one = Told()
    pauses = []
    one.beat()
    for _ in range(3):
        assert one.beat() == ['take']
        one.jobs[-1].is_over = one.jobs[-1].failed = True
        assert one.beat() == ['free', 'freed']
        pauses.append(one.seconds)
        assert one.beat() == ['look']
        now += pauses[-1]
    assert pauses == pytest.approx([1, 2, 4])


def test_an_engine_that_is_away_is_one_line_and_the_lease_is_kept_until_its_end(
    monkeypatch,
):
    now = boot_clock()
    monkeypatch.setattr(leased, 'clock', lambda: now)
    one = Told()
    job = one.leads()
    one.said.clear()
    one.engine.away = 'it is full'
    for _ in range(3):
        one.beat()
        assert one.seconds <= TTL / 10
    assert one.said == [
        'cluster: no word from redis://h/0: it is full. The site keeps serving'
    ]
    one.engine.away = ''
    assert one.beat() == ['renew'] and not job.asked
    assert one.said[1:] == ['cluster: redis://h/0 is back']
    one.engine.away = 'it is full'
    now += TTL
    one.beat()
    one.engine.away = ''
    assert one.beat() == ['look']  # nobody can renew what has ended
    assert one.holder.claim.held is None


# -- the plugins ---------------------------------------------------------------------------


class Running:
    """A real job, with one lifespan that notes its start and its stop."""

    def __init__(self, held, ttl=TTL, fails=False):
        self.bus, self.notes, self.said = Bus(), [], []
        self.entered, self.ended = threading.Event(), threading.Event()

        @self.bus.lifespan
        def plugin():
            if fails:
                raise OSError('no room')
            self.notes.append('starts')
            self.entered.set()
            yield
            self.notes.append('stops')

        log = lambda text, level: self.said.append(text)  # noqa: E731
        make = lambda lease: Site('site.ini', self.bus, None)  # noqa: E731
        self.job = Job(HeldLease(held, ttl), make, log, self.ended.set)

    def wait(self):
        assert self.ended.wait(20)
        assert self.job.is_over
        return self.notes


def test_plugins_stop_when_they_are_asked_to():
    one = Running(Held(7, boot_clock() + TTL))
    assert one.entered.wait(20)
    one.job.ask()
    assert one.wait() == ['starts', 'stops']
    assert not one.job.failed and not one.said


def test_plugins_stop_in_the_last_quarter_of_a_lease_that_nobody_renews():
    one = Running(Held(7, boot_clock() + TTL / 4))
    assert one.wait() == ['starts', 'stops']
    assert not one.job.failed and one.job.lease.remaining > 0
    assert 'The lease was not renewed: the cluster plugins stop' in one.said[0]


def test_plugins_that_stop_too_late_are_an_error_in_the_log():
    one = Running(Held(7, boot_clock() - 1))
    one.wait()
    assert 'only after the end of their lease' in one.said[-1]


def test_plugins_that_do_not_start_or_end_by_themselves_have_failed():
    one = Running(Held(7, boot_clock() + TTL), fails=True)
    assert one.wait() == []
    assert one.job.failed
    assert 'plugin failed: OSError: no room' in one.said[-1]
    other = Running(Held(7, boot_clock() + TTL))
    assert other.entered.wait(20)
    other.bus.exit()
    assert other.wait() == ['starts', 'stops']
    assert other.job.failed


# -- what a host promises --------------------------------------------------------------------


def test_a_plugin_may_ask_for_a_lease_that_the_kernel_ends():
    bus = Bus()
    bus.host = Host('gunicorn', '27', {'start', 'stop', 'cluster'})
    require(bus, 'cluster')
    with pytest.raises(HostCannot, match='the end of their lease kills the process'):
        require(bus, 'cluster-enforced', component='nightly')


INI = """
[app:main]
use = egg:paste_wspbus#hello

[wspbus:main]
cluster_plugins = job

[plugin:job]
use = call:nowhere:job

[cluster:main]
use = redis://127.0.0.1:{port}/0
name = shop
require = true
"""


def hosted(folder, *promises):
    """A site of a host with these promises, which is not started."""
    (folder / 'site.ini').write_text(INI.format(port=free_port()))
    host = Host('mine', '1', {'start', 'stop', *promises})
    return compose(folder / 'site.ini', host, configure_logging=False)


def test_a_start_that_requires_the_engine_fails_without_it(tmp_path):
    site = hosted(tmp_path, 'cluster')
    said = r'site\.ini \[cluster:main\]: require = true: redis://.*: there is no connection'
    with pytest.raises(StartFailed, match=said):
        site.start()


def test_where_threads_are_greenlets_they_do_not_run(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(leased, 'threads_are_greenlets', lambda: True)
    site = hosted(tmp_path, 'cluster')
    site.start()
    assert "cannot hold their lease here: it lacks 'cluster'" in caplog.text
    assert site.stop() == 0


def test_a_host_that_does_not_promise_it_does_not_run_them(tmp_path, caplog):
    site = hosted(tmp_path)
    site.start()
    said = 'cluster_plugins = job: these plugins do not run, because mine 1 cannot hold'
    assert said in caplog.text
    assert site.stop() == 0

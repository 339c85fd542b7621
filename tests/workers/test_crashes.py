"""A worker that dies, or is told to stop: another one takes its place."""

import contextlib
import os
import re
import signal

import pytest

from tests.kit import eventually
from tests.kit.clients import Clients
from tests.kit.processes import children, freeze
from tests.kit.sites import ask
from tests.kit.supervised import crash, has_cleaned_up, imported
from tests.kit.workers import (
    AT_GATE,
    FILES,
    INI,
    ONE_ONLY,
    Workers,
    impatient,
    open_gate,
    set_up,
)


@pytest.mark.parametrize(
    'page, how',
    [
        ('/kill', 'signal SIGKILL'),
        ('/segv', 'signal SIGSEGV'),
        ('/exit0', 'exit code 0'),
    ],
)
def test_a_worker_that_dies_is_replaced_while_the_other_serves(tmp_path, page, how):
    with Workers(tmp_path) as site:
        before = site.pids()
        set_up(tmp_path, at_composition=AT_GATE)
        crash(site, page)
        site.expect('composing')
        assert re.search(
            rf'crashed, {how}( \(it used .*\))?; restarting\n', site.err.text
        )
        (stays,) = set(before) & set(site.pids())
        assert site.answerers() == {stays}
        open_gate(tmp_path)
        eventually(lambda: [w['state'] for w in site.workers()] == ['ready', 'ready'])
        eventually(lambda: ask(site)['pid'] == imported(tmp_path)[2])
        assert site.stop()[0] == 0
        assert has_cleaned_up(site)
    assert site.err.text.count('crashed') == 1
    assert (
        f'Worker {1 + before.index(*(set(before) - {stays}))} (process '
        in site.err.text
    )


@pytest.mark.parametrize('preload', ['false', 'true'])
def test_a_worker_killed_while_the_site_starts_is_replaced(tmp_path, preload):
    ini = INI.replace('[wspbus:main]', f'[wspbus:main]\npreload = {preload}')
    set_up(tmp_path, at_start=ONE_ONLY % 'wait_at_gate()')
    with Workers(tmp_path, wait=False, files={**FILES, 'site.ini': ini}) as site:
        site.expect('composing')
        (killed,) = site.says('composing')
        site.expect('opened', 2)
        os.kill(killed, signal.SIGKILL)
        assert site.out.wait_for('Serving on'), site.report()
        open_gate(tmp_path)
        eventually(lambda: {w['state'] for w in site.workers()} == {'ready'})
        assert site.stop()[0] == 0
        assert site.has_left_nothing()
    assert f'(process {killed}) failed to start: signal SIGKILL; restarting\n' in (
        site.err.text
    )


def test_a_worker_that_crashes_again_and_again_is_waited_for(tmp_path):
    with Workers(tmp_path, count=1) as site:
        crash(site, '/segv')
        site.expect('crashed, signal SIGSEGV; restarting\n')
        # It answers a little earlier than it is READY; before that, its start fails.
        eventually(lambda: [w['state'] for w in site.workers()] == ['ready'])
        crash(site, '/segv')
        site.expect('crashed, signal SIGSEGV; restarting in 1 s\n')
        ask(site)
        assert site.stop()[0] == 0


def test_while_somebody_serves_a_site_is_not_given_up(tmp_path):
    with impatient(tmp_path, backoff=(0,)) as site:
        set_up(tmp_path, at_composition="raise RuntimeError('it is broken')")
        stays = site.pids()[0]
        os.kill(site.pids()[1], signal.SIGSEGV)
        site.expect('failed to start: ', 2)
        site.expect('Crash loop: 3 crashes in the last minute')
        assert site.answerers() == {stays}
        (tmp_path / 'at_composition').unlink()
        eventually(lambda: [w['state'] for w in site.workers()] == ['ready', 'ready'])
        assert site.stop()[0] == 0


def test_when_nobody_serves_any_more_a_site_is_given_up(tmp_path):
    with impatient(tmp_path) as site:
        set_up(tmp_path, at_composition="raise RuntimeError('it is broken')")
        for pid in site.pids():
            os.kill(pid, signal.SIGSEGV)
        assert site.wait() == 1
        assert has_cleaned_up(site)
    assert site.err.text.count('gives up') == 1


@pytest.mark.parametrize('signum', ['SIGKILL', 'SIGSEGV'])
def test_a_crash_loop_is_told_once_and_shown_by_status(tmp_path, signum):
    ends = f'threading.Timer(0.1, os.kill, [os.getpid(), signal.{signum}]).start()'
    with impatient(tmp_path, backoff=(0, 0.05, 0.1), healthy=0) as site:
        set_up(tmp_path, at_start=f'import signal; {ends}')
        for pid in site.pids():
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: site.status()['recent_crashes'] >= 6)
        told = site.run('status')
        assert re.search(
            r'^Crash loop: \d+ crashes in the last minute', told.out.text, re.M
        )
        assert 'crash loop: ' in site.status()['crash_loop']
        (tmp_path / 'at_start').unlink()
        eventually(lambda: {w['state'] for w in site.workers()} == {'ready'})
        site.graceful()
        assert site.status()['crash_loop'] is None  # the code is new
        assert site.stop()[0] == 0
    assert site.err.text.count('Crash loop: 3 crashes in the last minute') == 1
    # On a busy machine, one can end before it is READY.
    told_alone = site.err.text.count('crashed, ') + site.err.text.count(
        'failed to start: '
    )
    assert told_alone == 3


def test_connections_made_while_nobody_serves_are_answered_later(tmp_path):
    with Workers(tmp_path) as site:
        set_up(tmp_path, at_composition=AT_GATE)
        for pid in site.pids():
            os.kill(pid, signal.SIGKILL)
        site.expect('composing', 2)
        with site.connect() as client:
            client.send()
            open_gate(tmp_path)
            assert client.receive().status == 200
        assert site.stop()[0] == 0


def test_sigterm_to_one_worker_replaces_it(tmp_path):
    with Workers(tmp_path) as site, Clients(site) as clients:
        old, stays = site.pids()
        set_up(tmp_path, at_composition=AT_GATE)
        os.kill(old, signal.SIGTERM)
        site.expect('composing')
        assert len(children(site.pid)) == 3
        assert site.says('draining') == []
        open_gate(tmp_path)
        site.expect(f'closed {old}\n')
        eventually(lambda: len(children(site.pid)) == 2)
        new = imported(tmp_path)[2]
        assert site.pids() == [new, stays]
        eventually(lambda: new in clients.answers or clients.failures)
        clients.stop()
        assert clients.failures == []
        assert site.stop()[0] == 0
    assert 'was asked to stop: a new process takes its place' in site.err.text
    assert 'crashed' not in site.err.text


def test_a_worker_told_to_stop_goes_on_if_the_next_one_fails(tmp_path):
    with Workers(tmp_path) as site:
        old = site.pids()
        set_up(tmp_path, at_composition="raise RuntimeError('it is broken')")
        os.kill(old[0], signal.SIGTERM)
        site.expect('worker 1 keeps serving')
        assert 'it is broken' in site.err.text
        assert site.pids() == old
        assert site.answerers() <= set(old)
        (tmp_path / 'at_composition').unlink()
        os.kill(old[0], signal.SIGTERM)
        site.expect(f'closed {old[0]}\n')
        eventually(lambda: len(children(site.pid)) == 2)
        assert site.stop()[0] == 0


def test_a_page_that_ends_its_bus_ends_the_site(tmp_path):
    with Workers(tmp_path) as site:
        pids = site.pids()
        ask(site, '/bus_exit')
        assert site.wait() == 0, site.report()
        assert sorted(site.says('closed')) == sorted(pids)
        assert has_cleaned_up(site)
    assert 'crashed' not in site.err.text


def test_a_page_that_restarts_its_bus_has_all_workers_replaced(tmp_path):
    with Workers(tmp_path) as site, Clients(site, count=2) as clients:
        before = site.pids()
        ask(site, '/bus_restart')
        eventually(lambda: site.status()['generation'] == 2)
        assert not set(before) & set(site.pids())
        eventually(lambda: set(site.pids()) & set(clients.answers))
        clients.stop()
        assert clients.failures == []
        assert site.stop()[0] == 0
    assert len(imported(tmp_path)) == 4
    assert 'crashed' not in site.err.text


def test_a_page_that_restarts_its_bus_cannot_break_the_site(tmp_path):
    with Workers(tmp_path) as site:
        before = site.pids()
        set_up(tmp_path, at_composition="raise RuntimeError('it is broken')")
        ask(site, '/bus_restart')
        site.expect('Generation 2 failed')
        assert site.pids() == before
        assert site.answerers() <= set(before)
        assert 'it is broken' in site.status()['failure']
        assert site.stop()[0] == 0


@pytest.mark.parametrize(
    'how', ['preload = true', 'preload = false', 'restart = child']
)
def test_the_requests_of_a_worker_that_is_killed_are_named(tmp_path, how):
    ini = INI.replace('[wspbus:main]', f'[wspbus:main]\n{how}')
    with (
        Workers(tmp_path, count=1, files={**FILES, 'site.ini': ini}) as site,
        contextlib.ExitStack() as stack,
    ):
        pid = site.workers()[0]['pid']
        site.wait_in(pid, stack)
        freeze(pid)  # it cannot say anything any more
        os.kill(pid, signal.SIGKILL)
        had = f'Worker 1 (process {pid}) had 1 request in flight: GET /wait for '
        site.expect(had)
        eventually(lambda: site.workers()[0]['last_crash'])
        (request,) = site.workers()[0]['last_crash']['requests']
        assert request['path'] == '/wait' and f'request {request["id"]})' in (
            site.err.text
        )
        assert site.stop()[0] == 0
